//! What a process that has been suspended for its successor holds for that one.

use std::sync::Arc;

use prost::Message as _;
use shared::snapshot::Snapshot;

use super::Applier;
use crate::config_sync::vouched::Vouched;

/// What this node runs, as it came.
#[derive(Clone, Default)]
pub(crate) struct Holds {
    /// The configuration, and who vouched for it, if anybody has.
    pub(crate) kept: Option<(Arc<Snapshot>, Vouched)>,
    /// Session keys that came beside an update, as they came; empty without such.
    pub(crate) keys: Vec<u8>,
}

impl Applier {
    /// What runs.
    pub(in super::super) fn holds(&self) -> Holds {
        let keys = self.told.as_ref().map(|told| told.came().encode_to_vec());
        Holds {
            kept: self.running.clone().zip(self.vouched.clone()),
            keys: keys.unwrap_or_default(),
        }
    }
}
