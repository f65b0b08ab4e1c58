//! What a token is by what it says.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openidconnect::ClaimsVerificationError;
use serde_json::Value;
use subtle::ConstantTimeEq;

use super::super::config::SigningAlgorithm;
use super::super::failure::Failure;
use super::super::jws::{Claims, Jws};

pub(super) fn claims_failure(error: &ClaimsVerificationError) -> Failure {
    let (code, detail) = match error {
        ClaimsVerificationError::Expired(_) => ("idt_exp", "the ID token has expired"),
        ClaimsVerificationError::InvalidAudience(_) => {
            ("idt_aud", "the ID token is for another audience")
        }
        _ => ("idt_alg", "the ID token is not accepted"),
    };
    Failure::refused(code, detail)
}

/// Whether a token of another kind poses as an access token: an ID token, a refresh token, an event.
pub(super) fn posing(token: &Jws<'_>) -> bool {
    let typ = token.header.kind().unwrap_or_else(|| "jwt".to_owned());
    let claims = &token.claims;
    let says = |name: &str, values: &[&str]| {
        let value = claims.get(name).and_then(Value::as_str);
        value.is_some_and(|value| values.contains(&value))
    };
    let scoped = claims.contains_key("scope") || claims.contains_key("scp");
    !matches!(typ.as_str(), "jwt" | "at+jwt")
        || says("token_use", &["id"])
        // Keycloak names the kind of its tokens in the claims.
        || says("typ", &["ID", "Refresh", "Offline", "Logout"])
        || claims.contains_key("at_hash")
        || claims.contains_key("c_hash")
        || claims.contains_key("s_hash")
        || claims.contains_key("events")
        || (claims.contains_key("nonce") && !scoped && typ != "at+jwt")
}

/// Whether a token without any mark of its kind is most likely an ID token, as a refresh or the password grant brings
/// them: it is for the `client` alone, tells how its user signed in, and has nothing that is an access token's (RFC 9068
/// §2.2; the others are those of providers that had no such standard).
pub(super) fn looks_like_id_token(token: &Jws<'_>, client: &str) -> bool {
    const OF_ACCESS: [&str; 10] = [
        "scope",
        "scp",
        "roles",
        "client_id",
        "cid",
        "appid",
        "azpacr",
        "permissions",
        "gty",
        "cnf",
    ];
    const OF_AUTHENTICATION: [&str; 5] = ["auth_time", "amr", "acr", "sid", "azp"];
    let claims = &token.claims;
    let has = |names: &[&str]| names.iter().any(|name| claims.contains_key(*name));
    let for_client = match claims.get("aud") {
        Some(Value::Array(audiences)) => matches!(&audiences[..], [one] if one == client),
        Some(audience) => audience == client,
        None => false,
    };
    let typed = token.header.kind().as_deref() == Some("at+jwt")
        || claims.get("typ").is_some_and(|kind| kind == "Bearer");
    !client.is_empty() && for_client && !typed && has(&OF_AUTHENTICATION) && !has(&OF_ACCESS)
}

/// Whether the hash claim `name`, if it is there, is that of `value` (OpenID Connect Core §3.1.3.6, FAPI 1.0 Part 2 §5.1).
/// Where nothing came along that it could speak of, it says nothing.
pub(super) fn hash_fits(
    claims: &Claims,
    name: &str,
    algorithm: SigningAlgorithm,
    value: Option<&str>,
) -> bool {
    let (Some(found), Some(value)) = (claims.get(name), value) else {
        return true;
    };
    let Some(found) = found.as_str() else {
        return false;
    };
    let digest = match algorithm {
        SigningAlgorithm::RS256
        | SigningAlgorithm::PS256
        | SigningAlgorithm::ES256
        | SigningAlgorithm::HS256 => &digest::SHA256,
        SigningAlgorithm::RS384
        | SigningAlgorithm::PS384
        | SigningAlgorithm::ES384
        | SigningAlgorithm::HS384 => &digest::SHA384,
        SigningAlgorithm::RS512
        | SigningAlgorithm::PS512
        | SigningAlgorithm::ES512
        | SigningAlgorithm::HS512
        | SigningAlgorithm::EdDSA => &digest::SHA512,
    };
    let hash = digest::digest(digest, value.as_bytes());
    let half = hash.as_ref().len() / 2;
    let left = hash.as_ref().get(..half).unwrap_or_default();
    URL_SAFE_NO_PAD
        .encode(left)
        .as_bytes()
        .ct_eq(found.as_bytes())
        .into()
}
