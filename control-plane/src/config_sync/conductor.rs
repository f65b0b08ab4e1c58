//! Which state is published for whom: carries out what `rollout::step` says.
//!
//! Everything here happens on one thread at a time. What it decides is kept before a node learns of it. Where
//! several control planes lead the nodes, all of them go by one journal. Whichever sees a change first begins its
//! roll-out and looks after that; the others lead their nodes by what they read, and the next takes over once
//! that one is gone.

mod given;
mod keeping;
mod strays;
mod writes;

use std::collections::BTreeSet;
use std::sync::Arc;

use shared::clock::UnixTime;
use shared::snapshot::Revision;
use uuid::Uuid;

use super::rollouts::{Order, OrderError};
use super::targets::{Staged, Strays, Targets};
use crate::config::Config;
use crate::fleet::View;
use crate::publisher::Publisher;
use crate::rollout::{
    Action, Journal, JournalError, Judged, Keeper, Plan, Rollout, Stage, State, step,
};
use crate::snapshot::{Follower, Published, is_rolled_out};
use writes::Writes;

/// Revisions that are looked through for the last that needed no roll-out.
const QUIET: u64 = 1_000;

/// How often a turn is taken anew because other control planes were faster.
const ATTEMPTS: u32 = 5;

/// How roll-outs go, and where they are kept.
#[derive(Debug)]
pub struct Staging {
    /// How they go; none: every change goes to every node at once.
    pub plan: Option<Plan>,
    /// Where they are kept.
    pub keeper: Keeper,
}

/// Publishes each state, to whom it is due.
#[derive(Debug)]
pub(super) struct Conductor {
    publisher: Publisher,
    follower: Follower,
    staging: Staging,
    /// Names this control plane.
    replica: Uuid,
    journal: Journal,
    /// What is kept of it.
    written: Journal,
    /// What others have written, as long as nodes cannot be led by it.
    unread: Option<Journal>,
    /// What every node is led to that has not been given the change under way.
    kept: Option<Arc<Published>>,
    /// The state with the change under way.
    candidate: Option<Arc<Published>>,
    /// What was written since the state before the change under way.
    writes: Writes,
    /// What those are led to that cannot run what they are to.
    strays: Arc<Strays>,
}

/// What a turn goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation<'a> {
    /// Every node.
    pub(super) nodes: &'a [View],
    /// The other control planes; none if that is not known yet.
    pub(super) present: Option<&'a BTreeSet<Uuid>>,
    pub(super) now: UnixTime,
}

impl Conductor {
    /// Goes on where the journal says that it was.
    pub(super) fn new(
        follower: Follower,
        staging: Staging,
        publisher: &Publisher,
        replica: Uuid,
        now: UnixTime,
    ) -> Result<Self, JournalError> {
        let newest = Arc::clone(follower.newest());
        let mut conductor = Self {
            publisher: publisher.clone(),
            follower,
            staging,
            replica,
            journal: Journal {
                generation: publisher.generation(),
                released: newest.position.revision,
                conductor: replica,
                rollouts: Vec::new(),
            },
            written: Journal::default(),
            unread: None,
            kept: Some(newest),
            candidate: None,
            writes: Writes::default(),
            strays: Arc::default(),
        };
        if conductor.staging.plan.is_none() {
            conductor.staging.keeper.forget()?;
            return Ok(conductor);
        }
        for _ in 0..ATTEMPTS {
            conductor.read(now)?;
            conductor.align(now);
            if conductor.save()? {
                break;
            }
        }
        Ok(conductor)
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

    /// Whether there is something that time, nodes or other control planes may change.
    pub(super) fn is_conducting(&self) -> bool {
        self.staging.plan.is_some() && (self.journal.open().is_some() || !self.is_settled())
    }

    /// Whether every node is led to the newest.
    fn is_settled(&self) -> bool {
        let newest = self.newest().position.root;
        self.kept
            .as_ref()
            .is_some_and(|kept| kept.position.root == newest)
    }

    /// Whether this is the control plane that looks after the roll-out under way.
    fn is_conductor(&self) -> bool {
        self.journal.conductor == self.replica
    }

    /// Where each node is led now.
    pub(super) fn targets(&self) -> Targets {
        let newest = Arc::clone(self.newest());
        let open = self.journal.open().zip(self.candidate.as_ref());
        if self.staging.plan.is_none() || (open.is_none() && self.is_settled()) {
            return Targets::new(newest, None, Arc::clone(&self.strays));
        }
        let staged = Staged {
            candidate: self.candidate.clone(),
            members: open
                .map(|(rollout, _)| rollout.members.keys().cloned().collect())
                .unwrap_or_default(),
            kept: self.kept.clone(),
        };
        Targets::new(newest, Some(Arc::new(staged)), Arc::clone(&self.strays))
    }

    /// Has `config` be the newest.
    pub(super) fn publish(&mut self, config: Config) {
        let generation = self.publisher.generation();
        self.journal.generation = generation;
        self.follower.reach(generation);
        self.follower.publish(config);
    }

    /// Does what is to be done, and what an operator wants. What is not kept is not done.
    pub(super) fn turn(
        &mut self,
        order: Option<(Revision, Order)>,
        situation: &Situation<'_>,
    ) -> Result<(), OrderError> {
        for _ in 0..ATTEMPTS {
            match self.attempt(order, situation) {
                Ok(Some(done)) => return done,
                // Others were faster: so once more, with what they did.
                Ok(None) => {}
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "roll-outs stand still");
                    break;
                }
            }
        }
        Err(OrderError::Unkept)
    }

    /// What the order came to; none if others have written meanwhile, so that nothing was done.
    fn attempt(
        &mut self,
        order: Option<(Revision, Order)>,
        situation: &Situation<'_>,
    ) -> Result<Option<Result<(), OrderError>>, JournalError> {
        let now = situation.now;
        if self.staging.plan.is_some() {
            let read = self.read(now);
            if read.is_err() {
                self.hold();
            }
            read?;
        }
        let before = (
            self.journal.clone(),
            self.kept.clone(),
            self.candidate.clone(),
        );
        self.arrange(situation.nodes, now);
        self.look();
        self.withdraw();
        let done = order.map_or(Ok(()), |(id, order)| self.order(id, order, situation));
        if self.conducts(situation.present, now) {
            self.conduct(situation.nodes, now);
        }
        let saved = self.save();
        if !matches!(saved, Ok(true)) {
            (self.journal, self.kept, self.candidate) = before;
            // Keys and revocations travel all the same.
            self.hold();
        }
        Ok(saved?.then_some(done))
    }

    /// Whether this control plane looks after the roll-out under way, which it does from now on if the one that
    /// did is gone.
    fn conducts(&mut self, present: Option<&BTreeSet<Uuid>>, now: UnixTime) -> bool {
        if self.is_conductor() {
            return true;
        }
        let is_gone = present.is_some_and(|present| !present.contains(&self.journal.conductor));
        let replica = self.replica;
        let Some(rollout) = self.journal.open_mut().filter(|_| is_gone) else {
            return false;
        };
        tracing::info!(revision = %rollout.to, "the roll-out is taken over");
        // Nodes come back in a moment; nobody is gone because that process was, whose clock is not ours.
        rollout.serving_since = None;
        rollout.stage_since = now;
        if let Judged::Since(since) = &mut rollout.judged {
            *since = now;
        }
        let members = rollout.members.values_mut();
        members.for_each(|node| node.since = now);
        self.journal.conductor = replica;
        true
    }

    /// Has what nodes are held at, or given, have the keys and revocations of the newest.
    fn hold(&mut self) {
        let follower = &self.follower;
        let hold = |state: Option<Arc<Published>>| state.map(|state| follower.hold(&state));
        self.kept = hold(self.kept.take());
        self.candidate = hold(self.candidate.take());
    }

    /// The last revision before the newest that every node may be said to run: since the one that all were led
    /// to, nothing that needs a roll-out has come up to it.
    fn quiet(&self) -> Revision {
        let mut quiet = self.journal.released;
        let newest = self.newest().position.revision;
        for revision in (quiet.0 + 1..newest.0).take(usize::try_from(QUIET).unwrap_or(usize::MAX)) {
            let entry = self.publisher.history().entry(Revision(revision));
            match entry {
                Ok(Some(entry)) if !entry.edits.iter().any(|edit| is_rolled_out(&edit.key)) => {
                    quiet = entry.revision;
                }
                _ => break,
            }
        }
        quiet
    }

    /// Whether there is more than the change under way.
    fn is_newer(&self) -> bool {
        let newest = self.newest().position.root;
        let candidate = self.candidate.as_ref().map(|one| self.follower.hold(one));
        candidate.is_none_or(|candidate| candidate.position.root != newest)
    }

    /// Reads on what was written since the state before the change under way, and notes which of it is part of that.
    fn look(&mut self) {
        let newest = self.newest().position.revision;
        let generation = self.journal.generation;
        let Some(rollout) = self.journal.open_mut() else {
            return;
        };
        self.writes.begin(generation, rollout.from);
        if let Err(error) = self.writes.read_on(self.publisher.history(), newest) {
            tracing::debug!(%error, "what was written beside a change is not known yet");
        }
        let found = self.writes.up_to(rollout.to);
        if found.len() > rollout.revisions.len() {
            rollout.revisions = found;
        }
    }

    /// Whether to undo the roll-out under way undoes one write alone: of several perhaps only one is wrong, and all are
    /// acknowledged. None if that is not known yet. What is not published yet is told apart as it is undone.
    fn is_of_one(&self) -> Option<bool> {
        let newest = self.newest().position.revision;
        self.writes.is_one(self.journal.open()?.from, newest)
    }

    /// Drops an order to roll back once others have written, and says so.
    fn withdraw(&mut self) {
        let rolls_back = |open: &&mut Rollout| open.state == State::Halted && open.rolls_back;
        if self.is_of_one() == Some(false)
            && let Some(rollout) = self.journal.open_mut().filter(rolls_back)
        {
            rollout.rolls_back = false;
            rollout.is_not_undone();
        }
    }

    /// Ends the roll-out under way: what it led to is not led to any more.
    fn end(&mut self, state: State, now: UnixTime) {
        if let Some(rollout) = self.journal.open_mut() {
            tracing::info!(revision = %rollout.to, ?state, "the roll-out ended");
            rollout.end(state, None, now);
        }
        self.candidate = None;
    }

    /// Brings what nodes are led to in line with what is published, and begins the roll-out that is due.
    fn arrange(&mut self, nodes: &[View], now: UnixTime) {
        self.align(now);
        let is_due = self.staging.plan.is_some() && !self.is_settled();
        if is_due && self.journal.open().is_none() {
            self.begin(nodes, now);
        }
    }

    /// Ends what is not to go on. At the start nothing is begun: the nodes are not known.
    fn align(&mut self, now: UnixTime) {
        let newest = Arc::clone(self.newest());
        if self.staging.plan.is_none() {
            self.kept = Some(newest);
            return;
        }
        self.hold();
        if self.is_settled() {
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
        // What comes after a change that went wrong may be what mends it. What an operator halts is theirs to go on with, and so is
        // what nobody can tell from the newest any more.
        let is_known = self.candidate.is_some();
        let gives_way = |open: &Rollout| open.state == State::Halted && !open.by_operator;
        if is_known && self.journal.open().is_some_and(gives_way) && self.is_newer() {
            self.end(State::Superseded, now);
        }
    }

    fn begin(&mut self, nodes: &[View], now: UnixTime) {
        let newest = Arc::clone(self.newest());
        let (from, to) = (self.quiet(), newest.position.revision);
        self.journal.conductor = self.replica;
        self.journal.released = from;
        let given = self.given(from, nodes, now);
        let mut rollout = Rollout::new(from, to, now);
        rollout.apply(&Action::Admit(Stage::Canary, given), nodes, now);
        if let Some(replaced) = self.replaced(from) {
            rollout.inherit(replaced);
        }
        self.journal.begin(rollout);
        self.candidate = Some(newest);
        self.look();
        let revisions = self.journal.open().map(Rollout::writes);
        tracing::info!(%from, revision = %to, revisions, "a roll-out begins");
    }

    /// Does what is to be done, as `nodes` do at `now`.
    fn conduct(&mut self, nodes: &[View], now: UnixTime) {
        let Some(plan) = self.staging.plan else {
            return;
        };
        if let Some(rollout) = self.journal.open_mut()
            && rollout.state == State::Running
        {
            rollout.judge_anew(nodes, now);
        }
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
                Action::Complete => self.release(nodes, now),
                Action::Halt(reason) => {
                    tracing::error!(revision = %to, reason, "the roll-out is halted");
                    if self.is_newer() {
                        self.end(State::Superseded, now);
                        self.arrange(nodes, now);
                        continue;
                    }
                    // Whether others wrote beside it is seen next.
                    let is_possible = plan.rollback && self.kept.is_some();
                    if let Some(rollout) = self.journal.open_mut() {
                        rollout.rolls_back = is_possible;
                    }
                    self.withdraw();
                    return;
                }
            }
        }
    }

    /// Leads every node to the change under way; to the newest where that is not known any more.
    fn release(&mut self, nodes: &[View], now: UnixTime) {
        let candidate = self.candidate.take();
        let candidate = candidate.unwrap_or_else(|| Arc::clone(self.newest()));
        tracing::info!(revision = %candidate.position.revision, "rolled out");
        self.journal.released = candidate.position.revision;
        self.kept = Some(candidate);
        self.arrange(nodes, now);
    }

    /// Carries out what an operator wants.
    fn order(
        &mut self,
        id: Revision,
        order: Order,
        situation: &Situation<'_>,
    ) -> Result<(), OrderError> {
        let (is_newer, now) = (self.is_newer(), situation.now);
        let is_alone = if is_newer {
            Some(false)
        } else {
            self.is_of_one()
        };
        let is_forgotten = self.kept.is_none();
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
            (Order::RollBack, _) if is_forgotten => return Err(OrderError::Forgotten),
            // What others wrote would be undone as well, and nobody has asked for that.
            (Order::RollBack, _) if is_alone == Some(false) => return Err(OrderError::Several),
            (Order::Halt | Order::RollBack, state) => {
                if state == State::Running {
                    let reason = "an operator halted it".to_owned();
                    rollout.end(State::Halted, Some(reason), now);
                }
                let is_unknown = order == Order::RollBack && is_alone.is_none();
                // One that halted by itself gives way to what mends it.
                rollout.by_operator |= state == State::Running || !is_unknown;
                if is_unknown {
                    tracing::error!(revision = %id, "halted, but not rolled back: what else was written could not be read yet");
                    return Err(OrderError::Unkept);
                }
                rollout.rolls_back = order == Order::RollBack;
            }
            // What was written since may be what mends it, and goes to the first nodes again.
            (Order::Resume, State::Halted) if is_newer => {
                self.end(State::Superseded, now);
                self.arrange(situation.nodes, now);
            }
            (Order::Resume, State::Halted) => rollout.resume(situation.nodes, now),
            (Order::Resume, _) => {}
            (Order::Release, _) => {
                rollout.apply(&Action::Complete, &[], now);
                self.release(situation.nodes, now);
            }
        }
        Ok(())
    }

    /// The state to go back to, if that is due, and the one to go back from. What has come after an order is not undone by it.
    pub(super) fn rollback(&self) -> Option<(Revision, Revision)> {
        let rollout = self.journal.open()?;
        let halted = rollout.state == State::Halted;
        let is_alone = self.is_of_one() == Some(true);
        let due = halted && rollout.rolls_back && is_alone && self.is_conductor();
        due.then(|| (rollout.from, self.newest().position.revision))
    }
}

#[cfg(test)]
pub(super) mod tests;
