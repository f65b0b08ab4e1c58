//! What is kept of roll-outs, what others have written there, and the states that it speaks of.

use std::sync::Arc;

use shared::clock::UnixTime;
use shared::snapshot::Revision;

use super::Conductor;
use crate::difference::Difference;
use crate::history::HistoryFault;
use crate::publisher::{JournalFault, Publisher};
use crate::rollout::{Journal, JournalError, State};
use crate::snapshot::{Follower, Published};

/// Revisions that need no roll-out, after which the journal is written again: the history that it needs is
/// not kept for ever.
const UNWRITTEN: u64 = 100;

impl Conductor {
    /// Takes in what others have written, or an earlier process of this control plane.
    pub(super) fn read(&mut self, now: UnixTime) -> Result<(), JournalError> {
        if let Some(newer) = self.staging.keeper.newer()? {
            self.unread = Some(newer);
        }
        let Some(journal) = self.unread.clone() else {
            return Ok(());
        };
        if journal.generation == self.journal.generation {
            self.see(journal.last())?;
            let newest = self.newest().position.revision;
            if journal.released <= newest {
                self.adopt(journal, now)?;
            } else if self.staging.keeper.is_shared() {
                let what = format!(
                    "they are at revision {}, the store at {newest}",
                    journal.last()
                );
                return Err(JournalError::Shared(what.into()));
            }
        }
        self.unread = None;
        Ok(())
    }

    /// Has the newest be `revision` or later: whoever wrote of it has seen it.
    fn see(&mut self, revision: Revision) -> Result<(), JournalError> {
        if revision > self.newest().position.revision {
            let unseen = |fault: JournalFault| JournalError::Shared(fault.into());
            self.publisher.catch_up().map_err(unseen)?;
            self.publish(self.publisher.config());
        }
        Ok(())
    }

    /// Leads nodes by `journal`.
    fn adopt(&mut self, journal: Journal, now: UnixTime) -> Result<(), JournalError> {
        let found = self.state_at(journal.released)?;
        let candidate = match journal.open() {
            Some(open) => self.state_at(open.to)?,
            None => None,
        };
        if found.is_none() {
            tracing::error!(
                revision = %journal.released,
                "the state that nodes are held at is not in the history any more; those that are not given \
                 the newest are sent no configuration: `POST /rollouts/ID/resume` has the newest rolled out, `/release` leads all to it"
            );
        }
        // Nodes may run the same under a later number already, and do not go back.
        let place = |state: &Option<Arc<Published>>| {
            let state = state.as_ref()?;
            let root = self.follower.hold(state).position.root;
            Some((root, state.position.revision))
        };
        let is_ahead = match (place(&self.kept), place(&found)) {
            (Some((own, number)), Some((root, revision))) => own == root && number > revision,
            _ => false,
        };
        if !is_ahead {
            self.kept = found;
        }
        self.written.clone_from(&journal);
        self.journal = journal;
        if candidate.is_none()
            && let Some(rollout) = self.journal.open_mut()
            && rollout.state == State::Running
        {
            // What it leads to is not in the history any more. One that is halted stays so: what it leads to may be in the newest.
            rollout.end(State::Superseded, None, now);
        }
        self.candidate = candidate;
        Ok(())
    }

    /// The state at `revision`; none if the way to it is not kept any more.
    pub(super) fn state_at(
        &self,
        revision: Revision,
    ) -> Result<Option<Arc<Published>>, HistoryFault> {
        let newest = self.follower.newest();
        let known = [Some(newest), self.candidate.as_ref(), self.kept.as_ref()];
        let mut known = known.into_iter().flatten();
        if let Some(found) = known.find(|state| state.position.revision == revision) {
            return Ok(Some(Arc::clone(found)));
        }
        self.past().state_at(revision)
    }

    /// What there was, as far as is known now.
    pub(super) fn past(&self) -> Past {
        Past {
            publisher: self.publisher.clone(),
            follower: self.follower.clone(),
            is_shared: self.staging.keeper.is_shared(),
        }
    }

    /// Writes the journal, if it is time to. False if others have written meanwhile.
    pub(super) fn save(&mut self) -> Result<bool, JournalError> {
        if self.staging.plan.is_none() {
            return Ok(true);
        }
        let ahead = self
            .journal
            .released
            .0
            .saturating_sub(self.written.released.0);
        let same = self.journal.rollouts == self.written.rollouts
            && self.journal.conductor == self.written.conductor
            && self.journal.generation == self.written.generation;
        if same && ahead < UNWRITTEN {
            return Ok(true);
        }
        match self.staging.keeper.write(&self.journal) {
            Ok(true) => self.written.clone_from(&self.journal),
            Ok(false) => return Ok(false),
            // Nobody else goes by it.
            Err(error) if !self.staging.keeper.is_shared() => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(
                    error,
                    "roll-outs are not kept: a restart begins this one anew"
                );
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

/// Earlier states, as the history tells them.
#[derive(Debug)]
pub(super) struct Past {
    publisher: Publisher,
    follower: Follower,
    /// Whether others write to the store, too.
    is_shared: bool,
}

impl Past {
    /// What was published last when this was made.
    pub(super) const fn newest(&self) -> &Arc<Published> {
        self.follower.newest()
    }

    /// `state` with the keys and revocations of the newest.
    pub(super) fn hold(&self, state: &Arc<Published>) -> Arc<Published> {
        self.follower.hold(state)
    }

    /// The state at `revision`; none if the way to it is not kept any more.
    pub(super) fn state_at(
        &self,
        revision: Revision,
    ) -> Result<Option<Arc<Published>>, HistoryFault> {
        let config = self.newest().config();
        let past = Difference::between(self.publisher.history(), config.revision(), revision);
        let difference = match past {
            // A past that is damaged stays so: it must not stand in the way of a start.
            Err(error) if !self.is_shared => {
                tracing::error!(%error, "history not read");
                None
            }
            past => past?,
        };
        Ok(difference.map(|difference| {
            let past = config.evolve(&difference.change(config), revision);
            self.follower.held_at(past)
        }))
    }
}
