//! The flights that this process does for the cluster: a control plane that starts again does not know of them, and would give
//! them to others.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use plugins::host::Number;
use shared::clock::monotonic;

/// After which time a control plane gives a flight to somebody else.
const PATIENCE: Duration = Duration::from_mins(1);

/// Most of them: a control plane that is told of more knows no more.
const MOST: usize = 1_024;

/// Most of them whose result is kept for control planes that start.
const LANDED: usize = 256;

/// All that are under way, and those whose result is kept.
#[derive(Debug, Default)]
pub(crate) struct Given(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    /// Each by its key.
    flights: HashMap<Bytes, Flight>,
    landed: usize,
    begun: u64,
}

#[derive(Debug)]
struct Flight {
    number: Number,
    /// Since when it is under way, or its result is kept.
    since: Instant,
    has_landed: bool,
}

impl Flight {
    fn is_held(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < PATIENCE
    }
}

impl All {
    fn remove(&mut self, key: &[u8]) {
        if self
            .flights
            .remove(key)
            .is_some_and(|flight| flight.has_landed)
        {
            self.landed -= 1;
        }
    }
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
        all.remove(key);
        if all.flights.len() >= MOST {
            // Whoever does these comes first.
            all.landed = 0;
            all.flights
                .retain(|_, flight| !flight.has_landed && flight.is_held(now));
        }
        if all.flights.len() < MOST {
            let flight = Flight {
                number,
                since: now,
                has_landed: false,
            };
            all.flights.insert(Bytes::copy_from_slice(key), flight);
        }
        number
    }

    /// Which beginning of the flight `key` is under way, or has its result kept; 0 if none is known to be.
    pub(crate) fn number(&self, key: &[u8]) -> Number {
        let all = self.lock();
        all.flights
            .get(key)
            .map(|flight| flight.number)
            .unwrap_or_default()
    }

    /// Whether the flight `key` is this process's to do already, and not done yet.
    pub(crate) fn is_under_way(&self, key: &[u8]) -> bool {
        let now = monotonic();
        let all = self.lock();
        let flight = all.flights.get(key);
        flight.is_some_and(|flight| !flight.has_landed && flight.is_held(now))
    }

    /// It is done, and whoever gave it knows that: whether its result is kept, for a minute, for those that start since. Not if
    /// there are too many, or if one of its name has begun since.
    pub(crate) fn lands(&self, key: &[u8], number: Number) -> bool {
        let mut all = self.lock();
        let has_room = all.landed < LANDED;
        match all.flights.get_mut(key) {
            Some(flight) if flight.number == number && has_room && !flight.has_landed => {
                (flight.since, flight.has_landed) = (monotonic(), true);
                all.landed += 1;
                true
            }
            _ => false,
        }
    }

    /// It is done, or given up, and nothing of it is kept. One of its name that has begun since goes on.
    pub(crate) fn ends(&self, key: &[u8], number: Number) {
        let mut all = self.lock();
        if all
            .flights
            .get(key)
            .is_some_and(|flight| flight.number == number)
        {
            all.remove(key);
        }
    }

    /// All that are this process's by right.
    pub(crate) fn all(&self) -> Vec<Bytes> {
        let now = monotonic();
        let all = self.lock();
        let held = all.flights.iter();
        let held = held.filter(|(_, flight)| flight.is_held(now));
        held.map(|(key, _)| key.clone()).collect()
    }
}
