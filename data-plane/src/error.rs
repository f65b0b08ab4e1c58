//! Failures that the gateway answers by itself: status and body (Kong 3.9). The only such place.

pub(crate) mod form;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, Version, header};

pub use self::form::ErrorForm;
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
    /// The route speaks gRPC, and the request HTTP/1.
    #[error("gRPC needs HTTP/2")]
    NotHttp2,
    /// The route speaks gRPC, and the request does not.
    #[error("not gRPC")]
    NotGrpc,
    /// More requests are under way on this node than may be.
    #[error("too many requests are under way")]
    Overloaded,
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
            Self::NotHttp2 => (StatusCode::UPGRADE_REQUIRED, "Please use HTTP2 protocol"),
            Self::NotGrpc => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Non-gRPC request matched gRPC route",
            ),
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "too many requests are under way",
            ),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"),
            Self::Upstream(error) => match error {
                UpstreamError::Resolve { .. } => {
                    (StatusCode::SERVICE_UNAVAILABLE, "name resolution failed")
                }
                UpstreamError::NoPeer => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "failure to get a peer from the ring-balancer",
                ),
                UpstreamError::Busy => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The upstream server is currently unavailable",
                ),
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

    /// Whether routing, balancing or a plugin has found it, which answer in JSON whatever the client
    /// takes; the others are HTTP's own, and have the form that the client asks for.
    const fn is_json(&self) -> bool {
        match self {
            Self::NotReady
            | Self::NoRoute
            | Self::NoService
            | Self::Protocol
            | Self::NotHttp2
            | Self::NotGrpc
            | Self::Overloaded
            | Self::Upstream(UpstreamError::Resolve { .. } | UpstreamError::NoPeer) => true,
            Self::BadRequest(_)
            | Self::HeadTooLarge
            | Self::TargetTooLong
            | Self::RequestTimeout
            | Self::Method
            | Self::Upstream(_) => false,
        }
    }

    /// The whole answer. `wish` is what the client has said of the form, in a request of `version`.
    pub(crate) fn response(
        &self,
        request_id: &str,
        version: Version,
        wish: Option<&HeaderValue>,
        default: ErrorForm,
    ) -> Response<ResponseBody> {
        let (status, message) = self.answer();
        let form = match wish.map(ErrorForm::of) {
            Some(ErrorForm::Grpc) if version == Version::HTTP_2 => ErrorForm::Grpc,
            Some(ErrorForm::Grpc) => ErrorForm::Json,
            _ if self.is_json() => ErrorForm::Json,
            Some(form) => form,
            None => default,
        };
        let mut response = formed_response(status, message, request_id, form);
        let headers = response.headers_mut();
        match self {
            Self::NotReady | Self::Overloaded | Self::Upstream(UpstreamError::Busy) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::NotHttp2 => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
                headers.insert(header::UPGRADE, HeaderValue::from_static("HTTP/2"));
            }
            _ => {}
        }
        if self.is_final() && version < Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// An error that answers a gRPC call, in the fields that its clients read (gRPC over HTTP/2).
pub(crate) fn grpc_response(
    status: StatusCode,
    grpc_status: u16,
    message: &'static str,
) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Empty);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, ErrorForm::Grpc.content_type());
    headers.insert(GRPC_STATUS, grpc_status.into());
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
    response
}

/// What stands for an HTTP status in gRPC (Kong 3.9, `kong.response.exit`).
fn grpc_status(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => 3,
        401 => 16,
        403 => 7,
        404 => 5,
        409 => 10,
        429 => 8,
        499 => 1,
        500 => 13,
        501 => 12,
        503 => 14,
        504 => 4,
        _ => 2,
    }
}

fn formed_response(
    status: StatusCode,
    message: &'static str,
    request_id: &str,
    form: ErrorForm,
) -> Response<ResponseBody> {
    if form == ErrorForm::Grpc {
        return grpc_response(status, grpc_status(status), message);
    }
    let body = form.body(message, request_id);
    let mut response = Response::new(ResponseBody::Full(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, form.content_type());
    response
}

/// Kong's error body.
pub(crate) fn message_response(
    status: StatusCode,
    message: &'static str,
    request_id: &str,
) -> Response<ResponseBody> {
    formed_response(status, message, request_id, ErrorForm::Json)
}
