//! What the token endpoint answers, taken apart.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value};
use shared::clock::UnixTime;

use super::super::{jws, strict_json};
use super::{TokenError, Tokens};

/// Codes that say why a request is refused (RFC 6749 §5.2, RFC 8707 §2, RFC 9396 §5, RFC 9449 §5, §8), and that may be named to
/// operators and, with `display_errors`, to clients.
const CODES: [&str; 10] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",
    "invalid_authorization_details",
    "invalid_dpop_proof",
    "use_dpop_nonce",
];

/// Codes by which a provider says that it cannot do it now. They are registered for authorization responses (RFC 6749
/// §4.1.2.1); token endpoints use them, too.
const FOR_NOW: [&str; 2] = ["temporarily_unavailable", "server_error"];

/// Those of [`CODES`] that say that the provider does not let this client do what it is configured for, whatever grant it
/// brings: the gateway shows no proof of possession of its own.
const OF_CLIENTS: [&str; 4] = [
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_dpop_proof",
    "use_dpop_nonce",
];

/// The error code of a refusal, if it is a known one.
pub(super) fn refusal(body: &[u8]) -> &'static str {
    let error = serde_json::from_slice::<Value>(body).ok();
    let code = error
        .as_ref()
        .and_then(|error| error.get("error")?.as_str());
    CODES
        .into_iter()
        .chain(FOR_NOW)
        .find(|known| Some(*known) == code)
        .unwrap_or("an error")
}

/// Whether the error `code` says that the provider cannot answer now.
pub(super) fn is_for_now(code: &str) -> bool {
    FOR_NOW.contains(&code)
}

/// Whether the error `code` is one of the client that is configured, and not of whoever brings a grant.
pub(super) fn is_of_client(code: &str) -> bool {
    OF_CLIENTS.contains(&code)
}

/// Whether the error `code` of a refusal is a registered one.
pub(super) fn is_named(code: &str) -> bool {
    CODES.contains(&code)
}

/// Whether a refusal, with the error `code`, is one of the grant (RFC 6749 §5.2): what stands before a provider refuses by
/// other statuses, and says nothing that is registered.
pub(super) fn explains(status: StatusCode, code: &str) -> bool {
    is_named(code) || matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED)
}

/// Reads a successful answer (RFC 6749 §5.1).
pub(super) fn read(body: &[u8], now: UnixTime) -> Result<Tokens, TokenError> {
    let unusable = |what| TokenError::Unusable("token_shape", what);
    let answer = strict_json::object(body).ok_or(unusable("it is not a JSON object"))?;
    let text = |name: &str| answer.get(name).and_then(Value::as_str);
    let access_token = text("access_token")
        .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or(unusable("access_token is missing or no token"))?
        .to_owned();
    if !text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return Err(TokenError::Unusable(
            "token_type",
            "token_type is not Bearer",
        ));
    }
    let id_token = text("id_token").map(str::to_owned);
    let refresh_token = text("refresh_token").map(str::to_owned);
    let lifetime = lifetime(&answer).map_err(|NoNumber| unusable("expires_in is no number"))?;
    let own = jws::own_end(&access_token);
    let expires_at = match lifetime.map(|lifetime| now.saturating_add(lifetime)) {
        // Upstreams go by what stands in the token. With a clock that is behind, a provider gives what has ended already.
        Some(end) => Some(own.filter(|own| now < *own).map_or(end, |own| own.min(end))),
        None => own,
    };
    Ok(Tokens {
        access_token,
        id_token,
        refresh_token,
        expires_at,
        answer,
        introspection: None,
        headers: Vec::new(),
    })
}

impl Tokens {
    /// How long the access token was to live when it was issued, if the provider has said so.
    pub(in crate::bundled::openid_connect) fn lifetime(&self) -> Option<Duration> {
        lifetime(&self.answer).ok().flatten()
    }
}

/// `expires_in` is something else than a number.
struct NoNumber;

/// What `expires_in` says, as a number or in digits. What is not positive has ended already. `None`: it says nothing.
fn lifetime(answer: &Map<String, Value>) -> Result<Option<Duration>, NoNumber> {
    let seconds = match answer.get("expires_in") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.trim().parse().ok(),
        Some(value) => value.as_f64(),
    };
    match seconds.filter(|seconds| seconds.is_finite()) {
        Some(seconds) if seconds > 0.0 => Ok(Some(
            Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
        )),
        Some(_) => Ok(Some(Duration::ZERO)),
        None => Err(NoNumber),
    }
}
