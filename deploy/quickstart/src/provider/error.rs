//! Errors of the endpoints that programs call (RFC 6749 §5.2, RFC 6750 §3).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why a token, revocation or userinfo request is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The request lacks something or repeats something.
    Request(&'static str),
    /// The client is unknown or its secret is wrong.
    Client,
    /// The code or refresh token is unknown, used, expired or another client's.
    Grant(&'static str),
    /// The grant type is not one of ours.
    GrantType,
    /// The access token is not ours, or it has expired.
    Token,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error, description) = match self {
            Self::Request(why) => (StatusCode::BAD_REQUEST, "invalid_request", why),
            Self::Client => (
                StatusCode::UNAUTHORIZED,
                "invalid_client",
                "unknown client or wrong secret",
            ),
            Self::Grant(why) => (StatusCode::BAD_REQUEST, "invalid_grant", why),
            Self::GrantType => (
                StatusCode::BAD_REQUEST,
                "unsupported_grant_type",
                "use authorization_code or refresh_token",
            ),
            Self::Token => (
                StatusCode::UNAUTHORIZED,
                "invalid_token",
                "unknown or expired access token",
            ),
        };
        let challenge = match self {
            Self::Client => Some("Basic realm=\"demo provider\""),
            Self::Token => Some("Bearer error=\"invalid_token\""),
            Self::Request(_) | Self::Grant(_) | Self::GrantType => None,
        };
        let body = Json(json!({"error": error, "error_description": description}));
        let mut response = (status, [(header::CACHE_CONTROL, "no-store")], body).into_response();
        if let Some(challenge) = challenge {
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(challenge),
            );
        }
        response
    }
}
