//! Further keys that tokens may be signed with (Kong 3.9, `extra_jwks_uris`): asked for beside the provider's own, so that a
//! server of theirs that fails or hangs takes none of these away.

use std::time::Duration;

use futures::future::join_all;
use shared::telemetry::chain;
use shared::types::Set;
use tracing::warn;

use super::document::{self, Document, limits};
use super::error::ProviderError;
use super::keys::Keys;
use super::within;
use crate::bundled::openid_connect::rules::Rules;
use crate::host::Host;

/// A set of keys and how long it is fresh.
type Found = Result<(Keys, Option<Duration>), ProviderError>;

/// Fetches each set, and waits for none as long as for the provider itself.
pub(super) async fn fetch(rules: &Rules, host: &impl Host) -> Vec<Found> {
    let limit = limits(rules, 0).timeout / 2;
    join_all(uris(rules).map(|uri| within(host, limit, document::keys(rules, host, uri)))).await
}

/// Adds what was `found` to `document`. Of a set that is away, what was known `before` is good; without it the provider's
/// own keys serve, and a token that needs one of these asks again.
///
/// # Errors
///
/// If there are no others and one is away.
pub(super) fn add(
    rules: &Rules,
    document: &mut Document,
    found: Vec<Found>,
    before: Option<&Document>,
) -> Result<(), ProviderError> {
    for (uri, found) in uris(rules).zip(found) {
        let known = before.and_then(|before| before.further.get(uri));
        let (keys, fresh_for) = match (found, known) {
            (Ok(found), _) => found,
            (Err(error), None) if rules.config.provider.using_pseudo_issuer => return Err(error),
            (Err(error), known) => {
                warn!(issuer = rules.issuer, uri, error = %chain(&error), "there are no further keys");
                (known.cloned().unwrap_or_default(), Some(Duration::ZERO))
            }
        };
        document.keys.extend(keys.clone());
        document.further.insert(uri.clone(), keys);
        document.fresh_for = [document.fresh_for, fresh_for].into_iter().flatten().min();
    }
    Ok(())
}

fn uris(rules: &Rules) -> impl Iterator<Item = &String> {
    let uris = rules.config.provider.extra_jwks_uris.iter();
    uris.flat_map(Set::as_slice)
}
