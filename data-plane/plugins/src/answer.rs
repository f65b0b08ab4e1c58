//! Answers that filters make themselves, in Kong's shape.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, PRAGMA, REFERRER_POLICY};
use http::{HeaderValue, Response, StatusCode};

/// `{"message": …, "request_id": …}` (Kong 3.9, error body of `kong.response.error`).
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
    let Ok(location) = HeaderValue::from_str(location) else {
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
