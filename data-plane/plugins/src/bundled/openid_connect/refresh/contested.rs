//! Refreshes that a node begins although no control plane says whose turn it is. Where sessions are stored, the store says so.
//! Else another node may have been faster: a refusal does not end the session at once, which may go on with what that was given.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shared::clock::UnixTime;
use shared::hexadecimal::hexadecimal;

use super::{Outcome, Refresh};
use crate::bundled::openid_connect::failure::{Class, Failure};
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

/// The refusals of a node, by the name of the refresh, and when the first was.
#[derive(Debug, Default)]
pub(super) struct Contested(Mutex<Expiring<[u8; 32], UnixTime, MOST>>);

impl<H: Host> Refresh<H> {
    /// New tokens, where nobody says whose turn it is to ask for them.
    pub(super) async fn ask_alone(&self) -> Outcome {
        if self.brought {
            return self.ask().await;
        }
        let contests = &self.refreshes.contested;
        if contests.is_doubted(&self.key, self.host.now()) {
            return Err(contested());
        }
        let name = hexadecimal(&self.key);
        let store = self.store();
        if let Some(store) = store
            && !store.takes_turn(&self.host, &name).await
        {
            return Err(contested());
        }
        let outcome = self.ask().await;
        // After new tokens it ends by itself: who comes next finds them in the store, once they are there.
        if let Some(store) = store.filter(|_| outcome.is_err()) {
            store.ends_turn(&self.host, &name).await;
        }
        outcome.map_err(|failure| contests.judge(self.key, failure, self.host.now()))
    }
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
