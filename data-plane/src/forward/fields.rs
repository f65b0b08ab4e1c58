//! Which header fields are forwarded: those that belong to one connection stay on it (RFC 9110 §7.6.1).

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use shared::version::KONG_PRODUCT;

use crate::http1::kind::Kind;
use crate::http1::tokens;

/// What decides about framing, routing or authentication, and so must not come as a trailer (RFC 9110 §6.5.1).
const NOT_IN_TRAILERS: [HeaderName; 3] = [
    header::AUTHORIZATION,
    header::CONTENT_ENCODING,
    header::COOKIE,
];

/// What decides about more than the connection: naming it in `Connection` must not make it vanish.
const NOT_NAMED: Kind = Kind::HOST
    .and(Kind::CONTENT_LENGTH)
    .and(Kind::FORWARDED_FOR)
    .and(Kind::FORWARDED_URL)
    .and(Kind::PROXIES)
    .and(Kind::REQUEST_ID)
    .and(Kind::VIA);

/// That and more, and what the gateway itself says in a head: a server that puts trailers to the fields of the head
/// would believe the client.
const NO_TRAILERS: Kind = NOT_NAMED
    .and(Kind::CONTENT_TYPE)
    .and(Kind::EXPECT)
    .and(Kind::IDENTITY)
    .and(Kind::PROXY)
    .and(Kind::SET_COOKIE)
    .and(Kind::TOLD)
    .and(Kind::TRAILER);

/// Removes what belongs to the connection that `headers` came on, and what its `Connection` names.
/// Says whether the peer takes trailers.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) -> bool {
    // A look at the names is cheaper than to look each of them up.
    if !headers.keys().any(is_hop_by_hop) {
        return false;
    }
    let takes_trailers = headers
        .get_all(header::TE)
        .iter()
        .any(|value| tokens(value).any(|token| token.eq_ignore_ascii_case("trailers")));
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(tokens)
        // What most connections say names no field that is there.
        .filter(|token| {
            !token.eq_ignore_ascii_case("keep-alive") && !token.eq_ignore_ascii_case("close")
        })
        .filter_map(|token| token.parse().ok())
        .filter(|name| {
            !Kind::of(name).is_any_of(NOT_NAMED)
                && *name != header::COOKIE
                && *name != header::AUTHORIZATION
        })
        .collect();
    for name in named {
        headers.remove(name);
    }
    remove_where(headers, is_hop_by_hop);
    takes_trailers
}

/// Whether `name` speaks of one connection and is never passed on.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    Kind::of(name).is_any_of(Kind::HOP_BY_HOP)
}

/// The trailers that may be passed on.
pub(crate) fn forwardable_trailers(mut trailers: HeaderMap) -> HeaderMap {
    strip_hop_by_hop(&mut trailers);
    for name in &NOT_IN_TRAILERS {
        trailers.remove(name);
    }
    remove_where(&mut trailers, |name| Kind::of(name).is_any_of(NO_TRAILERS));
    trailers
}

/// What [`via`] adds for a message that came by HTTP/1.0, HTTP/1.1 or HTTP/2. Static texts, made once: to
/// copy such a value counts nothing.
static OWN_VIA: LazyLock<[HeaderValue; 3]> = LazyLock::new(|| {
    ["1.0", "1.1", "2"]
        .map(|protocol| HeaderValue::from_static(format!("{protocol} {KONG_PRODUCT}").leak()))
});

/// The `Via` of a message that came by `version` and goes on from here (RFC 9110 §7.6.3).
pub(crate) fn via(headers: &HeaderMap, version: Version) -> HeaderValue {
    let own = own_via(version);
    let before = headers.get_all(header::VIA);
    joined(before.iter().chain([own]), b", ").unwrap_or_else(|| own.clone())
}

/// What is added to `Via` where nothing stands there yet.
pub(crate) fn own_via(version: Version) -> &'static HeaderValue {
    let [http10, http11, http2] = &*OWN_VIA;
    match version {
        Version::HTTP_10 => http10,
        Version::HTTP_2 => http2,
        _ => http11,
    }
}

/// Makes one field of the crumbs that HTTP/2 allows a cookie to come in (RFC 9113 §8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let crumbs = headers.get_all(header::COOKIE);
    if crumbs.iter().nth(1).is_some()
        && let Some(whole) = joined(crumbs.iter(), b"; ")
    {
        headers.insert(header::COOKIE, whole);
    }
}

/// Several values as one; a single one is not copied.
fn joined<'a>(
    mut values: impl Iterator<Item = &'a HeaderValue>,
    between: &[u8],
) -> Option<HeaderValue> {
    let first = values.next()?;
    let Some(second) = values.next() else {
        return Some(first.clone());
    };
    let mut whole = first.as_bytes().to_vec();
    for value in [second].into_iter().chain(values) {
        whole.extend_from_slice(between);
        whole.extend_from_slice(value.as_bytes());
    }
    HeaderValue::from_maybe_shared(Bytes::from(whole)).ok()
}

/// Removes the fields that `dropped` names, in any spelling of `-`.
pub(crate) fn remove_where(headers: &mut HeaderMap, dropped: impl Fn(&HeaderName) -> bool) {
    // Most requests have none: look before anything is collected.
    if !headers.keys().any(&dropped) {
        return;
    }
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| dropped(name))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn what_the_connection_names_goes_with_it() {
        let mut map = headers(&[
            ("connection", "close, X-Secret, host, X-Forwarded-For, via"),
            ("x-secret", "1"),
            ("host", "a"),
            ("x-forwarded-for", "192.0.2.1"),
            ("via", "1.0 a"),
            ("te", "trailers, deflate"),
            ("keep-alive", "timeout=5"),
            ("accept", "*/*"),
        ]);
        assert!(strip_hop_by_hop(&mut map));
        let left = [
            ("host", "a"),
            ("x-forwarded-for", "192.0.2.1"),
            ("via", "1.0 a"),
            ("accept", "*/*"),
        ];
        assert_eq!(map, headers(&left));
    }

    #[test]
    fn via_names_every_hop_in_order() {
        let check = |before: &[(&'static str, &'static str)], version, expected: &str| {
            let mut map = HeaderMap::new();
            for (name, value) in before {
                map.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(via(&map, version), format!("{expected} {KONG_PRODUCT}"));
        };
        check(&[], Version::HTTP_10, "1.0");
        check(&[], Version::HTTP_2, "2");
        let two = [("via", "1.0 a"), ("via", "1.1 b, 1.1 c")];
        check(&two, Version::HTTP_11, "1.0 a, 1.1 b, 1.1 c, 1.1");
    }

    #[test]
    fn the_crumbs_of_a_cookie_become_one_field() {
        let mut map = HeaderMap::new();
        join_cookies(&mut map);
        assert!(map.is_empty());
        for crumb in ["a=1", "b=2; c=3", "d=4"] {
            map.append(header::COOKIE, HeaderValue::from_static(crumb));
        }
        join_cookies(&mut map);
        let all: Vec<_> = map.get_all(header::COOKIE).iter().collect();
        assert_eq!(all, ["a=1; b=2; c=3; d=4"]);
    }

    #[test]
    fn trailers_cannot_smuggle_framing_or_identity() {
        let trailers = forwardable_trailers(headers(&[
            ("content-length", "1"),
            ("x-checksum", "a"),
            ("x-consumer-id", "1"),
            ("host", "b"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x_real_ip", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1"),
            ("x-kong-request-id", "1"),
            ("proxy-authorization", "Basic YTpi"),
            ("set-cookie", "a=b"),
            ("via", "1.1 a"),
        ]));
        assert_eq!(trailers, headers(&[("x-checksum", "a")]));
    }
}
