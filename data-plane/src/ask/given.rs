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

/// One beginning of a flight: another one of the same name has another number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Number(u64);

/// All that are under way.
#[derive(Debug, Default)]
pub(crate) struct Given(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    /// Each by its key, and since when.
    flights: HashMap<Bytes, (Number, Instant)>,
    begun: u64,
}

impl Given {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flight `key` is this process's to do.
    pub(crate) fn begins(&self, key: &[u8]) -> Number {
        let now = monotonic();
        let mut all = self.lock();
        all.begun += 1;
        let number = Number(all.begun);
        let flights = &mut all.flights;
        if flights.len() >= MOST {
            flights.retain(|_, (_, since)| is_held(*since, now));
        }
        if flights.len() < MOST {
            flights.insert(Bytes::copy_from_slice(key), (number, now));
        }
        number
    }

    /// Which beginning of the flight `key` is under way; none if it is not known to be.
    pub(crate) fn number(&self, key: &[u8]) -> Option<Number> {
        self.lock().flights.get(key).map(|(number, _)| *number)
    }

    /// It is done, or given up, and whoever gave it knows that. One of its name that has begun since goes on.
    pub(crate) fn ends(&self, key: &[u8], number: Option<Number>) {
        let mut all = self.lock();
        let known = all.flights.get(key).map(|(number, _)| *number);
        if known == number {
            all.flights.remove(key);
        }
    }

    /// All that are under way.
    pub(crate) fn all(&self) -> Vec<Bytes> {
        let now = monotonic();
        let all = self.lock();
        let held = all.flights.iter();
        let held = held.filter(|(_, (_, since))| is_held(*since, now));
        held.map(|(key, _)| key.clone()).collect()
    }
}

fn is_held(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) < PATIENCE
}
