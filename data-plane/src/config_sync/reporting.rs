//! When a node reports: at intervals, and soon after the state of a target has changed, unless it keeps changing.

use std::time::Duration;

use tokio::time::Instant;

use super::backoff::spread;

/// What has changed of targets is told within this time, with what changes at the same time.
const NEWS: Duration = Duration::from_secs(1);

/// When the next report is due.
#[derive(Debug)]
pub(super) struct Reporting {
    due: Instant,
    /// When the last was.
    last: Instant,
    /// How long after the last there is none for what is found of targets. It doubles with each report that such a change came
    /// before: a target that comes and goes, or a name whose server tells another address each time, is told of as seldom as all
    /// else, so that thousands of nodes that see it do not drown their control planes.
    pause: Duration,
    /// Whether something has changed since the last.
    changed: bool,
}

impl Reporting {
    /// The first is due at once.
    pub(super) fn begin(now: Instant) -> Self {
        Self {
            due: now,
            last: now,
            pause: NEWS,
            changed: false,
        }
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// A report is made, the next of which comes after `every`, or 20 % less or more: so that a fleet does not report as one.
    pub(super) fn report(&mut self, now: Instant, every: Duration, random: u64) {
        self.pause = if self.changed {
            (self.pause * 2).min(every)
        } else {
            NEWS
        };
        self.changed = false;
        self.last = now;
        self.due = now + every * 4 / 5 + spread(every * 2 / 5, random);
    }

    /// Something has changed of targets: found, or said by an operator, who waits to see it.
    pub(super) fn change(&mut self, now: Instant, said: bool, random: u64) {
        let soon = now + NEWS / 2 + spread(NEWS / 2, random);
        let earliest = if said { soon } else { self.last + self.pause };
        self.changed |= !said;
        self.due = self.due.min(soon.max(earliest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    /// Reports of five minutes, in milliseconds since the start, where something is found each `interval`.
    fn reports(interval: Duration) -> Vec<u128> {
        let start = Instant::now();
        let mut reporting = Reporting::begin(start);
        let mut made = Vec::new();
        let mut change = start + interval;
        loop {
            let now = reporting.due().min(change);
            if now > start + Duration::from_mins(5) {
                return made;
            }
            if now == change {
                change += interval;
                reporting.change(now, false, 0);
            } else {
                reporting.report(now, EVERY, u64::try_from(EVERY.as_nanos()).unwrap() / 5);
                made.push((now - start).as_millis());
            }
        }
    }

    #[test]
    fn what_is_found_is_told_at_once_and_what_is_found_on_and_on_as_seldom_as_all_else() {
        // Each is told soon, and comes rarely.
        let rare = reports(Duration::from_secs(95));
        assert!(
            rare.contains(&95_500) && rare.contains(&190_500),
            "{rare:?}"
        );
        assert_eq!(rare.len(), 32, "{rare:?}");
        // The first of many, too; then there are no more than without.
        let flapping = reports(Duration::from_millis(700));
        assert_eq!(flapping[..4], [0, 1_200, 3_200, 7_200], "{flapping:?}");
        assert!(flapping.len() <= 34, "{flapping:?}");
    }

    #[test]
    fn what_an_operator_says_is_told_at_once_whatever_goes_on() {
        let start = Instant::now();
        let mut reporting = Reporting::begin(start);
        for second in 0..20 {
            let now = start + Duration::from_secs(second);
            reporting.change(now, false, 0);
            reporting.report(now, EVERY, 0);
        }
        let now = start + Duration::from_secs(20);
        reporting.change(now, false, 0);
        assert!(reporting.due() > now + NEWS);
        reporting.change(now, true, 0);
        assert!(reporting.due() < now + NEWS);
    }
}
