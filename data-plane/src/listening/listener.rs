//! One core's listeners: accept, handshake, serve, and drain without losing a request.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use shared::clock::monotonic;
use shared::telemetry::chain;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalRuntime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::core::{Core, Node};
use crate::host::CoreHost;
use crate::listening::connections::{Admission, Connections, Full};
use crate::listening::proxy_protocol;
use crate::listening::shortage::Shortage;
use crate::listening::tls::Tls;
use crate::memory;
use crate::metrics::Metrics;
use crate::orders::{Orders, stopped};
use crate::pipeline::Peer;
use crate::server::serve;
use crate::settings::PortMap;
use crate::stream::{Corked, Stream};
use crate::streams;
use crate::streams::datagrams;

/// How long a draining listener must have been idle before it is closed.
const QUIET: Duration = Duration::from_millis(100);
/// How long a draining listener takes new connections at most: clients that do not hear of it keep coming.
const LATECOMERS: Duration = Duration::from_secs(5);
/// Room for what a client greets with over TLS.
const HELLO: usize = 4 * 1024;
/// How often it is looked whether what was cut off is gone.
const LOOK: Duration = Duration::from_millis(1);
/// How long the logs of the last exchanges may take at least, however long draining has taken.
const LAST_LOGS: Duration = Duration::from_secs(2);

/// A listening socket, not yet bound to a runtime.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: std::net::TcpListener,
    pub(crate) takes: Takes,
}

/// What a listener's connections are.
#[derive(Clone, Debug)]
pub(crate) struct Takes {
    /// The TLS that they speak.
    pub(crate) tls: Option<Tls>,
    /// Whether they are byte streams, and no HTTP.
    pub(crate) raw: bool,
    /// Whether each begins with a header of the PROXY protocol.
    pub(crate) proxy_protocol: bool,
}

/// What one core listens on.
#[derive(Debug, Default)]
pub(crate) struct OfCore {
    pub(crate) listeners: Vec<Bound>,
    /// For UDP.
    pub(crate) datagrams: Vec<std::net::UdpSocket>,
}

/// Serves `own` on this thread until `orders` says so and every exchange has ended, or the time for that is
/// over.
pub(crate) fn run(
    runtime: &LocalRuntime,
    node: Arc<Node>,
    metrics: Arc<Metrics>,
    own: OfCore,
    orders: watch::Receiver<Orders>,
) -> io::Result<()> {
    let drain = node.drain;
    runtime.block_on(async move {
        let core = Core::new(node, metrics);
        // Every connection holds a receiver; all are gone when the last has ended.
        let (alive, _) = watch::channel(());
        let alive = Arc::new(alive);
        // Connections wait in the queue meanwhile.
        let mut orders = orders;
        tokio::select! {
            () = core.node.contact.settled() => {}
            () = stopped(&mut orders) => {}
        }
        tokio::task::spawn_local(memory::give_back(Rc::clone(&core), orders.clone()));
        let open = Open::default();
        let mut loops = Vec::new();
        for bound in own.listeners {
            let listener = TcpListener::from_std(bound.socket)?;
            let accepting = accept(
                Rc::clone(&core),
                listener,
                bound.takes,
                orders.clone(),
                LATECOMERS.min(drain / 2),
                (Rc::clone(&open), Arc::clone(&alive)),
            );
            loops.push(tokio::task::spawn_local(accepting));
        }
        for socket in own.datagrams {
            let (core, orders) = (Rc::clone(&core), orders.clone());
            let serving = datagrams::serve(core, socket, orders, Arc::clone(&alive));
            loops.push(tokio::task::spawn_local(serving));
        }
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
            tracing::warn!("drain_timeout is over: the remaining exchanges are cut off");
        }
        let end = end.max(monotonic() + LAST_LOGS);
        core.cut_off();
        open.borrow_mut().abort_all();
        let gone = async {
            alive.closed().await;
            // Those of HTTP/2 are tasks of their own.
            while core.requests.used() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout_at(end.into(), gone).await.is_err() {
            tracing::warn!("exchanges that were cut off did not end: they are not logged");
        }
        let host = CoreHost::new(core);
        let flushed = plugins::logs::queue::flush(&host);
        if tokio::time::timeout_at(end.into(), flushed).await.is_err() {
            tracing::warn!("logs of exchanges are lost: their servers did not accept them in time");
        }
        Ok(())
    })
}

/// The connections of a core on which HTTP is spoken, to be cut off.
type Open = Rc<RefCell<JoinSet<()>>>;

async fn accept(
    core: Rc<Core>,
    listener: TcpListener,
    takes: Takes,
    mut orders: watch::Receiver<Orders>,
    latecomers: Duration,
    (open, alive): (Open, Arc<watch::Sender<()>>),
) {
    let port = listener.local_addr().map_or(0, |address| address.port());
    let port = PortMap::published(&core.node.port_maps, port);
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
                let Ok(admission) = admit(&core.node, &core.node.connections, address) else {
                    core.metrics.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                let mut peer = Peer::new(source, port, takes.tls.is_some());
                peer.requests = admission.requests();
                let guard = alive.subscribe();
                let (core, takes, orders) = (Rc::clone(&core), takes.clone(), orders.clone());
                let raw = takes.raw;
                let serving = async move {
                    let metrics = Arc::clone(&core.metrics);
                    metrics.open.fetch_add(1, Ordering::Relaxed);
                    // A task is moved several times before it runs: what it will be is not moved along.
                    if takes.proxy_protocol {
                        Box::pin(announced(core, stream, source, takes, peer, orders)).await;
                    } else if takes.raw {
                        Box::pin(streams::serve(core, stream, source, port, takes.tls)).await;
                    } else {
                        let serving = connection(core, stream, takes.tls, peer, orders);
                        Box::pin(serving).await;
                    }
                    metrics.open.fetch_sub(1, Ordering::Relaxed);
                    drop((admission, guard));
                };
                if raw {
                    // It hears of the end by itself, and is logged then.
                    tokio::task::spawn_local(serving);
                } else {
                    let mut open = open.borrow_mut();
                    while open.try_join_next().is_some() {}
                    open.spawn_local(serving);
                }
            }
            Err(error) => shortage.wait(&listener, &error).await,
        }
    }
}

/// Serves one connection, after a header of the PROXY protocol.
async fn announced(
    core: Rc<Core>,
    mut stream: TcpStream,
    source: SocketAddr,
    takes: Takes,
    mut peer: Peer,
    orders: watch::Receiver<Orders>,
) {
    match proxy_protocol::client(&core.node, &mut stream, peer.address()).await {
        Ok(client) => {
            if takes.raw {
                let source = client.unwrap_or(source);
                return streams::serve(core, stream, source, peer.port(), takes.tls).await;
            }
            peer.announced = client.map(|client| client.ip().to_canonical());
            connection(core, stream, takes.tls, peer, orders).await;
        }
        Err(error) => {
            let address = peer.address();
            tracing::debug!(%address, error = %chain(&error), "a connection is closed");
        }
    }
}

/// Takes a connection from `address`, if there is room for it among `open`, those of the node or its sessions.
pub(crate) fn admit(
    node: &Node,
    open: &Arc<Connections>,
    address: IpAddr,
) -> Result<Admission, Full> {
    if node.memory.is_critical() {
        return Err(Full::Memory);
    }
    let limits = &node.limits;
    let counted = node.counted(address);
    let each = counted.map(|_| limits.connections_per_address);
    let admitted = open.admit(address, limits.connections, each);
    admitted.inspect_err(
        |full| tracing::debug!(%address, ?full, "a connection is closed: there are too many"),
    )
}

/// Serves one connection, after its handshake.
async fn connection(
    core: Rc<Core>,
    stream: TcpStream,
    tls: Option<Tls>,
    mut peer: Peer,
    orders: watch::Receiver<Orders>,
) {
    match tls {
        None => {
            let (stream, early) = (Stream::Plain(stream), BytesMut::new());
            serve(core, stream, early, Rc::new(peer), orders).await;
        }
        Some(tls) => {
            let limit = core.node.limits.handshake;
            let secured = Box::pin(secured(stream, tls, &mut peer));
            let secured = tokio::select! {
                secured = tokio::time::timeout(limit, secured) => secured,
                () = core.until_critical() => return,
            };
            match secured {
                Ok(Ok((stream, early))) => serve(core, stream, early, Rc::new(peer), orders).await,
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake with a client"),
                Err(_) => tracing::debug!("a client took too long for its TLS handshake"),
            }
        }
    }
}

/// The connection after its handshake; as it is, with what has been read, if the client speaks plain HTTP, so that it can
/// be told.
async fn secured(
    mut stream: TcpStream,
    tls: Tls,
    peer: &mut Peer,
) -> io::Result<(Stream, BytesMut)> {
    let mut early = BytesMut::with_capacity(HELLO);
    stream.read_buf(&mut early).await?;
    // No record of TLS begins with a letter, and every method does.
    if early.first().is_some_and(u8::is_ascii_alphabetic) {
        (peer.tls, peer.bare) = (false, true);
        return Ok((Stream::Plain(stream), early));
    }
    let (stream, handshake) = tls.accept(Corked::to_client(stream, early)).await?;
    peer.handshake = Some(handshake);
    Ok((stream, BytesMut::new()))
}
