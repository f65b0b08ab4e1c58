//! The authorization code flow, as a function of what has happened so far (RFC 6749 §4.1, OpenID
//! Connect Core §3.1, RFC 7636, RFC 9207).
//!
//! ```text
//! Idle ─Arrived─► Waiting ─CalledBack─► Exchanging ─TokensReceived─► Ended: signed in
//!   │ pushed          ▲       │ a key is missing        │ a key is missing
//!   └─► Pushing ──────┘       └─► Answering             └─► Verifying ─KeysReceived─► Ended
//! ```
//!
//! Any other event in any state ends the sign-in with a denial.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use shared::clock::UnixTime;
use shared::digest::sha256;
use url::Url;

use super::authorization_request::{Begun, begin, pushed};
use super::authorization_response::{Accepted, accept, agree};
use super::config::UnsignedMethod;
use super::failure::Failure;
use super::provider::Document;
use super::rules::Rules;
use super::token_endpoint::Tokens;
use super::under_way::Seed;
use super::verify::{Expected, Refusal, Verifier};
use crate::client_keys::signer::Signer;

/// What a step may read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) rules: &'a Rules,
    pub(super) document: &'a Document,
    /// What signs authorization requests, if there is a key.
    pub(super) signer: Option<&'a Signer>,
}

/// A sign-in under way: what its cookie and its state say. The version before wrote all of it in the cookie, by these names.
#[derive(Clone, Deserialize, Eq, PartialEq)]
pub(super) struct Pending {
    #[serde(rename = "s")]
    pub(super) state: String,
    #[serde(rename = "n")]
    pub(super) nonce: String,
    /// The code verifier, if a challenge was sent.
    #[serde(rename = "v")]
    pub(super) verifier: Option<String>,
    /// What nonce and verifier were made of, in this version.
    #[serde(skip)]
    pub(super) seed: Seed,
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
    #[serde(default, rename = "f")]
    pub(super) form: Option<String>,
    /// Whether the provider may turn to the user although the configuration says otherwise.
    #[serde(default, rename = "i")]
    pub(super) interactive: bool,
    /// Whether another site has asked for it, and said where it is to end.
    #[serde(default, rename = "w")]
    pub(super) wished: bool,
    /// Whether the provider was asked to have its answer posted.
    #[serde(default, rename = "p")]
    pub(super) posted: bool,
    /// The provider's epoch that it began in.
    #[serde(default, rename = "e")]
    pub(super) epoch: Option<u64>,
}

shared::unsaid!(Pending);

impl Pending {
    /// The name of the session that it leads to: the same whenever its response is brought, so that a logout ends them all.
    /// What it is made of is as random as a name of its own would be.
    pub(super) fn session_id(&self) -> String {
        let verifier = self.verifier.as_deref().unwrap_or_default();
        let text = format!("session {} {} {verifier}", self.state, self.nonce);
        let digest = sha256(text.as_bytes());
        URL_SAFE_NO_PAD.encode(digest.first_chunk::<16>().expect("SHA-256 has 32 bytes"))
    }
}

/// Where a sign-in stands.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// None is under way.
    Idle,
    /// The request is with the pushed authorization request endpoint.
    Pushing(Pending),
    /// The browser is with the provider.
    Waiting(Pending),
    /// The response waits for newer keys.
    Answering(Pending, Callback),
    /// The code is with the token endpoint.
    Exchanging(Pending, Accepted),
    /// The tokens wait for newer keys.
    Verifying(Pending, Accepted, Box<Tokens>),
    /// It is over, one way or the other.
    Ended,
}

/// What happened.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A browser came without a session.
    Arrived(Arrival),
    /// The provider has taken the request, and calls it this.
    Pushed(String),
    /// The provider has not taken it.
    PushRefused(Failure),
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
#[derive(Clone)]
pub(super) struct Arrival {
    pub(super) state: String,
    pub(super) nonce: String,
    pub(super) verifier: String,
    /// What these two were made of.
    pub(super) seed: Seed,
    /// Names a signed request.
    pub(super) jti: String,
    pub(super) client: usize,
    pub(super) redirect_uri: String,
    pub(super) target: String,
    pub(super) query: Option<String>,
    pub(super) form: Option<String>,
    /// Arguments of the request that the configuration lets through to the provider.
    pub(super) arguments: Vec<(String, String)>,
    /// Whether the provider may turn to the user in any case.
    pub(super) interactive: bool,
    /// Whether another site asks for the sign-in.
    pub(super) wished: bool,
    /// The provider's epoch.
    pub(super) epoch: Option<u64>,
}

shared::unsaid!(Arrival);

/// How an authorization response comes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Way {
    /// As a navigation, in its query.
    #[default]
    Query,
    /// As a form that is posted.
    Form,
    /// In the query of something else.
    Other,
}

/// An authorization response, as it came.
#[derive(Clone, Default)]
pub(super) struct Callback {
    pub(super) state: Option<String>,
    pub(super) code: Option<String>,
    pub(super) iss: Option<String>,
    pub(super) error: Option<String>,
    /// The ID token that came by way of the browser.
    pub(super) id_token: Option<String>,
    /// The access token that did.
    pub(super) access_token: Option<String>,
    /// The signed response that the others were read from.
    pub(super) response: Option<String>,
    /// Whether one of these came more than once.
    pub(super) ambiguous: bool,
    pub(super) way: Way,
}

shared::unsaid!(Callback);

/// What to do next.
#[derive(Clone)]
pub(super) enum Action {
    /// Send this form to the pushed authorization request endpoint.
    Push(Vec<(String, String)>),
    /// Send the browser there.
    Redirect(String),
    /// Send the browser there with this form, which is too long for a URL.
    Post(Url, Vec<(String, String)>),
    /// Send this form to the token endpoint.
    FetchTokens(Vec<(String, String)>),
    /// Fetch the provider's keys anew.
    FetchKeys,
    /// The user is signed in.
    Proceed(Box<SignedIn>),
    /// The sign-in failed.
    Deny(Failure),
}

shared::unsaid!(Action);

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
            Ok(Begun::Redirect(pending, location)) => {
                (State::Waiting(pending), Action::Redirect(location))
            }
            Ok(Begun::Post(pending, endpoint, form)) => {
                (State::Waiting(pending), Action::Post(endpoint, form))
            }
            Ok(Begun::Push(pending, form)) => (State::Pushing(pending), Action::Push(form)),
            Err(failure) => deny(failure),
        },
        (State::Pushing(pending), Event::Pushed(request_uri)) => {
            match pushed(context, &pending, request_uri) {
                Ok(location) => (State::Waiting(pending), Action::Redirect(location)),
                Err(failure) => deny(failure),
            }
        }
        (State::Waiting(pending), Event::CalledBack(callback)) => {
            match accept(context, &pending, &callback, now) {
                Ok(accepted) => redeem(pending, accepted),
                Err(Refusal::UnknownKey(_) | Refusal::OtherKey(_)) => {
                    (State::Answering(pending, callback), Action::FetchKeys)
                }
                Err(Refusal::Bad(failure)) => deny(failure),
            }
        }
        (State::Answering(pending, callback), Event::KeysReceived) => {
            match accept(context, &pending, &callback, now) {
                Ok(accepted) => redeem(pending, accepted),
                Err(refusal) => deny(refusal.into_failure()),
            }
        }
        (State::Exchanging(pending, accepted), Event::TokensReceived(tokens)) => {
            match verify(context, &pending, &accepted, &tokens, now) {
                Ok(()) => proceed(pending, *tokens),
                Err(Refusal::UnknownKey(_) | Refusal::OtherKey(_)) => (
                    State::Verifying(pending, accepted, tokens),
                    Action::FetchKeys,
                ),
                Err(Refusal::Bad(failure)) => deny(failure),
            }
        }
        (State::Pushing(_), Event::PushRefused(failure))
        | (State::Exchanging(..), Event::TokensRefused(failure)) => deny(failure),
        (State::Verifying(pending, accepted, tokens), Event::KeysReceived) => {
            match verify(context, &pending, &accepted, &tokens, now) {
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

/// Asks for the tokens that the code stands for.
fn redeem(pending: Pending, accepted: Accepted) -> (State, Action) {
    let form = exchange_form(&pending, &accepted.code);
    (
        State::Exchanging(pending, accepted),
        Action::FetchTokens(form),
    )
}

fn deny(failure: Failure) -> (State, Action) {
    (State::Ended, Action::Deny(failure))
}

fn proceed(pending: Pending, tokens: Tokens) -> (State, Action) {
    let signed_in = SignedIn { pending, tokens };
    (State::Ended, Action::Proceed(Box::new(signed_in)))
}

/// Whether a sign-in began too long ago.
pub(super) fn expired(rules: &Rules, started_at: UnixTime, now: UnixTime) -> bool {
    let limit = rules.config.sign_in.authorization_rolling_timeout.limit();
    limit.is_some_and(|limit| now >= started_at.saturating_add(limit))
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
    accepted: &Accepted,
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
        code: Some(&accepted.code),
        state: Some(&pending.state),
        asked_at: Some(pending.started_at),
        ..Expected::default()
    };
    let id = match &tokens.id_token {
        Some(token) => Some(verifier.id_token(token, expected)?),
        None => None,
    };
    agree(accepted.front.as_ref(), id.as_ref()).map_err(Refusal::Bad)?;
    let scopes = context.rules.config.sign_in.scope_words();
    if tokens.id_token.is_none() && scopes.contains(&"openid") {
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
