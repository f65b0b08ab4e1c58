//! One core's listeners: accept, handshake, serve, and drain without losing a request.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use shared::clock::monotonic;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::client_certificates::thumbprint;
use crate::core::{Core, Node};
use crate::guard::Guarded;
use crate::http1::head::{MAX_FIELDS, MAX_HEAD};
use crate::metrics::Metrics;
use crate::pipeline::{Peer, handle};

/// How often a silent HTTP/2 client is asked for a sign of life, and how long it may take for one.
const PING: Duration = Duration::from_mins(1);
const PONG: Duration = Duration::from_secs(20);
/// Most requests at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;
/// Bytes that an HTTP/2 client may send ahead, on one stream and on all, and that wait for it per stream.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const STREAM_UNSENT: usize = 64 * 1024;
/// A client that gives up more requests than this within the time is only out to cost us work
/// (CVE-2023-44487, "rapid reset"): its connection is closed.
const MAX_GIVEN_UP: u32 = 100;
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(10);
/// How long a draining listener must have been idle before it is closed.
const QUIET: Duration = Duration::from_millis(100);
/// How long a draining listener takes new connections at most: clients that do not hear of it keep coming.
const LATECOMERS: Duration = Duration::from_secs(5);

/// A listening socket, not yet bound to a runtime.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: std::net::TcpListener,
    /// The TLS that it speaks.
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

/// Binds `address` so that every core can have a socket of its own.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Serves `listeners` on this thread until `stop` says so and every exchange has ended, or `drain` is
/// over.
pub(crate) fn run(
    node: Arc<Node>,
    metrics: Arc<Metrics>,
    listeners: Vec<Bound>,
    stop: watch::Receiver<bool>,
    drain: Duration,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let core = Core::new(node, metrics);
        // Every connection holds a receiver; all are gone when the last has ended.
        let (alive, _) = watch::channel(());
        let alive = Arc::new(alive);
        let mut loops = Vec::new();
        for bound in listeners {
            let listener = TcpListener::from_std(bound.socket)?;
            let acceptor = bound.tls.map(TlsAcceptor::from);
            let accepting = accept(
                Rc::clone(&core),
                listener,
                acceptor,
                stop.clone(),
                LATECOMERS.min(drain / 2),
                Arc::clone(&alive),
            );
            loops.push(tokio::task::spawn_local(accepting));
        }
        let mut stop = stop;
        // A sender that is gone means the same.
        let _ = stop.wait_for(|stopping| *stopping).await;
        let end = monotonic() + drain;
        for accepting in loops {
            if let Err(error) = accepting.await {
                tracing::error!(%error, "a listener failed");
            }
        }
        if tokio::time::timeout_at(end.into(), alive.closed())
            .await
            .is_err()
        {
            tracing::warn!("drain_timeout is over: the exchanges that are left are cut off");
        }
        Ok(())
    })
}

async fn accept(
    core: Rc<Core>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    mut stop: watch::Receiver<bool>,
    latecomers: Duration,
    alive: Arc<watch::Sender<()>>,
) {
    let port = listener.local_addr().map_or(0, |address| address.port());
    let mut closing: Option<Instant> = None;
    loop {
        let accepted = if let Some(end) = closing {
            // What is in the queue has been promised an answer: it is taken until no more comes, or, once
            // it is time, until the queue is empty for a moment.
            let patience = if monotonic() < end {
                QUIET
            } else {
                Duration::ZERO
            };
            match tokio::time::timeout(patience, listener.accept()).await {
                Ok(accepted) => accepted,
                Err(_) => return,
            }
        } else {
            tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stopping| *stopping) => {
                    closing = Some(monotonic() + latecomers);
                    continue;
                }
            }
        };
        match accepted {
            Ok((stream, address)) => {
                if alive.receiver_count() >= core.node.limits.connections / core.node.workers {
                    tracing::debug!("more connections than allowed: one is closed");
                    continue;
                }
                let peer = Peer::new(
                    address.ip().to_canonical(),
                    port,
                    tls.is_some(),
                    Arc::default(),
                );
                let guard = alive.subscribe();
                let serving = connection(Rc::clone(&core), stream, tls.clone(), peer, stop.clone());
                tokio::task::spawn_local(async move {
                    serving.await;
                    drop(guard);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: give others the time to close theirs.
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(
    core: Rc<Core>,
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    mut peer: Peer,
    stop: watch::Receiver<bool>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection went away");
        return;
    }
    let metrics = Arc::clone(&core.metrics);
    metrics.accepted.fetch_add(1, Ordering::Relaxed);
    metrics.open.fetch_add(1, Ordering::Relaxed);
    match tls {
        None => serve(core, stream, peer, stop).await,
        Some(acceptor) => {
            match tokio::time::timeout(core.node.limits.handshake, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let certificates = stream.get_ref().1.peer_certificates();
                    peer.certificate = certificates.and_then(<[_]>::first).and_then(thumbprint);
                    peer.server_name = stream
                        .get_ref()
                        .1
                        .server_name()
                        .map(str::to_ascii_lowercase);
                    serve(core, stream, peer, stop).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake with a client"),
                Err(_) => tracing::debug!("a client took too long for its TLS handshake"),
            }
        }
    }
    metrics.open.fetch_sub(1, Ordering::Relaxed);
}

async fn serve<S>(core: Rc<Core>, stream: S, peer: Peer, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let gate = Arc::clone(&peer.gate);
    let guarded = Guarded::new(stream, Arc::clone(&peer.gate), core.node.limits);
    let peer = Rc::new(peer);
    let service = service_fn(move |request| {
        let (core, peer) = (Rc::clone(&core), Rc::clone(&peer));
        async move { Ok::<_, Infallible>(handle(core, peer, request).await) }
    });
    let mut builder = Builder::new(LocalExecutor);
    builder
        .http1()
        // The guard watches over heads, and has a limit for every wait.
        .header_read_timeout(None)
        .max_buf_size(2 * MAX_HEAD)
        .max_headers(MAX_FIELDS)
        // Without it a client that sends and does not read makes answers pile up in memory.
        .pipeline_flush(false)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(STREAM_UNSENT)
        .max_header_list_size(64 * 1024)
        .max_pending_accept_reset_streams(20)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    let io = TokioIo::new(guarded);
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, service));
    let mut stopping = pin!(async move {
        // A sender that is gone means the same.
        let _ = stop.wait_for(|stopping| *stopping).await;
    });
    let mut stopped = false;
    let mut counted = (monotonic(), 0);
    let result = poll_fn(|cx| {
        if !stopped && stopping.as_mut().poll(cx).is_ready() {
            stopped = true;
            connection.as_mut().graceful_shutdown();
        }
        let served = connection.as_mut().poll(cx);
        let given_up = gate.given_up();
        if given_up - counted.1 > MAX_GIVEN_UP {
            let now = monotonic();
            if now.saturating_duration_since(counted.0) < GIVEN_UP_WITHIN {
                return Poll::Ready(Err("the client gives up too many requests".into()));
            }
            counted = (now, given_up);
        }
        served
    })
    .await;
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection broke");
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
