//! Spreads the requests to one upstream over its targets (Kong 3.9, load balancing).
//!
//! ```text
//! CompiledUpstream ─► Balancer ─► Table: addresses with weights, wheel, ring ─► pick ─► Lease
//!    (per snapshot)      │                                                        │
//!                        └─► Peers: health, requests in flight, latency  ◄────────┘ reports
//!                              (by address; outlive the snapshot)
//! ```
//!
//! All cores of a node share a balancer, so that the turn goes round among all requests of the node, and
//! what one core learns of a target all know.

pub(crate) mod check;
pub(crate) mod hash;
pub(crate) mod marks;
mod peer;
pub(crate) mod report;
pub(crate) mod show;
mod table;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod unhealthy;
pub(crate) mod watch;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use http::StatusCode;
use shared::clock::{UnixTime, monotonic};
use shared::entity::{Algorithm, Revocation};
use tokio::sync::Notify;
use uuid::Uuid;

pub(crate) use self::peer::{Event, Judgement, Peer, PeerKey, Thresholds};
pub(crate) use self::table::spread;
use self::table::{Entry, Table};
use crate::compile::upstreams::CompiledUpstream;
use crate::upstream::resolve::{Found, Resolver};

/// How long what is known of an address outlives the target list that it was in.
const REMEMBERED: Duration = Duration::from_mins(5);

/// The balancers of a node, by upstream.
#[derive(Debug, Default)]
pub(crate) struct Balancers {
    all: Mutex<HashMap<Uuid, Arc<Balancer>>>,
    turned: Arc<Turned>,
}

/// Told of what changes of targets.
#[derive(Debug, Default)]
struct Turned {
    /// Whose health, and which upstreams' names, have been found to have changed since somebody has last asked.
    found: Mutex<HashSet<Changed>>,
    finds: Notify,
    said: Notify,
}

/// What changes of an upstream's targets.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Changed {
    /// The health of the peer of this number.
    Health(u64),
    /// Where the names of the upstream lead.
    Names(Uuid),
}

/// Why there is something to be told of targets.
#[derive(Debug, PartialEq)]
pub(crate) enum Turn {
    /// An operator has said so.
    Said,
    /// It was found of these.
    Found(HashSet<Changed>),
}

/// Most changes that are told apart; what there is more of is in the same report, and may be news once more.
const CHANGES: usize = 10_000;

impl Turned {
    fn find(&self, changed: Changed) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.len() < CHANGES {
            found.insert(changed);
        }
        drop(found);
        self.finds.notify_one();
    }

    fn take(&self) -> HashSet<Changed> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *found)
    }
}

impl Balancers {
    /// Waits until something has changed of what is told of targets: their health, or where their names lead.
    pub(crate) async fn turned(&self) -> Turn {
        loop {
            tokio::select! {
                biased;
                () = self.turned.said.notified() => return Turn::Said,
                () = self.turned.finds.notified() => {
                    let found = self.turned.take();
                    // It has gone with the one before, unless there is something.
                    if !found.is_empty() {
                        return Turn::Found(found);
                    }
                }
            }
        }
    }

    /// How many addresses are not healthy.
    pub(crate) fn unhealthy(&self) -> usize {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let ill = all.values().map(|balancer| {
            let table = balancer.table();
            let entries = table.entries.iter();
            entries.filter(|entry| !entry.peer.is_healthy()).count()
        });
        ill.sum()
    }

    /// The balancers for `upstreams`, in their order. One whose upstream has not changed stays; one whose
    /// has keeps what it knows of its addresses.
    pub(crate) fn attach(&self, upstreams: &[Arc<CompiledUpstream>]) -> Vec<Arc<Balancer>> {
        let mut known = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let attached: Vec<Arc<Balancer>> = upstreams
            .iter()
            .map(|config| match known.get(&config.id) {
                Some(balancer) if balancer.config == *config => Arc::clone(balancer),
                Some(before) => {
                    before.peers.follow(before.config.checked, config.checked);
                    Arc::new(Balancer::new(
                        Arc::clone(config),
                        Arc::clone(&before.peers),
                        Arc::clone(&before.position),
                    ))
                }
                None => Arc::new(Balancer::new(
                    Arc::clone(config),
                    Arc::new(Peers::new(Arc::clone(&self.turned))),
                    Arc::default(),
                )),
            })
            .collect();
        *known = attached
            .iter()
            .map(|balancer| (balancer.config.id, Arc::clone(balancer)))
            .collect();
        attached
    }
}

/// What is known of an upstream's addresses.
#[derive(Debug)]
struct Peers {
    all: Mutex<HashMap<PeerKey, (Arc<Peer>, LastSeen)>>,
    /// Grows whenever the health of any changes.
    version: AtomicU64,
    /// Whether all checks have been switched off.
    unchecked: AtomicBool,
    /// What operators have said of those that are not known yet, by its id.
    said: Mutex<HashMap<Uuid, Revocation>>,
    /// See [`Balancers::turned`].
    turned: Arc<Turned>,
}

/// When a peer was last in a target list; none before the first time.
type LastSeen = Option<Instant>;

/// Chooses among the addresses of one upstream.
#[derive(Debug)]
pub(crate) struct Balancer {
    pub(crate) config: Arc<CompiledUpstream>,
    peers: Arc<Peers>,
    table: ArcSwap<Table>,
    /// Whose turn it is.
    position: Arc<AtomicUsize>,
    /// Set once every target's name has been looked up.
    resolved: tokio::sync::OnceCell<()>,
}

/// None of the targets may be asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct NoPeer;

impl Balancer {
    fn new(config: Arc<CompiledUpstream>, peers: Arc<Peers>, position: Arc<AtomicUsize>) -> Self {
        let balancer = Self {
            config,
            peers,
            table: ArcSwap::default(),
            position,
            resolved: tokio::sync::OnceCell::new(),
        };
        let mut entries = Vec::new();
        for (number, target) in balancer.config.targets.iter().enumerate() {
            if let Some(address) = target.address {
                entries.push(balancer.entry(number, &address.into()));
            }
        }
        balancer.install(entries, Vec::new());
        balancer
    }

    /// Whether a target is a name, whose addresses may change.
    pub(crate) fn has_names(&self) -> bool {
        self.config
            .targets
            .iter()
            .any(|target| target.address.is_none() && target.weight > 0)
    }

    /// Waits until every target's name has been looked up once.
    pub(crate) async fn ready(&self, resolver: &Resolver) {
        if self.has_names() {
            self.resolved
                .get_or_init(|| async {
                    self.resolve(resolver).await;
                })
                .await;
        }
    }

    /// Looks up the targets' names. Says when to do it again.
    pub(crate) async fn resolve(&self, resolver: &Resolver) -> Instant {
        let mut next = monotonic() + Duration::from_mins(1);
        let mut entries = Vec::new();
        let mut failed = Vec::new();
        for (number, target) in self.config.targets.iter().enumerate() {
            if let Some(address) = target.address {
                entries.push(self.entry(number, &address.into()));
                continue;
            }
            match resolver.resolve(&target.host).await {
                Ok(answer) => {
                    next = next.min(answer.until);
                    for found in &answer.found {
                        entries.push(self.entry(number, found));
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        upstream = self.config.name,
                        target = target.host,
                        %error,
                        "the name of a target is not resolved"
                    );
                    next = next.min(monotonic() + Duration::from_secs(5));
                    failed.push(number);
                }
            }
        }
        self.install(entries, failed);
        marks::catch_up(self, UnixTime::now());
        // A TTL of nothing must not make us ask without a pause.
        next.max(monotonic() + Duration::from_secs(1))
    }

    fn entry(&self, target: usize, found: &Found) -> Entry {
        let (own, own_port, own_weight) = match self.config.targets.get(target) {
            Some(target) => (target.host.as_str(), target.port, target.weight),
            None => ("", 0, 0),
        };
        let name = found.name.as_deref().filter(|_| self.config.use_srv_name);
        let key = PeerKey {
            address: found.address,
            port: found.port.filter(|port| *port != 0).unwrap_or(own_port),
            host: name.unwrap_or(own).to_owned(),
        };
        let weight = match found.weight {
            // A weight of 0 in DNS means "little", not "none".
            Some(weight) if own_weight > 0 => weight.max(1),
            _ => own_weight,
        };
        Entry {
            peer: self.peers.of(key),
            weight: u32::from(weight),
            target,
        }
    }

    fn install(&self, entries: Vec<Entry>, failed: Vec<usize>) {
        let version = self.peers.version.load(Ordering::Acquire);
        self.peers.forget();
        let average = table::average_latency(&entries);
        for entry in &entries {
            entry.peer.latency.begin_at(average);
        }
        let table = Arc::new(Table::new(&self.config, entries, failed, version));
        let before = self.table.swap(Arc::clone(&table));
        if self.has_names() && !before.leads_as(&table) {
            self.peers.turned.find(Changed::Names(self.config.id));
        }
    }

    /// What is chosen from, as of now; looked at where it is, so that no core's count of it is in another's way.
    pub(crate) fn table(&self) -> Guard<Arc<Table>> {
        let table = self.table.load();
        let version = self.peers.version.load(Ordering::Acquire);
        if table.version == version {
            return table;
        }
        // Somebody's health has changed. Several cores may do this at once, with the same result.
        let fresh = Arc::new(table.renewed(&self.config, version));
        self.table.store(Arc::clone(&fresh));
        Guard::from_inner(fresh)
    }

    /// Chooses a peer for a request that hashes to `hash`; one that is not in `tried`, if there is any.
    pub(crate) fn pick(
        self: &Arc<Self>,
        hash: Option<u32>,
        tried: &[Arc<Peer>],
    ) -> Result<Lease, NoPeer> {
        let table = self.table();
        if !table.healthy {
            return Err(NoPeer);
        }
        let fresh = |peer: &Arc<Peer>| !tried.iter().any(|known| Arc::ptr_eq(known, peer));
        let chosen = match (self.config.algorithm, hash) {
            (Algorithm::ConsistentHashing, Some(hash)) => table
                .on_ring(hash, fresh)
                .or_else(|| table.on_ring(hash, |_| true)),
            (Algorithm::LeastConnections, _) => {
                let turn = self.turn();
                table
                    .least_busy(turn, fresh)
                    .or_else(|| table.least_busy(turn, |_| true))
            }
            (Algorithm::Latency, _) => {
                let turn = self.turn();
                table
                    .fastest(turn, fresh)
                    .or_else(|| table.fastest(turn, |_| true))
            }
            (Algorithm::RoundRobin | Algorithm::ConsistentHashing, _) => table
                .next(|| self.turn(), fresh)
                .or_else(|| table.next(|| self.turn(), |_| true)),
        };
        chosen
            .map(|peer| Lease::new(Arc::clone(self), peer))
            .ok_or(NoPeer)
    }

    fn turn(&self) -> usize {
        self.position.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes what has become of a request to `peer`, or of a check.
    pub(crate) fn report(&self, peer: &Peer, event: Event, thresholds: &Thresholds) {
        if let Some(healthy) = peer.report(event, thresholds) {
            // It may have begun while there were checks.
            let is_late = self.peers.unchecked.load(Ordering::Relaxed) && peer.forgets_checks();
            self.peers.found(peer);
            if is_late {
                return;
            }
            let (upstream, host) = (&self.config.name, &peer.key.host);
            let (address, port) = (peer.key.address, peer.key.port);
            tracing::warn!(upstream, host, %address, port, healthy, "the health of a target has changed");
        }
    }

    /// Sets the health of a peer by hand.
    pub(crate) fn set_health(&self, peer: &Peer, healthy: bool) {
        peer.set_health(healthy);
        self.peers.version.fetch_add(1, Ordering::AcqRel);
        self.peers.turned.said.notify_one();
    }
}

impl Peers {
    fn new(turned: Arc<Turned>) -> Self {
        Self {
            all: Mutex::default(),
            version: AtomicU64::new(0),
            unchecked: AtomicBool::new(false),
            said: Mutex::default(),
            turned,
        }
    }

    /// What checks have found ends with them, if there `were` any and `are` none: nothing would take it back.
    fn follow(&self, were: bool, are: bool) {
        if are || were {
            self.unchecked.store(!are, Ordering::Relaxed);
        }
        if are || !were {
            return;
        }
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for (peer, _) in all.values() {
            if peer.forgets_checks() {
                self.found(peer);
            }
        }
    }

    /// The health of `peer` has been found to have changed.
    fn found(&self, peer: &Peer) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.turned.find(Changed::Health(peer.number));
    }

    fn of(&self, key: PeerKey) -> Arc<Peer> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let (peer, seen) = all
            .entry(key.clone())
            .or_insert_with(|| (Arc::new(Peer::new(key)), None));
        *seen = Some(monotonic());
        Arc::clone(peer)
    }

    /// What belongs to `key` is not healthy, as was known before this process began: as an operator has said, or a check has found.
    fn begin_unhealthy(&self, key: PeerKey, by_hand: bool) {
        let peer = self.of(key);
        peer.begins_unhealthy(by_hand);
        self.found(&peer);
    }

    /// All that are known, also those that no list names any more.
    fn known(&self) -> Vec<Arc<Peer>> {
        self.forget();
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|(peer, _)| Arc::clone(peer)).collect()
    }

    /// Drops what nobody holds, and no list has named for long.
    fn forget(&self) {
        let now = monotonic();
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (peer, seen)| {
            Arc::strong_count(peer) > 1
                || seen.is_some_and(|seen| now.saturating_duration_since(seen) < REMEMBERED)
        });
    }
}

/// A request in flight to one peer. It counts as such until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    balancer: Arc<Balancer>,
    pub(crate) peer: Arc<Peer>,
    since: Instant,
}

impl Lease {
    fn new(balancer: Arc<Balancer>, peer: Arc<Peer>) -> Self {
        peer.busy.fetch_add(1, Ordering::Relaxed);
        Self {
            balancer,
            peer,
            since: monotonic(),
        }
    }

    /// Forgets who was tried once everybody was: further attempts go round once more. Whether that is so now.
    pub(crate) fn start_over(&self, tried: &mut Vec<Arc<Peer>>) -> bool {
        let was_tried = tried.iter().any(|known| Arc::ptr_eq(known, &self.peer));
        if was_tried {
            tried.clear();
        }
        was_tried
    }

    /// The peer has answered with `status`.
    pub(crate) fn answered(&self, status: StatusCode) {
        if self.balancer.config.algorithm == Algorithm::Latency {
            self.peer.latency.observe(self.since, monotonic());
        }
        let passive = &self.balancer.config.passive;
        let event = if status == StatusCode::GATEWAY_TIMEOUT {
            Some(Event::Timeout)
        } else {
            passive.judge(status)
        };
        self.report(event);
    }

    /// No connection to the peer came about, or it broke.
    pub(crate) fn failed(&self) {
        self.report(Some(Event::TcpFailure));
    }

    /// The peer has kept the request waiting for too long.
    pub(crate) fn timed_out(&self) {
        self.report(Some(Event::Timeout));
    }

    /// The peer gives no answer to a request, which has waited for it until now.
    pub(crate) fn unanswered(&self) {
        if self.balancer.config.algorithm == Algorithm::Latency {
            self.peer.latency.observe_failure(self.since, monotonic());
        }
    }

    fn report(&self, event: Option<Event>) {
        if let Some(event) = event {
            let thresholds = &self.balancer.config.passive.thresholds;
            self.balancer.report(&self.peer, event, thresholds);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.peer.busy.fetch_sub(1, Ordering::Relaxed);
    }
}
