//! Which state is published for whom: carries out what `rollout::step` says.
//!
//! Everything here happens on one thread at a time. What it decides is on disk before a node learns of it.

use std::path::PathBuf;
use std::sync::Arc;

use shared::clock::UnixTime;
use shared::snapshot::Revision;

use super::rollouts::{Order, OrderError};
use super::targets::{Staged, Targets};
use crate::config::Config;
use crate::difference::Difference;
use crate::fleet::View;
use crate::publisher::Publisher;
use crate::rollout::{Action, Journal, JournalError, Plan, Rollout, State, step};
use crate::snapshot::{Follower, Published};

/// Revisions that need no roll-out, after which the file is written again: the history that it needs is
/// not kept for ever.
const UNWRITTEN: u64 = 100;

/// How roll-outs go, and where they are kept.
#[derive(Clone, Debug)]
pub struct Staging {
    /// How they go; none: every change goes to every node at once.
    pub plan: Option<Plan>,
    /// The file.
    pub path: PathBuf,
}

/// Publishes each state, to whom it is due.
#[derive(Debug)]
pub(super) struct Conductor {
    follower: Follower,
    staging: Staging,
    journal: Journal,
    /// What the file holds.
    written: Journal,
    /// What every node is led to that has not been given the change under way.
    kept: Option<Arc<Published>>,
    /// The state with the change under way.
    candidate: Option<Arc<Published>>,
}

impl Conductor {
    /// Goes on where the file says that it was.
    pub(super) fn new(
        follower: Follower,
        staging: Staging,
        publisher: &Publisher,
        now: UnixTime,
    ) -> Result<Self, JournalError> {
        let newest = Arc::clone(follower.newest());
        let generation = publisher.generation();
        let known = if staging.plan.is_some() {
            Journal::read(&staging.path)?
        } else {
            Journal::forget(&staging.path)?;
            None
        };
        let known = known.filter(|journal| {
            journal.generation == generation && journal.released <= newest.position.revision
        });
        let mut conductor = Self {
            follower,
            staging,
            journal: Journal {
                generation,
                released: newest.position.revision,
                rollouts: Vec::new(),
            },
            written: Journal::default(),
            kept: Some(newest),
            candidate: None,
        };
        if let Some(journal) = known {
            conductor.restore(journal, publisher, now);
        }
        conductor.arrange(now);
        conductor.save()?;
        Ok(conductor)
    }

    fn restore(&mut self, journal: Journal, publisher: &Publisher, now: UnixTime) {
        self.journal = journal;
        self.kept = self.state_at(self.journal.released, publisher);
        if self.kept.is_none() {
            tracing::error!(
                revision = %self.journal.released,
                "the state that nodes are held at is not in the history any more; those that are not given \
                 the newest are sent nothing"
            );
        }
        let Some(to) = self.journal.open().map(|rollout| rollout.to) else {
            return;
        };
        self.candidate = self.state_at(to, publisher);
        let found = self.candidate.is_some();
        if let Some(rollout) = self.journal.open_mut() {
            if found {
                // Nodes come back in a moment; nobody is gone because this process was.
                rollout.serving_since = None;
                rollout
                    .members
                    .values_mut()
                    .for_each(|node| node.since = now);
            } else {
                rollout.end(State::Superseded, None, now);
            }
        }
    }

    fn state_at(&self, revision: Revision, publisher: &Publisher) -> Option<Arc<Published>> {
        let newest = self.follower.newest();
        if revision == newest.position.revision {
            return Some(Arc::clone(newest));
        }
        let config = newest.config();
        let difference = Difference::between(publisher.history(), config.revision(), revision);
        match difference {
            Ok(Some(difference)) => {
                let past = config.evolve(&difference.change(config), revision);
                Some(self.follower.held_at(past))
            }
            Ok(None) => None,
            Err(error) => {
                tracing::error!(%error, "history not read");
                None
            }
        }
    }

    /// What was published last.
    pub(super) const fn newest(&self) -> &Arc<Published> {
        self.follower.newest()
    }

    /// The roll-outs.
    pub(super) const fn journal(&self) -> &Journal {
        &self.journal
    }

    /// How roll-outs go, unless every change goes to every node at once.
    pub(super) const fn plan(&self) -> Option<&Plan> {
        self.staging.plan.as_ref()
    }

    /// Whether there is something that time or nodes may change.
    pub(super) fn is_conducting(&self) -> bool {
        self.journal.open().is_some()
    }

    /// Where each node is led now.
    pub(super) fn targets(&self) -> Targets {
        let open = self.journal.open().zip(self.candidate.as_ref());
        let staged = open.map(|(rollout, candidate)| {
            Arc::new(Staged {
                candidate: Arc::clone(candidate),
                members: rollout.members.keys().cloned().collect(),
                kept: self.kept.clone(),
            })
        });
        Targets::new(Arc::clone(self.newest()), staged)
    }

    /// Publishes `config`.
    pub(super) fn publish(&mut self, config: Config, now: UnixTime) {
        self.follower.publish(config);
        self.arrange(now);
    }

    /// Whether there is more than the change under way.
    fn is_newer(&self) -> bool {
        let newest = self.newest().position.root;
        let candidate = self.candidate.as_ref().map(|one| self.follower.hold(one));
        candidate.is_none_or(|candidate| candidate.position.root != newest)
    }

    /// Ends the roll-out under way: what it led to is not led to any more.
    fn end(&mut self, state: State, now: UnixTime) {
        if let Some(rollout) = self.journal.open_mut() {
            tracing::info!(revision = %rollout.to, ?state, "the roll-out ended");
            rollout.end(state, None, now);
        }
        self.candidate = None;
    }

    /// Brings what nodes are led to in line with what is published.
    fn arrange(&mut self, now: UnixTime) {
        let newest = Arc::clone(self.newest());
        if self.staging.plan.is_none() {
            self.kept = Some(newest);
            return;
        }
        let follower = &self.follower;
        let hold = |state: Option<Arc<Published>>| state.map(|state| follower.hold(&state));
        self.kept = hold(self.kept.take());
        self.candidate = hold(self.candidate.take());
        let kept = self.kept.as_ref();
        if kept.is_some_and(|kept| kept.position.root == newest.position.root) {
            // Nothing is new but the number, or what was new has been undone.
            let state = self.journal.open().map(|rollout| rollout.state);
            if let Some(state) = state {
                let undone = if state == State::Halted {
                    State::RolledBack
                } else {
                    State::Superseded
                };
                self.end(undone, now);
            }
            self.journal.released = newest.position.revision;
            self.kept = Some(newest);
            return;
        }
        let halted = self.journal.open().map(|rollout| rollout.state) == Some(State::Halted);
        // What comes after a change that went wrong may be what mends it.
        if halted && self.is_newer() {
            self.end(State::Superseded, now);
        }
        if self.journal.open().is_none() {
            let (from, to) = (self.journal.released, newest.position.revision);
            tracing::info!(%from, revision = %to, "a roll-out begins");
            self.journal.begin(Rollout::new(from, to, now));
            self.candidate = Some(newest);
        }
    }

    /// Does what is to be done, as `nodes` do at `now`.
    pub(super) fn conduct(&mut self, nodes: &[View], now: UnixTime) {
        let Some(plan) = self.staging.plan else {
            return;
        };
        // Each action leads on, and none is repeated.
        while let Some(rollout) = self.journal.open_mut() {
            let action = step(rollout, &plan, nodes, now);
            rollout.apply(&action, nodes, now);
            let to = rollout.to;
            match action {
                Action::Wait => return,
                Action::Watch => {}
                Action::Admit(stage, names) => {
                    tracing::info!(revision = %to, ?stage, nodes = names.join(", "), "rolled out further");
                }
                Action::Complete => self.release(now),
                Action::Halt(reason) => {
                    tracing::error!(revision = %to, reason, "the roll-out is halted");
                    if self.is_newer() {
                        self.end(State::Superseded, now);
                        self.arrange(now);
                    } else if let Some(rollout) = self.journal.open_mut() {
                        rollout.rolls_back = plan.rollback;
                        return;
                    }
                }
            }
        }
    }

    /// Leads every node to the change under way.
    fn release(&mut self, now: UnixTime) {
        if let Some(candidate) = self.candidate.take() {
            tracing::info!(revision = %candidate.position.revision, "rolled out");
            self.journal.released = candidate.position.revision;
            self.kept = Some(candidate);
        }
        self.arrange(now);
    }

    /// Carries out what an operator wants.
    pub(super) fn order(
        &mut self,
        id: Revision,
        order: Order,
        now: UnixTime,
    ) -> Result<(), OrderError> {
        let known = self.journal.rollouts.iter().any(|rollout| rollout.to == id);
        let open = self.journal.open_mut().filter(|rollout| rollout.to == id);
        let Some(rollout) = open else {
            return Err(if known {
                OrderError::Ended
            } else {
                OrderError::Unknown
            });
        };
        match (order, rollout.state) {
            (Order::Halt | Order::RollBack, State::Running) => {
                let reason = "an operator halted it".to_owned();
                rollout.end(State::Halted, Some(reason), now);
                rollout.rolls_back = order == Order::RollBack;
            }
            (Order::Halt, _) => rollout.rolls_back = false,
            (Order::RollBack, _) => rollout.rolls_back = true,
            (Order::Resume, State::Halted) => rollout.resume(now),
            (Order::Resume, _) => {}
            (Order::Release, _) => {
                rollout.apply(&Action::Complete, &[], now);
                self.release(now);
            }
        }
        Ok(())
    }

    /// The state to go back to, if that is due, and the one to go back from.
    pub(super) fn rollback(&self) -> Option<(Revision, Revision)> {
        let rollout = self.journal.open()?;
        let due = rollout.state == State::Halted && rollout.rolls_back;
        due.then(|| (rollout.from, self.newest().position.revision))
    }

    /// Writes the file, if it is time to.
    pub(super) fn save(&mut self) -> Result<(), JournalError> {
        if self.staging.plan.is_none() {
            return Ok(());
        }
        let ahead = self
            .journal
            .released
            .0
            .saturating_sub(self.written.released.0);
        let same = self.journal.rollouts == self.written.rollouts
            && self.journal.generation == self.written.generation;
        if same && ahead < UNWRITTEN {
            return Ok(());
        }
        self.journal.write(&self.staging.path)?;
        self.written.clone_from(&self.journal);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
