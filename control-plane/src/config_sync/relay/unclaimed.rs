//! Work that somebody does, or has done, of which the other control planes do not know: they are told once they can be. What
//! comes of work that nobody has claimed reaches none of them.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use futures::future::join_all;
use shared::clock::monotonic;
use shared::telemetry::Trouble;

use super::{AGREE, LOOK, Relay, finish, silent};
use crate::config_sync::flights::{Claim, Key, MOST, PATIENCE};
use crate::store::etcd::{Claims, EtcdError};

/// How many are told of at once. An outage leaves thousands, and a browser may come with its old cookie at any moment.
const AT_ONCE: usize = 16;

/// What is to be told.
#[derive(Debug, Default)]
pub(super) struct Unclaimed {
    /// Each work, and since when; the newest last.
    works: VecDeque<(Key, Instant)>,
    /// Whether somebody is at it.
    is_told: bool,
}

impl Unclaimed {
    /// There is this as well. What came first goes where there is more than is known of at once.
    fn add(&mut self, keys: Vec<Key>, now: Instant) {
        self.works.extend(keys.into_iter().map(|key| (key, now)));
        let excess = self.works.len().saturating_sub(MOST);
        self.works.drain(..excess);
    }

    /// What is to be told next at `now`, each work once: the newest, whose cookies are least likely to have come elsewhere with the
    /// new ones.
    fn newest(&mut self, now: Instant) -> Vec<(Key, Instant)> {
        let is_needed = |since: &Instant| now.saturating_duration_since(*since) < PATIENCE;
        self.works.retain(|(_, since)| is_needed(since));
        let mut batch: Vec<(Key, Instant)> = Vec::new();
        while batch.len() < AT_ONCE
            && let Some(work) = self.works.pop_back()
        {
            // Two who take over the same at a time undo each other's claim.
            if batch.iter().all(|(key, _)| *key != work.0) {
                batch.push(work);
            }
        }
        batch
    }

    /// These could not be told. The next time others come first.
    fn put_back(&mut self, works: Vec<(Key, Instant)>) {
        for work in works {
            self.works.push_front(work);
        }
    }
}

impl Relay {
    /// Has the other control planes know of the work `keys`: a process goes on with it which was given it by one of them, or by
    /// the process before this one, or it was done when they could not agree whose it is. While they cannot be told, it is
    /// tried again.
    pub(super) fn tell_of(&self, keys: Vec<Key>) {
        let Some(claims) = self.claims().filter(|_| !keys.is_empty()) else {
            return;
        };
        let mut unclaimed = self.unclaimed();
        unclaimed.add(keys, monotonic());
        if !std::mem::replace(&mut unclaimed.is_told, true) {
            tokio::spawn(self.clone().take_over(claims));
        }
    }

    async fn take_over(self, claims: Arc<Claims>) {
        let mut pause = LOOK.0;
        let mut trouble = Trouble::default();
        loop {
            let batch = {
                let mut unclaimed = self.unclaimed();
                let batch = unclaimed.newest(monotonic());
                if batch.is_empty() {
                    unclaimed.is_told = false;
                    return;
                }
                batch
            };
            let told = batch
                .into_iter()
                .map(|work| self.take_over_one(&claims, work));
            let failed: Vec<_> = join_all(told).await.into_iter().flatten().collect();
            let Some((_, error)) = failed.first() else {
                pause = LOOK.0;
                continue;
            };
            if trouble.is_news(&error.to_string(), monotonic()) {
                tracing::warn!(%error, "other control planes cannot be told yet who refreshes sessions or redeems codes");
            }
            let failed = failed.into_iter().map(|(work, _)| work);
            self.unclaimed().put_back(failed.collect());
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
        }
    }

    /// Tells of one. What could not be told, and why.
    async fn take_over_one(
        &self,
        claims: &Claims,
        (key, since): (Key, Instant),
    ) -> Option<((Key, Instant), EtcdError)> {
        if !self.flights().lacks_claim(&key) {
            return None;
        }
        let claiming = tokio::time::timeout(AGREE, claims.take_over(&key)).await;
        match claiming.unwrap_or_else(|_| Err(silent())) {
            Ok(Some(claim)) => self.has_claim(claims, key, claim).await,
            Ok(None) => {}
            Err(error) => return Some(((key, since), error)),
        }
        None
    }

    /// The work `key`, which somebody goes on with, is claimed from the other control planes by now.
    async fn has_claim(&self, claims: &Claims, key: Key, claim: Claim) {
        let claimed = self.flights().claimed(&key, claim);
        match claimed {
            Ok(()) => {}
            Err(Some(result)) => finish(claims, &key, claim, &result).await,
            Err(None) => self.release(key, claim),
        }
    }

    fn unclaimed(&self) -> MutexGuard<'_, Unclaimed> {
        self.unclaimed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(number: usize) -> Key {
        Key::from(number.to_be_bytes().to_vec())
    }

    #[test]
    fn the_newest_are_told_of_first_and_what_could_not_be_told_last() {
        let start = monotonic();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut unclaimed = Unclaimed::default();
        for number in 0..=AT_ONCE {
            unclaimed.add(vec![key(number)], at(0));
        }
        let batch = unclaimed.newest(at(1));
        let keys: Vec<Key> = batch.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(keys, (1..=AT_ONCE).rev().map(key).collect::<Vec<_>>());
        unclaimed.put_back(batch);
        unclaimed.add(vec![key(99)], at(2));
        let next = unclaimed.newest(at(2));
        assert_eq!(next[..2], [(key(99), at(2)), (key(0), at(0))]);
        assert_eq!(next.len(), AT_ONCE);
        // Nobody comes with a cookie of so long ago any more.
        assert!(unclaimed.newest(start + PATIENCE).is_empty());
    }

    #[test]
    fn the_same_work_is_not_told_of_twice_at_once() {
        let now = monotonic();
        let mut unclaimed = Unclaimed::default();
        unclaimed.add(vec![key(1), key(2)], now);
        unclaimed.add(vec![key(1), key(3)], now);
        let batch = unclaimed.newest(now);
        let keys: Vec<Key> = batch.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(keys, [3, 1, 2].map(key));
        // Nor after it could not be told, and has come again.
        unclaimed.put_back(batch);
        unclaimed.add(vec![key(2)], now);
        let keys = unclaimed.newest(now).into_iter().map(|(key, _)| key);
        assert_eq!(keys.collect::<Vec<_>>(), [2, 3, 1].map(key));
        assert!(unclaimed.newest(now).is_empty());
    }

    #[test]
    fn of_too_many_the_first_are_not_told_of() {
        let now = monotonic();
        let mut unclaimed = Unclaimed::default();
        unclaimed.add((0..MOST).map(key).collect(), now);
        unclaimed.add(vec![key(MOST)], now);
        assert_eq!(unclaimed.works.len(), MOST);
        assert_eq!(unclaimed.works[0].0, key(1));
        assert_eq!(unclaimed.newest(now)[0].0, key(MOST));
    }
}
