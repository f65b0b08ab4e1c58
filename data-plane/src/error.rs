//! Errors that the gateway itself answers: their status and body (Kong 3.9). The only place that chooses them.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, Version, header};
pub use shared::error_form::ErrorForm;
use shared::error_form::{ErrorTemplates, NO_TEMPLATES, grpc_status};

use crate::body::{RequestBodyError, ResponseBody};
use crate::http1::headers::View;
use crate::http1::kind::Kind;
use crate::http1::request::Refusal;
use crate::settings::Settings;
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
    /// The request is of an HTTP that is not spoken.
    #[error("the version of HTTP is not supported")]
    Version,
    /// The request's head is larger than allowed. RFC 6585 §5 would have 431; Kong 3.9 answers 400.
    #[error("the head is larger than allowed")]
    HeadTooLarge,
    /// The request's target is longer than allowed.
    #[error("the target is longer than allowed")]
    TargetTooLong,
    /// There is never memory for what a plugin has to read of the request.
    #[error("there is never memory for the body")]
    BodyTooLarge,
    /// The request did not come in time.
    #[error("the request took too long")]
    RequestTimeout,
    /// The client speaks no TLS where it should (nginx's 497).
    #[error("no TLS where it should be")]
    Bare,
    /// The service speaks a protocol that this version does not.
    #[error("the protocol of the service is not supported")]
    Protocol,
    /// The service cannot be used as it is configured.
    #[error("the service cannot be used as it is configured")]
    Unfit,
    /// The route speaks gRPC, and the request HTTP/1.
    #[error("gRPC needs HTTP/2")]
    NotHttp2,
    /// The route speaks gRPC, and the request does not.
    #[error("not gRPC")]
    NotGrpc,
    /// The route looks at certificates of clients, and this one's handshake was for a name that nobody is asked for one
    /// under: a connection of its own is what the client needs (RFC 9110 §15.5.20).
    #[error("the connection's handshake did not ask for a certificate")]
    Misdirected,
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
            Refusal::Version => Self::Version,
            Refusal::HeadTooLarge => Self::HeadTooLarge,
            Refusal::TargetTooLong => Self::TargetTooLong,
            Refusal::Timeout => Self::RequestTimeout,
            Refusal::Bare => Self::Bare,
            Refusal::Crowded => Self::Overloaded,
        }
    }
}

impl GatewayError {
    /// Whether the client's connection is of no use any more: where its next request begins is not
    /// certain, or it is not the one for such requests.
    const fn is_final(&self) -> bool {
        matches!(
            self,
            Self::BadRequest(_)
                | Self::Version
                | Self::HeadTooLarge
                | Self::TargetTooLong
                | Self::RequestTimeout
                | Self::Bare
                | Self::Misdirected
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
            Self::Version => (
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "HTTP version not supported",
            ),
            Self::HeadTooLarge => (
                StatusCode::BAD_REQUEST,
                "Request header or cookie too large",
            ),
            Self::TargetTooLong => (StatusCode::URI_TOO_LONG, "URI too long"),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Payload too large"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "Request timeout"),
            Self::Bare => (
                StatusCode::BAD_REQUEST,
                "The plain HTTP request was sent to HTTPS port",
            ),
            Self::Protocol => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the protocol of the service is not supported",
            ),
            Self::Unfit => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the service cannot be used as it is configured",
            ),
            Self::NotHttp2 => (StatusCode::UPGRADE_REQUIRED, "Please use HTTP2 protocol"),
            Self::NotGrpc => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Non-gRPC request matched gRPC route",
            ),
            Self::Misdirected => (StatusCode::MISDIRECTED_REQUEST, "Misdirected request"),
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
                UpstreamError::RequestBody(RequestBodyError::TooLarge(bound)) => {
                    let status = if bound.asked {
                        StatusCode::EXPECTATION_FAILED
                    } else {
                        StatusCode::PAYLOAD_TOO_LARGE
                    };
                    (status, "Request size limit exceeded")
                }
                UpstreamError::RequestBody(_) => (StatusCode::BAD_REQUEST, "Bad request"),
                _ => (
                    StatusCode::BAD_GATEWAY,
                    "An invalid response was received from the upstream server",
                ),
            },
        }
    }

    /// Whose words the form of the answer follows.
    const fn heeds(&self) -> Heeds {
        match self {
            Self::NotReady
            | Self::NoService
            | Self::Protocol
            | Self::Unfit
            | Self::NotHttp2
            | Self::NotGrpc
            | Self::Overloaded => Heeds::Nothing,
            Self::NoRoute
            | Self::Upstream(
                UpstreamError::Resolve { .. }
                | UpstreamError::NoPeer
                | UpstreamError::RequestBody(RequestBodyError::TooLarge(_)),
            ) => Heeds::Accept,
            Self::BadRequest(_)
            | Self::Version
            | Self::HeadTooLarge
            | Self::TargetTooLong
            | Self::BodyTooLarge
            | Self::RequestTimeout
            | Self::Bare
            | Self::Method
            | Self::Misdirected
            | Self::Upstream(_) => Heeds::Anything,
        }
    }

    /// The whole answer to a request of `version`. `wish` is what the client has said of the form.
    pub(crate) fn response(
        &self,
        request_id: &str,
        version: Version,
        wish: Option<&Wish>,
        style: &ErrorStyle,
    ) -> Response<ResponseBody> {
        let (status, message) = self.answer();
        let asked = wish.map(|wish| (ErrorForm::of(&wish.value), wish.accepts));
        let form = match (self.heeds(), asked) {
            (_, Some((ErrorForm::Grpc, _))) if version == Version::HTTP_2 => ErrorForm::Grpc,
            (_, Some((ErrorForm::Grpc, _))) | (Heeds::Nothing, _) => ErrorForm::Json,
            (Heeds::Accept, asked) => match asked {
                Some((form, true)) => form,
                Some((_, false)) | None => ErrorForm::Json,
            },
            (Heeds::Anything, Some((form, _))) => form,
            (Heeds::Anything, None) => style.default,
        };
        let templates = match self.heeds() {
            Heeds::Nothing => &NO_TEMPLATES,
            Heeds::Accept | Heeds::Anything => &style.templates,
        };
        let mut response = formed_response(status, message, request_id, form, templates);
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

/// What decides on the form of an answer (Kong 3.9).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Heeds {
    /// It is JSON: `kong.response.exit`.
    Nothing,
    /// `Accept`, else it is JSON: `kong.response.error`.
    Accept,
    /// `Accept`, else `Content-Type`, else the default: HTTP's own errors, `kong_error_handler`.
    Anything,
}

/// How errors are written: the settings `error_default_type` and `error_template_*`.
#[derive(Clone, Debug)]
pub(crate) struct ErrorStyle {
    /// Form of an error for a client that says nothing of forms.
    pub(crate) default: ErrorForm,
    pub(crate) templates: ErrorTemplates,
}

impl ErrorStyle {
    /// Reads the settings and the files that they name. The error names the setting.
    pub(crate) fn read(settings: &Settings) -> Result<Self, String> {
        let mut templates = ErrorTemplates::default();
        for (form, setting, file) in [
            (
                ErrorForm::Json,
                "error_template_json",
                &settings.error_template_json,
            ),
            (
                ErrorForm::Html,
                "error_template_html",
                &settings.error_template_html,
            ),
            (
                ErrorForm::Plain,
                "error_template_plain",
                &settings.error_template_plain,
            ),
            (
                ErrorForm::Xml,
                "error_template_xml",
                &settings.error_template_xml,
            ),
        ] {
            let Some(file) = file else { continue };
            let text = std::fs::read_to_string(file)
                .map_err(|error| format!("{setting}: reading {}: {error}", file.display()))?;
            let template = text
                .parse()
                .map_err(|error| format!("{setting}: {error}"))?;
            templates.set(form, template);
        }
        Ok(Self {
            default: settings.error_default_type,
            templates,
        })
    }
}

/// What a client has said of the form of answers.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    value: Box<[u8]>,
    /// Whether it has said so by `Accept`, and not only by the type of what it has sent.
    accepts: bool,
}

impl Wish {
    /// The wish in `headers`.
    pub(crate) fn of(headers: View<'_>) -> Option<Self> {
        if !headers.may_have(Kind::ACCEPT.and(Kind::CONTENT_TYPE)) {
            return None;
        }
        let mut lists = headers.values(Kind::ACCEPT, &header::ACCEPT);
        let first = lists.next();
        let value = first.or_else(|| {
            let mut types = headers.values(Kind::CONTENT_TYPE, &header::CONTENT_TYPE);
            types.next()
        })?;
        let mut value = value.to_vec();
        // Several fields are one list (RFC 9110 §5.3).
        for more in lists {
            value.push(b',');
            value.extend_from_slice(more);
        }
        Some(Self {
            value: value.into(),
            accepts: first.is_some(),
        })
    }
}

const fn content_type(form: ErrorForm) -> HeaderValue {
    HeaderValue::from_static(form.content_type())
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
    headers.insert(header::CONTENT_TYPE, content_type(ErrorForm::Grpc));
    headers.insert(GRPC_STATUS, grpc_status.into());
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
    response
}

fn formed_response(
    status: StatusCode,
    message: &'static str,
    request_id: &str,
    form: ErrorForm,
    templates: &ErrorTemplates,
) -> Response<ResponseBody> {
    if form == ErrorForm::Grpc {
        return grpc_response(status, grpc_status(status.as_u16()), message);
    }
    let body = templates.body(form, message, request_id);
    let mut response = Response::new(ResponseBody::Full(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type(form));
    response
}

/// Kong's error body.
pub(crate) fn message_response(
    status: StatusCode,
    message: &'static str,
    request_id: &str,
) -> Response<ResponseBody> {
    formed_response(status, message, request_id, ErrorForm::Json, &NO_TEMPLATES)
}
