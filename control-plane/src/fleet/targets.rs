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
    /// Where the names of targets lead, sorted.
    #[serde(
        rename = "target_addresses",
        default,
        skip_serializing_if = "Vec::is_empty"
    )]
    pub addresses: Vec<(Uuid, SocketAddr, Address)>,
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
    /// What `all` tell together, of those that are `wanted` or, without a word of that, of each: what one holds for ill is ill.
    pub(super) fn together<'a>(
        all: impl Iterator<Item = &'a Self>,
        wanted: Option<&HashSet<Uuid>>,
    ) -> Self {
        let (mut unhealthy, mut unresolved) = (HashSet::new(), HashSet::new());
        let mut addresses = BTreeMap::<(Uuid, SocketAddr), Address>::new();
        for told in all {
            for (ids, all) in [
                (&told.unhealthy, &mut unhealthy),
                (&told.unresolved, &mut unresolved),
            ] {
                match wanted {
                    Some(wanted) => all.extend(wanted.iter().filter(|id| ids.contains(id))),
                    None => all.extend(ids),
                }
            }
            let mut add = |those: &[(Uuid, SocketAddr, Address)]| {
                for (target, at, address) in those {
                    addresses
                        .entry((*target, *at))
                        .and_modify(|known| known.healthy &= address.healthy)
                        .or_insert(*address);
                }
            };
            match wanted {
                Some(wanted) => wanted.iter().for_each(|id| add(told.leads(*id))),
                None => add(&told.addresses),
            }
        }
        let addresses = addresses.into_iter();
        Self {
            unhealthy,
            unresolved,
            addresses: addresses
                .map(|((target, at), address)| (target, at, address))
                .collect(),
        }
    }

    /// Where the name of `target` leads.
    pub fn leads(&self, target: Uuid) -> &[(Uuid, SocketAddr, Address)] {
        let start = self.addresses.partition_point(|(id, ..)| *id < target);
        let (_, rest) = self.addresses.split_at(start);
        let end = rest.partition_point(|(id, ..)| *id == target);
        rest.split_at(end).0
    }

    /// Leaves out all but `most` unhealthy ones.
    pub(super) fn keep(&mut self, most: usize) {
        let unhealthy = std::mem::take(&mut self.unhealthy);
        self.unhealthy = unhealthy.into_iter().take(most).collect();
        let known = &self.unhealthy;
        self.unresolved.retain(|id| known.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_node_holds_for_ill_is_ill() {
        let ids = [1, 2, 3].map(Uuid::from_u128);
        let at = |last: u8| SocketAddr::from(([10, 0, 0, last], 80));
        let address = |healthy| Address { weight: 5, healthy };
        let one = Targets {
            unhealthy: [ids[0]].into(),
            addresses: vec![
                (ids[1], at(1), address(true)),
                (ids[1], at(2), address(true)),
            ],
            ..Targets::default()
        };
        let other = Targets {
            unhealthy: [ids[2]].into(),
            unresolved: [ids[2]].into(),
            addresses: vec![
                (ids[1], at(2), address(false)),
                (ids[2], at(3), address(true)),
            ],
        };
        let all = Targets::together([&one, &other].into_iter(), None);
        assert_eq!(all.unhealthy, [ids[0], ids[2]].into());
        let leads = [
            (ids[1], at(1), address(true)),
            (ids[1], at(2), address(false)),
        ];
        assert_eq!(all.leads(ids[1]), leads);
        assert_eq!(all.leads(ids[0]), []);
        let wanted = [ids[1]].into();
        let some = Targets::together([&one, &other].into_iter(), Some(&wanted));
        assert_eq!(some.unhealthy, HashSet::new());
        assert_eq!(some.addresses, leads);
    }
}
