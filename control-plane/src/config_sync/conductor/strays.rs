//! What nodes are led to that cannot run what they are to: what they run, with the keys and revocations of now.

use std::collections::BTreeSet;
use std::sync::Arc;

use shared::snapshot::Revision;
use shared::telemetry::chain;

use super::Conductor;
use super::keeping::Past;
use crate::config_sync::targets::Strays;

/// Leads nodes that stray. Reads as much history as there is from where they are, which nobody else is to wait for: it works
/// on what was published when it was made.
#[derive(Debug)]
pub(crate) struct Leading {
    past: Past,
    known: Arc<Strays>,
}

impl Leading {
    /// The states at `revisions`, for those who run them.
    pub(crate) fn lead(self, revisions: &BTreeSet<Revision>) -> Strays {
        let mut strays = Strays::new();
        let newest = self.past.newest().position.revision;
        for &revision in revisions.range(..newest) {
            let known = self.known.get(&revision).cloned();
            let state = match known.map_or_else(|| self.past.state_at(revision), Ok) {
                Ok(state) => state,
                // The next turn reads it again.
                Err(error) => {
                    tracing::error!(%revision, error = %chain(&error), "nodes that run this are sent no keys yet");
                    continue;
                }
            };
            strays.insert(revision, state.map(|state| self.past.hold(&state)));
        }
        strays
    }
}

impl Conductor {
    /// What leads nodes that stray.
    pub(crate) fn leading(&self) -> Leading {
        Leading {
            past: self.past(),
            known: Arc::clone(&self.strays),
        }
    }

    /// Has the states in `strays` ready for those who run them.
    pub(crate) fn take_strays(&mut self, strays: Strays) {
        let pointers = |strays: &Strays| {
            let each = strays.iter();
            let each = each.map(|(at, state)| (*at, state.as_ref().map(Arc::as_ptr)));
            each.collect::<Vec<_>>()
        };
        if pointers(&strays) != pointers(&self.strays) {
            self.strays = Arc::new(strays);
        }
    }

    /// Whether there are states for nodes that stray.
    pub(crate) fn leads_strays(&self) -> bool {
        !self.strays.is_empty()
    }
}
