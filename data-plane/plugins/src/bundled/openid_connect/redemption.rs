//! Codes, each redeemed once in a cluster: to the end even if the browser that brought it goes away, and with one result
//! for whoever brings the same response again, because the page was reloaded or its answer was lost (RFC 6749 §4.1.2).
//!
//! ```text
//! response ─► redeemed here before? ─► claim in the cluster ─► turn in Redis ─► token endpoint, verify ─► result, told to all
//!                                      if one is heard         where there is one
//! ```
//!
//! A node that hears a control plane takes its turn in Redis as well: another one may hear none.
//!
//! Who brings it has the cookie of the sign-in, which the answer takes away. Where a code is spent and its tokens cannot be
//! verified, since the provider's keys are out of reach, these are kept for a while: a reload goes on with them.

mod finish;

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::digest::sha256;
use subtle::ConstantTimeEq;

use super::failure::{Class, Failure};
use super::flow::{Callback, Pending, SignedIn};
use super::rules::Rules;
use super::single_flight::Flights;
use super::token_endpoint::{PassedOn, Tokens};
use super::told;
use super::turn::{Turn, Whose};
use crate::exchange::Exchange;
use crate::expiring::Expiring;
use crate::host::{Claim, Host, Number, Work};
use crate::sessions::session_keys::KeyRing;
use finish::Given;

/// What a result is sealed as on its way to another node. No cookie has such a name.
const NAME: &str = "=code";

/// What tokens that nobody has verified are sealed as. A node that knows nothing of these does not take them for a result.
const GIVEN: &str = "=given";

/// How long tokens wait for the keys that verify them.
const UNJUDGED: Duration = Duration::from_mins(5);

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
    /// These tokens, by the response with this digest; they are not verified yet.
    Given([u8; 32], Given),
}

shared::unsaid!(Landed);

/// The codes of a node.
#[derive(Default)]
struct Redemptions {
    flights: Arc<Flights<Key, Landed>>,
    landed: Mutex<Expiring<Key, Landed, MOST>>,
}

shared::unsaid!(Redemptions);

/// What nodes tell one another.
#[derive(Deserialize, Serialize)]
struct Told<'a> {
    response: [u8; 32],
    tokens: Cow<'a, Tokens>,
    /// When they were given, if they are not verified. The version before does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<UnixTime>,
}

/// How far a node has come with a code.
struct Finished {
    landed: Landed,
    /// The tokens, if they could not be verified.
    given: Option<Given>,
}

/// A code that is this node's to redeem, and to tell the others of.
struct Ours<H> {
    begun: Number,
    turn: Option<Turn<H>>,
}

impl Finished {
    /// How long it is of use to other nodes.
    const fn lasts(&self) -> Duration {
        match self.given {
            Some(_) => UNJUDGED,
            None => REMEMBERED,
        }
    }
}

impl From<Landed> for Finished {
    fn from(landed: Landed) -> Self {
        Self {
            landed,
            given: None,
        }
    }
}

/// A response on its way to a result.
struct Redemption<H> {
    telling: Telling<H>,
    pending: Pending,
    response: Callback,
    passed_on: PassedOn,
}

/// What it takes to tell the other nodes of a code: it outlives the response, which may be long.
struct Telling<H> {
    rules: Arc<Rules>,
    host: H,
    ring: KeyRing,
    key: Key,
    digest: [u8; 32],
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
        let response = response.clone();
        let given = &mut None;
        let finished = finish::finish(rules, host, pending, response, &passed_on, given);
        return Some(finished.await.map(Arc::new));
    }
    let digest = digest(response);
    let redemption = Redemption {
        telling: Telling {
            rules: Arc::clone(rules),
            host: host.clone(),
            ring: exchange.environment.session_keys.clone(),
            key: key(&pending.state),
            digest,
        },
        pending,
        response: response.clone(),
        passed_on,
    };
    match redemption.result().await {
        Landed::Result(response, outcome) if bool::from(response.ct_eq(&digest)) => Some(outcome),
        Landed::Result(..) | Landed::Given(..) | Landed::Spent => None,
    }
}

impl<H: Host> Redemption<H> {
    /// The result: of before, of who is at it, or of one's own.
    async fn result(self) -> Landed {
        let redemptions = self.telling.host.node_state::<Redemptions>();
        let before = redemptions.find(&self.telling.key, self.telling.host.now());
        if let Some(landed @ (Landed::Result(..) | Landed::Spent)) = before {
            return landed;
        }
        let digest = self.telling.digest;
        let (waiting, pilot) = redemptions.flights.board(&self.telling.key);
        if let Some(pilot) = pilot {
            let given = match redemptions.find(&self.telling.key, self.telling.host.now()) {
                Some(Landed::Given(response, given)) if response == digest => Some(given),
                // Between the look and the boarding another one may have landed.
                Some(landed) => {
                    pilot.land(&landed);
                    return landed;
                }
                None => None,
            };
            let host = self.telling.host.clone();
            host.spawn(Box::pin(async move {
                let (finished, ours) = match given {
                    Some(given) => (self.finish(Some(given)).await, None),
                    None => self.run().await,
                };
                let kept = finished.given.clone();
                let kept = kept.map(|given| Landed::Given(digest, given));
                let kept = kept.as_ref().unwrap_or(&finished.landed);
                redemptions.remember(self.telling.key, kept, self.telling.host.now());
                pilot.land(&finished.landed);
                let telling = self.into_telling();
                if let Some(ours) = ours {
                    // Whoever waits for the answer does not wait for Redis: other nodes do.
                    telling.publish(ours, &finished).await;
                    telling.go_on(&redemptions).await;
                }
            }));
        }
        waiting.await.unwrap_or_else(|_| {
            let given_up = Failure::unavailable("idp_unreachable", "the sign-in was given up");
            Landed::Result(digest, Err(given_up))
        })
    }

    /// Lets go of the response.
    fn into_telling(self) -> Telling<H> {
        self.telling
    }

    /// How far it has come, and what it takes to tell others, if it was this node's to do.
    async fn run(&self) -> (Finished, Option<Ours<H>>) {
        let Telling {
            rules, host, key, ..
        } = &self.telling;
        let claimed = match host.claim(*key, Work::Code).await {
            Claim::Theirs(told) => return (self.hear(&told).await, None),
            Claim::Taken => return (self.taken(), None),
            Claim::Ours(begun) => Some(begun),
            Claim::Alone => None,
        };
        let turn = Turn::of_code(rules, host, key);
        let whose = match &turn {
            Some(turn) => turn.take().await,
            None => Ok(Whose::Unknown),
        };
        let theirs = match whose {
            Ok(Whose::Ours | Whose::Unknown) => {
                let begun = claimed.unwrap_or_else(|| host.undertake(*key));
                let finished = match &turn {
                    Some(turn) => turn.during(self.finish(None)).await,
                    None => self.finish(None).await,
                };
                return (finished, Some(Ours { begun, turn }));
            }
            Ok(Whose::Spent) => Landed::Spent.into(),
            Ok(Whose::Theirs(told)) => self.hear(&told).await,
            Ok(Whose::Taken) => self.taken(),
            Err(failure) => self.failed(failure),
        };
        // Who asks next finds the same in Redis. Also where this was nobody's for sure, a control plane may wait for its end.
        let begun = claimed.unwrap_or_else(|| host.undertake(*key));
        host.publish(*key, begun, None);
        (theirs, None)
    }

    fn taken(&self) -> Finished {
        let detail = "another node still waits for the provider";
        self.failed(Failure::unavailable("idp_unreachable", detail))
    }

    fn failed(&self, failure: Failure) -> Finished {
        Landed::Result(self.telling.digest, Err(failure)).into()
    }

    /// Goes on with the tokens that were `given` already, or asks for them.
    async fn finish(&self, mut given: Option<Given>) -> Finished {
        let (pending, response) = (self.pending.clone(), self.response.clone());
        let (rules, host) = (&self.telling.rules, &self.telling.host);
        let finished = finish::finish(rules, host, pending, response, &self.passed_on, &mut given);
        let outcome = finished.await.map(Arc::new);
        Finished {
            given: given.filter(|_| is_for_now(&outcome)),
            landed: Landed::Result(self.telling.digest, outcome),
        }
    }

    /// What another node has told.
    async fn hear(&self, told: &[u8]) -> Finished {
        let open = |name| -> Option<Told<'_>> {
            told::open(
                &self.telling.rules,
                &self.telling.ring,
                &self.telling.host,
                name,
                told,
            )
        };
        if let Some(told) = open(NAME) {
            let signed_in = SignedIn {
                pending: self.pending.clone(),
                tokens: told.tokens.into_owned(),
            };
            return Landed::Result(told.response, Ok(Arc::new(signed_in))).into();
        }
        match open(GIVEN) {
            Some(told) if told.response == self.telling.digest => {
                let given = Given {
                    tokens: Arc::new(told.tokens.into_owned()),
                    at: told.at.unwrap_or_else(|| self.telling.host.now()),
                };
                self.finish(Some(given)).await
            }
            Some(_) | None => Landed::Spent.into(),
        }
    }
}

impl<H: Host> Telling<H> {
    /// Tells the other nodes what has come of what was `ours`.
    async fn publish(&self, Ours { begun, turn }: Ours<H>, finished: &Finished) {
        let told = self.tell(finished);
        self.host.publish(self.key, begun, told.clone());
        if let Some(turn) = turn {
            turn.end(told, finished.lasts()).await;
        }
    }

    /// What other nodes are told. Nothing if the code may still be good.
    fn tell(&self, finished: &Finished) -> Option<Vec<u8>> {
        match (&finished.given, &finished.landed) {
            (Some(given), _) => Some(self.seal_given(given)),
            (None, Landed::Result(_, Ok(signed_in))) => {
                Some(self.seal(NAME, &signed_in.tokens, None))
            }
            (None, Landed::Result(_, outcome)) if is_for_now(outcome) => None,
            (None, _) => Some(told::SPENT.to_vec()),
        }
    }

    fn seal_given(&self, given: &Given) -> Vec<u8> {
        self.seal(GIVEN, &given.tokens, Some(given.at))
    }

    /// What is told of `tokens`: no more than that the code is spent, if they are too long.
    fn seal(&self, name: &str, tokens: &Tokens, at: Option<UnixTime>) -> Vec<u8> {
        let told = Told {
            response: self.digest,
            tokens: Cow::Borrowed(tokens),
            at,
        };
        let told = told::seal(&self.rules, &self.ring, &self.host, name, &told);
        told.unwrap_or_else(|| told::SPENT.to_vec())
    }

    /// Sees to it that the other nodes can hear of tokens that this one keeps until they can be verified: a node that does
    /// not know of them would spend the code again, which may revoke them (RFC 6749 §4.1.2).
    async fn go_on(&self, redemptions: &Redemptions) {
        let kept = || match redemptions.find(&self.key, self.host.now()) {
            Some(Landed::Given(_, given)) => Some(given),
            _ => None,
        };
        let seal = |given: &Given| Some(self.seal_given(given));
        told::go_on(&self.host, self.key, Work::Code, kept, seal).await;
    }
}

impl Redemptions {
    fn lock(&self) -> MutexGuard<'_, Expiring<Key, Landed, MOST>> {
        self.landed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &Key, now: UnixTime) -> Option<Landed> {
        self.lock().get(key, now).cloned()
    }

    fn remember(&self, key: Key, landed: &Landed, now: UnixTime) {
        // A provider that was not reached is asked again by the next request.
        if matches!(landed, Landed::Result(_, outcome) if is_for_now(outcome)) {
            return;
        }
        let kept_for = match landed {
            Landed::Given(..) => UNJUDGED,
            Landed::Result(..) | Landed::Spent => REMEMBERED,
        };
        let mut all = self.lock();
        let landed = if all.is_below(MOST_RESULTS, now) {
            landed.clone()
        } else {
            Landed::Spent
        };
        let given = |landed: &Landed| matches!(landed, Landed::Given(..));
        // However often somebody tries, what is not verified in time never is.
        let waits = all.get(&key, now).is_some_and(given) && given(&landed);
        if !waits {
            all.keep(key, landed, now.saturating_add(kept_for), now);
        }
    }
}

/// Whether the provider was not to be had: it may not have looked at the code, or what it gave waits for its keys.
fn is_for_now(outcome: &Outcome) -> bool {
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
