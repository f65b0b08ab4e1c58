//! What providers answered, remembered by a node: each question is asked by one request at a time, and
//! the others wait for its answer.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::clock::UnixTime;

use super::failure::{Class, Failure};
use super::rules::Rules;
use super::single_flight::Flights;
use crate::expiring::Expiring;
use crate::host::Host;

/// Most answers of one kind that a node remembers.
const MOST: usize = 10_000;

/// Names a question by all that its answer may depend on.
pub(super) type Key = [u8; 32];

/// An answer, or why there is none.
pub(super) type Outcome<V> = Result<Arc<V>, Failure>;

/// The answers of one kind.
pub(super) struct Answers<V> {
    flights: Arc<Flights<Key, Outcome<V>>>,
    /// Each until it can neither serve nor stand in any more.
    known: Mutex<Expiring<Key, Known<V>, MOST>>,
}

struct Known<V> {
    outcome: Outcome<V>,
    until: UnixTime,
    /// Until when it stands in while the provider fails (Kong 3.9, `cache_ttl_resurrect`).
    stale_until: UnixTime,
}

/// An answer that was just given, and how long it serves.
pub(super) type Given<V> = Result<(V, UnixTime), Failure>;

impl<V> Default for Answers<V> {
    fn default() -> Self {
        Self {
            flights: Arc::default(),
            known: Mutex::default(),
        }
    }
}

impl<V> fmt::Debug for Answers<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

impl<V: Send + Sync + 'static> Answers<V> {
    /// The answer to `key`: one that is known, the one that another request waits for, or what `asking`
    /// comes to, which runs to its end even if the request goes away.
    pub(super) async fn ask(
        self: &Arc<Self>,
        rules: &Rules,
        host: &impl Host,
        key: Key,
        asking: impl Future<Output = Given<V>> + 'static,
    ) -> Outcome<V> {
        if let Some(outcome) = self.find(&key, host.now()) {
            return outcome;
        }
        let (waiting, pilot) = self.flights.board(&key);
        if let Some(pilot) = pilot {
            // Between the look and the boarding another one may have landed.
            if let Some(outcome) = self.find(&key, host.now()) {
                pilot.land(&outcome);
                return outcome;
            }
            let provider = &rules.config.provider;
            let negative = provider.cache_ttl_neg.as_ref();
            let negative = negative
                .map(super::config::Number::seconds)
                .unwrap_or_default();
            let resurrect = provider.cache_ttl_resurrect.as_ref();
            let resurrect = resurrect
                .map(super::config::Number::seconds)
                .unwrap_or_default();
            let (answers, its_host) = (Arc::clone(self), host.clone());
            host.spawn(Box::pin(async move {
                let given = asking.await;
                let outcome = answers.remember(key, given, its_host.now(), negative, resurrect);
                pilot.land(&outcome);
            }));
        }
        let given_up =
            || Failure::unavailable("idp_unreachable", "asking the provider was given up");
        waiting.await.unwrap_or_else(|_| Err(given_up()))
    }

    fn lock(&self) -> MutexGuard<'_, Expiring<Key, Known<V>, MOST>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &Key, now: UnixTime) -> Option<Outcome<V>> {
        let known = self.lock();
        let known = known.get(key, now)?;
        (now < known.until).then(|| known.outcome.clone())
    }

    /// Remembers what was given. A provider that fails is stood in for by what it last said.
    fn remember(
        &self,
        key: Key,
        given: Given<V>,
        now: UnixTime,
        negative: Duration,
        resurrect: Duration,
    ) -> Outcome<V> {
        let (outcome, until) = match given {
            Ok((answer, until)) => (Ok(Arc::new(answer)), until),
            Err(failure) if failure.class == Class::Unavailable => {
                let known = self.lock();
                return match known.get(&key, now) {
                    Some(known) if now < known.stale_until && known.outcome.is_ok() => {
                        known.outcome.clone()
                    }
                    _ => Err(failure),
                };
            }
            Err(failure) => (Err(failure), now.saturating_add(negative)),
        };
        let stale_until = if outcome.is_ok() {
            until.saturating_add(resurrect)
        } else {
            until
        };
        let known = Known {
            outcome: outcome.clone(),
            until,
            stale_until,
        };
        // What does not even serve now does not stand in later.
        let ends = if now < until { stale_until } else { now };
        self.lock().keep(key, known, ends, now);
        outcome
    }
}

/// Makes names of questions. Every part has its length before it, so that no two questions have one
/// name.
pub(super) struct Namer(blake3::Hasher);

impl Namer {
    /// Begins the name of a question about `what`, asked by the rules' configuration.
    pub(super) fn new(rules: &Rules, what: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&rules.token_cache_key);
        Self(hasher).with(what.as_bytes())
    }

    /// Adds a part.
    pub(super) fn with(mut self, part: &[u8]) -> Self {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        self.0.update(&length.to_be_bytes());
        self.0.update(part);
        self
    }

    /// Adds arguments or headers.
    pub(super) fn with_pairs<'a>(
        mut self,
        pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Self {
        for (name, value) in pairs {
            self = self.with(name).with(value);
        }
        self
    }

    /// The name.
    pub(super) fn finish(self) -> Key {
        *self.0.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::testing::FakeHost;

    fn rules(more: &serde_json::Value) -> Rules {
        let mut config = json!({ "issuer": "https://idp.example" });
        config
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        Rules::new(serde_json::from_value(config).unwrap(), Uuid::nil()).unwrap()
    }

    /// Asks, and tells whether the provider was called.
    fn ask(
        answers: &Arc<Answers<u8>>,
        rules: &Rules,
        host: &FakeHost,
        given: Result<u8, Failure>,
    ) -> (Result<u8, &'static str>, bool) {
        let called = Rc::new(Cell::new(false));
        let (noted, until) = (
            Rc::clone(&called),
            host.now().saturating_add(Duration::from_secs(10)),
        );
        let asking = async move {
            noted.set(true);
            given.map(|value| (value, until))
        };
        let outcome = host.run(answers.ask(rules, host, [1; 32], asking));
        (
            outcome.map(|value| *value).map_err(|failure| failure.code),
            called.get(),
        )
    }

    #[test]
    fn refusals_are_remembered_and_answers_outlive_an_outage_as_far_as_configured() {
        let host = FakeHost::default();
        let gone = || Err(Failure::unavailable("gone", "gone"));
        let refused = || Err(Failure::refused("refused", "refused"));
        let plain = rules(&json!({}));
        let answers: Arc<Answers<u8>> = Arc::default();
        assert_eq!(ask(&answers, &plain, &host, Ok(1)), (Ok(1), true));
        assert_eq!(ask(&answers, &plain, &host, Ok(2)), (Ok(1), false));
        host.advance(10.0);
        assert_eq!(ask(&answers, &plain, &host, gone()), (Err("gone"), true));
        assert_eq!(
            ask(&answers, &plain, &host, refused()),
            (Err("refused"), true)
        );
        assert_eq!(ask(&answers, &plain, &host, Ok(3)), (Ok(3), true));

        let bounded = rules(&json!({ "cache_ttl_neg": 5, "cache_ttl_resurrect": 20 }));
        let answers: Arc<Answers<u8>> = Arc::default();
        assert_eq!(
            ask(&answers, &bounded, &host, refused()),
            (Err("refused"), true)
        );
        assert_eq!(
            ask(&answers, &bounded, &host, Ok(1)),
            (Err("refused"), false)
        );
        host.advance(5.0);
        assert_eq!(ask(&answers, &bounded, &host, Ok(1)), (Ok(1), true));
        host.advance(29.0);
        assert_eq!(ask(&answers, &bounded, &host, gone()), (Ok(1), true));
        host.advance(1.0);
        assert_eq!(ask(&answers, &bounded, &host, gone()), (Err("gone"), true));
    }
}
