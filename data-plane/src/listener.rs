//! One core's listeners: accept, handshake, serve, and drain without losing a request.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use shared::clock::monotonic;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::client_certificates::thumbprint;
use crate::core::{Core, Node};
use crate::metrics::Metrics;
use crate::pipeline::Peer;
use crate::server::serve;
use crate::stream::Stream;

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
        .build_local(LocalOptions::default())?;
    runtime.block_on(async move {
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
                let peer = Peer::new(address.ip().to_canonical(), port, tls.is_some());
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
        None => serve(core, Stream::Plain(stream), Rc::new(peer), stop).await,
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
                    let stream = Stream::Tls(Box::new(stream.into()));
                    serve(core, stream, Rc::new(peer), stop).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake with a client"),
                Err(_) => tracing::debug!("a client took too long for its TLS handshake"),
            }
        }
    }
    metrics.open.fetch_sub(1, Ordering::Relaxed);
}
