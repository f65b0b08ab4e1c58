//! Who is first to have what takes the place of another change.

use shared::clock::UnixTime;
use shared::snapshot::Revision;

use super::Conductor;
use crate::fleet::View;
use crate::rollout::{LATELY, State};

impl Conductor {
    /// The nodes that what begins after `from` goes to first of all: those that have what it takes the place of, or have crashed with
    /// that. Otherwise each that follows would harm one more, and leave those before with what harms them. Who does not come back
    /// is not waited for.
    pub(super) fn given(&self, from: Revision, nodes: &[View], now: UnixTime) -> Vec<String> {
        let replaced = self.journal.rollouts.first();
        let replaced = replaced.filter(|one| one.state == State::Superseded && one.to > from);
        let Some(to) = replaced.map(|replaced| replaced.to) else {
            return Vec::new();
        };
        let is_of_it = |revision: Revision| from < revision && revision <= to;
        let generation = self.journal.generation;
        let has = |node: &&View| {
            let runs = node.running.generation == generation && is_of_it(node.running.revision);
            runs || node.quarantined.iter().copied().any(is_of_it)
        };
        let comes = |node: &&View| {
            let is_away = now.saturating_since(node.last_seen) >= LATELY;
            (node.connected || !is_away) && !node.draining && !node.blocked
        };
        let names = nodes.iter().filter(has).filter(comes);
        names.map(|node| node.name.clone()).collect()
    }
}
