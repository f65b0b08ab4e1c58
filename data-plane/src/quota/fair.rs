//! A share of which no client can have all: the last quarter of a stock is for those who have little of it.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;
use shared::network::client_of;

use super::{Share, Stock};

/// What one core holds of a stock, and who has what of it that was taken while there was little left.
#[derive(Debug)]
pub(crate) struct Fair {
    /// Who is not counted.
    others: Rc<Own>,
    /// Most of what is scarce for one client.
    most_each: usize,
    clients: RefCell<HashMap<IpAddr, Rc<Own>>>,
}

/// Whose places are told from others': as many as point here.
#[derive(Debug)]
struct Own(Rc<Share>);

impl Fair {
    /// Nothing so far of `stock`, which is for so many `cores`.
    pub(crate) fn of(stock: Arc<Stock>, cores: usize) -> Self {
        Self {
            most_each: (stock.limit / 16 / cores.max(1)).max(1),
            others: Rc::new(Own(Rc::new(Share::of(stock)))),
            clients: RefCell::default(),
        }
    }

    /// How many are in use on this core.
    pub(crate) fn used(&self) -> usize {
        self.others.0.used()
    }

    /// Takes one, if there is one; where there is little left, if its `client` has not had enough of that. Of IPv6 a network
    /// of 64 bits is one client.
    pub(crate) fn take(&self, client: impl FnOnce() -> Option<IpAddr>) -> Option<Place> {
        let share = &self.others.0;
        let client = if share.stock.is_scarce() {
            client().map(client_of)
        } else {
            None
        };
        let own = match client {
            Some(client) => self.own(client)?,
            None => Rc::clone(&self.others),
        };
        share.take().then(|| Place(own))
    }

    /// What tells the places of `client`, unless it has as many as it may have.
    fn own(&self, client: IpAddr) -> Option<Rc<Own>> {
        let mut clients = self.clients.borrow_mut();
        if !clients.contains_key(&client) {
            clients.retain(|_, own| Rc::strong_count(own) > 1);
        }
        let own = clients
            .entry(client)
            .or_insert_with(|| Rc::new(Own(Rc::clone(&self.others.0))));
        // One of those that point there is the map's.
        (Rc::strong_count(own) <= self.most_each).then(|| Rc::clone(own))
    }
}

/// One of such a share, put back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Rc<Own>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.put();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_is_scarce_each_client_has_a_little() {
        let share = Fair::of(Stock::new(64, 1), 1);
        let client = |last: u8| move || Some(IpAddr::from([192, 0, 2, last]));
        let take = |last| share.take(client(last));
        let mut first: Vec<Place> = std::iter::from_fn(|| take(1)).collect();
        // A core takes eight at a time: with the sixth time little is left.
        assert_eq!(first.len(), 5 * 8 + 1 + 4);
        let others: Vec<Place> = (2..5).filter_map(take).collect();
        assert_eq!(others.len(), 3);
        assert!(take(1).is_none());
        // Nobody is counted whom nobody knows.
        assert!(share.take(|| None).is_some());
        first.pop();
        assert!(take(1).is_some());
        drop((first, others));
        assert_eq!(share.used(), 0);
        assert!(share.own(IpAddr::from([192, 0, 2, 9])).is_some());
        assert_eq!(share.clients.borrow().len(), 1, "nobody else is remembered");
    }
}
