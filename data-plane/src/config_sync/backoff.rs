//! Pauses between attempts: random, so that a fleet does not come back as one.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
/// The longest pause while somebody is expected any moment: work of others waits for that.
const SOON: Duration = Duration::from_millis(400);
const LONGEST: Duration = Duration::from_secs(10);
/// The longest wait that a control plane may ask for.
pub(super) const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Full jitter: each pause is random between nothing and a limit that doubles.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next pause; `soon`: while somebody is expected any moment.
    pub(super) fn next(&mut self, soon: bool, random: u64) -> Duration {
        let longest = if soon { SOON } else { LONGEST };
        let doubled = FIRST.saturating_mul(2_u32.saturating_pow(self.attempts));
        // Those that came soon one after the other make none wait for long.
        if doubled < longest {
            self.attempts += 1;
        }
        spread(doubled.min(longest), random)
    }
}

/// The pause after a control plane has ended a stream in order and wants nodes back within a `window`, so that they do not come as one;
/// `is_alone`: if there is no other. Whoever else may be asked is not longer without than if it had broken.
pub(super) fn within(window: Duration, is_alone: bool, random: u64) -> Duration {
    let longest = if is_alone { LONGEST_WAIT } else { LONGEST };
    spread(window.min(longest), random)
}

/// Eight random bytes: they spread load and protect nothing.
pub(crate) fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}

/// A pause of at most `limit`.
pub(crate) fn spread(limit: Duration, random: u64) -> Duration {
    let nanoseconds = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(random.checked_rem(nanoseconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_are_spread() {
        let mut backoff = Backoff::default();
        let longest: Vec<_> = (0..9)
            .map(|_| {
                let mut same = Backoff {
                    attempts: backoff.attempts,
                };
                let low = same.next(false, 0);
                assert_eq!(low, Duration::ZERO);
                // The largest number below every limit here, so that the remainder is the number itself.
                let limit = FIRST * 2_u32.pow(backoff.attempts);
                let most = u64::try_from(limit.min(LONGEST).as_nanos()).unwrap() - 1;
                backoff.next(false, most)
            })
            .collect();
        assert!(longest.is_sorted());
        assert!(longest.iter().all(|pause| *pause < LONGEST));
        assert!(longest.last().unwrap() > &Duration::from_millis(9_999));
        assert_eq!(spread(Duration::ZERO, 7), Duration::ZERO);
        let most = u64::try_from(SOON.as_nanos()).unwrap() - 1;
        assert!(backoff.next(true, most) < SOON);
    }

    #[test]
    fn who_says_goodbye_keeps_nobody_from_the_others_for_long() {
        // The largest below each of the limits here, once what is too much is taken off.
        let most = u64::try_from(LONGEST_WAIT.as_nanos()).unwrap() - 1;
        let soon = Duration::from_secs(2);
        let days = Duration::from_millis(u32::MAX.into());
        for (window, is_alone, longest) in [
            (soon, false, soon),
            (soon, true, soon),
            (days, false, LONGEST),
            (days, true, LONGEST_WAIT),
        ] {
            let pause = within(window, is_alone, most);
            assert_eq!(pause + Duration::from_nanos(1), longest);
        }
    }

    #[test]
    fn who_was_expected_any_moment_is_not_waited_for_as_long_as_can_be_at_once() {
        let mut backoff = Backoff::default();
        for _ in 0..15 {
            assert_eq!(backoff.next(true, 0), Duration::ZERO);
        }
        // The largest number below a limit is the pause itself.
        let most = |limit: Duration| u64::try_from(limit.as_nanos()).unwrap() - 1;
        for limit in [400, 800, 1_600, 3_200, 6_400, 10_000, 10_000] {
            let limit = Duration::from_millis(limit);
            let pause = backoff.next(false, most(limit));
            assert_eq!(pause + Duration::from_nanos(1), limit);
        }
    }
}
