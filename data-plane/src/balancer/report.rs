//! What the control plane is told of upstreams' targets.

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
