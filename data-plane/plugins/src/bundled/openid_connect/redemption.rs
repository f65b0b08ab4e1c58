//! Codes, each redeemed once in a cluster: to the end even if the browser that brought it goes away, and with one result
//! for whoever brings the same response again, because the page was reloaded or its answer was lost (RFC 6749 §4.1.2).
//!
//! ```text
//! response ─► redeemed here before? ─► claim in the cluster ─► token endpoint, verify ─► result, told to all
//! ```
//!
//! Who brings it has the cookie of the sign-in, which the answer takes away.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use subtle::ConstantTimeEq;

use super::failure::{Class, Failure};
use super::flow::{Callback, Pending, SignedIn};
use super::rules::{Rules, sha256};
use super::sign_in;
use super::single_flight::Flights;
use super::token_endpoint::{PassedOn, Tokens};
use super::told;
use crate::exchange::Exchange;
use crate::host::{Claim, Host, Work};
use crate::sessions::session_keys::KeyRing;

/// What other nodes are told of a code whose result cannot be told: that it is spent. No sealed text is that short.
const SPENT: &[u8] = b"spent";

/// What a result is sealed as on its way to another node. No cookie has such a name.
const NAME: &str = "=code";

/// How long a node remembers what became of a code.
const REMEMBERED: Duration = Duration::from_mins(1);

/// Most codes that a node remembers.
const MOST: usize = 10_000;

/// Beyond so many, only that they are spent: results hold tokens.
const MOST_RESULTS: usize = 1_000;

/// What a sign-in has come to.
type Outcome = Result<Arc<SignedIn>, Failure>;

/// Names a code: by the state that came with it, which is worth one.
type Key = [u8; 32];

/// What has become of a code.
#[derive(Clone)]
enum Landed {
    /// It is spent, and nobody here knows for what.
    Spent,
    /// This, by the response with this digest.
    Result([u8; 32], Outcome),
}

shared::unsaid!(Landed);

/// The codes of a node.
#[derive(Default)]
struct Redemptions {
    flights: Arc<Flights<Key, Landed>>,
    landed: Mutex<HashMap<Key, (UnixTime, Landed)>>,
}

shared::unsaid!(Redemptions);

/// What nodes tell one another.
#[derive(Deserialize, Serialize)]
struct Told<'a> {
    response: [u8; 32],
    tokens: Cow<'a, Tokens>,
}

/// A response on its way to a result.
struct Redemption<H> {
    rules: Arc<Rules>,
    host: H,
    ring: KeyRing,
    key: Key,
    digest: [u8; 32],
    pending: Pending,
    response: Callback,
    passed_on: PassedOn,
}

fn key(state: &str) -> Key {
    sha256(format!("code of {state}").as_bytes())
}

/// Whether a code that came with `state` was redeemed here of late.
pub(super) fn knows(host: &impl Host, state: &str) -> bool {
    let redemptions = host.node_state::<Redemptions>();
    redemptions.find(&key(state), host.now()).is_some()
}

/// Brings the sign-in `pending` to its end by the `response` to it. `None`: its code was spent, and it is not known for
/// what, or by another response than this one.
pub(super) async fn redeem<H: Host>(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &H,
    pending: Pending,
    response: &Callback,
) -> Option<Outcome> {
    let passed_on = PassedOn::of(rules, exchange).await;
    if response.code.is_none() {
        let finished = sign_in::finish(rules, host, pending, response.clone(), &passed_on);
        return Some(finished.await.map(Arc::new));
    }
    let digest = digest(response);
    let redemption = Redemption {
        rules: Arc::clone(rules),
        host: host.clone(),
        ring: exchange.environment.session_keys.clone(),
        key: key(&pending.state),
        digest,
        pending,
        response: response.clone(),
        passed_on,
    };
    match redemption.result().await {
        Landed::Result(response, outcome) if bool::from(response.ct_eq(&digest)) => Some(outcome),
        Landed::Result(..) | Landed::Spent => None,
    }
}

impl<H: Host> Redemption<H> {
    /// The result: of before, of who is at it, or of one's own.
    async fn result(self) -> Landed {
        let redemptions = self.host.node_state::<Redemptions>();
        if let Some(landed) = redemptions.find(&self.key, self.host.now()) {
            return landed;
        }
        let digest = self.digest;
        let (waiting, pilot) = redemptions.flights.board(&self.key);
        if let Some(pilot) = pilot {
            // Between the look and the boarding another one may have landed.
            if let Some(landed) = redemptions.find(&self.key, self.host.now()) {
                pilot.land(&landed);
                return landed;
            }
            let host = self.host.clone();
            host.spawn(Box::pin(async move {
                let landed = self.run().await;
                redemptions.remember(self.key, &landed, self.host.now());
                pilot.land(&landed);
            }));
        }
        waiting.await.unwrap_or_else(|_| {
            let given_up = Failure::unavailable("idp_unreachable", "the sign-in was given up");
            Landed::Result(digest, Err(given_up))
        })
    }

    async fn run(&self) -> Landed {
        let outcome = match self.host.claim(self.key, Work::Code).await {
            Claim::Theirs(told) => return self.hear(&told),
            Claim::Alone => self.finish().await,
            Claim::Ours => {
                let outcome = self.finish().await;
                self.host.publish(self.key, self.tell(&outcome));
                outcome
            }
        };
        Landed::Result(self.digest, outcome)
    }

    async fn finish(&self) -> Outcome {
        let (pending, response) = (self.pending.clone(), self.response.clone());
        let (rules, host) = (&self.rules, &self.host);
        let finished = sign_in::finish(rules, host, pending, response, &self.passed_on);
        finished.await.map(Arc::new)
    }

    /// What other nodes are told. Nothing if the code may still be good.
    fn tell(&self, outcome: &Outcome) -> Option<Vec<u8>> {
        if is_unspent(outcome) {
            return None;
        }
        let told = outcome.as_ref().ok().and_then(|signed_in| {
            let told = Told {
                response: self.digest,
                tokens: Cow::Borrowed(&signed_in.tokens),
            };
            told::seal(&self.rules, &self.ring, &self.host, NAME, &told)
        });
        told.or_else(|| Some(SPENT.to_vec()))
    }

    /// What another node has told.
    fn hear(&self, told: &[u8]) -> Landed {
        let opened = told::open(&self.rules, &self.ring, &self.host, NAME, told);
        let Some(told): Option<Told<'_>> = opened else {
            return Landed::Spent;
        };
        let signed_in = SignedIn {
            pending: self.pending.clone(),
            tokens: told.tokens.into_owned(),
        };
        Landed::Result(told.response, Ok(Arc::new(signed_in)))
    }
}

impl Redemptions {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (UnixTime, Landed)>> {
        self.landed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &Key, now: UnixTime) -> Option<Landed> {
        let landed = self.lock();
        let (until, landed) = landed.get(key)?;
        (now < *until).then(|| landed.clone())
    }

    fn remember(&self, key: Key, landed: &Landed, now: UnixTime) {
        // A provider that was not reached is asked again by the next request.
        if matches!(landed, Landed::Result(_, outcome) if is_unspent(outcome)) {
            return;
        }
        let mut all = self.lock();
        if all.len() >= MOST_RESULTS {
            all.retain(|_, (until, _)| now < *until);
        }
        if all.len() < MOST {
            let landed = if all.len() < MOST_RESULTS {
                landed.clone()
            } else {
                Landed::Spent
            };
            all.insert(key, (now.saturating_add(REMEMBERED), landed));
        }
    }
}

/// Whether the provider has not looked at the code, so that it may still be good.
fn is_unspent(outcome: &Outcome) -> bool {
    matches!(outcome, Err(failure) if failure.class == Class::Unavailable)
}

/// Tells one response to a sign-in from another.
fn digest(response: &Callback) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in [
        &response.code,
        &response.iss,
        &response.error,
        &response.id_token,
        &response.access_token,
        &response.response,
    ] {
        let part = part.as_deref();
        let length = part.map_or(u64::MAX, |part| {
            u64::try_from(part.len()).unwrap_or(u64::MAX)
        });
        hasher.update(&length.to_be_bytes());
        hasher.update(part.unwrap_or_default().as_bytes());
    }
    *hasher.finalize().as_bytes()
}
