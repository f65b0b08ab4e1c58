//! Servers that do not answer are left alone for a while: each request that asks one waits for nothing. Then one request
//! finds out for all, and goes on without an answer that takes more than a moment.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use plugins::host::redis::RedisError;
use shared::clock::monotonic;

use super::Key;

/// How many times in a row a server may not answer in time before it is left alone. One slow moment is none, however many
/// requests were under way in it.
const TOLERATED: u32 = 1;

/// How long it is left alone.
const REST: Duration = Duration::from_secs(3);

/// How long a request waits that asks it after that. What it asked goes on beside it.
const MOMENT: Duration = Duration::from_millis(100);

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

/// What a request does that would ask a server.
#[derive(Debug, Eq, PartialEq)]
enum Turn {
    /// It waits for the answer.
    Asks,
    /// It finds out for all whether there is one.
    FindsOut,
    /// It goes without.
    Rests,
}

impl Silent {
    /// What `asking` the server comes to within its timeouts, together `patience`; `None` if it is left alone.
    pub(super) async fn ask<T: 'static>(
        self: Rc<Self>,
        server: Key,
        patience: Duration,
        asking: impl Future<Output = Result<T, RedisError>> + 'static,
    ) -> Option<Result<T, RedisError>> {
        let began = monotonic();
        let turn = self.turn(&server, began, patience);
        let asked = async move {
            let asked = asking.await;
            if matches!(asked, Err(RedisError::Timeout { .. })) {
                self.timed_out(&server, began, monotonic());
            } else {
                self.answered(&server);
            }
            asked
        };
        match turn {
            Turn::Asks => Some(asked.await),
            Turn::FindsOut => {
                let asked = tokio::task::spawn_local(asked);
                tokio::time::timeout(MOMENT, asked).await.ok()?.ok()
            }
            Turn::Rests => None,
        }
    }

    /// Whether the server may be asked now. The first who asks after a rest finds out for all: the others go without
    /// for as long as that may take.
    fn turn(&self, server: &Key, now: Instant, patience: Duration) -> Turn {
        let mut servers = self.0.borrow_mut();
        let Some(silence) = servers.get_mut(server) else {
            return Turn::Asks;
        };
        if silence.timeouts <= TOLERATED {
            return Turn::Asks;
        }
        if now < silence.until {
            return Turn::Rests;
        }
        silence.until = now + patience;
        Turn::FindsOut
    }

    /// It did not answer in time what it was asked at `began`. Before the last time that it did not, that says nothing
    /// new.
    fn timed_out(&self, server: &Key, began: Instant, now: Instant) {
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
    fn answered(&self, server: &Key) {
        self.0.borrow_mut().remove(server);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::sync::oneshot;
    use tokio::task::{LocalSet, yield_now};

    use super::*;

    #[test]
    fn a_server_that_is_silent_keeps_one_request_at_a_time() {
        let silent = Silent::default();
        let (server, other) = (([1; 32], None), ([2; 32], None));
        let start = monotonic();
        let at = |seconds| start + Duration::from_secs(seconds);
        let patience = Duration::from_secs(2);
        let may = |key: &Key, seconds| silent.turn(key, at(seconds), patience) != Turn::Rests;
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

    #[tokio::test(start_paused = true)]
    async fn whoever_finds_out_waits_for_a_moment_and_what_it_asked_goes_on() {
        let server: Key = ([1; 32], None);
        let patience = Duration::from_secs(2);
        let finds_out = async {
            let silent = Rc::new(Silent::default());
            let before = monotonic().checked_sub(2 * REST).unwrap();
            silent.timed_out(&server, before, before);
            silent.timed_out(&server, before, before);
            let asks = async |asking| {
                let asked = Rc::clone(&silent).ask(server.clone(), patience, asking);
                asked.await.map(Result::unwrap)
            };
            let (answer, answered) = oneshot::channel::<u8>();
            let asked = asks(async move { Ok(answered.await.unwrap()) }.boxed_local());
            // The clock of the test goes on by itself while everybody waits.
            let asked = tokio::time::timeout(2 * patience, asked).await;
            assert_eq!(asked.expect("it goes on without"), None);
            assert_eq!(asks(async { Ok(2) }.boxed_local()).await, None);
            answer.send(1).unwrap();
            while silent.turn(&server, monotonic(), patience) == Turn::Rests {
                yield_now().await;
            }
            assert_eq!(asks(async { Ok(3) }.boxed_local()).await, Some(3));

            silent.timed_out(&server, before, before);
            silent.timed_out(&server, before, before);
            // An answer in time is its own.
            assert_eq!(asks(async { Ok(4) }.boxed_local()).await, Some(4));
            assert_eq!(silent.turn(&server, monotonic(), patience), Turn::Asks);
        };
        LocalSet::new().run_until(finds_out).await;
    }
}
