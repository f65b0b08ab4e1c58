//! What names had last: all cores of a node know it, and its next process goes on with it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Found, Kind, Resolved, locked, remember};

/// What names had last.
#[derive(Debug, Default)]
pub(crate) struct LastNames(Mutex<HashMap<String, Last>>);

/// What a name had last.
#[derive(Debug)]
pub(super) struct Last {
    /// The type of record.
    pub(super) kind: Kind,
    /// What it led to.
    pub(super) resolved: Resolved,
}

/// A name, as a process tells the one that takes its place of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct GivenName {
    name: String,
    kind: Kind,
    found: Vec<Found>,
    /// For how many milliseconds that is not good any more, but for use while no server answers.
    stale: u64,
}

impl LastNames {
    pub(super) fn of(&self, name: &str) -> Option<Resolved> {
        let all = locked(&self.0);
        all.get(name).map(|last| last.resolved.clone())
    }

    pub(super) fn kind(&self, name: &str) -> Option<Kind> {
        locked(&self.0).get(name).map(|last| last.kind)
    }

    pub(super) fn remember(&self, name: &str, last: Last, most: usize) {
        remember(&self.0, name, last, most);
    }

    pub(super) fn forget(&self, name: &str) {
        locked(&self.0).remove(name);
    }

    /// What is known at `now`.
    pub(super) fn give(&self, now: Instant) -> Vec<GivenName> {
        let all = locked(&self.0);
        let given = all.iter().map(|(name, last)| {
            let stale = now.saturating_duration_since(last.resolved.until);
            GivenName {
                name: name.clone(),
                kind: last.kind,
                found: last.resolved.found.clone(),
                stale: u64::try_from(stale.as_millis()).unwrap_or(u64::MAX),
            }
        });
        given.collect()
    }

    /// Knows at `now` what is `given`, of what it does not know already, up to `most` names. They are looked up before they are
    /// believed: this process may have other servers.
    pub(super) fn take(&self, given: &[GivenName], now: Instant, most: usize) {
        let mut all = locked(&self.0);
        for name in given.iter().take(most) {
            let Some(until) = now.checked_sub(Duration::from_millis(name.stale)) else {
                continue;
            };
            let found = name.found.clone();
            let resolved = Resolved { found, until };
            let kind = name.kind;
            all.entry(name.name.clone())
                .or_insert(Last { kind, resolved });
        }
    }
}
