//! How far the nodes are with a revision.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::features::URGENT;
use shared::clock::UnixTime;
use shared::snapshot::{Position, Revision};

use super::{Fleet, Introduction, Row};

/// Most states that nodes which cannot run the newest are led at.
const STRAYS: usize = 16;

/// How far the connected nodes are with a revision, by name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// Those that serve it.
    pub serving: Vec<String>,
    /// Those that refused it.
    pub refused: Vec<String>,
    /// Those that have not answered yet.
    pub waiting: Vec<String>,
}

impl Introduction {
    /// The common name in its certificate.
    fn certificate_name(&self) -> String {
        let of_group = self.group.as_deref().map(shared::tls::group_name);
        of_group.unwrap_or_else(|| self.name.clone())
    }
}

impl Fleet {
    /// How far the connected nodes are with a change. `has` says whether a node has it at a position; one that is elsewhere,
    /// such as at a revision that is not known here, waits.
    pub fn progress_of(&self, has: impl Fn(&Introduction, &Position) -> bool) -> Progress {
        self.progress(has, |_, _| true)
    }

    /// The same of a change of keys and revocations alone: who has refused what came with it is given it with what it runs,
    /// unless that `is_lost`: a state of which nobody knows any more what it holds.
    pub fn urgent_progress_of(
        &self,
        has: impl Fn(&Introduction, &Position) -> bool,
        is_lost: impl Fn(&Position) -> bool,
    ) -> Progress {
        self.progress(has, |row, refused| {
            let is_given = row.is_stray(refused.generation) && !is_lost(&row.running);
            !is_given || row.is_at(refused)
        })
    }

    /// `is_final` says whether a node that has refused a position will not have what comes with it.
    fn progress(
        &self,
        has: impl Fn(&Introduction, &Position) -> bool,
        is_final: impl Fn(&Row, &Position) -> bool,
    ) -> Progress {
        let mut progress = Progress::default();
        let nodes = self.nodes();
        for row in nodes.rows().into_iter().filter(|row| row.connected) {
            let has = |position: &Position| has(&row.introduction, position);
            let refused = row
                .last_refusal
                .as_ref()
                .is_some_and(|refusal| has(&refusal.position) && is_final(row, &refusal.position));
            let list = if row.contested {
                // Another machine answers for it, too, and may be anywhere.
                &mut progress.waiting
            } else if has(&row.running) {
                &mut progress.serving
            } else if refused {
                &mut progress.refused
            } else {
                &mut progress.waiting
            };
            list.push(row.introduction.name.clone());
        }
        progress
    }

    /// The names of the connected nodes.
    pub fn connected(&self) -> BTreeSet<String> {
        let nodes = self.nodes();
        let rows = nodes.rows().into_iter().filter(|row| row.connected);
        rows.map(|row| row.introduction.name.clone()).collect()
    }

    /// Those of `names` that no certificate of a node has which is known; none while no node is.
    pub fn unknown_among<'a>(&self, names: &'a [String]) -> Vec<&'a str> {
        let nodes = self.nodes();
        let rows = nodes.rows();
        let known = rows.iter().map(|row| row.introduction.certificate_name());
        let known: BTreeSet<String> = known.collect();
        let is_unknown = |name: &&str| !known.is_empty() && !known.contains(*name);
        names
            .iter()
            .map(String::as_str)
            .filter(is_unknown)
            .collect()
    }

    /// Those of `names` whose streams have ended without their having said that they stop.
    pub fn lost(&self, names: &BTreeSet<String>) -> Vec<String> {
        let nodes = self.nodes();
        let lost = |row: &&Row| {
            !row.connected && !row.report.draining && names.contains(&row.introduction.name)
        };
        let rows = nodes.rows().into_iter().filter(lost);
        rows.map(|row| row.introduction.name.clone()).collect()
    }

    /// The connected nodes that have refused `revision`, or one after it, last.
    pub fn refusing(&self, revision: Revision) -> Vec<String> {
        let nodes = self.nodes();
        let refused = |row: &&Row| {
            let last = row.last_refusal.as_ref();
            row.connected && last.is_some_and(|last| last.position.revision >= revision)
        };
        let rows = nodes.rows().into_iter().filter(refused);
        rows.map(|row| row.introduction.name.clone()).collect()
    }

    /// Whether a node that has been heard within `window` lacks keys of what it is led to.
    pub fn is_behind(
        &self,
        target: impl Fn(&Introduction) -> Position,
        window: Duration,
        now: UnixTime,
    ) -> bool {
        let nodes = self.nodes();
        let lives = |row: &&Row| now.saturating_since(row.last_seen) < window;
        // A node that cannot run the newest is given its keys all the same.
        let keys_of = |one: &Position| (one.generation, one.revision.max(one.urgent));
        let behind = |row: &Row| {
            let target = target(&row.introduction);
            target.is_after(&row.running) && keys_of(&target) > keys_of(&row.running)
        };
        nodes.rows().into_iter().filter(lives).any(behind)
    }

    /// What nodes of `generation` run that are connected here and cannot be led to the newest: they have refused it, or
    /// crashed with it, or do not know all of it. These are to hear of keys and revocations all the same.
    pub fn strays(&self, generation: u64) -> BTreeSet<Revision> {
        let nodes = self.nodes();
        let here = nodes.here.values().map(|node| &node.row);
        let strays = here.filter(|row| row.is_stray(generation));
        let strays = strays.map(|row| row.running.revision);
        let strays: BTreeSet<Revision> = strays.collect();
        strays.into_iter().rev().take(STRAYS).collect()
    }
}

impl Row {
    /// Whether it is connected, runs what is of `generation` and cannot be led to the newest, for all that is known, but can be
    /// given the keys and revocations of now with what it runs.
    fn is_stray(&self, generation: u64) -> bool {
        let running = &self.running;
        let refused = self.last_refusal.iter().map(|refusal| &refusal.position);
        let mut shunned = refused.chain(&self.introduction.quarantined);
        self.connected
            && running.generation == generation
            && self.introduction.features.contains(URGENT)
            && (!self.missing.is_empty() || shunned.any(|position| position.is_after(running)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::tests::{at, introduction};

    #[test]
    fn names_that_no_known_node_has_are_told_of() {
        let fleet = Fleet::default();
        let names = ["node-1", "NODE-1", "*.pods", "pods", "web.pods"].map(str::to_owned);
        // A cluster that begins.
        assert!(fleet.unknown_among(&names).is_empty());
        let now = UnixTime::from_secs(1_000);
        let (node, _) = fleet.join(introduction("a", at(1)), now).unwrap();
        let of_group = Introduction {
            name: "web.pods".to_owned(),
            group: Some("pods".to_owned()),
            ..introduction("b", at(1))
        };
        let _member = fleet.join(of_group, now).unwrap();
        // One that is away is known.
        drop(node);
        assert_eq!(fleet.unknown_among(&names), ["NODE-1", "pods", "web.pods"]);
    }
}
