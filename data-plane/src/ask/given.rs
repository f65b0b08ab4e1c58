//! The flights that this process does for the cluster: a control plane that starts again does not know of them, and would give
//! them to others.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use shared::clock::monotonic;

/// After which time a control plane gives a flight to somebody else.
const PATIENCE: Duration = Duration::from_mins(1);

/// Most of them: a control plane that is told of more knows no more.
const MOST: usize = 1_024;

/// Each by its key, and since when.
#[derive(Debug, Default)]
pub(crate) struct Given(Mutex<HashMap<Bytes, Instant>>);

impl Given {
    fn lock(&self) -> MutexGuard<'_, HashMap<Bytes, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flight `key` is this process's to do.
    pub(crate) fn begins(&self, key: &[u8]) {
        let now = monotonic();
        let mut all = self.lock();
        if all.len() >= MOST {
            all.retain(|_, since| is_held(*since, now));
        }
        if all.len() < MOST {
            all.insert(Bytes::copy_from_slice(key), now);
        }
    }

    /// It is done, or given up, and whoever gave it knows that.
    pub(crate) fn ends(&self, key: &[u8]) {
        self.lock().remove(key);
    }

    /// All that are under way.
    pub(crate) fn all(&self) -> Vec<Bytes> {
        let now = monotonic();
        let all = self.lock();
        let held = all.iter().filter(|(_, since)| is_held(**since, now));
        held.map(|(key, _)| key.clone()).collect()
    }
}

fn is_held(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < PATIENCE
}
