//! Logout: the local session first, then the provider's (OpenID Connect RP-Initiated Logout 1.0).

use std::sync::Arc;

use http::{Method, StatusCode};
use url::Url;

use super::config::LogoutMethod;
use super::cookie::Jar;
use super::failure::Failure;
use super::loops;
use super::opened::{self, Opened};
use super::provider;
use super::request;
use super::rules::Rules;
use super::token_endpoint;
use crate::answer;
use crate::exchange::Exchange;
use crate::filter::Flow;
use crate::host::Host;

/// Longest ID token that is sent along as a hint: URLs have limits.
const LONGEST_HINT: usize = 6 * 1024;

/// Whether the request means logout (Kong 3.9, `logout_*`).
pub(super) async fn asked_for(rules: &Rules, exchange: &mut Exchange<'_>) -> bool {
    let logout = &rules.config.logout;
    if logout.logout_query_arg.is_none()
        && logout.logout_post_arg.is_none()
        && logout.logout_uri_suffix.is_none()
    {
        return false;
    }
    let method = match exchange.request.method {
        Method::GET => LogoutMethod::Get,
        Method::POST => LogoutMethod::Post,
        Method::DELETE => LogoutMethod::Delete,
        _ => return false,
    };
    if !logout
        .logout_methods
        .as_deref()
        .unwrap_or_default()
        .contains(&method)
    {
        return false;
    }
    let suffix = logout
        .logout_uri_suffix
        .as_deref()
        .filter(|suffix| !suffix.is_empty());
    if suffix.is_some_and(|suffix| exchange.path.ends_with(suffix)) {
        return true;
    }
    if let Some(name) = &logout.logout_query_arg
        && request::query(exchange).any(|(found, _)| found == *name)
    {
        return true;
    }
    match &logout.logout_post_arg {
        Some(name) if method == LogoutMethod::Post => request::body_arguments(exchange)
            .await
            .iter()
            .any(|(found, _)| found == name),
        _ => false,
    }
}

/// Ends the session.
///
/// # Errors
///
/// If another site made the browser ask for it.
pub(super) async fn run(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    session: Option<&Opened>,
) -> Result<Flow, Failure> {
    if forged(exchange) {
        let mut failure = Failure::forbidden("logout_forged", "another site asked for the logout");
        failure.error = None;
        return Err(failure);
    }
    opened::destroy(rules, exchange, jar);
    loops::forget(rules, exchange, jar);
    let client = match session {
        Some(open) => open.session.client,
        None => request::client(rules, exchange).await,
    };
    let document = provider::document(rules, host).await.ok();
    if let Some(open) = session
        && rules.config.logout.logout_revoke
    {
        revoke(rules, host, client, open);
    }
    let after = rules.client(client).logout_redirect_uri.as_deref();
    let endpoint = rules
        .config
        .client
        .end_session_endpoint
        .as_deref()
        .or(document
            .as_ref()
            .and_then(|document| document.end_session_endpoint.as_deref()));
    let target = match endpoint.and_then(|endpoint| Url::parse(endpoint).ok()) {
        Some(mut url) => {
            let hint = session.and_then(|open| open.session.id_token.as_deref());
            let mut arguments = url.query_pairs_mut();
            if let Some(hint) = hint.filter(|hint| hint.len() <= LONGEST_HINT) {
                arguments.append_pair("id_token_hint", hint);
            }
            let id = &rules.client(client).id;
            if !id.is_empty() {
                arguments.append_pair("client_id", id);
            }
            if let Some(after) = after {
                arguments.append_pair("post_logout_redirect_uri", after);
            }
            drop(arguments);
            Some(url.into())
        }
        None => after.map(str::to_owned),
    };
    Ok(Flow::Answer(match target {
        Some(target) => answer::redirect(&target, &exchange.request_id),
        None => answer::message(StatusCode::OK, "OK", &exchange.request_id),
    }))
}

/// Whether a page of another site sent the request without its user's doing (Fetch Metadata).
fn forged(exchange: &Exchange<'_>) -> bool {
    let headers = &exchange.request.headers;
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
    is("sec-fetch-site", "cross-site")
        && !(exchange.request.method == Method::GET && is("sec-fetch-user", "?1"))
}

/// Revokes the session's tokens in the background: a slow provider does not hold back the logout.
fn revoke(rules: &Arc<Rules>, host: &impl Host, client: usize, open: &Opened) {
    let logout = &rules.config.logout;
    let mut tokens = Vec::new();
    if let Some(token) = open
        .session
        .refresh_token
        .clone()
        .filter(|_| logout.logout_revoke_refresh_token)
    {
        tokens.push(("refresh_token", token));
    }
    if logout.logout_revoke_access_token {
        tokens.push(("access_token", open.session.access_token.clone()));
    }
    let (rules, its_host) = (Arc::clone(rules), host.clone());
    host.spawn(Box::pin(async move {
        match provider::document(&rules, &its_host).await {
            Ok(document) => token_endpoint::revoke(&rules, &document, client, &its_host, tokens).await,
            Err(error) => {
                tracing::warn!(issuer = rules.issuer, error = %provider::chain(&error), "revocation failed");
            }
        }
    }));
}
