//! What a node knows of one provider: what it says of itself, and how calls to it went of late.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use shared::clock::UnixTime;

use super::Outcome;
use super::document::Document;
use super::error::ProviderError;
use super::rediscovery::Rediscoveries;
use crate::host::Host;

/// Longest rest of a provider that fails.
const LONGEST_REST: Duration = Duration::from_secs(5);

/// How long a provider has to say that it has no key, or no endpoint, before those that it had are gone. One that means to
/// withdraw a key publishes another beside or in its place, which counts at once; a set without any is damaged far more often.
pub(in crate::bundled::openid_connect) const EMPTIED: Duration = Duration::from_hours(1);

/// What is known of one provider.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    pub(super) document: Option<Arc<Document>>,
    pub(super) discovery: Health,
    /// The endpoints whose last call failed: how one does says nothing of the others.
    pub(super) failing: HashMap<String, Health>,
    pub(super) rediscoveries: Rediscoveries,
    /// Whether what the process before has kept was looked for.
    recalled: bool,
    /// Since when the provider says that it has no key or endpoint, while those that it had are still used.
    emptied_since: Option<UnixTime>,
}

impl Entry {
    /// What is known, and be it what the process before has kept.
    pub(super) fn recall(&mut self, key: &[u8; 32], host: &impl Host) -> Option<Arc<Document>> {
        if self.document.is_none() && !std::mem::replace(&mut self.recalled, true) {
            let kept = host.kept(key);
            let kept = kept.and_then(|kept| Document::restore(&kept, host.now()));
            self.document = kept.map(Arc::new);
        }
        self.document.clone()
    }

    /// Takes up what was `fetched`, unless it takes away what nobody signs in without and has not said so for long. What an
    /// operator has dropped is not kept, and neither is what is too old to serve, as `serves` says. `random` is any number.
    pub(super) fn take_up(
        &mut self,
        fetched: Result<Document, ProviderError>,
        serves: impl FnOnce(&Document) -> bool,
        (now, random): (UnixTime, u16),
    ) -> Outcome {
        let outcome = fetched.and_then(|document| {
            let had = self.document.as_ref();
            let had = had.filter(|had| had.epoch >= document.epoch && serves(had));
            let Some(lost) = had.and_then(|had| lost(had, &document)) else {
                return Ok(document);
            };
            let since = self.emptied_since.filter(|since| *since <= now);
            let since = *self.emptied_since.insert(since.unwrap_or(now));
            if now.saturating_since(since) >= EMPTIED {
                return Ok(document);
            }
            Err(ProviderError::Unusable(lost))
        });
        let outcome = outcome.map(Arc::new);
        if let Ok(document) = &outcome {
            self.document = Some(Arc::clone(document));
            self.emptied_since = None;
        }
        self.discovery.record(outcome.as_ref().err(), now, random);
        outcome
    }
}

/// What `now` has no longer, of what it `had`.
fn lost(had: &Document, now: &Document) -> Option<&'static str> {
    let gone = |of: fn(&Document) -> &Option<String>| of(had).is_some() && of(now).is_none();
    if had.has_keys && !now.has_keys {
        Some("its key set has no key that can be used: those of before serve for an hour")
    } else if gone(|document| &document.token_endpoint) {
        Some("it has no token_endpoint any more: what it said before serves for an hour")
    } else if gone(|document| &document.authorization_endpoint) {
        Some("it has no authorization_endpoint any more: what it said before serves for an hour")
    } else {
        None
    }
}

/// How calls of one kind went of late.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    pub(super) failures: u32,
    /// When the first of these was, and the last.
    pub(super) failing_since: UnixTime,
    pub(super) failed_at: UnixTime,
    /// How much of its rest it has, in 65,536ths of the half that is not certain.
    share: u16,
    /// The last failure: what is told while it rests.
    pub(super) error: Option<ProviderError>,
}

impl Health {
    /// Notes how a call went, with any number that is `random`.
    pub(super) fn record(&mut self, error: Option<&ProviderError>, now: UnixTime, random: u16) {
        self.error = error.cloned();
        if error.is_none() {
            self.failures = 0;
        } else {
            if self.failures == 0 {
                self.failing_since = now;
            }
            self.failures = self.failures.saturating_add(1);
            (self.failed_at, self.share) = (now, random);
        }
    }

    /// Why it is not asked. A provider that answers nonsense does answer.
    pub(super) fn resting(&self) -> ProviderError {
        match &self.error {
            Some(error) => ProviderError::Resting(Some(Arc::new(error.clone()))),
            None => ProviderError::Resting(None),
        }
    }

    /// Whether it should be left alone: after `tolerated` failures, for one second more with each
    /// further one, of which up to the half is spared: nodes that failed together do not all ask again at once. A clock that
    /// was set back ends the rest.
    pub(super) fn rests(&self, tolerated: u32, now: UnixTime) -> bool {
        let over = self.failures.saturating_sub(tolerated);
        let rest = Duration::from_secs(over.into()).min(LONGEST_REST);
        let rest = rest / 2 + rest / 2 * u32::from(self.share) / (1 << 16);
        over > 0 && now >= self.failed_at && now.saturating_since(self.failed_at) < rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_77_nodes_that_fail_together_do_not_ask_again_together() {
        let at = UnixTime::from_millis;
        let rest = |failures: u32, random: u16| {
            let mut health = Health::default();
            for _ in 0..failures {
                health.record(Some(&ProviderError::GivenUp), at(1_000), random);
            }
            let rested = (1_000..10_000).take_while(|now| health.rests(0, at(*now)));
            rested.count()
        };
        // A second more with each failure, five at most; by half of that nodes differ.
        for (failures, longest) in [(1, 1_000), (3, 3_000), (5, 5_000), (100, 5_000)] {
            assert_eq!(rest(failures, 0), longest / 2);
            assert_eq!(rest(failures, 1 << 15), longest * 3 / 4);
            assert!((longest - 1..=longest).contains(&rest(failures, u16::MAX)));
        }
    }
}
