//! What was published before: enough to tell the difference to it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use shared::snapshot::{Hash, Inventory};

/// How many inventories are remembered.
const REMEMBERED: usize = 1000;

/// Bytes that they may take. What one shares with the next counts once.
const BYTES: usize = 64 * 1024 * 1024;

/// Bytes of an inventory that it shares with no other: its list of buckets.
const LIST: usize = 8 * 1024;

/// Bytes of a bucket's fixed part, and of one entry.
const BUCKET: usize = 64;
const ENTRY: usize = 56;

/// The inventories of what was published, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ring(Mutex<Remembered>);

#[derive(Debug, Default)]
struct Remembered {
    inventories: VecDeque<(Inventory, usize)>,
    bytes: usize,
}

impl Ring {
    /// Remembers `inventory`, which differed in `changed` records from its successor.
    pub(super) fn push(&self, inventory: Inventory, changed: usize) {
        let mut remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let records = inventory.len();
        let buckets = changed.min(shared::snapshot::BUCKETS);
        let own = buckets * (BUCKET + ENTRY * (records / shared::snapshot::BUCKETS + 1));
        remembered.bytes += LIST + own;
        remembered.inventories.push_back((inventory, LIST + own));
        while remembered.inventories.len() > REMEMBERED || remembered.bytes > BYTES {
            let Some((_, bytes)) = remembered.inventories.pop_front() else {
                return;
            };
            remembered.bytes -= bytes;
        }
    }

    /// The inventory that had `root`.
    pub(super) fn find(&self, root: &Hash) -> Option<Inventory> {
        let remembered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = remembered
            .inventories
            .iter()
            .rev()
            .find(|(inventory, _)| inventory.root() == *root);
        found.map(|(inventory, _)| inventory.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::snapshot::Key;
    use uuid::Uuid;

    fn inventory(number: u128) -> Inventory {
        let key = Key {
            kind: "routes",
            id: Uuid::from_u128(number),
        };
        Inventory::new(std::iter::once((key, [1; 32])))
    }

    #[test]
    fn the_newest_are_remembered_within_bounds() {
        let ring = Ring::default();
        for number in 0..1_100 {
            ring.push(inventory(number), 1);
        }
        let knows = |number| ring.find(&inventory(number).root()).is_some();
        assert!(!knows(99) && knows(100) && knows(1_099));
        // One that shares nothing with its neighbours takes the place of many.
        for number in 2_000..2_060 {
            ring.push(inventory(number), 1024 * 100);
        }
        assert!(knows(2_059));
        let bytes = ring.0.lock().unwrap().bytes;
        assert!(bytes <= BYTES, "{bytes}");
    }
}
