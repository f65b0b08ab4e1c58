//! Refreshes that another node may be at, unseen by this one or by its control plane. Where sessions are stored, the store
//! says whose turn it is, and where nodes share answers in Redis, they say it there. Where nobody says so, another node may have been faster: a refusal does not end the session at once,
//! which may go on with what that was given.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shared::clock::UnixTime;
use shared::hexadecimal::hexadecimal;

use super::results::replacing;
use super::{Outcome, Refresh};
use crate::bundled::openid_connect::failure::{Class, Failure};
use crate::bundled::openid_connect::token_endpoint::Tokens;
use crate::bundled::openid_connect::turn::Turn;
use crate::expiring::Expiring;
use crate::host::Host;

/// The code of a refusal by the provider.
pub(in crate::bundled::openid_connect) const REFUSED: &str = "refresh_failed";

/// The code of one that is doubted.
pub(in crate::bundled::openid_connect) const CONTESTED: &str = "refresh_contested";

/// How long it is doubted, at least: a browser has the other node's cookie by then, if there is one.
const DOUBTED: Duration = Duration::from_secs(10);

/// How long it is known that it was.
const REMEMBERED: Duration = Duration::from_mins(10);

/// Most that a node remembers.
const MOST: usize = 10_000;

/// The refusals of a node, by the name of the refresh, and until when each is doubted.
#[derive(Debug, Default)]
pub(super) struct Contested(Mutex<Expiring<[u8; 32], UnixTime, MOST>>);

impl<H: Host> Refresh<H> {
    /// New tokens, where no control plane says whose turn it is to ask for them.
    pub(super) async fn ask_alone(&self) -> Outcome {
        let outcome = self.ask_in_turn().await;
        if self.session.is_none() {
            return outcome;
        }
        let now = self.host.now();
        let until = self.doubted_until(now);
        let contests = &self.refreshes.contested;
        outcome.map_err(|failure| contests.judge(self.key, failure, until, now))
    }

    /// Until when a refusal at `now` is doubted: as long as the session goes on without, and a moment longer. What the store
    /// says of turns leaves less to doubt.
    fn doubted_until(&self, now: UnixTime) -> UnixTime {
        let spared = self.spared_until.filter(|_| self.store().is_none());
        now.max(spared.unwrap_or(now)).saturating_add(DOUBTED)
    }

    /// New tokens, once it is this node's turn where the session is stored: also a node that control planes do not hear, or
    /// that hears another one, may be at it. Whatever a control plane that is back may say, a refresh token that was another
    /// node's when there was none is not brought again meanwhile.
    pub(super) async fn ask_in_turn(&self) -> Outcome {
        if self
            .refreshes
            .contested
            .is_doubted(&self.key, self.host.now())
        {
            return Err(contested());
        }
        let (Some(store), Some(session)) = (self.store(), &self.session) else {
            return self.ask_or_hear().await;
        };
        let name = hexadecimal(&self.replaces());
        let turn = Turn::of_stored(store, &self.host, (session, &name));
        if !turn.take_free().await? {
            return Err(contested());
        }
        let outcome = turn.during(self.ask()).await;
        // After new tokens it ends by itself: who comes next finds them in the store, once they are there. The next refresh of
        // the same token is the next turn, which has another name.
        if outcome.as_ref().map_or(true, |tokens| self.is_same(tokens)) {
            turn.give_back().await;
        }
        outcome
    }

    /// Whether the provider has given the access token that is held, as one that keeps it until it ends: what replaces it has
    /// the same name.
    fn is_same(&self, tokens: &Tokens) -> bool {
        let held = self.want.held.as_ref();
        held.is_some_and(|held| held.access_token == tokens.access_token)
            && !self.want.used_up(tokens)
    }

    /// Names what new tokens replace, whatever a node knows of those before: nodes that have read the same session name it
    /// alike.
    pub(super) fn replaces(&self) -> [u8; 32] {
        match &self.want.held {
            Some(held) if self.key == self.first => replacing(&self.first, &held.access_token),
            _ => self.key,
        }
    }
}

impl Contested {
    /// Whether the provider has refused this refresh so lately that it is not asked again.
    fn is_doubted(&self, key: &[u8; 32], now: UnixTime) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(key, now).is_some_and(|until| now < *until)
    }

    /// What `failure` means for the session whose refresh is named `key`: nothing `until` then, if the provider refuses the
    /// token for the first time.
    fn judge(&self, key: [u8; 32], failure: Failure, until: UnixTime, now: UnixTime) -> Failure {
        if failure.class != Class::Unauthorized || failure.code != REFUSED {
            return failure;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(&key, now).copied();
        let until = known.unwrap_or(until);
        let is_kept =
            known.is_some() || all.keep(key, until, until.saturating_add(REMEMBERED), now);
        if is_kept && now < until {
            contested()
        } else {
            failure
        }
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
