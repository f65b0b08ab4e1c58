//! Documents that are fetched anew before they have aged, since something does not fit to them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use shared::clock::UnixTime;
use shared::network::client_of;

use super::document::Document;
use super::error::ProviderError;
use super::{CoreCopies, Flight, Outcome, Providers, wait};
use crate::bundled::openid_connect::rules::Rules;
use crate::host::Host;

/// Shortest time between two re-discoveries, for whatever reason.
const SPACING: Duration = Duration::from_secs(1);

/// Most reasons that are remembered for one provider.
const MOST: usize = 256;

/// Why a document is to be fetched anew. Each has its own allowance, so that nobody uses up another's.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(in crate::bundled::openid_connect) enum Reason {
    /// No known key has signed a token of a client, which may have made it up.
    ClientToken,
    /// Nor a logout token from this address: anybody may post one.
    LogoutToken(IpAddr),
    /// Nor a token that the provider has just answered with, or that a session holds of it.
    ProviderToken,
    /// There is no endpoint where the document says so.
    Endpoint,
}

impl Reason {
    /// How long it leads to no second re-discovery.
    fn spacing(self, rules: &Rules) -> Duration {
        let lifetime = rules.config.provider.rediscovery_lifetime.seconds();
        match self {
            Self::ClientToken | Self::LogoutToken(_) => lifetime,
            Self::ProviderToken => lifetime.min(SPACING),
            Self::Endpoint => lifetime.max(SPACING),
        }
    }
}

/// When each reason last led to a re-discovery.
#[derive(Clone, Debug, Default)]
pub(super) struct Rediscoveries(HashMap<Reason, UnixTime>);

impl Rediscoveries {
    /// Whether `reason` led to one less than `spacing` ago. Addresses share what there is in a second.
    fn has(&self, reason: Reason, spacing: Duration, now: UnixTime) -> bool {
        let within = |at: UnixTime, spacing| at <= now && now.saturating_since(at) < spacing;
        let own = self.0.get(&reason);
        let of_another = || {
            let mut others = self.0.iter();
            others.any(|(other, at)| {
                matches!(other, Reason::LogoutToken(_)) && within(*at, spacing.min(SPACING))
            })
        };
        own.is_some_and(|at| within(*at, spacing))
            || (matches!(reason, Reason::LogoutToken(_)) && of_another())
    }

    fn note(&mut self, reason: Reason, now: UnixTime) {
        if self.0.len() >= MOST && !self.0.contains_key(&reason) {
            let oldest = self.0.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(reason, _)| *reason) {
                self.0.remove(&oldest);
            }
        }
        self.0.insert(reason, now);
    }
}

/// Where a newer document is.
enum Newer {
    Known(Arc<Document>),
    UnderWay(Flight),
    /// It is to be fetched, once what is under way is over: that may have begun before there was one.
    Wanted(Option<Flight>),
}

/// What a search for a newer document has found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) document: Arc<Document>,
    /// Whether the provider was asked for it after the search began: else it may be older than what did not fit.
    pub(super) is_asked: bool,
}

/// A newer document than `seen`, to which something does not fit for this `reason`: fetched anew unless that was done a
/// moment ago, which for what clients bring is `rediscovery_lifetime` (Kong 3.9).
///
/// # Errors
///
/// If it cannot be fetched now.
pub(in crate::bundled::openid_connect) async fn rediscover(
    rules: &Arc<Rules>,
    host: &impl Host,
    seen: &Document,
    reason: Reason,
) -> Outcome {
    let found = search(rules, host, seen, reason).await?;
    Ok(found.document)
}

/// The same, and whether the provider was asked for it.
///
/// # Errors
///
/// If it cannot be fetched now.
pub(super) async fn search(
    rules: &Arc<Rules>,
    host: &impl Host,
    seen: &Document,
    reason: Reason,
) -> Result<Found, ProviderError> {
    let now = host.now();
    let key = rules.provider_key;
    let reason = match reason {
        Reason::LogoutToken(address) => Reason::LogoutToken(client_of(address)),
        reason => reason,
    };
    let providers = host.node_state::<Providers>();
    let newer = {
        let mut entries = providers.lock();
        let entry = entries.entry(key).or_default();
        let flight = providers.flights.join(&key);
        let rests = entry.discovery.rests(0, now);
        let recently = entry.rediscoveries.has(reason, reason.spacing(rules), now);
        let epoch = host.revocations().epoch(rules.issuer_name);
        let known = entry.document.clone();
        match (known.filter(|known| known.epoch >= epoch), flight) {
            // What others have found, or find now, may be older than the provider's answer.
            (_, flight) if reason == Reason::ProviderToken && !recently && !rests => {
                entry.rediscoveries.note(reason, now);
                Newer::Wanted(flight)
            }
            (Some(document), _) if document.version != seen.version => Newer::Known(document),
            // Somebody has just found the same.
            (_, Some(flight)) => Newer::UnderWay(flight),
            (Some(document), None) if recently && !rests => {
                return match reason {
                    // It may be genuine: whoever sent it is to send it again.
                    Reason::LogoutToken(_) => Err(ProviderError::Searched),
                    _ => Ok(Found {
                        document,
                        is_asked: false,
                    }),
                };
            }
            (_, None) if recently || rests => return Err(entry.discovery.resting()),
            (_, None) => {
                entry.rediscoveries.note(reason, now);
                Newer::Wanted(None)
            }
        }
    };
    let is_asked = matches!(newer, Newer::Wanted(_));
    let document = match newer {
        Newer::Known(document) => document,
        Newer::UnderWay(flight) => wait(flight).await?,
        Newer::Wanted(earlier) => {
            if let Some(flight) = earlier {
                // Whatever it found.
                _ = wait(flight).await;
            }
            wait(providers.fetch(rules, host)).await.inspect_err(|_| {
                // A failure rests for its own, shorter time.
                let mut entries = providers.lock();
                let entry = entries.entry(key).or_default();
                entry.rediscoveries.0.remove(&reason);
            })?
        }
    };
    let version = host.revocations().version();
    host.core_state::<CoreCopies>()
        .remember(key, &document, now, version);
    Ok(Found { document, is_asked })
}
