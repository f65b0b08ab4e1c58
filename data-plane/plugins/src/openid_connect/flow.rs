//! The authorization code flow, as a function of what has happened so far (RFC 6749 §4.1, OpenID
//! Connect Core §3.1, RFC 7636, RFC 9207).
//!
//! ```text
//! Idle ─Arrived─► Waiting ─CalledBack─► Exchanging ─TokensReceived─► Ended: signed in
//!                                                        │ a key is missing
//!                                                        └─► Verifying ─KeysReceived─► Ended
//! ```
//!
//! Any other event in any state ends the sign-in with a denial.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use subtle::ConstantTimeEq;
use url::Url;

use super::config::{ResponseMode, UnsignedMethod};
use super::failure::Failure;
use super::provider::Document;
use super::rules::{Rules, sha256};
use super::token_endpoint::Tokens;
use super::verify::{Expected, Refusal, Verifier};

/// Error codes of RFC 6749 §4.1.2.1 and OpenID Connect Core §3.1.2.6 that may be named.
const CODES: [&str; 11] = [
    "access_denied",
    "login_required",
    "interaction_required",
    "consent_required",
    "account_selection_required",
    "invalid_request",
    "invalid_scope",
    "unauthorized_client",
    "unsupported_response_type",
    "server_error",
    "temporarily_unavailable",
];

/// What a step may read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) rules: &'a Rules,
    pub(super) document: &'a Document,
}

/// A sign-in under way: what the authorization cookie seals. Written with short names, since a browser
/// with many tabs sends one such cookie for each.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Pending {
    #[serde(rename = "s")]
    pub(super) state: String,
    #[serde(rename = "n")]
    pub(super) nonce: String,
    /// The code verifier, if a challenge was sent.
    #[serde(rename = "v")]
    pub(super) verifier: Option<String>,
    #[serde(rename = "c")]
    pub(super) client: usize,
    #[serde(rename = "r")]
    pub(super) redirect_uri: String,
    /// The URL first asked for, without its query.
    #[serde(rename = "t")]
    pub(super) target: String,
    /// Its query, if that is preserved.
    #[serde(rename = "q")]
    pub(super) query: Option<String>,
    #[serde(rename = "a")]
    pub(super) started_at: UnixTime,
    /// The form that was posted, if it is kept.
    #[serde(default, rename = "f", skip_serializing_if = "Option::is_none")]
    pub(super) form: Option<String>,
}

/// Where a sign-in stands.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// None is under way.
    Idle,
    /// The browser is with the provider.
    Waiting(Pending),
    /// The code is with the token endpoint.
    Exchanging(Pending, String),
    /// The tokens wait for newer keys.
    Verifying(Pending, String, Box<Tokens>),
    /// It is over, one way or the other.
    Ended,
}

/// What happened.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A browser came without a session.
    Arrived(Arrival),
    /// The provider sent it back.
    CalledBack(Callback),
    /// The token endpoint gave tokens.
    TokensReceived(Box<Tokens>),
    /// The token endpoint gave none.
    TokensRefused(Failure),
    /// The provider's keys were fetched anew; they are in the context.
    KeysReceived,
}

/// A browser without a session, and randomness for its sign-in.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) state: String,
    pub(super) nonce: String,
    pub(super) verifier: String,
    pub(super) client: usize,
    pub(super) redirect_uri: String,
    pub(super) target: String,
    pub(super) query: Option<String>,
    pub(super) form: Option<String>,
    /// Arguments of the request that the configuration lets through to the provider.
    pub(super) arguments: Vec<(String, String)>,
}

/// An authorization response, as it came.
#[derive(Clone, Debug, Default)]
pub(super) struct Callback {
    pub(super) state: Option<String>,
    pub(super) code: Option<String>,
    pub(super) iss: Option<String>,
    pub(super) error: Option<String>,
    /// Whether one of these came more than once.
    pub(super) ambiguous: bool,
}

/// What to do next.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Send the browser there.
    Redirect(String),
    /// Send this form to the token endpoint.
    FetchTokens(Vec<(String, String)>),
    /// Fetch the provider's keys anew.
    FetchKeys,
    /// The user is signed in.
    Proceed(Box<SignedIn>),
    /// The sign-in failed.
    Deny(Failure),
}

/// A sign-in that succeeded.
#[derive(Clone, Debug)]
pub(super) struct SignedIn {
    pub(super) pending: Pending,
    pub(super) tokens: Tokens,
}

/// The next state and what to do to get on from there.
pub(super) fn step(
    context: Context<'_>,
    state: State,
    event: Event,
    now: UnixTime,
) -> (State, Action) {
    match (state, event) {
        (State::Idle, Event::Arrived(arrival)) => match begin(context, arrival, now) {
            Ok((pending, location)) => (State::Waiting(pending), Action::Redirect(location)),
            Err(failure) => deny(failure),
        },
        (State::Waiting(pending), Event::CalledBack(callback)) => {
            match accept(context, &pending, callback, now) {
                Ok(code) => {
                    let form = exchange_form(&pending, &code);
                    (State::Exchanging(pending, code), Action::FetchTokens(form))
                }
                Err(failure) => deny(failure),
            }
        }
        (State::Exchanging(pending, code), Event::TokensReceived(tokens)) => {
            match verify(context, &pending, &code, &tokens, now) {
                Ok(()) => proceed(pending, *tokens),
                Err(Refusal::UnknownKey(_)) => {
                    (State::Verifying(pending, code, tokens), Action::FetchKeys)
                }
                Err(Refusal::Bad(failure)) => deny(failure),
            }
        }
        (State::Exchanging(..), Event::TokensRefused(failure)) => deny(failure),
        (State::Verifying(pending, code, tokens), Event::KeysReceived) => {
            match verify(context, &pending, &code, &tokens, now) {
                Ok(()) => proceed(pending, *tokens),
                Err(refusal) => deny(refusal.into_failure()),
            }
        }
        _ => deny(Failure::refused(
            "state_unknown",
            "no such step of a sign-in",
        )),
    }
}

fn deny(failure: Failure) -> (State, Action) {
    (State::Ended, Action::Deny(failure))
}

fn proceed(pending: Pending, tokens: Tokens) -> (State, Action) {
    let signed_in = SignedIn { pending, tokens };
    (State::Ended, Action::Proceed(Box::new(signed_in)))
}

/// The authorization request (OpenID Connect Core §3.1.2.1).
fn begin(
    context: Context<'_>,
    arrival: Arrival,
    now: UnixTime,
) -> Result<(Pending, String), Failure> {
    let config = &context.rules.config;
    let endpoint = config
        .client
        .authorization_endpoint
        .as_ref()
        .or(context.document.authorization_endpoint.as_ref())
        .and_then(|endpoint| Url::parse(endpoint).ok());
    let Some(mut url) = endpoint else {
        return Err(Failure::unavailable(
            "idp_error",
            "the OpenID provider has no authorization endpoint",
        ));
    };
    let client = context.rules.client(arrival.client);
    if client.id.is_empty() {
        return Err(Failure::unexpected(
            "client_missing",
            "client_id is needed for the authorization code flow",
        ));
    }
    let sign_in = &config.sign_in;
    let challenged = sign_in.require_proof_key_for_code_exchange != Some(false);
    let pending = Pending {
        verifier: challenged.then_some(arrival.verifier),
        state: arrival.state,
        nonce: arrival.nonce,
        client: arrival.client,
        redirect_uri: arrival.redirect_uri,
        target: arrival.target,
        query: arrival.query,
        form: arrival.form,
        started_at: now,
    };
    let mut arguments: Vec<(&str, String)> = vec![
        ("response_type", sign_in.response_type.join(" ")),
        ("client_id", client.id.clone()),
        ("redirect_uri", pending.redirect_uri.clone()),
        ("state", pending.state.clone()),
        ("nonce", pending.nonce.clone()),
    ];
    if let Some(scopes) = sign_in.scopes.as_ref().filter(|scopes| !scopes.is_empty()) {
        arguments.push(("scope", scopes.join(" ")));
    }
    if let Some(verifier) = &pending.verifier {
        let challenge = URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes()));
        arguments.push(("code_challenge", challenge));
        arguments.push(("code_challenge_method", "S256".to_owned()));
    }
    if sign_in.response_mode == ResponseMode::FormPost {
        arguments.push(("response_mode", "form_post".to_owned()));
    }
    for audience in sign_in.audience.iter().flatten() {
        arguments.push(("audience", audience.clone()));
    }
    if let Some(most) = &sign_in.max_age {
        arguments.push(("max_age", most.seconds().as_secs().to_string()));
    }
    let names = sign_in.authorization_query_args_names.iter().flatten();
    let values = sign_in.authorization_query_args_values.iter().flatten();
    let fixed = names.map(String::as_str).zip(values.cloned());
    let mut taken: Vec<String> = arguments
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    for (name, value) in fixed {
        taken.push(name.to_owned());
        arguments.push((name, value));
    }
    // A client's argument never comes beside one that the gateway sets itself.
    for (name, value) in &arrival.arguments {
        if !taken.contains(name) {
            taken.push(name.clone());
            arguments.push((name, value.clone()));
        }
    }
    url.query_pairs_mut().extend_pairs(arguments);
    Ok((pending, url.into()))
}

/// Checks an authorization response and answers its code.
fn accept(
    context: Context<'_>,
    pending: &Pending,
    callback: Callback,
    now: UnixTime,
) -> Result<String, Failure> {
    if callback.ambiguous {
        return Err(Failure::refused(
            "duplicate_param",
            "the authorization response repeats a parameter",
        ));
    }
    let state = callback.state.unwrap_or_default();
    if !bool::from(state.as_bytes().ct_eq(pending.state.as_bytes())) {
        return Err(Failure::refused(
            "state_unknown",
            "the state is not the one that was sent",
        ));
    }
    if expired(context.rules, pending, now) {
        return Err(Failure::refused(
            "state_expired",
            "the sign-in took too long",
        ));
    }
    match &callback.iss {
        Some(iss) if iss.trim_end_matches('/') != context.document.issuer.trim_end_matches('/') => {
            return Err(Failure::refused(
                "iss_mismatch",
                "the authorization response is of another issuer",
            )
            .with("iss", iss)
            .with("expected iss", &context.document.issuer));
        }
        None if context.document.sends_iss => {
            return Err(Failure::refused(
                "iss_missing",
                "the authorization response names no issuer",
            ));
        }
        _ => {}
    }
    if let Some(error) = callback.error {
        let known = CODES
            .into_iter()
            .find(|code| *code == error)
            .unwrap_or("an error");
        return Err(Failure {
            error: None,
            ..Failure::refused("idp_error", format!("the OpenID provider answered {known}"))
                .with("error", known)
        });
    }
    callback
        .code
        .filter(|code| !code.is_empty())
        .ok_or_else(|| Failure::refused("code_missing", "the authorization response has no code"))
}

/// Whether the sign-in began too long ago.
pub(super) fn expired(rules: &Rules, pending: &Pending, now: UnixTime) -> bool {
    let limit = rules.config.sign_in.authorization_rolling_timeout.limit();
    limit.is_some_and(|limit| now >= pending.started_at.saturating_add(limit))
}

/// The token request (RFC 6749 §4.1.3, RFC 7636 §4.5). The redirect URI is the one that was sent.
fn exchange_form(pending: &Pending, code: &str) -> Vec<(String, String)> {
    let mut form = vec![
        ("grant_type".to_owned(), "authorization_code".to_owned()),
        ("code".to_owned(), code.to_owned()),
        ("redirect_uri".to_owned(), pending.redirect_uri.clone()),
    ];
    if let Some(verifier) = &pending.verifier {
        form.push(("code_verifier".to_owned(), verifier.clone()));
    }
    form
}

/// Verifies access and ID token.
fn verify(
    context: Context<'_>,
    pending: &Pending,
    code: &str,
    tokens: &Tokens,
    now: UnixTime,
) -> Result<(), Refusal> {
    let verifier = Verifier {
        rules: context.rules,
        client: pending.client,
        document: context.document,
        now,
    };
    let expected = Expected {
        nonce: Some(&pending.nonce),
        access_token: &tokens.access_token,
        code: Some(code),
    };
    if let Some(token) = &tokens.id_token {
        verifier.id_token(token, expected)?;
    }
    let scopes = context
        .rules
        .config
        .sign_in
        .scopes
        .as_deref()
        .unwrap_or_default();
    if tokens.id_token.is_none()
        && scopes
            .iter()
            .any(|scope| scope.split(' ').any(|word| word == "openid"))
    {
        return Err(Refusal::Bad(Failure::refused(
            "idt_missing",
            "the token endpoint gave no ID token",
        )));
    }
    let check_signature = !context
        .rules
        .ignores_signature(UnsignedMethod::AuthorizationCode);
    verifier
        .issued(&tokens.access_token, check_signature)
        .map(|_| ())
}
