//! When a node that has nothing but what it has crashed with runs that once more: once it is known, or likely, that nothing
//! else is on its way.

use std::time::Duration;

use tokio::time::Instant;

/// How long it waits once a control plane has said that it has nothing else.
const NOTHING: Duration = Duration::from_secs(5);
/// How long it waits for a control plane that is not heard, or for what one has announced.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it waits at most, whatever is announced. Only an update that is coming in is awaited longer.
const LONGEST: Duration = Duration::from_mins(5);

/// The wait of one start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    due: Instant,
    latest: Instant,
}

impl Again {
    /// A node that has begun to look for a control plane at `now`.
    pub(super) fn new(now: Instant) -> Self {
        let latest = now + LONGEST;
        let due = now + PATIENCE;
        Self { due, latest }
    }

    /// When it is due.
    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// A control plane has, or has sent, nothing that can be run.
    pub(super) fn finds_nothing(&mut self, now: Instant) {
        self.wait_until(now + NOTHING);
    }

    /// A control plane has something else, and may give it after `wait` at the earliest.
    pub(super) fn expects(&mut self, wait: Duration, now: Instant) {
        self.wait_until(now + wait + PATIENCE);
    }

    fn wait_until(&mut self, due: Instant) {
        self.due = due.min(self.latest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_awaited_longer_and_nothing_for_ever() {
        let start = Instant::now();
        let mut again = Again::new(start);
        let due = |again: &Again| again.due() - start;
        assert_eq!(due(&again), PATIENCE);
        again.finds_nothing(start + Duration::from_secs(2));
        assert_eq!(due(&again), Duration::from_secs(7));
        // Told to wait for a minute.
        let hold = Duration::from_mins(1);
        again.expects(hold, start + Duration::from_secs(3));
        assert_eq!(due(&again), Duration::from_secs(3) + hold + PATIENCE);
        again.expects(hold, start + LONGEST - hold);
        assert_eq!(due(&again), LONGEST);
        again.finds_nothing(start + LONGEST - Duration::from_secs(1));
        assert_eq!(due(&again), LONGEST);
    }
}
