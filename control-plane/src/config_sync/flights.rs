//! Work that one node of the cluster does at a time: the first that asks does it, the others wait for
//! what it brings, and who comes late gets it too.
//!
//! A refresh token may be used once. Nodes that meet an expired session at the same time would each use
//! it, and a provider that detects that ends the session. What lands here is sealed by the node; this
//! control plane cannot read it.
//!
//! Where there are several control planes, nobody here is given work before it has been claimed from the others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use plugins::host::LONGEST_RESULT;
use prost::bytes::Bytes;

/// How long one node may take before another may try: one that is gone is known by its stream, and one that waits for a slow
/// provider is not to be followed by a second one. No longer than claims over etcd hold.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// How long a result is kept for those that come late: a browser may send its old cookie that long.
const KEPT: Duration = Duration::from_mins(1);

/// Flights that are known at once.
const MOST: usize = 10_000;

/// Flights that are known when there is no more room for those that yield: what anybody on the network can have begun keeps
/// nobody's session from being refreshed once.
const MOST_THAT_YIELD: usize = 8_000;

/// How often the known ones are looked through, in requests.
const SWEEP: u32 = 256;

/// Names a piece of work.
pub(super) type Key = Bytes;

/// The number of the claim that work is done under; 0 where none is needed, or none could be had.
pub(super) type Claim = u64;

/// Who asks: a stream of a node's process. The process does the work, and tells of it by whatever stream it has by then.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct By {
    /// Names the process.
    pub(super) process: u64,
    /// Names the stream.
    pub(super) stream: u64,
}

/// Who does what. `W` is the way to tell somebody that waits.
#[derive(Debug)]
pub(super) struct Flights<W> {
    known: HashMap<Key, Flight<W>>,
    /// Whether other control planes are to be asked first.
    shared: bool,
    asked: u32,
}

#[derive(Debug)]
enum Flight<W> {
    /// It is being claimed, or another control plane has it done. Somebody waits for the end of that.
    Elsewhere {
        waiting: Vec<(By, W)>,
    },
    /// A process does it, others wait.
    Flies {
        by: u64,
        since: Instant,
        waiting: Vec<(By, W)>,
        claim: Claim,
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
    /// The asker waits, too: the work has to be claimed first, over a claim of before if there was one.
    Claim(Claim),
    /// There is too much already.
    Full(W),
}

/// What follows when nobody here does a piece of work any more.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Next<W> {
    /// Somebody that waited does it.
    Yours(W),
    /// Nobody needs it: the claim is to be released.
    Free(Key, Claim),
    /// Somebody waits, but whoever did it may go on with it at another control plane: it has to be claimed over the claim of
    /// before.
    Claim(Key, Claim),
}

impl<W> Flights<W> {
    /// No work is known yet. `shared`: there are other control planes.
    pub(super) fn new(shared: bool) -> Self {
        Self {
            known: HashMap::new(),
            shared,
            asked: 0,
        }
    }

    /// `by` wants the work `key` done, which `yields` to other work where there is much.
    pub(super) fn join(
        &mut self,
        key: Key,
        by: By,
        yields: bool,
        asker: W,
        now: Instant,
    ) -> Joined<W> {
        let most = if yields { MOST_THAT_YIELD } else { MOST };
        self.asked = self.asked.wrapping_add(1);
        if self.asked.is_multiple_of(SWEEP) {
            self.sweep(now);
        }
        let mut over = 0;
        if let Some(flight) = self.known.get_mut(&key) {
            match flight {
                Flight::Landed { result, at } if now.duration_since(*at) < KEPT => {
                    return Joined::Done(asker, result.clone());
                }
                // It has not heard that, on the stream before.
                Flight::Flies {
                    by: doing, since, ..
                } if *doing == by.process && now.duration_since(*since) < PATIENCE => {
                    return Joined::Yours(asker);
                }
                Flight::Flies { since, waiting, .. } if now.duration_since(*since) < PATIENCE => {
                    wait(waiting, by, asker);
                    return Joined::Waits;
                }
                Flight::Elsewhere { waiting } => {
                    wait(waiting, by, asker);
                    return Joined::Waits;
                }
                // Whoever had it is slower than anyone should wait; those that wait give up by themselves.
                Flight::Flies { claim, .. } => over = *claim,
                Flight::Landed { .. } => {}
            }
        } else if self.known.len() >= most {
            self.sweep(now);
            if self.known.len() >= most {
                return Joined::Full(asker);
            }
        }
        if self.shared {
            let waiting = vec![(by, asker)];
            self.known.insert(key, Flight::Elsewhere { waiting });
            return Joined::Claim(over);
        }
        let flight = Flight::Flies {
            by: by.process,
            since: now,
            waiting: Vec::new(),
            claim: 0,
        };
        self.known.insert(key, flight);
        Joined::Yours(asker)
    }

    /// Process `by` says that it does the work `key`, which it was given by a stream that has ended: whether that is news, as
    /// for a control plane that has started since.
    pub(super) fn goes_on(&mut self, key: Key, by: u64, now: Instant) -> bool {
        let is_full = self.known.len() >= MOST;
        let waiting = match self.known.get_mut(&key) {
            None if is_full => return false,
            None => Vec::new(),
            Some(Flight::Elsewhere { waiting }) => std::mem::take(waiting),
            Some(Flight::Flies { .. } | Flight::Landed { .. }) => return false,
        };
        let flight = Flight::Flies {
            by,
            since: now,
            waiting,
            claim: 0,
        };
        self.known.insert(key, flight);
        true
    }

    /// The work `key`, which process `by` goes on with, is done under the claim `ours` from now on.
    ///
    /// # Errors
    ///
    /// If it is not done any more: what has come of it, if something has.
    pub(super) fn claimed(&mut self, key: &Key, by: u64, ours: Claim) -> Result<(), Option<Bytes>> {
        match self.known.get_mut(key) {
            Some(Flight::Flies {
                by: doing, claim, ..
            }) if *doing == by => {
                *claim = ours;
                Ok(())
            }
            Some(Flight::Landed { result, .. }) => Err(Some(result.clone())),
            _ => Err(None),
        }
    }

    /// Whether somebody waits for what other control planes make of the work `key`. If not, it is forgotten.
    pub(super) fn is_awaited(&mut self, key: &Key) -> bool {
        match self.known.get(key) {
            Some(Flight::Elsewhere { waiting }) if waiting.is_empty() => {
                self.known.remove(key);
                false
            }
            Some(Flight::Elsewhere { .. }) => true,
            Some(Flight::Flies { .. } | Flight::Landed { .. }) | None => false,
        }
    }

    /// The work `key` is to be done here, under `claim`: who does it; nobody if nobody waits for it any more.
    pub(super) fn granted(&mut self, key: &Key, claim: Claim, now: Instant) -> Option<W> {
        if !self.is_awaited(key) {
            return None;
        }
        let Some(Flight::Elsewhere { mut waiting }) = self.known.remove(key) else {
            return None;
        };
        let (by, asker) = waiting.remove(0);
        let flight = Flight::Flies {
            by: by.process,
            since: now,
            waiting,
            claim,
        };
        self.known.insert(key.clone(), flight);
        Some(asker)
    }

    /// Another control plane has had the work `key` done. Those that wait for it.
    pub(super) fn landed_elsewhere(&mut self, key: Key, result: Bytes, now: Instant) -> Vec<W> {
        if !self.is_awaited(&key) {
            return Vec::new();
        }
        let landed = Flight::Landed { result, at: now };
        match self.known.insert(key, landed) {
            Some(Flight::Elsewhere { waiting }) => waiting.into_iter().map(|(_, w)| w).collect(),
            _ => Vec::new(),
        }
    }

    /// Process `by` has done the work `key`. Those that wait for it, and the claim that it was done under; none if it
    /// was not its to do.
    pub(super) fn land(
        &mut self,
        key: Key,
        by: u64,
        result: Bytes,
        now: Instant,
    ) -> Option<(Vec<W>, Claim)> {
        match self.known.get(&key) {
            Some(Flight::Flies { by: doing, .. })
                if *doing == by && result.len() <= LONGEST_RESULT => {}
            _ => return None,
        }
        let landed = Flight::Landed { result, at: now };
        match self.known.insert(key, landed) {
            Some(Flight::Flies { waiting, claim, .. }) => {
                Some((waiting.into_iter().map(|(_, w)| w).collect(), claim))
            }
            _ => None,
        }
    }

    /// Process `by` could not do the work `key`: what follows; nothing if it was not its to do.
    pub(super) fn abandon(&mut self, key: &Key, by: u64, now: Instant) -> Option<Next<W>> {
        let Some(Flight::Flies {
            by: doing,
            since,
            waiting,
            claim,
        }) = self.known.get_mut(key)
        else {
            return None;
        };
        if *doing != by {
            return None;
        }
        if waiting.is_empty() {
            let free = Next::Free(key.clone(), *claim);
            self.known.remove(key);
            return Some(free);
        }
        let (next, asker) = waiting.remove(0);
        (*doing, *since) = (next.process, now);
        Some(Next::Yours(asker))
    }

    /// A stream is gone: who has asked by it waits no more.
    pub(super) fn leave(&mut self, stream: u64) {
        for flight in self.known.values_mut() {
            match flight {
                Flight::Elsewhere { waiting } | Flight::Flies { waiting, .. } => {
                    waiting.retain(|(by, _)| by.stream != stream);
                }
                Flight::Landed { .. } => {}
            }
        }
    }

    /// Process `by` is gone: what follows of its work.
    pub(super) fn end(&mut self, by: u64, now: Instant) -> Vec<Next<W>> {
        let is_its =
            |flight: &Flight<W>| matches!(flight, Flight::Flies { by: doing, .. } if *doing == by);
        let known = self.known.iter();
        let its: Vec<_> = known
            .filter(|(_, flight)| is_its(flight))
            .map(|(key, _)| key.clone())
            .collect();
        let follows = its.into_iter().filter_map(|key| {
            if self.shared
                && let Some(flight @ Flight::Flies { .. }) = self.known.get_mut(&key)
                && let Flight::Flies { waiting, claim, .. } = flight
                && !waiting.is_empty()
            {
                let (waiting, over) = (std::mem::take(waiting), *claim);
                *flight = Flight::Elsewhere { waiting };
                return Some(Next::Claim(key, over));
            }
            self.abandon(&key, by, now)
        });
        follows.collect()
    }

    /// Forgets what nobody needs any more.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.known.retain(|_, flight| match flight {
            Flight::Landed { at, .. } => now.duration_since(*at) < KEPT,
            Flight::Flies { since, .. } => now.duration_since(*since) < PATIENCE,
            // Whoever claims it looks after it.
            Flight::Elsewhere { .. } => true,
        });
    }
}

/// Has `by` wait. What it has asked before is not answered any more: by a stream that has ended meanwhile.
fn wait<W>(waiting: &mut Vec<(By, W)>, by: By, asker: W) {
    waiting.retain(|(other, _)| other.process != by.process);
    waiting.push((by, asker));
}

#[cfg(test)]
mod tests {
    use shared::clock::monotonic;

    use super::*;

    /// The only stream of a process.
    const fn by(number: u64) -> By {
        By {
            process: number,
            stream: number,
        }
    }

    const A: Key = Bytes::from_static(b"a");
    const RESULT_OF_A: Bytes = Bytes::from_static(b"sealed");

    #[test]
    fn one_does_it_and_all_get_what_it_brings() {
        let now = monotonic();
        let mut flights = Flights::new(false);
        assert_eq!(
            flights.join(A, by(1), false, "first", now),
            Joined::Yours("first")
        );
        assert_eq!(flights.join(A, by(2), false, "second", now), Joined::Waits);
        assert_eq!(flights.join(A, by(3), false, "third", now), Joined::Waits);
        // Only who does it can say that it is done.
        assert_eq!(flights.land(A, 2, RESULT_OF_A, now), None);
        let landed = flights.land(A, 1, RESULT_OF_A, now);
        assert_eq!(landed, Some((vec!["second", "third"], 0)));
        let late = now + KEPT / 2;
        let joined = flights.join(A, by(4), false, "late", late);
        assert_eq!(joined, Joined::Done("late", RESULT_OF_A));
        let much_later = now + KEPT;
        let joined = flights.join(A, by(4), false, "again", much_later);
        assert_eq!(joined, Joined::Yours("again"));
    }

    #[test]
    fn who_fails_or_leaves_or_hangs_is_followed_by_the_next() {
        let now = monotonic();
        let mut flights = Flights::new(false);
        flights.join(A, by(1), false, 1, now);
        flights.join(A, by(2), false, 2, now);
        flights.join(A, by(3), false, 3, now);
        assert_eq!(flights.abandon(&A, 2, now), None);
        assert_eq!(flights.abandon(&A, 1, now), Some(Next::Yours(2)));
        flights.leave(2);
        assert_eq!(flights.end(2, now), [Next::Yours(3)]);
        assert_eq!(flights.join(A, by(4), false, 4, now), Joined::Waits);
        flights.leave(4);
        assert_eq!(flights.end(4, now), []);
        let slow = now + PATIENCE;
        assert_eq!(flights.join(A, by(5), false, 5, slow), Joined::Yours(5));
        assert_eq!(flights.land(A, 3, RESULT_OF_A, slow), None);
        assert_eq!(flights.abandon(&A, 5, slow), Some(Next::Free(A, 0)));
        assert!(flights.known.is_empty());
    }

    #[test]
    fn work_is_a_processes_whatever_stream_it_has() {
        let now = monotonic();
        let on = |process, stream| By { process, stream };
        let mut flights = Flights::new(false);
        assert_eq!(flights.join(A, on(1, 1), false, 1, now), Joined::Yours(1));
        assert_eq!(flights.join(A, on(2, 2), false, 2, now), Joined::Waits);
        // Both have new streams: the one that does it may not know that it does, the other one waits once.
        flights.leave(1);
        assert_eq!(flights.join(A, on(1, 3), false, 3, now), Joined::Yours(3));
        assert_eq!(flights.join(A, on(2, 4), false, 4, now), Joined::Waits);
        flights.leave(2);
        let landed = flights.land(A, 1, RESULT_OF_A, now);
        assert_eq!(landed, Some((vec![4], 0)));
        // What it never did it is not given again without a claim.
        let mut flights = Flights::new(true);
        assert_eq!(flights.join(A, on(1, 1), false, 1, now), Joined::Claim(0));
        assert_eq!(flights.granted(&A, 7, now), Some(1));
        let slow = now + PATIENCE;
        assert_eq!(flights.join(A, on(1, 2), false, 2, slow), Joined::Claim(7));
    }

    #[test]
    fn work_goes_on_that_a_control_plane_did_not_know_of() {
        let now = monotonic();
        let mut flights = Flights::new(false);
        assert!(flights.goes_on(A, 1, now));
        assert!(!flights.goes_on(A, 1, now) && !flights.goes_on(A, 2, now));
        assert_eq!(flights.join(A, by(2), false, 2, now), Joined::Waits);
        let landed = flights.land(A, 1, RESULT_OF_A, now);
        assert_eq!(landed, Some((vec![2], 0)));
        assert!(!flights.goes_on(A, 1, now), "it is done");
        // Who waits for what another control plane has done waits for this one.
        let mut flights = Flights::new(true);
        assert_eq!(flights.join(A, by(2), false, 2, now), Joined::Claim(0));
        assert!(flights.goes_on(A, 1, now));
        assert_eq!(flights.granted(&A, 7, now), None);
        assert_eq!(flights.claimed(&A, 2, 8), Err(None));
        assert_eq!(flights.claimed(&A, 1, 8), Ok(()));
        let landed = flights.land(A, 1, RESULT_OF_A, now);
        assert_eq!(landed, Some((vec![2], 8)));
        assert_eq!(flights.claimed(&A, 1, 9), Err(Some(RESULT_OF_A)));
    }

    #[test]
    fn work_of_a_process_that_is_gone_is_claimed_before_another_does_it() {
        let now = monotonic();
        let mut flights = Flights::new(true);
        assert_eq!(flights.join(A, by(1), false, 1, now), Joined::Claim(0));
        assert_eq!(flights.granted(&A, 7, now), Some(1));
        assert_eq!(flights.join(A, by(2), false, 2, now), Joined::Waits);
        // It may be at another control plane by now.
        assert_eq!(flights.end(1, now), [Next::Claim(A, 7)]);
        assert_eq!(flights.granted(&A, 8, now), Some(2));
        assert_eq!(flights.end(2, now), [Next::Free(A, 8)]);
    }

    #[test]
    fn there_is_room_for_a_bounded_number() {
        let now = monotonic();
        let mut flights = Flights::new(false);
        let key = |number: usize| Key::from(number.to_be_bytes().to_vec());
        for number in 0..MOST {
            assert_eq!(
                flights.join(key(number), by(1), false, (), now),
                Joined::Yours(())
            );
        }
        assert_eq!(
            flights.join(key(MOST), by(1), false, (), now),
            Joined::Full(())
        );
        // Work that yields has had to stop before.
        let mut flights = Flights::new(false);
        for number in 0..MOST_THAT_YIELD {
            assert_eq!(
                flights.join(key(number), by(1), true, (), now),
                Joined::Yours(())
            );
        }
        let next = || key(MOST_THAT_YIELD);
        assert_eq!(flights.join(next(), by(1), true, (), now), Joined::Full(()));
        assert_eq!(
            flights.join(next(), by(1), false, (), now),
            Joined::Yours(())
        );
        let later = now + PATIENCE;
        assert_eq!(
            flights.join(key(MOST), by(1), false, (), later),
            Joined::Yours(())
        );
        let vast = vec![0; LONGEST_RESULT + 1].into();
        assert_eq!(flights.land(key(MOST), 1, vast, later), None);
    }

    #[test]
    fn among_several_control_planes_work_is_claimed_before_anyone_does_it() {
        let now = monotonic();
        let mut flights = Flights::new(true);
        assert_eq!(
            flights.join(A, by(1), false, "first", now),
            Joined::Claim(0)
        );
        assert_eq!(flights.join(A, by(2), false, "second", now), Joined::Waits);
        assert_eq!(flights.join(A, by(3), false, "third", now), Joined::Waits);
        // Nobody does it yet, so nobody can have done it.
        assert_eq!(flights.land(A, 1, RESULT_OF_A, now), None);
        // The first of those that are still there does it, under the claim.
        flights.leave(1);
        assert_eq!(flights.granted(&A, 7, now), Some("second"));
        assert_eq!(flights.abandon(&A, 2, now), Some(Next::Yours("third")));
        assert_eq!(flights.abandon(&A, 3, now), Some(Next::Free(A, 7)));

        // What another brings is for all that wait, and for who comes late.
        assert_eq!(
            flights.join(A, by(1), false, "first", now),
            Joined::Claim(0)
        );
        assert_eq!(flights.join(A, by(2), false, "second", now), Joined::Waits);
        let told = flights.landed_elsewhere(A, RESULT_OF_A, now);
        assert_eq!(told, ["first", "second"]);
        assert_eq!(flights.granted(&A, 8, now), None);
        let joined = flights.join(A, by(3), false, "late", now);
        assert_eq!(joined, Joined::Done("late", RESULT_OF_A));

        // One that hangs is followed under a claim over its own.
        let later = now + KEPT;
        assert_eq!(
            flights.join(A, by(1), false, "first", later),
            Joined::Claim(0)
        );
        assert_eq!(flights.granted(&A, 9, later), Some("first"));
        let slow = later + PATIENCE;
        assert_eq!(
            flights.join(A, by(2), false, "second", slow),
            Joined::Claim(9)
        );
        // Work that nobody waits for any more is not looked after.
        assert!(flights.is_awaited(&A));
        flights.leave(2);
        assert!(!flights.is_awaited(&A) && flights.known.is_empty());
    }
}
