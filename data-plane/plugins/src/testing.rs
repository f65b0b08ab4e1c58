//! Support for unit tests: a host whose clock, randomness and network the test controls.

mod answer;
mod cores;
mod reply;
mod request;
mod values;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use futures::executor::{LocalPool, LocalSpawner};
use futures::future::LocalBoxFuture;
use shared::clock::{Ahead, UnixTime};
use shared::entity::Revocation;
use shared::secret::Secret;

pub(crate) use self::answer::{Answer, answer_of};
use self::cores::OfCore;
pub(crate) use self::reply::{Replied, left, log_of, logged, reply_of, unrouted};
pub(crate) use self::request::{Request, glance};
pub(crate) use self::values::{consumer, key_ring, session_key};
use crate::client_keys::ClientKeys;
use crate::host::ldap::{LdapError, LdapServer};
use crate::host::redis::{Command, RedisError, RedisServer, Reply};
use crate::host::sink::{Sink, SinkError};
use crate::host::{
    Claim, FetchError, FetchLimits, Host, LONGEST_ASIDE, LONGEST_RESULT, Number, RevokeError, Work,
};
use crate::sessions::revocations::Revocations;
use crate::state::NodeStates;

/// When tests begin.
pub(crate) const START: UnixTime = UnixTime::from_secs(1_800_000_000);

/// Answers what a filter fetches.
pub(crate) type Network =
    dyn Fn(&http::Request<Bytes>) -> Result<http::Response<Bytes>, FetchError>;

/// Answers what a filter asks of Redis.
pub(crate) type RedisFake = dyn Fn(&[Command]) -> Result<Vec<Reply>, RedisError>;

/// Says whether a directory takes a password for that of a name.
pub(crate) type LdapFake = dyn Fn(&LdapServer, &str, &str) -> Result<bool, LdapError>;

/// One core of a node.
#[derive(Clone)]
pub(crate) struct FakeHost(Rc<Inner>, Rc<OfCore>);

struct Inner {
    now: Cell<UnixTime>,
    ahead: Cell<Ahead>,
    drawn: Cell<u64>,
    node: Arc<NodeStates>,
    revocations: Revocations,
    /// Whether a control plane takes revocations.
    stores: Cell<bool>,
    /// How often revocations are taken still.
    room: Cell<Option<usize>>,
    memory: Cell<Option<usize>>,
    stored: RefCell<Vec<Revocation>>,
    /// What is to be sent on once one does.
    unstored: RefCell<Vec<Revocation>>,
    network: RefCell<Option<Rc<Network>>>,
    redis: RefCell<Option<Rc<RedisFake>>>,
    redis_asked: RefCell<Vec<Arc<RedisServer>>>,
    redis_takes: Cell<Duration>,
    ldap: RefCell<Option<Rc<LdapFake>>>,
    written: RefCell<Vec<(Sink, Bytes)>>,
    hangs: Cell<bool>,
    /// How long a control plane takes to keep what is put aside.
    keeps_after: Cell<Duration>,
    client_keys: RefCell<Arc<ClientKeys>>,
    limits: RefCell<Vec<(String, FetchLimits)>>,
    sleepers: RefCell<Vec<(UnixTime, Waker)>>,
    pool: RefCell<Option<LocalPool>>,
    spawner: LocalSpawner,
    cluster: RefCell<Option<Rc<Landed>>>,
    /// What comes of each claim, if not what the others have told.
    claim: RefCell<Option<Claim>>,
    disk: RefCell<Rc<Landed>>,
}

/// What nodes have told one another by way of a control plane.
pub(crate) type Landed = RefCell<HashMap<[u8; 32], Vec<u8>>>;

impl Default for FakeHost {
    fn default() -> Self {
        Self::on_node(Arc::default(), 0)
    }
}

impl FakeHost {
    /// A core of a node of its own; `seed` sets its randomness apart from that of others.
    pub(crate) fn on_node(node: Arc<NodeStates>, seed: u64) -> Self {
        let pool = LocalPool::new();
        let inner = Inner {
            now: Cell::new(START),
            ahead: Cell::default(),
            drawn: Cell::new(seed << 32),
            node,
            revocations: Revocations::default(),
            stores: Cell::new(true),
            room: Cell::default(),
            memory: Cell::default(),
            stored: RefCell::default(),
            unstored: RefCell::default(),
            network: RefCell::default(),
            redis: RefCell::default(),
            redis_asked: RefCell::default(),
            redis_takes: Cell::default(),
            ldap: RefCell::default(),
            written: RefCell::default(),
            hangs: Cell::default(),
            keeps_after: Cell::default(),
            client_keys: RefCell::default(),
            limits: RefCell::default(),
            sleepers: RefCell::default(),
            spawner: pool.spawner(),
            pool: RefCell::new(Some(pool)),
            cluster: RefCell::default(),
            claim: RefCell::default(),
            disk: RefCell::default(),
        };
        Self(Rc::new(inner), Rc::default())
    }

    /// Lets the node hear of the others that know of `cluster`.
    pub(crate) fn join(&self, cluster: &Rc<Landed>) {
        *self.0.cluster.borrow_mut() = Some(Rc::clone(cluster));
    }

    /// Lets a control plane take so long to keep what is put aside.
    pub(crate) fn keeps_after(&self, duration: Duration) {
        self.0.keeps_after.set(duration);
    }

    /// Lets this come of each claim, whatever the others have told.
    pub(crate) fn claims(&self, claim: impl Into<Option<Claim>>) {
        *self.0.claim.borrow_mut() = claim.into();
    }

    pub(crate) fn node_states(&self) -> Arc<NodeStates> {
        Arc::clone(&self.0.node)
    }

    /// Lets the node keep on `disk` what is to be there after a restart.
    pub(crate) fn keep_on(&self, disk: &Rc<Landed>) {
        self.0.disk.replace(Rc::clone(disk));
    }

    pub(crate) fn connect(&self, network: Rc<Network>) {
        *self.0.network.borrow_mut() = Some(network);
    }

    /// Puts a Redis server behind the host.
    pub(crate) fn connect_redis(&self, redis: Rc<RedisFake>) {
        *self.0.redis.borrow_mut() = Some(redis);
    }

    /// The Redis servers that were asked, in order.
    pub(crate) fn redis_asked(&self) -> Vec<Arc<RedisServer>> {
        self.0.redis_asked.borrow().clone()
    }

    /// Puts an LDAP server behind the host.
    pub(crate) fn connect_ldap(&self, ldap: Rc<LdapFake>) {
        *self.0.ldap.borrow_mut() = Some(ldap);
    }

    /// What was written to the places of logs so far.
    pub(crate) fn written(&self) -> Vec<(Sink, Bytes)> {
        self.0.written.borrow().clone()
    }

    pub(crate) fn advance(&self, seconds: f64) {
        let now = self.0.now.get();
        self.0
            .now
            .set(now.saturating_add(Duration::from_secs_f64(seconds)));
    }

    /// Gives the gateway keys and certificates.
    pub(crate) fn equip(&self, keys: ClientKeys) {
        *self.0.client_keys.borrow_mut() = Arc::new(keys);
    }

    /// What the last fetch was allowed.
    pub(crate) fn last_limits(&self) -> FetchLimits {
        let all = self.all_limits();
        all.last().expect("something was fetched").1.clone()
    }

    /// What each fetch was allowed, by its path.
    pub(crate) fn all_limits(&self) -> Vec<(String, FetchLimits)> {
        self.0.limits.borrow().clone()
    }

    /// Lets the network take everything and give nothing.
    pub(crate) fn hang(&self, hangs: bool) {
        self.0.hangs.set(hangs);
    }

    /// Whether a control plane takes revocations. The first thing that it hears is what could not be stored before.
    pub(crate) fn store(&self, stores: bool) {
        self.0.stores.set(stores);
        if stores {
            let mut unstored = self.0.unstored.borrow_mut();
            self.0.stored.borrow_mut().append(&mut unstored);
        }
    }

    /// Lets the node take revocations in so many times more; as often as they come, if that is not said.
    pub(crate) fn has_room(&self, left: impl Into<Option<usize>>) {
        self.0.room.set(left.into());
    }

    /// Lets the node keep so many bytes of one kind at most of what is only a help.
    pub(crate) fn has_memory(&self, bytes: usize) {
        self.0.memory.set(Some(bytes));
    }

    /// How many revocations a control plane has taken.
    pub(crate) fn stored(&self) -> usize {
        self.0.stored.borrow().len()
    }

    /// The newest revocation that a control plane has taken.
    pub(crate) fn last_stored(&self) -> Option<Revocation> {
        self.0.stored.borrow().last().copied()
    }

    /// Sets the wall clock to one that differs from the cluster's by `seconds`, and is known to.
    pub(crate) fn set_ahead(&self, seconds: i64) {
        let ahead = Ahead::from_millis(seconds * 1000);
        let true_time = self.0.ahead.get().behind(self.now());
        self.0.ahead.set(ahead);
        self.0
            .now
            .set(Ahead::from_millis(-ahead.as_millis()).behind(true_time));
    }

    /// The control plane's clock is behind the wall clock by `seconds`, which is right.
    pub(crate) fn mislead(&self, seconds: i64) {
        self.0.ahead.set(Ahead::from_millis(seconds * 1000));
    }

    pub(crate) fn set_clock(&self, now: UnixTime) {
        self.0.now.set(now);
    }

    /// Runs `future` to its end, and what it spawned as far as it comes. When all that is left to do
    /// is to wait, the clock goes on to when somebody wakes.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut pool = self.0.pool.borrow_mut().take().expect("runs do not nest");
        let mut future = std::pin::pin!(future);
        let mut idle = 0;
        let result = pool.run_until(std::future::poll_fn(|context| {
            let polled = future.as_mut().poll(context);
            if polled.is_pending() {
                idle += 1;
                // Between two polls, all that is spawned runs as far as it comes.
                if idle % 100 == 0 {
                    self.wake_next();
                }
                context.waker().wake_by_ref();
            }
            polled
        }));
        pool.run_until_stalled();
        *self.0.pool.borrow_mut() = Some(pool);
        result
    }
}

impl FakeHost {
    /// Lets time pass until the first sleeper wakes.
    fn wake_next(&self) {
        let mut sleepers = self.0.sleepers.borrow_mut();
        let now = self.now();
        let next = sleepers.iter().map(|(until, _)| *until).min();
        self.0.now.set(next.map_or(now, |next| next.max(now)));
        let now = self.now();
        for (until, waker) in sleepers.iter() {
            if *until <= now {
                waker.wake_by_ref();
            }
        }
        sleepers.retain(|(until, _)| *until > now);
    }
}

impl Host for FakeHost {
    fn read_definition(&self, path: &str) -> Result<String, String> {
        crate::transcoding::tests::read(path)
    }

    async fn fetch(
        &self,
        request: http::Request<Bytes>,
        limits: FetchLimits,
    ) -> Result<http::Response<Bytes>, FetchError> {
        let path = request.uri().path().to_owned();
        self.0.limits.borrow_mut().push((path, limits.clone()));
        if self.0.hangs.get() {
            self.sleep(limits.timeout).await;
            return Err(FetchError::Timeout {
                authority: "idp.example:443".to_owned(),
                timeout: limits.timeout,
            });
        }
        others_run().await;
        let network = self.0.network.borrow().clone();
        match network {
            Some(network) => network(&request),
            None => Err(FetchError::Connect {
                authority: "nowhere".to_owned(),
                reason: "there is no network".to_owned(),
            }),
        }
    }

    async fn redis(
        &self,
        server: &Arc<RedisServer>,
        commands: Vec<Command>,
    ) -> Result<Vec<Reply>, RedisError> {
        self.0.redis_asked.borrow_mut().push(Arc::clone(server));
        self.sleep(self.0.redis_takes.get()).await;
        let redis = self.0.redis.borrow().clone();
        match redis {
            Some(redis) => redis(&commands),
            None => Err(RedisError::Connect {
                address: format!("{:?}", server.endpoint),
                reason: "there is no Redis".to_owned(),
            }),
        }
    }

    async fn bind(
        &self,
        server: &LdapServer,
        name: &str,
        password: &Secret<String>,
    ) -> Result<bool, LdapError> {
        let ldap = self.0.ldap.borrow().clone();
        match ldap {
            Some(ldap) => ldap(server, name, password.expose()),
            None => Err(LdapError::Connect {
                address: server.host.clone(),
                reason: "there is no LDAP".to_owned(),
            }),
        }
    }

    async fn write(&self, sink: &Sink, bytes: Bytes) -> Result<(), SinkError> {
        self.0.written.borrow_mut().push((sink.clone(), bytes));
        Ok(())
    }

    fn kept(&self, key: &[u8; 32]) -> Option<Bytes> {
        let kept = self.0.disk.borrow().borrow().get(key).cloned();
        kept.map(Bytes::from)
    }

    fn keep(&self, key: [u8; 32], value: Bytes) {
        self.0.disk.borrow().borrow_mut().insert(key, value.into());
    }

    fn now(&self) -> UnixTime {
        self.0.now.get()
    }

    fn node_id(&self) -> &'static str {
        "node-1"
    }

    fn client_keys(&self) -> Arc<ClientKeys> {
        Arc::clone(&self.0.client_keys.borrow())
    }

    fn ahead(&self) -> Ahead {
        self.0.ahead.get()
    }

    fn random(&self, buffer: &mut [u8]) {
        let drawn = self.0.drawn.get() + 1;
        self.0.drawn.set(drawn);
        blake3::Hasher::new()
            .update(&drawn.to_be_bytes())
            .finalize_xof()
            .fill(buffer);
    }

    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        self.1.spawn(&self.0.spawner, task);
    }

    fn spawn_on_node(&self, task: impl FnOnce(Self) -> LocalBoxFuture<'static, ()>) {
        let core = self.beside();
        core.spawn(task(core.clone()));
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.now().saturating_add(duration);
        std::future::poll_fn(|context| {
            if self.now() >= until {
                return std::task::Poll::Ready(());
            }
            let sleeper = (until, context.waker().clone());
            self.0.sleepers.borrow_mut().push(sleeper);
            std::task::Poll::Pending
        })
        .await;
    }

    fn core_state<T: Default + 'static>(&self) -> Rc<T> {
        self.1.states.of()
    }

    fn node_state<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        self.0.node.of()
    }

    fn room(&self, most: usize) -> usize {
        self.0.memory.get().map_or(most, |memory| most.min(memory))
    }

    fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    async fn claim(&self, key: [u8; 32], _: Work) -> Claim {
        if let Some(claim) = self.0.claim.borrow().clone() {
            return claim;
        }
        let cluster = self.0.cluster.borrow().clone();
        let ours = Claim::Ours(Number::default());
        cluster.map_or(ours.clone(), |cluster| {
            let landed = cluster.borrow().get(&key).cloned();
            landed.map_or(ours, Claim::Theirs)
        })
    }

    fn publish(&self, key: [u8; 32], _: Number, sealed: Option<Vec<u8>>) {
        if let (Some(cluster), Some(sealed)) = (&*self.0.cluster.borrow(), sealed) {
            assert!(
                sealed.len() <= LONGEST_RESULT,
                "the control plane takes no more"
            );
            cluster.borrow_mut().insert(key, sealed);
        }
    }

    async fn put_aside(&self, key: [u8; 32], sealed: Vec<u8>) {
        let cluster = self.0.cluster.borrow().clone();
        self.sleep(self.0.keeps_after.get()).await;
        if let Some(cluster) = cluster {
            assert!(
                sealed.len() <= LONGEST_ASIDE,
                "the control plane takes no more"
            );
            cluster.borrow_mut().insert(key, sealed);
        }
    }

    async fn take_aside(&self, key: [u8; 32]) -> Option<Vec<u8>> {
        let cluster = self.0.cluster.borrow().clone();
        cluster?.borrow_mut().remove(&key)
    }

    fn forget_aside(&self, key: [u8; 32]) {
        if let Some(cluster) = &*self.0.cluster.borrow() {
            cluster.borrow_mut().remove(&key);
        }
    }

    async fn revoke(&self, revocations: Vec<Revocation>) -> Result<(), RevokeError> {
        let known = &self.0.revocations;
        match self.0.room.get() {
            Some(0) => return Err(RevokeError::Full),
            room => self.0.room.set(room.map(|room| room - 1)),
        }
        if !known.add_own(revocations.iter().copied(), self.now()) {
            return Err(RevokeError::Full);
        }
        others_run().await;
        if self.0.stores.get() {
            self.0.stored.borrow_mut().extend(revocations);
            Ok(())
        } else {
            self.0.unstored.borrow_mut().extend(revocations);
            Err(RevokeError::NotStored)
        }
    }
}

/// An answer never comes at once: whoever else wants to run, does.
async fn others_run() {
    let mut waited = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}
