//! The counts of one node. A client's counts stand together behind one lock, which is held for some
//! nanoseconds and contended only by requests of the same client: so that cores together let through
//! exactly as many as the limit says.

use std::cell::OnceCell;
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::sync::Cache;
use shared::clock::UnixTime;
use uuid::Uuid;

use super::period::PERIODS;
use super::{Limit, Period};
use crate::host::Host;
use crate::succession::{Succeeded, chunk, number};

/// Clients that are remembered, of all plugins together. Beyond, some are forgotten that have come but once of late, and are
/// counted from nothing; who comes often stays.
const CLIENTS: usize = 200_000;

/// What they begin with when they are given: an earlier build gives them in another form, which is left.
const FORMAT: &[u8; 8] = b"counters";

/// The counts of all clients.
pub(crate) struct Counters(Cache<u128, Arc<Mutex<Vec<Window>>>>);

impl Default for Counters {
    fn default() -> Self {
        Self(Cache::new(CLIENTS))
    }
}

/// Requests of one client in one period.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    period: Period,
    start: u64,
    pub(crate) count: u64,
}

impl Window {
    /// The one of `period` that `now` lies in, without a request.
    fn of(period: Period, now: UnixTime) -> Self {
        Self {
            period,
            start: period.start(now),
            count: 0,
        }
    }

    /// Whether both are of the same time.
    fn is_same(&self, other: &Self) -> bool {
        (self.period, self.start) == (other.period, other.start)
    }

    /// Whether it has ended, or is yet to come.
    fn is_over(&self, now: UnixTime) -> bool {
        self.start != self.period.start(now)
    }
}

/// What a client has used before this request, by limit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Usage {
    pub(crate) before: Vec<u64>,
    /// The longest period whose limit was reached: this request was not counted.
    pub(crate) exceeded: Option<Period>,
}

impl Usage {
    pub(crate) fn new(limits: &[Limit], before: Vec<u64>) -> Self {
        let reached = limits.iter().zip(&before).rev();
        Self {
            exceeded: reached
                .filter(|(limit, used)| **used >= limit.most)
                .map(|(limit, _)| limit.period)
                .next(),
            before,
        }
    }
}

/// The node's counts, as one core holds them.
#[derive(Default)]
struct Held(OnceCell<Arc<Counters>>);

impl Counters {
    /// Those of the node that `host` belongs to.
    pub(crate) fn of(host: &impl Host) -> Arc<Self> {
        let held = host.core_state::<Held>();
        Arc::clone(held.0.get_or_init(|| host.node_state()))
    }

    /// Counts a request of `client`, unless it has none left.
    pub(crate) fn count(
        &self,
        instance: Uuid,
        client: &str,
        limits: &[Limit],
        now: UnixTime,
    ) -> Usage {
        let periods = limits.iter().map(|limit| limit.period);
        self.with(instance, client, periods, now, |windows| {
            let before = windows.iter().map(|window| window.count).collect();
            let usage = Usage::new(limits, before);
            if usage.exceeded.is_none() {
                for window in windows {
                    window.count += 1;
                }
            }
            usage
        })
    }

    /// Shows the counts of `client` in the `periods` that `now` lies in to `look`, which may change them.
    pub(crate) fn with<T>(
        &self,
        instance: Uuid,
        client: &str,
        periods: impl ExactSizeIterator<Item = Period>,
        now: UnixTime,
        look: impl FnOnce(&mut [Window]) -> T,
    ) -> T {
        let key = key(instance, client);
        let windows = self.0.get(&key).unwrap_or_else(|| {
            let made = Arc::new(Mutex::new(Vec::with_capacity(periods.len())));
            // Another core may have made one meanwhile.
            match self
                .0
                .get_or_insert_with(&key, || Ok::<_, ()>(Arc::clone(&made)))
            {
                Ok(kept) => kept,
                Err(()) => made,
            }
        });
        let mut windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
        // The plugin may have been given other limits.
        windows.truncate(periods.len());
        for (place, period) in periods.enumerate() {
            let now = Window::of(period, now);
            match windows.get_mut(place) {
                Some(window) if window.is_same(&now) => {}
                Some(window) => *window = now,
                None => windows.push(now),
            }
        }
        look(&mut windows)
    }
}

impl Succeeded for Counters {
    fn give(&self, now: UnixTime) -> Vec<u8> {
        let mut given = FORMAT.to_vec();
        for (client, windows) in self.0.iter() {
            let windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
            if windows
                .iter()
                .all(|window| window.count == 0 || window.is_over(now))
            {
                continue;
            }
            let Ok(length) = u8::try_from(windows.len()) else {
                continue;
            };
            given.extend(client.to_be_bytes());
            given.push(length);
            for window in windows.iter() {
                given.extend(window.period.seconds().to_be_bytes());
                given.extend(window.start.to_be_bytes());
                given.extend(window.count.to_be_bytes());
            }
        }
        given
    }

    fn take(&self, given: &[u8], now: UnixTime) {
        let Some(mut given) = given.strip_prefix(FORMAT) else {
            return;
        };
        while let Some((client, windows)) = next_client(&mut given) {
            let made = || Ok::<_, ()>(Arc::new(Mutex::new(windows.clone())));
            let Ok(ours) = self.0.get_or_insert_with(&client, made) else {
                continue;
            };
            let mut ours = ours.lock().unwrap_or_else(PoisonError::into_inner);
            for (ours, given) in ours.iter_mut().zip(&windows) {
                if ours.is_same(given) {
                    // What both processes have counted is mostly the same.
                    ours.count = ours.count.max(given.count);
                } else if ours.is_over(now) {
                    *ours = *given;
                }
            }
            // Of a client that is counted for the first time in this moment.
            let unknown = windows.get(ours.len()..).unwrap_or_default();
            ours.extend_from_slice(unknown);
        }
    }
}

/// A client from the front of what is `given`, and its counts.
fn next_client(given: &mut &[u8]) -> Option<(u128, Vec<Window>)> {
    let client = u128::from_be_bytes(chunk(given)?);
    let [length] = chunk(given)?;
    let windows = (0..length).map(|_| {
        let seconds = number(given)?;
        Some(Window {
            period: *PERIODS.iter().find(|one| one.seconds() == seconds)?,
            start: number(given)?,
            count: number(given)?,
        })
    });
    Some((client, windows.collect::<Option<_>>()?))
}

/// Half of a hash: what a client says of itself may be long.
pub(super) fn key(instance: Uuid, client: &str) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(instance.as_bytes()).update(client.as_bytes());
    let (half, _) = hasher
        .finalize()
        .as_bytes()
        .split_first_chunk::<16>()
        .map(|(half, rest)| (*half, rest.len()))
        .unwrap_or_default();
    u128::from_be_bytes(half)
}

#[cfg(test)]
mod tests {
    use super::super::Number;
    use super::*;

    #[test]
    fn the_next_process_goes_on_with_what_was_counted() {
        let (before, after) = (Counters::default(), Counters::default());
        let limits =
            [Period::Minute, Period::Hour].map(|period| Limit::new(period, &Number(9.into())));
        let now = UnixTime::from_secs(1_000_000);
        let count = |counters: &Counters, client: &str, now| {
            counters.count(Uuid::nil(), client, &limits, now).before
        };
        for number in 0..3 {
            assert_eq!(count(&before, "a", now), [number; 2]);
        }
        assert_eq!(count(&before, "b", now), [0; 2]);
        let given = before.give(now);
        // What is cut off is left.
        after.take(&given[..given.len() - 1], now);
        assert_eq!(after.0.len(), 1);
        after.take(&given, now);
        assert_eq!(count(&after, "a", now), [3; 2]);
        // It is told again as the process before ends, and has counted less since.
        after.take(&before.give(now), now);
        assert_eq!(count(&after, "a", now), [4; 2]);
        assert_eq!(count(&before, "b", now), [1; 2]);
        after.take(&before.give(now), now);
        assert_eq!(count(&after, "b", now), [2; 2]);
        // A minute later the hour goes on.
        let later = now.saturating_add(std::time::Duration::from_mins(1));
        assert_eq!(count(&after, "a", later), [0, 5]);
        after.take(&before.give(later), later);
        assert_eq!(count(&after, "a", later), [1, 6]);
        // Other limits begin anew, and those of before are no part of them.
        for (other, begun) in [
            ([Period::Day, Period::Hour], [0, 7]),
            ([Period::Month; 2], [0; 2]),
        ] {
            let other = other.map(|period| Limit::new(period, &Number(9.into())));
            let count = || after.count(Uuid::nil(), "a", &other, later).before;
            assert_eq!(count(), begun);
            let counted = begun.map(|count| count + 1);
            after.take(&before.give(later), later);
            assert_eq!(count(), counted);
        }
    }

    #[test]
    fn what_is_over_is_not_given_and_takes_nobodys_place() {
        let limits = [Limit::new(Period::Minute, &Number(9.into()))];
        let now = UnixTime::from_secs(1_000_000);
        let later = now.saturating_add(std::time::Duration::from_mins(1));
        let (before, after) = (Counters::default(), Counters::default());
        before.count(Uuid::nil(), "a", &limits, now);
        let given = before.give(now);
        before.count(Uuid::nil(), "b", &limits, later);
        let later_given = before.give(later);
        assert_eq!(later_given.len(), given.len(), "of one client each");
        after.take(&later_given, later);
        assert_eq!(after.0.len(), 1);
        // What an earlier build gives.
        after.take(&given[FORMAT.len()..], now);
        assert_eq!(after.0.len(), 1);
    }

    #[test]
    fn so_many_clients_are_remembered_and_who_comes_often_among_them() {
        assert_eq!(Counters::default().0.capacity(), 200_000);
        let counters = Counters(Cache::new(1_000));
        let limits = [Limit::new(Period::Hour, &Number(1_000_000.into()))];
        let now = UnixTime::from_secs(1_000_000);
        let count = |client: &str| counters.count(Uuid::nil(), client, &limits, now).before;
        for number in 0..20_000 {
            assert_eq!(count("often"), [number]);
            assert_eq!(count(&number.to_string()), [0]);
        }
        let kept = u64::try_from(counters.0.len()).unwrap();
        assert!(kept <= counters.0.capacity(), "{kept}");
        // Those that were forgotten are counted from nothing.
        let forgotten = (0..20_000).filter(|number| count(&number.to_string()) == [0]);
        assert!(forgotten.count() > 18_000);
    }
}
