//! What an operator orders of a node, and its way to the node's stream.

use tokio::sync::mpsc;

use super::{Fleet, Membership};

/// Orders that may wait for a stream.
const ORDERS: usize = 4;

/// What an operator, or a newer stream, has to say to a node's stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// Send once more what the node has refused.
    Retry,
}

/// Dropping it ends the stream's task.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) number: u64,
    orders: mpsc::Sender<Order>,
    /// Whether it was given an order to which the node has not answered. It goes on with the stream in the place of this one, such
    /// as that of the node's new process, but not beyond a stream that has ended: who crashes on an order is not given it again.
    ordered: bool,
}

/// The way of orders to one stream.
pub(super) fn channel() -> (mpsc::Sender<Order>, mpsc::Receiver<Order>) {
    mpsc::channel(ORDERS)
}

impl Stream {
    pub(super) const fn new(number: u64, orders: mpsc::Sender<Order>) -> Self {
        Self {
            number,
            orders,
            ordered: false,
        }
    }

    /// Has it send once more what the node has refused. Whether it can be told.
    pub(super) fn order(&mut self) -> bool {
        let is_told = self.orders.try_send(Order::Retry).is_ok();
        self.ordered |= is_told;
        is_told
    }

    /// Whether the node has not answered yet to what it was given by an order.
    pub(super) const fn is_ordered(&self) -> bool {
        self.ordered
    }
}

impl Fleet {
    /// Has the node of this id or name sent once more what it refused, also by another control plane. Whether it
    /// is connected.
    pub fn retry(&self, node: &str) -> bool {
        if self.retry_here(node) {
            return true;
        }
        let mut nodes = self.nodes();
        let is_elsewhere = nodes
            .elsewhere
            .rows()
            .any(|row| row.connected && row.is_called(node));
        if is_elsewhere {
            nodes.elsewhere.order(node);
        }
        is_elsewhere
    }

    /// The same, if it is connected here.
    pub(super) fn retry_here(&self, node: &str) -> bool {
        let mut nodes = self.nodes();
        let mut found = nodes.here.values_mut();
        let Some(found) = found.find(|found| found.row.is_called(node)) else {
            return false;
        };
        found.row.stuck = false;
        found.stream.as_mut().is_some_and(Stream::order)
    }
}

impl Membership {
    /// The node has answered to an update: what was ordered needs no other stream.
    pub(super) fn answers_order(&self) {
        let mut nodes = self.fleet.nodes();
        let node = nodes.here.get_mut(&self.name);
        let node = node.filter(|node| self.speaks_for(node));
        if let Some(stream) = node.and_then(|node| node.stream.as_mut()) {
            stream.ordered = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use shared::clock::UnixTime;

    use super::*;
    use crate::fleet::Introduction;
    use crate::fleet::tests::{at, introduction};

    const NOW: UnixTime = UnixTime::from_secs(1_000);

    /// The process `boot`, whose node has crashed with a configuration.
    fn run(boot: &str) -> Introduction {
        Introduction {
            quarantined: vec![at(9)],
            ..introduction(boot, at(1))
        }
    }

    fn next(member: &mut Membership) -> Option<Order> {
        member.order().now_or_never().flatten()
    }

    #[test]
    fn an_order_holds_for_the_process_that_comes_before_it_is_answered() {
        let fleet = Fleet::default();
        let (mut old, _) = fleet.join(run("a"), NOW).unwrap();
        assert!(fleet.retry("node-1"));
        assert_eq!(next(&mut old), Some(Order::Retry));
        let (mut successor, _) = fleet.join(run("b"), NOW).unwrap();
        assert_eq!(next(&mut successor), Some(Order::Retry));
        // Nothing that the old one says answers for the new one.
        old.runs(at(9), NOW);
        drop(old);
        let (mut third, _) = fleet.join(run("c"), NOW).unwrap();
        assert_eq!(next(&mut third), Some(Order::Retry));
        // It is answered once, whatever the answer is.
        third.refused(at(9), Vec::new(), NOW);
        let (mut fourth, _) = fleet.join(run("d"), NOW).unwrap();
        assert_eq!(next(&mut fourth), None);
        assert!(fleet.retry("node-1"));
        fourth.runs(at(9), NOW);
        let (mut fifth, _) = fleet.join(run("e"), NOW).unwrap();
        assert_eq!(next(&mut fifth), None);
    }

    #[test]
    fn an_order_goes_no_further_than_a_crash_or_where_it_is_carried_out() {
        let fleet = Fleet::default();
        let (crashes, _) = fleet.join(run("a"), NOW).unwrap();
        assert!(fleet.retry("node-1"));
        drop(crashes);
        let (mut again, _) = fleet.join(run("b"), NOW).unwrap();
        assert_eq!(next(&mut again), None);
        assert!(fleet.retry("node-1"));
        // The process before has carried it out, and this one knows.
        let (mut freed, _) = fleet.join(introduction("c", at(9)), NOW).unwrap();
        assert_eq!(next(&mut freed), None);
    }
}
