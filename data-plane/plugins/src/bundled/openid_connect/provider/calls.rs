//! Calls to a provider's endpoints, each of which rests for a moment once it is out of reach.

use bytes::Bytes;
use http::{Request, Response, StatusCode};

use super::moved::is_missing;
use super::{ProviderError, Providers, random};
use crate::bundled::openid_connect::rules::Rules;
use crate::host::{FetchLimits, Host};

/// Failures in a row after which calls other than discovery are not even tried for a moment.
const TOLERATED_FAILURES: u32 = 3;

/// Most endpoints of one provider that are remembered to fail.
const MOST_ENDPOINTS: usize = 32;

/// Sends `request` to an `endpoint` of the provider, unless that rests. The answer is 200 or says that what was sent is not
/// taken.
pub(in crate::bundled::openid_connect) async fn fetched(
    rules: &Rules,
    host: &impl Host,
    endpoint: &str,
    request: Request<Bytes>,
    limits: FetchLimits,
) -> Result<Response<Bytes>, ProviderError> {
    guarded(rules, host, endpoint, async {
        let response = host
            .fetch(request, limits)
            .await
            .map_err(ProviderError::Fetch)?;
        let status = response.status();
        if status == StatusCode::OK || refuses(status) {
            Ok(response)
        } else {
            Err(ProviderError::Status(status.as_u16()))
        }
    })
    .await
}

/// Runs a call to an `endpoint` of the provider, unless that rests; remembers how it went. What is an answer to this one
/// call makes nobody else wait, so that no client shuts others out.
pub(in crate::bundled::openid_connect) async fn guarded<T>(
    rules: &Rules,
    host: &impl Host,
    endpoint: &str,
    call: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, ProviderError> {
    let providers = host.node_state::<Providers>();
    let key = rules.provider_key;
    {
        let now = host.now();
        let mut entries = providers.lock();
        if let Some(health) = entries.entry(key).or_default().failing.get_mut(endpoint) {
            if health.rests(TOLERATED_FAILURES, now) {
                return Err(health.resting());
            }
            if health.failures > TOLERATED_FAILURES {
                // This call finds out for all: the others rest for another while.
                health.failed_at = now;
            }
        }
    }
    let result = call.await;
    let mut entries = providers.lock();
    let failing = &mut entries.entry(key).or_default().failing;
    match &result {
        // What the gateway lacks says nothing of how the provider does.
        Err(ProviderError::Unarmed(_)) => {}
        Err(error) if error.is_on_the_way() => {
            if failing.len() >= MOST_ENDPOINTS && !failing.contains_key(endpoint) {
                let oldest = failing.iter().min_by_key(|(_, health)| health.failed_at);
                if let Some(oldest) = oldest.map(|(endpoint, _)| endpoint.clone()) {
                    failing.remove(&oldest);
                }
            }
            let health = failing.entry(endpoint.to_owned()).or_default();
            health.record(Some(error), host.now(), random(host));
        }
        Ok(_) | Err(_) => _ = failing.remove(endpoint),
    }
    drop(entries);
    result
}

/// Whether a status says that the provider does not take what was sent, which says nothing of how it
/// does: a client may have sent it. That there is no such endpoint is something else.
pub(in crate::bundled::openid_connect) fn refuses(status: StatusCode) -> bool {
    status.is_client_error()
        && !is_missing(status)
        && !matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}
