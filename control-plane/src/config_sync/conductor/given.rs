//! Who is first to have what takes the place of another change.

use shared::clock::UnixTime;
use shared::snapshot::Revision;

use super::Conductor;
use crate::fleet::View;
use crate::rollout::{GONE, Rollout, State};

impl Conductor {
    /// What a roll-out takes the place of that begins after `from`.
    pub(super) fn replaced(&self, from: Revision) -> Option<&Rollout> {
        let last = self.journal.rollouts.first();
        last.filter(|last| last.state == State::Superseded && last.to > from)
    }

    /// The nodes that what begins after `from` goes to first of all: those that have what it takes the place of or, if there are none,
    /// one that has crashed with that. Otherwise each that follows would harm one more, and leave those before with what harms them.
    /// Who is gone is not waited for.
    pub(super) fn given(&self, from: Revision, nodes: &[View], now: UnixTime) -> Vec<String> {
        let Some(to) = self.replaced(from).map(|replaced| replaced.to) else {
            return Vec::new();
        };
        let is_of_it = |revision: Revision| from < revision && revision <= to;
        let comes = |node: &&View| {
            let is_gone = !node.connected && now.saturating_since(node.last_seen) >= GONE;
            !is_gone && !node.draining && !node.blocked
        };
        let runs = |node: &&View| is_of_it(node.running.revision);
        let has_crashed = |node: &&View| node.quarantined.iter().copied().any(is_of_it);
        let name = |node: &View| node.name.clone();
        let there = || nodes.iter().filter(comes);
        let given: Vec<String> = there().filter(runs).map(name).collect();
        if given.is_empty() {
            return there().filter(has_crashed).take(1).map(name).collect();
        }
        given
    }
}
