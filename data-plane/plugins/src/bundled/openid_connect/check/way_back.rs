//! Whether the provider would lead a browser back: it is asked as one would ask that may show its user nothing
//! (`prompt=none`, OpenID Connect Core §3.1.2.1). Only to a redirect URI that is registered does it say no.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{ACCEPT, LOCATION};
use http::{HeaderValue, Request};
use shared::digest::sha256;
use url::Url;

use super::{Findings, reached, tell};
use crate::bundled::openid_connect::authorization_request;
use crate::bundled::openid_connect::page;
use crate::bundled::openid_connect::provider::{self, Document, ProviderError};
use crate::bundled::openid_connect::rules::Rules;
use crate::bundled::openid_connect::token_endpoint::{self, Endpoint};
use crate::host::Host;

/// Longest answer that is read: a page for signing in, if it is none of those that are wanted.
const LONGEST: usize = 1024 * 1024;

/// What a provider says that has understood the request, and would have to show its user something.
const SILENT: [&str; 5] = [
    "login_required",
    "interaction_required",
    "consent_required",
    "account_selection_required",
    "access_denied",
];

pub(super) async fn check(
    rules: &Arc<Rules>,
    document: &Document,
    host: &impl Host,
    position: usize,
    findings: &mut Findings,
) {
    let Some(back) = &rules.client(position).redirect_uri else {
        return;
    };
    if authorization_request::is_signed(rules, document) {
        return;
    }
    if authorization_request::pushes(rules, document.requires_pushed_requests) {
        return push(rules, document, host, (position, back), findings).await;
    }
    let Some(location) = ask(rules, document, host, position, back).await else {
        return;
    };
    let home = |url: &Url| (url.origin(), url.path().to_owned());
    let registered = Url::parse(back).ok().as_ref().map(home);
    let Some(location) = location.filter(|location| Some(home(location)) == registered) else {
        findings.warn(
            "redirect_uri",
            &format!("the provider does not lead a sign-in back to {back}"),
            "Register redirect_uri there, letter by letter as it is configured.",
        );
        return;
    };
    let error = location.query_pairs().find(|(name, _)| name == "error");
    match error.map(|(_, error)| error.into_owned()) {
        Some(error) if !SILENT.contains(&error.as_str()) => {
            let error: String = error
                .chars()
                .filter(|c| c.is_ascii_lowercase() || *c == '_')
                .take(60)
                .collect();
            findings.fail(
                "redirect_uri",
                &format!("the provider answers {error} to a sign-in"),
                "Compare scopes, response_type and response_mode with what the client may ask for at the provider.",
            );
        }
        _ => findings.pass("redirect_uri", "the provider leads sign-ins back"),
    }
}

/// Whether the provider takes a request that is pushed to it (RFC 9126 §2).
async fn push(
    rules: &Arc<Rules>,
    document: &Document,
    host: &impl Host,
    (position, back): (usize, &str),
    findings: &mut Findings,
) {
    let auth = rules.client(position).auth;
    if Endpoint::PushedRequest.of(rules, document, auth).is_none() {
        // That is told of already.
        return;
    }
    let name = "pushed_authorization_request";
    let arguments = arguments(rules, position, back);
    match token_endpoint::push(rules, document, position, host, arguments).await {
        Ok(_) => findings.pass(name, "the provider takes a request that is pushed to it"),
        Err(ProviderError::Status(status)) => {
            let fix = match status {
                400 | 401 | 403 => {
                    "Compare client_id, client_secret, client_auth, redirect_uri and scopes with the client at the provider."
                }
                _ => {
                    "See whether pushed_authorization_request_endpoint is the provider's, and what its log says."
                }
            };
            let detail = format!("the provider answers {status} to a request that is pushed to it");
            findings.fail(name, &detail, fix);
        }
        Err(error) => {
            let fix = "See whether pushed_authorization_request_endpoint is the provider's.";
            findings.fail(name, &tell(&error), reached::fix(&error, fix));
        }
    }
}

/// Where the provider leads, if anywhere. `None`: that cannot be found out from here.
async fn ask(
    rules: &Rules,
    document: &Document,
    host: &impl Host,
    position: usize,
    back: &str,
) -> Option<Option<Url>> {
    let configured = rules.config.client.authorization_endpoint.as_ref();
    let endpoint = configured.or(document.authorization_endpoint.as_ref())?;
    let endpoint = Url::parse(endpoint).ok()?;
    let url = page::url(&endpoint, &arguments(rules, position, back));
    let mut request = Request::get(provider::target(&url).ok()?)
        .body(Bytes::new())
        .ok()?;
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("text/html"));
    let limits = provider::limits(rules, LONGEST);
    let answer = host.fetch(request, limits).await.ok()?;
    if answer.status().is_server_error() {
        return None;
    }
    let leads = answer.headers().get(LOCATION);
    let leads = leads.filter(|_| answer.status().is_redirection());
    let leads = leads.and_then(|leads| endpoint.join(leads.to_str().ok()?).ok());
    Some(leads)
}

/// A request that may show its user nothing.
fn arguments(rules: &Rules, position: usize, back: &str) -> Vec<(String, String)> {
    let sign_in = &rules.config.sign_in;
    let scopes = sign_in.scope_words().join(" ");
    let challenge = URL_SAFE_NO_PAD.encode(sha256(b"a configuration is checked, nobody signs in"));
    let mut arguments = vec![
        ("response_type", "code"),
        ("client_id", &rules.client(position).id),
        ("redirect_uri", back),
        ("state", "configuration-check"),
        ("nonce", "configuration-check"),
        ("prompt", "none"),
    ];
    if !scopes.is_empty() {
        arguments.push(("scope", &scopes));
    }
    if sign_in.require_proof_key_for_code_exchange != Some(false) {
        arguments.push(("code_challenge", &challenge));
        arguments.push(("code_challenge_method", "S256"));
    }
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    arguments.iter().map(owned).collect()
}
