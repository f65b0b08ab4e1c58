//! Endpoints that a provider has moved: what is where they were says so, and they are called once more where they are.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use tracing::info;

use super::document::Document;
use super::error::ProviderError;
use super::rediscovery::{Reason, rediscover};
use super::{PATIENCE, within};
use crate::bundled::openid_connect::rules::Rules;
use crate::host::{FetchError, Host};

/// What became of a call.
type Answered = Result<Response<Bytes>, ProviderError>;

/// Whether there is no endpoint at all, as far as a status says: whatever was sent, nobody has taken it.
pub(in crate::bundled::openid_connect) fn is_missing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::GONE
    )
}

/// Whether nobody has taken what was sent, so that it may be sent elsewhere even if it serves once, as a code does.
pub(in crate::bundled::openid_connect) fn is_untaken(error: &ProviderError) -> bool {
    match error {
        ProviderError::Status(status) => StatusCode::from_u16(*status).is_ok_and(is_missing),
        // Not even the connection came about.
        ProviderError::Fetch(FetchError::Connect { .. } | FetchError::Untrusted { .. }) => true,
        _ => false,
    }
}

/// Whether the endpoint may be elsewhere by now.
pub(in crate::bundled::openid_connect) fn looks_moved(error: &ProviderError) -> bool {
    let is_redirect = |status: &u16| (300..400).contains(status);
    matches!(error, ProviderError::Status(status) if is_redirect(status)) || is_untaken(error)
}

/// Calls the endpoint that is at its `place` by `document`, and once more if it is elsewhere by now and what was sent may
/// be sent `again`. `None`: there is no such endpoint.
pub(in crate::bundled::openid_connect) async fn call(
    rules: &Arc<Rules>,
    host: &impl Host,
    document: &Document,
    place: impl Fn(&Document) -> Option<String>,
    again: impl Fn(&ProviderError) -> bool,
    call: impl AsyncFn(&str) -> Answered,
) -> Option<Answered> {
    let endpoint = place(document)?;
    let answered = call(&endpoint).await;
    let Err(error) = &answered else {
        return Some(answered);
    };
    let is_configured = || place(&Document::default()).as_ref() == Some(&endpoint);
    if !looks_moved(error) || is_configured() {
        return Some(answered);
    }
    let newer = rediscover(rules, host, document, Reason::Endpoint);
    // A provider that is not reached may hold nobody back a second time.
    let newer = match error {
        ProviderError::Fetch(_) => within(host, PATIENCE, newer).await,
        _ => newer.await,
    };
    let elsewhere = newer.ok().and_then(|newer| place(&newer));
    match elsewhere.filter(|elsewhere| *elsewhere != endpoint && again(error)) {
        Some(elsewhere) => {
            info!(
                issuer = rules.issuer,
                "an endpoint of the provider has moved"
            );
            Some(call(&elsewhere).await)
        }
        None => Some(answered),
    }
}
