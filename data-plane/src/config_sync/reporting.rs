//! When a node reports: at intervals, and soon after the state of a target has changed, unless it keeps changing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::spread;
use crate::balancer::{Changed, Turn};

/// What has changed of targets is told within this time, with what has changed since the report before.
const NEWS: Duration = Duration::from_secs(1);

/// How long what changes at the same time is waited for where nothing has been told of late: an operator who has just added a
/// target looks what has become of it.
const AT_ONCE: Duration = Duration::from_millis(50);
/// All nodes see what an operator does at one time: they tell of it within this one, and not as one.
const SPREAD: Duration = Duration::from_millis(250);

/// So many reports in a row come soon after changes, beside those that are due anyway, and then one each [`ONE_MORE`]: thousands of
/// nodes which all see everything change do not drown their control planes.
const SOON: u32 = 60;
const ONE_MORE: Duration = Duration::from_secs(2);
/// A report that names so many unhealthy addresses is as dear as two.
const LONG: usize = 1_000;

/// When the next report is due.
#[derive(Debug)]
pub(super) struct Reporting {
    due: Instant,
    /// When it is due if nothing changes.
    regular: Instant,
    /// When the last was.
    last: Instant,
    /// What has been told of late.
    told: HashMap<Changed, Told>,
    /// What has been found to have changed since the last.
    found: HashSet<Changed>,
    /// When [`SOON`] may come in a row again.
    rested: Instant,
}

/// A change that was told.
#[derive(Clone, Copy, Debug)]
struct Told {
    at: Instant,
    /// How long after that there is no report for the same. It doubles with each: a target that comes and goes, or a name whose
    /// server tells another address each time, is told of as seldom as all else.
    pause: Duration,
}

impl Reporting {
    /// The first is due at once.
    pub(super) fn begin(now: Instant) -> Self {
        Self {
            due: now,
            regular: now,
            last: now,
            told: HashMap::new(),
            found: HashSet::new(),
            rested: now,
        }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// A report is made, which names so many `unhealthy` addresses. The next comes after `every`, or 20 % less or more: so that a fleet
    /// does not report as one.
    pub(super) fn report(
        &mut self,
        now: Instant,
        (every, unhealthy): (Duration, usize),
        random: u64,
    ) {
        // What an operator says comes rarely, and costs nothing.
        if now < self.regular && !self.found.is_empty() {
            let times = u32::try_from(1 + unhealthy / LONG).unwrap_or(u32::MAX);
            let one_more = ONE_MORE.saturating_mul(times).min(every);
            self.rested = self.rested.max(now) + one_more;
        }
        for found in self.found.drain() {
            let pause = self.told.get(&found).map_or(NEWS, |told| told.pause);
            let pause = (pause * 2).min(every);
            self.told.insert(found, Told { at: now, pause });
        }
        // What has not changed since the report before is news again.
        self.told
            .retain(|_, told| now.duration_since(told.at) < every);
        self.last = now;
        self.regular = now + every * 4 / 5 + spread(every * 2 / 5, random);
        self.due = self.regular;
    }

    /// Something has changed of targets: found, or said by an operator, who waits to see it.
    pub(super) fn change(&mut self, now: Instant, turn: Turn, random: u64) {
        let at_once = now + AT_ONCE + spread(SPREAD, random);
        let soon = at_once.max(self.last + NEWS / 2 + spread(NEWS / 2, random));
        let earliest = match turn {
            Turn::Said => soon,
            Turn::Found(found) => {
                let known = found.iter().map(|found| match self.told.get(found) {
                    Some(told) => told.at + told.pause,
                    None => now,
                });
                let earliest = known.min().unwrap_or(now);
                self.found.extend(found);
                match self.rested.checked_sub(ONE_MORE * (SOON - 1)) {
                    Some(rested) => earliest.max(rested),
                    None => earliest,
                }
            }
        };
        self.due = self.due.min(soon.max(earliest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    fn found(numbers: impl IntoIterator<Item = u64>) -> Turn {
        Turn::Found(numbers.into_iter().map(Changed::Health).collect())
    }

    /// Reports of five minutes, in milliseconds since the start, where something is found each `interval`, of what `changes` says by
    /// the number of the change.
    fn reports(interval: Duration, changes: impl Fn(u64) -> u64) -> Vec<u128> {
        reports_of(0, interval, changes)
    }

    /// The same while so many addresses are unhealthy.
    fn reports_of(ill: usize, interval: Duration, changes: impl Fn(u64) -> u64) -> Vec<u128> {
        let start = Instant::now();
        let mut reporting = Reporting::begin(start);
        let mut made = Vec::new();
        let (mut change, mut number) = (start + interval, 0);
        loop {
            let now = reporting.due().min(change);
            if now > start + Duration::from_mins(5) {
                return made;
            }
            if now == change {
                change += interval;
                reporting.change(now, found([changes(number)]), 0);
                number += 1;
            } else {
                let random = u64::try_from(EVERY.as_nanos()).unwrap() / 5;
                reporting.report(now, (EVERY, ill), random);
                made.push((now - start).as_millis());
            }
        }
    }

    #[test]
    fn what_is_found_is_told_at_once_and_what_is_found_on_and_on_as_seldom_as_all_else() {
        // Each is told soon, and comes rarely.
        let rare = reports(Duration::from_secs(95), |_| 1);
        assert!(
            rare.contains(&95_050) && rare.contains(&190_050),
            "{rare:?}"
        );
        assert_eq!(rare.len(), 32, "{rare:?}");
        // The first of many, too; then there are no more than without.
        let flapping = reports(Duration::from_millis(700), |_| 1);
        assert_eq!(flapping[..4], [0, 750, 2_750, 6_750], "{flapping:?}");
        assert!(flapping.len() <= 34, "{flapping:?}");
    }

    #[test]
    fn what_changes_of_one_target_is_told_soon_whatever_others_do() {
        // Six go down and come up, one after the other.
        let others = reports(Duration::from_secs(2), |number| {
            number / 2 % 6 + number / 12 * 6
        });
        assert_eq!(
            others[..6],
            [0, 2_050, 4_050, 6_050, 8_050, 10_050],
            "{others:?}"
        );
        assert!(others.len() > 2 * usize::try_from(SOON).unwrap());
        let start = Instant::now();
        let mut reporting = Reporting::begin(start);
        let mut now = start;
        for _ in 0..100 {
            reporting.change(now, found([1]), 0);
            now = reporting.due();
            reporting.report(now, (EVERY, 0), 0);
        }
        reporting.change(now, found([1]), 0);
        assert!(reporting.due() > now + 2 * NEWS);
        reporting.change(now, found([2]), 0);
        assert!(reporting.due() < now + NEWS);
    }

    #[test]
    fn where_everything_changes_no_more_is_told_than_a_control_plane_bears() {
        let all = reports(Duration::from_millis(700), |number| number);
        let minutes = |from: u128, to: u128| {
            let within = (from * 60_000)..(to * 60_000);
            all.iter().filter(|at| within.contains(at)).count()
        };
        // Of those that are due anyway there are six a minute.
        assert!((60..=95).contains(&minutes(0, 1)), "{all:?}");
        assert!(minutes(2, 5) <= 3 * (30 + 6), "{all:?}");
        // The next is not long in coming all the same.
        assert!(all.is_sorted_by(|one, next| next - one <= 3_000), "{all:?}");
        let long = reports_of(10_000, Duration::from_millis(700), |number| number);
        assert!(long.len() <= 2 * 34, "{long:?}");
    }

    #[test]
    fn what_an_operator_says_is_told_at_once_whatever_goes_on() {
        let start = Instant::now();
        let mut reporting = Reporting::begin(start);
        for second in 0..20 {
            let now = start + Duration::from_secs(second);
            reporting.change(now, found([1]), 0);
            reporting.report(now, (EVERY, 0), 0);
        }
        let now = start + Duration::from_secs(20);
        reporting.change(now, found([1]), 0);
        assert!(reporting.due() > now + NEWS);
        reporting.change(now, Turn::Said, 0);
        assert!(reporting.due() < now + NEWS);
        // Nor does it take anything away from what is found.
        let mut reporting = Reporting::begin(start);
        reporting.report(start, (EVERY, 0), 0);
        for _ in 0..2 * SOON {
            reporting.change(start, Turn::Said, 0);
            reporting.report(start, (EVERY, 0), 0);
        }
        reporting.change(start, found([2]), 0);
        assert!(reporting.due() < start + NEWS);
    }
}
