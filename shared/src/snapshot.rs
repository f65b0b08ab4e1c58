//! The whole configuration at one revision, and the hash that proves it.
//!
//! See `snapshot/inventory.rs` for what the hash covers.

mod inventory;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::entity::{ClientKey, Entity, Revocation, SessionKey};
use crate::hexadecimal::hexadecimal;

pub use inventory::{BUCKETS, BucketSet, Difference, Inventory};

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// Records of a configuration that a node takes.
pub const MOST_RECORDS: u32 = 1_000_000;

/// Bytes of a configuration that a node takes, as they travel, before packing.
pub const MOST_BYTES: u64 = 512 * 1024 * 1024;

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

/// Where a configuration stands. Ordered by generation, then revision, then what is urgent; equal roots mean
/// equal content.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Position {
    /// Grows only when a backup is restored, so that older revisions stay refused.
    pub generation: u64,
    /// The number of the state.
    pub revision: Revision,
    /// The later state that its keys and revocations are of; 0 if they are of the same. A node that is not to
    /// have a change yet stays at the state before it, but not with the keys of then.
    #[serde(default)]
    pub urgent: Revision,
    /// The hash of its content.
    pub root: Hash,
}

impl Position {
    /// Whether this position comes after `other`.
    pub fn is_after(&self, other: &Self) -> bool {
        let order = |one: &Self| (one.generation, one.revision, one.urgent);
        order(self) > order(other)
    }

    /// Whether a node at `other` has what this is. By when its keys were looked at last two control planes may
    /// tell the same content apart.
    pub fn is_same(&self, other: &Self) -> bool {
        let content = |one: &Self| (one.generation, one.revision, one.root);
        content(self) == content(other)
    }
}

/// The hash as Kong's clients know it: 32 hexadecimal digits, the first half of `root`.
pub fn short_hash(root: &Hash) -> String {
    hexadecimal(root.split_at(16).0)
}

/// Which record: the entity's collection name, such as `routes`, and the id.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    /// The entity's collection name, from its registry.
    pub kind: &'static str,
    /// The record's id.
    pub id: Uuid,
}

impl Key {
    /// Whether such a record reaches every node at once, whatever it may run of the rest. The control plane makes them all
    /// itself; they have their own times of activation, and no route depends on them.
    pub fn is_urgent(&self) -> bool {
        [Revocation::KIND, SessionKey::KIND, ClientKey::KIND].contains(&self.kind)
    }
}

/// One stored instance of an entity, as it travels and as it is hashed.
#[derive(Clone, Eq, PartialEq)]
pub struct Record {
    /// Which record this is.
    pub key: Key,
    /// The record's JSON. May hold secrets.
    pub json: Bytes,
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

/// The configuration of the whole cluster at one position. A value: changing one shares what stayed.
#[derive(Clone)]
pub struct Snapshot {
    /// Where it stands. Its root is that of the records.
    pub position: Position,
    /// Which records there are.
    pub inventory: Inventory,
    records: OrdMap<Key, Bytes>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// Why changes do not fit a snapshot.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PatchFault {
    /// A record that is to be removed does not exist.
    #[error("a change removes a record that does not exist")]
    Missing,
    /// A record is named twice.
    #[error("two changes are of the same record")]
    Twice,
}

impl Snapshot {
    /// Computes the root of `records`.
    pub fn new(generation: u64, revision: Revision, records: Vec<Record>) -> Self {
        let inventory = Inventory::new(
            records
                .iter()
                .map(|record| (record.key, record.content_hash())),
        );
        let records = records.into_iter().map(|record| (record.key, record.json));
        Self::of(generation, revision, records.collect(), inventory)
    }

    fn of(
        generation: u64,
        revision: Revision,
        records: OrdMap<Key, Bytes>,
        inventory: Inventory,
    ) -> Self {
        let position = Position {
            generation,
            revision,
            urgent: Revision::default(),
            root: inventory.root(),
        };
        Self {
            position,
            inventory,
            records,
        }
    }

    /// The hash that proves what was configured: all but keys and revocations, which change by themselves.
    pub const fn configuration(&self) -> Hash {
        self.inventory.configuration()
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Every record, by key. A clone of a record shares its bytes.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let records = self.records.iter();
        records.map(|(key, json)| Record {
            key: *key,
            json: json.clone(),
        })
    }

    /// Every record of one kind, by id.
    pub fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = Record> + '_ {
        let bound = |id| Key { kind, id };
        let records = self.records.range(bound(Uuid::nil())..=bound(Uuid::max()));
        records.map(|(key, json)| Record {
            key: *key,
            json: json.clone(),
        })
    }

    /// One record.
    pub fn record(&self, key: &Key) -> Option<Record> {
        let json = self.records.get(key)?.clone();
        Some(Record { key: *key, json })
    }

    /// The same position and proof with other bytes for some records: for readers here only, who see what is behind
    /// the references in them.
    #[must_use]
    pub fn read_as(&self, records: impl IntoIterator<Item = Record>) -> Self {
        let mut read = self.clone();
        for record in records {
            read.records.insert(record.key, record.json);
        }
        read
    }

    /// This content with `puts` in it and without `removes`, at another position.
    pub fn patched(
        &self,
        generation: u64,
        revision: Revision,
        puts: Vec<Record>,
        removes: &[Key],
    ) -> Result<Self, PatchFault> {
        let mut changes: BTreeMap<Key, Option<Record>> = BTreeMap::new();
        for record in puts {
            if changes.insert(record.key, Some(record)).is_some() {
                return Err(PatchFault::Twice);
            }
        }
        for key in removes {
            if !self.records.contains_key(key) {
                return Err(PatchFault::Missing);
            }
            if changes.insert(*key, None).is_some() {
                return Err(PatchFault::Twice);
            }
        }
        let inventory = self.inventory.with(
            changes
                .iter()
                .map(|(key, record)| (*key, record.as_ref().map(Record::content_hash))),
        );
        let mut records = self.records.clone();
        for (key, change) in changes {
            match change {
                Some(record) => _ = records.insert(key, record.json),
                None => _ = records.remove(&key),
            }
        }
        Ok(Self::of(generation, revision, records, inventory))
    }

    /// This content with `records` in the place of everything in `buckets`, at another position.
    pub fn with_buckets(
        &self,
        generation: u64,
        revision: Revision,
        buckets: &BucketSet,
        records: Vec<Record>,
    ) -> Result<Self, PatchFault> {
        let keys: BTreeSet<Key> = records.iter().map(|record| record.key).collect();
        let gone: Vec<Key> = buckets
            .iter()
            .flat_map(|bucket| self.inventory.bucket(bucket))
            .filter(|key| !keys.contains(key))
            .collect();
        self.patched(generation, revision, records, &gone)
    }
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
            json: Bytes::copy_from_slice(json.as_bytes()),
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
    fn changes_and_buckets_lead_to_what_was_made_at_once() {
        let before: Vec<Record> = (0..50).map(|id| record("routes", id, "{}")).collect();
        let mut after = before.clone();
        after.retain(|record| record.key.id.as_u128() % 7 != 0);
        after.extend([record("services", 3, "[]"), record("acls", 4, "[]")]);
        for record in after.iter_mut().take(5) {
            record.json = Bytes::from_static(b"[1]");
        }
        let old = Snapshot::new(1, Revision(1), before);
        let new = Snapshot::new(1, Revision(2), after);
        let difference = new.inventory.since(&old.inventory);
        let put = |keys: &mut dyn Iterator<Item = Key>| -> Vec<Record> {
            keys.map(|key| new.record(&key).unwrap()).collect()
        };
        let puts = put(&mut difference.puts.iter().copied());
        let patched = old.patched(1, Revision(2), puts.clone(), &difference.removes);
        let patched = patched.unwrap();
        assert_eq!(
            (patched.position, &patched.records),
            (new.position, &new.records)
        );
        let digests: Vec<Hash> = old.inventory.digests().copied().collect();
        let buckets = new.inventory.differing(&digests);
        let repaired = put(&mut buckets.iter().flat_map(|at| new.inventory.bucket(at)));
        let repaired = old
            .with_buckets(1, Revision(2), &buckets, repaired)
            .unwrap();
        assert_eq!(
            (repaired.position, &repaired.records),
            (new.position, &new.records)
        );
        let again = patched.patched(1, Revision(3), Vec::new(), &difference.removes);
        assert_eq!(again.unwrap_err(), PatchFault::Missing);
        let twice = [puts.clone(), puts].concat();
        let twice = old.patched(1, Revision(2), twice, &[]);
        assert_eq!(twice.unwrap_err(), PatchFault::Twice);
    }

    #[test]
    fn a_generation_outranks_every_revision_and_that_what_is_urgent() {
        let at = |generation, revision, urgent| Position {
            generation,
            revision: Revision(revision),
            urgent: Revision(urgent),
            root: [0; 32],
        };
        let order = [
            at(1, 9, 0),
            at(1, 9, 12),
            at(1, 10, 0),
            at(1, 10, 11),
            at(2, 1, 0),
        ];
        for (place, old) in order.iter().enumerate() {
            for (other, new) in order.iter().enumerate() {
                assert_eq!(new.is_after(old), other > place);
            }
        }
    }
}
