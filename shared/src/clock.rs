//! Time as a parameter. Decisions take a [`UnixTime`] or an `Instant`; only the edges read clocks.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::ClockId;
use serde::{Deserialize, Serialize};

/// A point on the wall clock: milliseconds since 1970-01-01T00:00:00Z. For lifetimes of tokens, keys
/// and sessions and for what operators read; never for timers or ordering.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(transparent)]
pub struct UnixTime(u64);

impl UnixTime {
    /// Reads the system's wall clock. A clock before 1970 reads as 1970.
    pub fn now() -> Self {
        Self::of(wall())
    }

    /// What the system's wall clock would have shown at a `moment` that has passed. Nothing that it shows later lies before that.
    pub fn at(moment: Instant) -> Self {
        // In this order: what passes between the two readings makes it no later than it was.
        let now = wall();
        Self::of(now.saturating_sub(monotonic().saturating_duration_since(moment)))
    }

    fn of(since_1970: Duration) -> Self {
        Self(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
    }

    /// The point `milliseconds` after 1970 began.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// The point `seconds` after 1970 began.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Whole seconds since 1970.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Milliseconds since 1970.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This point moved later, at most to the end of time.
    #[must_use]
    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// What the system's wall clock shows, since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clock"
)]
fn wall() -> Duration {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.unwrap_or_default()
}

/// How far a clock is ahead of another one, by the milliseconds; less than nothing: how far it is behind.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Ahead(i64);

impl Ahead {
    /// `milliseconds` ahead.
    pub const fn from_millis(milliseconds: i64) -> Self {
        Self(milliseconds)
    }

    /// In milliseconds.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// What `ours` is ahead of `theirs`.
    pub const fn of(ours: UnixTime, theirs: UnixTime) -> Self {
        Self(ours.0.cast_signed().saturating_sub(theirs.0.cast_signed()))
    }

    /// What is known of our clock where the other one said `theirs` after ours said `asked` and before it said `heard`. Of all
    /// that it may be this is the least: two clocks that agree are not told apart by how long an answer takes.
    pub fn between(asked: UnixTime, theirs: UnixTime, heard: UnixTime) -> Self {
        let most = Self::of(heard, theirs);
        Self(0).max(Self::of(asked, theirs)).min(most)
    }

    /// What the other clock says when ours says `at`.
    pub const fn behind(self, at: UnixTime) -> UnixTime {
        UnixTime(at.0.saturating_add_signed(self.0.saturating_neg()))
    }
}

/// Reads the monotonic clock: for timers and durations.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clock"
)]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// When the machine started, as the wall clock of now has it: it moves as that is set.
pub fn machine_started() -> UnixTime {
    let runs_for = told(ClockId::CLOCK_BOOTTIME).unwrap_or_default();
    UnixTime::of(wall().saturating_sub(runs_for))
}

/// How long a core has worked for one thread since a moment: what the system counts, whatever else runs.
#[derive(Clone, Copy, Debug)]
pub struct CoreTime {
    clock: ClockId,
    since: Duration,
}

impl CoreTime {
    /// From now on, for the thread that calls this.
    pub fn of_this_thread() -> Self {
        // Linux names the clock of a thread by its id: `MAKE_THREAD_CPUCLOCK` of <linux/posix-timers.h>, as
        // pthread_getcpuclockid(3) has it, which would ask for unsafe code.
        let thread = nix::unistd::gettid().as_raw();
        let clock = ClockId::from_raw(!thread << 3 | 6);
        Self {
            clock,
            since: told(clock).unwrap_or_default(),
        }
    }

    /// So far. Nothing, once the thread has ended.
    pub fn elapsed(self) -> Duration {
        told(self.clock).map_or(Duration::ZERO, |now| now.saturating_sub(self.since))
    }
}

fn told(clock: ClockId) -> Option<Duration> {
    clock.now().ok().map(Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_agree_are_not_told_apart_by_how_long_an_answer_takes() {
        let at = |seconds| UnixTime::from_secs(seconds);
        let known = |asked, theirs, heard| {
            Ahead::between(at(asked), at(theirs), at(heard)).as_millis() / 1000
        };
        for (asked, theirs, heard, ahead) in [
            (100, 100, 100, 0),
            (100, 100, 130, 0),
            (100, 130, 130, 0),
            (100, 90, 101, 10),
            (100, 120, 101, -19),
            // Ours was put back meanwhile.
            (100, 90, 80, -10),
        ] {
            assert_eq!(
                known(asked, theirs, heard),
                ahead,
                "{asked} {theirs} {heard}"
            );
        }
    }

    #[test]
    fn a_clock_is_put_right_by_what_it_is_ahead() {
        let at = UnixTime::from_secs(100);
        for (ahead, by_theirs) in [
            (0, 100_000),
            (5_000, 95_000),
            (-5_000, 105_000),
            (200_000, 0),
        ] {
            assert_eq!(Ahead::from_millis(ahead).behind(at).as_millis(), by_theirs);
        }
    }

    #[test]
    fn a_thread_that_sleeps_takes_no_core() {
        let (tell, told) = std::sync::mpsc::channel();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let taken = CoreTime::of_this_thread();
            tell.send(taken).unwrap();
            let _ = gone.recv();
            while taken.elapsed() < Duration::from_millis(20) {
                std::hint::spin_loop();
            }
        });
        let taken = told.recv().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(taken.elapsed() < Duration::from_millis(20), "{taken:?}");
        drop(go);
        thread.join().unwrap();
        assert_eq!(taken.elapsed(), Duration::ZERO, "it has ended");
    }
}
