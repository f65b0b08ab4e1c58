//! Polls for commits that other control planes have made to the same store.

use std::sync::atomic::AtomicU64;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::JournalFault;

/// For how long it may not have been looked for what others have committed: ten looks.
const SILENT: Duration = Duration::from_secs(1);

/// When it was looked for what others have committed.
#[derive(Default)]
pub(super) struct Looks {
    pub(super) begun: AtomicU64,
    /// The last one that has ended. Held by whoever looks.
    pub(super) ended: tokio::sync::Mutex<u64>,
    /// Why the last one failed, if it did. Then nobody waits for the next one.
    failing: RwLock<Option<JournalFault>>,
    /// When the last one began that did not fail: later changes of others may not be known. None: a start has read it all.
    heard: RwLock<Option<Instant>>,
    /// Until when changes of others may have gone unseen for long, the last time. None: never.
    missed: RwLock<Option<Instant>>,
}

impl Looks {
    /// At `now` everything is known that was committed up to `at`.
    pub(super) fn hear(&self, at: Instant, now: Instant) {
        if self.is_stale(now) {
            *self.missed.write().unwrap_or_else(PoisonError::into_inner) = Some(now);
        }
        *self.heard.write().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// Until when changes of others may have gone unseen for long, up to `now`; none if they never have.
    pub(super) fn missed(&self, now: Instant) -> Option<Instant> {
        if self.is_stale(now) {
            return Some(now);
        }
        *self.missed.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether changes of others may be unseen at `now`: the last look failed, or was long ago.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.failing().is_some() || self.is_silent(now)
    }

    /// Whether changes of others may have gone unseen for long at `now`. A task that looks cannot tell: it may have stood
    /// still.
    fn is_silent(&self, now: Instant) -> bool {
        let heard = *self.heard.read().unwrap_or_else(PoisonError::into_inner);
        heard.is_some_and(|heard| now.saturating_duration_since(heard) >= SILENT)
    }

    pub(super) fn note(&self, fault: Option<JournalFault>) {
        let failing = self.failing.write();
        *failing.unwrap_or_else(PoisonError::into_inner) = fault;
    }

    pub(super) fn failing(&self) -> Option<JournalFault> {
        let failing = self.failing.read();
        failing.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use shared::clock::monotonic;

    use super::*;

    #[test]
    fn an_outage_is_remembered_that_is_over() {
        let start = monotonic();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let looks = Looks::default();
        looks.hear(at(0), at(10));
        looks.hear(at(900), at(990));
        assert_eq!(looks.missed(at(1_899)), None);
        // Nobody looks: it stood still, or etcd takes its time.
        assert_eq!(looks.missed(at(1_900)), Some(at(1_900)));
        looks.hear(at(1_950), at(2_000));
        assert_eq!(looks.missed(at(2_100)), Some(at(2_000)));
        looks.hear(at(2_100), at(2_110));
        assert_eq!(looks.missed(at(2_120)), Some(at(2_000)));
        // Looks fail.
        looks.note(Some(JournalFault::Unreachable("none".to_owned())));
        assert_eq!(looks.missed(at(2_200)), Some(at(2_200)));
        looks.hear(at(2_300), at(2_310));
        looks.note(None);
        assert_eq!(looks.missed(at(2_400)), Some(at(2_310)));
    }
}
