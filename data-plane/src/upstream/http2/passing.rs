//! A request's body on its way to a server.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use shared::clock::monotonic;

use crate::body::{RequestBody, RequestBodyError};
use crate::forward::fields::forwardable_trailers;

/// Longest body that can be sent once more to a server that has not looked at it.
const MAX_KEPT: usize = 64 * 1024;

/// A request's body on its way.
#[derive(Debug)]
pub(super) struct Passing {
    body: RequestBody,
    /// What has gone, while it may have to go once more.
    gone: Option<BytesMut>,
    /// When the last of it has gone.
    moved: Instant,
    /// Whether the next part is the client's to send. Otherwise it is the server's to take.
    starved: bool,
    /// Why the rest does not come, where that is not the server's doing.
    pub(super) failed: Option<RequestBodyError>,
}

impl Passing {
    pub(super) fn new(body: RequestBody) -> Self {
        Self {
            body,
            gone: Some(BytesMut::new()),
            moved: monotonic(),
            starved: false,
            failed: None,
        }
    }

    /// How long the server may still be silent before it answers, if that is `limit` from the end of the body on, or
    /// from when it took the last of it.
    pub(super) fn answer_due(&self, limit: Duration) -> Duration {
        if self.starved {
            limit
        } else {
            self.more_due(limit)
        }
    }

    /// The same between two parts of its answer, whoever is to send.
    pub(super) fn more_due(&self, limit: Duration) -> Duration {
        (self.moved + limit).saturating_duration_since(monotonic())
    }

    /// What has gone is not needed any more.
    pub(super) fn keep_nothing(&mut self) {
        self.gone = None;
    }

    /// The whole body, if it can be had once more.
    pub(super) fn again(&mut self) -> Option<RequestBody> {
        let gone = self.gone.take()?;
        let rest = std::mem::replace(&mut self.body, RequestBody::Empty);
        Some(if gone.is_empty() {
            rest
        } else {
            RequestBody::Read(gone.freeze(), Box::new(rest))
        })
    }
}

/// The library's end of a [`Passing`] body.
#[derive(Debug)]
pub(crate) struct Outbound(Rc<RefCell<Passing>>);

impl Outbound {
    pub(super) fn of(passing: &Rc<RefCell<Passing>>) -> Self {
        Self(Rc::clone(passing))
    }
}

/// The rest of the body does not come; why stands in [`Passing::failed`].
#[derive(Debug, thiserror::Error)]
#[error("the request's body does not come")]
pub(crate) struct Missing;

impl http_body::Body for Outbound {
    type Data = Bytes;
    type Error = Missing;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Missing>>> {
        let passing = &mut *self.0.borrow_mut();
        let polled = passing.body.poll_frame(cx);
        passing.starved = polled.is_pending();
        let frame = ready!(polled);
        passing.moved = monotonic();
        let data = frame
            .as_ref()
            .map(|frame| frame.as_ref().ok().and_then(Frame::data_ref));
        match (data, &mut passing.gone) {
            (None, _) | (_, None) => {}
            (Some(Some(data)), Some(gone)) if gone.len() + data.len() <= MAX_KEPT => {
                gone.extend_from_slice(data);
            }
            (Some(_), gone) => *gone = None,
        }
        Poll::Ready(frame.map(|frame| match frame {
            Ok(frame) => Ok(match frame.into_trailers() {
                Ok(trailers) => Frame::trailers(forwardable_trailers(trailers)),
                Err(frame) => frame,
            }),
            Err(error) => {
                passing.failed = Some(error);
                Err(Missing)
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.0.borrow().body.is_empty()
    }
}
