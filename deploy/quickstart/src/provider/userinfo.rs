//! The userinfo endpoint (OpenID Connect Core §5.3).

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Provider;
use super::error::Refusal;

#[derive(Deserialize)]
struct AccessClaims {
    sub: String,
    scope: String,
}

pub(super) async fn userinfo(
    State(provider): State<Provider>,
    headers: HeaderMap,
) -> Result<Json<Map<String, Value>>, Refusal> {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token)
        .ok_or(Refusal::Token)?;
    let claims = verify(&provider, token).ok_or(Refusal::Token)?;
    let settings = provider.settings();
    let user = settings
        .user_by_subject(&claims.sub)
        .ok_or(Refusal::Token)?;
    Ok(Json(user.claims(&claims.scope)))
}

fn verify(provider: &Provider, token: &str) -> Option<AccessClaims> {
    let header = jsonwebtoken::decode_header(token).ok()?;
    if header.typ.as_deref() != Some("at+jwt") {
        return None;
    }
    let published = provider.keys().published();
    let key = DecodingKey::from_jwk(published.find(&header.kid?)?).ok()?;
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(&[provider.issuer()]);
    validation.validate_aud = false; // The token is for the gateway's audience, and we are its issuer.
    validation.leeway = 0;
    let token = jsonwebtoken::decode::<AccessClaims>(token, &key, &validation).ok()?;
    Some(token.claims)
}
