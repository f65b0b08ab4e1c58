//! The work that this process does for the whole cluster. A control plane that has just restarted does not know of it
//! and would give it to others.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use plugins::host::Number;
use shared::clock::monotonic;
use tokio::sync::oneshot;

/// After which time a control plane gives a flight to somebody else.
const PATIENCE: Duration = Duration::from_mins(1);

/// Most of them: a control plane that is told of more knows no more.
const MOST: usize = 1_024;

/// Most of them whose result is kept for control planes that start: the newest, which somebody asks for next.
pub(super) const LANDED: usize = 256;

/// KiB of results that are kept for that.
const ROOM: u32 = 8 * 1024;

/// What a flight is called.
pub(crate) type Key = [u8; 32];

/// All that are under way, and those whose result is kept.
#[derive(Debug, Default)]
pub(crate) struct Given(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    /// Each by its key.
    flights: HashMap<Bytes, Flight>,
    landed: usize,
    /// KiB of their results.
    kept: u32,
    begun: u64,
    /// Those that the process before this one did, and until when nobody else does them.
    before: HashMap<Bytes, Instant>,
}

#[derive(Debug)]
struct Flight {
    number: Number,
    /// Since when it is under way, or its result is kept.
    since: Instant,
    /// Whether it has been given up; the control plane that gave it does not know yet.
    is_given_up: bool,
    /// Its result, if it has landed and that is kept.
    kept: Option<Kept>,
}

/// A result that is kept elsewhere, which hears when it is not to be any more.
#[derive(Debug)]
struct Kept {
    kib: u32,
    _held: oneshot::Sender<()>,
}

impl Flight {
    fn is_held(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < PATIENCE
    }
}

impl All {
    fn remove(&mut self, key: &[u8]) {
        let removed = self.flights.remove(key);
        if let Some(kept) = removed.and_then(|flight| flight.kept) {
            self.landed -= 1;
            self.kept -= kept.kib;
        }
    }

    /// The result that is kept for the longest time.
    fn oldest(&self) -> Option<Bytes> {
        let landed = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.kept.is_some());
        let oldest = landed.min_by_key(|(_, flight)| (flight.since, flight.number.0));
        oldest.map(|(key, _)| key.clone())
    }
}

impl Given {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The flight `key` is this process's to do: which beginning of it that is, unless there are too many.
    pub(crate) fn begins(&self, key: &[u8]) -> Number {
        let now = monotonic();
        let mut all = self.lock();
        all.begun += 1;
        let number = Number(all.begun);
        all.remove(key);
        if all.flights.len() >= MOST {
            // Whoever does these comes first.
            (all.landed, all.kept) = (0, 0);
            all.flights
                .retain(|_, flight| flight.kept.is_none() && flight.is_held(now));
        }
        if all.flights.len() >= MOST {
            return Number::default();
        }
        let flight = Flight {
            number,
            since: now,
            is_given_up: false,
            kept: None,
        };
        all.flights.insert(Bytes::copy_from_slice(key), flight);
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
        flight.is_some_and(|flight| flight.kept.is_none() && flight.is_held(now))
    }

    /// It is done, and whoever gave it knows that: its result, of so many `kib`, is kept for those that start since, for a minute,
    /// or until newer ones need the room, which ends what is given back. `None`: it is too long, or one of its name has begun
    /// since.
    pub(crate) fn lands(
        &self,
        key: &[u8],
        number: Number,
        kib: u32,
    ) -> Option<oneshot::Receiver<()>> {
        let mut all = self.lock();
        let flight = all.flights.get(key)?;
        if flight.number != number || flight.kept.is_some() || kib > ROOM {
            return None;
        }
        while all.landed >= LANDED || all.kept + kib > ROOM {
            let oldest = all.oldest()?;
            all.remove(&oldest);
        }
        let (held, is_over) = oneshot::channel();
        let flight = all.flights.get_mut(key)?;
        flight.since = monotonic();
        flight.kept = Some(Kept { kib, _held: held });
        all.landed += 1;
        all.kept += kib;
        Some(is_over)
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

    /// It has been given up, which nobody has heard yet.
    pub(super) fn gives_up(&self, key: &[u8], number: Number) {
        let mut all = self.lock();
        let flight = all.flights.get_mut(key);
        if let Some(flight) = flight.filter(|flight| flight.number == number) {
            flight.is_given_up = true;
        }
    }

    /// The process before this one does those called `keys`, or has done them a moment ago. One that it names again is not its
    /// own for longer.
    pub(crate) fn are_of_another(&self, keys: &[Key]) {
        let now = monotonic();
        let mut all = self.lock();
        all.before.retain(|_, until| now < *until);
        for key in keys {
            let key = Bytes::copy_from_slice(key);
            all.before.entry(key).or_insert(now + PATIENCE);
        }
    }

    /// Whether it does `key`: with both at it, a token would be spent twice.
    pub(crate) fn is_of_another(&self, key: &[u8]) -> bool {
        let now = monotonic();
        let all = self.lock();
        all.before.get(key).is_some_and(|until| now < *until)
    }

    /// Those that a process in the place of this one is not to do, too: what is under way or has a result, here or in the process
    /// before this one. What has been given up may be done again.
    pub(crate) fn spent(&self) -> Vec<Bytes> {
        let now = monotonic();
        let all = self.lock();
        let ours = all.flights.iter();
        let ours = ours.filter(|(_, flight)| flight.is_held(now) && !flight.is_given_up);
        let before = all.before.iter().filter(|(_, until)| now < **until);
        let keys = ours.map(|(key, _)| key);
        keys.chain(before.map(|(key, _)| key)).cloned().collect()
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
