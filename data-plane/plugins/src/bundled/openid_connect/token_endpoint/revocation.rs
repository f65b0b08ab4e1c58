//! Takes tokens back at the provider.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::RETRY_AFTER;
use shared::telemetry::chain;
use tracing::{debug, warn};

use super::super::provider::{self, Document, ProviderError};
use super::super::rules::Rules;
use super::{Caller, Endpoint, Post, discovered};
use crate::host::{Host, Repeatable};

/// How often a provider that is busy is asked to revoke a token.
const ATTEMPTS: u32 = 3;

/// Longest wait for a provider that is busy, whatever it says.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Revokes tokens (RFC 7009), refresh token first, each again if the provider is busy or away (§2.2.1).
/// A failure is logged and changes nothing.
pub(in crate::bundled::openid_connect) async fn revoke(
    rules: &Arc<Rules>,
    document: &Document,
    client: usize,
    host: &impl Host,
    tokens: Vec<(&'static str, String)>,
) {
    let config = &rules.config.client;
    let mut caller = Caller::configured(rules, client);
    let offered = document.revocation_auth_methods.as_deref();
    caller.auth = config
        .revocation_endpoint_auth_method
        .or(caller.auth)
        .or_else(|| offered.map(|offered| discovered(Some(offered), caller)));
    let place = |document: &Document| Endpoint::Revocation.of(rules, document, caller.auth);
    for (hint, token) in tokens {
        for attempt in 1..=ATTEMPTS {
            let form = vec![
                (config.revocation_token_param_name.clone(), token.clone()),
                ("token_type_hint".to_owned(), hint.to_owned()),
            ];
            let ask = async |endpoint: &str| {
                let post = Post {
                    endpoint,
                    form: form.clone(),
                    headers: &[],
                    accept: "application/json",
                    repeatable: Repeatable::Always,
                };
                let response = super::post(rules, document, caller, host, post).await?;
                let status = response.status();
                if provider::is_missing(status) || status.is_redirection() {
                    return Err(ProviderError::Status(status.as_u16()));
                }
                Ok(response)
            };
            let again = provider::looks_moved;
            let answered = provider::call(rules, host, document, place, again, ask).await;
            let Some(answered) = answered else {
                return;
            };
            let wait = match answered {
                Ok(response) if response.status().is_success() => {
                    debug!(hint, "token revoked");
                    break;
                }
                Ok(response) => {
                    let status = response.status();
                    warn!(
                        issuer = rules.issuer,
                        hint,
                        status = status.as_u16(),
                        "revocation refused"
                    );
                    if provider::refuses(status) {
                        break;
                    }
                    wanted_wait(&response)
                }
                Err(error) => {
                    warn!(issuer = rules.issuer, hint, error = %chain(&error), "revocation failed");
                    None
                }
            };
            if attempt < ATTEMPTS {
                let wait = wait.unwrap_or(Duration::from_secs(2 << attempt));
                host.sleep(wait.min(LONGEST_WAIT)).await;
            }
        }
    }
}

/// How long a provider wants to be left alone, in its own words.
fn wanted_wait(response: &Response<Bytes>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(seconds.trim().parse().ok()?))
}
