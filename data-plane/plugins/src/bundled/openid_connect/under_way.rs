//! The cookies of sign-ins under way. Each has one of its own, so that any number of tabs signs in at
//! once; and one that bears Kong's name says that there are some, and may hold one. None is finished without that one.

pub(super) mod addresses;
mod begun;
mod list;
pub(super) mod noted;

use std::borrow::Cow;

use http::header::SET_COOKIE;
use shared::clock::UnixTime;
use shared::digest::sha256;
use shared::hexadecimal::hexadecimal;
use uuid::Uuid;

use super::cookie::{CHUNK, Jar};
use super::failure::{Class, Failure};
use super::flow::Pending;
use super::mark;
use super::rules::Rules;
use super::session;
use crate::exchange::Exchange;
use crate::host::Host;
use crate::sessions::seal::{self, Binding, SealError, Sizes};
use crate::sessions::session_keys::KeyRing;

use self::addresses::Addresses;
use self::noted::Noted;
pub(super) use self::noted::Seed;

/// Most sign-ins that one browser has under way; further ones make it forget the oldest. As many as tabs that a
/// browser opens anew after a restart: each of them is to land. It is bytes that servers and browsers refuse.
const MOST_SIGN_INS: usize = 20;

/// Most bytes of their cookies before another begins: with the next one, well below what the gateway reads of a head,
/// and none of them goes upstream.
const MOST_BYTES: usize = 8 * 1024;

/// Most bytes of them once one is over: each tab that has begun is to land, and all are still half of what the gateway reads
/// of a head.
const MOST_BYTES_LEFT: usize = 32 * 1024;

/// A sign-in's cookie is one chunk, or two if the URL to return to is long. What it says of most fits 160 characters.
const SIZES: Sizes = Sizes {
    chunk: CHUNK,
    most: 2,
};

/// What the cookies are bound to that all sign-ins of a browser share: no plugin. Each sign-in's own cookie is bound to the
/// plugin that began it.
fn of_all() -> Binding {
    Binding::of(&["sign-ins under way"], None, Uuid::nil())
}

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
    let id_of_it = suffix(&pending.state);
    let name = rules.names.sign_in(&id_of_it);
    let now = host.now();
    let ring = &exchange.environment.session_keys;
    let said = mark::said(rules, ring, &pending.state, now);
    let (round, in_state) = said.map_or((0, false), |(mark, held)| (mark.round, !held.is_empty()));
    let addresses = if in_state {
        None
    } else {
        Some(addresses_of(pending)?)
    };
    let text = noted::write(pending, round, addresses.as_deref()).ok_or_else(too_large)?;
    let mut nonce = [0; 12];
    host.random(&mut nonce);
    let seconds = now.as_secs();
    let value = seal::seal(ring, &rules.binding, &name, &text, SIZES, seconds, nonce);
    let value = value.map_err(|error| match error {
        SealError::NoKey => session::failure(error),
        SealError::TooLarge => too_large(),
    })?;
    // Of several that begin at once, the last answer stays: each has a cookie of its own as well.
    let alone = jar.sign_ins().next().is_none();
    let held = alone.then_some((id_of_it.as_str(), value.as_str()));
    let begun = begun::value(rules, ring, host, held).map_err(session::failure)?;
    let https = exchange.client.https;
    let cookie = &rules.authorization_cookie;
    let mut cookies = vec![cookie.set(rules.names.begun(), &begun, https)];
    let room = (MOST_SIGN_INS - 1, room_beside(value.len()));
    for name in surplus(rules, exchange, jar, now, room, None) {
        cookies.push(cookie.expire(&name, https));
    }
    let (first, rest) = value.split_at_checked(CHUNK).unwrap_or((&value, ""));
    let mut set = |name: &str, value: &str| {
        // A browser that does not send them where they are made is to forget them by itself.
        cookies.push(
            match rules.config.sign_in.authorization_rolling_timeout.limit() {
                Some(lifetime) => cookie.set_for(name, value, lifetime, https),
                None => cookie.set(name, value, https),
            },
        );
    };
    set(&name, first);
    if !rest.is_empty() {
        set(&second(&name), rest);
    }
    let begun = (id(&pending.state), name.len() + value.len());
    cookies.extend(list::note(rules, ring, host, jar, begun, https));
    let cookies = cookies.into_iter().map(|cookie| (SET_COOKIE, cookie));
    exchange.response_headers.extend(cookies);
    Ok(())
}

fn addresses_of(pending: &Pending) -> Result<Vec<u8>, Failure> {
    let addresses = (
        pending.redirect_uri.clone(),
        pending.target.clone(),
        pending.query.clone(),
    );
    packed(&addresses)
}

/// Where a sign-in leads, in few bytes.
///
/// # Errors
///
/// If that is too much to remember.
pub(super) fn packed(addresses: &Addresses) -> Result<Vec<u8>, Failure> {
    addresses::packed(addresses).ok_or_else(too_large)
}

fn too_large() -> Failure {
    Failure {
        message: Some("The URL is too long to return to after a sign-in"),
        ..Failure::bad_request("target_too_large", "the URL is too long to return to")
    }
}

/// The cookie that goes on where the one called `first` ends.
fn second(first: &str) -> String {
    format!("{first}2")
}

/// How many bytes the others may have beside the cookies of one that has `size`.
const fn room_beside(size: usize) -> usize {
    MOST_BYTES.saturating_sub(size.saturating_sub(CHUNK))
}

/// The names of the cookies to forget so that no more than `most` sign-ins with so many bytes are left, beside the one
/// called `but`: of what does not open first, then of the oldest.
fn surplus(
    rules: &Rules,
    exchange: &Exchange<'_>,
    jar: &Jar,
    now: UnixTime,
    most: (usize, usize),
    but: Option<&str>,
) -> Vec<String> {
    let (most, most_bytes) = most;
    let held: Vec<_> = jar
        .sign_ins()
        .filter(|(name, _)| Some(*name) != but)
        .collect();
    let long = |(name, value): &(&str, &str)| {
        let rest = jar.sign_in_rest(name);
        name.len() + value.len() + rest.map_or(0, |(name, value)| name.len() + value.len())
    };
    let (mut count, mut left) = (held.len(), held.iter().map(long).sum::<usize>());
    if count <= most && left < most_bytes {
        return Vec::new();
    }
    let ring = &exchange.environment.session_keys;
    let mut aged: Vec<_> = held
        .iter()
        .map(|cookie| {
            let noted = open(rules, ring, jar, *cookie, now);
            (noted.map(|noted| noted.started_at()), cookie)
        })
        .collect();
    aged.sort_by_key(|(started_at, _)| *started_at);
    let mut names = Vec::new();
    for (_, cookie) in aged {
        if count <= most && left < most_bytes {
            break;
        }
        names.extend(names_of(jar, cookie.0));
        count -= 1;
        left -= long(cookie);
    }
    names
}

/// The names of all cookies of a sign-in that the browser has.
fn names_of(jar: &Jar, first: &str) -> impl Iterator<Item = String> {
    let rest = jar.sign_in_rest(first).map(|(name, _)| name.to_owned());
    [first.to_owned()].into_iter().chain(rest)
}

/// The sign-ins of this browser that open, each with the name of its cookie.
pub(super) fn all<'a>(
    rules: &'a Rules,
    ring: &'a KeyRing,
    jar: &'a Jar,
    now: UnixTime,
) -> impl Iterator<Item = (Cow<'a, str>, Noted)> {
    let begun = begun::read(rules, ring, jar, now);
    // Twice as many as there can be: some may be planted.
    let looked_at = begun.map_or(0, |_| 2 * MOST_SIGN_INS);
    let held = begun.and_then(begun::held).into_iter();
    let held = held.map(|(id, value)| (Cow::Owned(rules.names.sign_in(id)), value));
    let own = jar.sign_ins().take(looked_at);
    let own = own.map(|(name, value)| (Cow::Borrowed(name), value));
    held.chain(own).filter_map(move |(name, value)| {
        let noted = open(rules, ring, jar, (&name, value), now)?;
        Some((name, noted))
    })
}

/// Whether this browser has a cookie of the sign-in with this `state`, be it ours or not.
pub(super) fn has(rules: &Rules, jar: &Jar, state: &str) -> bool {
    let id = suffix(state);
    let name = rules.names.sign_in(&id);
    let mut held = jar.begun().filter_map(begun::held);
    held.any(|(held, _)| held == id) || jar.sign_ins().any(|(held, _)| held == name)
}

fn open(
    rules: &Rules,
    ring: &KeyRing,
    jar: &Jar,
    (name, first): (&str, &str),
    now: UnixTime,
) -> Option<Noted> {
    let value = match seal::claimed_chunks(first)? {
        1 => Cow::Borrowed(first),
        2 => Cow::Owned([first, jar.sign_in_rest(name)?.1].concat()),
        _ => return None,
    };
    let opened = seal::open(ring, &rules.binding, name, &value, now.as_secs())?;
    Noted::read(&opened.plaintext)
}

/// Names a sign-in among those of a browser: a quarter of SHA-256 of its state.
type Id = [u8; 8];

fn id(state: &str) -> Id {
    *sha256(state.as_bytes())
        .first_chunk()
        .expect("SHA-256 has 32 bytes")
}

/// The end of the name of a sign-in's cookie: its id in hexadecimal.
pub(super) fn suffix(state: &str) -> String {
    hexadecimal(&id(state))
}

/// The names of the cookies of the sign-in `id`, which have `size` bytes.
fn names_of_size(rules: &Rules, id: Id, size: usize) -> impl Iterator<Item = String> {
    let first = rules.names.sign_in(&hexadecimal(&id));
    let rest = (size > CHUNK).then(|| second(&first));
    [first].into_iter().chain(rest)
}

/// Forgets the sign-in with this `state`, unless the provider failed in the middle of it: then reloading the
/// page is worth a try. And those that are too many: where their cookies are for the way back alone, this is the first to
/// see them.
pub(super) fn forget(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    state: &str,
    failure: Option<&Failure>,
) {
    if failure.is_some_and(|failure| failure.class == Class::Unavailable) {
        return;
    }
    let now = host.now();
    let id = suffix(state);
    let name = rules.names.sign_in(&id);
    let (https, cookie) = (exchange.client.https, &rules.authorization_cookie);
    let most = (MOST_SIGN_INS, MOST_BYTES_LEFT);
    let surplus = surplus(rules, exchange, jar, now, most, Some(&name));
    let names = names_of(jar, &name).chain(surplus);
    let mut gone: Vec<_> = names.map(|name| cookie.expire(&name, https)).collect();
    let begun = rules.names.begun();
    let held = || jar.begun().filter_map(begun::held).map(|(held, _)| held);
    let others = jar.sign_ins().any(|(held, _)| held != name) || held().any(|held| held != id);
    if !others {
        gone.push(cookie.expire(begun, https));
    } else if held().any(|held| held == id) {
        // The others need the mark still.
        let ring = &exchange.environment.session_keys;
        let mark = begun::value(rules, ring, host, None);
        gone.extend(mark.ok().map(|mark| cookie.set(begun, &mark, https)));
    }
    let gone = gone.into_iter().map(|cookie| (SET_COOKIE, cookie));
    exchange.response_headers.extend(gone);
}
