//! What to offer to a node: one update at a time, always the newest, never what it has refused, and no
//! more than it lacks.

use shared::snapshot::{Hash, Position};

use crate::fleet::Shunned;

/// Refusals of one node that are remembered.
const REFUSALS: usize = 32;

/// What a node can take, as its Hello tells.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Abilities {
    /// Differences to what it runs.
    pub(super) delta: bool,
    /// Digests of its buckets, and updates of some of them.
    pub(super) buckets: bool,
}

/// What is known of a target, as far as the choice of a way to it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goal {
    pub(super) position: Position,
    /// The hash that proves what was configured.
    pub(super) configuration: Hash,
    /// Whether the difference to what the node runs can be told.
    pub(super) reachable: bool,
    /// Whether telling everything costs little.
    pub(super) small: bool,
    /// Whether it is of another generation than what the node runs, and nothing was configured in it yet.
    pub(super) bare: bool,
}

/// A node's stream, as far as updates go.
#[derive(Debug)]
pub(super) struct Session {
    running: Position,
    refused: Vec<Shunned>,
    abilities: Abilities,
    in_flight: Option<Sent>,
    last_nonce: u64,
    /// What the node has is not what it should be: only everything helps.
    needs_everything: bool,
    /// Whether what it has refused last was that.
    refused_everything: bool,
    digests: Digests,
    /// An operator has ordered what comes next: the node is to run it whatever happened before.
    ordered: bool,
}

/// An update that is to be answered.
#[derive(Clone, Copy, Debug)]
struct Sent {
    nonce: u64,
    target: Position,
    configuration: Hash,
    /// Whether it holds all records.
    whole: bool,
}

/// How far the question for digests has come.
#[derive(Debug, Default)]
enum Digests {
    #[default]
    Unasked,
    Asked,
    Told(Vec<Hash>),
}

/// What to do now.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Ask for the digests of the node's buckets.
    Ask,
    /// Send an update.
    Send(Offer),
}

/// An update to send.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Offer {
    /// This stream's number of it.
    pub(super) nonce: u64,
    /// What it holds.
    pub(super) way: Way,
    /// Whether the node is to run it although it has crashed with it.
    pub(super) ordered: bool,
}

/// What an update holds.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// No records: the node has them all and only moves.
    Same,
    /// What changed since the node's root.
    Since(Hash),
    /// Buckets whose digests differ from these.
    Repair(Vec<Hash>),
    /// All records.
    Everything,
}

/// An answer that fits nothing that was asked: the node does not follow the protocol.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Unexpected {
    #[error("an answer to update {answered}, but {expected:?} is in flight")]
    Answer {
        answered: u64,
        expected: Option<u64>,
    },
    #[error("update {0} is acknowledged, but what is told to run is something else")]
    Elsewhere(u64),
    #[error("digests that nobody asked for")]
    Digests,
}

impl Session {
    /// A node that runs `running` and has refused `refused`.
    pub(super) fn new(running: Position, refused: Vec<Shunned>, abilities: Abilities) -> Self {
        Self {
            running,
            refused,
            abilities,
            in_flight: None,
            last_nonce: 0,
            needs_everything: false,
            refused_everything: false,
            digests: Digests::Unasked,
            ordered: false,
        }
    }

    /// What the node runs.
    pub(super) const fn running(&self) -> &Position {
        &self.running
    }

    /// What is to be done now on the way to `goal`, if anything.
    pub(super) fn offer(&mut self, goal: &Goal) -> Option<Step> {
        let target = goal.position;
        let waits = self.in_flight.is_some() || matches!(self.digests, Digests::Asked);
        // A node that is ahead has seen what this control plane has not: it must not go back.
        if waits
            || self.has_refused(goal)
            || !target.is_after(&self.running)
            || self.waits_for_content(goal.bare)
        {
            return None;
        }
        let way = match self.way(goal) {
            Ok(way) => way,
            Err(ask) => {
                self.digests = Digests::Asked;
                return Some(ask);
            }
        };
        self.last_nonce += 1;
        self.in_flight = Some(Sent {
            nonce: self.last_nonce,
            target,
            configuration: goal.configuration,
            whole: way == Way::Everything,
        });
        Some(Step::Send(Offer {
            nonce: self.last_nonce,
            way,
            ordered: std::mem::take(&mut self.ordered),
        }))
    }

    /// The shortest way to `goal`, or the question that finds it.
    fn way(&mut self, goal: &Goal) -> Result<Way, Step> {
        let nothing = self.running == Position::default();
        if self.needs_everything || nothing {
            return Ok(Way::Everything);
        }
        if self.running.root == goal.position.root {
            return Ok(Way::Same);
        }
        if self.abilities.delta && goal.reachable {
            return Ok(Way::Since(self.running.root));
        }
        if goal.small || !self.abilities.buckets {
            return Ok(Way::Everything);
        }
        match std::mem::take(&mut self.digests) {
            Digests::Told(digests) => Ok(Way::Repair(digests)),
            Digests::Unasked | Digests::Asked => Err(Step::Ask),
        }
    }

    /// Whether the node runs what another store led it to, and this one was begun anew and holds nothing yet, which `bare`
    /// says: a lost disk is no order to serve nothing.
    pub(super) fn waits_for_content(&self, bare: bool) -> bool {
        bare && self.running != Position::default()
    }

    /// Whether the node runs something that this control plane cannot have made.
    pub(super) fn is_ahead_of(&self, target: &Position) -> bool {
        !self.running.is_same(target) && !target.is_after(&self.running)
    }

    /// Whether the node is led to what comes after `target`, if not to that: what is stored here reaches it. One that has
    /// other content at the same place, as another version of the control plane publishes it, is led on by the next write.
    pub(super) fn is_led_to(&self, target: &Position, bare: bool) -> bool {
        let leads = self.running.is_same(target) || !self.running.is_after(target);
        !self.waits_for_content(bare) && leads
    }

    /// Whether the node has refused `goal`, or what was configured there with other keys or revocations: it would refuse it
    /// again. What it runs is another matter, whatever it has refused of that.
    pub(super) fn has_refused(&self, goal: &Goal) -> bool {
        let is_elsewhere = !self.is_at(&goal.position);
        self.refused.iter().any(|refused| {
            let same = refused.configuration == Some(goal.configuration);
            refused.position == goal.position || (is_elsewhere && same)
        })
    }

    /// Whether `target` is what the node runs, be it with other keys.
    fn is_at(&self, target: &Position) -> bool {
        let state = |one: &Position| (one.generation, one.revision);
        state(target) == state(&self.running)
    }

    /// Whether an answer is awaited.
    pub(super) const fn is_waiting(&self) -> bool {
        self.in_flight.is_some() || matches!(self.digests, Digests::Asked)
    }

    /// The node runs what update `nonce` brought: it says that it is at `running`.
    pub(super) fn acked(&mut self, nonce: u64, running: &Position) -> Result<Position, Unexpected> {
        let Sent { target, .. } = self.answered(nonce)?;
        if !running.is_same(&target) {
            return Err(Unexpected::Elsewhere(nonce));
        }
        if !self.is_at(&target) {
            // It has gone on, and may have become able to.
            self.forget_configurations();
        }
        self.running = target;
        self.needs_everything = false;
        Ok(self.running)
    }

    /// The node refused update `nonce`; returns what that was.
    pub(super) fn nacked(&mut self, nonce: u64) -> Result<Shunned, Unexpected> {
        let Sent {
            target,
            configuration,
            whole,
            ..
        } = self.answered(nonce)?;
        self.refused_everything = whole;
        let shunned = Shunned {
            position: target,
            configuration: (!self.is_at(&target)).then_some(configuration),
        };
        if shunned.configuration.is_some() {
            // Of several only the last is known to operators.
            self.forget_configurations();
        }
        if self.refused.len() >= REFUSALS {
            self.refused.remove(0);
        }
        self.refused.push(shunned);
        Ok(shunned)
    }

    /// What the node has refused it is sent again with other keys or revocations.
    pub(super) fn forget_configurations(&mut self) {
        let refused = self.refused.iter_mut();
        refused.for_each(|refused| refused.configuration = None);
    }

    /// The node cannot build on what it has: its last refusal was of the way, not of the target. Whether it is sent everything: to one
    /// that has refused that, once more would be for ever.
    pub(super) fn lacks_everything(&mut self) -> bool {
        self.needs_everything = true;
        if !self.refused_everything {
            self.refused.pop();
        }
        !self.refused_everything
    }

    /// The node told its digests.
    pub(super) fn told(&mut self, digests: Vec<Hash>) -> Result<(), Unexpected> {
        if !matches!(self.digests, Digests::Asked) {
            return Err(Unexpected::Digests);
        }
        self.digests = Digests::Told(digests);
        Ok(())
    }

    /// Forgets what the node refused, so that it is sent once more.
    pub(super) fn retry(&mut self) {
        self.refused.clear();
    }

    /// The same on an operator's order, which goes beyond what the node would take by itself.
    pub(super) fn order(&mut self) {
        self.retry();
        self.ordered = true;
    }

    fn answered(&mut self, nonce: u64) -> Result<Sent, Unexpected> {
        match self.in_flight {
            Some(sent) if sent.nonce == nonce => {
                self.in_flight = None;
                self.digests = Digests::Unasked;
                Ok(sent)
            }
            other => Err(Unexpected::Answer {
                answered: nonce,
                expected: other.map(|sent| sent.nonce),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
