//! Failures that the gateway answers by itself: status and body (Kong 3.9). The only such place.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, Version, header};

use crate::body::{RequestBodyError, ResponseBody};
use crate::http1::request::Refusal;
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
    /// The request's head is larger than allowed (RFC 6585 §5).
    #[error("the head is larger than allowed")]
    HeadTooLarge,
    /// The request's target is longer than allowed.
    #[error("the target is longer than allowed")]
    TargetTooLong,
    /// The request did not come in time.
    #[error("the request took too long")]
    RequestTimeout,
    /// The service speaks a protocol that this version does not.
    #[error("the protocol of the service is not supported")]
    Protocol,
    /// `CONNECT` and `TRACE` are not for a gateway.
    #[error("method not allowed")]
    Method,
    /// The upstream gave no answer.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

impl From<Refusal> for GatewayError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed(reason) => Self::BadRequest(reason),
            Refusal::HeadTooLarge => Self::HeadTooLarge,
            Refusal::TargetTooLong => Self::TargetTooLong,
            Refusal::Timeout => Self::RequestTimeout,
        }
    }
}

impl GatewayError {
    /// Whether the client's connection is of no use any more: where its next request begins is not
    /// certain.
    const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::BadRequest(_)
                | Self::HeadTooLarge
                | Self::TargetTooLong
                | Self::RequestTimeout
                | Self::Upstream(UpstreamError::RequestBody(_))
        )
    }

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
            Self::HeadTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "Request header or cookie too large",
            ),
            Self::TargetTooLong => (StatusCode::URI_TOO_LONG, "URI too long"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "Request timeout"),
            Self::Protocol => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the protocol of the service is not supported",
            ),
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
                UpstreamError::RequestBody(RequestBodyError::Timeout) => {
                    (StatusCode::REQUEST_TIMEOUT, "Request timeout")
                }
                UpstreamError::RequestBody(RequestBodyError::TooLarge) => {
                    (StatusCode::PAYLOAD_TOO_LARGE, "Request size limit exceeded")
                }
                UpstreamError::RequestBody(_) => (StatusCode::BAD_REQUEST, "Bad request"),
                _ => (
                    StatusCode::BAD_GATEWAY,
                    "An invalid response was received from the upstream server",
                ),
            },
        }
    }

    /// The whole answer.
    pub(crate) fn response(&self, request_id: &str, version: Version) -> Response<ResponseBody> {
        let (status, message) = self.answer();
        let mut response = message_response(status, message, request_id);
        if matches!(self, Self::NotReady) {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.is_final() && version < Version::HTTP_2 {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
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
