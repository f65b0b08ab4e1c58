//! Work that one node of the cluster does at a time: the first that asks does it, the others wait for
//! what it brings, and who comes late gets it too.
//!
//! A refresh token may be used once. Nodes that meet an expired session at the same time would each use
//! it, and a provider that detects that ends the session. What lands here is sealed by the node; this
//! control plane cannot read it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use prost::bytes::Bytes;

/// How long one node may take before another may try.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a result is kept for those that come late: a browser may send its old cookie that long.
const KEPT: Duration = Duration::from_mins(1);

/// Flights that are known at once, and the bytes of one result.
const MOST: usize = 10_000;
const RESULT: usize = 32 * 1024;

/// How often the known ones are looked through, in requests.
const SWEEP: u32 = 256;

/// Names a piece of work.
pub(super) type Key = Bytes;

/// Who does what. `W` is the way to tell somebody that waits.
#[derive(Debug)]
pub(super) struct Flights<W> {
    flights: HashMap<Key, Flight<W>>,
    asked: u32,
}

#[derive(Debug)]
enum Flight<W> {
    /// A stream does it, others wait.
    Flies {
        by: u64,
        since: Instant,
        waiting: Vec<(u64, W)>,
    },
    Landed {
        result: Bytes,
        at: Instant,
    },
}

/// What comes of asking for work.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Joined<W> {
    /// The asker does it.
    Yours(W),
    /// It has been done.
    Done(W, Bytes),
    /// Somebody else does it; the asker is told when it is done.
    Waits,
    /// There is too much already.
    Full(W),
}

impl<W> Default for Flights<W> {
    fn default() -> Self {
        Self {
            flights: HashMap::new(),
            asked: 0,
        }
    }
}

impl<W> Flights<W> {
    /// Stream `by` wants the work `key` done.
    pub(super) fn join(&mut self, key: Key, by: u64, asker: W, now: Instant) -> Joined<W> {
        self.asked = self.asked.wrapping_add(1);
        if self.asked.is_multiple_of(SWEEP) {
            self.sweep(now);
        }
        if let Some(flight) = self.flights.get_mut(&key) {
            match flight {
                Flight::Landed { result, at } if now.duration_since(*at) < KEPT => {
                    return Joined::Done(asker, result.clone());
                }
                Flight::Flies { since, waiting, .. } if now.duration_since(*since) < PATIENCE => {
                    waiting.push((by, asker));
                    return Joined::Waits;
                }
                // Whoever had it is slower than anyone should wait; those that wait give up by themselves.
                Flight::Flies { .. } | Flight::Landed { .. } => {}
            }
        } else if self.flights.len() >= MOST {
            self.sweep(now);
            if self.flights.len() >= MOST {
                return Joined::Full(asker);
            }
        }
        let flight = Flight::Flies {
            by,
            since: now,
            waiting: Vec::new(),
        };
        self.flights.insert(key, flight);
        Joined::Yours(asker)
    }

    /// Stream `by` has done the work `key`. Those that wait for it; none if it was not its to do.
    pub(super) fn land(&mut self, key: Key, by: u64, result: Bytes, now: Instant) -> Vec<W> {
        match self.flights.get(&key) {
            Some(Flight::Flies { by: doing, .. }) if *doing == by && result.len() <= RESULT => {}
            _ => return Vec::new(),
        }
        let landed = Flight::Landed { result, at: now };
        match self.flights.insert(key, landed) {
            Some(Flight::Flies { waiting, .. }) => waiting.into_iter().map(|(_, w)| w).collect(),
            _ => Vec::new(),
        }
    }

    /// Stream `by` could not do the work `key`: who does it now, if somebody waits for it.
    pub(super) fn abandon(&mut self, key: &Key, by: u64, now: Instant) -> Option<W> {
        let Some(Flight::Flies {
            by: doing,
            since,
            waiting,
        }) = self.flights.get_mut(key)
        else {
            return None;
        };
        if *doing != by {
            return None;
        }
        if waiting.is_empty() {
            self.flights.remove(key);
            return None;
        }
        let (next, asker) = waiting.remove(0);
        (*doing, *since) = (next, now);
        Some(asker)
    }

    /// Stream `by` is gone: who does its work now.
    pub(super) fn leave(&mut self, by: u64, now: Instant) -> Vec<W> {
        let mut doing = Vec::new();
        for (key, flight) in &mut self.flights {
            if let Flight::Flies {
                by: pilot, waiting, ..
            } = flight
            {
                waiting.retain(|(stream, _)| *stream != by);
                if *pilot == by {
                    doing.push(key.clone());
                }
            }
        }
        doing
            .iter()
            .filter_map(|key| self.abandon(key, by, now))
            .collect()
    }

    /// Forgets what nobody needs any more.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.flights.retain(|_, flight| match flight {
            Flight::Landed { at, .. } => now.duration_since(*at) < KEPT,
            Flight::Flies { since, .. } => now.duration_since(*since) < PATIENCE,
        });
    }
}

#[cfg(test)]
mod tests {
    use shared::clock::monotonic;

    use super::*;

    const A: Key = Bytes::from_static(b"a");
    const RESULT_OF_A: Bytes = Bytes::from_static(b"sealed");

    #[test]
    fn one_does_it_and_all_get_what_it_brings() {
        let now = monotonic();
        let mut flights = Flights::default();
        assert_eq!(flights.join(A, 1, "first", now), Joined::Yours("first"));
        assert_eq!(flights.join(A, 2, "second", now), Joined::Waits);
        assert_eq!(flights.join(A, 3, "third", now), Joined::Waits);
        // Only who does it can say that it is done.
        assert!(flights.land(A, 2, RESULT_OF_A, now).is_empty());
        assert_eq!(flights.land(A, 1, RESULT_OF_A, now), ["second", "third"]);
        let late = now + KEPT / 2;
        let joined = flights.join(A, 4, "late", late);
        assert_eq!(joined, Joined::Done("late", RESULT_OF_A));
        let much_later = now + KEPT;
        let joined = flights.join(A, 4, "again", much_later);
        assert_eq!(joined, Joined::Yours("again"));
    }

    #[test]
    fn who_fails_or_leaves_or_hangs_is_followed_by_the_next() {
        let now = monotonic();
        let mut flights = Flights::default();
        flights.join(A, 1, 1, now);
        flights.join(A, 2, 2, now);
        flights.join(A, 3, 3, now);
        assert_eq!(flights.abandon(&A, 2, now), None);
        assert_eq!(flights.abandon(&A, 1, now), Some(2));
        assert_eq!(flights.leave(2, now), [3]);
        assert_eq!(flights.join(A, 4, 4, now), Joined::Waits);
        assert!(flights.leave(4, now).is_empty());
        let slow = now + PATIENCE;
        assert_eq!(flights.join(A, 5, 5, slow), Joined::Yours(5));
        assert!(flights.land(A, 3, RESULT_OF_A, slow).is_empty());
        assert_eq!(flights.abandon(&A, 5, slow), None);
        assert!(flights.flights.is_empty());
    }

    #[test]
    fn there_is_room_for_a_bounded_number() {
        let now = monotonic();
        let mut flights = Flights::default();
        let key = |number: usize| Key::from(number.to_be_bytes().to_vec());
        for number in 0..MOST {
            assert_eq!(flights.join(key(number), 1, (), now), Joined::Yours(()));
        }
        assert_eq!(flights.join(key(MOST), 1, (), now), Joined::Full(()));
        let later = now + PATIENCE;
        assert_eq!(flights.join(key(MOST), 1, (), later), Joined::Yours(()));
        assert!(
            flights
                .land(key(MOST), 1, vec![0; RESULT + 1].into(), later)
                .is_empty()
        );
    }
}
