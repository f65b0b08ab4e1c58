//! Header fields on their way through: what belongs to one connection stays on it (RFC 9110 §7.6.1).

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use shared::version::KONG_PRODUCT;

use crate::http1::tokens;

/// Fields that decide about framing, routing or authentication, and so must not come as trailers
/// (RFC 9110 §6.5.1).
const NOT_IN_TRAILERS: [HeaderName; 10] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::HOST,
    header::SET_COOKIE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];

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
        // These decide about more than the connection; naming them must not make them vanish.
        .filter(|name| {
            *name != header::HOST
                && *name != header::CONTENT_LENGTH
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
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// The trailers that may be passed on.
pub(crate) fn forwardable_trailers(mut trailers: HeaderMap) -> HeaderMap {
    strip_hop_by_hop(&mut trailers);
    for name in &NOT_IN_TRAILERS {
        trailers.remove(name);
    }
    remove_where(&mut trailers, |name| is_identity(name.as_str()));
    trailers
}

/// Whether `name` says who a request comes from. Only filters may set such fields; the client's own
/// are dropped, also where `_` stands for `-`, because some servers read the two alike.
pub(crate) fn is_identity(name: &str) -> bool {
    const NAMES: [&str; 4] = [
        "x-anonymous-consumer",
        "x-authenticated-groups",
        "x-authenticated-userid",
        "x-userinfo",
    ];
    const PREFIXES: [&str; 3] = ["x-consumer-", "x-credential-", "x-authenticated-"];
    let plain = |text: &str, pattern: &str| {
        text.len() == pattern.len()
            && text
                .bytes()
                .zip(pattern.bytes())
                .all(|(byte, expected)| byte == expected || (byte == b'_' && expected == b'-'))
    };
    // Nearly every field is told apart by its first bytes.
    name.starts_with('x')
        && (NAMES.iter().any(|pattern| plain(name, pattern))
            || PREFIXES.iter().any(|prefix| {
                name.get(..prefix.len())
                    .is_some_and(|start| plain(start, prefix))
            }))
}

/// Whether `name` is one that decides about framing or routing, written with `_`: some servers read it
/// as if it were written with `-`.
pub(crate) fn is_disguised(name: &str) -> bool {
    matches!(
        name,
        "content_length" | "transfer_encoding" | "proxy_connection"
    )
}

/// What [`append_via`] writes for a message that came by HTTP/1.0, HTTP/1.1 or HTTP/2.
static OWN_VIA: LazyLock<[HeaderValue; 3]> = LazyLock::new(|| {
    ["1.0", "1.1", "2"].map(|protocol| {
        HeaderValue::from_str(&format!("{protocol} {KONG_PRODUCT}"))
            .expect("a version and a product are visible characters")
    })
});

/// Says that a message which came by `version` has passed here (RFC 9110 §7.6.3).
pub(crate) fn append_via(headers: &mut HeaderMap, version: Version) {
    let [http10, http11, http2] = &*OWN_VIA;
    let own = match version {
        Version::HTTP_10 => http10,
        Version::HTTP_2 => http2,
        _ => http11,
    };
    if !headers.contains_key(header::VIA) {
        headers.insert(header::VIA, own.clone());
        return;
    }
    let mut passed: Vec<u8> = Vec::new();
    for value in headers.get_all(header::VIA) {
        passed.extend_from_slice(value.as_bytes());
        passed.extend_from_slice(b", ");
    }
    passed.extend_from_slice(own.as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(passed)) {
        headers.insert(header::VIA, value);
    }
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
            ("connection", "close, X-Secret, host"),
            ("x-secret", "1"),
            ("host", "a"),
            ("te", "trailers, deflate"),
            ("keep-alive", "timeout=5"),
            ("accept", "*/*"),
        ]);
        assert!(strip_hop_by_hop(&mut map));
        assert_eq!(map, headers(&[("host", "a"), ("accept", "*/*")]));
    }

    #[test]
    fn via_names_every_hop_in_order() {
        let check = |before: &[(&'static str, &'static str)], version, expected: &str| {
            let mut map = HeaderMap::new();
            for (name, value) in before {
                map.append(*name, HeaderValue::from_static(value));
            }
            append_via(&mut map, version);
            let all: Vec<_> = map.get_all(header::VIA).iter().collect();
            assert_eq!(all, [&format!("{expected} {KONG_PRODUCT}")]);
        };
        check(&[], Version::HTTP_10, "1.0");
        check(&[], Version::HTTP_2, "2");
        let two = [("via", "1.0 a"), ("via", "1.1 b, 1.1 c")];
        check(&two, Version::HTTP_11, "1.0 a, 1.1 b, 1.1 c, 1.1");
    }

    #[test]
    fn identity_is_known_in_every_spelling() {
        for name in [
            "x-consumer-id",
            "x_consumer_id",
            "x-consumer_username",
            "x-credential-identifier",
            "x-userinfo",
            "x_anonymous-consumer",
            "x-authenticated_groups",
            "x-consumer-anything",
        ] {
            assert!(is_identity(name), "{name}");
        }
        for name in [
            "x-consumer",
            "accept",
            "x-request-id",
            "x-access-token",
            "x-userinfo2",
        ] {
            assert!(!is_identity(name), "{name}");
        }
    }

    #[test]
    fn trailers_cannot_smuggle_framing_or_identity() {
        let trailers = forwardable_trailers(headers(&[
            ("content-length", "1"),
            ("x-checksum", "a"),
            ("x-consumer-id", "1"),
            ("host", "b"),
        ]));
        assert_eq!(trailers, headers(&[("x-checksum", "a")]));
    }
}
