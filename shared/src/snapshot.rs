//! The whole configuration at one revision, and the hash that proves it.
//!
//! The root covers 1,024 buckets, so that one change re-hashes one bucket and the list of buckets.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How many buckets a root covers.
const BUCKETS: usize = 1024;

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// The number of a committed state: one more per change.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a configuration stands. Ordered by generation, then revision; equal roots mean equal content.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Position {
    /// Grows only when a backup is restored, so that older revisions stay refused.
    pub generation: u64,
    /// The number of the state.
    pub revision: Revision,
    /// The hash of its content.
    pub root: Hash,
}

impl Position {
    /// Whether this position comes after `other`.
    pub fn is_after(&self, other: &Self) -> bool {
        (self.generation, self.revision) > (other.generation, other.revision)
    }
}

/// The hash as Kong's clients know it: 32 hexadecimal digits, the first half of `root`.
pub fn short_hash(root: &Hash) -> String {
    use fmt::Write as _;
    root.iter().take(16).fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Which record: the entity's collection name, such as `routes`, and the id.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    /// The entity's collection name, from its registry.
    pub kind: &'static str,
    /// The record's id.
    pub id: Uuid,
}

/// One stored instance of an entity, as it travels and as it is hashed.
#[derive(Clone, Eq, PartialEq)]
pub struct Record {
    /// Which record this is.
    pub key: Key,
    /// The record's JSON. May hold secrets.
    pub json: Vec<u8>,
}

impl Record {
    /// The BLAKE3 hash of the JSON.
    pub fn content_hash(&self) -> Hash {
        *blake3::hash(&self.json).as_bytes()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// The configuration of the whole cluster at one position, sorted by key.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where it stands. Its root is that of `records`.
    pub position: Position,
    /// Every record, sorted by key, each key once.
    pub records: Vec<Record>,
}

impl Snapshot {
    /// Puts `records` in order and computes their root.
    pub fn new(generation: u64, revision: Revision, mut records: Vec<Record>) -> Self {
        records.sort_by_key(|record| record.key);
        let root = root(
            records
                .iter()
                .map(|record| (record.key, record.content_hash())),
        );
        Self {
            position: Position {
                generation,
                revision,
                root,
            },
            records,
        }
    }
}

/// The root of a set of records, given as key and content hash, sorted by key.
pub fn root(records: impl Iterator<Item = (Key, Hash)>) -> Hash {
    let mut buckets: Vec<blake3::Hasher> = vec![blake3::Hasher::new(); BUCKETS];
    for (key, content_hash) in records {
        if let Some(bucket) = buckets.get_mut(bucket_of(&key)) {
            add(bucket, &key, &content_hash);
        }
    }
    let mut whole = blake3::Hasher::new();
    for bucket in &buckets {
        whole.update(bucket.finalize().as_bytes());
    }
    *whole.finalize().as_bytes()
}

/// The bucket of a record: the first ten bits of the hash of its key.
fn bucket_of(key: &Key) -> usize {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(key.kind.as_bytes())
        .update(&[0])
        .update(key.id.as_bytes());
    let hash = hasher.finalize();
    let [first, second, ..] = hash.as_bytes();
    (usize::from(*first) << 2) | usize::from(*second >> 6)
}

/// Every part has a fixed length or an end mark, so that no two record sets hash the same bytes.
fn add(bucket: &mut blake3::Hasher, key: &Key, content_hash: &Hash) {
    bucket
        .update(key.kind.as_bytes())
        .update(&[0])
        .update(key.id.as_bytes())
        .update(content_hash);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: &'static str, id: u128, json: &str) -> Record {
        Record {
            key: Key {
                kind,
                id: Uuid::from_u128(id),
            },
            json: json.as_bytes().to_vec(),
        }
    }

    #[test]
    fn the_root_does_not_depend_on_the_order_of_arrival() {
        let (a, b) = (record("routes", 1, "{}"), record("services", 2, "[]"));
        let one = Snapshot::new(1, Revision(1), vec![a.clone(), b.clone()]);
        let other = Snapshot::new(1, Revision(9), vec![b, a]);
        assert_eq!(one.position.root, other.position.root);
    }

    #[test]
    fn any_difference_changes_the_root() {
        let base = Snapshot::new(1, Revision(1), vec![record("routes", 1, "{}")])
            .position
            .root;
        for other in [
            record("routes", 1, "[]"),
            record("routes", 2, "{}"),
            record("services", 1, "{}"),
        ] {
            assert_ne!(
                Snapshot::new(1, Revision(1), vec![other]).position.root,
                base
            );
        }
        assert_ne!(Snapshot::new(1, Revision(1), vec![]).position.root, base);
    }

    #[test]
    fn a_generation_outranks_every_revision() {
        let old = Position {
            generation: 1,
            revision: Revision(100),
            root: [0; 32],
        };
        let new = Position {
            generation: 2,
            revision: Revision(1),
            root: [0; 32],
        };
        assert!(new.is_after(&old) && !old.is_after(&new) && !old.is_after(&old));
    }
}
