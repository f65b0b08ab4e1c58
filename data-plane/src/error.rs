//! Failures that the gateway answers by itself: status and body (Kong 3.9). The only such place.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use crate::body::ResponseBody;
use crate::upstream::UpstreamError;

/// Why the gateway answers instead of an upstream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GatewayError {
    /// No configuration has arrived yet.
    #[error("no configuration")]
    NotReady,
    /// No route matches.
    #[error("no route")]
    NoRoute,
    /// The route has no service and no filter has answered.
    #[error("no service")]
    NoService,
    /// The request is malformed or ambiguous.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    /// `CONNECT` and `TRACE` are not for a gateway.
    #[error("method not allowed")]
    Method,
    /// The upstream gave no answer.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

impl GatewayError {
    /// Status and Kong's text.
    pub(crate) const fn answer(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NotReady => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no configuration has been received yet",
            ),
            Self::NoRoute => (StatusCode::NOT_FOUND, "no Route matched with those values"),
            Self::NoService => (
                StatusCode::SERVICE_UNAVAILABLE,
                "no Service found with those values",
            ),
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "Bad request"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"),
            Self::Upstream(error) => match error {
                UpstreamError::Resolve { .. } => {
                    (StatusCode::SERVICE_UNAVAILABLE, "name resolution failed")
                }
                UpstreamError::ConnectTimeout
                | UpstreamError::ReadTimeout
                | UpstreamError::SendTimeout => (
                    StatusCode::GATEWAY_TIMEOUT,
                    "The upstream server is timing out",
                ),
                UpstreamError::RequestBody(_) => (StatusCode::BAD_REQUEST, "Bad request"),
                _ => (
                    StatusCode::BAD_GATEWAY,
                    "An invalid response was received from the upstream server",
                ),
            },
        }
    }

    /// The whole answer.
    pub(crate) fn response(&self, request_id: &str) -> Response<ResponseBody> {
        let (status, message) = self.answer();
        let mut response = message_response(status, message, request_id);
        if matches!(self, Self::NotReady) {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Kong's error body.
pub(crate) fn message_response(
    status: StatusCode,
    message: &str,
    request_id: &str,
) -> Response<ResponseBody> {
    let body = format!("{{\n  \"message\":\"{message}\",\n  \"request_id\":\"{request_id}\"\n}}");
    let mut response = Response::new(ResponseBody::Full(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json; charset=utf-8"),
    );
    response
}
