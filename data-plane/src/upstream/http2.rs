//! HTTP/2 to upstream servers: one connection per core and origin, shared by its exchanges. For gRPC, whose
//! services speak nothing else.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Uri, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use shared::clock::monotonic;
use shared::error_form::is_grpc;

use super::UpstreamError;
use super::exchange::{Answer, Timeouts};
use super::pool::Pool;
use crate::body::{RequestBody, RequestBodyError, ResponseBody};
use crate::forward::Outgoing;
use crate::forward::fields::forwardable_trailers;
use crate::http1::Framing;
use crate::http1::head::ResponseHead;
use crate::http1::headers::Headers;
use crate::http1::kind::Kind;
use crate::server::http2::LocalExecutor;
use crate::timer::Timer;

/// How a connection is shared.
pub(crate) type Sender = SendRequest<Outbound>;

/// Bytes that a server may send ahead, on one stream and on all.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Largest head of an answer.
const MAX_HEAD: u32 = 64 * 1024;
/// How often a silent server is asked for a sign of life while exchanges wait, and how long it may take.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(10);

/// A request's body on its way.
#[derive(Debug)]
pub(crate) struct Outbound(RequestBody);

impl http_body::Body for Outbound {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let frame = ready!(self.get_mut().0.poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| match frame.into_trailers() {
                Ok(trailers) => Frame::trailers(forwardable_trailers(trailers)),
                Err(frame) => frame,
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

/// A connection on which a request can be sent.
pub(crate) async fn connect(pool: &Rc<Pool>, limit: Duration) -> Result<Sender, UpstreamError> {
    pool.used.set(monotonic());
    let known = pool.http2.borrow().clone();
    if let Some(sender) = known.filter(|sender| !sender.is_closed()) {
        return Ok(sender);
    }
    let timer = pool.timers.timer();
    let stream = timer
        .limit(limit, pool.open())
        .await
        .unwrap_or(Err(UpstreamError::ConnectTimeout))?;
    let (sender, connection) = Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(UpstreamError::Http2)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a server broke");
        }
    });
    *pool.http2.borrow_mut() = Some(sender.clone());
    Ok(sender)
}

/// Sends `outgoing` by way of `sender` and waits for the answer's head.
pub(crate) async fn exchange(
    pool: &Rc<Pool>,
    mut sender: Sender,
    outgoing: &Outgoing<'_>,
    host: &http::HeaderValue,
    framing: Framing,
    body: RequestBody,
) -> Result<Answer, UpstreamError> {
    let mut request = request(pool, outgoing, host, body)?;
    // What the client has said counts another body, once a filter has replaced it.
    if let Framing::Length(length) = framing {
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    let timer = pool.timers.timer();
    let Timeouts { read, .. } = outgoing.timeouts;
    let mut sent = pin!(async {
        sender.ready().await?;
        sender.send_request(request).await
    });
    // A stream whose client goes on sending may be silent on our side for as long as it likes.
    let response = timer
        .limit(read, &mut sent)
        .await
        .ok_or(UpstreamError::ReadTimeout)?
        .map_err(failure)?;
    let (parts, body) = response.into_parts();
    let head = ResponseHead {
        status: parts.status,
        headers: Headers::Map(parts.headers),
        framing: Framing::UntilClose,
        keep_alive: true,
    };
    let body = if body.is_end_stream() {
        ResponseBody::Empty
    } else {
        ResponseBody::Http2(Box::new(Http2Body {
            body,
            timer,
            waiting: false,
            read_timeout: read,
        }))
    };
    Ok(Answer { head, body })
}

fn request(
    pool: &Pool,
    outgoing: &Outgoing<'_>,
    host: &http::HeaderValue,
    body: RequestBody,
) -> Result<Request<Outbound>, UpstreamError> {
    let scheme = if pool.origin.key().tls.is_some() {
        "https"
    } else {
        "http"
    };
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(host.as_bytes())
        .path_and_query(outgoing.target)
        .build()
        .map_err(|_| UpstreamError::Authority)?;
    let client = outgoing.headers.map();
    let mut headers = HeaderMap::with_capacity(client.len() + outgoing.added.len());
    for (name, value) in &*client {
        if !Kind::of(name).is_any_of(outgoing.replaced) && *name != header::CONTENT_LENGTH {
            headers.append(name, value.clone());
        }
    }
    for (name, value) in outgoing.added {
        if let Ok(value) = http::HeaderValue::from_bytes(value) {
            headers.append(http::HeaderName::from_static(name), value);
        }
    }
    // A server of gRPC takes nobody for a client who takes no trailers.
    let grpc = headers.get(header::CONTENT_TYPE);
    if outgoing.trailers || grpc.is_some_and(|value| is_grpc(value.as_bytes())) {
        headers.insert(header::TE, http::HeaderValue::from_static("trailers"));
    }
    let mut request = Request::new(Outbound(body));
    *request.method_mut() = outgoing.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}

/// The client's part in a failure is told from the server's.
fn failure(error: hyper::Error) -> UpstreamError {
    let broken = std::error::Error::source(&error)
        .and_then(|source| source.downcast_ref::<RequestBodyError>());
    match broken {
        Some(RequestBodyError::TooLarge) => UpstreamError::RequestBody(RequestBodyError::TooLarge),
        Some(_) => UpstreamError::RequestBody(RequestBodyError::Timeout),
        None => UpstreamError::Http2(error),
    }
}

/// An answer's body, with the wait for its next part bounded.
#[derive(Debug)]
pub(crate) struct Http2Body {
    body: Incoming,
    timer: Timer,
    waiting: bool,
    read_timeout: Duration,
}

impl Http2Body {
    /// The next part; `None` at the end.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                if self.waiting {
                    self.waiting = false;
                    self.timer.clear();
                }
                Poll::Ready(frame.map(|frame| match frame {
                    Ok(frame) => Ok(match frame.into_trailers() {
                        Ok(trailers) => Frame::trailers(forwardable_trailers(trailers)),
                        Err(frame) => frame,
                    }),
                    Err(error) => Err(UpstreamError::Http2(error)),
                }))
            }
            Poll::Pending => {
                if !self.waiting {
                    self.waiting = true;
                    self.timer.set(self.read_timeout);
                }
                if self.timer.poll_fired(cx) {
                    return Poll::Ready(Some(Err(UpstreamError::ReadTimeout)));
                }
                Poll::Pending
            }
        }
    }

    /// How many bytes are left, as far as that is known.
    pub(crate) fn size(&self) -> SizeHint {
        self.body.size_hint()
    }
}
