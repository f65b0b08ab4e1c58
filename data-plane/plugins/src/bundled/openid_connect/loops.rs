//! Sign-ins that go round in circles: a browser that signs in again and again, because it does not keep the gateway's
//! cookies, is told so instead of being sent to the provider once more.
//!
//! ```text
//! no cookie is kept          callback without its cookie ─► the state counts the rounds
//! no answer is one           callback without a state    ─► so does that of the newest sign-in
//! no session cookie is kept  success, redirect, no session ─► a trail of successes counts them
//! ```

use std::time::Duration;

use http::header::SET_COOKIE;
use shared::clock::UnixTime;

use super::config::SameSite;
use super::cookie::Jar;
use super::failure::Failure;
use super::mark::Mark;
use super::rules::Rules;
use crate::exchange::Exchange;
use crate::host::Host;
use crate::sessions::seal::{self, Sizes};

/// How close together sign-ins are that make a circle.
const WINDOW: Duration = Duration::from_secs(30);

/// Sign-ins in vain after which there is no further one.
const MOST_IN_VAIN: u8 = 3;

/// The trail's cookie: a few times.
const SIZES: Sizes = Sizes {
    chunk: 256,
    most: 1,
};

/// The round that a sign-in begins which takes the place of `lost`, whose cookie is gone, or whose answer was none.
///
/// # Errors
///
/// If it would be one round too many.
pub(super) fn next_round(
    rules: &Rules,
    lost: Mark,
    answered: bool,
    now: UnixTime,
) -> Result<u8, Failure> {
    if now.saturating_since(lost.made_at) >= WINDOW {
        return Ok(0);
    }
    let round = lost.round.saturating_add(1);
    if round >= MOST_IN_VAIN {
        let unkept = || caught(rules.config.sign_in.authorization_cookie_same_site);
        return Err(if answered { turned_away() } else { unkept() });
    }
    Ok(round)
}

/// Lets no sign-in begin in a browser that signed in several times just now and has no session.
///
/// # Errors
///
/// If that is so.
pub(super) fn check(
    rules: &Rules,
    exchange: &Exchange<'_>,
    jar: &Jar,
    now: UnixTime,
) -> Result<(), Failure> {
    let in_vain = trail(rules, exchange, jar, now);
    if in_vain.len() >= usize::from(MOST_IN_VAIN) {
        return Err(caught(rules.config.session.session_cookie_same_site));
    }
    Ok(())
}

/// Notes a success that sends the browser on to where its session is needed. The cookie ends by
/// itself.
pub(super) fn note(rules: &Rules, exchange: &mut Exchange<'_>, host: &impl Host, jar: &Jar) {
    let now = host.now();
    let mut times = trail(rules, exchange, jar, now);
    times.push(now);
    let newest = times.iter().rev().take(usize::from(MOST_IN_VAIN));
    let plaintext: Vec<u8> = newest
        .flat_map(|time| time.as_secs().to_be_bytes())
        .collect();
    let mut nonce = [0; 12];
    host.random(&mut nonce);
    let ring = &exchange.environment.session_keys;
    let name = rules.names.trail();
    let seconds = now.as_secs();
    let sealed = seal::seal(
        ring,
        &rules.binding,
        name,
        &plaintext,
        SIZES,
        seconds,
        nonce,
    );
    // Without a key there is no session either, and the sign-in has already failed.
    if let Ok(value) = sealed {
        let https = exchange.client.https;
        let cookie = rules
            .authorization_cookie
            .set_for(name, &value, WINDOW, https);
        exchange.response_headers.push((SET_COOKIE, cookie));
    }
}

/// Forgets the successes once a session that they led to is used: the browser keeps it.
pub(super) fn arrived(rules: &Rules, exchange: &mut Exchange<'_>, jar: &Jar, now: UnixTime) {
    if jar.trail().is_some() && !trail(rules, exchange, jar, now).is_empty() {
        forget(rules, exchange, jar);
    }
}

/// Forgets the successes, when the user ends the session that they led to.
pub(super) fn forget(rules: &Rules, exchange: &mut Exchange<'_>, jar: &Jar) {
    if jar.trail().is_some() {
        let https = exchange.client.https;
        let cookie = rules
            .authorization_cookie
            .expire(rules.names.trail(), https);
        exchange.response_headers.push((SET_COOKIE, cookie));
    }
}

/// When this browser signed in of late, as far as the sessions then begun could still be alive.
fn trail(rules: &Rules, exchange: &Exchange<'_>, jar: &Jar, now: UnixTime) -> Vec<UnixTime> {
    let ring = &exchange.environment.session_keys;
    let name = rules.names.trail();
    let Some(opened) = jar
        .trail()
        .and_then(|value| seal::open(ring, &rules.binding, name, value, now.as_secs()))
    else {
        return Vec::new();
    };
    let session = &rules.config.session;
    let limits = [
        session.session_idling_timeout.limit(),
        session.session_rolling_timeout.limit(),
        session.session_absolute_timeout.limit(),
        Some(WINDOW),
    ];
    let shortest = limits.into_iter().flatten().min().unwrap_or_default();
    let mut times: Vec<_> = opened
        .plaintext
        .chunks_exact(8)
        .filter_map(|bytes| {
            Some(UnixTime::from_secs(u64::from_be_bytes(
                *bytes.first_chunk()?,
            )))
        })
        .filter(|time| now.saturating_since(*time) < shortest)
        .collect();
    times.sort_unstable();
    times
}

/// A browser without the cookie that says `same_site`. It keeps one that is `Strict`, but sends it with nothing that another
/// site leads to (RFC 6265bis §5.2), as the provider does.
fn caught(same_site: SameSite) -> Failure {
    let message = if same_site == SameSite::Strict {
        "Signing in goes round in circles: the browser sends no cookies with what another site leads to (SameSite=Strict). \
         Have the cookie settings of the gateway checked, or open this page by its address"
    } else {
        "Signing in goes round in circles: the browser does not keep this site's cookies. \
         Allow cookies and try again, or have the cookie settings of the gateway checked"
    };
    Failure {
        error: None,
        message: Some(message),
        ..Failure::bad_request(
            "loop",
            "the browser signed in several times without a session",
        )
    }
}

fn turned_away() -> Failure {
    Failure {
        error: None,
        message: Some(
            "Signing in goes round in circles: the OpenID provider sends the browser back without an answer to its \
             sign-in. Have the provider's log looked at, and how this site is registered there",
        ),
        ..Failure::bad_request(
            "loop",
            "the provider sent the browser back several times without a state",
        )
    }
}
