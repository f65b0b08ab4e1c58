//! How many nodes are kept in sight: whoever holds the certificate of a group can invent names without end.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use super::{Introduction, Node, Order};

/// Nodes of one control plane.
const NODES: usize = 20_000;

/// Of these, nodes that share one certificate: no one certificate can take the place of all others.
const OF_A_GROUP: usize = 10_000;

/// There are too many nodes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Full {
    /// In the cluster.
    #[error("{NODES} data planes are connected, which is the most that one control plane leads")]
    Cluster,
    /// Of one certificate.
    #[error(
        "{OF_A_GROUP} data planes of the group `{0}` are connected, which is the most of one certificate"
    )]
    Group(String),
}

/// Makes room for the node that introduces itself, in the place of the one that is gone for longest.
pub(super) fn make(
    nodes: &mut BTreeMap<String, Node>,
    introduction: &Introduction,
) -> Result<(), Full> {
    within(nodes, introduction, NODES, OF_A_GROUP)
}

/// The streams of processes that have a successor, by the names of their nodes and, of a node that is restarted again
/// before the first has ended, by run: the process that left last comes last.
#[derive(Debug, Default)]
pub(super) struct Leaving(BTreeMap<String, Vec<(String, mpsc::Sender<Order>)>>);

/// Processes of one node that may end their last exchanges side by side. One more sends the first away.
pub(super) const OF_A_NODE: usize = 16;

impl Leaving {
    /// Takes one in, in the place of an older stream of the same process.
    pub(super) fn insert(
        &mut self,
        introduction: &Introduction,
        orders: mpsc::Sender<Order>,
    ) -> Result<(), Full> {
        self.0.retain(|_, streams| {
            streams.retain(|(_, orders)| !orders.is_closed());
            !streams.is_empty()
        });
        let (name, boot) = (&introduction.name, &introduction.boot);
        if self.0.len() >= NODES && !self.0.contains_key(name) {
            return Err(Full::Cluster);
        }
        let streams = self.0.entry(name.clone()).or_default();
        streams.retain(|(of, _)| of != boot);
        if streams.len() >= OF_A_NODE {
            streams.remove(0);
        }
        streams.push((boot.clone(), orders));
        Ok(())
    }

    /// Those with a stream: each node's name and run.
    pub(super) fn processes(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().flat_map(|(name, streams)| {
            let open = streams.iter().filter(|(_, orders)| !orders.is_closed());
            open.map(move |(run, _)| (name.clone(), run.clone()))
        })
    }
}

fn within(
    nodes: &mut BTreeMap<String, Node>,
    introduction: &Introduction,
    most: usize,
    of_a_group: usize,
) -> Result<(), Full> {
    // The first look is free in every cluster that is not huge.
    if nodes.contains_key(&introduction.name) || nodes.len() < most.min(of_a_group) {
        return Ok(());
    }
    if let Some(group) = &introduction.group {
        let own = |node: &Node| node.row.introduction.group.as_ref() == Some(group);
        let count = nodes.values().filter(|node| own(node)).count();
        if count >= of_a_group && !forget_longest_gone(nodes, own) {
            return Err(Full::Group(group.clone()));
        }
    }
    if nodes.len() >= most && !forget_longest_gone(nodes, |_| true) {
        return Err(Full::Cluster);
    }
    Ok(())
}

/// Whether there was one that is gone, among those that are `meant`.
fn forget_longest_gone(nodes: &mut BTreeMap<String, Node>, meant: impl Fn(&Node) -> bool) -> bool {
    let gone = nodes
        .iter()
        .filter(|(_, node)| node.stream.is_none() && meant(node));
    let longest = gone.min_by_key(|(_, node)| node.row.last_seen);
    let Some(name) = longest.map(|(name, _)| name.clone()) else {
        return false;
    };
    nodes.remove(&name).is_some()
}

#[cfg(test)]
mod tests {
    use shared::clock::UnixTime;

    use super::*;
    use crate::fleet::Fleet;
    use crate::fleet::tests::introduction;
    use shared::snapshot::Position;

    #[test]
    fn a_group_has_its_share_and_who_is_gone_longest_makes_room() {
        let fleet = Fleet::default();
        let named = |name: &str, group: Option<&str>| {
            let mut node = introduction("a", Position::default());
            node.name = name.to_owned();
            node.group = group.map(str::to_owned);
            node
        };
        let at = UnixTime::from_secs;
        let _own = fleet.join(named("own", None), at(1)).unwrap();
        drop(fleet.join(named("a.pods", Some("pods")), at(2)).unwrap());
        drop(fleet.join(named("b.pods", Some("pods")), at(3)).unwrap());
        let fits = |node: &Introduction| within(&mut fleet.nodes().here, node, 4, 2);
        let listed = || fleet.nodes().here.keys().cloned().collect::<Vec<_>>();
        // A node that is known takes nobody's place.
        assert_eq!(fits(&named("a.pods", Some("pods"))), Ok(()));
        assert_eq!(listed().len(), 3);
        assert_eq!(fits(&named("c.pods", Some("pods"))), Ok(()));
        assert_eq!(listed(), ["b.pods", "own"]);
        let _b = fleet.join(named("b.pods", Some("pods")), at(4)).unwrap();
        let _c = fleet.join(named("c.pods", Some("pods")), at(4)).unwrap();
        let full = fits(&named("d.pods", Some("pods")));
        assert_eq!(full, Err(Full::Group("pods".to_owned())));
        // Others are not concerned, until there are too many of all.
        assert_eq!(fits(&named("other", None)), Ok(()));
        let _other = fleet.join(named("other", None), at(5)).unwrap();
        assert_eq!(fits(&named("one more", None)), Err(Full::Cluster));
    }
}
