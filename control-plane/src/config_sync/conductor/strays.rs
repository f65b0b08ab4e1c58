//! What nodes are led to that cannot run what they are to: what they run, with the keys and revocations of now.

use std::collections::BTreeSet;
use std::sync::Arc;

use shared::snapshot::Revision;
use shared::telemetry::chain;

use super::Conductor;
use crate::config_sync::targets::Strays;

impl Conductor {
    /// Has the states at `revisions` ready for those who run them.
    pub(crate) fn lead_strays(&mut self, revisions: &BTreeSet<Revision>) {
        let mut strays = Strays::new();
        let newest = self.newest().position.revision;
        for &revision in revisions.range(..newest) {
            let known = self.strays.get(&revision).cloned();
            let state = match known.map_or_else(|| self.state_at(revision), Ok) {
                Ok(state) => state,
                // The next turn reads it again.
                Err(error) => {
                    tracing::error!(%revision, error = %chain(&error), "nodes that run this are sent no keys yet");
                    continue;
                }
            };
            strays.insert(revision, state.map(|state| self.follower.hold(&state)));
        }
        let pointers = |strays: &Strays| {
            let each = strays.iter();
            let each = each.map(|(at, state)| (*at, state.as_ref().map(Arc::as_ptr)));
            each.collect::<Vec<_>>()
        };
        if pointers(&strays) != pointers(&self.strays) {
            self.strays = Arc::new(strays);
        }
    }
}
