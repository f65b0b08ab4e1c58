//! Where each node is led: all to the newest, or, while a change is on its way through the fleet, some to
//! that and the others to what was before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::features::URGENT;
use shared::snapshot::{Position, Revision};

use crate::fleet::Introduction;
use crate::snapshot::Published;

/// Where nodes are led.
#[derive(Clone, Debug)]
pub struct Targets {
    newest: Arc<Published>,
    staged: Option<Arc<Staged>>,
    strays: Arc<Strays>,
}

/// By the revision that nodes run which cannot run what they are led to: that state, with the keys and revocations of
/// now. None where that state is not known any more.
pub(super) type Strays = BTreeMap<Revision, Option<Arc<Published>>>;

/// A change that not every node is to have yet.
#[derive(Debug)]
pub(super) struct Staged {
    /// The state with the change. None while nobody is to have one.
    pub(super) candidate: Option<Arc<Published>>,
    /// Who is given it.
    pub(super) members: BTreeSet<String>,
    /// What all others stay at. None if that is not known any more: then they are sent nothing.
    pub(super) kept: Option<Arc<Published>>,
}

impl Targets {
    pub(super) const fn new(
        newest: Arc<Published>,
        staged: Option<Arc<Staged>>,
        strays: Arc<Strays>,
    ) -> Self {
        Self {
            newest,
            staged,
            strays,
        }
    }

    /// Where a node is led that runs `running` and cannot run what it is to.
    pub(super) fn instead(&self, running: &Position) -> Option<&Arc<Published>> {
        let state = self.strays.get(&running.revision)?.as_ref();
        state.filter(|state| state.position.generation == running.generation)
    }

    /// The newest state.
    pub const fn newest(&self) -> &Arc<Published> {
        &self.newest
    }

    /// Where the node `name` is led that knows `features`.
    pub fn of(&self, name: &str, features: &BTreeSet<String>) -> Option<&Arc<Published>> {
        // A node of an earlier version cannot be held at a state without missing who was logged out.
        let Some(staged) = self.staged.as_ref().filter(|_| features.contains(URGENT)) else {
            return Some(&self.newest);
        };
        let candidate = staged.candidate.as_ref();
        let given = candidate.filter(|_| staged.members.contains(name));
        given.or(staged.kept.as_ref())
    }

    /// Whether `node` has what `revision` changed when it is at `position`: there, or at what came after it. A number alone
    /// says nothing: a store that was put back gives the same numbers to other states.
    pub fn has(&self, revision: Revision, node: &Introduction, position: &Position) -> bool {
        let newest = &self.newest.position;
        if position.generation != newest.generation || position.revision < revision {
            return false;
        }
        let target = self.position_of(node);
        if position.is_same(&target) || position.is_same(newest) {
            return true;
        }
        // What was published before is known by its content; so is what a node is held at with the keys of before.
        let is_past = if position.revision == target.revision {
            position.urgent < target.urgent
        } else {
            position.revision < newest.revision
        };
        is_past && self.newest.knows(&position.root)
    }

    /// Where a node is led, as far as that can be told.
    pub fn position_of(&self, node: &Introduction) -> Position {
        let target = self.of(&node.name, &node.features);
        target.unwrap_or(&self.newest).position
    }
}

/// What only tests do.
#[cfg(test)]
impl Targets {
    /// Every node is led to `newest`.
    pub(crate) fn all_to(newest: Arc<Published>) -> Self {
        Self::new(newest, None, Arc::default())
    }
}

impl PartialEq for Targets {
    /// Whether both lead every node to the same. What is published once is one value.
    fn eq(&self, other: &Self) -> bool {
        let newest = Arc::ptr_eq(&self.newest, &other.newest);
        let staged = match (&self.staged, &other.staged) {
            (None, None) => true,
            (Some(one), Some(two)) => {
                let pointer = |state: &Option<Arc<Published>>| state.as_ref().map(Arc::as_ptr);
                pointer(&one.kept) == pointer(&two.kept)
                    && pointer(&one.candidate) == pointer(&two.candidate)
                    && one.members == two.members
            }
            _ => false,
        };
        newest && staged && Arc::ptr_eq(&self.strays, &other.strays)
    }
}
