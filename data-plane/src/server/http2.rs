//! A client's connection of HTTP/2, served by the library that speaks it (RFC 9113).

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use http::request::Parts;
use http::{Request, header};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use shared::clock::monotonic;
use shared::telemetry::chain;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use crate::body::RequestBody;
use crate::core::Core;
use crate::forward::fields;
use crate::http1::head::{MAX_FIELDS, MAX_TARGET};
use crate::http1::headers::Headers;
use crate::http1::request::{Refusal, RequestHead};
use crate::orders::{Orders, changed};
use crate::pipeline::{Arrival, Peer, handle};
use crate::stream::Stream;
use crate::timer::Timer;

/// How often a silent client is asked for a sign of life, and how long it may take for one.
const PING: Duration = Duration::from_mins(1);
const PONG: Duration = Duration::from_secs(20);
/// Most requests at a time on one connection.
const MAX_STREAMS: u32 = 100;
/// Bytes that a client may send ahead, on one stream and on all: an upload gets one window per round trip, and those
/// that wait for their server leave room for others.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;
/// The same for connections that begin while memory is short.
const SHORT_STREAM_WINDOW: u32 = 64 * 1024;
const SHORT_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes that wait for a client per stream.
const STREAM_UNSENT: usize = 64 * 1024;
/// A client that gives up more requests than this within the time, or a tenth of that at once, is only out to cost us
/// work (CVE-2023-44487, "rapid reset"): its connection is closed.
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
    let io = TokioIo::new(Watched {
        stream,
        early,
        timer: core.timers.timer(),
        limit: core.node.limits.send,
        stalled: false,
    });
    let (stream_window, connection_window) = match core.node.memory.level() {
        0 => (STREAM_WINDOW, CONNECTION_WINDOW),
        _ => (SHORT_STREAM_WINDOW, SHORT_CONNECTION_WINDOW),
    };
    let of_requests = Rc::clone(&peer);
    let service = service_fn(move |request: Request<Incoming>| {
        let (core, peer) = (Rc::clone(&core), Rc::clone(&of_requests));
        let (mut parts, body) = request.into_parts();
        let refusal = refusal(&parts);
        fields::join_cookies(&mut parts.headers);
        let arrival = Arrival {
            head: Box::new(RequestHead {
                method: parts.method,
                uri: parts.uri,
                version: parts.version,
                headers: Headers::Map(parts.headers),
            }),
            body: RequestBody::http2(body),
            refusal,
            legible: true,
            switch: None,
        };
        async move { Ok::<_, Infallible>(handle(core, peer, arrival).await.into_response()) }
    });
    let mut builder = Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_send_buf_size(STREAM_UNSENT)
        .max_header_list_size(64 * 1024)
        .max_pending_accept_reset_streams(20)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    let mut connection = pin!(builder.serve_connection(io, service));
    let shed = orders.borrow().shed;
    // To shed the connection is as good as to stop: its requests end, and the client makes another one.
    let mut stopping = pin!(changed(orders, shed));
    let mut stopped = false;
    let mut counted = (monotonic(), 0);
    let result = poll_fn(|cx| {
        if !stopped && stopping.as_mut().poll(cx).is_ready() {
            stopped = true;
            connection.as_mut().graceful_shutdown();
        }
        let served = connection.as_mut().poll(cx);
        let given_up = peer.given_up.get();
        if given_up - counted.1 > MAX_GIVEN_UP {
            let now = monotonic();
            if now.saturating_duration_since(counted.0) < GIVEN_UP_WITHIN {
                tracing::debug!("a client gives up too many requests");
                return Poll::Ready(Ok(()));
            }
            counted = (now, given_up);
        }
        served
    })
    .await;
    if let Err(error) = result {
        tracing::debug!(error = %chain(&error), "a client's connection broke");
    }
}

/// Why a request is not served whose head has more than one of HTTP/1.1 may have.
fn refusal(parts: &Parts) -> Option<Refusal> {
    let target = parts
        .uri
        .path_and_query()
        .map_or(0, |all| all.as_str().len());
    // The crumbs of a cookie are one field.
    let crumbs = parts.headers.get_all(header::COOKIE).iter().count();
    let fields = parts.headers.len() - crumbs.saturating_sub(1);
    if target > MAX_TARGET {
        Some(Refusal::TargetTooLong)
    } else if fields > MAX_FIELDS {
        Some(Refusal::HeadTooLarge)
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

/// A connection whose client has to take what it is sent.
#[derive(Debug)]
struct Watched {
    stream: Stream,
    /// What has arrived and not been read.
    early: BytesMut,
    timer: Timer,
    /// Longest wait for the client to take bytes.
    limit: Duration,
    /// Whether the timer watches.
    stalled: bool,
}

impl Watched {
    /// A write has ended in `result`: whether the client has stopped to take bytes.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            if std::mem::take(&mut self.stalled) {
                self.timer.clear();
            }
            return result;
        }
        if !std::mem::replace(&mut self.stalled, true) {
            self.timer.set(self.limit);
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
        if this.early.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        let count = this.early.len().min(buffer.remaining());
        buffer.put_slice(this.early.get(..count).unwrap_or_default());
        this.early.advance(count);
        Poll::Ready(Ok(()))
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
        this.watch(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.watch(cx, result)
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
