//! Which targets are not to be asked, as a process tells the one that takes its place (Kong 3.9 keeps that over `kong reload`):
//! what passive checks have found would cost clients' requests again otherwise, and what an operator has said would be forgotten.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::entity::Revocation;
use uuid::Uuid;

use super::{Balancer, PeerKey};

/// Most addresses that are told of.
const MOST: usize = 10_000;

/// An address that is not healthy.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Unhealthy {
    upstream: Uuid,
    #[serde(flatten)]
    key: PeerKey,
    /// Whether an operator has said so, and no check has found it.
    by_hand: bool,
}

/// What operators have said of an address, which has been heeded: to hear it again is no news.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Heeded {
    upstream: Uuid,
    #[serde(flatten)]
    key: PeerKey,
    marks: Vec<Revocation>,
}

/// What the addresses of `balancers` have been told that lasts at `now`.
pub(crate) fn give_heeded(balancers: &[Arc<Balancer>], now: UnixTime) -> Vec<Heeded> {
    let all = balancers.iter().flat_map(|balancer| {
        let upstream = balancer.config.id;
        let told = balancer.peers.known().into_iter().map(|peer| Heeded {
            upstream,
            key: peer.key.clone(),
            marks: peer.told(now),
        });
        let told = told.filter(|one| !one.marks.is_empty());
        told.collect::<Vec<_>>()
    });
    all.take(MOST).collect()
}

/// Has `balancers` know at `now` what their addresses were told in the process before.
pub(crate) fn take_heeded(balancers: &[Arc<Balancer>], heeded: &[Heeded], now: UnixTime) {
    let by_upstream = by_upstream(balancers);
    for one in heeded {
        if let Some(balancer) = by_upstream.get(&one.upstream) {
            let peer = balancer.peers.of(one.key.clone());
            for mark in &one.marks {
                peer.is_told(mark, now);
            }
        }
    }
}

fn by_upstream(balancers: &[Arc<Balancer>]) -> HashMap<Uuid, &Arc<Balancer>> {
    let all = balancers.iter();
    all.map(|balancer| (balancer.config.id, balancer)).collect()
}

/// The addresses of `balancers` that are not healthy, also of those that may be targets again.
pub(crate) fn give(balancers: &[Arc<Balancer>]) -> Vec<Unhealthy> {
    let all = balancers.iter().flat_map(|balancer| {
        let upstream = balancer.config.id;
        let known = balancer.peers.known();
        let ill = known.iter().filter(|peer| !peer.is_healthy());
        let ill = ill.map(|peer| Unhealthy {
            upstream,
            key: peer.key.clone(),
            by_hand: !peer.is_found_unhealthy(),
        });
        ill.collect::<Vec<_>>()
    });
    all.take(MOST).collect()
}

/// Has `balancers` know which were `ill` in the process before, also of addresses that names have not led to yet. What a check has
/// found ends where nothing is checked any more: nobody would take it back.
pub(crate) fn take(balancers: &[Arc<Balancer>], ill: &[Unhealthy]) {
    let by_upstream = by_upstream(balancers);
    for one in ill {
        let balancer = by_upstream.get(&one.upstream);
        let counts = |balancer: &&&Arc<Balancer>| one.by_hand || balancer.config.checked;
        if let Some(balancer) = balancer.filter(counts) {
            let key = one.key.clone();
            balancer.peers.begin_unhealthy(key, one.by_hand);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use serde_json::json;

    use super::super::tests::{balancer, record};
    use super::super::{Balancers, Event, Thresholds, marks, report};
    use super::*;
    use crate::compile::compile;
    use shared::snapshot::{Revision, Snapshot};

    fn passive() -> serde_json::Value {
        json!({"healthchecks": {"passive": {"unhealthy": {"tcp_failures": 1}}}})
    }

    /// Which of the addresses 127.0.0.N of a balancer are not healthy.
    fn ill(balancer: &Balancer) -> Vec<u128> {
        let ill = report::unhealthy(balancer);
        ill.iter().map(|id| id.as_u128() - 100).collect()
    }

    #[test]
    fn a_process_begins_with_those_that_were_ill_in_the_one_before_it() {
        let before = balancer(&Balancers::default(), passive(), &[1, 1, 1]);
        let peer = |at: usize| Arc::clone(&before.table().entries[at].peer);
        let thresholds = Thresholds {
            tcp_failures: 1,
            ..Thresholds::default()
        };
        before.report(&peer(0), Event::TcpFailure, &thresholds);
        before.set_health(&peer(1), false);
        assert_eq!(ill(&before), [1, 2]);
        let given = |balancer: &Arc<Balancer>| {
            let mut given = give(&[Arc::clone(balancer)]);
            given.sort_by_key(|one| one.by_hand);
            given
        };
        let found = given(&before);
        let by_hand = |ill: &[Unhealthy]| ill.iter().map(|one| one.by_hand).collect::<Vec<_>>();
        assert_eq!(by_hand(&found), [false, true]);

        let next = balancer(&Balancers::default(), passive(), &[1, 1, 1]);
        take(&[Arc::clone(&next)], &found);
        assert_eq!(ill(&next), [1, 2]);
        assert_eq!(given(&next), found, "it is told on");
        for _ in 0..3 {
            let lease = next.pick(None, &[]).unwrap();
            assert_eq!(lease.peer.key, peer(2).key);
        }

        let unchecked = balancer(&Balancers::default(), json!({}), &[1, 1, 1]);
        take(&[Arc::clone(&unchecked)], &found);
        assert_eq!(ill(&unchecked), [2], "no check would take it back");
        take(&[], &found);
    }

    #[test]
    fn what_an_operator_has_said_is_not_heeded_anew() {
        let now = UnixTime::from_secs(0);
        let mark = |number: u128, healthy: bool, before: u64| Revocation {
            id: Revocation::mark(Uuid::from_u128(100 + number), None, healthy),
            before,
            expires_at: 60,
        };
        let marks = [mark(1, true, 1), mark(2, false, 1)];
        let before = balancer(&Balancers::default(), passive(), &[1, 1, 1]);
        let thresholds = Thresholds {
            tcp_failures: 1,
            successes: 1,
            ..Thresholds::default()
        };
        marks::heed(&[Arc::clone(&before)], &marks, now);
        // Checks have found otherwise since.
        for (place, event) in [(0, Event::TcpFailure), (1, Event::Success)] {
            let peer = Arc::clone(&before.table().entries[place].peer);
            before.report(&peer, event, &thresholds);
        }
        assert_eq!(ill(&before), [1]);
        let all = [before];
        let next = [balancer(&Balancers::default(), passive(), &[1, 1, 1])];
        take(&next, &give(&all));
        take_heeded(&next, &give_heeded(&all, now), now);
        marks::heed(&next, &marks, now);
        assert_eq!(ill(&next[0]), [1]);
        // What is said later is.
        marks::heed(&next, &[mark(3, false, 2), mark(1, true, 2)], now);
        assert_eq!(ill(&next[0]), [3]);
        assert_eq!(give_heeded(&all, UnixTime::from_secs(60)), []);
    }

    #[test]
    fn what_was_found_holds_for_an_address_that_a_name_leads_to_later() {
        let mut upstream = passive();
        upstream["name"] = json!("u.test");
        let target =
            json!({"target": "named.test:80", "weight": 1, "upstream": {"id": Uuid::from_u128(1)}});
        let records = vec![
            record("upstreams", 1, upstream),
            record("targets", 101, target),
        ];
        let compiled = compile(&Snapshot::new(1, Revision(1), records)).unwrap();
        let named = Arc::clone(&compiled.balancers(&Balancers::default())[0]);
        let address = IpAddr::from([127, 0, 0, 1]);
        let found = Unhealthy {
            upstream: Uuid::from_u128(1),
            key: PeerKey {
                address,
                port: 80,
                host: "named.test".to_owned(),
            },
            by_hand: false,
        };
        take(&[Arc::clone(&named)], &[found]);
        assert_eq!(ill(&named), []);
        named.install(vec![named.entry(0, &address.into())], Vec::new());
        assert_eq!(ill(&named), [1]);
        // It may be where the name leads again.
        named.install(Vec::new(), Vec::new());
        assert_eq!((ill(&named), give(&[named]).len()), (vec![], 1));
    }
}
