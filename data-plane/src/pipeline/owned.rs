//! Fields that belong to filters: neither a client nor a server sets them.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use plugins::filter::Filter as _;

use crate::compile::{CompiledRoute, CompiledSnapshot};
use crate::forward::fields;
use crate::http1::headers::Headers;
use crate::http1::kind::Kind;

/// Removes what only filters may say of a request, and what only a `trusted` proxy may.
pub(super) fn remove_identity(headers: &mut HeaderMap, route: &CompiledRoute, trusted: bool) {
    let owned = &route.filters.owned_headers;
    let kinds = if trusted {
        Kind::IDENTITY
    } else {
        Kind::IDENTITY.and(Kind::PROXIES)
    };
    fields::remove_where(headers, |name| {
        Kind::of(name).is_any_of(kinds) || owned.iter().any(|owned| same_field(owned, name))
    });
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
            owned.iter().any(|owned| same_field(owned, name))
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
fn same_field(owned: &HeaderName, name: &HeaderName) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte };
    owned
        .as_str()
        .bytes()
        .map(plain)
        .eq(name.as_str().bytes().map(plain))
}
