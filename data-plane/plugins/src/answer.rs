//! Answers that filters make themselves, in Kong's shape.

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, LOCATION, PRAGMA, REFERRER_POLICY};
use http::{HeaderValue, Response, StatusCode, Version};
use shared::error_form::{ErrorForm, grpc_status, is_grpc};

use crate::exchange::Exchange;

/// A message in the form that the client takes, JSON if it does not say (Kong 3.9, `kong.response.error`).
pub(crate) fn error(status: StatusCode, message: &str, exchange: &Exchange<'_>) -> Response<Bytes> {
    let request = &exchange.request;
    let field = |name| request.headers.get(name).map(HeaderValue::as_bytes);
    let grpc = request.version == Version::HTTP_2 && field(CONTENT_TYPE).is_some_and(is_grpc);
    let form = match field(ACCEPT).map(ErrorForm::of) {
        _ if grpc => ErrorForm::Grpc,
        Some(ErrorForm::Grpc) | None => ErrorForm::Json,
        Some(form) => form,
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
        headers.insert("grpc-status", grpc_status(status.as_u16()).into());
        if let Ok(message) = HeaderValue::from_str(message) {
            headers.insert("grpc-message", message);
        }
    }
    response
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
