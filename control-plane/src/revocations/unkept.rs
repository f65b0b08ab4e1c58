//! Sessions that are over though the store does not take that: its disk is full, or etcd out of reach. The nodes that are led
//! here hear of them all the same. Nothing of it outlives this process: whoever has asked for it asks again until it is stored.

use std::collections::{BTreeMap, HashMap};

use shared::entity::Revocation;
use tokio::sync::watch;
use uuid::Uuid;

/// How many are told, all at once to a node that comes: about 100 KB, which pass slow links before its next sign of life is due.
/// Beyond, they reach other nodes once they are stored.
const MOST: usize = 1_000;

/// What was asked for and has not been stored since.
#[derive(Debug, Default)]
pub(super) struct Unkept {
    /// Each by its place in the order in which nodes are told; none is used twice.
    all: BTreeMap<u64, Revocation>,
    /// Where each is.
    places: HashMap<Uuid, u64>,
    next: u64,
}

impl Unkept {
    /// Notes what is `asked`. Whether something of it is new.
    pub(super) fn add(&mut self, asked: &[Revocation]) -> bool {
        let before = self.next;
        for revocation in asked {
            let place = self.places.get(&revocation.id).copied();
            let known = place.and_then(|place| self.all.get(&place)).copied();
            let both = known.map_or(*revocation, |known| known.merge(*revocation));
            if known == Some(both) || known.is_none() && self.all.len() >= MOST {
                continue;
            }
            if let Some(place) = place {
                self.all.remove(&place);
            }
            self.all.insert(self.next, both);
            self.places.insert(both.id, self.next);
            self.next += 1;
        }
        self.next > before
    }

    /// The store has taken what is `stored`. It need not have been written: what it has already says nothing of the others.
    pub(super) fn forget(&mut self, stored: &[Revocation]) {
        for stored in stored {
            let Some(place) = self.places.get(&stored.id).copied() else {
                continue;
            };
            let known = self.all.get(&place);
            if known.is_some_and(|known| known.merge(*stored) == *stored) {
                self.all.remove(&place);
                self.places.remove(&stored.id);
            }
        }
    }
}

/// Hears of it for one node.
#[derive(Debug)]
pub struct Hearing {
    unkept: watch::Receiver<Unkept>,
    /// The first place that has not been heard of.
    next: u64,
}

impl Hearing {
    /// Nothing has been heard yet.
    pub(super) const fn new(unkept: watch::Receiver<Unkept>) -> Self {
        Self { unkept, next: 0 }
    }

    /// What has not been heard yet, once there is some; for ever, if nobody can ask any more.
    pub async fn more(&mut self) -> Vec<Revocation> {
        loop {
            if let Some(more) = self.next() {
                return more;
            }
            if self.unkept.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn next(&mut self) -> Option<Vec<Revocation>> {
        let unkept = self.unkept.borrow_and_update();
        let more: Vec<_> = unkept.all.range(self.next..).map(|(_, one)| *one).collect();
        self.next = unkept.next;
        Some(more).filter(|more| !more.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(numbers: std::ops::Range<u128>) -> Vec<Revocation> {
        let of = |number| Revocation {
            id: Uuid::from_u128(number),
            before: 7,
            expires_at: 9,
        };
        numbers.map(of).collect()
    }

    #[test]
    fn each_node_hears_once_of_each() {
        let unkept = watch::Sender::new(Unkept::default());
        let add = |asked: &[Revocation]| unkept.send_if_modified(|unkept| unkept.add(asked));
        let mut first = Hearing::new(unkept.subscribe());
        assert_eq!(first.next(), None);
        assert!(add(&ended(0..2)));
        assert_eq!(first.next(), Some(ended(0..2)));
        // It is asked for again and again.
        assert!(!add(&ended(0..2)) && !first.unkept.has_changed().unwrap());
        assert!(add(&ended(1..3)));
        assert_eq!(first.next(), Some(ended(2..3)));
        let longer = ended(1..2).into_iter();
        let longer: Vec<_> = longer
            .map(|one| Revocation {
                expires_at: 10,
                ..one
            })
            .collect();
        assert!(add(&longer));
        assert_eq!(first.next(), Some(longer));
        // A node that comes later hears of all, of each once.
        let mut later = Hearing::new(unkept.subscribe());
        assert_eq!(later.next().unwrap().len(), 3);
        assert!(add(&ended(5..6)));
        for node in [&mut first, &mut later] {
            assert_eq!(node.next(), Some(ended(5..6)));
            assert_eq!(node.next(), None);
        }
    }

    #[test]
    fn what_is_not_stored_is_told_until_it_is_whatever_else_the_store_takes() {
        let unkept = watch::Sender::new(Unkept::default());
        let add = |asked: &[Revocation]| unkept.send_if_modified(|unkept| unkept.add(asked));
        let forget = |stored: &[Revocation]| unkept.send_modify(|unkept| unkept.forget(stored));
        let mut first = Hearing::new(unkept.subscribe());
        assert!(add(&ended(0..3)));
        assert_eq!(first.next(), Some(ended(0..3)));
        forget(&ended(7..8));
        forget(&ended(1..2));
        // Nor is less of it all of it.
        let earlier = ended(2..3).into_iter();
        let earlier: Vec<_> = earlier.map(|one| Revocation { before: 6, ..one }).collect();
        forget(&earlier);
        assert_eq!(first.next(), None);
        let mut later = Hearing::new(unkept.subscribe());
        let rest = [ended(0..1), ended(2..3)].concat();
        assert_eq!(later.next(), Some(rest));
        // What the store does not take once more is told once more.
        assert!(add(&ended(1..2)));
        for node in [&mut first, &mut later] {
            assert_eq!(node.next(), Some(ended(1..2)));
        }
    }

    #[test]
    fn what_is_told_is_bounded() {
        let mut unkept = Unkept::default();
        for number in 0..u128::try_from(MOST).unwrap() {
            assert!(unkept.add(&ended(number..number + 1)));
        }
        assert!(!unkept.add(&ended(900_000..900_001)));
        assert_eq!((unkept.all.len(), unkept.places.len()), (MOST, MOST));
        // What is stored makes room.
        unkept.forget(&ended(5..6));
        assert!(unkept.add(&ended(900_000..900_001)));
        assert_eq!((unkept.all.len(), unkept.places.len()), (MOST, MOST));
    }
}
