//! Aggregated and distributed claims: claims that other sources vouch for (OpenID Connect Core §5.6.2).
//!
//! A source that does not answer, or whose answer nobody known has signed, adds nothing: what depends
//! on its claims is then refused for want of them. One that could not be asked is asked again by a later request.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderValue, Request, StatusCode};
use serde_json::Value;
use shared::clock::UnixTime;
use shared::digest::sha256;
use tracing::debug;

use super::jws::{Claims, Jws};
use super::provider::{self, Document};
use super::rules::{Rules, provider_url};
use super::verify::{PROVIDER_TOKEN, Verifier};
use crate::expiring::Expiring;
use crate::host::{FetchError, Host};

/// Most sources that are asked for one user.
const MOST_SOURCES: usize = 5;

/// Claims that only the provider itself speaks (OpenID Connect Core §2, §5.1).
const ITS_OWN: [&str; 10] = [
    "iss", "sub", "aud", "exp", "iat", "nbf", "nonce", "acr", "amr", "azp",
];

/// How long a source that could not be asked is left alone: nobody's requests wait for it one after the other.
pub(super) const PAUSE: Duration = Duration::from_secs(10);

/// Most sources that are known to be away.
const MOST_AWAY: usize = 1_000;

/// What sources add to a user's claims.
#[derive(Default)]
pub(super) struct Added {
    pub(super) claims: Claims,
    /// Whether all have answered, with something of use or not.
    pub(super) complete: bool,
}

shared::unsaid!(Added);

/// The sources that could not be asked of late, each until it is asked again.
#[derive(Debug, Default)]
struct Away(Mutex<Expiring<[u8; 32], (), MOST_AWAY>>);

impl Away {
    fn has(&self, source: &[u8; 32], now: UnixTime) -> bool {
        let away = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        away.get(source, now).is_some()
    }

    fn note(&self, source: [u8; 32], now: UnixTime) {
        let mut away = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        away.keep(source, (), now.saturating_add(PAUSE), now);
    }
}

/// What the sources that `claims` name add to them.
pub(super) async fn resolve(
    rules: &Rules,
    host: &impl Host,
    document: &Document,
    client: usize,
    claims: &Claims,
) -> Added {
    let mut added = Added {
        complete: true,
        ..Added::default()
    };
    let (Some(Value::Object(names)), Some(Value::Object(sources))) =
        (claims.get("_claim_names"), claims.get("_claim_sources"))
    else {
        return added;
    };
    for (name, source) in sources.iter().take(MOST_SOURCES) {
        let aggregated = source.get("JWT").and_then(Value::as_str);
        let token = if let Some(token) = aggregated {
            Some(token.to_owned())
        } else {
            let fetched = fetch(rules, host, source).await;
            added.complete &= fetched.is_ok();
            fetched.ok().flatten()
        };
        let found = token.and_then(|token| read(rules, host, document, client, &token));
        let Some(found) = found else {
            debug!(issuer = rules.issuer, "a source of claims is unusable");
            continue;
        };
        for (claim, value) in found {
            let is_its = names.get(&claim).and_then(Value::as_str) == Some(name.as_str());
            if is_its && !ITS_OWN.contains(&claim.as_str()) && !claims.contains_key(&claim) {
                added.claims.insert(claim, value);
            }
        }
    }
    added
}

/// A source could not be asked: it does not answer, or says that it cannot now.
struct NotAsked;

/// Asks a source that is at an endpoint of its own. `None`: there is nothing to be had of it.
async fn fetch(
    rules: &Rules,
    host: &impl Host,
    source: &Value,
) -> Result<Option<String>, NotAsked> {
    let Some(request) = request(rules, source) else {
        return Ok(None);
    };
    let away = host.node_state::<Away>();
    let name = sha256(request.uri().to_string().as_bytes());
    if away.has(&name, host.now()) {
        return Err(NotAsked);
    }
    // The answer is a token, and no JSON that holds one.
    let answered = host
        .fetch(request, provider::limits(rules, PROVIDER_TOKEN))
        .await;
    let fails =
        |status: StatusCode| status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    match answered {
        Ok(response) if response.status() == StatusCode::OK => {
            let text = str::from_utf8(response.body()).ok();
            Ok(text.map(|text| text.trim().to_owned()))
        }
        Ok(response) if !fails(response.status()) => Ok(None),
        // It will not be another time either.
        Err(FetchError::Url(_) | FetchError::Forbidden { .. } | FetchError::TooLarge { .. }) => {
            Ok(None)
        }
        Ok(_) | Err(_) => {
            away.note(name, host.now());
            Err(NotAsked)
        }
    }
}

fn request(rules: &Rules, source: &Value) -> Option<Request<Bytes>> {
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
    Some(request)
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
        return Some(Jws::parse(token, PROVIDER_TOKEN).ok()?.claims);
    }
    let verifier = Verifier {
        rules,
        document,
        client,
        now: host.now(),
    };
    verifier.of_source(token)
}
