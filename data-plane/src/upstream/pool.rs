//! The connections of one core, and the addresses that they lead to.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use shared::clock::monotonic;
use shared::network::Network;
use tokio::net::TcpStream;

use super::exchange::Phase;
use super::http2::Shared;
use super::origin::Origin;
use super::resolve::{Found, Resolver};
use super::{Connection, UpstreamError};
use crate::balancer::spread;
use crate::http1::head::HeadFinder;
use crate::http1::writer::Writer;
use crate::limits::KeepAlive;
use crate::quota::{Share, Taken};
use crate::stream::Stream;
use crate::timer::Timers;

/// How long a name's last addresses go on to be used while it cannot be looked up.
const STALE: Duration = Duration::from_secs(10);
/// Most turns that the addresses of a name take in a round, by their weights.
const TURNS: u64 = 256;
/// How often connections that nobody asks for are looked at.
const SWEEP: Duration = Duration::from_secs(10);
/// How long a pool outlives its last use.
const POOL_IDLE: Duration = Duration::from_mins(5);

/// All pools of one core.
pub(crate) struct Pools {
    timers: Rc<Timers>,
    resolver: Rc<Resolver>,
    /// Networks that origins of a narrow reach may be in as well.
    permitted: Arc<[Network]>,
    /// Most exchanges with one origin, of so many cores together.
    limit: (usize, usize),
    keep_alive: KeepAlive,
    /// By the origin's number.
    all: RefCell<Vec<Option<Rc<Pool>>>>,
}

impl Pools {
    /// No connections yet. `limit` is how many exchanges so many cores may have under way with one origin.
    pub(crate) fn new(
        timers: Rc<Timers>,
        resolver: Rc<Resolver>,
        permitted: Arc<[Network]>,
        limit: (usize, usize),
        keep_alive: KeepAlive,
    ) -> Self {
        Self {
            timers,
            resolver,
            permitted,
            limit,
            keep_alive,
            all: RefCell::default(),
        }
    }

    /// The pool of `origin`.
    pub(crate) fn of(&self, origin: &Arc<Origin>) -> Rc<Pool> {
        let mut pools = self.all.borrow_mut();
        let number = origin.number();
        if let Some(Some(pool)) = pools.get(number)
            && Arc::ptr_eq(&pool.origin, origin)
        {
            return Rc::clone(pool);
        }
        if pools.len() <= number {
            pools.resize_with(number + 1, || None);
        }
        let pool = Rc::new(Pool {
            origin: Arc::clone(origin),
            timers: Rc::clone(&self.timers),
            resolver: Rc::clone(&self.resolver),
            permitted: Arc::clone(&self.permitted),
            keep_alive: self.keep_alive,
            idle: RefCell::default(),
            http2: RefCell::default(),
            addresses: RefCell::default(),
            turn: Cell::new(0),
            used: Cell::new(monotonic()),
            exchanges: Rc::new(Share::of(origin.exchanges(self.limit.0, self.limit.1))),
            retries: Cell::new(MAX_RETRIES),
        });
        if let Some(slot) = pools.get_mut(number) {
            *slot = Some(Rc::clone(&pool));
        }
        pool
    }

    /// Closes what has been idle for too long, until the core ends.
    pub(crate) async fn sweep(self: Rc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let now = monotonic();
            for slot in self.all.borrow_mut().iter_mut() {
                let Some(pool) = slot else { continue };
                let mut idle = pool.idle.borrow_mut();
                idle.retain_mut(|connection| {
                    let idle = now.saturating_duration_since(connection.idle_since);
                    if idle >= SWEEP {
                        connection.finder.rest();
                    }
                    idle < self.keep_alive.idle
                });
                let mut shared = pool.http2.borrow_mut();
                shared.retain(|shared| !shared.is_idle(now, self.keep_alive.idle));
                let unused = idle.is_empty()
                    && shared.is_empty()
                    && pool.exchanges.used() == 0
                    && now.saturating_duration_since(pool.used.get()) > POOL_IDLE;
                drop((idle, shared));
                if unused {
                    *slot = None;
                }
            }
        }
    }
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pools").finish_non_exhaustive()
    }
}

/// This core's connections to one origin.
pub(crate) struct Pool {
    pub(super) origin: Arc<Origin>,
    pub(super) timers: Rc<Timers>,
    resolver: Rc<Resolver>,
    permitted: Arc<[Network]>,
    keep_alive: KeepAlive,
    /// The connection used last is used next, so that those not needed age.
    #[expect(
        clippy::vec_box,
        reason = "connections travel boxed: a move costs a pointer"
    )]
    idle: RefCell<Vec<Box<Connection>>>,
    /// The connections that exchanges of HTTP/2 share. The first with room is used, so that those not needed age.
    pub(super) http2: RefCell<Vec<Shared>>,
    addresses: RefCell<Option<Addresses>>,
    turn: Cell<usize>,
    pub(super) used: Cell<Instant>,
    /// Exchanges under way.
    exchanges: Rc<Share>,
    /// What is left for further attempts, in tenths of one.
    retries: Cell<u32>,
}

/// Most further attempts in a row, in tenths of one; each exchange earns a fifth of one. So a server that
/// fails is not asked much more often than one that does not.
const MAX_RETRIES: u32 = 1000;
const EARNED: u32 = 2;
const COST: u32 = 10;

#[derive(Clone)]
struct Addresses {
    /// In the order of their turns, each as often as its weight says.
    all: Rc<[SocketAddr]>,
    until: Instant,
    /// Whether they were to last for any time when they were found.
    lasting: bool,
}

impl Pool {
    /// Begins an exchange, if one more may be under way.
    pub(crate) fn enter(&self) -> Option<Taken> {
        let taken = Taken::of(&self.exchanges)?;
        let earned = self.retries.get() + EARNED;
        self.retries.set(earned.min(MAX_RETRIES));
        Some(taken)
    }

    /// Whether a request that was sent may be sent again.
    pub(crate) fn may_retry(&self) -> bool {
        match self.retries.get().checked_sub(COST) {
            Some(left) => {
                self.retries.set(left);
                true
            }
            None => false,
        }
    }

    /// An idle connection that is still open, as far as the system has told us.
    pub(crate) fn take(&self, now: Instant) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut connection) = idle.pop() {
            if now.saturating_duration_since(connection.idle_since) < self.keep_alive.idle
                && still_open(&mut connection)
            {
                return Some(connection);
            }
        }
        None
    }

    /// Takes back a connection whose exchange has ended cleanly.
    pub(crate) fn give_back(&self, mut connection: Box<Connection>) {
        let mut idle = self.idle.borrow_mut();
        connection.served += 1;
        let KeepAlive {
            connections,
            exchanges,
            ..
        } = self.keep_alive;
        if connection.served >= exchanges || idle.len() >= connections {
            return;
        }
        connection.timer.clear();
        connection.phase = Phase::Idle;
        connection.idle_since = monotonic();
        self.used.set(connection.idle_since);
        idle.push(connection);
    }

    /// A new connection, by way of any of the origin's addresses.
    pub(crate) async fn connect(
        self: &Rc<Self>,
        limit: Duration,
    ) -> Result<Box<Connection>, UpstreamError> {
        let timer = self.timers.timer();
        let stream = timer
            .limit(limit, self.open())
            .await
            .unwrap_or(Err(UpstreamError::ConnectTimeout))?;
        Ok(Box::new(Connection {
            stream,
            input: BytesMut::new(),
            output: Writer::default(),
            timer,
            phase: Phase::Idle,
            finder: HeadFinder::default(),
            informational: 0,
            served: 0,
            idle_since: monotonic(),
        }))
    }

    /// Connects to any of the origin's addresses.
    pub(crate) async fn open(self: &Rc<Self>) -> Result<Stream, UpstreamError> {
        let addresses = self.resolve().await?;
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let mut failure = UpstreamError::Resolve {
            host: self.origin.key().host.clone(),
            source: io::Error::new(io::ErrorKind::NotFound, "no address"),
        };
        let mut tried = Vec::new();
        for offset in 0..addresses.len() {
            let Some(address) = addresses.get(turn.wrapping_add(offset) % addresses.len()) else {
                continue;
            };
            if tried.contains(&address) {
                continue;
            }
            tried.push(address);
            // Of the very address that is connected to: what a name led to before does not count.
            if !self
                .origin
                .key()
                .reach
                .allows(address.ip(), &self.permitted)
            {
                failure = UpstreamError::Forbidden {
                    address: address.ip(),
                };
                continue;
            }
            match TcpStream::connect(address).await.and_then(|stream| {
                stream.set_nodelay(true)?;
                Ok(stream)
            }) {
                Ok(stream) => return self.secure(*address, stream).await,
                Err(source) => {
                    failure = UpstreamError::Connect {
                        address: *address,
                        source,
                    }
                }
            }
        }
        Err(failure)
    }

    /// The next of the origin's addresses, for what needs no connection.
    pub(crate) async fn address(self: &Rc<Self>) -> Result<SocketAddr, UpstreamError> {
        let addresses = self.resolve().await?;
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let address = addresses.get(turn % addresses.len().max(1));
        address.copied().ok_or_else(|| UpstreamError::Resolve {
            host: self.origin.key().host.clone(),
            source: io::Error::new(io::ErrorKind::NotFound, "no address"),
        })
    }

    async fn secure(
        &self,
        address: SocketAddr,
        stream: TcpStream,
    ) -> Result<Stream, UpstreamError> {
        let Some(tls) = &self.origin.key().tls else {
            return Ok(Stream::Plain(stream));
        };
        let stream = tls
            .profile
            .connector(self.origin.key().http2)
            .connect(tls.server_name.clone(), stream)
            .await
            .map_err(|source| UpstreamError::Tls { address, source })?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    /// The origin's addresses, from memory where possible. What has just expired is still good for
    /// the requests that come while it is looked up anew.
    async fn resolve(self: &Rc<Self>) -> Result<Rc<[SocketAddr]>, UpstreamError> {
        let port = self.origin.key().port;
        if let Some(address) = self.origin.address() {
            return Ok(Rc::new([SocketAddr::new(address, port)]));
        }
        let now = monotonic();
        let mut known = self.addresses.borrow().clone();
        if let Some(known) = &mut known
            && known.lasting
            && !self.resolver.is_over(known.until)
        {
            if known.until <= now {
                known.until = now + STALE;
                *self.addresses.borrow_mut() = Some(known.clone());
                let pool = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    if let Err(error) = pool.look_up().await {
                        tracing::warn!(host = pool.origin.key().host, %error, "name not resolved");
                        *pool.addresses.borrow_mut() = None;
                    }
                });
            }
            return Ok(Rc::clone(&known.all));
        }
        self.look_up()
            .await
            .map_err(|source| UpstreamError::Resolve {
                host: self.origin.key().host.clone(),
                source,
            })
    }

    async fn look_up(&self) -> io::Result<Rc<[SocketAddr]>> {
        let key = self.origin.key();
        let resolved = self.resolver.resolve(&key.host).await?;
        // A weight of 0 in DNS means "little", not "none".
        let weight = |found: &Found| u64::from(found.weight.unwrap_or(1).max(1));
        let weights = resolved.found.iter().map(weight).enumerate();
        let turns = spread(&weights.collect::<Vec<_>>(), TURNS);
        let all: Rc<[SocketAddr]> = turns
            .into_iter()
            .filter_map(|place| resolved.found.get(place))
            .map(|found| {
                let port = found.port.filter(|port| *port != 0).unwrap_or(key.port);
                SocketAddr::new(found.address, port)
            })
            .collect();
        *self.addresses.borrow_mut() = Some(Addresses {
            all: Rc::clone(&all),
            until: resolved.until,
            lasting: resolved.until > monotonic(),
        });
        Ok(all)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("origin", self.origin.key())
            .finish_non_exhaustive()
    }
}

/// Whether an idle connection may be used: nothing has arrived on it, not even its end.
fn still_open(connection: &mut Connection) -> bool {
    let Connection { input, stream, .. } = connection;
    input.is_empty() && stream.is_silent(input)
}
