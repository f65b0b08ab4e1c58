//! Refreshes that another node may be at, unseen by this one or by its control plane. Where sessions are stored, the store
//! says whose turn it is. Where nobody says so, another node may have been faster: a refusal does not end the session at once,
//! which may go on with what that was given.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shared::clock::UnixTime;
use shared::hexadecimal::hexadecimal;

use super::results::replacing;
use super::{Outcome, Refresh};
use crate::bundled::openid_connect::failure::{Class, Failure};
use crate::bundled::openid_connect::rules::Rules;
use crate::expiring::Expiring;
use crate::host::Host;

/// The code of a refusal by the provider.
pub(in crate::bundled::openid_connect) const REFUSED: &str = "refresh_failed";

/// The code of one that is doubted.
pub(in crate::bundled::openid_connect) const CONTESTED: &str = "refresh_contested";

/// How long it is doubted: a browser has the other node's cookie by then, if there is one.
const DOUBTED: Duration = Duration::from_secs(10);

/// How long it is known that it was.
const REMEMBERED: Duration = Duration::from_mins(10);

/// Most that a node remembers.
const MOST: usize = 10_000;

/// The shortest turn.
const TURN: Duration = Duration::from_mins(1);

/// How long a node may take to store what it was given.
const STORED: Duration = Duration::from_secs(10);

/// The refusals of a node, by the name of the refresh, and when the first was.
#[derive(Debug, Default)]
pub(super) struct Contested(Mutex<Expiring<[u8; 32], UnixTime, MOST>>);

impl<H: Host> Refresh<H> {
    /// New tokens, where no control plane says whose turn it is to ask for them.
    pub(super) async fn ask_alone(&self) -> Outcome {
        if self.brought {
            return self.ask().await;
        }
        let contests = &self.refreshes.contested;
        if contests.is_doubted(&self.key, self.host.now()) {
            return Err(contested());
        }
        let outcome = self.ask_in_turn().await;
        outcome.map_err(|failure| contests.judge(self.key, failure, self.host.now()))
    }

    /// New tokens, once it is this node's turn where the session is stored: also a node that control planes do not hear, or
    /// that hears another one, may be at it.
    pub(super) async fn ask_in_turn(&self) -> Outcome {
        let Some(store) = self.store() else {
            return self.ask().await;
        };
        let name = hexadecimal(&self.replaces());
        let lasts = longest(&self.rules);
        let Some(turn) = store.take_turn(&self.host, &name, lasts).await? else {
            return Err(contested());
        };
        let outcome = self.ask().await;
        // After new tokens it ends by itself: who comes next finds them in the store, once they are there.
        if outcome.is_err() {
            store.end_turn(&self.host, turn).await;
        }
        outcome
    }

    /// Names what new tokens replace, whatever a node knows of those before: nodes that have read the same session name it
    /// alike.
    fn replaces(&self) -> [u8; 32] {
        match &self.want.held {
            Some(held) if self.key == self.first => replacing(&self.first, &held.access_token),
            _ => self.key,
        }
    }
}

/// How long a turn lasts that nobody ends: longer than a provider takes for discovery, tokens and keys, and a node to store
/// what came of them.
fn longest(rules: &Rules) -> Duration {
    let timeout = rules.config.provider.timeout.milliseconds();
    TURN.max(timeout.saturating_mul(3).saturating_add(STORED))
}

impl Contested {
    /// Whether the provider has refused this refresh so lately that it is not asked again.
    fn is_doubted(&self, key: &[u8; 32], now: UnixTime) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = all.get(key, now);
        since.is_some_and(|since| now.saturating_since(*since) < DOUBTED)
    }

    /// What `failure` means for the session whose refresh is named `key`: nothing yet, if the provider refuses the token for
    /// the first time.
    pub(super) fn judge(&self, key: [u8; 32], failure: Failure, now: UnixTime) -> Failure {
        if failure.class != Class::Unauthorized || failure.code != REFUSED {
            return failure;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = match all.get(&key, now).copied() {
            Some(since) => since,
            None if all.keep(key, now, now.saturating_add(REMEMBERED), now) => now,
            None => return failure,
        };
        if now.saturating_since(since) >= DOUBTED {
            return failure;
        }
        contested()
    }
}

/// Another node is at it, or was.
pub(super) fn contested() -> Failure {
    Failure::paused(
        CONTESTED,
        "The session is being renewed: try again in a moment",
        "another node has used the refresh token, or is at it still",
    )
}
