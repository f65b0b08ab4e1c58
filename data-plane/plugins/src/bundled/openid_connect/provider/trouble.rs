//! Discovery that fails while what it said last serves on: for operators.

use shared::clock::UnixTime;
use shared::telemetry::chain;

use super::{Providers, TROUBLED};
use crate::bundled::openid_connect::rules::Rules;
use crate::filter::Trouble;
use crate::state::NodeStates;

/// What is wrong with the provider of `rules`, by what a node has in its `states`. Nothing where that was long ago: a provider
/// that nobody needs is not asked whether it is back.
pub(in crate::bundled::openid_connect) fn trouble(
    rules: &Rules,
    states: &NodeStates,
    now: UnixTime,
) -> Option<Trouble> {
    let providers = states.of::<Providers>();
    let entries = providers.lock();
    let entry = entries.get(&rules.provider_key)?;
    let discovery = &entry.discovery;
    let is_recent = now.saturating_since(discovery.failed_at) < TROUBLED;
    let failing = discovery.error.as_ref().filter(|_| is_recent);
    let error = failing.filter(|_| discovery.failures > 0)?;
    let document = entry.document.as_ref();
    Some(Trouble {
        issuer: rules.issuer.clone(),
        since: discovery.failing_since,
        reason: chain(error).to_string(),
        serves_from: document.map(|document| document.fetched_at),
    })
}
