//! What the control plane is told about upstreams' targets.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use proto::v1::TargetAddress;
use uuid::Uuid;

use super::Balancer;
use super::table::Table;

/// Most targets of one kind that a report names.
const TARGETS: usize = 10_000;
/// Most addresses of targets that are names.
const ADDRESSES: usize = 1_000;

/// The ids of the targets of `balancers` that no request is sent to, although they have a weight.
pub(crate) fn unhealthy_targets(balancers: &[Arc<Balancer>]) -> Vec<Bytes> {
    let such = balancers.iter().flat_map(|balancer| unhealthy(balancer));
    such.take(TARGETS).map(|id| packed(&id)).collect()
}

/// The ids of those among them whose names lead nowhere.
pub(crate) fn unresolved_targets(balancers: &[Arc<Balancer>]) -> Vec<Bytes> {
    let such = balancers
        .iter()
        .flat_map(|balancer| weighed(balancer, |table, place| table.failed.contains(&place)));
    such.take(TARGETS).map(|id| packed(&id)).collect()
}

/// Where the targets lead that are names.
pub(crate) fn addresses(balancers: &[Arc<Balancer>]) -> Vec<TargetAddress> {
    let all = balancers.iter().flat_map(|balancer| {
        let table = balancer.table();
        let named = table.entries.iter().filter_map(|entry| {
            let target = balancer.config.targets.get(entry.target)?;
            let key = &entry.peer.key;
            target.address.is_none().then(|| TargetAddress {
                target: packed(&target.record.id),
                address: match key.address {
                    IpAddr::V4(address) => Bytes::copy_from_slice(&address.octets()),
                    IpAddr::V6(address) => Bytes::copy_from_slice(&address.octets()),
                },
                port: key.port.into(),
                weight: entry.weight,
                healthy: entry.peer.is_healthy(),
            })
        });
        named.collect::<Vec<_>>()
    });
    all.take(ADDRESSES).collect()
}

/// The ids of the targets of `balancer` that no request is sent to, although they have a weight.
pub(crate) fn unhealthy(balancer: &Balancer) -> Vec<Uuid> {
    weighed(balancer, |table, place| {
        let mut own = table.entries.iter().filter(|entry| entry.target == place);
        let failed = table.failed.contains(&place);
        failed || (own.clone().count() > 0 && own.all(|entry| !entry.peer.is_healthy()))
    })
}

/// The ids of the targets of `balancer` that have a weight and that `counts` holds for, by the current table and the target's place
/// in it.
fn weighed(balancer: &Balancer, counts: impl Fn(&Table, usize) -> bool) -> Vec<Uuid> {
    let table = balancer.table();
    let targets = balancer.config.targets.iter().enumerate();
    targets
        .filter(|(place, target)| target.weight > 0 && counts(&table, *place))
        .map(|(_, target)| target.record.id)
        .collect()
}

fn packed(id: &Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use serde_json::json;
    use shared::snapshot::{Revision, Snapshot};

    use super::super::tests::{balancer, record};
    use super::super::{Balancers, Event, Thresholds, Turn};
    use super::*;
    use crate::compile::compile;

    #[test]
    fn what_changes_of_targets_is_told_once() {
        let node = Balancers::default();
        let known = balancer(&node, json!({}), &[1, 1]);
        let news = || Some(node.turned().now_or_never()? == Turn::Said);
        assert_eq!(news(), None);
        let peer = Arc::clone(&known.table().entries[0].peer);
        let thresholds = Thresholds {
            tcp_failures: 2,
            ..Thresholds::default()
        };
        known.report(&peer, Event::TcpFailure, &thresholds);
        assert_eq!(news(), None, "its health is what it was");
        known.report(&peer, Event::TcpFailure, &thresholds);
        assert_eq!([news(), news()], [Some(false), None]);
        // What told of it may come once more.
        node.turned.finds.notify_one();
        assert_eq!(news(), None);
        known.set_health(&peer, true);
        assert_eq!([news(), news()], [Some(true), None], "by an operator");

        let target =
            json!({"target": "named.test:80", "weight": 1, "upstream": {"id": Uuid::from_u128(1)}});
        let upstream = record("upstreams", 1, json!({"name": "u.test"}));
        let records = vec![upstream, record("targets", 101, target)];
        let named = compile(&Snapshot::new(1, Revision(1), records)).unwrap();
        let named = Arc::clone(&named.balancers(&node)[0]);
        let entry = |host: u8| named.entry(0, &IpAddr::from([127, 0, 0, host]).into());
        for (led, failed, changed) in [
            (vec![1, 2], vec![], true),
            (vec![2, 1], vec![], false),
            (vec![2], vec![], true),
            (vec![], vec![0], true),
            (vec![], vec![0], false),
        ] {
            named.install(led.iter().copied().map(entry).collect(), failed);
            assert_eq!(news(), changed.then_some(false), "{led:?}");
        }
    }
}
