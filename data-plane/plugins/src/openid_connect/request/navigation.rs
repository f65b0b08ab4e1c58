//! What a browser is about, by what its request shows.

use http::{HeaderMap, Method};

use super::is_form;

/// Arguments that a provider adds to the redirect URI.
pub(in crate::openid_connect) fn added_by_provider(name: &str) -> bool {
    matches!(
        name,
        "code"
            | "state"
            | "session_state"
            | "iss"
            | "error"
            | "error_description"
            | "error_uri"
            | "scope"
            | "authuser"
            | "prompt"
            | "hd"
            | "response"
    )
}

/// Whether a browser only looks ahead (`Sec-Purpose`).
pub(in crate::openid_connect) fn is_prefetch(headers: &HeaderMap) -> bool {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    ["sec-purpose", "purpose", "x-moz"]
        .into_iter()
        .any(|name| value(name).is_some_and(|purpose| purpose.contains("prefetch")))
}

/// Whether a browser shows what a redirect of this request leads to: a sign-in begun by anything else
/// could not end. By Fetch Metadata, and for browsers that send none by what they accept.
pub(in crate::openid_connect) fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let page = matches!(*method, Method::GET | Method::HEAD)
        || (*method == Method::POST && is_form(headers));
    if !page {
        return false;
    }
    if let Some(mode) = value("sec-fetch-mode") {
        return mode == "navigate";
    }
    if value("x-requested-with").is_some_and(|by| by.eq_ignore_ascii_case("xmlhttprequest")) {
        return false;
    }
    value("accept").is_none_or(|accepted| {
        accepted.trim() == "*/*"
            || accepted.contains("text/html")
            || accepted.contains("application/xhtml")
    })
}
