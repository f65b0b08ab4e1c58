//! Aggregated and distributed claims: claims that other sources vouch for (OpenID Connect Core §5.6.2).
//!
//! A source that does not answer, or whose answer nobody known has signed, adds nothing: what depends
//! on its claims is then refused for want of them.

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderValue, Request, StatusCode};
use serde_json::Value;
use tracing::debug;

use super::jws::{Claims, Jws};
use super::provider::{self, Document};
use super::rules::{Rules, provider_url};
use super::verify::Verifier;
use crate::host::Host;

/// Longest answer of a source, in bytes.
const LIMIT: usize = 64 * 1024;

/// Most sources that are asked for one user.
const MOST_SOURCES: usize = 5;

/// Claims that only the provider itself speaks (OpenID Connect Core §2, §5.1).
const ITS_OWN: [&str; 10] = [
    "iss", "sub", "aud", "exp", "iat", "nbf", "nonce", "acr", "amr", "azp",
];

/// What the sources that `claims` name add to them.
pub(super) async fn resolve(
    rules: &Rules,
    host: &impl Host,
    document: &Document,
    client: usize,
    claims: &Claims,
) -> Claims {
    let mut added = Claims::new();
    let (Some(Value::Object(names)), Some(Value::Object(sources))) =
        (claims.get("_claim_names"), claims.get("_claim_sources"))
    else {
        return added;
    };
    for (name, source) in sources.iter().take(MOST_SOURCES) {
        let token = match source.get("JWT").and_then(Value::as_str) {
            Some(token) => Some(token.to_owned()),
            None => fetch(rules, host, source).await,
        };
        let found = token.and_then(|token| read(rules, host, document, client, &token));
        let Some(found) = found else {
            debug!(issuer = rules.issuer, "a source of claims adds nothing");
            continue;
        };
        for (claim, value) in found {
            let is_its = names.get(&claim).and_then(Value::as_str) == Some(name.as_str());
            if is_its && !ITS_OWN.contains(&claim.as_str()) && !claims.contains_key(&claim) {
                added.insert(claim, value);
            }
        }
    }
    added
}

/// Asks a source that is at an endpoint of its own.
async fn fetch(rules: &Rules, host: &impl Host, source: &Value) -> Option<String> {
    let endpoint = source.get("endpoint")?.as_str()?;
    provider_url(endpoint, rules.config.provider.allow_insecure_http).ok()?;
    let mut request = Request::get(endpoint).body(Bytes::new()).ok()?;
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/jwt"));
    if let Some(token) = source.get("access_token").and_then(Value::as_str) {
        let mut token = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        token.set_sensitive(true);
        headers.insert(AUTHORIZATION, token);
    }
    let response = host
        .fetch(request, provider::limits(rules, LIMIT))
        .await
        .ok()?;
    if response.status() != StatusCode::OK {
        return None;
    }
    Some(str::from_utf8(response.body()).ok()?.trim().to_owned())
}

/// The claims of a source's JWT. Its keys are the provider's, or those of `extra_jwks_uris`, which is
/// where an operator names the issuers of sources.
fn read(
    rules: &Rules,
    host: &impl Host,
    document: &Document,
    client: usize,
    token: &str,
) -> Option<Claims> {
    if !rules.config.credentials.verify_signature {
        return Some(Jws::parse(token, LIMIT).ok()?.claims);
    }
    let verifier = Verifier {
        rules,
        document,
        client,
        now: host.now(),
    };
    verifier.of_source(token)
}
