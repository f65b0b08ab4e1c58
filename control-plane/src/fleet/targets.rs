//! What nodes tell of upstreams' targets.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What one node, or several together, tell of upstreams' targets.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Targets {
    /// Those that a node sends no request to.
    #[serde(rename = "unhealthy_targets")]
    pub unhealthy: HashSet<Uuid>,
    /// Those among them whose names lead nowhere.
    #[serde(rename = "unresolved_targets", default)]
    pub unresolved: HashSet<Uuid>,
    /// Where the names of targets lead.
    #[serde(
        rename = "target_addresses",
        default,
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub addresses: BTreeMap<Uuid, BTreeMap<SocketAddr, Address>>,
}

/// One address that the name of a target leads to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Address {
    /// Its share of the upstream's requests.
    pub weight: u32,
    /// Whether every node that knows of it sends it requests.
    pub healthy: bool,
}

impl Targets {
    /// Adds what another node tells: what one holds for ill is ill.
    pub(super) fn extend(&mut self, other: &Self) {
        self.unhealthy.extend(&other.unhealthy);
        self.unresolved.extend(&other.unresolved);
        for (target, addresses) in &other.addresses {
            let known = self.addresses.entry(*target).or_default();
            for (at, address) in addresses {
                known
                    .entry(*at)
                    .and_modify(|known| known.healthy &= address.healthy)
                    .or_insert(*address);
            }
        }
    }

    /// Leaves out all but `most` unhealthy ones.
    pub(super) fn keep(&mut self, most: usize) {
        self.addresses.clear();
        let unhealthy = std::mem::take(&mut self.unhealthy);
        self.unhealthy = unhealthy.into_iter().take(most).collect();
        let known = &self.unhealthy;
        self.unresolved.retain(|id| known.contains(id));
    }
}
