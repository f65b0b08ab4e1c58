//! Whether control planes can agree on who does what, as far as this one has noticed.

use std::time::{Duration, Instant};

/// After they could not agree, how long nobody waits for that again.
const APART: Duration = Duration::from_secs(1);

/// How long after that it is not sure what they agree on: others may have decided alone, and tell of it later; so may nodes that
/// have heard no control plane, and look for one every ten seconds at last.
const DOUBTED: Duration = Duration::from_secs(20);

/// How long they may take for it to be sure: while they take longer, others may have given up.
const PROMPT: Duration = Duration::from_secs(1);

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Accord {
    /// When they could not agree last.
    failed: Option<Instant>,
    /// Whether they have not agreed since.
    is_apart: bool,
}

impl Accord {
    /// What is known to a control plane that starts at `now`: nodes of others may have been on their own before, and may be still.
    pub(super) fn begun(now: Instant) -> Self {
        Self {
            failed: Some(now),
            is_apart: false,
        }
    }

    /// Whether they could not agree so lately that it is not tried again.
    pub(super) fn is_apart(&self, now: Instant) -> bool {
        self.is_apart && self.has_failed_within(APART, now)
    }

    fn has_failed_within(&self, time: Duration, now: Instant) -> bool {
        is_within(time, self.failed, now)
    }

    /// They agree at `now` on what they were asked at `began`: whether it is sure that no one else was given it. `missed`: until
    /// when what others commit may have gone unseen here, if ever. Nobody may have asked for anything meanwhile.
    pub(super) fn agrees(&mut self, began: Instant, now: Instant, missed: Option<Instant>) -> bool {
        self.is_apart = false;
        let is_prompt = now.saturating_duration_since(began) < PROMPT;
        let was_apart = [self.failed, missed].map(|at| is_within(DOUBTED, at, began));
        is_prompt && was_apart == [false; 2]
    }

    /// They cannot agree: whether that is news.
    pub(super) fn fails(&mut self, now: Instant) -> bool {
        self.failed = Some(now);
        !std::mem::replace(&mut self.is_apart, true)
    }
}

/// Whether `at` was no longer than `time` before `now`.
fn is_within(time: Duration, at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| now.saturating_duration_since(at) < time)
}

#[cfg(test)]
mod tests {
    use shared::clock::monotonic;

    use super::*;

    #[test]
    fn what_control_planes_agree_on_late_or_soon_after_they_could_not_is_not_sure() {
        let start = monotonic();
        let at = |seconds| start + Duration::from_secs_f64(seconds);
        let mut accord = Accord::default();
        assert!(!accord.is_apart(start) && accord.agrees(at(0.), at(0.9), None));
        assert!(!accord.agrees(at(0.), at(1.), None));
        assert!(accord.fails(at(2.)) && !accord.fails(at(3.)));
        assert!(accord.is_apart(at(3.9)) && !accord.is_apart(at(4.)));
        // Also what was asked before, and is answered afterwards.
        assert!(!accord.agrees(at(2.9), at(3.), None));
        assert!(!accord.is_apart(at(3.)), "it is tried again");
        assert!(!accord.agrees(at(22.9), at(22.9), None) && accord.agrees(at(23.), at(23.), None));
        assert!(accord.fails(at(24.)));
        // One that has just started asks at once, and is not sure.
        let mut begun = Accord::begun(start);
        assert!(!begun.is_apart(start) && !begun.agrees(at(19.9), at(19.9), None));
        assert!(begun.agrees(at(20.), at(20.), None));
    }

    #[test]
    fn what_is_agreed_on_soon_after_an_outage_that_nobody_claimed_in_is_not_sure() {
        let start = monotonic();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut accord = Accord::default();
        for (began, is_sure) in [(4, false), (5, false), (24, false), (25, true), (26, true)] {
            assert_eq!(
                accord.agrees(at(began), at(began), Some(at(5))),
                is_sure,
                "{began}"
            );
        }
        assert!(accord.agrees(at(5), at(5), None));
    }
}
