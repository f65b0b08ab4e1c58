//! The exchange hook: an endpoint that trades a valid access token for the one that goes upstream
//! (Kong 3.9, `token_exchange_endpoint`; not RFC 8693).

use std::sync::Arc;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, StatusCode};
use shared::telemetry::chain;
use tracing::warn;

use super::answers::{Answers, Given, Namer, Outcome};
use super::failure::Failure;
use super::jws;
use super::provider::{self, ProviderError};
use super::rules::Rules;
use crate::host::Host;

/// Longest token that is taken, in bytes. It is all that the endpoint answers, and goes upstream in a header: no server takes
/// longer heads.
const LIMIT: usize = 64 * 1024;

/// A token that was traded for another.
pub(super) struct Exchanged(pub(super) String);

impl std::fmt::Debug for Exchanged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exchanged")
    }
}

/// What `token` is traded for.
///
/// # Errors
///
/// If the endpoint refuses or fails.
pub(super) async fn exchange(
    rules: &Arc<Rules>,
    host: &impl Host,
    endpoint: &str,
    token: &str,
) -> Outcome<Exchanged> {
    if !rules.config.provider.cache_token_exchange {
        let given = run(rules, host, endpoint, token).await;
        return given.map(|(exchanged, _)| Arc::new(exchanged));
    }
    let key = Namer::new(rules, "token exchange")
        .with(endpoint.as_bytes())
        .with(token.as_bytes())
        .finish();
    let answers = host.node_state::<Answers<Exchanged>>();
    let (its_rules, its_host) = (Arc::clone(rules), host.clone());
    let (endpoint, token) = (endpoint.to_owned(), token.to_owned());
    let asking = async move { run(&its_rules, &its_host, &endpoint, &token).await };
    answers.ask(rules, host, key, asking).await
}

async fn run(rules: &Rules, host: &impl Host, endpoint: &str, token: &str) -> Given<Exchanged> {
    let failed = |error: &ProviderError| {
        warn!(issuer = rules.issuer, error = %chain(error), "token exchange failed");
        error.failure()
    };
    let unusable = ProviderError::Unusable;
    let mut request = Request::post(endpoint)
        .body(Bytes::new())
        .map_err(|_| failed(&unusable("the exchange endpoint cannot be asked")))?;
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| failed(&unusable("the token is no header value")))?;
    value.set_sensitive(true);
    request.headers_mut().insert(AUTHORIZATION, value);
    let limits = provider::limits(rules, LIMIT);
    let asked = provider::fetched(rules, host, endpoint, request, limits);
    let response = asked.await.map_err(|error| failed(&error))?;
    if response.status() != StatusCode::OK {
        return Err(Failure::refused(
            "exchange_refused",
            "the exchange endpoint refused the token",
        ));
    }
    let exchanged = str::from_utf8(response.body()).unwrap_or_default().trim();
    if exchanged.is_empty() || !exchanged.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(failed(&unusable("the exchange endpoint gave no token")));
    }
    // No longer than either of the two lives.
    let ends = [token, exchanged].into_iter().filter_map(jws::own_end);
    let until = rules.remembered_until(ends.min(), host.now());
    Ok((Exchanged(exchanged.to_owned()), until))
}
