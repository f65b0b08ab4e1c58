//! Requests to the token and revocation endpoints (RFC 6749 §3.2, RFC 7009).

mod answer;
mod client;
mod discovered;
mod endpoint;
mod parameters;
mod pushed_request;
mod revocation;
mod rotation;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::clock::UnixTime;
use shared::telemetry::chain;
use tracing::{error, warn};

use self::answer::{explains, is_for_now, is_named, is_of_client, read, refusal};
pub(super) use self::client::{Caller, Post, presenting};
pub(super) use self::discovered::discovered;
pub(super) use self::endpoint::Endpoint;
pub(super) use self::parameters::{have_same_words, verify_parameters};
pub(super) use self::pushed_request::{push, push_failure};
pub(super) use self::revocation::revoke;
pub(super) use self::rotation::{Exchanged, post, post_guarded};
use super::failure::Failure;
use super::provider::{self, Document, ProviderError, is_missing};
use super::request;
use super::rules::{Rules, is_ours};
use super::session::Session;
use crate::exchange::Exchange;
use crate::host::{Host, Repeatable};

/// Longest answer of the token endpoint, in bytes.
const ANSWER_LIMIT: usize = 1024 * 1024;

/// Tokens as the provider handed them out.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Tokens {
    pub(super) access_token: String,
    pub(super) id_token: Option<String>,
    pub(super) refresh_token: Option<String>,
    /// When the access token ends, as far as is known.
    pub(super) expires_at: Option<UnixTime>,
    /// The whole answer, for `login_tokens`.
    pub(super) answer: Map<String, Value>,
    /// What introspection said, for `login_tokens`.
    pub(super) introspection: Option<Map<String, Value>>,
    /// Headers of the answer that the client shall see.
    #[serde(skip)]
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    /// The refresh token that has come in the place of `traded`, which they were given for and which by that is used up.
    pub(super) fn in_place_of(&self, traded: &str) -> Option<&str> {
        let new = self.refresh_token.as_deref();
        new.filter(|new| *new != traded)
    }

    /// The tokens that a session holds.
    pub(super) fn of(session: &Session) -> Self {
        let mut answer = Map::new();
        answer.insert(
            "access_token".to_owned(),
            session.access_token.clone().into(),
        );
        if let Some(token) = &session.id_token {
            answer.insert("id_token".to_owned(), token.clone().into());
        }
        Self {
            access_token: session.access_token.clone(),
            id_token: session.id_token.clone(),
            refresh_token: session.refresh_token.clone(),
            expires_at: session.expires_at,
            answer,
            introspection: session.introspection.clone(),
            headers: Vec::new(),
        }
    }
}

/// What a request to the token endpoint takes over from the client's.
#[derive(Clone, Default)]
pub(super) struct PassedOn {
    pub(super) arguments: Vec<(String, String)>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

shared::unsaid!(PassedOn);

impl PassedOn {
    /// What the configuration lets through of `exchange`.
    pub(super) async fn of(rules: &Rules, exchange: &mut Exchange<'_>) -> Self {
        let config = &rules.config.client;
        let wanted = config.token_post_args_client.as_deref();
        let mut arguments = request::let_through(exchange, wanted, true).await;
        arguments.retain(|(name, _)| !is_ours(name));
        let wanted = config.token_headers_client.as_deref();
        Self {
            arguments,
            headers: request::headers_let_through(&exchange.request.headers, wanted),
        }
    }

    /// Hands its parts to `add`, in order.
    pub(super) fn parts(&self, mut add: impl FnMut(&[u8])) {
        for (name, value) in &self.arguments {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        for (name, value) in &self.headers {
            add(name.as_str().as_bytes());
            add(value.as_bytes());
        }
    }
}

/// Adds the arguments whose names are not taken: what comes from a client never replaces or doubles
/// what the gateway says itself.
pub(super) fn add_missing(form: &mut Vec<(String, String)>, given: Vec<(String, String)>) {
    for (name, value) in given {
        if !form.iter().any(|(taken, _)| *taken == name) {
            form.push((name, value));
        }
    }
}

/// Why there are no tokens.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum TokenError {
    /// The provider refuses: its error code, if it is a registered one.
    #[error("the token endpoint refused the request: {0}")]
    Refused(&'static str),
    /// Somebody refuses, and says nothing of the grant: something before the provider, or the provider for now.
    #[error("the token endpoint answered {0}, and nothing of why")]
    Unexplained(u16),
    /// The provider does not accept the client that is configured.
    #[error("the provider does not accept the client that is configured")]
    Client,
    /// It knows the client, and does not let it do what it is configured for: its error code.
    #[error("the provider does not let the client that is configured do this: {0}")]
    NotAllowed(&'static str),
    /// It answers with what are no tokens: the reason code, and what is wrong.
    #[error("the token endpoint's answer is unusable: {1}")]
    Unusable(&'static str, &'static str),
    /// The provider cannot be used.
    #[error(transparent)]
    Provider(#[from] ProviderError),
}

impl TokenError {
    /// The failure of the request that needed the tokens.
    pub(super) fn failure(&self, code: &'static str) -> Failure {
        match self {
            Self::Refused(error) => {
                Failure::refused(code, format!("the token endpoint answered {error}"))
                    .with("error", *error)
            }
            Self::Unexplained(status) => {
                let detail = format!("the token endpoint answered {status}");
                Failure::refused(code, detail).with("status", status.to_string())
            }
            Self::Client => Failure::faulty(
                "client_refused",
                "the OpenID provider does not accept the gateway as its client",
            ),
            Self::NotAllowed(error) => Failure {
                detail: format!("the token endpoint answered {error}").into(),
                ..Failure::faulty("client_refused", "")
            }
            .with("error", *error),
            Self::Unusable(code, what) => Failure {
                message: Some("The OpenID provider gave an answer that cannot be used"),
                ..Failure::faulty(code, what)
            },
            Self::Provider(error) => error.failure(),
        }
    }
}

/// Asks the token endpoint for tokens by the grant in `form`, as the configured client.
///
/// # Errors
///
/// If the provider refuses, or cannot be used.
pub(super) async fn request(
    rules: &Arc<Rules>,
    document: &Document,
    client: usize,
    host: &impl Host,
    form: Vec<(String, String)>,
    passed_on: &PassedOn,
) -> Result<Tokens, TokenError> {
    let mut caller = Caller::configured(rules, client);
    caller.auth = rules
        .config
        .client
        .token_endpoint_auth_method
        .or(caller.auth);
    let asked = request_as(rules, document, caller, host, form, passed_on);
    asked.await.map_err(|error| match error {
        TokenError::Refused("invalid_client") => {
            error!(issuer = rules.issuer, client = caller.id, "the provider does not accept the client: compare client_id, client_secret and client_auth with what is registered there");
            TokenError::Client
        }
        TokenError::Refused(code) if is_of_client(code) => {
            error!(issuer = rules.issuer, client = caller.id, code, "the provider does not let the client do what it is configured for: see its grants there");
            TokenError::NotAllowed(code)
        }
        other => other,
    })
}

/// Asks the token endpoint for tokens by the grant in `form`.
///
/// # Errors
///
/// If the provider refuses, or cannot be used.
pub(super) async fn request_as(
    rules: &Arc<Rules>,
    document: &Document,
    caller: Caller<'_>,
    host: &impl Host,
    mut form: Vec<(String, String)>,
    passed_on: &PassedOn,
) -> Result<Tokens, TokenError> {
    let config = &rules.config.client;
    verify_parameters(rules, document)?;
    let names = config.token_post_args_names.as_deref().unwrap_or_default();
    let values = config.token_post_args_values.as_deref().unwrap_or_default();
    let configured: Vec<_> = names.iter().cloned().zip(values.iter().cloned()).collect();
    form.retain(|(name, _)| configured.iter().all(|(taken, _)| taken != name));
    form.extend(configured);
    add_missing(&mut form, passed_on.arguments.clone());
    let grant = form.iter().find(|(name, _)| name == "grant_type");
    let grant = grant.map(|(_, grant)| grant.clone()).unwrap_or_default();
    let headers: Vec<_> = rules
        .configured_headers
        .token
        .iter()
        .chain(&passed_on.headers)
        .cloned()
        .collect();
    let place = |document: &Document| Endpoint::Token.of(rules, document, caller.auth);
    // A code and most refresh tokens serve once: they are sent again only if nobody has taken them.
    let answered = provider::call(
        rules,
        host,
        document,
        place,
        provider::is_untaken,
        async |endpoint| {
            // How one grant does says nothing of the others: clients bring the credentials of some.
            let guarded = format!("{endpoint} {grant}");
            provider::guarded(rules, host, &guarded, async {
                let post = Post {
                    endpoint,
                    form: form.clone(),
                    headers: &headers,
                    accept: "application/json",
                    repeatable: Repeatable::Never,
                };
                let response = self::post(rules, document, caller, host, post).await?;
                let status = response.status();
                let explained = || is_missing(status) && is_named(refusal(response.body()));
                if status.is_success() || provider::refuses(status) || explained() {
                    return Ok(response);
                }
                Err(ProviderError::Status(status.as_u16()))
            })
            .await
        },
    );
    let answered = answered.await;
    let answered = answered.ok_or(ProviderError::Unusable("there is no token endpoint"))?;
    let answer = answered.inspect_err(|error| {
        warn!(issuer = rules.issuer, error = %chain(error), "the token endpoint failed");
    })?;
    if !answer.status().is_success() {
        return Err(refused(rules, &answer));
    }
    let mut tokens = read(answer.body(), host.now()).inspect_err(|error| {
        warn!(issuer = rules.issuer, %error, "the token endpoint's answer is unusable");
    })?;
    tokens.headers = replayed(rules, &grant, answer.headers());
    Ok(tokens)
}

/// What an answer means that brings no tokens.
fn refused(rules: &Rules, answer: &Response<Bytes>) -> TokenError {
    let (code, status) = (refusal(answer.body()), answer.status().as_u16());
    warn!(
        issuer = rules.issuer,
        status, code, "the token endpoint refused"
    );
    if is_for_now(code) {
        TokenError::Provider(ProviderError::Status(status))
    } else if explains(answer.status(), code) {
        TokenError::Refused(code)
    } else {
        TokenError::Unexplained(status)
    }
}

/// The headers of the token endpoint's answer that the client shall see (Kong 3.9, `token_headers_*`).
fn replayed(rules: &Rules, grant: &str, answer: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let config = &rules.config.client;
    let grants = config.token_headers_grants.as_deref();
    if grants.is_some_and(|grants| !grants.iter().any(|known| known.name() == grant)) {
        return Vec::new();
    }
    let prefix = config.token_headers_prefix.as_deref().unwrap_or_default();
    let wanted = config.token_headers_replay.iter().flatten();
    let shown = wanted.filter_map(|name| {
        let shown = HeaderName::try_from(format!("{prefix}{name}")).ok()?;
        Some((shown, answer.get_all(name)))
    });
    shown
        .flat_map(|(name, values)| {
            values
                .iter()
                .map(move |value| (name.clone(), value.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests;
