//! A client's connection of HTTP/2, served by the library that speaks it (RFC 9113).

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use shared::clock::monotonic;
use shared::telemetry::chain;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use crate::body::RequestBody;
use crate::carry::as_u64;
use crate::core::Core;
use crate::forward::fields;
use crate::http1::head::{MAX_FIELDS, MAX_TARGET, is_bodiless};
use crate::http1::headers::{Headers, written_length};
use crate::http1::request::{NO_TARGET, Refusal, RequestHead, SAID_TWICE};
use crate::http2::Counted;
use crate::limits::Limits;
use crate::orders::{Orders, changed};
use crate::pipeline::{Arrival, GivenUp, Peer, Recorded, Returned, handle};
use crate::stream::Stream;
use crate::timer::Timer;

use super::lingering::Lingering;
use super::taking::{Patience, Taking, Word};

/// How often a silent client is asked for a sign of life.
const PING: Duration = Duration::from_mins(1);
/// How long it may take for one: it comes to the question behind all that waits before it, in our system's buffer (4 MiB) and
/// in its own (6 MiB), and a slow way carries 16 KiB a second. Who takes nothing of that, or has vanished, is let go sooner.
const PONG: Duration = Duration::from_secs((4 + 6) * 1024 / 16);
/// Most requests at a time on one connection.
const MAX_STREAMS: u32 = 100;
/// Bytes that a client may send ahead on one stream: an upload gets one window per round trip. All streams of a connection
/// together may hold as many each, since none may wait for what another has sent and nobody reads.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for connections that begin while memory is short.
const SHORT_STREAM_WINDOW: u32 = 64 * 1024;
/// Bytes that wait for a client per stream.
const STREAM_UNSENT: usize = 64 * 1024;
/// Largest head that the library takes, which counts 28 bytes more for each field than HTTP/1.1 has. Beyond, it answers 431 by
/// itself, without content; what is no more than this and larger than [`MAX_HEAD`](crate::http1::head::MAX_HEAD) is told so as
/// by HTTP/1.1.
const HEADER_LIST: u32 = 128 * 1024;
/// A client that gives up more requests than this within the time, without waiting for any, is only out to cost us work
/// (CVE-2023-44487, "rapid reset"): its connection is closed.
const MAX_HASTY: u32 = 100;
/// One that gives up more than this, and most of what it asks for, is to begin anew: its connection ends with the requests
/// that are under way.
const MAX_GIVEN_UP: u32 = 1000;
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(10);

/// Serves the client at the other end of `stream`, which has sent `early`.
pub(super) async fn serve(
    core: Rc<Core>,
    stream: Stream,
    early: BytesMut,
    peer: Rc<Peer>,
    orders: watch::Receiver<Orders>,
) {
    let limits = core.node.limits;
    let taking = Rc::new(Taking::new(
        peer.requests.clone(),
        limits.requests_per_address,
    ));
    let mut patience = Patience::new(core.timers.timer(), &limits);
    let lingering = Rc::new(Lingering::new(core.timers.timer(), limits));
    let io = TokioIo::new(Watched::new(&core, &peer, (stream, early), &taking));
    let stream_window = match core.node.memory.level() {
        0 => STREAM_WINDOW,
        _ => SHORT_STREAM_WINDOW,
    };
    let of_requests = Rc::clone(&peer);
    let answers = Rc::clone(&taking);
    let uploads = Rc::clone(&lingering);
    let node = Arc::clone(&core.node);
    let service = service_fn(move |request: Request<Incoming>| {
        let (core, peer) = (Rc::clone(&core), Rc::clone(&of_requests));
        let mut exchange = answers.begin();
        let (parts, body) = request.into_parts();
        let body = if body.is_end_stream() {
            RequestBody::Empty
        } else {
            let (upload, giving) = uploads.upload(body);
            // Who has too many requests is reset at once.
            if !exchange.is_one_too_many() {
                exchange.gives(giving);
            }
            RequestBody::http2(upload)
        };
        let crowded = exchange.is_one_too_many().then_some(Refusal::Crowded);
        let refusal = crowded.or_else(|| refusal(&parts));
        let head = parts.method == Method::HEAD;
        let arrival = arrival(parts, body, refusal);
        // Boxed: it is large, and the library and the runtime hand it on several times.
        Box::pin(async move {
            let response = response(head, handle(core, peer, arrival).await);
            if is_grpc(response.headers()) {
                exchange.gives_nothing();
            }
            Ok::<_, Infallible>(response.map(|body| exchange.answered(body)))
        })
    });
    let executor = Exchanges(Rc::clone(&taking));
    let mut connection = pin!(builder(executor, stream_window).serve_connection(io, service));
    let shed = orders.borrow().shed;
    // To shed the connection is as good as to stop: its requests end, and the client makes another one.
    let mut asked = pin!(changed(orders.clone(), shed));
    let (mut stopping, mut stopped) = (false, false);
    let mut conduct = Conduct {
        since: monotonic(),
        given_up: GivenUp::default(),
        asked: 0,
    };
    let result = poll_fn(|cx| {
        while !stopping && let Poll::Ready(order) = asked.as_mut().poll(cx) {
            // Whoever was told so before has had a moment to take its last answer.
            let is_over = !taking.is_open() && (stopped || taking.begun() == 0);
            if is_over && !order.stopping && node.memory.is_critical() {
                return Poll::Ready(Ok(()));
            }
            // No other stream is the last once it was told (RFC 9113 §6.8), and its connection ends soon.
            if !std::mem::replace(&mut stopped, true) && !taking.has_left() {
                connection.as_mut().graceful_shutdown();
            }
            stopping = order.stopping;
            if !stopping {
                asked.set(changed(orders.clone(), order.shed));
            }
        }
        let served = connection.as_mut().poll(cx);
        match conduct.judge(peer.given_up(), taking.begun(), monotonic) {
            Verdict::Fair => {}
            Verdict::Fickle if stopped || taking.has_left() => {}
            Verdict::Fickle => {
                tracing::debug!("a client gives up too many requests: its connection ends");
                stopped = true;
                connection.as_mut().graceful_shutdown();
            }
            Verdict::Hostile => {
                tracing::debug!("a client gives up requests as it makes them: it is cut off");
                return Poll::Ready(Ok(()));
            }
        }
        match patience.look(cx, &taking) {
            Some(Word::Leave) if !stopped && !taking.has_left() => {
                stopped = true;
                connection.as_mut().graceful_shutdown();
                cx.waker().wake_by_ref();
            }
            Some(Word::Gone) => return Poll::Ready(Ok(())),
            _ => {}
        }
        if stopped {
            lingering.hurry();
        }
        lingering.poll(cx);
        served
    })
    .await;
    if let Err(error) = result {
        tracing::debug!(error = %chain(&error), "a client's connection broke");
    }
}

/// What has come with `parts` and is refused for `refusal`, if for anything.
fn arrival(mut parts: Parts, body: RequestBody, refusal: Option<Refusal>) -> Arrival {
    fields::join_cookies(&mut parts.headers);
    // Plugins, logs and balancers look for the host where HTTP/1.1 has it, as in nginx. It is not sent on from there.
    if let Some(authority) = parts.uri.authority()
        && !parts.headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        parts.headers.insert(header::HOST, host);
    }
    Arrival {
        head: Box::new(RequestHead {
            method: parts.method,
            uri: parts.uri,
            version: parts.version,
            headers: Headers::Map(parts.headers),
        }),
        body,
        refusal,
        legible: true,
        switch: None,
    }
}

/// Whether an answer is one of gRPC, whose clients send on until their stream is reset.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// What connections have in common, whose clients may send `stream_window` bytes ahead on each stream.
fn builder(executor: Exchanges, stream_window: u32) -> Builder<Exchanges> {
    let mut builder = Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(stream_window)
        // Those that wait for their servers hold up no others.
        .initial_connection_window_size(MAX_STREAMS * stream_window)
        .max_send_buf_size(STREAM_UNSENT)
        .max_header_list_size(HEADER_LIST)
        // What a busy core finds given up when it comes to it.
        .max_pending_accept_reset_streams(100)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    builder
}

/// The answer to a request, for its `head` alone or for all of it; without content where it may have none.
fn response(head: bool, mut returned: Returned<Recorded>) -> Response<Recorded> {
    let length = written_length(returned.map());
    returned.body.begins_with(length);
    let bodiless = is_bodiless(returned.status);
    if (head || bodiless) && !returned.body.is_end_stream() {
        if let Some(length) = returned.body.size_hint().exact().filter(|_| !bodiless) {
            let headers = returned.map();
            headers
                .entry(header::CONTENT_LENGTH)
                .or_insert(length.into());
        }
        returned.body.leave_out();
    }
    // Whether and when a client takes the body is its own affair.
    if !returned.body.is_end_stream() {
        returned.body.let_go();
    }
    returned.into_response()
}

/// What a client has done of late.
struct Conduct {
    since: Instant,
    /// What it had given up, and how many requests it had made, then.
    given_up: GivenUp,
    asked: u64,
}

/// What is thought of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Fair,
    /// It gives up most of what it asks for, and that is much.
    Fickle,
    /// It asks for nothing that it wants.
    Hostile,
}

impl Conduct {
    /// Judges a client that has made so many requests on its connection and given up so many of them.
    fn judge(&mut self, given_up: GivenUp, asked: u64, now: impl FnOnce() -> Instant) -> Verdict {
        let (all, hasty) = (
            given_up.all - self.given_up.all,
            given_up.hasty - self.given_up.hasty,
        );
        if hasty <= MAX_HASTY && all <= MAX_GIVEN_UP {
            return Verdict::Fair;
        }
        let (since, of) = (self.since, asked - self.asked);
        *self = Self {
            since: now(),
            given_up,
            asked,
        };
        if self.since.saturating_duration_since(since) >= GIVEN_UP_WITHIN {
            Verdict::Fair
        } else if hasty > MAX_HASTY {
            Verdict::Hostile
        } else if u64::from(all) > of / 2 {
            Verdict::Fickle
        } else {
            Verdict::Fair
        }
    }
}

/// Why a request is not served whose head has more than one of HTTP/1.1 may have, another target, or two lengths.
fn refusal(parts: &Parts) -> Option<Refusal> {
    let target = parts.uri.path_and_query();
    let target = target.map_or("", PathAndQuery::as_str);
    if !target.is_ascii() || (target == "*" && parts.method != Method::OPTIONS) {
        return Some(NO_TARGET);
    }
    let target = target.len();
    // The crumbs of a cookie are one field.
    let crumbs = parts.headers.get_all(header::COOKIE).iter().count();
    let fields = parts.headers.len() - crumbs.saturating_sub(1);
    let mut lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter();
    if target > MAX_TARGET {
        Some(Refusal::TargetTooLong)
    } else if fields > MAX_FIELDS {
        Some(Refusal::HeadTooLarge)
    } else if lengths.next().and(lengths.next()).is_some() {
        Some(SAID_TWICE)
    } else {
        None
    }
}

/// Runs the tasks of a connection on its own thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Runs the exchanges of a client's connection, so that each of them can be ended alone.
#[derive(Clone, Debug)]
struct Exchanges(Rc<Taking>);

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Exchanges {
    /// The library asks for this as soon as the service has begun the exchange.
    fn execute(&self, future: F) {
        self.0.runs(tokio::task::spawn_local(future).abort_handle());
    }
}

/// A connection whose client has to take what it is sent.
#[derive(Debug)]
struct Watched {
    stream: Counted,
    timer: Timer,
    limits: Limits,
    /// Whether the timer watches.
    stalled: bool,
    taking: Rc<Taking>,
}

impl Watched {
    /// `peer` at the other end of a stream, which has sent what is `early` and is `taking` nothing so far.
    fn new(
        core: &Core,
        peer: &Peer,
        (stream, early): (Stream, BytesMut),
        taking: &Rc<Taking>,
    ) -> Self {
        Self {
            stream: Counted::to_client(
                stream,
                early,
                core.hold(peer.client(), None),
                (core.timers.timer(), core.node.limits.head),
            ),
            timer: core.timers.timer(),
            limits: core.node.limits,
            stalled: false,
            taking: Rc::clone(taking),
        }
    }

    /// A write has ended in `result`.
    fn note(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &result {
            self.taking.sends(as_u64(*count));
        }
        self.watch(cx, result)
    }

    /// A write, or what is like it, has ended in `result`: whether the client has stopped to take bytes.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            if std::mem::take(&mut self.stalled) {
                self.timer.clear();
                self.taking.goes_on();
            }
            return result;
        }
        self.taking.is_blocked();
        if !std::mem::replace(&mut self.stalled, true) {
            self.timer.set(self.limits.patience(self.taking.sent()));
        }
        if self.timer.poll_fired(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if this.stream.has_left() {
            this.taking.leaves();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.note(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.note(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_flush(cx);
        this.watch(cx, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.watch(cx, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_where_http_1_1_has_it() {
        for (target, field, expected) in [
            ("https://a.test:8443/b", None, Some("a.test:8443")),
            ("https://a.test/b", Some("b.test"), Some("b.test")),
            ("/b", Some("b.test"), Some("b.test")),
            ("/b", None, None),
        ] {
            let mut request = Request::get(target);
            if let Some(field) = field {
                request = request.header(header::HOST, field);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let headers = arrival(parts, RequestBody::Empty, None)
                .head
                .headers
                .into_map();
            let hosts: Vec<_> = headers.get_all(header::HOST).iter().collect();
            assert_eq!(hosts, Vec::from_iter(expected), "{target} {field:?}");
        }
    }

    #[test]
    fn who_gives_up_is_judged_by_haste_number_and_share() {
        let begun = monotonic();
        for (given_up, hasty, asked, seconds, expected) in [
            (100, 100, 100, 0, Verdict::Fair),
            (101, 101, 101, 9, Verdict::Hostile),
            (101, 101, 5000, 9, Verdict::Hostile),
            (101, 101, 101, 10, Verdict::Fair),
            (1000, 0, 1000, 0, Verdict::Fair),
            (1001, 0, 1001, 9, Verdict::Fickle),
            (1001, 100, 2000, 9, Verdict::Fickle),
            (1001, 0, 2002, 9, Verdict::Fair),
            (1001, 0, 1001, 10, Verdict::Fair),
        ] {
            let mut conduct = Conduct {
                since: begun,
                given_up: GivenUp { all: 7, hasty: 5 },
                asked: 9,
            };
            let told = GivenUp {
                all: 7 + given_up,
                hasty: 5 + hasty,
            };
            let now = || begun + Duration::from_secs(seconds);
            let verdict = conduct.judge(told, 9 + asked, now);
            assert_eq!(verdict, expected, "{given_up} {hasty} {asked} {seconds}");
            let again = conduct.judge(told, 9 + asked, now);
            assert_eq!(again, Verdict::Fair, "what was judged is past");
        }
    }
}
