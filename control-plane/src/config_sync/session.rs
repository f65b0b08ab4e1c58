//! What to offer to a node: one update at a time, always the newest, never what it has refused.

use shared::snapshot::Position;

/// A node's stream, as far as updates go.
#[derive(Debug)]
pub(super) struct Session {
    running: Position,
    refused: Option<Position>,
    in_flight: Option<(u64, Position)>,
    last_nonce: u64,
}

/// An update to send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Offer {
    /// This stream's number of it.
    pub(super) nonce: u64,
    /// Whether the node needs the records, or has them already and only moves.
    pub(super) full: bool,
}

/// An answer that fits no update: the node does not follow the protocol.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("an answer to update {answered}, but {expected:?} is in flight")]
pub(super) struct Unexpected {
    answered: u64,
    expected: Option<u64>,
}

impl Session {
    /// A node that runs `running` and has refused `refused`.
    pub(super) const fn new(running: Position, refused: Option<Position>) -> Self {
        Self {
            running,
            refused,
            in_flight: None,
            last_nonce: 0,
        }
    }

    /// The update that leads to `target`, if one is to be sent now.
    pub(super) fn offer(&mut self, target: &Position) -> Option<Offer> {
        let waits = self.in_flight.is_some();
        // A node that is ahead has seen what this control plane has not: it must not go back.
        if waits || self.refused == Some(*target) || !target.is_after(&self.running) {
            return None;
        }
        self.last_nonce += 1;
        self.in_flight = Some((self.last_nonce, *target));
        Some(Offer {
            nonce: self.last_nonce,
            full: self.running.root != target.root,
        })
    }

    /// Whether the node runs something that this control plane cannot have made.
    pub(super) fn is_ahead_of(&self, target: &Position) -> bool {
        self.running != *target && !target.is_after(&self.running)
    }

    /// Whether an answer is awaited.
    pub(super) const fn is_waiting(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The node runs what update `nonce` brought.
    pub(super) fn acked(&mut self, nonce: u64) -> Result<Position, Unexpected> {
        self.running = self.answered(nonce)?;
        Ok(self.running)
    }

    /// The node refused update `nonce`; returns its target.
    pub(super) fn nacked(&mut self, nonce: u64) -> Result<Position, Unexpected> {
        let target = self.answered(nonce)?;
        self.refused = Some(target);
        Ok(target)
    }

    fn answered(&mut self, nonce: u64) -> Result<Position, Unexpected> {
        match self.in_flight {
            Some((expected, target)) if expected == nonce => {
                self.in_flight = None;
                Ok(target)
            }
            other => Err(Unexpected {
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

    fn at(generation: u64, revision: u64, content: u8) -> Position {
        Position {
            generation,
            revision: Revision(revision),
            root: [content; 32],
        }
    }

    #[test]
    fn one_update_at_a_time_and_the_newest_next() {
        let mut session = Session::new(Position::default(), None);
        assert_eq!(
            session.offer(&at(1, 1, 1)),
            Some(Offer {
                nonce: 1,
                full: true
            })
        );
        assert_eq!(session.offer(&at(1, 2, 2)), None);
        assert_eq!(session.offer(&at(1, 3, 3)), None);
        assert_eq!(session.acked(1), Ok(at(1, 1, 1)));
        assert_eq!(
            session.offer(&at(1, 3, 3)),
            Some(Offer {
                nonce: 2,
                full: true
            })
        );
        assert!(session.acked(1).is_err());
        assert_eq!(session.acked(2), Ok(at(1, 3, 3)));
        assert_eq!(session.offer(&at(1, 3, 3)), None);
    }

    #[test]
    fn equal_content_moves_without_records() {
        let mut session = Session::new(at(1, 1, 7), None);
        assert_eq!(
            session.offer(&at(1, 4, 7)),
            Some(Offer {
                nonce: 1,
                full: false
            })
        );
    }

    #[test]
    fn what_was_refused_is_not_sent_again() {
        let mut session = Session::new(at(1, 1, 1), None);
        session.offer(&at(1, 2, 2)).unwrap();
        assert_eq!(session.nacked(1), Ok(at(1, 2, 2)));
        assert_eq!(session.offer(&at(1, 2, 2)), None);
        assert!(session.offer(&at(1, 3, 3)).is_some());
        assert_eq!(
            Session::new(at(1, 1, 1), Some(at(1, 2, 2))).offer(&at(1, 2, 2)),
            None
        );
    }

    #[test]
    fn a_node_ahead_is_left_alone_until_the_generation_grows() {
        let mut session = Session::new(at(1, 9, 9), None);
        assert_eq!(session.offer(&at(1, 3, 3)), None);
        assert!(session.is_ahead_of(&at(1, 3, 3)) && !session.is_ahead_of(&at(1, 9, 9)));
        assert_eq!(session.offer(&at(1, 9, 8)), None);
        assert!(session.offer(&at(2, 1, 3)).is_some());
    }

    proptest! {
        /// Whatever happens in whatever order, a node that answers ends at the last target or at a refusal of it.
        #[test]
        fn every_node_ends_at_the_newest(events in prop::collection::vec((0u8..3, any::<bool>()), 0..60)) {
            let mut session = Session::new(Position::default(), None);
            let mut target = at(1, 1, 1);
            let mut sent = None;
            for (event, good) in events {
                match event {
                    0 => target = at(1, target.revision.0 + 1, u8::try_from(target.revision.0 % 250).unwrap()),
                    1 => if let Some(offer) = session.offer(&target) {
                        prop_assert!(sent.is_none());
                        sent = Some((offer.nonce, target));
                    },
                    _ => if let Some((nonce, position)) = sent.take() {
                        let answered = if good { session.acked(nonce) } else { session.nacked(nonce) };
                        prop_assert_eq!(answered, Ok(position));
                    },
                }
            }
            if let Some((nonce, _)) = sent.take() {
                session.acked(nonce).unwrap();
            }
            if let Some(offer) = session.offer(&target) {
                session.acked(offer.nonce).unwrap();
            }
            prop_assert!(session.running == target || session.refused == Some(target));
        }
    }
}
