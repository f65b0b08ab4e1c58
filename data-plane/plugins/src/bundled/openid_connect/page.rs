//! The few pages that the plugin shows to people. They hold nothing of what a client or a provider
//! sent, run no script of others and are kept by nobody.

use std::fmt::Write;

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use url::Url;

use super::request::{accepts, kept_arguments};

/// What a page may do: nothing, and in no frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; frame-ancestors 'none'";

/// Whether the client shows pages: it asks for HTML by name.
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accepts(accept, "text/html"))
}

/// A page of paragraphs that names the request.
pub(super) fn page(
    status: StatusCode,
    title: &str,
    paragraphs: &[&str],
    request_id: &str,
) -> Response<Bytes> {
    let mut body = String::new();
    for paragraph in paragraphs {
        _ = writeln!(body, "<p>{}</p>", escaped(paragraph));
    }
    _ = writeln!(body, "<p>Reference: {}</p>", escaped(request_id));
    html(status, title, &body, POLICY)
}

/// A page that asks before it goes on to `target`, a URL of our own.
pub(super) fn question(title: &str, text: &str, target: &str, answer: &str) -> Response<Bytes> {
    let (text, target, answer) = (escaped(text), escaped(target), escaped(answer));
    let body = format!("<p>{text}</p>\n<p><a href=\"{target}\">{answer}</a></p>\n");
    html(StatusCode::OK, title, &body, POLICY)
}

/// Longest URL that every browser and server takes; beyond, a browser posts a form.
pub(super) const LONGEST_URL: usize = 8000;

/// `endpoint` with `arguments` after those that are its own.
pub(super) fn url(endpoint: &Url, arguments: &[(String, String)]) -> String {
    let mut url = beside(endpoint, arguments);
    if !arguments.is_empty() {
        url.query_pairs_mut().extend_pairs(arguments);
    }
    url.into()
}

/// `endpoint` as it may stand beside `arguments`, without its own of these names: none is sent twice (RFC 6749 §3.1).
pub(super) fn beside(endpoint: &Url, arguments: &[(String, String)]) -> Url {
    let mut url = endpoint.clone();
    if let Some(query) = endpoint.query() {
        let kept = kept_arguments(query, |name| {
            arguments.iter().all(|(taken, _)| taken != name)
        });
        url.set_query(
            Some(&kept)
                .filter(|kept| !kept.is_empty())
                .map(String::as_str),
        );
    }
    url
}

/// A page that sends a form by itself, for what is too long for a URL.
pub(super) fn form(target: &str, arguments: &[(String, String)]) -> Response<Bytes> {
    // A field of the form may be called `submit`.
    const SCRIPT: &str = "HTMLFormElement.prototype.submit.call(document.forms[0]);";
    let mut body = format!("<form method=\"post\" action=\"{}\">\n", escaped(target));
    for (name, value) in arguments {
        let (name, value) = (escaped(name), escaped(value));
        _ = writeln!(
            body,
            "<input type=\"hidden\" name=\"{name}\" value=\"{value}\">"
        );
    }
    _ = write!(
        body,
        "<button>Continue</button>\n</form>\n<script>{SCRIPT}</script>\n"
    );
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; frame-ancestors 'none'",
        base64(SCRIPT)
    );
    html(StatusCode::OK, "One moment", &body, &policy)
}

/// A page of no content that pages of `ancestor` may frame.
pub(super) fn framed(ancestor: &str) -> Response<Bytes> {
    let policy = format!("default-src 'none'; frame-ancestors {ancestor}");
    html(StatusCode::OK, "Signed out", "", &policy)
}

/// A page as it is, under `policy`.
pub(super) fn html(status: StatusCode, title: &str, body: &str, policy: &str) -> Response<Bytes> {
    let title = escaped(title);
    let text = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    );
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let policy = HeaderValue::from_str(policy).unwrap_or(HeaderValue::from_static(POLICY));
    for (name, value) in [
        (
            CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        ),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (CONTENT_SECURITY_POLICY, policy),
    ] {
        headers.insert(name, value);
    }
    response
}

/// `text` as it may stand in HTML, in an attribute too.
pub(super) fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, character| {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
        escaped
    })
}

/// SHA-256 of a script in the form of a content security policy.
fn base64(script: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(shared::digest::sha256(script.as_bytes()))
}
