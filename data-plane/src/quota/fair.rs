//! A share of which no client can have all: the last quarter of a stock is for those who have little of it.

use std::cell::{Cell, RefCell};
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

/// Whose places are told from others', and how many they are.
#[derive(Debug)]
struct Own {
    share: Rc<Share>,
    taken: Cell<usize>,
}

impl Own {
    fn of(share: Rc<Share>) -> Rc<Self> {
        let taken = Cell::new(0);
        Rc::new(Self { share, taken })
    }

    fn put(&self, count: usize) {
        self.share.put_all(count);
        self.taken.set(self.taken.get() - count);
    }
}

impl Fair {
    /// Nothing so far of `stock`, which is for so many `cores`.
    pub(crate) fn of(stock: Arc<Stock>, cores: usize) -> Self {
        Self::in_pieces(stock, cores, 1)
    }

    /// The same of what is of little use in less than a `piece`: each client has that much, too, of what is scarce, unless it is
    /// more than half of a core's part of that.
    pub(crate) fn in_pieces(stock: Arc<Stock>, cores: usize, piece: usize) -> Self {
        let of_core = stock.limit / cores.max(1);
        Self {
            most_each: (of_core / 16).max(piece.min(of_core / 8)).max(1),
            others: Own::of(Rc::new(Share::of(stock))),
            clients: RefCell::default(),
        }
    }

    /// How many are in use on this core.
    pub(crate) fn used(&self) -> usize {
        self.others.share.used()
    }

    /// Takes one, if there is one; where there is little left, if its `client` has not had enough of that. Of IPv6 a network
    /// of 64 bits is one client.
    pub(crate) fn take(&self, client: impl FnOnce() -> Option<IpAddr>) -> Option<Place> {
        self.take_all(1, client).map(Place)
    }

    /// Takes `count`, or none if there are not so many for `client`; by whom they are put back.
    fn take_all(&self, count: usize, client: impl FnOnce() -> Option<IpAddr>) -> Option<Rc<Own>> {
        let share = &self.others.share;
        let client = if share.is_scarce_for(count) {
            client().map(client_of)
        } else {
            None
        };
        let own = match client {
            Some(client) => self.own(client, count)?,
            None => Rc::clone(&self.others),
        };
        share.take_all(count).then(|| {
            own.taken.set(own.taken.get() + count);
            own
        })
    }

    /// What tells the places of `client`, unless it may not have `more` of them.
    fn own(&self, client: IpAddr, more: usize) -> Option<Rc<Own>> {
        let mut clients = self.clients.borrow_mut();
        if !clients.contains_key(&client) {
            clients.retain(|_, own| own.taken.get() > 0);
        }
        let own = clients
            .entry(client)
            .or_insert_with(|| Own::of(Rc::clone(&self.others.share)));
        (own.taken.get().saturating_add(more) <= self.most_each).then(|| Rc::clone(own))
    }
}

/// One of such a share, put back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Rc<Own>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.put(1);
    }
}

/// What one client has of such a share, which may become more and less; put back when it is dropped.
#[derive(Debug)]
pub(crate) struct Part {
    share: Rc<Fair>,
    client: Option<IpAddr>,
    /// What was taken while there was enough, and what of the last quarter.
    plenty: usize,
    scarce: Option<(Rc<Own>, usize)>,
}

impl Part {
    /// Nothing so far of `share`, for `client` if it is counted.
    pub(crate) const fn of(share: Rc<Fair>, client: Option<IpAddr>) -> Self {
        Self {
            share,
            client,
            plenty: 0,
            scarce: None,
        }
    }

    /// How many it has.
    pub(crate) fn count(&self) -> usize {
        self.plenty + self.scarce.as_ref().map_or(0, |(_, count)| *count)
    }

    /// Whether anybody can have so many at once, if there is nobody else.
    pub(crate) fn may_have(&self, count: usize) -> bool {
        count <= self.share.others.share.stock.most_at_once
    }

    /// Whether there is plenty once it has taken `count`.
    pub(crate) fn leaves_plenty(&self, count: usize) -> bool {
        self.share.others.share.has_plenty_for(count)
    }

    /// Takes `count`, or none if there are not so many for it.
    pub(crate) fn take(&mut self, count: usize) -> bool {
        let Some(own) = self.share.take_all(count, || self.client) else {
            return false;
        };
        if Rc::ptr_eq(&own, &self.share.others) {
            self.plenty += count;
        } else {
            let before = self.scarce.take().map_or(0, |(_, before)| before);
            self.scarce = Some((own, before + count));
        }
        true
    }

    /// Puts `count` back, first of what is scarce.
    pub(crate) fn put(&mut self, count: usize) {
        let scarce = self.scarce.take().map_or(0, |(own, had)| {
            let less = had.min(count);
            own.put(less);
            if had > less {
                self.scarce = Some((own, had - less));
            }
            less
        });
        self.plenty -= count - scarce;
        self.share.others.put(count - scarce);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.put(self.count());
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
        assert!(share.own(IpAddr::from([192, 0, 2, 9]), 1).is_some());
        assert_eq!(share.clients.borrow().len(), 1, "nobody else is remembered");
    }

    #[test]
    fn what_each_has_of_the_last_quarter_is_of_use_however_many_cores_there_are() {
        for (limit, cores, each) in [(3_200, 1, 200), (3_200, 4, 80), (3_200, 8, 50), (8, 8, 1)] {
            let share = Rc::new(Fair::in_pieces(Stock::new(limit, cores), cores, 80));
            let part = |last| Part::of(Rc::clone(&share), Some(IpAddr::from([192, 0, 2, last])));
            let [mut first, mut other] = [1, 2].map(part);
            assert!(first.take(limit * 3 / 4), "{limit} {cores}");
            assert!(!other.take(each + 1) && other.take(each), "{limit} {cores}");
        }
    }

    #[test]
    fn a_client_that_takes_much_leaves_the_last_quarter_to_others() {
        let share = Rc::new(Fair::of(Stock::new(640, 2), 2));
        let part = |last: Option<u8>| {
            let client = last.map(|last| IpAddr::from([192, 0, 2, last]));
            Part::of(Rc::clone(&share), client)
        };
        let [mut first, mut again, mut other] = [1, 1, 2].map(|last| part(Some(last)));
        assert!(first.may_have(400) && !first.may_have(401));
        // All at once or by and by: three quarters, and its part of the last one.
        assert!(!first.take(481) && first.take(400) && !first.take(101) && first.take(80));
        assert!(first.take(15) && !again.take(6) && again.take(5) && !first.take(1));
        assert_eq!((first.count(), again.count()), (495, 5));
        assert!(other.take(20) && !other.take(1));
        // Whoever is not counted has what there is.
        let mut unknown = part(None);
        assert!(unknown.take(120) && !unknown.take(1));
        // What is put back was the scarce part of it.
        first.put(10);
        assert!(again.take(10) && !again.take(1) && !first.leaves_plenty(0));
        drop((other, unknown));
        first.put(400);
        assert_eq!((first.count(), again.count(), share.used()), (85, 15, 100));
        assert!(first.leaves_plenty(100) && !first.leaves_plenty(300));
        drop((first, again));
        assert_eq!(share.used(), 0);
    }
}
