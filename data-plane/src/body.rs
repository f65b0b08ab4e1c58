//! Bodies in flight: of requests towards the upstream, of responses towards the client.
//!
//! Both are streams of frames that are asked for one at a time, and only once the one before has
//! been written: a slow reader slows its writer down, and no body is ever held whole.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use plugins::exchange::BodyMap;

use crate::http1::body::bounded;
use crate::http1::{Framing, FramingError};
use crate::memory::Held;
use crate::server::{ClientBody, Upload};
use crate::upstream::exchange::UpstreamBody;
use crate::upstream::http2::Http2Body;
use crate::upstream::{Connection, UpstreamError};

/// Why a client's request body cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestBodyError {
    /// The client's framing is broken.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// The client left inside the body.
    #[error("the client's request body broke")]
    Client(#[source] io::Error),
    /// The client left inside the body, by HTTP/2.
    #[error("the client's request body broke")]
    Http2(#[source] hyper::Error),
    /// The client has sent nothing for too long.
    #[error("the client stopped sending the request body")]
    Timeout,
    /// The body is longer than a filter allows.
    #[error("the request body is longer than a filter allows")]
    TooLarge(Bound),
}

/// The longest body that filters allow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Bound {
    /// Bytes that are left.
    pub(crate) left: u64,
    /// Whether the client asks before it sends (RFC 9110 §10.1.1).
    pub(crate) asked: bool,
}

/// What has come of a request's body.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    bytes: Cell<u64>,
    lacks: Cell<bool>,
}

impl Arrived {
    /// So many bytes, of which none is waited for.
    pub(crate) fn of(bytes: u64) -> Self {
        Self {
            bytes: Cell::new(bytes),
            lacks: Cell::new(false),
        }
    }

    /// How many bytes.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether more is waited for, or was when the client left: it is the client then who took its time.
    pub(crate) const fn lacks(&self) -> bool {
        self.lacks.get()
    }

    /// The body was asked for more.
    fn note(&self, asked: &Poll<Option<Result<Frame<Bytes>, RequestBodyError>>>) {
        let data = match asked {
            Poll::Pending | Poll::Ready(Some(Err(_))) => return self.lacks.set(true),
            Poll::Ready(None) => None,
            Poll::Ready(Some(Ok(frame))) => frame.data_ref(),
        };
        self.lacks.set(false);
        let count = data.map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
        self.bytes.set(self.bytes.get().saturating_add(count));
    }
}

/// A request's body.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// There is none, or no more.
    Empty,
    /// From the client's connection. It is noted what comes.
    Incoming(Incoming, Rc<Arrived>),
    /// Bytes that a filter has read, and then what it has not.
    Read(Bytes, Box<RequestBody>),
    /// Nothing more than trailers.
    Trailers(Box<HeaderMap>),
    /// No more than so many bytes.
    Limited(Bound, Box<RequestBody>),
    /// Its bytes, and no trailers.
    Bare(Box<RequestBody>),
}

/// A body that a client is sending.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// By HTTP/1.1.
    Client(ClientBody),
    /// By HTTP/2.
    Http2(Upload),
}

impl Incoming {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        match self {
            Self::Client(body) => body.poll_frame(cx),
            Self::Http2(body) => {
                let frame = ready!(body.poll_frame(cx)).transpose();
                let frame = frame.map_err(RequestBodyError::Http2)?;
                Poll::Ready(frame.map(|frame| match frame.into_trailers() {
                    // The library takes as much as for a head.
                    Ok(trailers) => Ok(Frame::trailers(bounded(trailers)?)),
                    Err(frame) => Ok(frame),
                }))
            }
        }
    }

    fn is_end(&self) -> bool {
        match self {
            Self::Client(body) => body.is_end(),
            Self::Http2(body) => body.is_end(),
        }
    }
}

impl RequestBody {
    /// What a client sends by HTTP/1.1.
    pub(crate) fn client(body: ClientBody) -> Self {
        Self::Incoming(Incoming::Client(body), Rc::default())
    }

    /// What a client sends by HTTP/2.
    pub(crate) fn http2(body: Upload) -> Self {
        Self::Incoming(Incoming::Http2(body), Rc::default())
    }

    /// What is noted of the bytes that come; none if none will.
    pub(crate) fn arrived(&self) -> Option<Rc<Arrived>> {
        match self {
            Self::Incoming(_, arrived) => Some(Rc::clone(arrived)),
            _ => None,
        }
    }

    /// The same body, which fails once it is longer than `limit`.
    pub(crate) fn limited(self, limit: Option<Bound>) -> Self {
        match limit {
            Some(limit) => Self::Limited(limit, Box::new(self)),
            None => self,
        }
    }

    /// The same body without trailers: for servers that believe fields of a head which its client must not set, and
    /// may put trailers to them.
    pub(crate) fn without_trailers(self) -> Self {
        Self::Bare(Box::new(self))
    }

    /// The next part; `None` at the end.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Incoming(body, arrived) => {
                let asked = body.poll_frame(cx);
                arrived.note(&asked);
                asked
            }
            Self::Read(bytes, rest) => {
                let frame = Frame::data(std::mem::take(bytes));
                *self = std::mem::replace(&mut **rest, Self::Empty);
                Poll::Ready(Some(Ok(frame)))
            }
            Self::Trailers(trailers) => {
                let frame = Frame::trailers(std::mem::take(&mut **trailers));
                *self = Self::Empty;
                Poll::Ready(Some(Ok(frame)))
            }
            Self::Limited(bound, body) => {
                let frame = ready!(body.poll_frame(cx));
                let data = frame
                    .as_ref()
                    .and_then(|frame| frame.as_ref().ok()?.data_ref());
                let count = data.map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
                Poll::Ready(match bound.left.checked_sub(count) {
                    Some(rest) => {
                        bound.left = rest;
                        frame
                    }
                    None => Some(Err(RequestBodyError::TooLarge(*bound))),
                })
            }
            Self::Bare(body) => {
                let frame = ready!(body.poll_frame(cx));
                let ends = matches!(&frame, Some(Ok(frame)) if frame.is_trailers());
                Poll::Ready(frame.filter(|_| !ends))
            }
        }
    }

    /// Whether the body is known to be empty from here on.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Incoming(body, _) => body.is_end(),
            Self::Read(..) | Self::Trailers(_) => false,
            Self::Limited(_, body) | Self::Bare(body) => body.is_empty(),
        }
    }

    /// A second body of the same bytes, if it is wholly at hand.
    pub(crate) fn try_clone(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Incoming(body, _) if body.is_end() => Some(Self::Empty),
            Self::Read(bytes, rest) => Some(Self::Read(bytes.clone(), Box::new(rest.try_clone()?))),
            Self::Trailers(trailers) => Some(Self::Trailers(trailers.clone())),
            Self::Bare(body) => Some(body.try_clone()?.without_trailers()),
            Self::Incoming(..) | Self::Limited(..) => None,
        }
    }
}

/// A response's body.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// None at all.
    Empty,
    /// All of it.
    Full(Bytes),
    /// From the upstream, as it comes.
    Upstream(Box<UpstreamBody>),
    /// The same by HTTP/2.
    Http2(Box<Http2Body>),
    /// Bytes that were read already, and then what was not.
    Read(Bytes, Box<ResponseBody>),
    /// The same where the client may take its time.
    Begun(Box<Begun>),
    /// A body that a filter changes on its way.
    Mapped(Box<Mapped>),
    /// No body but a connection: the upstream has switched protocols.
    Tunnel(Box<Connection>),
}

/// A body of which more has been read than a client is sent at a time.
#[derive(Debug)]
pub(crate) struct Begun {
    read: Bytes,
    rest: ResponseBody,
    #[expect(
        dead_code,
        reason = "it counts until the last of what was read has gone"
    )]
    held: Held,
}

/// How much a client is sent of that at a time: a copy, so that no part of it keeps all of it in memory.
const AT_A_TIME: usize = 64 * 1024;

/// A body and what changes it on its way.
#[derive(Debug)]
pub(crate) struct Mapped {
    body: ResponseBody,
    /// None once the body has ended.
    map: Option<Box<dyn BodyMap>>,
}

impl Mapped {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        loop {
            let Some(map) = &mut self.map else {
                return Poll::Ready(None);
            };
            let last = match ready!(self.body.poll_frame(cx)).transpose()? {
                None => map.end(None),
                Some(frame) => match frame.into_data() {
                    Ok(data) => {
                        let data = map.data(data);
                        if data.is_empty() {
                            continue;
                        }
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Err(frame) => map.end(frame.trailers_ref()),
                },
            };
            self.map = None;
            return Poll::Ready((!last.is_empty()).then(|| Ok(Frame::data(last))));
        }
    }
}

impl ResponseBody {
    /// What was `read`, which is `held` in memory, and then the `rest`.
    pub(crate) fn begun(read: Bytes, rest: Self, held: Held) -> Self {
        Self::Begun(Box::new(Begun { read, rest, held }))
    }

    /// The same body, changed by `map` on its way.
    pub(crate) fn mapped(self, map: Box<dyn BodyMap>) -> Self {
        Self::Mapped(Box::new(Mapped {
            body: self,
            map: Some(map),
        }))
    }

    /// The next part; `None` at the end.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match self {
            Self::Empty | Self::Tunnel(_) => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Upstream(body) => body.poll_frame(cx),
            Self::Http2(body) => body.poll_frame(cx),
            Self::Mapped(body) => body.poll_frame(cx),
            Self::Read(bytes, rest) => {
                let frame = Frame::data(std::mem::take(bytes));
                *self = std::mem::replace(&mut **rest, Self::Empty);
                Poll::Ready(Some(Ok(frame)))
            }
            Self::Begun(begun) => {
                let part = begun.read.split_to(begun.read.len().min(AT_A_TIME));
                let frame = Frame::data(Bytes::copy_from_slice(&part));
                if begun.read.is_empty() {
                    *self = std::mem::replace(&mut begun.rest, Self::Empty);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    /// The client takes nothing for now: no more memory is kept than for what waits.
    pub(crate) fn rest(&mut self) {
        match self {
            Self::Upstream(body) => body.rest(),
            Self::Mapped(mapped) => mapped.body.rest(),
            Self::Read(_, rest) => rest.rest(),
            Self::Begun(begun) => begun.rest.rest(),
            Self::Empty | Self::Full(_) | Self::Http2(_) | Self::Tunnel(_) => {}
        }
    }

    /// Whether there is nothing left.
    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::Empty | Self::Tunnel(_) => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Upstream(_) | Self::Http2(_) | Self::Read(..) | Self::Begun(_) => false,
            Self::Mapped(body) => body.map.is_none(),
        }
    }

    /// How many bytes are left, as far as that is known.
    pub(crate) fn size(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Tunnel(_) => SizeHint::with_exact(0),
            Self::Full(bytes) => {
                SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
            }
            Self::Upstream(body) => match body.framing() {
                Framing::None => SizeHint::with_exact(0),
                Framing::Length(length) => SizeHint::with_exact(length),
                Framing::Chunked | Framing::UntilClose => SizeHint::default(),
            },
            Self::Http2(body) => body.size(),
            // What the server has announced counts bytes that were read already.
            Self::Read(..) | Self::Begun(_) | Self::Mapped(_) => SizeHint::default(),
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        self.get_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.size()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_body_that_is_waited_for_is_told_from_one_that_is_here() {
        let arrived = Arrived::default();
        assert!(!arrived.lacks(), "nobody has asked for it");
        let data = |bytes: &'static [u8]| Frame::data(Bytes::from_static(bytes));
        let left = || RequestBodyError::Client(io::ErrorKind::ConnectionReset.into());
        for (asked, bytes, lacks) in [
            (Poll::Pending, 0, true),
            (Poll::Ready(Some(Ok(data(b"half")))), 4, false),
            (Poll::Pending, 4, true),
            (Poll::Ready(Some(Err(left()))), 4, true),
            (Poll::Ready(Some(Ok(data(b"ly")))), 6, false),
            (Poll::Pending, 6, true),
            (Poll::Ready(None), 6, false),
        ] {
            arrived.note(&asked);
            assert_eq!((arrived.bytes(), arrived.lacks()), (bytes, lacks));
        }
    }

    #[test]
    fn a_bare_body_has_its_bytes_and_no_trailers() {
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-user"),
            http::HeaderValue::from_static("admin"),
        )]);
        let rest = Box::new(RequestBody::Trailers(Box::new(trailers)));
        let mut body = RequestBody::Read(Bytes::from_static(b"a"), rest).without_trailers();
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = body.poll_frame(&mut cx) else {
            panic!("bytes are at hand")
        };
        assert_eq!(frame.into_data().unwrap(), "a");
        for _ in 0..2 {
            assert!(matches!(body.poll_frame(&mut cx), Poll::Ready(None)));
        }
    }
}
