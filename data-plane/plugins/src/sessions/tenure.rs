//! How long a client that was let through may go on with what it has begun: an answer that streams, a
//! WebSocket.
//!
//! A request is looked at once, when it comes. What it begins may last for hours, and is looked at again
//! and again: it ends with the session or the token that it was let through by.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use shared::clock::UnixTime;
use uuid::Uuid;

use crate::sessions::revocations::Revocations;

/// What a request was let through by.
#[derive(Debug)]
pub struct Tenure {
    /// What a revocation may call it by; of a session, first its own name.
    pub names: Vec<Uuid>,
    /// When it began.
    pub began_at: UnixTime,
    /// The epoch that it began in. `None`: it has none, or the time stands for it.
    pub epoch: Option<Epoch>,
    /// When it ends by itself. `None`: never.
    pub end: Option<UnixTime>,
}

impl Tenure {
    /// That of a token, which nobody but time ends.
    pub fn until(end: Option<UnixTime>) -> Self {
        Self {
            names: Vec::new(),
            began_at: UnixTime::from_millis(0),
            epoch: None,
            end,
        }
    }

    /// Whether it was ended before its time.
    pub fn is_ended(&self, revocations: &Revocations) -> bool {
        let of_before = |epoch: Epoch| revocations.epoch(epoch.of) > epoch.number;
        self.epoch.is_some_and(of_before) || revocations.end(&self.names, self.began_at)
    }
}

/// Which of the ends of something, all of which end whatever it began before, was known last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Epoch {
    /// What revocations call it.
    pub of: Uuid,
    /// See [`Revocations::epoch`].
    pub number: u64,
}

/// The sessions of a node that streams go on with, and when each ends: a session that is renewed
/// meanwhile goes on.
#[derive(Debug, Default)]
pub struct Renewals(Mutex<HashMap<Uuid, Weak<AtomicU64>>>);

impl Renewals {
    /// Notes that the session `name` lasts until `end` now.
    pub(crate) fn note(&self, name: Uuid, end: Option<UnixTime>) {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = known.get(&name).and_then(Weak::upgrade) {
            watched.fetch_max(milliseconds(end), Ordering::Relaxed);
        }
    }

    /// Begins to watch over `tenure`.
    pub fn watch(&self, tenure: Rc<Tenure>) -> Watched {
        let end = milliseconds(tenure.end);
        let Some(name) = tenure.names.first() else {
            let end = Arc::new(AtomicU64::new(end));
            return Watched { tenure, end };
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = if let Some(shared) = known.get(name).and_then(Weak::upgrade) {
            shared.fetch_max(end, Ordering::Relaxed);
            shared
        } else {
            if known.len().is_power_of_two() {
                known.retain(|_, watched| watched.strong_count() > 0);
            }
            let shared = Arc::new(AtomicU64::new(end));
            known.insert(*name, Arc::downgrade(&shared));
            shared
        };
        drop(known);
        Watched {
            tenure,
            end: shared,
        }
    }
}

/// A tenure that something lasts by.
#[derive(Debug)]
pub struct Watched {
    tenure: Rc<Tenure>,
    /// When it ends, in milliseconds since 1970.
    end: Arc<AtomicU64>,
}

impl Watched {
    /// Whether it is over at `now`.
    pub fn is_over(&self, revocations: &Revocations, now: UnixTime) -> bool {
        now.as_millis() >= self.end.load(Ordering::Relaxed) || self.tenure.is_ended(revocations)
    }
}

fn milliseconds(end: Option<UnixTime>) -> u64 {
    end.map_or(u64::MAX, UnixTime::as_millis)
}

#[cfg(test)]
mod tests {
    use shared::entity::Revocation;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_000);

    fn tenure(name: u128, end: Option<u64>) -> Rc<Tenure> {
        Rc::new(Tenure {
            names: vec![Uuid::from_u128(name)],
            began_at: NOW,
            epoch: None,
            end: end.map(UnixTime::from_secs),
        })
    }

    #[test]
    fn rule_95_what_was_begun_ends_with_its_session_or_when_that_is_revoked() {
        let (renewals, revocations) = (Renewals::default(), Revocations::default());
        let at = |seconds| UnixTime::from_secs(seconds);
        let first = renewals.watch(tenure(1, Some(1_100)));
        let second = renewals.watch(tenure(1, Some(1_050)));
        let other = renewals.watch(tenure(2, None));
        let over = |seconds| {
            [&first, &second, &other].map(|watched| watched.is_over(&revocations, at(seconds)))
        };
        // What one stream knows of a session, the others know too.
        assert_eq!(over(1_099), [false; 3]);
        assert_eq!(over(1_100), [true, true, false]);
        renewals.note(Uuid::from_u128(1), Some(at(1_200)));
        renewals.note(Uuid::from_u128(3), Some(at(1_200)));
        assert_eq!(over(1_199), [false; 3]);
        assert_eq!(over(1_200), [true, true, false]);
        let revocation = Revocation {
            id: Uuid::from_u128(2),
            before: 1_000_000,
            expires_at: 9_000,
        };
        revocations.add([revocation], NOW);
        assert_eq!(over(1_150), [false, false, true]);
    }

    #[test]
    fn what_began_in_an_epoch_of_before_is_over_whatever_the_clocks_say() {
        let (revocations, of) = (Revocations::default(), Uuid::from_u128(9));
        let begun = |before: &Revocations, began_at| Tenure {
            names: Vec::new(),
            began_at: UnixTime::from_secs(began_at),
            epoch: Some(Epoch {
                of,
                number: before.epoch(of),
            }),
            end: None,
        };
        let first = begun(&revocations, 9_000);
        for (before, expires_at) in [(500_000, 20_000), (3_000_000, 20_000)] {
            assert!(!begun(&revocations, 1).is_ended(&revocations));
            let known = begun(&revocations, 9_000);
            let revocation = Revocation {
                id: of,
                before,
                expires_at,
            };
            revocations.add([revocation], NOW);
            assert!(known.is_ended(&revocations) && first.is_ended(&revocations));
            assert!(!begun(&revocations, 1).is_ended(&revocations));
        }
    }

    #[test]
    fn a_session_that_nothing_goes_on_with_is_forgotten() {
        let renewals = Renewals::default();
        for name in 0..100 {
            drop(renewals.watch(tenure(name, None)));
        }
        assert!(renewals.0.lock().unwrap().len() < 3);
    }

    #[test]
    fn a_token_ends_by_itself() {
        let (renewals, revocations) = (Renewals::default(), Revocations::default());
        let token = renewals.watch(Rc::new(Tenure::until(Some(NOW))));
        assert!(token.is_over(&revocations, NOW));
        let endless = renewals.watch(Rc::new(Tenure::until(None)));
        assert!(!endless.is_over(&revocations, UnixTime::from_secs(u64::MAX / 1_000)));
    }
}
