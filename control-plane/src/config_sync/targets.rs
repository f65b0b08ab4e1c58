//! Where each node is led: all to the newest, or, while a change is on its way through the fleet, some to
//! that and the others to what was before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::features::{BESIDE, URGENT};
use shared::snapshot::{Position, Revision};

use crate::fleet::{Introduction, Membership};
use crate::snapshot::Published;

/// Where nodes are led.
#[derive(Clone, Debug)]
pub struct Targets {
    newest: Arc<Published>,
    staged: Option<Arc<Staged>>,
    strays: Arc<Strays>,
}

/// By the revision that nodes run which cannot run what they are led to: that state, with the keys and revocations of
/// now. None where that state is not known any more: they are told of keys and revocations alone.
pub(super) type Strays = BTreeMap<Revision, Option<Arc<Published>>>;

/// A change that not every node is to have yet.
#[derive(Debug)]
pub(super) struct Staged {
    /// The state with the change. None while nobody is to have one.
    pub(super) candidate: Option<Arc<Published>>,
    /// Who is given it.
    pub(super) members: BTreeSet<String>,
    /// What all others stay at. None if that is not known any more: then they are told of keys and revocations alone.
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

    /// Whether nobody knows any more what a node holds that runs `running` and cannot run what it is to: it is led nowhere, and
    /// does not say that it has heard of keys.
    pub fn has_lost(&self, running: &Position) -> bool {
        matches!(self.strays.get(&running.revision), Some(None))
    }

    /// Whether the node `member` that runs `running`, and is led nowhere, may be soon. Where what it is held at is not in the
    /// history any more, or what it runs and cannot leave, or where that is of before a restore, it can be told of logouts and
    /// keys alone.
    pub(super) fn may_lead(&self, member: &Membership, running: &Position) -> bool {
        let is_held = self.of(member.name(), member.features()).is_some();
        let is_late = running.generation < self.newest.position.generation;
        let is_nowhere = !is_held || self.has_lost(running) || is_late;
        let has_nothing = *running == Position::default();
        !is_nowhere || has_nothing || !member.features().contains(BESIDE)
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

    /// The same of a revision that changed keys and revocations alone. These nodes have with whatever else they are led to.
    pub fn has_urgent(&self, revision: Revision, node: &Introduction, position: &Position) -> bool {
        let instead = self.instead(position).map(|state| state.position);
        let led = instead.unwrap_or_else(|| self.position_of(node));
        // Where these come faster than nodes answer, a node is led to more by the time that it has said what it has.
        let is_known = position.is_same(&led) || self.newest.knows(&position.root);
        let is_ours = position.generation == self.newest.position.generation && is_known;
        (is_ours && position.urgent >= revision) || self.has(revision, node, position)
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

    /// Nobody is given `newest`: every node stays at `kept`.
    pub(crate) fn all_held_at(newest: Arc<Published>, kept: Arc<Published>) -> Self {
        let staged = Staged {
            candidate: None,
            members: BTreeSet::new(),
            kept: Some(kept),
        };
        Self::new(newest, Some(Arc::new(staged)), Arc::default())
    }

    /// Every node is led to `newest`; who cannot run it and runs `revision`, nowhere.
    pub(crate) fn lacking_stray(newest: Arc<Published>, revision: Revision) -> Self {
        Self::new(newest, None, Arc::new(Strays::from([(revision, None)])))
    }

    /// Every node is led to `newest`; who cannot run it, to `kept` instead.
    pub(crate) fn giving_strays(newest: Arc<Published>, kept: Arc<Published>) -> Self {
        let strays = Strays::from([(kept.position.revision, Some(kept))]);
        Self::new(newest, None, Arc::new(strays))
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::snapshot::Key;
    use uuid::Uuid;

    use super::*;
    use crate::config::{Change, Config, Stored};
    use crate::fleet::tests::introduction;
    use crate::snapshot::{Follower, SharedSigner};

    fn with(config: &Config, kind: &'static str) -> Config {
        let id = Uuid::from_u128(1);
        let record = json!({ "id": id, "before": 5, "expires_at": 9 });
        let stored = Stored::of(record.as_object().unwrap());
        let change = Change {
            puts: vec![(Key { kind, id }, stored)],
            removes: Vec::new(),
        };
        config.evolve(&change, config.revision().next())
    }

    #[test]
    fn what_is_urgent_a_node_has_that_is_held_at_something_older() {
        let first = Config::default().evolve(&Change::default(), Revision(7));
        let mut follower = Follower::new(first.clone(), 1, SharedSigner::default());
        let base = Arc::clone(follower.newest());
        // Nobody is given this.
        let changed = with(&first, "services");
        follower.publish(changed.clone());
        let before = follower.hold(&base).position;
        let logged_out = with(&changed, "revocations");
        let newest = Arc::clone(follower.publish(logged_out.clone()));
        let kept = follower.hold(&base);
        let held = kept.position;
        let mut node = introduction("a", base.position);
        node.features.insert(URGENT.to_owned());
        let targets = Targets::all_held_at(Arc::clone(&newest), Arc::clone(&kept));
        let revision = Revision(9);
        assert!(!targets.has(revision, &node, &held));
        let elsewhere = Position {
            root: [9; 32],
            ..held
        };
        for (position, revision, has) in [
            (held, revision, true),
            (newest.position, revision, true),
            (before, revision, false),
            (elsewhere, revision, false),
            (held, Revision(10), false),
        ] {
            assert_eq!(
                targets.has_urgent(revision, &node, &position),
                has,
                "{position:?}"
            );
        }
        // One that cannot run what it is led to is given them with what it runs.
        let targets = Targets::giving_strays(newest, kept);
        assert!(!targets.has(revision, &node, &held));
        assert!(targets.has_urgent(revision, &node, &held));
        assert!(!targets.has_urgent(revision, &node, &before));
        // Somebody else is logged out before it has answered.
        let newest = Arc::clone(follower.publish(with(&logged_out, "session_keys")));
        let kept = follower.hold(&base);
        assert!(!held.is_same(&kept.position));
        let targets = Targets::all_held_at(newest, kept);
        for (position, revision, has) in [
            (held, revision, true),
            (held, Revision(10), false),
            (elsewhere, revision, false),
            (before, revision, false),
        ] {
            assert_eq!(
                targets.has_urgent(revision, &node, &position),
                has,
                "{position:?}"
            );
        }
    }
}
