//! The connections of one core, and the addresses that they lead to.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use shared::clock::monotonic;
use shared::network::Network;
use tokio::net::TcpStream;

use super::exchange::Phase;
use super::http2::Shared;
use super::origin::{Origin, OriginKey};
use super::resolve::{Found, Resolver};
use super::retries::Retries;
use super::{Connection, UpstreamError};
use crate::balancer::spread;
use crate::buffers::Input;
use crate::http1::head::HeadFinder;
use crate::http1::writer::Writer;
use crate::limits::KeepAlive;
use crate::quota::fair::{Fair, Place};
use crate::stream::{Corked, Stream};
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
            exchanges: Fair::of(origin.exchanges(self.limit.0, self.limit.1), self.limit.1),
            retries: Retries::default(),
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
                        connection.input.give_back();
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
    exchanges: Fair,
    pub(crate) retries: Retries,
}

struct Addresses {
    /// In the order of their turns, each as often as its weight says.
    all: Rc<[SocketAddr]>,
    until: Instant,
    /// Whether they were to last for any time when they were found.
    lasting: bool,
}

impl Pool {
    /// Begins an exchange, if one more may be under way; also of those of its `client`, where that is counted, who is asked
    /// for only where room is scarce.
    pub(crate) fn enter(&self, client: impl FnOnce() -> Option<IpAddr>) -> Option<Place> {
        self.exchanges.take(client)
    }

    /// An idle connection that is still open, as far as the system has told us, to the address whose turn it is for a
    /// request that those in `failed` have failed.
    pub(crate) fn take(
        self: &Rc<Self>,
        now: Instant,
        failed: &[SocketAddr],
    ) -> Option<Box<Connection>> {
        if self.has_address() {
            return self.take_idle(now, None);
        }
        let addresses = self.known(now)?;
        self.take_due(now, &addresses, failed)
    }

    fn take_due(
        &self,
        now: Instant,
        addresses: &[SocketAddr],
        failed: &[SocketAddr],
    ) -> Option<Box<Connection>> {
        let taken = self.take_idle(now, Some(self.due(addresses, failed)?))?;
        self.pass();
        Some(taken)
    }

    /// An idle connection `to` an address, or to any.
    fn take_idle(&self, now: Instant, to: Option<SocketAddr>) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let mut connection = match to {
                None => idle.pop()?,
                Some(address) => {
                    let place = idle.iter().rposition(|kept| kept.address == address)?;
                    idle.remove(place)
                }
            };
            let until = connection.idle_since.checked_add(self.keep_alive.idle);
            if until.is_none_or(|until| now < until) && still_open(&mut connection) {
                connection.idle_since = now;
                return Some(connection);
            }
        }
    }

    /// Whether the origin is an address, and no name.
    pub(super) fn has_address(&self) -> bool {
        self.origin.address().is_some()
    }

    /// Whose turn it is among `addresses`; of those that have `failed` the request only if all have.
    pub(super) fn due(
        &self,
        addresses: &[SocketAddr],
        failed: &[SocketAddr],
    ) -> Option<SocketAddr> {
        let others = self
            .in_turn(addresses)
            .find(|address| !failed.contains(address));
        others.or_else(|| self.in_turn(addresses).next())
    }

    /// All of them, from the one whose turn it is.
    fn in_turn(&self, addresses: &[SocketAddr]) -> impl Iterator<Item = SocketAddr> {
        let turn = self.turn.get().checked_rem(addresses.len()).unwrap_or(0);
        let (before, from) = addresses.split_at(turn);
        from.iter().chain(before).copied()
    }

    /// Which server is most likely asked next, for a request that those in `failed` have failed.
    pub(crate) fn next(&self, failed: &[SocketAddr]) -> Option<SocketAddr> {
        let OriginKey { port, .. } = self.origin.key();
        match self.origin.address() {
            Some(address) => Some(SocketAddr::new(address, *port)),
            None => self.due(&self.addresses.borrow().as_ref()?.all, failed),
        }
    }

    /// Ends a turn.
    pub(super) fn pass(&self) {
        self.turn.set(self.turn.get().wrapping_add(1));
    }

    /// Takes back a connection whose exchange has ended cleanly, at `now`.
    pub(crate) fn give_back(&self, mut connection: Box<Connection>, now: Instant) {
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
        connection.idle_since = now;
        self.used.set(now);
        idle.push(connection);
    }

    /// A new connection, by way of any of the origin's addresses; or an idle one, with `true`, to an address that
    /// had to be looked up, unless it is to be `fresh`. Those that have `failed` the request come last.
    pub(crate) async fn connect(
        self: &Rc<Self>,
        limit: Duration,
        fresh: bool,
        failed: &[SocketAddr],
    ) -> Result<(Box<Connection>, bool), UpstreamError> {
        let reach = async {
            let addresses = self.resolve().await?;
            if !fresh
                && !self.has_address()
                && let Some(idle) = self.take_due(monotonic(), &addresses, failed)
            {
                return Ok(Ok(idle));
            }
            self.dial(&addresses, failed).await.map(Err)
        };
        let timer = self.timers.timer();
        let reached = timer.limit(limit, reach).await;
        let (stream, address) = match reached.unwrap_or(Err(UpstreamError::ConnectTimeout))? {
            Ok(idle) => return Ok((idle, true)),
            Err(made) => made,
        };
        let connection = Connection {
            stream,
            address,
            input: Input::default(),
            output: Writer::default(),
            timer,
            phase: Phase::Idle,
            finder: HeadFinder::default(),
            informational: 0,
            served: 0,
            idle_since: monotonic(),
        };
        Ok((Box::new(connection), false))
    }

    /// Connects to any of the origin's addresses. The server has all of a handshake: it may be the first to speak.
    pub(crate) async fn open(self: &Rc<Self>) -> Result<Stream, UpstreamError> {
        let addresses = self.resolve().await?;
        let (mut stream, _) = self.dial(&addresses, &[]).await?;
        poll_fn(|cx| stream.poll_push(cx))
            .await
            .map_err(UpstreamError::Send)?;
        Ok(stream)
    }

    /// Connects to the one of `addresses` whose turn it is, or to the next that takes a connection; to those that have `failed` the
    /// request only if no other does.
    pub(super) async fn dial(
        &self,
        addresses: &[SocketAddr],
        failed: &[SocketAddr],
    ) -> Result<(Stream, SocketAddr), UpstreamError> {
        let mut failure = UpstreamError::Resolve {
            host: self.origin.key().host.clone(),
            source: io::Error::new(io::ErrorKind::NotFound, "no address"),
        };
        let reach = self.origin.key().reach;
        let mut open: Vec<SocketAddr> = Vec::new();
        for address in self.in_turn(addresses) {
            // Of the very address that is connected to: what a name led to before does not count.
            if !reach.allows(address.ip(), &self.permitted) {
                failure = UpstreamError::Forbidden {
                    address: address.ip(),
                };
            } else if !open.contains(&address) {
                open.push(address);
            }
        }
        self.pass();
        open.sort_by_key(|address| failed.contains(address));
        let mut open = open.into_iter().peekable();
        while let Some(address) = open.next() {
            match fetch::dial(address, reach, open.peek().is_some()).await {
                Ok(stream) => {
                    let stream = self.secure(address, stream).await?;
                    return Ok((stream, address));
                }
                Err(source) => failure = UpstreamError::Connect { address, source },
            }
        }
        Err(failure)
    }

    /// The next of the origin's addresses, for what needs no connection.
    pub(crate) async fn address(self: &Rc<Self>) -> Result<SocketAddr, UpstreamError> {
        let addresses = self.resolve().await?;
        let due = self.due(&addresses, &[]);
        self.pass();
        due.ok_or_else(|| UpstreamError::Resolve {
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
        let outcome = tls
            .profile
            .connector(self.origin.key().http2)
            .connect(
                tls.server_name.clone(),
                Corked::new(stream, BytesMut::new()),
            )
            .into_fallible()
            .await;
        Stream::secured(outcome)
            .await
            .map_err(|source| UpstreamError::Tls { address, source })
    }

    /// The origin's addresses, from memory where possible.
    pub(super) async fn resolve(self: &Rc<Self>) -> Result<Rc<[SocketAddr]>, UpstreamError> {
        let port = self.origin.key().port;
        if let Some(address) = self.origin.address() {
            return Ok(Rc::new([SocketAddr::new(address, port)]));
        }
        if let Some(known) = self.known(monotonic()) {
            return Ok(known);
        }
        self.look_up()
            .await
            .map_err(|source| UpstreamError::Resolve {
                host: self.origin.key().host.clone(),
                source,
            })
    }

    /// What the origin's name led to when it was looked up last. What has just expired is still good for the requests
    /// that come while it is looked up anew.
    fn known(self: &Rc<Self>, now: Instant) -> Option<Rc<[SocketAddr]>> {
        let mut remembered = self.addresses.borrow_mut();
        let known = remembered.as_mut().filter(|known| known.lasting)?;
        if known.until <= now {
            if self.resolver.is_over(known.until) {
                return None;
            }
            known.until = now + STALE;
            let pool = Rc::clone(self);
            tokio::task::spawn_local(async move {
                if let Err(error) = pool.look_up().await {
                    tracing::warn!(host = pool.origin.key().host, %error, "name not resolved");
                    *pool.addresses.borrow_mut() = None;
                }
            });
        }
        Some(Rc::clone(&known.all))
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
