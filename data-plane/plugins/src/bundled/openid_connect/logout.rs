//! Logout: the local session first, then the provider's (OpenID Connect RP-Initiated Logout 1.0).
//!
//! The session's cookie is taken back and the session revoked, so that a copy of the cookie is of no
//! use on any node.

mod backchannel;
mod frontchannel;
mod returned;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::{HOST, ORIGIN};
use http::{Method, StatusCode};
use shared::entity::Revocation;
use shared::telemetry::chain;
use url::Url;
use uuid::Uuid;

use super::config::LogoutMethod;
use super::config::preset::Preset;
use super::cookie::Jar;
use super::failure::{Failure, LOGOUT_FORGED};
use super::loops;
use super::opened::{self, Opened, Sought};
use super::page;
use super::provider::{self, Document};
use super::request;
use super::rules::{Ends, Rules};
use super::session::Session;
use super::session_store;
use super::token_endpoint;
use crate::answer;
use crate::exchange::Exchange;
use crate::filter::Flow;
use crate::host::Host;
use crate::sessions::revocations::end_everywhere;

/// Longest ID token that is sent along as a hint.
const LONGEST_HINT: usize = 64 * 1024;

/// Most sessions of which a node remembers that their tokens were revoked.
const MOST_ENDED: usize = 100_000;

/// Answers what the provider asks for by itself. `None`: the request is no such thing.
pub(super) async fn from_provider(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
) -> Option<Flow> {
    let logout = &rules.config.logout;
    let asks = |suffix: &Option<String>| {
        let suffix = suffix.as_deref().filter(|suffix| !suffix.is_empty());
        suffix.is_some_and(|suffix| exchange.path.ends_with(suffix))
    };
    if asks(&logout.backchannel_logout_uri_suffix) {
        return Some(Flow::Answer(
            backchannel::answer(rules, exchange, host, jar).await,
        ));
    }
    if asks(&logout.frontchannel_logout_uri_suffix) {
        return Some(Flow::Answer(
            frontchannel::answer(rules, exchange, host, jar).await,
        ));
    }
    None
}

/// Answers a browser without a session that comes back from the provider's logout.
pub(super) fn returned(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
) -> Option<Flow> {
    returned::answer(rules, exchange, host, jar)
}

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
        Some(name) if method != LogoutMethod::Get => {
            request::has_body_argument(exchange, name).await
        }
        _ => false,
    }
}

/// Ends the session that was `sought`. Where nobody could say whether there is one, it ends without a look at it: what
/// fails elsewhere leaves nobody signed in here who wants to go.
///
/// # Errors
///
/// If another site made the browser ask for it.
pub(super) async fn run(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    sought: &Result<Sought, Failure>,
) -> Result<Flow, Failure> {
    if request::is_prefetch(&exchange.request.headers) {
        // Nobody has asked for it yet.
        return Ok(Flow::Answer(backchannel::plain(StatusCode::NO_CONTENT)));
    }
    let session = match sought {
        Ok(Sought::Open(open)) => Some(&**open),
        _ => None,
    };
    match origin(exchange) {
        Origin::Ours => {}
        Origin::Followed => return Ok(Flow::Answer(ask(exchange))),
        Origin::Foreign => {
            let mut failure =
                Failure::forbidden(LOGOUT_FORGED, "another site asked for the logout");
            failure.error = None;
            return Err(failure);
        }
    }
    opened::destroy(rules, exchange, host, jar);
    loops::forget(rules, exchange, jar);
    end_sessions(rules, exchange, host, jar, sought).await;
    let client = match session {
        Some(open) => open.session.client,
        None => request::client(rules, exchange).await,
    };
    let document = provider::document(rules, host).await.ok();
    if let Some(open) = session
        && rules.config.logout.logout_revoke
    {
        revoke(rules, host, client, &open.session);
    }
    let after = rules.client(client).logout_redirect_uri.as_deref();
    let Some(endpoint) = end_session_endpoint(rules, document.as_deref()) else {
        let known = document
            .as_ref()
            .and_then(|document| document.authorization_endpoint.as_deref());
        let own = known.and_then(|known| own_logout(rules, known, client, after));
        return Ok(Flow::Answer(without_endpoint(
            exchange,
            own.as_deref().or(after),
        )));
    };
    let mut arguments = Vec::new();
    let hint = session.and_then(|open| open.session.id_token.as_deref());
    if let Some(hint) = hint.filter(|hint| hint.len() <= LONGEST_HINT) {
        arguments.push(("id_token_hint".to_owned(), hint.to_owned()));
    }
    let id = &rules.client(client).id;
    if !id.is_empty() {
        arguments.push(("client_id".to_owned(), id.clone()));
    }
    if let Some(after) = after {
        arguments.push(("post_logout_redirect_uri".to_owned(), after.to_owned()));
        if let Some(state) = returned::begin(rules, exchange, host) {
            arguments.push(("state".to_owned(), state));
        }
    }
    Ok(Flow::Answer(to_provider(exchange, &endpoint, arguments)))
}

/// Ends the sessions of a browser on all nodes.
async fn end_sessions(
    rules: &Rules,
    exchange: &Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    sought: &Result<Sought, Failure>,
) {
    let now = host.now();
    let ring = &exchange.environment.session_keys;
    let ids = match (sought, &rules.storage) {
        (Ok(Sought::Open(open)), _) => vec![open.session.id.clone()],
        (Err(_), Some(_)) => session_store::tickets(rules, ring, jar, now)
            .map(|(_, id)| id)
            .collect(),
        _ => Vec::new(),
    };
    for id in ids {
        let revocation = Revocation {
            id: Revocation::session(&id),
            before: Revocation::FOR_GOOD,
            expires_at: rules.forgotten_at(Ends::Session, ring, now),
        };
        end_everywhere(host, revocation).await;
    }
}

/// Where the provider ends its own session, if it can be asked to (OpenID Connect RP-Initiated Logout §2).
fn end_session_endpoint(rules: &Rules, document: Option<&Document>) -> Option<Url> {
    let configured = rules.config.client.end_session_endpoint.as_deref();
    let discovered = document.and_then(|document| document.end_session_endpoint.as_deref());
    // Cognito discovers one that takes arguments of its own.
    let cognito = rules.config.provider.preset == Some(Preset::Cognito);
    let endpoint = configured.or(discovered.filter(|_| !cognito))?;
    Url::parse(endpoint).ok()
}

/// The logout of a provider that has one with arguments of its own: Cognito's and Auth0's, beside their authorization
/// endpoints. The latter's is for tenants that discover none.
fn own_logout(rules: &Rules, known: &str, client: usize, after: Option<&str>) -> Option<String> {
    let (path, back) = match rules.config.provider.preset? {
        // It takes nobody who is not to come back.
        Preset::Cognito => ("/logout", ("logout_uri", Some(after?))),
        Preset::Auth0 => ("/v2/logout", ("returnTo", after)),
        _ => return None,
    };
    let mut url = Url::parse(known).ok()?;
    url.set_path(path);
    url.set_query(None);
    let is_it = |after: &Url| after.origin() == url.origin() && after.path() == path;
    if let Some(after) = after
        && Url::parse(after).as_ref().is_ok_and(is_it)
    {
        return Some(after.to_owned()); // As Kong's guide has it.
    }
    let id = &rules.client(client).id;
    let (name, target) = back;
    let target = target.map(|target| (name, target));
    url.query_pairs_mut()
        .append_pair("client_id", id)
        .extend_pairs(target);
    Some(url.into())
}

/// What follows where the provider has no logout that we know of.
fn without_endpoint(exchange: &Exchange<'_>, target: Option<&str>) -> http::Response<bytes::Bytes> {
    match target {
        Some(target) => answer::redirect(target, &exchange.request_id),
        None if page::wanted(&exchange.request.headers) => {
            let text = "You are signed out here. At the OpenID provider you are still signed in.";
            page::page(StatusCode::OK, "Signed out", &[text], &exchange.request_id)
        }
        None => answer::message(StatusCode::OK, "OK", &exchange.request_id),
    }
}

/// Sends the browser to the provider's logout, by a form if the URL would be too long.
fn to_provider(
    exchange: &Exchange<'_>,
    endpoint: &Url,
    mut arguments: Vec<(String, String)>,
) -> http::Response<bytes::Bytes> {
    let mut url = page::url(endpoint, &arguments);
    if url.len() > page::LONGEST_URL {
        if page::wanted(&exchange.request.headers) {
            return page::form(page::beside(endpoint, &arguments).as_str(), &arguments);
        }
        arguments.retain(|(name, _)| name != "id_token_hint");
        url = page::url(endpoint, &arguments);
    }
    answer::redirect(&url, &exchange.request_id)
}

/// Where the wish to log out comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Origin {
    /// From a page of ours, or from no page at all.
    Ours,
    /// From a link of another site or host that the user followed.
    Followed,
    /// From another site or host, without its user's doing as far as we can tell.
    Foreign,
}

/// Tells a logout that another site, or another host of this one, makes a browser ask for (Fetch Metadata §2.3; `Origin`
/// where that is missing, or says no more than that it is a host of the same domain: it is somebody else's, as far as we
/// know). `Referer` is no witness: it names the first of those who sent the browser here.
pub(super) fn origin(exchange: &Exchange<'_>) -> Origin {
    let headers = &exchange.request.headers;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let site = text("sec-fetch-site");
    let host = |authority: &str| {
        let url = Url::parse(&format!("http://{authority}")).ok()?;
        url.host_str().map(str::to_owned)
    };
    let is_ours = match (site, text(ORIGIN.as_str())) {
        (Some("same-origin" | "none"), _) | (None, None) => true,
        (Some("cross-site"), _) | (Some(_), None) => false,
        (_, Some(origin)) => {
            let from = Url::parse(origin).ok();
            let from = from.as_ref().and_then(Url::host_str);
            let ours = host(&exchange.client.authority)
                .or_else(|| host(text(HOST.as_str()).unwrap_or_default()));
            from.is_some() && from == ours.as_deref()
        }
    };
    let followed = text("sec-fetch-user") == Some("?1");
    match exchange.request.method {
        _ if is_ours => Origin::Ours,
        Method::GET if followed => Origin::Followed,
        _ => Origin::Foreign,
    }
}

/// Asks a user who followed a link of another site whether they mean it.
fn ask(exchange: &Exchange<'_>) -> http::Response<bytes::Bytes> {
    let uri = &exchange.request.uri;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    // Two slashes would lead to another host.
    let target = format!("/{}", target.trim_start_matches(['/', '\\']));
    let text = "Another site asks to sign you out.";
    page::question("Sign out?", text, &target, "Sign out")
}

/// Revokes the tokens of a session that the provider has ended, when its browser shows them: before, the
/// gateway does not have them (Back-Channel Logout 1.0 §2.7). Each session once on a node.
pub(super) fn ended_elsewhere(rules: &Arc<Rules>, host: &impl Host, open: &Opened) {
    let logout = &rules.config.logout;
    if !logout.logout_revoke
        || logout.backchannel_logout_uri_suffix.is_none()
        || !open.is_ended_by_provider(host.revocations())
    {
        return;
    }
    let ended = host.node_state::<Ended>();
    let mut known = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= MOST_ENDED {
        known.clear();
    }
    if known.insert(Revocation::session(&open.session.id)) {
        revoke(rules, host, open.session.client, &open.session);
    }
}

/// Revokes the tokens that a session got while it was ended: the logout knew only those before.
pub(super) fn ended_meanwhile(rules: &Arc<Rules>, host: &impl Host, session: &Session) {
    if rules.config.logout.logout_revoke {
        revoke(rules, host, session.client, session);
    }
}

/// The sessions whose tokens were revoked when they were shown again.
#[derive(Debug, Default)]
struct Ended(Mutex<HashSet<Uuid>>);

/// Revokes the session's tokens in the background: a slow provider does not hold back the logout.
fn revoke(rules: &Arc<Rules>, host: &impl Host, client: usize, session: &Session) {
    let logout = &rules.config.logout;
    let mut tokens = Vec::new();
    if let Some(token) = session
        .refresh_token
        .clone()
        .filter(|_| logout.logout_revoke_refresh_token)
    {
        tokens.push(("refresh_token", token));
    }
    if logout.logout_revoke_access_token {
        tokens.push(("access_token", session.access_token.clone()));
    }
    let (rules, its_host) = (Arc::clone(rules), host.clone());
    host.spawn(Box::pin(async move {
        let configured = rules.config.client.revocation_endpoint.as_ref();
        match provider::document_for(&rules, &its_host, configured).await {
            Ok(document) => {
                token_endpoint::revoke(&rules, &document, client, &its_host, tokens).await;
            }
            Err(error) => {
                tracing::warn!(issuer = rules.issuer, error = %chain(&error), "revocation failed");
            }
        }
    }));
}
