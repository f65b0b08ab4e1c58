//! What time it is, by more clocks than one.

use std::time::Duration;

use shared::clock::UnixTime;

use super::{Fleet, View};

const START: UnixTime = UnixTime::from_millis(0);

/// A `time` by a clock that says `at`, as another one tells it that says `now`: what counts is how long ago it was.
pub(super) fn by_another_clock(time: UnixTime, at: UnixTime, now: UnixTime) -> UnixTime {
    if time > at {
        return now.saturating_add(time.saturating_since(at));
    }
    let ago = u64::try_from(at.saturating_since(time).as_millis()).unwrap_or(u64::MAX);
    UnixTime::from_millis(now.as_millis().saturating_sub(ago))
}

impl View {
    /// The same by another clock, which says `now` while that of the fleet says `at`.
    #[must_use]
    pub fn by_another_clock(mut self, at: UnixTime, now: UnixTime) -> Self {
        let samples = self.samples.iter_mut().map(|sample| &mut sample.at);
        for time in [&mut self.last_seen, &mut self.reported_at]
            .into_iter()
            .chain(samples)
        {
            *time = by_another_clock(*time, at, now);
        }
        self
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
