//! What operators say of the health of targets through the Admin API. It comes among the revocations.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use shared::clock::UnixTime;
use shared::entity::Revocation;
use uuid::Uuid;

use super::{Balancer, Peer};

/// Sets the health of those peers of `balancers` that the marks among `heard` are about. What has run out by `now` is of an
/// operator who thought of other nodes. What is about an address that is not known yet waits until it is.
pub(crate) fn heed(balancers: &[Arc<Balancer>], heard: &[Revocation], now: UnixTime) {
    let marks = heard.iter().filter(|heard| lasts(heard, now));
    let marks: HashMap<Uuid, Revocation> = marks.map(|mark| (mark.id, *mark)).collect();
    if marks.is_empty() {
        return;
    }
    for balancer in balancers {
        heed_at(balancer, marks.clone(), now);
    }
}

/// Heeds what was said of the targets of `balancer` before their names had been looked up.
pub(super) fn catch_up(balancer: &Balancer, now: UnixTime) {
    heed_at(balancer, HashMap::new(), now);
}

/// Whether this is a mark that counts at `now`.
fn lasts(heard: &Revocation, now: UnixTime) -> bool {
    heard.is_mark() && now.as_secs() < heard.expires_at
}

fn heed_at(balancer: &Balancer, mut marks: HashMap<Uuid, Revocation>, now: UnixTime) {
    // Held throughout: addresses that another thread finds meanwhile find what waits for them.
    let waiting = balancer.peers.said.lock();
    let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
    waiting.retain(|id, said| lasts(said, now) && !marks.contains_key(id));
    marks.extend(waiting.drain());
    if marks.is_empty() {
        return;
    }
    let table = balancer.table();
    let mut meant: Vec<(u64, &Arc<Peer>, bool)> = Vec::new();
    let (mut heeded, mut known) = (HashSet::new(), HashSet::new());
    for entry in &table.entries {
        let Some(target) = balancer.config.targets.get(entry.target) else {
            continue;
        };
        known.insert(entry.target);
        let key = &entry.peer.key;
        let address = Some((key.address, key.port));
        for (id, healthy) in Revocation::marks(target.record.id, address) {
            if let Some(said) = marks.get(&id) {
                meant.push((said.before, &entry.peer, healthy));
                heeded.insert(id);
            }
        }
    }
    // What was said last counts.
    meant.sort_by_key(|(said, ..)| *said);
    for (_, peer, healthy) in meant {
        balancer.set_health(peer, healthy);
    }
    if known.len() < balancer.config.targets.len() {
        marks.retain(|id, _| !heeded.contains(id));
        *waiting = marks;
    }
}
