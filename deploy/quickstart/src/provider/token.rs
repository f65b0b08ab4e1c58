//! The token endpoint: codes and refresh tokens for tokens (RFC 6749 §4.1.3, §6; RFC 7636 §4.6).

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use shared::clock::UnixTime;

use super::error::Refusal;
use super::keys::{TokenKind, random_text};
use super::state::Grant;
use super::{Provider, ProviderSettings, User};

pub(super) async fn token(
    State(provider): State<Provider>,
    headers: HeaderMap,
    body: String,
) -> Result<Response, Refusal> {
    let parameters = Parameters::parse(&body)?;
    let client_id = client(&provider.settings(), &headers, &parameters)?;
    let now = UnixTime::now();
    match parameters.require("grant_type")? {
        "authorization_code" => exchange_code(&provider, now, &client_id, &parameters),
        "refresh_token" => refresh(&provider, now, &client_id, &parameters),
        _ => Err(Refusal::GrantType),
    }
}

/// A form body in which no parameter repeats (RFC 6749 §3.2).
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn parse(body: &str) -> Result<Self, Refusal> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(body.as_bytes()) {
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(Refusal::Request("a parameter is repeated"));
            }
            pairs.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self(pairs))
    }

    pub(super) fn find(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        Some(value.as_str())
    }

    pub(super) fn require(&self, name: &'static str) -> Result<&str, Refusal> {
        self.find(name)
            .ok_or(Refusal::Request("a required parameter is missing"))
    }
}

/// Authenticates the client by HTTP Basic or by parameters, never by both (RFC 6749 §2.3).
pub(super) fn client(
    settings: &ProviderSettings,
    headers: &HeaderMap,
    parameters: &Parameters,
) -> Result<String, Refusal> {
    let (id, secret) = match headers.get(header::AUTHORIZATION) {
        Some(_) if parameters.find("client_secret").is_some() => {
            return Err(Refusal::Request("the client authenticates in two ways"));
        }
        Some(value) => basic(value.to_str().unwrap_or_default()).ok_or(Refusal::Client)?,
        None => (
            parameters.require("client_id")?.to_owned(),
            parameters
                .find("client_secret")
                .unwrap_or_default()
                .to_owned(),
        ),
    };
    let client = settings.client(&id).ok_or(Refusal::Client)?;
    if client.has_secret(&secret) {
        Ok(id)
    } else {
        Err(Refusal::Client)
    }
}

/// The id and the secret of `Authorization: Basic`, both form-encoded inside (RFC 6749 §2.3.1).
fn basic(value: &str) -> Option<(String, String)> {
    let (scheme, credentials) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some((form_decoded(id), form_decoded(secret)))
}

fn form_decoded(text: &str) -> String {
    form_urlencoded::parse(text.as_bytes())
        .next()
        .map(|(name, _)| name.into_owned())
        .unwrap_or_default()
}

fn exchange_code(
    provider: &Provider,
    now: UnixTime,
    client_id: &str,
    parameters: &Parameters,
) -> Result<Response, Refusal> {
    let mut state = provider.state();
    let code_id = parameters.require("code")?;
    let code = state
        .code(now, code_id)
        .ok_or(Refusal::Grant("the code is unknown or has expired"))?;
    if let Some(grant) = code.grant.clone() {
        state.revoke(&grant);
        return Err(Refusal::Grant("the code was already used"));
    }
    if code.sign_in.client_id != client_id {
        return Err(Refusal::Grant("the code was issued to another client"));
    }
    if parameters.find("redirect_uri") != Some(code.sign_in.redirect_uri.as_str()) {
        return Err(Refusal::Grant("redirect_uri is not that of the sign-in"));
    }
    check_verifier(
        code.sign_in.code_challenge.as_deref(),
        parameters.find("code_verifier"),
    )?;

    let grant = Grant {
        client_id: client_id.to_owned(),
        subject: code.subject.clone(),
        scope: code.sign_in.scope.clone(),
        authenticated_at: code.authenticated_at,
    };
    let nonce = code.sign_in.nonce.clone();
    let grant_id = state.add_grant(now, grant.clone());
    if let Some(code) = state.code(now, code_id) {
        code.grant = Some(grant_id.clone());
    }
    let refresh_token = state.add_refresh_token(now, &grant_id);
    drop(state);
    issue(provider, now, &grant, nonce.as_deref(), &refresh_token)
}

fn check_verifier(challenge: Option<&str>, verifier: Option<&str>) -> Result<(), Refusal> {
    match (challenge, verifier) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Refusal::Grant("the sign-in had no code_challenge")), // RFC 9700 §4.8.2
        (Some(_), None) => Err(Refusal::Grant("code_verifier is missing")),
        (Some(challenge), Some(verifier)) => {
            let hash = digest::digest(&digest::SHA256, verifier.as_bytes());
            let computed = URL_SAFE_NO_PAD.encode(hash);
            verify_slices_are_equal(computed.as_bytes(), challenge.as_bytes())
                .map_err(|_| Refusal::Grant("code_verifier does not fit the code_challenge"))
        }
    }
}

fn refresh(
    provider: &Provider,
    now: UnixTime,
    client_id: &str,
    parameters: &Parameters,
) -> Result<Response, Refusal> {
    let leeway = provider.settings().refresh_reuse_leeway;
    let mut state = provider.state();
    let unknown = || Refusal::Grant("the refresh token is unknown or revoked");
    let sent = parameters.require("refresh_token")?;
    let token = state.refresh_token(now, sent).ok_or_else(unknown)?.clone();
    let grant_id = token.grant;
    let grant = state.grant(now, &grant_id).ok_or_else(unknown)?;
    // Another client can neither use the token nor use it up (RFC 6749 §6).
    if grant.client_id != client_id {
        return Err(unknown());
    }
    let exchanged_at = token.exchanged_at.unwrap_or(now);
    if now.saturating_since(exchanged_at) > leeway {
        state.revoke(&grant_id);
        return Err(Refusal::Grant("the refresh token was already used"));
    }
    if let Some(token) = state.refresh_token(now, sent) {
        token.exchanged_at = Some(exchanged_at);
    }
    let refresh_token = state.add_refresh_token(now, &grant_id);
    drop(state);
    issue(provider, now, &grant, None, &refresh_token)
}

fn issue(
    provider: &Provider,
    now: UnixTime,
    grant: &Grant,
    nonce: Option<&str>,
    refresh_token: &str,
) -> Result<Response, Refusal> {
    let settings = provider.settings();
    let user = settings
        .user_by_subject(&grant.subject)
        .ok_or(Refusal::Grant("the user is gone"))?;
    let access_token = provider.sign(
        TokenKind::Access,
        access_claims(&settings, user, &grant.client_id, &grant.scope, now),
    );
    let id_token = provider.sign(
        TokenKind::Id,
        id_claims(&settings, user, grant, nonce, &access_token, now),
    );
    let body = json!({
        "access_token": access_token,
        "token_type": "Bearer",
        "expires_in": settings.access_token_lifetime.as_secs(),
        "refresh_token": refresh_token,
        "id_token": id_token,
        "scope": grant.scope,
    });
    Ok((
        [
            (header::CACHE_CONTROL, "no-store"),
            (header::PRAGMA, "no-cache"),
        ],
        Json(body),
    )
        .into_response())
}

/// The claims of an access token (RFC 9068 §2.2).
pub(super) fn access_claims(
    settings: &ProviderSettings,
    user: &User,
    client_id: &str,
    scope: &str,
    now: UnixTime,
) -> Map<String, Value> {
    let mut claims = user.claims(scope);
    let expires_at = now.saturating_add(settings.access_token_lifetime);
    claims.insert("iss".into(), json!(settings.issuer));
    claims.insert("aud".into(), json!(client_id));
    claims.insert("client_id".into(), json!(client_id));
    claims.insert("scope".into(), json!(scope));
    claims.insert("iat".into(), json!(now.as_secs()));
    claims.insert("exp".into(), json!(expires_at.as_secs()));
    claims.insert("jti".into(), json!(random_text(12)));
    claims
}

/// The claims of an ID token (OpenID Connect Core §2, §3.1.3.6).
fn id_claims(
    settings: &ProviderSettings,
    user: &User,
    grant: &Grant,
    nonce: Option<&str>,
    access_token: &str,
    now: UnixTime,
) -> Map<String, Value> {
    let mut claims = user.claims(&grant.scope);
    let expires_at = now.saturating_add(settings.id_token_lifetime);
    claims.insert("iss".into(), json!(settings.issuer));
    claims.insert("aud".into(), json!(grant.client_id));
    claims.insert("iat".into(), json!(now.as_secs()));
    claims.insert("exp".into(), json!(expires_at.as_secs()));
    claims.insert("auth_time".into(), json!(grant.authenticated_at.as_secs()));
    claims.insert("at_hash".into(), json!(at_hash(access_token)));
    if let Some(nonce) = nonce {
        claims.insert("nonce".into(), json!(nonce));
    }
    claims
}

/// The left half of the access token's hash (OpenID Connect Core §3.1.3.6).
fn at_hash(access_token: &str) -> String {
    let hash = digest::digest(&digest::SHA256, access_token.as_bytes());
    let (left, _) = hash.as_ref().split_at(hash.as_ref().len() / 2);
    URL_SAFE_NO_PAD.encode(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_verifier_must_fit_the_challenge() {
        // RFC 7636, appendix B.
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
        assert!(check_verifier(Some(challenge), Some(verifier)).is_ok());
        assert!(check_verifier(Some(challenge), Some("other")).is_err());
        assert!(check_verifier(Some(challenge), None).is_err());
        assert!(check_verifier(None, Some(verifier)).is_err());
    }

    #[test]
    fn basic_credentials_are_form_decoded() {
        let value = format!("Basic {}", STANDARD.encode("a%3Ab:p+w%25"));
        assert_eq!(basic(&value), Some(("a:b".into(), "p w%".into())));
        assert_eq!(basic("Bearer x"), None);
        assert_eq!(basic("Basic !!!"), None);
    }
}
