//! Answers that filters make themselves, in Kong's shape.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, LOCATION, PRAGMA, REFERRER_POLICY};
use http::{HeaderValue, Response, StatusCode, Version};
use percent_encoding::{AsciiSet, utf8_percent_encode};
use shared::error_form::{ErrorForm, grpc_name, grpc_status, is_grpc};
use url::Url;

use crate::exchange::Exchange;

/// A message in the form that the client takes, JSON if it does not say (Kong 3.9, `kong.response.error`).
pub(crate) fn error(status: StatusCode, message: &str, exchange: &Exchange<'_>) -> Response<Bytes> {
    let grpc = is_call(exchange);
    // Several fields are one list (RFC 9110 §5.3).
    let accept = exchange.request.headers.get_all(ACCEPT).iter();
    let accept: Vec<&[u8]> = accept.map(HeaderValue::as_bytes).collect();
    let form = match ErrorForm::of(&accept.join(&b',')) {
        _ if grpc => ErrorForm::Grpc,
        ErrorForm::Grpc => ErrorForm::Json,
        form => form,
    };
    let body = exchange
        .error_templates
        .body(form, message, &exchange.request_id);
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(form.content_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if grpc {
        tell_call(&mut response, message);
    }
    response
}

/// Whether the request is a call by gRPC.
fn is_call(exchange: &Exchange<'_>) -> bool {
    let request = &exchange.request;
    let kind = request.headers.get(CONTENT_TYPE);
    request.version == Version::HTTP_2 && kind.is_some_and(|kind| is_grpc(kind.as_bytes()))
}

/// Tells a client of gRPC by header what the status means.
fn tell_call(response: &mut Response<Bytes>, message: &str) {
    let status = grpc_status(response.status().as_u16());
    let headers = response.headers_mut();
    headers.insert("grpc-status", status.into());
    if let Ok(message) = HeaderValue::from_str(message) {
        headers.insert("grpc-message", message);
    }
}

/// A message in JSON, and nothing beside it but the request's id, or nothing at all, as it is to whoever calls by gRPC. What else a filter
/// answers is left as it is.
pub fn to_callers(response: &mut Response<Bytes>, exchange: &Exchange<'_>) {
    if !is_call(exchange) {
        return;
    }
    let is_message = |body: &serde_json::Value| {
        let mut fields = body.as_object().into_iter().flatten();
        body["message"].is_string()
            && fields.all(|(name, _)| matches!(&**name, "message" | "request_id"))
    };
    if response.body().is_empty() && !response.headers().contains_key(CONTENT_TYPE) {
        tell_call(response, grpc_name(response.status().as_u16()));
        let form = HeaderValue::from_static(ErrorForm::Grpc.content_type());
        response.headers_mut().insert(CONTENT_TYPE, form);
    } else if serde_json::from_slice(response.body()).is_ok_and(|body| is_message(&body)) {
        for_callers(response, exchange);
    }
}

/// A refusal with a message in JSON, as it is to whoever calls by gRPC (Kong 3.9, `kong.response.exit`).
pub(crate) fn for_callers(response: &mut Response<Bytes>, exchange: &Exchange<'_>) {
    if !is_call(exchange) {
        return;
    }
    let Ok(body) = serde_json::from_slice::<serde_json::Value>(response.body()) else {
        return;
    };
    let message = body.get("message").and_then(serde_json::Value::as_str);
    tell_call(response, message.unwrap_or_default());
    let form = HeaderValue::from_static(ErrorForm::Grpc.content_type());
    response.headers_mut().insert(CONTENT_TYPE, form);
    *response.body_mut() = Bytes::new();
}

/// `{"message": …, "request_id": …}`, whatever the client takes (Kong 3.9, `kong.response.exit`).
pub(crate) fn message(status: StatusCode, message: &str, request_id: &str) -> Response<Bytes> {
    json(
        status,
        &serde_json::json!({ "message": message, "request_id": request_id }),
    )
}

/// A JSON document that no cache keeps.
pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A 302 that no cache keeps and that tells the target nothing of where it came from (RFC 9700 §4.2,
/// §4.12). A location that is no header value answers 500.
pub(crate) fn redirect(location: &str, request_id: &str) -> Response<Bytes> {
    let Ok(location) = HeaderValue::from_str(&reference(location)) else {
        return message(
            StatusCode::INTERNAL_SERVER_ERROR,
            "An unexpected error occurred",
            request_id,
        );
    };
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::FOUND;
    let headers = response.headers_mut();
    headers.insert(LOCATION, location);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// `location` as a URI reference, which has neither blanks nor octets beyond ASCII, nor some of ASCII (RFC 9110 §10.2.2,
/// RFC 3986 §2).
fn reference(location: &str) -> Cow<'_, str> {
    let encoded = Cow::from(utf8_percent_encode(location, &NO_URI));
    if encoded == location {
        return encoded;
    }
    // A host has a form of its own in ASCII.
    match Url::parse(location) {
        Ok(url) => utf8_percent_encode(url.as_str(), &NO_URI)
            .to_string()
            .into(),
        Err(_) => encoded,
    }
}

/// What no URI holds as it is, besides octets beyond ASCII and control characters (RFC 3986 §2).
pub const NO_URI: AsciiSet = AsciiSet::EMPTY
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_to_what_is_a_uri() {
        for (location, written) in [
            ("https://a.example/\u{e4} b", "https://a.example/%C3%A4%20b"),
            (
                "https://a.example/\u{2028}?\u{e4}#b c",
                "https://a.example/%E2%80%A8?%C3%A4#b%20c",
            ),
            (
                "https://b\u{fc}cher.example/",
                "https://xn--bcher-kva.example/",
            ),
            ("/\u{e4} b", "/%C3%A4%20b"),
            (
                "https://a.example/?q={\"a|b\"}",
                "https://a.example/?q=%7B%22a%7Cb%22%7D",
            ),
            ("/^<`>", "/%5E%3C%60%3E"),
            // What is one stays letter by letter.
            ("https://A.example", "https://A.example"),
            (
                "https://a.example/%c3%a4?b=[c]",
                "https://a.example/%c3%a4?b=[c]",
            ),
        ] {
            let answer = redirect(location, "id");
            assert_eq!(answer.headers()[LOCATION], written);
        }
        assert_eq!(redirect("https://a.example/\n", "id").status(), 500);
    }
}
