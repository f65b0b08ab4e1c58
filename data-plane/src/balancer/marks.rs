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
    let mut meant: Vec<(&Revocation, &Arc<Peer>, bool)> = Vec::new();
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
                meant.push((said, &entry.peer, healthy));
                heeded.insert(id);
            }
        }
    }
    // What was said last counts, once: what has been found out since, or said, is not undone by hearing it again.
    meant.sort_by_key(|(said, ..)| said.before);
    let mut last = HashMap::new();
    for (said, peer, healthy) in meant {
        last.insert(peer.number, (peer, healthy, peer.is_told(said, now)));
    }
    for (peer, healthy, is_news) in last.into_values() {
        if is_news {
            balancer.set_health(peer, healthy);
        }
    }
    if known.len() < balancer.config.targets.len() {
        marks.retain(|id, _| !heeded.contains(id));
        *waiting = marks;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::snapshot::{Revision, Snapshot};

    use super::*;
    use crate::balancer::tests::{balancer, record};
    use crate::balancer::{Balancers, report};
    use crate::compile::compile;
    use crate::settings::Settings;
    use crate::upstream::resolve::{DnsConfig, Resolver};

    #[test]
    fn an_operator_says_how_a_target_is() {
        let node = Balancers::default();
        let balancer = balancer(&node, json!({}), &[1, 1]);
        let ill = || {
            let ill = report::unhealthy(&balancer);
            ill.iter().map(|id| id.as_u128() - 100).collect::<Vec<_>>()
        };
        let mark =
            |number: u128, address: Option<(&str, Option<u16>)>, healthy: bool, before: u64| {
                let address = address.map(|(address, port)| (address.parse().unwrap(), port));
                let target = Uuid::from_u128(100 + number);
                Revocation {
                    id: Revocation::mark(target, address, healthy),
                    before,
                    expires_at: 60,
                }
            };
        let own = ("127.0.0.2", None);
        let with_port = ("127.0.0.2", Some(80));
        for (heard, now, expected) in [
            (vec![mark(1, None, false, 1)], 60, &[][..]),
            (vec![mark(1, None, false, 1)], 59, &[1]),
            (vec![mark(2, Some(("127.0.0.1", None)), false, 1)], 0, &[1]),
            (
                vec![mark(2, Some(("127.0.0.2", Some(81))), false, 1)],
                0,
                &[1],
            ),
            (vec![mark(2, Some(own), false, 1)], 0, &[1, 2]),
            (
                vec![mark(1, None, true, 2), mark(2, Some(with_port), true, 2)],
                0,
                &[],
            ),
            // Of what is heard at once, what was said last counts.
            (
                vec![mark(1, None, true, 3), mark(1, None, false, 4)],
                0,
                &[1],
            ),
            (
                vec![mark(1, None, false, 5), mark(1, None, true, 6)],
                0,
                &[],
            ),
        ] {
            let balancers = std::slice::from_ref(&balancer);
            heed(balancers, &heard, UnixTime::from_secs(now));
            assert_eq!(ill(), expected, "{heard:?}");
        }
    }

    #[test]
    fn what_is_heard_again_overrules_nothing() {
        let node = Balancers::default();
        let balancer = balancer(&node, json!({}), &[1]);
        let mark = |healthy: bool, before: u64| Revocation {
            id: Revocation::mark(Uuid::from_u128(101), None, healthy),
            before,
            expires_at: 60,
        };
        let (ill, well) = (mark(false, 1), mark(true, 2));
        for (heard, found, expected) in [
            (vec![ill], None, true),
            (vec![well], None, false),
            // With the configuration that has the first of them, and with the one that has both.
            (vec![ill], None, false),
            (vec![ill, well], None, false),
            // Health checks have found out something else.
            (vec![ill, well], Some(false), true),
            (vec![ill, well], Some(true), false),
            (vec![mark(false, 3), well], None, true),
            (vec![mark(true, 4)], None, false),
        ] {
            if let Some(healthy) = found {
                let table = balancer.table();
                table.entries[0].peer.set_health(healthy);
            }
            let balancers = std::slice::from_ref(&balancer);
            heed(balancers, &heard, UnixTime::from_secs(0));
            let is_ill = !report::unhealthy(&balancer).is_empty();
            assert_eq!(is_ill, expected, "{heard:?}");
        }
    }

    #[tokio::test]
    async fn what_is_said_of_a_name_counts_once_its_addresses_are_known() {
        let dns = DnsConfig::read(&Settings {
            dns_hostsfile: "/nowhere".into(),
            dns_resolver: vec!["127.0.0.1:1".to_owned()],
            ..Settings::default()
        });
        let resolver = Resolver::new(dns.unwrap());
        let target = |number: u128, host: &str| {
            let fields =
                json!({"target": format!("{host}:80"), "upstream": {"id": Uuid::from_u128(1)}});
            record("targets", 100 + number, fields)
        };
        let records = vec![
            record("upstreams", 1, json!({"name": "u.test"})),
            target(1, "a.localhost"),
            target(2, "b.localhost"),
            target(3, "127.0.0.3"),
        ];
        let compiled = compile(&Snapshot::new(1, Revision(1), records)).unwrap();
        let node = Balancers::default();
        let balancers = compiled.balancers(&node);
        let now = UnixTime::now();
        let mark = |number: u128, healthy: bool, before: u64, lasts: u64| Revocation {
            id: Revocation::mark(Uuid::from_u128(100 + number), None, healthy),
            before,
            expires_at: now.as_secs() + lasts,
        };
        let heard = [
            mark(1, false, 1, 3600),
            mark(2, false, 1, 0),
            mark(3, false, 1, 3600),
        ];
        heed(balancers, &heard, now);
        let ill = || report::unhealthy(&balancers[0]);
        assert_eq!(ill(), [Uuid::from_u128(103)]);
        balancers[0].resolve(&resolver).await;
        assert_eq!(ill(), [101, 103].map(Uuid::from_u128));
        // Once: what has been found out since is not undone by the next look.
        heed(balancers, &[mark(1, true, 2, 3600)], now);
        balancers[0].resolve(&resolver).await;
        assert_eq!(ill(), [Uuid::from_u128(103)]);
    }
}
