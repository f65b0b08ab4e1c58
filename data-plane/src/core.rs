//! What one core owns: its connections, timers, and the state of its filters. Nothing here is shared
//! with another core except the live configuration and what only operators read.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arc_swap::Cache;
use plugins::request_id::RequestId;
use plugins::sessions::revocations::Revocations;
use plugins::state::{CoreStates, NodeStates};
use shared::clock::{UnixTime, monotonic};
use shared::network::Network;
use shared::told::Told;
use tokio::sync::{Notify, mpsc, watch};
use uuid::Uuid;

use crate::access_log::AccessLog;
use crate::ask::Questions;
use crate::background::Work;
use crate::balancer::Balancers;
use crate::compile::CompiledSnapshot;
use crate::config_sync::Holds;
use crate::contact::Contact;
use crate::discovered::Discovered;
use crate::error::ErrorStyle;
use crate::expiring::Expiring;
use crate::limits::Limits;
use crate::listening::connections::Connections;
use crate::live::Live;
use crate::memory::{self, Memory};
use crate::metrics::Metrics;
use crate::pipeline::Signature;
use crate::quota::fair::Fair;
use crate::quota::{Share, Stock};
use crate::server::Date;
use crate::settings::PortMap;
use crate::timer::Timers;
use crate::trusted::{RealIp, TrustedPeers};
use crate::unstored::Unstored;
use crate::upstream::origins::Origins;
use crate::upstream::pool::Pools;
use crate::upstream::resolve::{DnsConfig, Resolver};

/// What the cores of one node share.
pub(crate) struct Node {
    /// Tells this run of the node from others, in what is shown to operators.
    pub(crate) id: String,
    pub(crate) live: Live,
    pub(crate) contact: Contact,
    /// What config sync holds for a successor while the process rests.
    pub(crate) holds: watch::Sender<Option<Holds>>,
    /// Whether the stream that speaks for the node stays until that of a successor takes its place.
    pub(crate) leaves: watch::Sender<bool>,
    pub(crate) questions: Questions,
    /// What the node's own core is to do.
    pub(crate) background: mpsc::UnboundedSender<Work>,
    pub(crate) expiring: Expiring,
    pub(crate) trusted: TrustedPeers,
    pub(crate) states: NodeStates,
    /// Which sessions are over before their time.
    pub(crate) revocations: Arc<Revocations>,
    /// What of that the control plane has yet to store.
    pub(crate) unstored: Arc<Unstored>,
    /// What OpenID providers last said of themselves.
    pub(crate) discovered: Arc<Discovered>,
    pub(crate) access_log: AccessLog,
    /// Of each core; whoever owns the core adds to its own and reads no other.
    pub(crate) metrics: Vec<Arc<Metrics>>,
    /// Whether the node takes no new work.
    pub(crate) draining: AtomicBool,
    /// Whether an operator has told balancers to send it none.
    pub(crate) withdrawn: AtomicBool,
    /// How long its exchanges may take to end then.
    pub(crate) drain: Duration,
    pub(crate) limits: Limits,
    pub(crate) connections: Arc<Connections>,
    /// Those of datagrams, whose senders are not proven: they take nothing away from the others.
    pub(crate) sessions: Arc<Connections>,
    /// Requests that may be under way.
    pub(crate) requests: Arc<Stock>,
    pub(crate) memory: Memory,
    /// What may be held for clients.
    pub(crate) held: Arc<Stock>,
    /// What the gateway tells of itself.
    pub(crate) told: Told,
    pub(crate) errors: ErrorStyle,
    /// Whether a request may ask which route it has met.
    pub(crate) debug: bool,
    /// Share of traces that are kept where a plugin says nothing of that.
    pub(crate) sampling_rate: f64,
    pub(crate) real_ip: RealIp,
    /// Which ports lead to those of the node.
    pub(crate) port_maps: Vec<PortMap>,
    /// Silence of the control plane after which the node asks for no new traffic.
    pub(crate) max_staleness: Option<Duration>,
    pub(crate) balancers: Arc<Balancers>,
    pub(crate) dns: DnsConfig,
    /// Networks that are not public and in which OpenID providers may be.
    pub(crate) provider_networks: Arc<[Network]>,
    /// Silence of the control plane after which sessions do not go on.
    pub(crate) sessions_max_silence: Option<Duration>,
    /// How many cores there are; at least one.
    pub(crate) workers: usize,
}

impl Node {
    /// The client at `address`, if what it has is counted: what comes from a trusted proxy is many clients'.
    pub(crate) fn counted(&self, address: IpAddr) -> Option<IpAddr> {
        (!self.trusted.contains(address)).then_some(address)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").finish_non_exhaustive()
    }
}

/// A snapshot as one core holds it, so that its exchanges count among themselves who needs it.
#[derive(Debug)]
pub(crate) struct Held(Arc<CompiledSnapshot>);

impl Deref for Held {
    type Target = CompiledSnapshot;

    fn deref(&self) -> &CompiledSnapshot {
        &self.0
    }
}

/// What one core owns.
pub(crate) struct Core {
    pub(crate) node: Arc<Node>,
    pub(crate) timers: Rc<Timers>,
    pub(crate) pools: Rc<Pools>,
    pub(crate) origins: Origins,
    pub(crate) resolver: Rc<Resolver>,
    /// Requests under way.
    pub(crate) requests: Rc<Share>,
    /// What is held for clients.
    pub(crate) held: Rc<Fair>,
    pub(crate) states: CoreStates,
    pub(crate) metrics: Arc<Metrics>,
    /// Whether the node waits no longer for what is under way.
    cut: Cell<bool>,
    /// Who waits for that.
    uncut: Notify,
    /// Who is told each time that memory is short.
    shortage: Notify,
    /// The newest snapshot that a request has begun with: while it is the live one, a request takes it
    /// from here, and touches no counter that other cores touch.
    snapshot: RefCell<Option<Rc<Held>>>,
    /// What tells whether it is: one comparison.
    live: RefCell<Cache<Live, Option<Arc<CompiledSnapshot>>>>,
    date: Date,
    /// What was told of the last answer.
    pub(crate) signature: RefCell<Signature>,
    identifiers: Cell<u64>,
    salt: u64,
}

impl Core {
    /// A core without connections, which counts in `metrics`. Call on its runtime.
    pub(crate) fn new(node: Arc<Node>, metrics: Arc<Metrics>) -> Rc<Self> {
        let timers = Rc::new(Timers::default());
        let resolver = Rc::new(Resolver::new(node.dns.clone()));
        let pools = Rc::new(Pools::new(
            Rc::clone(&timers),
            Rc::clone(&resolver),
            Arc::clone(&node.provider_networks),
            (node.limits.upstream_in_flight, node.workers),
            node.limits.keep_alive,
        ));
        tokio::task::spawn_local(Rc::clone(&timers).drive());
        tokio::task::spawn_local(Rc::clone(&pools).sweep());
        let (salt, start) = Uuid::new_v4().as_u64_pair();
        let requests = Rc::new(Share::of(Arc::clone(&node.requests)));
        let held = memory::room_of_core(Arc::clone(&node.held), node.workers);
        Rc::new(Self {
            live: RefCell::new(Cache::new(Arc::clone(&node.live))),
            node,
            timers,
            date: Date::default(),
            signature: RefCell::default(),
            pools,
            origins: Origins::default(),
            resolver,
            requests,
            held,
            states: CoreStates::default(),
            metrics,
            cut: Cell::new(false),
            uncut: Notify::new(),
            shortage: Notify::new(),
            snapshot: RefCell::default(),
            identifiers: Cell::new(start),
            salt,
        })
    }

    /// The live snapshot; none before the first.
    pub(crate) fn snapshot(&self) -> Option<Rc<Held>> {
        let mut live = self.live.borrow_mut();
        let live = live.load().as_ref()?;
        let mut kept = self.snapshot.borrow_mut();
        if let Some(kept) = kept.as_ref()
            && Arc::ptr_eq(&kept.0, live)
        {
            return Some(Rc::clone(kept));
        }
        self.origins.forget();
        let fresh = Rc::new(Held(Arc::clone(live)));
        *kept = Some(Rc::clone(&fresh));
        Some(fresh)
    }

    /// What memory is held for a client at `address`, and for the `service` that it wants, if one is known: none so far.
    pub(crate) fn hold(&self, address: IpAddr, service: Option<Uuid>) -> memory::Held {
        let client = self.node.counted(address);
        memory::Held::of(Rc::clone(&self.held), client, service)
    }

    /// Waits no longer for what is under way.
    pub(crate) fn cut_off(&self) {
        self.cut.set(true);
        self.uncut.notify_waiters();
    }

    /// Whether what ends now has been cut off.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.cut.get()
    }

    /// Waits until what is under way is cut off: for what has no end of its own.
    pub(crate) async fn until_cut_off(&self) {
        if !self.is_cut_off() {
            self.uncut.notified().await;
        }
    }

    /// Memory is short: whoever waits for it to be critical looks whether it is.
    pub(crate) fn memory_is_short(&self) {
        self.shortage.notify_waiters();
    }

    /// Waits until memory is so short that what has not begun is to end.
    pub(crate) async fn until_critical(&self) {
        loop {
            let told = self.shortage.notified();
            if self.node.memory.is_critical() {
                return;
            }
            told.await;
        }
    }

    /// The time for an answer's `Date`. A time of a moment ago spares a look at the clock.
    pub(crate) fn date(&self, moment: Option<Instant>) -> [u8; 29] {
        self.date
            .at(moment.unwrap_or_else(monotonic), UnixTime::now)
    }

    /// A name that no other exchange has.
    pub(crate) fn request_id(&self) -> RequestId {
        let number = self.identifiers.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.identifiers.set(number);
        let value = u128::from(mix(number ^ self.salt)) << 64 | u128::from(mix(number));
        RequestId::new(value)
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

/// The finalizer of `SplitMix64`: a bijection, so distinct numbers stay distinct.
const fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
