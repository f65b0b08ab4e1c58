//! How far this node's clock is from the control plane's, by which all nodes say when sessions begin and end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use shared::clock::{Ahead, UnixTime};

/// How far apart clocks may be, in milliseconds: the leeway that they have everywhere else. A node that is further apart from its
/// control plane goes by its own clock, and its operator has been warned.
const MOST: i64 = 60_000;

/// How late a word of a control plane may come, in milliseconds, before a clock that is right would be taken for one that is ahead.
const LATE: i64 = 500;

/// How many of the last words are gone by: those of about a minute. The one that took the shortest way says the most.
const WORDS: usize = 7;

/// Written by config sync, read by whoever notes when a session begins or ends.
#[derive(Debug, Default)]
pub(crate) struct Clocks {
    /// See [`Ahead::as_millis`].
    ahead: AtomicI64,
    /// What the last words said.
    words: Mutex<VecDeque<Ahead>>,
}

impl Clocks {
    /// A control plane that was greeted when our clock said `asked` has answered, by its own clock at `theirs`.
    pub(crate) fn greeted(&self, asked: UnixTime, theirs: UnixTime, now: UnixTime) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        // It may be another one than before.
        words.clear();
        self.note(&mut words, Ahead::between(asked, theirs, now));
    }

    /// It has said something more, at `theirs`.
    pub(crate) fn hear(&self, theirs: UnixTime, now: UnixTime) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let late = Ahead::of(now, theirs);
        let may_be_right = (0..=LATE).contains(&late.as_millis());
        self.note(
            &mut words,
            if may_be_right { Ahead::default() } else { late },
        );
    }

    fn note(&self, words: &mut VecDeque<Ahead>, word: Ahead) {
        words.truncate(WORDS - 1);
        words.push_front(word);
        let least = words.iter().min().copied().unwrap_or_default();
        self.ahead.store(least.as_millis(), Ordering::Relaxed);
    }

    /// How far this node's clock is ahead, as far as it is known and credible.
    pub(crate) fn ahead(&self) -> Ahead {
        let ahead = self.ahead.load(Ordering::Relaxed);
        let credible = ahead.unsigned_abs() <= MOST.unsigned_abs();
        Ahead::from_millis(if credible { ahead } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_104_a_node_knows_how_far_its_clock_is_ahead() {
        let clocks = Clocks::default();
        let at = |seconds: u64| UnixTime::from_millis(1_000_000 + seconds * 1_000);
        let ahead = || clocks.ahead().as_millis();
        assert_eq!(ahead(), 0, "nothing is known yet");
        clocks.greeted(at(20), at(0), at(21));
        assert_eq!(ahead(), 20_000);
        // It took a long way.
        clocks.hear(at(10), at(34));
        assert_eq!(ahead(), 20_000);
        // Ours is put right at once, and behind; theirs is put back, which it takes some words to tell from a long way.
        clocks.hear(at(20), at(20));
        assert_eq!(ahead(), 0);
        clocks.hear(at(30), at(23));
        assert_eq!(ahead(), -7_000);
        for word in [0, 1, 2, 3, 4, 5, 6] {
            assert_eq!(ahead(), -7_000);
            clocks.hear(at(40 + word), at(45 + word));
        }
        assert_eq!(ahead(), 5_000);
        // Clocks that agree are not told apart by the way.
        clocks.greeted(at(100), at(101), at(103));
        for late in [0, 400, 300] {
            let now = UnixTime::from_millis(at(110).as_millis() + late);
            clocks.hear(at(110), now);
            assert_eq!(ahead(), 0);
        }
        // One of them is wrong by more than anybody allows for.
        clocks.greeted(at(400), at(0), at(400));
        assert_eq!(ahead(), 0);
    }
}
