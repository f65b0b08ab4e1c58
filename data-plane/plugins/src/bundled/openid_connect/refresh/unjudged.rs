//! What a provider has given for a refresh token, which by that is spent, signed with a key that nobody knows yet: kept
//! until it can be judged, and told to the other nodes, each of which judges it for itself. Asked with the spent token
//! once more, a provider that detects its reuse would end the session (RFC 9700 §4.14.2).

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;

use crate::bundled::openid_connect::failure::Failure;
use crate::bundled::openid_connect::provider::Unaccepted;
use crate::bundled::openid_connect::rules::Rules;
use crate::bundled::openid_connect::session_store::{Aside, SessionStore};
use crate::bundled::openid_connect::token_endpoint::Tokens;
use crate::bundled::openid_connect::told;
use crate::expiring::Expiring;
use crate::host::{Host, Work};
use crate::sessions::session_keys::KeyRing;

/// How long it waits for the key that has signed it to become known.
pub(super) const KEPT: Duration = Duration::from_mins(5);

/// Most that a node keeps.
const MOST: usize = 1_000;

/// What it is sealed as on its way to another node: what the version before takes for tokens that were judged has another
/// name. No cookie has such a one.
const NAME: &str = "=refresh, not judged";

/// What a node keeps, by the name of the refresh.
#[derive(Debug, Default)]
pub(super) struct Unjudged {
    given: Mutex<Expiring<[u8; 32], Given, MOST>>,
    /// Since when the provider lacks the key of what it gives, by the name of what is replaced: a refresh token that serves on
    /// brings more.
    unsigned: Mutex<Expiring<[u8; 32], UnixTime, MOST_UNSIGNED>>,
}

/// How long it is known since when: what happens later is counted anew.
const REMEMBERED: Duration = Duration::from_mins(10);

/// Most of which that is known.
const MOST_UNSIGNED: usize = 10_000;

/// What was given, and until when it is kept.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) tokens: Arc<Tokens>,
    /// When the token endpoint gave it.
    pub(super) at: UnixTime,
    until: UnixTime,
    /// Whether this node sees to it that the others can hear of it.
    is_told: bool,
}

/// The same as nodes tell it one another.
#[derive(Deserialize, Serialize)]
struct Told<'a> {
    tokens: Cow<'a, Tokens>,
    at: UnixTime,
    until: UnixTime,
}

impl Given {
    /// What the token endpoint has given just now, in the place of what was given `before`.
    pub(super) fn now(tokens: Arc<Tokens>, before: Option<&Self>, now: UnixTime) -> Self {
        let until = before.map(|before| before.until);
        Self {
            tokens,
            at: now,
            until: until.unwrap_or_else(|| now.saturating_add(KEPT)),
            is_told: false,
        }
    }

    /// Whether its access token has ended before anybody could judge it.
    pub(super) fn is_over(&self, rules: &Rules, now: UnixTime) -> bool {
        let leeway = rules.config.credentials.leeway.seconds();
        let end = self.tokens.expires_at;
        end.is_some_and(|end| end.saturating_add(leeway) <= now)
    }

    /// The refresh token that has come in the place of `refresh_token`, which it was given for and which by that is spent.
    pub(super) fn next(&self, refresh_token: &str) -> Option<&str> {
        self.tokens.in_place_of(refresh_token)
    }

    fn told(&self) -> Told<'_> {
        Told {
            tokens: Cow::Borrowed(&*self.tokens),
            at: self.at,
            until: self.until,
        }
    }

    fn heard(told: Told<'_>) -> Self {
        Self {
            tokens: Arc::new(told.tokens.into_owned()),
            at: told.at,
            until: told.until,
            is_told: false,
        }
    }

    /// What other nodes are told of it: nothing if they may ask for themselves.
    pub(super) fn seal(
        &self,
        rules: &Rules,
        ring: &KeyRing,
        host: &impl Host,
        refresh_token: &str,
    ) -> Option<Vec<u8>> {
        self.next(refresh_token)?;
        told::seal(rules, ring, host, NAME, &self.told())
    }
}

impl Unjudged {
    fn lock(&self) -> MutexGuard<'_, Expiring<[u8; 32], Given, MOST>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the provider had time enough to publish the key of what it gives, which `why` says is not accepted: nobody
    /// waits for it any more. The time is counted from the first such refusal on.
    pub(super) fn is_overdue(
        &self,
        key: [u8; 32],
        why: Option<&Unaccepted>,
        now: UnixTime,
    ) -> bool {
        let all = self.unsigned.lock();
        let mut all = all.unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(Unaccepted::Unsigned(_)) => {}
            Some(_) => return false,
            None => {
                all.remove(&key);
                return false;
            }
        }
        if let Some(since) = all.get(&key, now) {
            return since.saturating_add(KEPT) <= now;
        }
        all.keep(key, now, now.saturating_add(REMEMBERED), now);
        false
    }

    /// What this node keeps.
    pub(super) fn find(&self, key: &[u8; 32], now: UnixTime) -> Option<Given> {
        self.lock().get(key, now).cloned()
    }

    /// Takes over what another node has told, if that is what it is.
    pub(super) fn hear(
        &self,
        rules: &Rules,
        ring: &KeyRing,
        host: &impl Host,
        key: [u8; 32],
        sealed: &[u8],
    ) {
        let now = host.now();
        if self.find(&key, now).is_none()
            && let Some(told) = told::open::<Told<'_>>(rules, ring, host, NAME, sealed)
        {
            self.keep(key, &Given::heard(told), now);
        }
    }

    /// Keeps what was `given`, if it is not kept already.
    fn keep(&self, key: [u8; 32], given: &Given, now: UnixTime) -> bool {
        let mut all = self.lock();
        let known = all.get(&key, now);
        if known.is_some_and(|known| Arc::ptr_eq(&known.tokens, &given.tokens)) {
            return false;
        }
        let is_told = known.is_some_and(|known| known.is_told);
        let given = given.clone();
        let until = given.until;
        all.keep(key, Given { is_told, ..given }, until, now)
    }

    /// Keeps what was `given` for as long as nobody can judge it, also in `store`, where sessions are; else it is of no use
    /// any more.
    pub(super) async fn note(
        &self,
        rules: &Rules,
        ring: &KeyRing,
        host: &impl Host,
        store: Option<&SessionStore>,
        (key, refresh_token): ([u8; 32], &str),
        (given, why): (&Given, Option<&Unaccepted>),
    ) {
        if !why.is_some_and(Unaccepted::is_for_now) {
            self.lock().remove(&key);
            return;
        }
        let now = host.now();
        let is_new = self.keep(key, given, now) && given.next(refresh_token).is_some();
        if let Some(store) = store.filter(|_| is_new) {
            let text = serde_json::to_vec(&given.told()).expect("tokens have only string keys");
            let left = given.until.saturating_since(now);
            let name = name(&key);
            // What failed is logged. The other nodes may hear of it by the control plane.
            _ = store
                .put_aside(rules, ring, host, (Aside::Refreshed, &name), &text, left)
                .await;
        }
    }

    /// What this node keeps, or `store` does, where sessions are.
    ///
    /// # Errors
    ///
    /// If nobody knows what the store has: to ask the provider may be to ask it twice.
    pub(super) async fn look(
        &self,
        rules: &Rules,
        ring: &KeyRing,
        host: &impl Host,
        store: Option<&SessionStore>,
        key: &[u8; 32],
    ) -> Result<Option<Given>, Failure> {
        let known = self.find(key, host.now());
        let Some(store) = store.filter(|_| known.is_none()) else {
            return Ok(known);
        };
        let name = name(key);
        let text = store.see_aside(rules, ring, host, (Aside::Refreshed, &name));
        let text = text.await?.unwrap_or_default();
        let stored: Option<Told<'_>> = serde_json::from_slice(&text).ok();
        let given = stored.map(Given::heard);
        Ok(given.filter(|given| host.now() < given.until))
    }

    /// Sees to it that the other nodes can hear of what this one keeps. Once for each refresh.
    pub(super) async fn go_on_telling(
        &self,
        rules: &Rules,
        ring: &KeyRing,
        host: &impl Host,
        (key, refresh_token): ([u8; 32], &str),
    ) {
        match self.lock().get_mut(&key, host.now()) {
            Some(given) if !given.is_told && given.next(refresh_token).is_some() => {
                given.is_told = true;
            }
            _ => return,
        }
        let kept = || self.find(&key, host.now());
        let seal = |given: &Given| given.seal(rules, ring, host, refresh_token);
        told::go_on(host, key, Work::Refresh, kept, seal).await;
    }
}

/// How it is called in a store.
fn name(key: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(key)
}
