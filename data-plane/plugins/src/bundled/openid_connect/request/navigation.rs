//! What a browser is about, by what its request shows.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};

use super::is_form;

/// What the types of calls of gRPC begin with, also of those that browsers make.
const GRPC: &[u8] = b"application/grpc";

/// Arguments that a provider adds to the redirect URI, or posts there.
pub(super) const ADDED_BY_PROVIDER: [&str; 16] = [
    "code",
    "state",
    "session_state",
    "iss",
    "error",
    "error_description",
    "error_uri",
    "scope",
    "authuser",
    "prompt",
    "hd",
    "response",
    "id_token",
    "access_token",
    "token_type",
    "expires_in",
];

/// Whether the argument `name` is one of these.
pub(in crate::bundled::openid_connect) fn added_by_provider(name: &str) -> bool {
    ADDED_BY_PROVIDER.contains(&name)
}

/// Whether a browser only looks ahead (`Sec-Purpose`).
pub(in crate::bundled::openid_connect) fn is_prefetch(headers: &HeaderMap) -> bool {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    ["sec-purpose", "purpose", "x-moz"]
        .into_iter()
        .any(|name| value(name).is_some_and(|purpose| purpose.contains("prefetch")))
}

/// Whether it is a call of gRPC, which follows no redirect.
pub(in crate::bundled::openid_connect) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let starts = kind.and_then(|kind| kind.get(..GRPC.len()));
    starts.is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
}

/// Whether a browser shows what a redirect of this request leads to: a sign-in begun by anything else could not end. By Fetch
/// Metadata, and for browsers that send none by what they accept: each names pages, which programs that take anything do not.
pub(in crate::bundled::openid_connect) fn is_navigation(
    method: &Method,
    headers: &HeaderMap,
) -> bool {
    told(method, headers) == Some(true)
}

/// Whether nothing says that it is something else.
pub(in crate::bundled::openid_connect) fn may_be_navigation(
    method: &Method,
    headers: &HeaderMap,
) -> bool {
    told(method, headers) != Some(false)
}

/// Whether it says that it is a navigation, or that it is none.
fn told(method: &Method, headers: &HeaderMap) -> Option<bool> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let page = matches!(*method, Method::GET | Method::HEAD)
        || (*method == Method::POST && is_form(headers));
    // A WebSocket is no page, whoever asks for one (RFC 6455 §4.1).
    if !page || headers.contains_key("sec-websocket-key") {
        return Some(false);
    }
    if let Some(mode) = value("sec-fetch-mode") {
        return Some(mode == "navigate");
    }
    if value("x-requested-with").is_some_and(|by| by.eq_ignore_ascii_case("xmlhttprequest")) {
        return Some(false);
    }
    let accepted = headers.get_all(ACCEPT).iter();
    let accepted = accepted.filter_map(|value| value.to_str().ok());
    let mut accepted = accepted
        .filter(|accepted| accepted.trim() != "*/*")
        .peekable();
    accepted.peek()?;
    let pages = ["text/html", "application/xhtml+xml"];
    Some(accepted.any(|accepted| pages.iter().any(|page| accepts(accepted, page))))
}

/// Whether an `Accept` names a media type, and not to refuse it (RFC 9110 §12.5.1).
pub(in crate::bundled::openid_connect) fn accepts(accepted: &str, wanted: &str) -> bool {
    accepted.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let named = parts.next().unwrap_or_default();
        let refuses = |part: &str| {
            let (name, weight) = part.split_once('=').unwrap_or_default();
            let zero = |digit: u8| matches!(digit, b'0' | b'.');
            name.trim().eq_ignore_ascii_case("q") && weight.trim().bytes().all(zero)
        };
        named.eq_ignore_ascii_case(wanted) && !parts.any(refuses)
    })
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, SEC_WEBSOCKET_KEY};
    use http::{HeaderMap, HeaderValue, Method};

    use super::is_navigation;

    #[test]
    fn rule_15_a_navigation_accepts_a_page() {
        let check = |accepted: &'static str, expected: bool| {
            let accepted = HeaderValue::from_static(accepted);
            let headers = HeaderMap::from_iter([(ACCEPT, accepted)]);
            assert_eq!(
                is_navigation(&Method::GET, &headers),
                expected,
                "{headers:?}"
            );
        };
        check("text/html,application/xhtml+xml,*/*;q=0.8", true);
        check("application/json, Text/HTML ; q=0.1", true);
        check("application/xhtml+xml", true);
        check("*/*", false);
        check("application/json, */*", false);
        assert!(!is_navigation(&Method::GET, &HeaderMap::new()));
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let socket = HeaderMap::from_iter([(SEC_WEBSOCKET_KEY, key)]);
        assert!(!is_navigation(&Method::GET, &socket));
        for refusal in ["text/html;q=0", "text/html; Q=0.000, application/json"] {
            check(refusal, false);
        }
        check("text/html5", false);
    }
}
