//! The providers that a node talks to: what they say of themselves, cached; how they do, remembered.
//!
//! ```text
//! request ─► copy of this core (1 s) ─► copy of the node ─► one fetch at a time
//! ```
//!
//! A copy that has aged is still used while it is fetched anew, and so is what the process before has kept. A provider that failed rests for a
//! moment before it is asked again, and then by one request that does not wait for long: a provider
//! that hangs holds nobody back a second time.

mod calls;
mod document;
mod entry;
mod error;
mod further;
mod judged;
mod keys;
mod moved;
mod rediscovery;
mod trouble;

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{Either, select};
use shared::clock::UnixTime;
use shared::telemetry::chain;
use tracing::warn;

pub(super) use calls::{fetched, guarded, refuses};
pub(super) use document::{Document, Fetched, limits, target};
pub(super) use error::ProviderError;
pub(super) use judged::{Unaccepted, judged};
pub(super) use keys::Key;
pub(super) use moved::{call, is_missing, is_untaken, looks_moved};
pub(super) use rediscovery::{Reason, rediscover};
pub(super) use trouble::trouble;

use super::rules::Rules;
use super::single_flight::Flights;
use crate::host::Host;
pub(super) use entry::EMPTIED;
use entry::{Entry, Health};

/// How long a core uses its copy without a look at the node's.
const CORE_COPY: Duration = Duration::from_secs(1);

/// How long a document is used whatever its server says.
const SHORTEST_LIFETIME: Duration = Duration::from_mins(1);

/// How much longer it is used while no newer one is to be had. It ends: what a provider has withdrawn meanwhile, a key
/// above all, is not good for ever for somebody who keeps this node from hearing of that.
pub(super) const LONGEST_KEPT: Duration = Duration::from_hours(24);

/// How long a request waits for a provider that failed before.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long failed discovery says so to operators: whether the provider is back, only requests find out.
const TROUBLED: Duration = Duration::from_mins(10);

/// How long a failed call says that the provider fails: an endpoint may be asked no more.
const TELLING: Duration = Duration::from_mins(1);

/// Most providers that a node remembers.
const MOST_PROVIDERS: usize = 1024;

type Outcome = Result<Arc<Document>, ProviderError>;

/// Where the outcome of a fetch arrives.
type Flight = futures::channel::oneshot::Receiver<Outcome>;

/// The providers of a node.
#[derive(Debug, Default)]
struct Providers {
    entries: Mutex<HashMap<[u8; 32], Entry>>,
    flights: Arc<Flights<[u8; 32], Outcome>>,
}

/// The copies of one core.
#[derive(Debug, Default)]
struct CoreCopies(RefCell<foldhash::HashMap<[u8; 32], Copied>>);

/// A document, and when it was copied.
type Copied = (Arc<Document>, CopiedAt);

/// When a core has copied a document, and at which version of the revocations: one of these may drop it.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopiedAt {
    moment: UnixTime,
    revocations: u64,
}

impl CopiedAt {
    /// Whether the copy is used without a look at the node's document.
    pub(super) fn is_fresh(self, host: &impl Host, now: UnixTime) -> bool {
        self.revocations == host.revocations().version()
            && self.moment <= now
            && now.saturating_since(self.moment) < CORE_COPY
    }
}

/// What the provider says of itself, if this core has copied it of late.
fn at_hand<T>(
    rules: &Rules,
    host: &impl Host,
    now: UnixTime,
    look: impl FnOnce(&Arc<Document>, CopiedAt) -> T,
) -> Option<T> {
    let copies = host.core_state::<CoreCopies>();
    let copies = copies.0.borrow();
    let (copy, copied_at) = copies.get(&rules.provider_key)?;
    copied_at
        .is_fresh(host, now)
        .then(|| look(copy, *copied_at))
}

/// The version of that. The document itself is counted by all cores: whoever needs no more leaves it where it is.
pub(super) fn version_at_hand(
    rules: &Rules,
    host: &impl Host,
    now: UnixTime,
) -> Option<(u64, CopiedAt)> {
    at_hand(rules, host, now, |document, at| (document.version, at))
}

/// What the provider says of itself.
///
/// # Errors
///
/// If nothing is known and it cannot be asked now.
pub(super) async fn document(rules: &Arc<Rules>, host: &impl Host) -> Outcome {
    let now = host.now();
    if let Some(copy) = at_hand(rules, host, now, |copy, _| Arc::clone(copy)) {
        return Ok(copy);
    }
    let key = rules.provider_key;
    let copies = host.core_state::<CoreCopies>();
    let version = host.revocations().version();
    let providers = host.node_state::<Providers>();
    let entry = {
        let mut entries = providers.lock();
        let entry = entries.entry(key).or_default();
        entry.recall(&key, host);
        entry.clone()
    };
    let rests = entry.discovery.rests(0, now);
    let epoch = host.revocations().epoch(rules.issuer_name);
    let age = |document: &Arc<Document>| now.saturating_since(document.fetched_at);
    // What an operator has deleted serves nobody any more: a key may have been stolen.
    let known = entry
        .document
        .filter(|document| document.epoch >= epoch && serves(rules, document, now));
    let document = match known {
        Some(document) => {
            let failing = entry.discovery.failures > 0;
            if (failing || age(&document) >= lifetime(rules, &document)) && !rests {
                // Whoever needs it next finds the new one.
                drop(providers.fetch(rules, host));
            }
            document
        }
        None if rests => return Err(entry.discovery.resting()),
        None => first(&providers, rules, host, &entry.discovery).await?,
    };
    copies.remember(key, &document, now, version);
    Ok(document)
}

/// The same for a call to an endpoint that may be `configured`: that needs nothing of what a provider that
/// is away would have said, but for keys, which are asked for again.
///
/// # Errors
///
/// If the endpoint is not configured, and nothing is known of the provider.
pub(super) async fn document_for(
    rules: &Arc<Rules>,
    host: &impl Host,
    configured: Option<&String>,
) -> Outcome {
    match document(rules, host).await {
        Err(error) if configured.is_some() && error.is_outage() => Ok(Arc::new(Document {
            issuer: rules.issuer.clone(),
            ..Document::default()
        })),
        outcome => outcome,
    }
}

/// The first document of a provider. Whoever comes while nothing is known to be wrong waits for it;
/// after a failure, only the one that asks again does, and not for long.
async fn first(
    providers: &Arc<Providers>,
    rules: &Arc<Rules>,
    host: &impl Host,
    health: &Health,
) -> Outcome {
    if health.failures == 0 {
        return wait(providers.fetch(rules, host)).await;
    }
    if providers.flights.runs(&rules.provider_key) {
        return Err(health.resting());
    }
    let flight = providers.fetch(rules, host);
    within(host, PATIENCE, wait(flight)).await
}

/// What `operation` comes to, unless that takes too long.
async fn within<T>(
    host: &impl Host,
    limit: Duration,
    operation: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, ProviderError> {
    match select(pin!(operation), pin!(host.sleep(limit))).await {
        Either::Left((result, _)) => result,
        Either::Right(_) => Err(ProviderError::Slow),
    }
}

/// The discovery document as it is, fetched now.
///
/// # Errors
///
/// If it cannot be fetched.
pub(super) async fn metadata(
    rules: &Rules,
    host: &impl Host,
) -> Result<Fetched<serde_json::Map<String, serde_json::Value>>, ProviderError> {
    document::discover(rules, host).await
}

/// The key set at `uri` as it is, fetched now.
///
/// # Errors
///
/// If it cannot be fetched.
pub(super) async fn key_set(
    rules: &Rules,
    host: &impl Host,
    uri: &str,
) -> Result<serde_json::Value, ProviderError> {
    let found = document::get_json(rules, host, uri, document::KEYS_LIMIT).await?;
    Ok(found.value)
}

/// Whether the last call to discovery, or of late to one of the provider's endpoints, failed.
pub(super) fn fails(rules: &Rules, host: &impl Host) -> bool {
    let entry = host.node_state::<Providers>().entry(rules.provider_key);
    let now = host.now();
    let recent = |health: &Health| now.saturating_since(health.failed_at) < TELLING;
    entry.discovery.failures > 0 || entry.failing.values().any(recent)
}

impl Providers {
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, key: [u8; 32]) -> Entry {
        self.lock().get(&key).cloned().unwrap_or_default()
    }

    /// Starts a fetch, or joins the one under way.
    fn fetch<H: Host>(self: &Arc<Self>, rules: &Arc<Rules>, host: &H) -> Flight {
        let key = rules.provider_key;
        let (waiting, pilot) = self.flights.board(&key);
        if let Some(pilot) = pilot {
            let (providers, rules, its_host) = (Arc::clone(self), Arc::clone(rules), host.clone());
            let before = self.entry(key).document;
            host.spawn(Box::pin(async move {
                let limit = limits(&rules, 0).timeout;
                let fetch = document::fetch(&rules, &its_host, before.as_deref());
                let fetched = within(&its_host, limit, fetch).await;
                let mut entries = providers.lock();
                if entries.len() >= MOST_PROVIDERS && !entries.contains_key(&key) {
                    entries.clear();
                }
                let now = its_host.now();
                let outcome = entries.entry(key).or_default().take_up(
                    fetched,
                    |had| serves(&rules, had, now),
                    (now, random(&its_host)),
                );
                drop(entries);
                match &outcome {
                    Ok(document) => {
                        if let Some(bytes) = document.to_bytes() {
                            its_host.keep(key, bytes);
                        }
                    }
                    Err(error) => {
                        warn!(issuer = rules.issuer, error = %chain(error), "discovery failed");
                    }
                }
                pilot.land(&outcome);
            }));
        }
        waiting
    }
}

impl CoreCopies {
    fn remember(&self, key: [u8; 32], document: &Arc<Document>, now: UnixTime, version: u64) {
        let mut copies = self.0.borrow_mut();
        if copies.len() >= MOST_PROVIDERS {
            copies.clear();
        }
        let at = CopiedAt {
            moment: now,
            revocations: version,
        };
        copies.insert(key, (Arc::clone(document), at));
    }
}

/// Any number, by which nodes differ.
fn random(host: &impl Host) -> u16 {
    let mut bytes = [0; 2];
    host.random(&mut bytes);
    u16::from_be_bytes(bytes)
}

async fn wait(flight: Flight) -> Outcome {
    flight.await.unwrap_or(Err(ProviderError::GivenUp))
}

/// Whether a document is used at all, if no newer one is to be had.
fn serves(rules: &Rules, document: &Document, now: UnixTime) -> bool {
    let longest = lifetime(rules, document).saturating_add(LONGEST_KEPT);
    now.saturating_since(document.fetched_at) < longest
}

/// How long a document is used before it is fetched anew: no longer than it is fresh, but for a minute in
/// any case.
fn lifetime(rules: &Rules, document: &Document) -> Duration {
    let provider = &rules.config.provider;
    let mut lifetime = provider.cache_ttl.seconds();
    if let Some(fresh_for) = document.fresh_for {
        lifetime = lifetime.min(fresh_for.max(SHORTEST_LIFETIME));
    }
    if let Some(least) = &provider.cache_ttl_min {
        lifetime = lifetime.max(least.seconds());
    }
    if let Some(most) = &provider.cache_ttl_max {
        lifetime = lifetime.min(most.seconds());
    }
    lifetime
}
