//! A share of which nobody can have all: the last quarter of a stock is for those who have little of it. Of clients, and of services
//! that keep what belongs to many clients.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;
use shared::network::client_of;
use uuid::Uuid;

use super::{Share, Stock};

/// What one core holds of a stock, and who has what of it that was taken while there was little left.
#[derive(Debug)]
pub(crate) struct Fair {
    share: Rc<Share>,
    /// Who is not counted.
    others: Rc<Tally>,
    /// Most of what is scarce for one client, and for one service.
    most: [usize; 2],
    scarce: RefCell<HashMap<Holder, Rc<Tally>>>,
}

/// Who has something.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Holder {
    Client(IpAddr),
    Service(Uuid),
}

/// How much of a share somebody has.
#[derive(Debug)]
struct Tally {
    share: Rc<Share>,
    count: Cell<usize>,
}

impl Tally {
    fn of(share: &Rc<Share>) -> Rc<Self> {
        let (share, count) = (Rc::clone(share), Cell::default());
        Rc::new(Self { share, count })
    }

    fn add(&self, count: usize) {
        self.count.set(self.count.get() + count);
    }

    fn subtract(&self, count: usize) {
        self.count.set(self.count.get() - count);
    }
}

/// Of whom that is counted: the client and the service; nothing while there is enough.
type Tallies = [Option<Rc<Tally>>; 2];

impl Fair {
    /// Nothing so far of `stock`, which is for so many `cores`.
    pub(crate) fn of(stock: Arc<Stock>, cores: usize) -> Self {
        Self::in_pieces(stock, cores, 1)
    }

    /// The same of what is of little use in less than a `piece`: each client has that much, too, of what is scarce, unless it is
    /// more than half of a core's part of that.
    pub(crate) fn in_pieces(stock: Arc<Stock>, cores: usize, piece: usize) -> Self {
        let of_core = stock.limit / cores.max(1);
        // More than one client, who would keep others from its service otherwise.
        let of_service = (of_core * 3 / 16).max(1);
        let of_client = (of_core / 16).max(piece.min(of_core / 8)).max(1);
        let share = Rc::new(Share::of(stock));
        Self {
            others: Tally::of(&share),
            share,
            most: [of_client, of_service],
            scarce: RefCell::default(),
        }
    }

    /// How many are in use on this core.
    pub(crate) fn used(&self) -> usize {
        self.share.used()
    }

    /// Takes one, if there is one; where there is little left, if its `client` has not had enough of that. Of IPv6 a network
    /// of 64 bits is one client.
    pub(crate) fn take(&self, client: impl FnOnce() -> Option<IpAddr>) -> Option<Place> {
        let [tally, _] = self.take_all(1, || (client(), None))?;
        Some(Place(tally.unwrap_or_else(|| {
            self.others.add(1);
            Rc::clone(&self.others)
        })))
    }

    /// Takes `count`, or none if there are not so many for the client and the service that they are for; of whom they are counted.
    fn take_all(
        &self,
        count: usize,
        holders: impl FnOnce() -> (Option<IpAddr>, Option<Uuid>),
    ) -> Option<Tallies> {
        let mut tallies = Tallies::default();
        if self.share.is_scarce_for(count) {
            let (client, service) = holders();
            let client = client.map(client_of).map(Holder::Client);
            tallies = self.tallies([client, service.map(Holder::Service)]);
            let has_enough = |(tally, most): (&Option<Rc<Tally>>, usize)| {
                let has = tally.as_ref().map(|tally| tally.count.get());
                has.is_some_and(|has| has.saturating_add(count) > most)
            };
            if tallies.iter().zip(self.most).any(has_enough) {
                return None;
            }
        }
        self.share.take_all(count).then(|| {
            for tally in tallies.iter().flatten() {
                tally.add(count);
            }
            tallies
        })
    }

    /// What is counted of `holders`.
    fn tallies(&self, holders: [Option<Holder>; 2]) -> Tallies {
        let mut all = self.scarce.borrow_mut();
        let is_known = |holder: &Holder| all.contains_key(holder);
        if !holders.iter().flatten().all(is_known) {
            all.retain(|_, tally| tally.count.get() > 0);
        }
        let none = || Tally::of(&self.share);
        holders.map(|holder| Some(Rc::clone(all.entry(holder?).or_insert_with(none))))
    }
}

/// One of such a share, put back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Rc<Tally>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.share.put();
        self.0.subtract(1);
    }
}

/// What is held of such a share for one client, which may become more and less; put back when it is dropped.
#[derive(Debug)]
pub(crate) struct Part {
    share: Rc<Fair>,
    client: Option<IpAddr>,
    service: Option<Uuid>,
    /// What was taken while there was enough, and what of the last quarter.
    plenty: usize,
    scarce: usize,
    /// Of whom the latter is counted.
    tallies: Tallies,
}

impl Part {
    /// Nothing so far of `share`, for `client` and `service` as far as they are counted.
    pub(crate) const fn of(share: Rc<Fair>, client: Option<IpAddr>, service: Option<Uuid>) -> Self {
        Self {
            share,
            client,
            service,
            plenty: 0,
            scarce: 0,
            tallies: [None, None],
        }
    }

    /// How many it has.
    pub(crate) const fn count(&self) -> usize {
        self.plenty + self.scarce
    }

    /// Whether anybody can have so many at once, if there is nobody else.
    pub(crate) fn may_have(&self, count: usize) -> bool {
        count <= self.share.share.stock.most_at_once
    }

    /// Whether there is plenty once it has taken `count`.
    pub(crate) fn leaves_plenty(&self, count: usize) -> bool {
        self.share.share.has_plenty_for(count)
    }

    /// Takes `count`, or none if there are not so many for it.
    pub(crate) fn take(&mut self, count: usize) -> bool {
        let taken = self.share.take_all(count, || (self.client, self.service));
        match taken {
            Some([None, None]) => self.plenty += count,
            Some(tallies) => {
                self.scarce += count;
                self.tallies = tallies;
            }
            None => return false,
        }
        true
    }

    /// Puts `count` back, first of what is scarce.
    pub(crate) fn put(&mut self, count: usize) {
        let scarce = self.scarce.min(count);
        for tally in self.tallies.iter().flatten() {
            tally.subtract(scarce);
        }
        self.scarce -= scarce;
        self.plenty -= count - scarce;
        self.share.share.put_all(count);
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
        let new = Holder::Client(IpAddr::from([192, 0, 2, 9]));
        assert!(share.tallies([Some(new), None])[0].is_some());
        assert_eq!(share.scarce.borrow().len(), 1, "nobody else is remembered");
    }

    #[test]
    fn what_each_has_of_the_last_quarter_is_of_use_however_many_cores_there_are() {
        for (limit, cores, each) in [(3_200, 1, 200), (3_200, 4, 80), (3_200, 8, 50), (8, 8, 1)] {
            let share = Rc::new(Fair::in_pieces(Stock::new(limit, cores), cores, 80));
            let part = |last| {
                Part::of(
                    Rc::clone(&share),
                    Some(IpAddr::from([192, 0, 2, last])),
                    None,
                )
            };
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
            Part::of(Rc::clone(&share), client, None)
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

    #[test]
    fn a_service_that_keeps_what_belongs_to_many_leaves_the_last_quarter_to_others() {
        let share = Rc::new(Fair::of(Stock::new(640, 1), 1));
        let part = |client: Option<u8>, service: u128| {
            let client = client.map(|last| IpAddr::from([192, 0, 2, last]));
            Part::of(Rc::clone(&share), client, Some(Uuid::from_u128(service)))
        };
        let mut crowd: Vec<Part> = (0..12).map(|last| part(Some(last), 1)).collect();
        assert!(crowd.iter_mut().all(|one| one.take(40)));
        // It has three quarters of the last one, whoever its clients are.
        let mut late = [part(Some(20), 1), part(None, 1), part(Some(21), 1)];
        let [one, unknown, refused] = &mut late;
        assert!(one.take(40) && unknown.take(80) && !refused.take(1));
        let mut other = part(Some(22), 2);
        assert!(
            !other.take(41) && other.take(40),
            "a client has a sixteenth"
        );
        one.put(5);
        assert!(refused.take(5) && !refused.take(1));
        drop((crowd, late, other));
        assert_eq!(share.used(), 0);
        assert!(
            share
                .scarce
                .borrow()
                .values()
                .all(|tally| tally.count.get() == 0)
        );
    }
}
