//! How far the nodes are with a revision.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use shared::clock::UnixTime;
use shared::snapshot::{Position, Revision};

use super::{Fleet, Introduction, Row};

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

impl Fleet {
    /// How far the connected nodes are with the first of `revisions` of `generation`, or one after it. A node that runs
    /// something else, such as a revision after the last that is known, waits.
    pub fn progress_of(&self, generation: u64, revisions: RangeInclusive<Revision>) -> Progress {
        let among = |position: &Position| {
            position.generation == generation && revisions.contains(&position.revision)
        };
        let mut progress = Progress::default();
        let nodes = self.nodes();
        for row in nodes.rows().into_iter().filter(|row| row.connected) {
            let refused = row
                .last_refusal
                .as_ref()
                .is_some_and(|refusal| among(&refusal.position));
            let list = if row.contested {
                // Another machine answers for it, too, and may be anywhere.
                &mut progress.waiting
            } else if among(&row.running) {
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

    /// Whether a node that has been heard within `window` does not run yet what it is led to.
    pub fn is_behind(
        &self,
        target: impl Fn(&Introduction) -> Position,
        window: Duration,
        now: UnixTime,
    ) -> bool {
        let nodes = self.nodes();
        let lives = |row: &&Row| now.saturating_since(row.last_seen) < window;
        let behind = |row: &Row| target(&row.introduction).is_after(&row.running);
        nodes.rows().into_iter().filter(lives).any(behind)
    }
}
