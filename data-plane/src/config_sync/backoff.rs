//! Pauses between attempts: random, so that a fleet does not come back as one.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
/// The longest pause while somebody is expected any moment: work of others waits for that.
const SOON: Duration = Duration::from_millis(400);
const LONGEST: Duration = Duration::from_secs(10);

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
