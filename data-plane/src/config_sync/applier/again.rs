//! When a node that has nothing but what it has crashed with runs that once more: once it is known, or likely, that nothing
//! else is on its way.
//!
//! A control plane that is heard is asked for it first, since it knows who was logged out and which route is protected
//! since the node's file was written. The file is what is left where none gives it.

use std::time::Duration;

use shared::snapshot::Position;
use tokio::time::Instant;

use super::Applier;

/// How long it waits once a control plane has said that it has nothing else.
const NOTHING: Duration = Duration::from_secs(5);
/// How long it waits for a control plane that is not heard, or for what one has announced or is asked for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it waits at most, whatever is announced. Only an update that is coming in is awaited longer.
const LONGEST: Duration = Duration::from_mins(5);

/// The wait of one start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    due: Instant,
    latest: Instant,
    /// Whether control planes are asked for what this node has crashed with, too.
    asks: bool,
}

impl Again {
    /// A node that has begun to look for a control plane at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: now + PATIENCE,
            latest: now + LONGEST,
            asks: false,
        }
    }

    /// A control plane has, or has sent, nothing that can be run.
    fn finds_nothing(&mut self, now: Instant) {
        self.wait_until(now + NOTHING);
    }

    /// A control plane has something else, and may give it after `wait` at the earliest.
    fn expects(&mut self, wait: Duration, now: Instant) {
        self.wait_until(now + wait + PATIENCE);
    }

    /// A control plane is asked for what this node has crashed with. False if that was asked for before.
    fn asks(&mut self, now: Instant) -> bool {
        if self.asks {
            return false;
        }
        self.asks = true;
        self.latest = self.latest.max(now + PATIENCE);
        self.expects(Duration::ZERO, now);
        true
    }

    fn wait_until(&mut self, due: Instant) {
        self.due = due.min(self.latest);
    }
}

impl Applier {
    /// When [`Self::asks_again`], or else [`Self::run_again`], is due, if it is.
    pub(in super::super) fn again(&self) -> Option<Instant> {
        let again = self.again.filter(|_| self.running.is_none());
        again.map(|again| again.due)
    }

    /// Whether a control plane may give this node also what that has crashed with.
    pub(super) fn takes_anything(&self) -> bool {
        self.running.is_none() && self.again.is_some_and(|again| again.asks)
    }

    /// A control plane leads this node to `target`: whether that is worth waiting for.
    pub(in super::super) fn is_led_to(&mut self, target: Option<Position>) {
        let quarantined = self.quarantined();
        let is_else = |target: Position| quarantined.iter().all(|one| one.root != target.root);
        if target.is_some_and(is_else) {
            self.expects(Duration::ZERO);
        } else {
            self.finds_nothing();
        }
    }

    /// A control plane may give what can be run, after `wait` at the earliest.
    pub(in super::super) fn expects(&mut self, wait: Duration) {
        if let Some(again) = &mut self.again {
            again.expects(wait, Instant::now());
        }
    }

    /// A control plane has given nothing that can be run.
    pub(in super::super) fn finds_nothing(&mut self) {
        if let Some(again) = &mut self.again {
            again.finds_nothing(Instant::now());
        }
    }

    /// Has this node take from a control plane also what it has crashed with, which the next Hello tells. False if that has
    /// been so for a while, or this node has no need of it.
    pub(in super::super) fn asks_again(&mut self) -> bool {
        let asks = |again: &mut Again| again.asks(Instant::now());
        self.again.as_mut().is_some_and(asks)
    }

    /// Runs what this node has crashed with once more, from its file, since it has nothing else: a quarantine would gain
    /// nothing. Whether it runs.
    pub(in super::super) async fn run_again(&mut self) -> bool {
        self.again = None;
        let Some(kept) = self.last_good.crashed_with(&self.verifier) else {
            return false;
        };
        let Some(vouched) = kept.vouched else {
            return false;
        };
        let revision = kept.snapshot.position.revision;
        tracing::warn!(%revision, "the configuration that this node crashed with is run once more: it has no other");
        match self.replace(kept.snapshot, vouched, true).await {
            Ok(()) => true,
            Err(faults) => {
                let reasons: Vec<&str> = faults.iter().map(|fault| &*fault.message).collect();
                tracing::error!(%revision, reason = reasons.join("; "), "it cannot be run");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_awaited_longer_and_nothing_for_ever() {
        let start = Instant::now();
        let mut again = Again::new(start);
        let due = |again: &Again| again.due - start;
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
        // Whoever is asked at last has time to answer; once.
        assert!(again.asks(start + LONGEST));
        assert_eq!(due(&again), LONGEST + PATIENCE);
        again.expects(hold, start + LONGEST);
        assert_eq!(due(&again), LONGEST + PATIENCE);
        assert!(!again.asks(start + LONGEST + PATIENCE));
    }
}
