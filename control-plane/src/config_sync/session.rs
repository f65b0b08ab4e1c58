//! What to offer to a node: one update at a time, always the newest, never what it has refused, and no
//! more than it lacks.

use shared::snapshot::{Hash, Position};

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
    refused: Vec<Position>,
    abilities: Abilities,
    in_flight: Option<(u64, Position)>,
    last_nonce: u64,
    /// What the node has is not what it should be: only everything helps.
    needs_everything: bool,
    digests: Digests,
    /// An operator has ordered what comes next: the node is to run it whatever happened before.
    ordered: bool,
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
    #[error("digests that nobody asked for")]
    Digests,
}

impl Session {
    /// A node that runs `running` and has refused `refused`.
    pub(super) fn new(running: Position, refused: Vec<Position>, abilities: Abilities) -> Self {
        Self {
            running,
            refused,
            abilities,
            in_flight: None,
            last_nonce: 0,
            needs_everything: false,
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
            || self.refused.contains(&target)
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
        self.in_flight = Some((self.last_nonce, target));
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

    /// Whether the node is led to `target`, or is there: what is stored here reaches it.
    pub(super) fn is_led_to(&self, target: &Position, bare: bool) -> bool {
        !self.waits_for_content(bare) && !self.is_ahead_of(target)
    }

    /// Whether the node has refused `target`.
    pub(super) fn has_refused(&self, target: &Position) -> bool {
        self.refused.contains(target)
    }

    /// Whether an answer is awaited.
    pub(super) const fn is_waiting(&self) -> bool {
        self.in_flight.is_some() || matches!(self.digests, Digests::Asked)
    }

    /// The node runs what update `nonce` brought.
    pub(super) fn acked(&mut self, nonce: u64) -> Result<Position, Unexpected> {
        self.running = self.answered(nonce)?;
        self.needs_everything = false;
        Ok(self.running)
    }

    /// The node refused update `nonce`; returns its target.
    pub(super) fn nacked(&mut self, nonce: u64) -> Result<Position, Unexpected> {
        let target = self.answered(nonce)?;
        if self.refused.len() >= REFUSALS {
            self.refused.remove(0);
        }
        self.refused.push(target);
        Ok(target)
    }

    /// The node cannot build on what it has: its last refusal was of the way, not of the target.
    pub(super) fn lacks_everything(&mut self) {
        self.needs_everything = true;
        self.refused.pop();
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

    fn answered(&mut self, nonce: u64) -> Result<Position, Unexpected> {
        match self.in_flight {
            Some((expected, target)) if expected == nonce => {
                self.in_flight = None;
                self.digests = Digests::Unasked;
                Ok(target)
            }
            other => Err(Unexpected::Answer {
                answered: nonce,
                expected: other.map(|(expected, _)| expected),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::snapshot::Revision;

    use super::*;

    const ALL: Abilities = Abilities {
        delta: true,
        buckets: true,
    };

    fn at(generation: u64, revision: u64, content: u8) -> Position {
        Position {
            generation,
            revision: Revision(revision),
            urgent: Revision::default(),
            root: [content; 32],
        }
    }

    fn session(running: Position) -> Session {
        Session::new(running, Vec::new(), ALL)
    }

    /// A goal that everything is known of.
    fn goal(position: Position) -> Goal {
        Goal {
            position,
            reachable: true,
            small: false,
            bare: false,
        }
    }

    fn send(nonce: u64, way: Way) -> Step {
        Step::Send(Offer {
            nonce,
            way,
            ordered: false,
        })
    }

    #[test]
    fn one_update_at_a_time_and_the_newest_next() {
        let mut session = session(Position::default());
        let offer = session.offer(&goal(at(1, 1, 1)));
        assert_eq!(offer, Some(send(1, Way::Everything)));
        assert_eq!(session.offer(&goal(at(1, 2, 2))), None);
        assert_eq!(session.offer(&goal(at(1, 3, 3))), None);
        assert_eq!(session.acked(1), Ok(at(1, 1, 1)));
        let offer = session.offer(&goal(at(1, 3, 3)));
        assert_eq!(offer, Some(send(2, Way::Since([1; 32]))));
        assert!(session.acked(1).is_err());
        assert_eq!(session.acked(2), Ok(at(1, 3, 3)));
        assert_eq!(session.offer(&goal(at(1, 3, 3))), None);
    }

    #[test]
    fn equal_content_moves_without_records() {
        let mut session = session(at(1, 1, 7));
        assert_eq!(session.offer(&goal(at(1, 4, 7))), Some(send(1, Way::Same)));
    }

    #[test]
    fn a_node_is_sent_no_more_than_it_lacks_and_can_take() {
        let unknown = |small| Goal {
            reachable: false,
            small,
            ..goal(at(1, 2, 2))
        };
        let with = |abilities| Session::new(at(1, 1, 1), Vec::new(), abilities);
        let first = |abilities, goal| with(abilities).offer(&goal);
        let none = Abilities::default();
        assert_eq!(
            first(none, goal(at(1, 2, 2))),
            Some(send(1, Way::Everything))
        );
        assert_eq!(first(none, unknown(false)), Some(send(1, Way::Everything)));
        assert_eq!(first(ALL, unknown(true)), Some(send(1, Way::Everything)));
        let mut asks = with(ALL);
        assert_eq!(asks.told(Vec::new()), Err(Unexpected::Digests));
        assert_eq!(asks.offer(&unknown(false)), Some(Step::Ask));
        assert!(asks.is_waiting());
        assert_eq!(asks.offer(&goal(at(1, 3, 3))), None);
        asks.told(vec![[5; 32]]).unwrap();
        let repair = Some(send(1, Way::Repair(vec![[5; 32]])));
        assert_eq!(asks.offer(&unknown(false)), repair);
        // What it has is not what it should be.
        asks.nacked(1).unwrap();
        asks.lacks_everything();
        assert_eq!(asks.offer(&unknown(false)), Some(send(2, Way::Everything)));
        asks.acked(2).unwrap();
        let next = asks.offer(&goal(at(1, 3, 3)));
        assert_eq!(next, Some(send(3, Way::Since([2; 32]))));
    }

    #[test]
    fn what_was_refused_is_not_sent_again_unless_an_operator_says_so() {
        let mut refusing = session(at(1, 1, 1));
        refusing.offer(&goal(at(1, 2, 2))).unwrap();
        assert_eq!(refusing.nacked(1), Ok(at(1, 2, 2)));
        assert_eq!(refusing.offer(&goal(at(1, 2, 2))), None);
        assert!(refusing.offer(&goal(at(1, 3, 3))).is_some());
        let mut again = Session::new(at(1, 1, 1), vec![at(1, 2, 2)], ALL);
        assert_eq!(again.offer(&goal(at(1, 2, 2))), None);
        again.retry();
        assert!(again.offer(&goal(at(1, 2, 2))).is_some());
        // What it has crashed with it runs on order alone, and the order is for one update.
        let mut ordered = Session::new(at(1, 1, 1), vec![at(1, 2, 2)], ALL);
        ordered.order();
        let mut is_ordered = |target| match ordered.offer(&goal(target)) {
            Some(Step::Send(offer)) => {
                ordered.acked(offer.nonce).unwrap();
                offer.ordered
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(
            [at(1, 2, 2), at(1, 3, 3)].map(&mut is_ordered),
            [true, false]
        );
    }

    #[test]
    fn a_store_begun_anew_leads_nobody_away_before_it_holds_something() {
        let bare = Goal {
            bare: true,
            ..goal(at(9, 1, 9))
        };
        let mut session = Session::new(at(1, 24, 1), Vec::new(), ALL);
        assert_eq!(session.offer(&bare), None);
        assert!(session.offer(&goal(at(9, 2, 8))).is_some());
        // Who has nothing is no worse off.
        let mut new = Session::new(Position::default(), Vec::new(), ALL);
        assert!(new.offer(&bare).is_some());
    }

    #[test]
    fn a_node_ahead_is_left_alone_until_the_generation_grows() {
        let mut session = session(at(1, 9, 9));
        assert_eq!(session.offer(&goal(at(1, 3, 3))), None);
        assert!(session.is_ahead_of(&at(1, 3, 3)) && !session.is_ahead_of(&at(1, 9, 9)));
        let led = [at(1, 3, 3), at(1, 9, 8), at(1, 9, 9), at(2, 1, 3)]
            .map(|to| session.is_led_to(&to, false));
        assert_eq!(led, [false, false, true, true]);
        assert!(!session.is_led_to(&at(2, 1, 3), true));
        assert_eq!(session.offer(&goal(at(1, 9, 8))), None);
        assert!(session.offer(&goal(at(2, 1, 3))).is_some());
    }

    proptest! {
        /// Whatever happens in whatever order, a node that answers ends at the last target or at a refusal of it.
        #[test]
        fn every_node_ends_at_the_newest(
            events in prop::collection::vec((0u8..3, any::<bool>(), any::<bool>()), 0..60),
        ) {
            let mut session = session(Position::default());
            let mut target = at(1, 1, 1);
            let mut sent = None;
            let offer = |session: &mut Session, target: Position, reachable: bool| {
                let goal = Goal { position: target, reachable, small: false, bare: false };
                match session.offer(&goal)? {
                    Step::Ask => {
                        session.told(Vec::new()).unwrap();
                        match session.offer(&goal)? {
                            Step::Send(offer) => Some(offer.nonce),
                            Step::Ask => panic!("asked twice"),
                        }
                    }
                    Step::Send(offer) => Some(offer.nonce),
                }
            };
            for (event, good, reachable) in events {
                match event {
                    0 => target = at(1, target.revision.0 + 1, u8::try_from(target.revision.0 % 250).unwrap()),
                    1 => if let Some(nonce) = offer(&mut session, target, reachable) {
                        prop_assert!(sent.is_none());
                        sent = Some((nonce, target));
                    },
                    _ => if let Some((nonce, position)) = sent.take() {
                        let answered = if good { session.acked(nonce) } else { session.nacked(nonce) };
                        prop_assert_eq!(answered, Ok(position));
                        if !good && reachable {
                            session.lacks_everything();
                        }
                    },
                }
            }
            if let Some((nonce, _)) = sent.take() {
                session.acked(nonce).unwrap();
            }
            if let Some(nonce) = offer(&mut session, target, true) {
                session.acked(nonce).unwrap();
            }
            prop_assert!(session.running == target || session.refused.contains(&target));
        }
    }
}
