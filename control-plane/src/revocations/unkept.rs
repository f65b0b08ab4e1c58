//! Sessions that are over though the store does not take that: its disk is full, or etcd out of reach. The nodes that are led
//! here hear of them all the same. Nothing of it outlives this process: whoever has asked for it asks again until it is stored.

use std::collections::HashMap;

use shared::entity::Revocation;
use tokio::sync::watch;
use uuid::Uuid;

/// How many are told. Beyond, they reach other nodes once they are stored.
const MOST: usize = 10_000;

/// What was asked for since the store took something last.
#[derive(Debug, Default)]
pub(super) struct Unkept {
    /// Differs once the store has taken something.
    time: u64,
    /// In the order in which nodes are told.
    all: Vec<Revocation>,
    known: HashMap<Uuid, Revocation>,
}

impl Unkept {
    /// Notes what is `asked`. Whether something of it is new.
    pub(super) fn add(&mut self, asked: &[Revocation]) -> bool {
        let before = self.all.len();
        for revocation in asked {
            let known = self.known.get(&revocation.id).copied();
            let both = known.map_or(*revocation, |known| known.merge(*revocation));
            if self.all.len() < MOST && known != Some(both) {
                self.known.insert(both.id, both);
                self.all.push(both);
            }
        }
        self.all.len() > before
    }

    /// The store takes something again. Whether that is news.
    pub(super) fn clear(&mut self) -> bool {
        if self.all.is_empty() {
            return false;
        }
        *self = Self {
            time: self.time + 1,
            ..Self::default()
        };
        true
    }
}

/// Hears of it for one node.
#[derive(Debug)]
pub struct Hearing {
    unkept: watch::Receiver<Unkept>,
    time: u64,
    heard: usize,
}

impl Hearing {
    /// Nothing has been heard yet.
    pub(super) const fn new(unkept: watch::Receiver<Unkept>) -> Self {
        Self {
            unkept,
            time: 0,
            heard: 0,
        }
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
        if unkept.time != self.time {
            (self.time, self.heard) = (unkept.time, 0);
        }
        let more = unkept.all.get(self.heard..).unwrap_or_default().to_vec();
        self.heard = unkept.all.len();
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
    fn each_node_hears_once_of_each_until_the_store_takes_something() {
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
        // A node that comes later hears of all.
        let mut later = Hearing::new(unkept.subscribe());
        assert_eq!(later.next().unwrap().len(), 4);
        assert!(unkept.send_if_modified(Unkept::clear));
        assert!(!unkept.send_if_modified(Unkept::clear));
        assert!(add(&ended(0..1)));
        for node in [&mut first, &mut later] {
            assert_eq!(node.next(), Some(ended(0..1)));
            assert_eq!(node.next(), None);
        }
    }

    #[test]
    fn what_is_told_is_bounded() {
        let mut unkept = Unkept::default();
        for number in 0..u128::try_from(MOST).unwrap() {
            assert!(unkept.add(&ended(number..number + 1)));
        }
        assert!(!unkept.add(&ended(900_000..900_001)));
        assert_eq!((unkept.all.len(), unkept.known.len()), (MOST, MOST));
    }
}
