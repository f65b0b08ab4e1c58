//! Work that somebody does, or has done, of which the other control planes do not know: they are told once they can be. What
//! comes of work that nobody has claimed reaches none of them.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use shared::clock::monotonic;
use shared::telemetry::Trouble;

use super::{AGREE, LOOK, Relay, silent};
use crate::config_sync::flights::{Claim, Key, PATIENCE};
use crate::store::etcd::Claims;

/// What is to be told.
#[derive(Debug, Default)]
pub(super) struct Unclaimed {
    /// Each work, and since when.
    works: Vec<(Key, Instant)>,
    /// Whether somebody is at it.
    is_told: bool,
}

impl Relay {
    /// Has the other control planes know of the work `keys`: a process goes on with it which was given it by one of them, or by
    /// the process before this one, or it was done when they could not agree whose it is. While they cannot be told, it is
    /// tried again.
    pub(super) fn tell_of(&self, keys: Vec<Key>) {
        let Some(claims) = self.claims.clone().filter(|_| !keys.is_empty()) else {
            return;
        };
        let now = monotonic();
        let mut unclaimed = self.unclaimed();
        unclaimed
            .works
            .extend(keys.into_iter().map(|key| (key, now)));
        if !std::mem::replace(&mut unclaimed.is_told, true) {
            tokio::spawn(self.clone().take_over(claims));
        }
    }

    async fn take_over(self, claims: Arc<Claims>) {
        let mut pause = LOOK.0;
        let mut trouble = Trouble::default();
        loop {
            let is_away = self.take_over_once(&claims, &mut trouble).await;
            {
                let mut unclaimed = self.unclaimed();
                if unclaimed.works.is_empty() {
                    unclaimed.is_told = false;
                    return;
                }
            }
            pause = if is_away { pause } else { LOOK.0 };
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
        }
    }

    /// Tries it once with each, as long as it can be: whether it could not.
    async fn take_over_once(&self, claims: &Claims, trouble: &mut Trouble) -> bool {
        let works = std::mem::take(&mut self.unclaimed().works);
        let mut works = works.into_iter();
        while let Some((key, since)) = works.next() {
            let age = monotonic().saturating_duration_since(since);
            if age >= PATIENCE || !self.flights().lacks_claim(&key) {
                continue;
            }
            let claiming = tokio::time::timeout(AGREE, claims.take_over(&key)).await;
            match claiming.unwrap_or_else(|_| Err(silent())) {
                Ok(Some(claim)) => self.has_claim(key, claim),
                Ok(None) => {}
                Err(error) => {
                    if trouble.is_news(&error.to_string(), monotonic()) {
                        tracing::warn!(%error, "other control planes are not told yet who refreshes sessions or redeems codes");
                    }
                    // The next time another one comes first.
                    let left = works.chain([(key, since)]);
                    self.unclaimed().works.extend(left);
                    return true;
                }
            }
        }
        false
    }

    /// The work `key`, which somebody goes on with, is claimed from the other control planes by now.
    fn has_claim(&self, key: Key, claim: Claim) {
        let claimed = self.flights().claimed(&key, claim);
        match claimed {
            Ok(()) => {}
            Err(Some(result)) => self.finish(key, claim, &result),
            Err(None) => self.release(key, claim),
        }
    }

    fn unclaimed(&self) -> MutexGuard<'_, Unclaimed> {
        self.unclaimed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
