//! The way back from the provider's logout, if it leads to a route of ours (OpenID Connect
//! RP-Initiated Logout 1.0 §3). Nothing follows by itself: a sign-in that begins at once would undo
//! the logout.

use std::time::Duration;

use http::header::{AUTHORIZATION, SET_COOKIE};
use http::{Method, StatusCode};
use url::Url;

use crate::bundled::openid_connect::cookie::Jar;
use crate::bundled::openid_connect::page;
use crate::bundled::openid_connect::request;
use crate::bundled::openid_connect::rules::Rules;
use crate::bundled::openid_connect::session::random_text;
use crate::bundled::openid_connect::sign_in::own_url;
use crate::bundled::openid_connect::under_way::suffix;
use crate::exchange::Exchange;
use crate::filter::Flow;
use crate::host::Host;
use crate::sessions::seal::{self, Sizes};

/// What the cookie of a logout under way says.
const UNDER_WAY: &[u8] = b"logout";

/// How long a logout may take at the provider.
const LIFETIME: Duration = Duration::from_mins(10);

const SIZES: Sizes = Sizes {
    chunk: 256,
    most: 1,
};

/// The `state` of a logout that begins, which this browser's cookie remembers. None without a key.
pub(super) fn begin(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
) -> Option<String> {
    let state = random_text::<16>(host);
    let name = rules.names.sign_in(&suffix(&state));
    let mut nonce = [0; 12];
    host.random(&mut nonce);
    let ring = &exchange.environment.session_keys;
    let now = host.now().as_secs();
    let value = seal::seal(ring, &rules.binding, &name, UNDER_WAY, SIZES, now, nonce).ok()?;
    let https = exchange.client.https;
    let cookie = rules
        .authorization_cookie
        .set_for(&name, &value, LIFETIME, https);
    exchange.response_headers.push((SET_COOKIE, cookie));
    Some(state)
}

/// The page for a browser that comes back from the provider's logout. Without a `state` it is known by the logout that this
/// browser has under way, once.
pub(super) fn answer(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
) -> Option<Flow> {
    let query = exchange.request.uri.query().unwrap_or_default();
    let may_return = query.contains("state=") || jar.sign_ins().next().is_some();
    if exchange.request.method != Method::GET || !may_return {
        return None;
    }
    let mut state = None;
    for (name, value) in request::query(exchange) {
        match &*name {
            "state" => state = Some(value.into_owned()),
            "code" | "error" | "response" => return None,
            _ => {}
        }
    }
    // An application's page may be there, too: what asks for it beside the browser's way back is no reason to forget that.
    let headers = &exchange.request.headers;
    let comes_back = request::may_be_navigation(&Method::GET, headers)
        && !request::is_prefetch(headers)
        && !headers.contains_key(AUTHORIZATION);
    if state.is_none() && !comes_back {
        return None;
    }
    let own = Url::parse(&own_url(exchange)).ok()?;
    let leads_here = |target: &str| {
        Url::parse(target)
            .is_ok_and(|target| target.origin() == own.origin() && target.path() == own.path())
    };
    let targets = rules
        .clients
        .iter()
        .filter_map(|client| client.logout_redirect_uri.as_deref());
    if !targets.into_iter().any(leads_here) {
        return None;
    }
    let ring = &exchange.environment.session_keys;
    let now = host.now().as_secs();
    let meant = state
        .as_deref()
        .map(|state| rules.names.sign_in(&suffix(state)));
    let under_way = jar.sign_ins().filter(|(name, value)| {
        let opened = || seal::open(ring, &rules.binding, name, value, now);
        meant.as_deref().is_none_or(|meant| meant == *name)
            && opened().is_some_and(|opened| *opened.plaintext == UNDER_WAY)
    });
    let under_way: Vec<_> = under_way.map(|(name, _)| name.to_owned()).collect();
    if state.is_none() && under_way.is_empty() {
        return None;
    }
    let text = if state.is_some() && !under_way.is_empty() {
        "You are signed out, here and at the OpenID provider."
    } else {
        "You are signed out here."
    };
    for name in under_way {
        let gone = rules
            .authorization_cookie
            .expire(&name, exchange.client.https);
        exchange.response_headers.push((SET_COOKIE, gone));
    }
    let page = page::page(StatusCode::OK, "Signed out", &[text], &exchange.request_id);
    Some(Flow::Answer(page))
}
