//! What the control plane's clock says, by which all nodes say when sessions begin and end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shared::clock::{Ahead, UnixTime};

/// How far apart clocks may be: the leeway that they have everywhere else. A node that is further apart from its control plane
/// goes by its own clock, and its operator has been warned.
const MOST: Duration = Duration::from_mins(1);

/// What is taken for the way that a word of a control plane takes, and not for clocks that are apart.
const LATE: Duration = Duration::from_millis(500);

/// How many of the last words are gone by: those of about a minute. The one that took the shortest way says the most.
const WORDS: usize = 7;

/// Nothing has been heard.
const UNKNOWN: i64 = i64::MIN;

/// Written by config sync, read by whoever notes when a session begins or ends.
#[derive(Debug)]
pub(crate) struct Clocks {
    /// The monotonic clock, by which theirs is told from then on: ours may be set any time.
    start: Instant,
    /// What theirs said at the start, in milliseconds since 1970.
    theirs: AtomicI64,
    /// The same by each of the last words: less by as much as it was under way.
    words: Mutex<VecDeque<i64>>,
}

impl Clocks {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            theirs: AtomicI64::new(UNKNOWN),
            words: Mutex::default(),
        }
    }

    /// A control plane that was greeted when our clock said `asked` has answered, by its own clock at `theirs`; it is `now`
    /// by ours.
    pub(crate) fn greeted(&self, asked: UnixTime, theirs: UnixTime, now: UnixTime, at: Instant) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        // It may be another one than before.
        words.clear();
        let theirs = Ahead::between(asked, theirs, now).behind(now);
        self.note(&mut words, theirs, at);
    }

    /// It has said something more, at `theirs`.
    pub(crate) fn hear(&self, theirs: UnixTime, at: Instant) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        self.note(&mut words, theirs, at);
    }

    fn note(&self, words: &mut VecDeque<i64>, theirs: UnixTime, at: Instant) {
        words.truncate(WORDS - 1);
        words.push_front(Ahead::of(theirs, self.since_start(at)).as_millis());
        let most = words.iter().max().copied().unwrap_or(UNKNOWN);
        self.theirs.store(most, Ordering::Relaxed);
    }

    fn since_start(&self, at: Instant) -> UnixTime {
        UnixTime::default().saturating_add(at.saturating_duration_since(self.start))
    }

    /// How far this node's clock, which says `now`, is ahead, as far as it is known and credible.
    pub(crate) fn ahead(&self, now: UnixTime, at: Instant) -> Ahead {
        let theirs = self.theirs.load(Ordering::Relaxed);
        if theirs == UNKNOWN {
            return Ahead::default();
        }
        let theirs = Ahead::from_millis(theirs.saturating_neg()).behind(self.since_start(at));
        let ahead = Ahead::of(now, theirs);
        let apart = Duration::from_millis(ahead.as_millis().unsigned_abs());
        if apart > LATE && apart <= MOST {
            ahead
        } else {
            Ahead::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_104_a_node_knows_how_far_its_clock_is_ahead() {
        let start = shared::clock::monotonic();
        let clocks = Clocks::new(start);
        let after = |seconds| start + Duration::from_secs(seconds);
        let at = |seconds: u64| UnixTime::from_millis(1_000_000 + seconds * 1_000);
        let ahead = |ours, seconds| clocks.ahead(ours, after(seconds)).as_millis();
        assert_eq!(ahead(at(20), 0), 0, "nothing is known yet");
        clocks.greeted(at(21), at(1), at(21), after(1));
        assert_eq!(ahead(at(25), 5), 20_000);
        // It took a long way.
        clocks.hear(at(10), after(14));
        assert_eq!(ahead(at(34), 14), 20_000);
        // Ours is set: to what is right, behind, ahead, and to nonsense.
        for (ours, expected) in [(20, 0), (15, -5_000), (27, 7_000), (90, 0)] {
            assert_eq!(ahead(at(ours), 20), expected);
        }
        // Theirs is put back, which it takes some words to tell from a long way.
        for word in [30, 40, 50, 60, 70, 80] {
            assert_eq!(ahead(at(word), word), 0);
            clocks.hear(at(word - 5), after(word));
        }
        clocks.hear(at(85), after(90));
        assert_eq!(ahead(at(100), 100), 5_000);
        // Clocks that agree are not told apart by the way.
        clocks.greeted(at(110), at(111), at(113), after(113));
        assert_eq!(ahead(at(115), 115), 0);
        clocks.greeted(at(120), at(118), at(120), after(120));
        assert_eq!(ahead(at(120), 120), 2_000);
    }
}
