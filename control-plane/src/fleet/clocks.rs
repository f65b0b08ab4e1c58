//! What time it is, by more clocks than one.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use shared::clock::{UnixTime, monotonic};

use super::{Fleet, Row};

const START: UnixTime = UnixTime::from_millis(0);

/// A `time` by a clock that says `at`, as another one tells it that says `now`: what counts is how long ago it was.
pub(crate) fn by_another_clock(time: UnixTime, at: UnixTime, now: UnixTime) -> UnixTime {
    if time > at {
        return now.saturating_add(time.saturating_since(at));
    }
    let ago = u64::try_from(at.saturating_since(time).as_millis()).unwrap_or(u64::MAX);
    UnixTime::from_millis(now.as_millis().saturating_sub(ago))
}

/// How far the wall clock may be from where it was until times are told by it anew.
const APART: Duration = Duration::from_secs(1);

/// Time that only goes on. What is known of nodes is known by it, since the wall clock may be set any time: it begins where that was.
#[derive(Clone, Copy, Debug)]
struct Steady {
    began: UnixTime,
    at: Instant,
}

impl Steady {
    fn now(self, at: Instant) -> UnixTime {
        self.began
            .saturating_add(at.saturating_duration_since(self.at))
    }

    /// A `time` of its own as the wall clock tells it that says `wall` at the moment `at`.
    fn told(self, time: UnixTime, at: Instant, wall: UnixTime) -> UnixTime {
        let now = self.now(at);
        if now.saturating_since(wall).max(wall.saturating_since(now)) < APART {
            return time;
        }
        by_another_clock(time, now, wall)
    }
}

static STEADY: LazyLock<Steady> = LazyLock::new(|| Steady {
    began: UnixTime::now(),
    at: monotonic(),
});

/// The time that nodes are known by.
pub(crate) fn steady() -> UnixTime {
    STEADY.now(monotonic())
}

/// A `time` by that, as the wall clock tells it now.
pub(super) fn on_the_wall(time: UnixTime) -> UnixTime {
    STEADY.told(time, monotonic(), UnixTime::now())
}

impl Row {
    /// The same by another clock.
    pub(super) fn shift(&mut self, by: impl Fn(UnixTime) -> UnixTime) {
        let shift = |time: &mut UnixTime| *time = by(*time);
        shift(&mut self.last_seen);
        shift(&mut self.running_since);
        self.connected_since.iter_mut().for_each(shift);
        self.samples.shift(shift);
        if let Some(refusal) = &mut self.last_refusal {
            shift(&mut refusal.at);
        }
    }
}

impl Fleet {
    /// A time that our clock, which says `now`, and half of those of the data planes have reached: what is forgotten by it
    /// is not forgotten because one of them was wrong for a while. `None`: no data plane that is connected here has told
    /// its own.
    pub fn agreed_time(&self, now: UnixTime) -> Option<UnixTime> {
        let ahead = self.clocks();
        let middle = *ahead.get(ahead.len().checked_sub(1)? / 2)?;
        let since = now.saturating_since(START);
        let behind = Duration::from_millis(middle.min(0).unsigned_abs());
        Some(START.saturating_add(since.saturating_sub(behind)))
    }

    /// A time that our clock or half of those of the data planes have reached: what comes after it is a clock's mistake.
    pub fn latest_time(&self, now: UnixTime) -> UnixTime {
        let ahead = self.clocks();
        let middle = ahead.get(ahead.len() / 2).copied().unwrap_or_default();
        now.saturating_add(Duration::from_millis(middle.max(0).unsigned_abs()))
    }

    /// How far the clocks of those that are connected here are ahead of ours, in milliseconds, by size.
    fn clocks(&self) -> Vec<i64> {
        let nodes = self.nodes();
        let connected = nodes.here.values().filter(|node| node.row.connected);
        let mut ahead: Vec<i64> = connected.filter_map(|node| node.row.clock_offset).collect();
        ahead.sort_unstable();
        ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_is_set_makes_no_node_silent() {
        let (began, at) = (UnixTime::from_secs(100_000), monotonic());
        let clock = Steady { began, at };
        let after = |seconds| at + Duration::from_secs(seconds);
        // Before it was set, and after it.
        for heard in [10, 40] {
            let seen = clock.now(after(heard));
            let silent = clock.now(after(60)).saturating_since(seen);
            assert_eq!(silent.as_secs(), 60 - heard);
            for wall in [50_000, 100_060, 200_000] {
                let shown = clock.told(seen, after(60), UnixTime::from_secs(wall));
                assert_eq!(shown.as_secs(), wall - silent.as_secs());
            }
        }
    }
}
