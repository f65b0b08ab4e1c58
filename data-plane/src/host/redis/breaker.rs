//! Servers that do not answer are left alone for a while: each request that asks one waits for nothing. Then one request
//! finds out for all.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Key;

/// How many times in a row a server may not answer in time before it is left alone. One slow moment is none, however many
/// requests were under way in it.
const TOLERATED: u32 = 1;

/// How long it is left alone.
const REST: Duration = Duration::from_secs(3);

/// Most servers that are remembered.
const MOST: usize = 1_000;

/// The servers that did not answer a core of late.
#[derive(Debug, Default)]
pub(super) struct Silent(RefCell<HashMap<Key, Silence>>);

#[derive(Debug)]
struct Silence {
    timeouts: u32,
    /// When the last of them was counted.
    last: Instant,
    until: Instant,
}

impl Silent {
    /// Whether the server may be asked now. The first who asks after a rest finds out for all: the others go without
    /// for as long as that may take.
    pub(super) fn may_ask(&self, server: &Key, now: Instant, patience: Duration) -> bool {
        let mut servers = self.0.borrow_mut();
        let Some(silence) = servers.get_mut(server) else {
            return true;
        };
        if silence.timeouts <= TOLERATED {
            return true;
        }
        if now < silence.until {
            return false;
        }
        silence.until = now + patience;
        true
    }

    /// It did not answer in time what it was asked at `began`. Before the last time that it did not, that says nothing
    /// new.
    pub(super) fn timed_out(&self, server: &Key, began: Instant, now: Instant) {
        let mut servers = self.0.borrow_mut();
        if servers.len() >= MOST && !servers.contains_key(server) {
            servers.clear();
        }
        let silence = servers.entry(server.clone()).or_insert(Silence {
            timeouts: 0,
            last: began,
            until: now,
        });
        if began < silence.last {
            return;
        }
        silence.last = now;
        silence.timeouts = silence.timeouts.saturating_add(1);
        silence.until = now + REST;
    }

    /// It did answer, if only that it does not want to.
    pub(super) fn answered(&self, server: &Key) {
        self.0.borrow_mut().remove(server);
    }
}

#[cfg(test)]
mod tests {
    use shared::clock::monotonic;

    use super::*;

    #[test]
    fn a_server_that_is_silent_keeps_one_request_at_a_time() {
        let silent = Silent::default();
        let (server, other) = (([1; 32], None), ([2; 32], None));
        let start = monotonic();
        let at = |seconds| start + Duration::from_secs(seconds);
        let patience = Duration::from_secs(2);
        let may = |key: &Key, seconds| silent.may_ask(key, at(seconds), patience);
        let timed_out = |began, seconds| silent.timed_out(&server, at(began), at(seconds));
        timed_out(0, 2);
        // Those that waited at the same time.
        timed_out(0, 2);
        timed_out(1, 3);
        assert!(may(&server, 3) && may(&server, 3));
        timed_out(2, 4);
        assert!(!may(&server, 4) && !may(&server, 6) && may(&other, 4));
        // One finds out.
        assert!(may(&server, 7) && !may(&server, 7) && !may(&server, 8));
        timed_out(7, 9);
        assert!(!may(&server, 11));
        // It was given up, so another one does.
        assert!(may(&server, 12) && !may(&server, 13) && may(&server, 14));
        silent.answered(&server);
        assert!(may(&server, 14) && may(&server, 14));
    }
}
