//! Fields that belong to filters: neither a client nor a server sets them.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use plugins::filter::Filter as _;
use plugins::glance::Pass;
use plugins::sessions::sealed_cookies;
use plugins::sessions::session_keys::KeyRing;

use super::request::Added;
use crate::compile::{CompiledRoute, CompiledSnapshot};
use crate::forward::fields;
use crate::http1::headers::{Headers, View};
use crate::http1::kind::Kind;

static COOKIE: HeaderName = header::COOKIE;

/// Removes what only filters may say of a request, and what only a `trusted` proxy may.
pub(super) fn remove_identity(headers: &mut HeaderMap, route: &CompiledRoute, trusted: bool) {
    let owned = &route.filters.owned_headers;
    let kinds = if trusted {
        Kind::IDENTITY
    } else {
        Kind::IDENTITY.and(Kind::PROXIES)
    };
    fields::remove_where(headers, |name| {
        let text = name.as_str().as_bytes();
        Kind::of(name).is_any_of(kinds) || owned.iter().any(|owned| same_field(owned, text))
    });
}

/// The same of a request that nobody trusted has sent; also what speaks of its connection.
pub(super) fn leave_out(headers: &mut Headers, route: &CompiledRoute) {
    let fields = match headers {
        Headers::Raw(fields) => fields,
        Headers::Map(map) => return remove_identity(map, route, false),
    };
    fields.leave_out(Kind::HOP_BY_HOP.and(Kind::IDENTITY).and(Kind::PROXIES));
    let owned = &route.filters.owned_headers;
    if !owned.is_empty() {
        fields.leave_out_named(|name| owned.iter().any(|owned| same_field(owned, name)));
    }
}

/// Leaves out the fields in whose place something is put by filters that let a request `pass`.
pub(super) fn make_room(headers: &mut Headers, pass: &Pass) {
    let removed = pass.known.as_ref().map_or(&[][..], |known| &known.removed);
    let fields = match headers {
        Headers::Raw(fields) => fields,
        Headers::Map(map) => {
            let cookie = pass.cookies.is_some().then_some(&header::COOKIE);
            for name in removed.iter().chain(cookie) {
                map.remove(name);
            }
            return;
        }
    };
    let mut kinds = if pass.cookies.is_some() {
        Kind::COOKIE
    } else {
        Kind::OTHER
    };
    let mut named = false;
    for name in removed {
        if *name == header::AUTHORIZATION {
            kinds = kinds.and(Kind::AUTHORIZATION);
        } else if *name == header::COOKIE {
            kinds = kinds.and(Kind::COOKIE);
        } else {
            named = true;
        }
    }
    fields.leave_out(kinds);
    if named {
        fields.leave_out_named(|name| {
            let mut removed = removed.iter();
            removed.any(|removed| removed.as_str().as_bytes() == name)
        });
    }
}

/// Takes what the gateway itself has sealed out of the cookies of a request that a filter lets `pass`, whichever route it
/// was sealed for.
pub(super) fn withhold_cookies(pass: &mut Pass, headers: View<'_>, ring: &KeyRing) {
    let left = match &pass.cookies {
        Some(left) if left.is_empty() => None,
        Some(left) => sealed_cookies::without(|| std::iter::once(&left[..]), ring),
        None if headers.may_have(Kind::COOKIE) => {
            sealed_cookies::without(|| headers.values(Kind::COOKIE, &COOKIE), ring)
        }
        None => None,
    };
    if let Some(left) = left {
        pass.cookies = Some(left.into());
    }
}

/// The same of a request that filters have seen whole.
pub(super) fn remove_sealed_cookies(headers: &mut HeaderMap, ring: &KeyRing) {
    let cookies = headers.get_all(header::COOKIE);
    let values = || cookies.iter().map(HeaderValue::as_bytes);
    let Some(left) = sealed_cookies::without(values, ring) else {
        return;
    };
    headers.remove(header::COOKIE);
    if !left.is_empty()
        && let Ok(left) = HeaderValue::from_maybe_shared(Bytes::from(left))
    {
        headers.insert(header::COOKIE, left);
    }
}

/// What is put there.
pub(super) fn put(pass: &Pass) -> Vec<Added<'_>> {
    let known = pass.known.iter().flat_map(|known| &known.fields);
    let known = known.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let cookies = pass.cookies.as_deref().filter(|left| !left.is_empty());
    let cookies = cookies.map(|left| (header::COOKIE.as_str(), left));
    let more = pass.fields.iter();
    known
        .chain(cookies)
        .chain(more.map(|(name, value)| (name.as_str(), value.as_bytes())))
        .map(|(name, value)| (name, Cow::Borrowed(value)))
        .collect()
}

/// Removes fields and cookies of an upstream's answer whose names belong to a filter.
pub(super) fn remove_owned(
    headers: &mut Headers,
    snapshot: &CompiledSnapshot,
    route: &CompiledRoute,
) {
    let owned = &route.filters.owned_response_headers;
    if !owned.is_empty() {
        fields::remove_where(headers.map(), |name| {
            owned
                .iter()
                .any(|owned| same_field(owned, name.as_str().as_bytes()))
        });
    }
    remove_owned_cookies(headers, snapshot, route);
}

fn remove_owned_cookies(headers: &mut Headers, snapshot: &CompiledSnapshot, route: &CompiledRoute) {
    if route.filters.all.is_empty() || !headers.has(Kind::SET_COOKIE, &header::SET_COOKIE) {
        return;
    }
    let headers = headers.map();
    let owned = |value: &HeaderValue| {
        let name = value
            .as_bytes()
            .split(|byte| *byte == b'=')
            .next()
            .unwrap_or_default();
        str::from_utf8(name).is_ok_and(|name| {
            let mut all = route.filters.all.iter();
            all.any(|filter| {
                let filter = snapshot.filters.get(*filter);
                filter.is_some_and(|filter| filter.owns_cookie(name.trim()))
            })
        })
    };
    if !headers.get_all(header::SET_COOKIE).iter().any(owned) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter(|value| !owned(value))
        .cloned()
        .collect();
    headers.remove(header::SET_COOKIE);
    for value in kept {
        headers.append(header::SET_COOKIE, value);
    }
}

/// Equal but for `_` in place of `-`.
fn same_field(owned: &HeaderName, name: &[u8]) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let owned = owned.as_str().bytes().map(plain);
    owned.len() == name.len() && owned.eq(name.iter().copied().map(plain))
}
