//! The cookies of sign-ins under way. Each has one of its own, so that any number of tabs signs in at
//! once; and one that bears Kong's name says that there are some. Both are needed to finish one.

use http::header::SET_COOKIE;
use shared::clock::UnixTime;

use super::cookie::Jar;
use super::failure::{Class, Failure};
use super::flow::Pending;
use super::rules::{Rules, sha256};
use super::seal::{self, SealError, Sizes};
use super::session;
use crate::exchange::Exchange;
use crate::host::Host;
use crate::session_keys::KeyRing;

/// Most sign-ins that one browser has under way; further ones make it forget the oldest.
const MOST_SIGN_INS: usize = 20;

/// Most bytes of their cookies.
const MOST_BYTES: usize = 8 * 1024;

/// A sign-in's cookie is one chunk.
const SIZES: Sizes = Sizes {
    chunk: super::cookie::CHUNK,
    most: 1,
};

/// What the cookie says that all sign-ins of a browser share.
const BEGUN: &[u8] = b"begun";

/// Seals the sign-in into a cookie of its own, and makes room for it.
///
/// # Errors
///
/// If there is no key, or too much to remember.
pub(super) fn remember(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    pending: &Pending,
) -> Result<(), Failure> {
    let name = rules.names.sign_in(&suffix(&pending.state));
    let json = serde_json::to_vec(pending).expect("a sign-in has only string keys");
    let now = host.now();
    let ring = &exchange.environment.session_keys;
    let sealed = |name: &str, text: &[u8]| {
        let mut nonce = [0; 12];
        host.random(&mut nonce);
        seal::seal(
            ring,
            &rules.binding,
            name,
            text,
            SIZES,
            now.as_secs(),
            nonce,
        )
    };
    let value = sealed(&name, &json).map_err(|error| match error {
        SealError::NoKey => session::failure(error),
        SealError::TooLarge => {
            Failure::bad_request("target_too_large", "the URL is too long to return to")
        }
    })?;
    let begun = sealed(rules.names.begun(), BEGUN).map_err(session::failure)?;
    let https = exchange.client.https;
    let cookie = &rules.authorization_cookie;
    let mut cookies = vec![cookie.set(rules.names.begun(), &begun, https)];
    for name in surplus(rules, exchange, jar, now) {
        cookies.push(cookie.expire(&name, https));
    }
    cookies.push(cookie.set(&name, &value, https));
    let cookies = cookies.into_iter().map(|cookie| (SET_COOKIE, cookie));
    exchange.response_headers.extend(cookies);
    Ok(())
}

/// The names of the sign-ins to forget: of what does not open first, then the oldest.
fn surplus(rules: &Rules, exchange: &Exchange<'_>, jar: &Jar, now: UnixTime) -> Vec<String> {
    let held: Vec<_> = jar.sign_ins().collect();
    let bytes: usize = held
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if held.len() < MOST_SIGN_INS && bytes < MOST_BYTES {
        return Vec::new();
    }
    let ring = &exchange.environment.session_keys;
    let mut aged: Vec<_> = held
        .iter()
        .map(|(name, value)| {
            let pending = open(rules, ring, name, value, now);
            (
                pending.map(|pending| pending.started_at),
                *name,
                name.len() + value.len(),
            )
        })
        .collect();
    aged.sort_by_key(|(started_at, ..)| *started_at);
    let (mut count, mut left) = (held.len(), bytes);
    let mut names = Vec::new();
    for (_, name, size) in aged {
        if count < MOST_SIGN_INS && left < MOST_BYTES {
            break;
        }
        names.push(name.to_owned());
        count -= 1;
        left -= size;
    }
    names
}

/// The sign-ins of this browser that open, each with the name of its cookie.
pub(super) fn all<'a>(
    rules: &'a Rules,
    ring: &'a KeyRing,
    jar: &'a Jar,
    now: UnixTime,
) -> impl Iterator<Item = (&'a str, Pending)> {
    let name = rules.names.begun();
    let begun = jar.begun().any(|value| {
        let opened = seal::open(ring, &rules.binding, name, value, now.as_secs());
        opened.is_some_and(|opened| *opened.plaintext == BEGUN)
    });
    // Twice as many as there can be: some may be planted.
    let looked_at = if begun { 2 * MOST_SIGN_INS } else { 0 };
    let held = jar.sign_ins().take(looked_at);
    held.filter_map(move |(name, value)| Some((name, open(rules, ring, name, value, now)?)))
}

fn open(rules: &Rules, ring: &KeyRing, name: &str, value: &str, now: UnixTime) -> Option<Pending> {
    let opened = seal::open(ring, &rules.binding, name, value, now.as_secs())?;
    serde_json::from_slice(&opened.plaintext).ok()
}

/// The end of the name of a sign-in's cookie: half of SHA-256 of the state, in hexadecimal.
pub(super) fn suffix(state: &str) -> String {
    use std::fmt::Write;
    sha256(state.as_bytes())
        .iter()
        .take(8)
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string succeeds");
            text
        })
}

/// Forgets the sign-in with this `state`, unless the provider failed in the middle of it: then reloading the
/// page is worth a try.
pub(super) fn forget(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    jar: &Jar,
    state: &str,
    failure: Option<&Failure>,
) {
    if failure.is_some_and(|failure| failure.class == Class::Unavailable) {
        return;
    }
    let name = rules.names.sign_in(&suffix(state));
    let (https, cookie) = (exchange.client.https, &rules.authorization_cookie);
    let mut gone = vec![cookie.expire(&name, https)];
    if jar.sign_ins().all(|(held, _)| held == name) {
        gone.push(cookie.expire(rules.names.begun(), https));
    }
    let gone = gone.into_iter().map(|cookie| (SET_COOKIE, cookie));
    exchange.response_headers.extend(gone);
}
