//! The results of refreshes that a node remembers, and which of them serve whom.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::clock::UnixTime;

use super::{Outcome, early};
use crate::bundled::openid_connect::failure::Class;
use crate::bundled::openid_connect::token_endpoint::Tokens;
use crate::expiring::Expiring;

/// Most results that a node remembers.
const MOST: usize = 10_000;

/// How many results of before, each in the place of the one before it, may have ended since.
pub(super) const STEPS: u8 = 32;

/// What decides which of a refresh token's results serve whom.
pub(super) struct Want {
    /// The refresh token.
    pub(super) token: String,
    /// What the session holds whose token it is; nothing if a client has brought it.
    pub(super) held: Option<Held>,
    /// Whether a result serves further requests, while the provider would give another one.
    pub(super) is_kept: bool,
    /// How long before its end an access token is due, if that is not more than half of its life.
    pub(super) leeway: Duration,
}

/// The access token that a session holds, and its end.
pub(super) struct Held {
    pub(super) access_token: String,
    pub(super) expires_at: Option<UnixTime>,
}

/// Results, each for as long as it serves.
#[derive(Debug, Default)]
pub(super) struct Results(Mutex<Expiring<[u8; 32], Outcome, MOST>>);

/// What a node knows of a refresh.
pub(super) enum Known {
    /// Its result.
    Outcome(Outcome),
    /// What it is to be named.
    Key([u8; 32]),
}

impl Want {
    /// Whether a result of before serves. Of a refresh token that was used up there is no other. One that the provider takes
    /// again and again has older and newer ones.
    pub(super) fn takes(&self, tokens: &Tokens, now: UnixTime) -> bool {
        let end = tokens.expires_at;
        let early = tokens
            .lifetime()
            .map_or(self.leeway, |life| early(life, self.leeway));
        let lives = end.is_none_or(|end| now.saturating_add(early) < end);
        let is_news = self
            .held
            .as_ref()
            .is_none_or(|held| tokens.access_token != held.access_token && end >= held.expires_at);
        self.used_up(tokens) || (self.is_kept && lives && is_news)
    }

    /// The refresh token to go on with, if the tokens that the one was used up for have ended since, after `steps` that were the
    /// same.
    pub(super) fn outlived<'a>(
        &self,
        tokens: &'a Tokens,
        steps: u8,
        now: UnixTime,
    ) -> Option<&'a str> {
        let is_over = tokens.expires_at.is_some_and(|end| end <= now);
        let goes_on = is_over && steps < STEPS;
        tokens.in_place_of(&self.token).filter(|_| goes_on)
    }

    /// Whether the refresh token serves no more, by what it was traded for.
    pub(super) fn used_up(&self, tokens: &Tokens) -> bool {
        tokens.in_place_of(&self.token).is_some()
    }
}

/// Names the refresh that replaces an access token, of the refresh token whose first refresh is named `first`.
pub(super) fn replacing(first: &[u8; 32], access_token: &str) -> [u8; 32] {
    *blake3::keyed_hash(first, access_token.as_bytes()).as_bytes()
}

impl Results {
    /// What is known of the refresh that is named `first`. `runs` tells whether one of a name is under way.
    pub(super) fn known(
        &self,
        first: [u8; 32],
        want: &Want,
        now: UnixTime,
        runs: impl Fn(&[u8; 32]) -> bool,
    ) -> Known {
        let mut key = first;
        for _ in 0..STEPS {
            match (self.recent(&key, now), &want.held) {
                (Some(Ok(past)), held) if !want.takes(&past, now) => match held {
                    Some(_) => key = replacing(&first, &past.access_token),
                    None => break,
                },
                (Some(outcome), _) => return Known::Outcome(outcome),
                (None, Some(held)) if key == first => {
                    let next = replacing(&first, &held.access_token);
                    if self.recent(&next, now).is_none() {
                        return Known::Key(if runs(&next) { next } else { first });
                    }
                    key = next;
                }
                (None, _) => break,
            }
        }
        Known::Key(key)
    }

    fn lock(&self) -> MutexGuard<'_, Expiring<[u8; 32], Outcome, MOST>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent(&self, key: &[u8; 32], now: UnixTime) -> Option<Outcome> {
        self.lock().get(key, now).cloned()
    }

    /// A provider that could not be used, or that does not accept us yet, is asked again by the next request.
    pub(super) fn remember(
        &self,
        key: [u8; 32],
        outcome: &Outcome,
        until: UnixTime,
        now: UnixTime,
    ) {
        if matches!(outcome, Err(failure) if matches!(failure.class, Class::Unavailable | Class::Faulty))
        {
            return;
        }
        self.lock().keep(key, outcome.clone(), until, now);
    }
}
