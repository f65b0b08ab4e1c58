//! What this node knows of its control plane: whether it hears it, when it last did, and what it is
//! to run. Serving never depends on it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use shared::clock::UnixTime;

/// Silence that is worth a warning.
pub(crate) const LONG: Duration = Duration::from_mins(1);

/// Written by config sync, read by whoever asks for the node's status.
#[derive(Debug)]
pub(crate) struct Contact {
    started: UnixTime,
    connected: AtomicBool,
    /// Milliseconds since 1970; 0: never.
    heard: AtomicU64,
    /// The newest revision that a control plane told of.
    target: AtomicU64,
    /// Whether the last good file holds what runs.
    persisted: AtomicBool,
    /// How often the process started after a crash that followed a change.
    crash_restarts: AtomicU64,
}

impl Contact {
    /// No contact since the start.
    pub(crate) fn new(started: UnixTime) -> Self {
        Self {
            started,
            connected: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            target: AtomicU64::new(0),
            persisted: AtomicBool::new(false),
            crash_restarts: AtomicU64::new(0),
        }
    }

    pub(crate) fn connects(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    pub(crate) fn hears(&self, now: UnixTime) {
        self.heard.store(now.as_millis(), Ordering::Relaxed);
    }

    pub(crate) fn is_led_to(&self, revision: u64) {
        self.target.store(revision, Ordering::Relaxed);
    }

    pub(crate) fn persists(&self, persisted: bool) {
        self.persisted.store(persisted, Ordering::Relaxed);
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    pub(crate) fn is_persisted(&self) -> bool {
        self.persisted.load(Ordering::Relaxed)
    }

    pub(crate) fn target(&self) -> u64 {
        self.target.load(Ordering::Relaxed)
    }

    pub(crate) fn crash_restarts(&self) -> u64 {
        self.crash_restarts.load(Ordering::Relaxed)
    }

    pub(crate) fn restarted(&self, crashes: u64) {
        self.crash_restarts.store(crashes, Ordering::Relaxed);
    }

    /// How long nothing has been heard, at most since the start.
    pub(crate) fn silence(&self, now: UnixTime) -> Duration {
        let heard = UnixTime::from_millis(self.heard.load(Ordering::Relaxed));
        now.saturating_since(heard.max(self.started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_the_last_word_or_the_start() {
        let contact = Contact::new(UnixTime::from_secs(100));
        let silence = |seconds| contact.silence(UnixTime::from_secs(seconds)).as_secs();
        assert_eq!(silence(110), 10);
        contact.hears(UnixTime::from_secs(130));
        assert_eq!((silence(130), silence(190), silence(120)), (0, 60, 0));
    }
}
