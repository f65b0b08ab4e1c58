//! Looks at what others have committed, where they write to the same store.

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
}

impl Looks {
    pub(super) fn hear(&self, at: Instant) {
        *self.heard.write().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// Whether changes of others may have gone unseen for long at `now`. A task that looks cannot tell: it may have stood
    /// still.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
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
