//! One core's listeners: accept, handshake, serve, and drain without losing a request.

use std::io;
use std::net::{IpAddr, SocketAddr};
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
use crate::connections::Admission;
use crate::core::{Core, Node};
use crate::datagrams;
use crate::host::CoreHost;
use crate::metrics::Metrics;
use crate::orders::{Orders, stopped};
use crate::pipeline::Peer;
use crate::server::serve;
use crate::shortage::Shortage;
use crate::stream::Stream;
use crate::streams;

/// How long a draining listener must have been idle before it is closed.
const QUIET: Duration = Duration::from_millis(100);
/// How long a draining listener takes new connections at most: clients that do not hear of it keep coming.
const LATECOMERS: Duration = Duration::from_secs(5);
/// How long the logs of the last exchanges may take at least, however long draining has taken.
const LAST_LOGS: Duration = Duration::from_secs(2);

/// A listening socket, not yet bound to a runtime.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: std::net::TcpListener,
    /// The TLS that it speaks.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// Whether it takes byte streams, and no HTTP.
    pub(crate) raw: bool,
}

/// What one core listens on.
#[derive(Debug, Default)]
pub(crate) struct OfCore {
    pub(crate) listeners: Vec<Bound>,
    /// For UDP.
    pub(crate) datagrams: Vec<std::net::UdpSocket>,
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

/// Serves `own` on this thread until `orders` says so and every exchange has ended, or `drain` is
/// over.
pub(crate) fn run(
    node: Arc<Node>,
    metrics: Arc<Metrics>,
    own: OfCore,
    orders: watch::Receiver<Orders>,
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
        for bound in own.listeners {
            let listener = TcpListener::from_std(bound.socket)?;
            let acceptor = bound.tls.map(TlsAcceptor::from);
            let accepting = accept(
                Rc::clone(&core),
                listener,
                (acceptor, bound.raw),
                orders.clone(),
                LATECOMERS.min(drain / 2),
                Arc::clone(&alive),
            );
            loops.push(tokio::task::spawn_local(accepting));
        }
        for socket in own.datagrams {
            let (core, orders) = (Rc::clone(&core), orders.clone());
            let serving = datagrams::serve(core, socket, orders, Arc::clone(&alive));
            loops.push(tokio::task::spawn_local(serving));
        }
        let mut orders = orders;
        stopped(&mut orders).await;
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
        let end = end.max(monotonic() + LAST_LOGS);
        let host = CoreHost::new(core);
        let flushed = plugins::queue::flush(&host);
        if tokio::time::timeout_at(end.into(), flushed).await.is_err() {
            tracing::warn!("logs of exchanges are lost: their servers did not take them in time");
        }
        Ok(())
    })
}

async fn accept(
    core: Rc<Core>,
    listener: TcpListener,
    (tls, raw): (Option<TlsAcceptor>, bool),
    mut orders: watch::Receiver<Orders>,
    latecomers: Duration,
    alive: Arc<watch::Sender<()>>,
) {
    let port = listener.local_addr().map_or(0, |address| address.port());
    let mut closing: Option<Instant> = None;
    let mut shortage = Shortage::new();
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
                () = stopped(&mut orders) => {
                    if orders.borrow().handed_over {
                        return;
                    }
                    closing = Some(monotonic() + latecomers);
                    continue;
                }
            }
        };
        match accepted {
            Ok((stream, source)) => {
                shortage.end();
                core.metrics.accepted.fetch_add(1, Ordering::Relaxed);
                let address = source.ip().to_canonical();
                let Some(admission) = admit(&core.node, address) else {
                    core.metrics.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection went away");
                    continue;
                }
                let peer = Peer::new(address, port, tls.is_some());
                let guard = alive.subscribe();
                let (core, tls, orders) = (Rc::clone(&core), tls.clone(), orders.clone());
                tokio::task::spawn_local(async move {
                    let metrics = Arc::clone(&core.metrics);
                    metrics.open.fetch_add(1, Ordering::Relaxed);
                    if raw {
                        // What few connections are must not make room in all.
                        Box::pin(streams::serve(core, stream, source, tls)).await;
                    } else {
                        connection(core, stream, tls, peer, orders).await;
                    }
                    metrics.open.fetch_sub(1, Ordering::Relaxed);
                    drop((admission, guard));
                });
            }
            Err(error) => shortage.wait(&listener, &error).await,
        }
    }
}

/// Takes a connection from `address`, if there is room for it.
pub(crate) fn admit(node: &Node, address: IpAddr) -> Option<Admission> {
    if node.memory.is_critical() {
        return None;
    }
    let limits = &node.limits;
    // Behind a trusted proxy are many clients.
    let each = (!node.trusted.contains(address)).then_some(limits.connections_per_address);
    let admitted = node.connections.admit(address, limits.connections, each);
    admitted
        .inspect_err(|full| tracing::debug!(%address, ?full, "a connection too many is closed"))
        .ok()
}

/// Serves one connection, after its handshake.
async fn connection(
    core: Rc<Core>,
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    mut peer: Peer,
    orders: watch::Receiver<Orders>,
) {
    match tls {
        None => serve(core, Stream::Plain(stream), Rc::new(peer), orders).await,
        Some(acceptor) => {
            match tokio::time::timeout(
                core.node.limits.handshake,
                Box::pin(acceptor.accept(stream)),
            )
            .await
            {
                Ok(Ok(stream)) => {
                    let certificates = stream.get_ref().1.peer_certificates();
                    peer.certificate = certificates.and_then(<[_]>::first).and_then(thumbprint);
                    peer.server_name = stream
                        .get_ref()
                        .1
                        .server_name()
                        .map(str::to_ascii_lowercase);
                    let stream = Stream::Tls(Box::new(stream.into()));
                    serve(core, stream, Rc::new(peer), orders).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake with a client"),
                Err(_) => tracing::debug!("a client took too long for its TLS handshake"),
            }
        }
    }
}
