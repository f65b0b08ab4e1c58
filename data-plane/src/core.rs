//! What one core owns: its connections, timers, and the state of its filters. Nothing here is shared
//! with another core except the live configuration and what only operators read.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use plugins::state::{CoreStates, NodeStates};

use crate::access_log::AccessLog;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::timer::Timers;
use crate::trusted::TrustedPeers;
use crate::upstream::pool::Pools;

/// What the cores of one node share.
pub(crate) struct Node {
    pub(crate) live: Live,
    pub(crate) trusted: TrustedPeers,
    pub(crate) states: NodeStates,
    pub(crate) access_log: AccessLog,
    pub(crate) metrics: Metrics,
}

/// What one core owns.
pub(crate) struct Core {
    pub(crate) node: Arc<Node>,
    pub(crate) pools: Rc<Pools>,
    pub(crate) states: CoreStates,
    identifiers: Cell<u64>,
    salt: u64,
}

impl Core {
    /// A core without connections. Call on its runtime.
    pub(crate) fn new(node: Arc<Node>) -> Rc<Self> {
        let timers = Rc::new(Timers::default());
        let pools = Rc::new(Pools::new(Rc::clone(&timers)));
        tokio::task::spawn_local(timers.drive());
        tokio::task::spawn_local(Rc::clone(&pools).sweep());
        let (salt, start) = uuid::Uuid::new_v4().as_u64_pair();
        Rc::new(Self {
            node,
            pools,
            states: CoreStates::default(),
            identifiers: Cell::new(start),
            salt,
        })
    }

    /// 32 hexadecimal digits that no other exchange has. They name an exchange and protect nothing.
    pub(crate) fn request_id(&self) -> String {
        let number = self.identifiers.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.identifiers.set(number);
        format!("{:016x}{:016x}", mix(number ^ self.salt), mix(number))
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
