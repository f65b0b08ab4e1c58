//! UDP: a session for each client's address and port, with a socket of its own towards the server (Kong 3.9,
//! stream proxy).
//!
//! ```text
//!  client ─► the listening socket ─► session of its address ─► routes ─► balancer ─► the session's socket ─► server
//!         ◄───────────────────────────────────┴──────────────────────────────────────────────────────┘
//! ```
//!
//! A session ends once both sides have been silent for the service's `read_timeout`.

mod sessions;

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shared::clock::monotonic;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use crate::balancer::Peer;
use crate::carry::Carried;
use crate::core::Core;
use crate::listening::listener::admit;
use crate::orders::Orders;
use crate::settings::PortMap;
use crate::streams::routes::{Asked, Kind};
use crate::streams::{Line, StreamError, choose};
use crate::upstream::UpstreamError;
use sessions::{Life, Sessions};

/// Largest datagram.
const LARGEST: usize = 65_535;

/// Sessions that a socket has at most on a core.
const SESSIONS: usize = 4096;

/// How long a server that says nothing may still be about to answer once the node stops: a session has no
/// end of its own, and until it is over, datagrams come to a socket that nobody reads any more.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Serves the datagrams that come to `socket`, until the node is to stop or another process serves in its
/// place. Each session holds a receiver of `alive`.
pub(crate) async fn serve(
    core: Rc<Core>,
    socket: std::net::UdpSocket,
    mut orders: watch::Receiver<Orders>,
    alive: Arc<watch::Sender<()>>,
) {
    let opened = UdpSocket::from_std(socket).and_then(|socket| {
        let address = socket.local_addr()?;
        Ok((Rc::new(socket), address))
    });
    let (socket, destination) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::error!(%error, "a socket for datagrams cannot be used");
            return;
        }
    };
    let sessions = Rc::new(RefCell::new(Sessions::new(SESSIONS)));
    let room = Rc::new(RefCell::new(vec![0; LARGEST]));
    let mut buffer = vec![0; LARGEST];
    loop {
        let datagram = tokio::select! {
            datagram = socket.recv_from(&mut buffer) => datagram,
            _ = orders.wait_for(|orders| orders.stopping || orders.handed_over) => {
                // The sessions hear of it by that.
                sessions.borrow_mut().end();
                return;
            }
        };
        // What is told here is of some client that has gone.
        let Ok((length, source)) = datagram else {
            continue;
        };
        let data = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
        let (mut open, now) = (sessions.borrow_mut(), monotonic());
        if !open.has(source) {
            let address = source.ip().to_canonical();
            let admit = || admit(&core.node, &core.node.sessions, address);
            let Some((receiver, life)) = open.open(source, now, admit) else {
                continue;
            };
            let ends = Ends {
                source,
                destination,
                socket: Rc::clone(&socket),
                room: Rc::clone(&room),
                life,
            };
            let (core, sessions) = (Rc::clone(&core), Rc::clone(&sessions));
            let guard = alive.subscribe();
            tokio::task::spawn_local(async move {
                session(&core, &ends, receiver).await;
                sessions.borrow_mut().close(source, &ends.life);
                drop(guard);
            });
        }
        open.pass(source, data, now);
    }
}

/// Where a session's datagrams come from, and where they have come to.
struct Ends {
    source: SocketAddr,
    destination: SocketAddr,
    socket: Rc<UdpSocket>,
    /// Room for one datagram, for all sessions of the socket.
    room: Rc<RefCell<Vec<u8>>>,
    life: Rc<Life>,
}

async fn session(core: &Rc<Core>, ends: &Ends, mut datagrams: mpsc::Receiver<Bytes>) {
    let start = monotonic();
    let carried = Carried::default();
    let port = ends.destination.port();
    let mut line = Line::new("udp", ends.source, port);
    let served = route_and_carry(core, ends, &mut datagrams, &carried, &mut line).await;
    line.close(core, start, &carried, served);
}

async fn route_and_carry(
    core: &Core,
    ends: &Ends,
    datagrams: &mut mpsc::Receiver<Bytes>,
    carried: &Carried,
    line: &mut Line,
) -> Result<(), StreamError> {
    let snapshot = core.snapshot().ok_or(StreamError::NotReady)?;
    let (source, destination) = (ends.source, ends.destination);
    let port = PortMap::published(&core.node.port_maps, destination.port());
    let asked = Asked {
        kind: Kind::Datagrams,
        source: (source.ip().to_canonical(), source.port()),
        destination: (destination.ip().to_canonical(), port),
        name: None,
    };
    let route = snapshot.stream_routes.find(&asked);
    let route = route.ok_or(StreamError::NoRoute)?;
    let service = line.enter(route, asked.source.0)?;
    let tried: &[Arc<Peer>] = &[];
    let chosen = choose(core, &snapshot, &service, asked.source.0, None, tried).await;
    let (origin, lease) = chosen?;
    line.attempt(&origin);
    // A session is none of the requests that a server is asked at a time: whoever likes can begin any number.
    let pool = core.pools.of(&origin);
    let found = tokio::time::timeout(service.timeouts.connect, pool.address()).await;
    let address = found.unwrap_or(Err(UpstreamError::ConnectTimeout))?;
    let server = connect(address).await;
    let server = server.map_err(|source| UpstreamError::Connect { address, source })?;
    line.connected();
    // A snapshot is not kept for as long as a client likes to talk.
    drop(snapshot);
    let ended = carry(ends, &server, datagrams, carried, service.timeouts.read).await;
    // The server's machine has said that nobody is there.
    if let (Err(_), Some(lease)) = (&ended, &lease) {
        lease.failed();
    }
    ended.map_err(|source| UpstreamError::Connect { address, source }.into())
}

async fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if address.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    Ok(socket)
}

/// Carries datagrams both ways until both sides are silent for `idle`; that is how a session ends well.
async fn carry(
    ends: &Ends,
    server: &UdpSocket,
    datagrams: &mut mpsc::Receiver<Bytes>,
    carried: &Carried,
    idle: Duration,
) -> io::Result<()> {
    let (mut idle, mut stopping) = (idle, false);
    loop {
        tokio::select! {
            datagram = datagrams.recv(), if !stopping => {
                if let Some(datagram) = datagram {
                    carried.count_received(datagram.len());
                    server.send(&datagram).await?;
                } else if ends.life.gives_way() {
                    return Ok(());
                } else {
                    (idle, stopping) = (idle.min(LAST_ANSWERS), true);
                }
            }
            ready = server.readable() => {
                ready?;
                let mut room = ends.room.borrow_mut();
                match server.try_recv(&mut room) {
                    Ok(length) => {
                        ends.life.speak(monotonic());
                        carried.count_sent(length);
                        let datagram = room.get(..length).unwrap_or_default();
                        // What the system has no room for is lost, as on the way. A client that has gone is
                        // found out by its silence.
                        let _ = ends.socket.try_send_to(datagram, ends.source);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            () = tokio::time::sleep(idle) => return Ok(()),
        }
    }
}
