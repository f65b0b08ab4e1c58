//! What an authorization request asks for (OpenID Connect Core §3.1.2.1), checked.

use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use shared::clock::UnixTime;

use super::Provider;
use super::state::{Session, SignIn};

/// The parameters of an authorization request that we look at. A repeated one is refused.
#[derive(Debug, Default, Deserialize)]
pub(super) struct AuthorizationRequest {
    pub(super) client_id: Option<String>,
    pub(super) redirect_uri: Option<String>,
    pub(super) response_type: Option<String>,
    pub(super) response_mode: Option<String>,
    pub(super) scope: Option<String>,
    pub(super) state: Option<String>,
    pub(super) nonce: Option<String>,
    pub(super) prompt: Option<String>,
    pub(super) max_age: Option<String>,
    pub(super) login_hint: Option<String>,
    pub(super) id_token_hint: Option<String>,
    pub(super) code_challenge: Option<String>,
    pub(super) code_challenge_method: Option<String>,
    pub(super) request: Option<String>,
    pub(super) request_uri: Option<String>,
    pub(super) registration: Option<String>,
}

/// Why the relying party is told that its request cannot be served.
#[derive(Debug)]
pub(super) struct AuthorizationError {
    pub(super) error: &'static str,
    pub(super) description: &'static str,
}

/// When the login page is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Prompt {
    /// Never: `prompt=none`.
    Never,
    /// Unless the browser is signed in.
    IfNeeded,
    /// Also then: `prompt=login`.
    Always,
}

/// What a browser that is signed in already must fulfil to go on without the login page.
#[derive(Debug)]
pub(super) struct Demands {
    pub(super) prompt: Prompt,
    /// The longest time since somebody typed a password.
    max_age: Option<Duration>,
    /// Who it must be.
    subject: Option<String>,
}

impl Demands {
    /// Whether `session` fulfils them. An age of zero means: anew.
    pub(super) fn allow(&self, session: &Session, now: UnixTime) -> bool {
        let age = now.saturating_since(session.authenticated_at);
        let young = self
            .max_age
            .is_none_or(|most| !most.is_zero() && age <= most);
        let right = self
            .subject
            .as_ref()
            .is_none_or(|subject| *subject == session.subject);
        young && right
    }
}

impl AuthorizationRequest {
    /// The sign-in that is asked for, and what it demands.
    pub(super) fn check(
        self,
        provider: &Provider,
        redirect_uri: String,
    ) -> Result<(SignIn, Demands), AuthorizationError> {
        let refuse = |error, description| Err(AuthorizationError { error, description });
        if self.request.is_some() {
            return refuse("request_not_supported", "leave out request");
        }
        if self.request_uri.is_some() {
            return refuse("request_uri_not_supported", "leave out request_uri");
        }
        if self.registration.is_some() {
            return refuse("registration_not_supported", "leave out registration");
        }
        if self.response_type.as_deref() != Some("code") {
            return refuse("unsupported_response_type", "use response_type=code");
        }
        if !matches!(self.response_mode.as_deref(), None | Some("query")) {
            return refuse("invalid_request", "use response_mode=query");
        }
        let scope = self.scope.unwrap_or_default();
        if !scope.split(' ').any(|word| word == "openid") {
            return refuse("invalid_scope", "the scope must contain openid");
        }
        match (
            self.code_challenge.as_deref(),
            self.code_challenge_method.as_deref(),
        ) {
            (None, None) | (Some(_), Some("S256")) => {}
            _ => {
                return refuse(
                    "invalid_request",
                    "use code_challenge with code_challenge_method=S256",
                );
            }
        }
        let max_age = match self.max_age.as_deref().map(str::parse) {
            None => None,
            Some(Ok(seconds)) => Some(Duration::from_secs(seconds)),
            Some(Err(_)) => return refuse("invalid_request", "max_age is a number of seconds"),
        };
        let subject = match self.id_token_hint.as_deref() {
            None => None,
            Some(hint) => match subject_of(provider, hint) {
                Some(subject) => Some(subject),
                None => {
                    return refuse(
                        "invalid_request",
                        "id_token_hint is no ID token of this provider",
                    );
                }
            },
        };
        let demands = Demands {
            prompt: prompt(self.prompt.as_deref().unwrap_or_default())?,
            max_age,
            subject: subject.clone(),
        };
        let sign_in = SignIn {
            client_id: self.client_id.unwrap_or_default(),
            redirect_uri,
            scope,
            state: self.state,
            nonce: self.nonce,
            code_challenge: self.code_challenge,
            login_hint: self.login_hint,
            subject,
        };
        Ok((sign_in, demands))
    }
}

/// Reads `prompt`. Consent is given by signing in, so asking for it changes nothing.
fn prompt(text: &str) -> Result<Prompt, AuthorizationError> {
    let refuse = |description| {
        Err(AuthorizationError {
            error: "invalid_request",
            description,
        })
    };
    let mut prompt = Prompt::IfNeeded;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match word {
            "none" if text.trim() == "none" => prompt = Prompt::Never,
            "none" => return refuse("prompt=none stands alone"),
            "login" | "select_account" => prompt = Prompt::Always,
            "consent" => {}
            _ => return refuse("prompt is one of none, login, select_account, consent"),
        }
    }
    Ok(prompt)
}

/// The subject of an ID token that we signed. It may have expired, that is what a hint is for.
fn subject_of(provider: &Provider, id_token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Hint {
        sub: String,
    }
    let header = jsonwebtoken::decode_header(id_token).ok()?;
    if header.typ.as_deref().is_some_and(|typ| typ != "JWT") {
        return None;
    }
    let published = provider.keys().published();
    let key = DecodingKey::from_jwk(published.find(&header.kid?)?).ok()?;
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_issuer(&[provider.issuer()]);
    validation.validate_aud = false; // Any application may ask for a user that another one knows.
    validation.validate_exp = false;
    let token = jsonwebtoken::decode::<Hint>(id_token, &key, &validation).ok()?;
    Some(token.claims.sub)
}
