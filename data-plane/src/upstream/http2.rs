//! HTTP/2 to upstream servers, for gRPC, whose services speak nothing else: connections of one core to an origin,
//! each shared by as many exchanges as the server takes at a time.

mod passing;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, Version, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use shared::clock::monotonic;
use shared::error_form::is_grpc;
use shared::telemetry::chain;

use self::passing::{Outbound, Passing};
use super::UpstreamError;
use super::exchange::{Answer, Timeouts};
use super::pool::Pool;
use crate::body::{RequestBody, ResponseBody};
use crate::forward::Outgoing;
use crate::forward::fields::forwardable_trailers;
use crate::http1::Framing;
use crate::http1::head::ResponseHead;
use crate::http1::headers::Headers;
use crate::http1::kind::Kind;
use crate::http1::writer::values_of;
use crate::http2::Counted;
use crate::server::http2::LocalExecutor;
use crate::timer::Timer;

/// Bytes that a server may send ahead on one stream, and on all: no bound of their own, or clients that read nothing
/// would hold up all others.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// Largest head of an answer.
const MAX_HEAD: u32 = 64 * 1024;
/// How often a silent server is asked for a sign of life while exchanges wait, and how long it may take for one: the question
/// comes to it behind what waits of an upload. Servers of gRPC drop whoever asks more often than every five minutes (gRPC A8).
const PING: Duration = Duration::from_secs(330);
const PONG: Duration = Duration::from_mins(1);

/// A connection that exchanges share.
pub(crate) struct Shared {
    /// Where it leads.
    address: SocketAddr,
    sender: SendRequest<Outbound>,
    /// What drives the connection, until that ends. It knows how many exchanges the server takes at a time.
    connection: Weak<RefCell<Connection<TokioIo<Counted>, Outbound, LocalExecutor>>>,
    load: Rc<Load>,
}

/// What a connection carries.
#[derive(Debug)]
struct Load {
    exchanges: Cell<usize>,
    /// When the last of them ended.
    used: Cell<Instant>,
    /// Whether one of them has waited for the server in vain: it may be gone, and is asked by another connection.
    silent: Cell<bool>,
}

impl Shared {
    /// A place for one more exchange, if there is any.
    fn seat(&self) -> Option<Seat> {
        let most = self
            .connection
            .upgrade()?
            .borrow()
            .current_max_send_streams();
        (self.load.exchanges.get() < most).then(|| Seat::on(self, true))
    }

    /// Whether nothing has been carried since `limit` before `now`.
    pub(super) fn is_idle(&self, now: Instant, limit: Duration) -> bool {
        self.load.exchanges.get() == 0
            && now.saturating_duration_since(self.load.used.get()) >= limit
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("load", &self.load)
            .finish_non_exhaustive()
    }
}

/// An exchange's place on a connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Where it leads.
    pub(crate) address: SocketAddr,
    sender: SendRequest<Outbound>,
    load: Rc<Load>,
    /// Whether the connection has been there before.
    pooled: bool,
}

impl Seat {
    fn on(shared: &Shared, pooled: bool) -> Self {
        let exchanges = &shared.load.exchanges;
        exchanges.set(exchanges.get() + 1);
        Self {
            address: shared.address,
            sender: shared.sender.clone(),
            load: Rc::clone(&shared.load),
            pooled,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Load {
            exchanges, used, ..
        } = &*self.load;
        exchanges.set(exchanges.get().saturating_sub(1));
        used.set(monotonic());
    }
}

/// A place on a connection `to` an address, or to any, that has room.
fn seat(pool: &Pool, to: Option<SocketAddr>) -> Option<Seat> {
    let mut shared = pool.http2.borrow_mut();
    shared.retain(|shared| !shared.sender.is_closed() && !shared.load.silent.get());
    let leads = |shared: &&Shared| to.is_none_or(|address| shared.address == address);
    shared.iter().filter(leads).find_map(Shared::seat)
}

/// A place on a connection, which is made if no other has room. Servers that have `failed` the request come last.
pub(crate) async fn connect(
    pool: &Rc<Pool>,
    limit: Duration,
    failed: &[SocketAddr],
) -> Result<Seat, UpstreamError> {
    pool.used.set(monotonic());
    if pool.has_address()
        && let Some(seat) = seat(pool, None)
    {
        return Ok(seat);
    }
    let reach = async {
        let addresses = pool.resolve().await?;
        if !pool.has_address()
            && let Some(due) = pool.due(&addresses, failed)
            && let Some(seat) = seat(pool, Some(due))
        {
            pool.pass();
            return Ok(Ok(seat));
        }
        pool.dial(&addresses, failed).await.map(Err)
    };
    let timer = pool.timers.timer();
    let reached = timer.limit(limit, reach).await;
    let (stream, address) = match reached.unwrap_or(Err(UpstreamError::ConnectTimeout))? {
        Ok(seat) => return Ok(seat),
        Err(made) => made,
    };
    let (sender, connection) = Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .handshake(TokioIo::new(Counted::to_server(stream)))
        .await
        .map_err(UpstreamError::Http2)?;
    let driven = Rc::new(RefCell::new(connection));
    let connection = Rc::downgrade(&driven);
    tokio::task::spawn_local(async move {
        let end = poll_fn(|cx| Pin::new(&mut *driven.borrow_mut()).poll(cx)).await;
        // Whatever waits there for the connection hears that it has ended.
        drop(driven);
        if let Err(error) = end {
            tracing::debug!(error = %chain(&error), "a connection to a server broke");
        }
    });
    let shared = Shared {
        address,
        sender,
        connection,
        load: Rc::new(Load {
            exchanges: Cell::new(0),
            used: Cell::new(monotonic()),
            silent: Cell::new(false),
        }),
    };
    let seat = Seat::on(&shared, false);
    pool.http2.borrow_mut().push(shared);
    Ok(seat)
}

/// Why no answer came.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: UpstreamError,
    /// What the server has seen of the request.
    pub(crate) seen: Seen,
}

/// What a server has seen of a request that has failed.
#[derive(Debug)]
pub(crate) enum Seen {
    /// All of it, perhaps.
    Something,
    /// Nothing: it has refused to look (RFC 9113 §8.7). This is the request's body.
    Nothing(RequestBody),
    /// Nothing: it had closed the connection, which was kept from an earlier exchange.
    Closed(RequestBody),
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Self {
        let seen = Seen::Something;
        Self { error, seen }
    }
}

/// Sends `outgoing` from `seat` and waits for the answer's head.
pub(crate) async fn exchange(
    pool: &Rc<Pool>,
    mut seat: Seat,
    outgoing: &Outgoing<'_>,
    host: &HeaderValue,
    framing: Framing,
    body: RequestBody,
) -> Result<Answer, Failure> {
    let passing = Rc::new(RefCell::new(Passing::new(body)));
    let mut request = request(pool, outgoing, host, Outbound::of(&passing))?;
    // What the client has said counts another body, once a filter has replaced it.
    if let Framing::Length(length) = framing {
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    let timer = pool.timers.timer();
    let Timeouts { read, .. } = outgoing.timeouts;
    let mut under_way = pin!(seat.sender.try_send_request(request));
    let mut wait = read;
    let answered = loop {
        if let Some(answered) = timer.limit(wait, &mut under_way).await {
            break answered;
        }
        // While the client has not sent all, the server may be silent for as long as it likes.
        wait = passing.borrow().answer_due(read);
        if wait.is_zero() {
            seat.load.silent.set(true);
            return Err(UpstreamError::ReadTimeout.into());
        }
    };
    let response = match answered {
        Ok(response) => response,
        Err(failed) => {
            let unsent = failed.message().is_some();
            let error = failed.into_error();
            let closed = unsent || reason(&error).is_some_and(h2::Error::is_go_away);
            let refused = reason(&error)
                .is_some_and(|error| error.reason() == Some(h2::Reason::REFUSED_STREAM));
            let body = (closed || refused)
                .then(|| passing.borrow_mut().again())
                .flatten();
            let seen = match body {
                Some(body) if closed && seat.pooled => Seen::Closed(body),
                Some(body) => Seen::Nothing(body),
                None => Seen::Something,
            };
            // The client's part in a failure is told from the server's.
            let refused = passing.borrow_mut().failed.take();
            let error = refused.map_or(UpstreamError::Http2(error), UpstreamError::RequestBody);
            return Err(Failure { error, seen });
        }
    };
    passing.borrow_mut().keep_nothing();
    let (parts, body) = response.into_parts();
    let head = ResponseHead {
        version: Version::HTTP_2,
        status: parts.status,
        reason: None,
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
            passing,
            seat,
        }))
    };
    Ok(Answer {
        head,
        body,
        answered_at: monotonic(),
    })
}

/// What the server has said of a stream that has failed, if it was the server.
fn reason(error: &hyper::Error) -> Option<&h2::Error> {
    let source = std::error::Error::source(error)?;
    source
        .downcast_ref::<h2::Error>()
        .filter(|error| error.is_remote())
}

fn request(
    pool: &Pool,
    outgoing: &Outgoing<'_>,
    host: &HeaderValue,
    body: Outbound,
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
    let at_hand = outgoing.at_hand.iter().flatten();
    let at_hand = at_hand.filter_map(|(name, value)| added(name, value));
    let others = outgoing.added.iter();
    let others = others.filter_map(|(name, value)| added(name, value));
    let lines = outgoing.lines.iter().flat_map(|lines| values_of(lines));
    for (name, mut value) in at_hand.chain(others).chain(lines) {
        value.set_sensitive(is_for_no_table(&name));
        headers.append(name, value);
    }
    // A server of gRPC takes nobody for a client who takes no trailers.
    let grpc = headers.get(header::CONTENT_TYPE);
    if outgoing.trailers || grpc.is_some_and(|value| is_grpc(value.as_bytes())) {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let mut request = Request::new(body);
    *request.method_mut() = outgoing.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok(request)
}

/// A field that the gateway adds.
fn added(name: &str, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    Some((name, HeaderValue::from_bytes(value).ok()?))
}

/// Whether the tables of the connection's compression are to keep no copy of a field that the gateway adds: it may hold a
/// token that filters have put there (RFC 7541 §7.1.3), or what no other request has.
fn is_for_no_table(name: &HeaderName) -> bool {
    let kind = Kind::of(name);
    kind == Kind::OTHER || kind.is_any_of(Kind::SECRET.and(Kind::REQUEST_ID))
}

/// An answer's body, with the wait for its next part bounded.
#[derive(Debug)]
pub(crate) struct Http2Body {
    body: Incoming,
    timer: Timer,
    waiting: bool,
    read_timeout: Duration,
    /// The request's, which may still be on its way.
    passing: Rc<RefCell<Passing>>,
    /// Kept until the answer has ended.
    seat: Seat,
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
                while self.timer.poll_fired(cx) {
                    let left = self.passing.borrow().more_due(self.read_timeout);
                    if left.is_zero() {
                        self.seat.load.silent.set(true);
                        return Poll::Ready(Some(Err(UpstreamError::ReadTimeout)));
                    }
                    self.timer.set(left);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_filters_put_or_is_said_once_is_kept_in_no_table() {
        for (name, sensitive) in [
            ("authorization", true),
            ("x-id-token", true),
            ("x-kong-request-id", true),
            ("cookie", true),
            ("x-forwarded-for", false),
            ("x-consumer-id", false),
            ("via", false),
        ] {
            let name = HeaderName::from_static(name);
            assert_eq!(is_for_no_table(&name), sensitive, "{name}");
        }
    }
}
