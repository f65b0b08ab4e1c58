//! What operators say of the health of targets through the Admin API. It comes among the revocations.

use std::collections::HashMap;
use std::sync::Arc;

use shared::clock::UnixTime;
use shared::entity::Revocation;
use uuid::Uuid;

use super::{Balancer, Peer};

/// Sets the health of those peers of `balancers` that the marks among `heard` are about. What has run out by `now` is of an
/// operator who thought of other nodes.
pub(crate) fn heed(balancers: &[Arc<Balancer>], heard: &[Revocation], now: UnixTime) {
    let marks = heard.iter().filter(|heard| heard.is_mark());
    let marks = marks.filter(|mark| now.as_secs() < mark.expires_at);
    let marks: HashMap<Uuid, u64> = marks.map(|mark| (mark.id, mark.before)).collect();
    if marks.is_empty() {
        return;
    }
    let mut meant: Vec<(u64, &Balancer, Arc<Peer>, bool)> = Vec::new();
    for balancer in balancers {
        for entry in &balancer.table().entries {
            let Some(target) = balancer.config.targets.get(entry.target) else {
                continue;
            };
            let key = &entry.peer.key;
            let address = Some((key.address, key.port));
            for (id, healthy) in Revocation::marks(target.record.id, address) {
                if let Some(said) = marks.get(&id) {
                    meant.push((*said, balancer, Arc::clone(&entry.peer), healthy));
                }
            }
        }
    }
    // What was said last counts.
    meant.sort_by_key(|(said, ..)| *said);
    for (_, balancer, peer, healthy) in meant {
        balancer.set_health(&peer, healthy);
    }
}
