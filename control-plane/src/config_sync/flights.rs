//! Work that one node of the cluster does at a time: the first to ask does it, the others wait for its result, and
//! latecomers get the result too.
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
pub(super) const MOST: usize = 10_000;

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
        is_sure: bool,
    },
    Landed {
        result: Bytes,
        at: Instant,
    },
}

/// What comes of asking for work.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Joined<W> {
    /// The asker does it; whether that is sure.
    Yours(W, bool),
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
    /// Somebody that waited does it; whether that is sure.
    Yours(W, bool),
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
                    by: doing,
                    since,
                    is_sure,
                    ..
                } if *doing == by.process && now.duration_since(*since) < PATIENCE => {
                    return Joined::Yours(asker, *is_sure);
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
            is_sure: true,
        };
        self.known.insert(key, flight);
        Joined::Yours(asker, true)
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
            // Another control plane may have given it to somebody meanwhile.
            is_sure: !self.shared,
        };
        self.known.insert(key, flight);
        true
    }

    /// The work `key`, which somebody goes on with, is done under the claim `ours` from now on, whoever is at it by then.
    ///
    /// # Errors
    ///
    /// If nobody is at it without a claim any more: what has come of it, if something has.
    pub(super) fn claimed(&mut self, key: &Key, ours: Claim) -> Result<(), Option<Bytes>> {
        match self.known.get_mut(key) {
            Some(Flight::Flies { claim, .. }) if *claim == 0 => {
                *claim = ours;
                Ok(())
            }
            Some(Flight::Landed { result, .. }) => Err(Some(result.clone())),
            _ => Err(None),
        }
    }

    /// Whether the work `key` is done without a claim, or was: nobody else knows of it.
    pub(super) fn lacks_claim(&self, key: &Key) -> bool {
        match self.known.get(key) {
            Some(Flight::Flies { claim, .. }) => *claim == 0,
            Some(Flight::Landed { .. }) => true,
            Some(Flight::Elsewhere { .. }) | None => false,
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

    /// The work `key` is to be done here, under `claim`: who does it; nobody if nobody waits for it any more. `is_sure`: no other
    /// control plane has given it to anybody.
    pub(super) fn granted(
        &mut self,
        key: &Key,
        (claim, is_sure): (Claim, bool),
        now: Instant,
    ) -> Option<W> {
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
            is_sure,
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
            is_sure,
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
        Some(Next::Yours(asker, *is_sure))
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
    fn sweep(&mut self, now: Instant) {
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
mod tests;
