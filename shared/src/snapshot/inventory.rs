//! Which records there are, and the hashes that prove it.
//!
//! Records lie in 1,024 buckets. Each bucket has a digest, and the root is the hash of all digests: a
//! change re-hashes its bucket and the list of digests, and two sides that compare digests learn where
//! they differ without telling each other what they have. A value: changing one shares what stayed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Hash, Key};

/// How many buckets a root covers.
pub const BUCKETS: usize = 1024;

/// Which record, and the hash of its content.
type Entry = (Key, Hash);

/// The keys of a set of records with their content hashes.
#[derive(Clone, Debug)]
pub struct Inventory {
    buckets: Vec<Arc<Bucket>>,
    root: Hash,
    configuration: Hash,
}

#[derive(Debug)]
struct Bucket {
    /// Sorted by key.
    entries: Vec<Entry>,
    digest: Hash,
    /// The same without the records that are urgent: those come and go by themselves.
    configured: Hash,
}

/// What leads from one set of records to another.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Difference {
    /// Records that are new or have another content.
    pub puts: Vec<Key>,
    /// Records that are gone.
    pub removes: Vec<Key>,
}

impl Difference {
    /// How many records it is about.
    pub fn len(&self) -> usize {
        self.puts.len() + self.removes.len()
    }

    /// Whether both sets are the same.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Bucket {
    fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by_key(|(key, _)| *key);
        let digest = digest(entries.iter());
        let is_configured = |(key, _): &&Entry| !key.is_urgent();
        let configured = if entries.iter().all(|entry| is_configured(&entry)) {
            digest
        } else {
            self::digest(entries.iter().filter(is_configured))
        };
        Self {
            entries,
            digest,
            configured,
        }
    }
}

/// The hash that proves `entries`, sorted by key.
fn digest<'a>(entries: impl Iterator<Item = &'a Entry>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for (key, content) in entries {
        // Every part has a fixed length or an end mark, so that no two record sets hash the same bytes.
        hasher
            .update(key.kind.as_bytes())
            .update(&[0])
            .update(key.id.as_bytes())
            .update(content);
    }
    *hasher.finalize().as_bytes()
}

/// The hash that proves what has `digests`.
fn root<'a>(digests: impl Iterator<Item = &'a Hash>) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for digest in digests {
        hasher.update(digest);
    }
    *hasher.finalize().as_bytes()
}

impl Default for Inventory {
    fn default() -> Self {
        Self::new(std::iter::empty())
    }
}

impl Inventory {
    /// The inventory of records, given as key and content hash in any order.
    pub fn new(records: impl Iterator<Item = Entry>) -> Self {
        let mut buckets = vec![Vec::new(); BUCKETS];
        for entry in records {
            if let Some(bucket) = buckets.get_mut(bucket_of(&entry.0)) {
                bucket.push(entry);
            }
        }
        Self::of(
            buckets
                .into_iter()
                .map(|entries| Arc::new(Bucket::new(entries)))
                .collect(),
        )
    }

    fn of(buckets: Vec<Arc<Bucket>>) -> Self {
        Self {
            root: root(buckets.iter().map(|bucket| &bucket.digest)),
            configuration: root(buckets.iter().map(|bucket| &bucket.configured)),
            buckets,
        }
    }

    /// The hash that proves all of it.
    pub const fn root(&self) -> Hash {
        self.root
    }

    /// The hash that proves what was configured: all but the records that are urgent (see [`Key::is_urgent`]), which come and
    /// go by themselves.
    pub const fn configuration(&self) -> Hash {
        self.configuration
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.entries.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The content hash of a record.
    pub fn content(&self, key: &Key) -> Option<Hash> {
        let entries = &self.buckets.get(bucket_of(key))?.entries;
        let at = entries.binary_search_by_key(key, |(key, _)| *key).ok()?;
        entries.get(at).map(|(_, content)| *content)
    }

    /// This inventory with some records changed (`Some` content) or gone (`None`).
    #[must_use]
    pub fn with(&self, changes: impl IntoIterator<Item = (Key, Option<Hash>)>) -> Self {
        let mut touched: BTreeMap<usize, BTreeMap<Key, Option<Hash>>> = BTreeMap::new();
        for (key, content) in changes {
            touched
                .entry(bucket_of(&key))
                .or_default()
                .insert(key, content);
        }
        let mut buckets = self.buckets.clone();
        for (at, changes) in touched {
            if let Some(bucket) = buckets.get_mut(at) {
                let stay = bucket
                    .entries
                    .iter()
                    .filter(|(key, _)| !changes.contains_key(key))
                    .copied();
                let come = changes
                    .iter()
                    .filter_map(|(key, content)| Some((*key, (*content)?)));
                *bucket = Arc::new(Bucket::new(stay.chain(come).collect()));
            }
        }
        Self::of(buckets)
    }

    /// The digest of every bucket, in order.
    pub fn digests(&self) -> impl Iterator<Item = &Hash> {
        self.buckets.iter().map(|bucket| &bucket.digest)
    }

    /// The keys of one bucket, sorted.
    pub fn bucket(&self, at: usize) -> impl Iterator<Item = Key> {
        let entries = self.buckets.get(at).map(|bucket| bucket.entries.as_slice());
        entries.unwrap_or_default().iter().map(|(key, _)| *key)
    }

    /// The buckets that have another digest than `digests` tell.
    pub fn differing(&self, digests: &[Hash]) -> BucketSet {
        let mut set = BucketSet::default();
        for (at, digest) in self.digests().enumerate() {
            if digests.get(at) != Some(digest) {
                set.insert(at);
            }
        }
        set
    }

    /// What leads from `base` to this.
    pub fn since(&self, base: &Self) -> Difference {
        let mut difference = Difference::default();
        for (old, new) in base.buckets.iter().zip(&self.buckets) {
            if Arc::ptr_eq(old, new) || old.digest == new.digest {
                continue;
            }
            let before: BTreeMap<_, _> = old.entries.iter().copied().collect();
            let after: BTreeMap<_, _> = new.entries.iter().copied().collect();
            let put = after
                .iter()
                .filter(|(key, content)| before.get(key) != Some(content));
            difference.puts.extend(put.map(|(key, _)| *key));
            let gone = before.keys().filter(|key| !after.contains_key(key));
            difference.removes.extend(gone.copied());
        }
        difference
    }
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

/// A set of buckets, as it travels: one bit each.
#[derive(Clone, Eq, PartialEq)]
pub struct BucketSet([u8; BUCKETS / 8]);

impl std::fmt::Debug for BucketSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Default for BucketSet {
    fn default() -> Self {
        Self([0; BUCKETS / 8])
    }
}

impl BucketSet {
    /// The set that `bytes` tell of, if they are one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The set as it travels.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds a bucket. One that does not exist is left out.
    pub fn insert(&mut self, bucket: usize) {
        if let Some(byte) = self.0.get_mut(bucket / 8) {
            *byte |= 1 << (bucket % 8);
        }
    }

    /// Whether `bucket` is in the set.
    pub fn contains(&self, bucket: usize) -> bool {
        let byte = self.0.get(bucket / 8);
        byte.is_some_and(|byte| byte & (1 << (bucket % 8)) != 0)
    }

    /// The buckets of the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..BUCKETS).filter(|bucket| self.contains(*bucket))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::entity::{Entity as _, Revocation};

    fn key(number: u8) -> Key {
        let kinds = ["routes", "services", Revocation::KIND];
        let kind = kinds[usize::from(number) % kinds.len()];
        Key {
            kind,
            id: Uuid::from_u128(u128::from(number)),
        }
    }

    fn inventory(records: &BTreeMap<u8, u8>) -> Inventory {
        Inventory::new(
            records
                .iter()
                .map(|(number, content)| (key(*number), [*content; 32])),
        )
    }

    fn records() -> impl Strategy<Value = BTreeMap<u8, u8>> {
        prop::collection::btree_map(0u8..60, 0u8..3, 0..40)
    }

    proptest! {
        /// Changing step by step, taking over what differs, and making anew all lead to the same root.
        #[test]
        fn every_way_leads_to_the_same_root(before in records(), after in records()) {
            let (old, new) = (inventory(&before), inventory(&after));
            let difference = new.since(&old);
            let puts = difference.puts.iter().map(|key| (*key, new.content(key)));
            let removes = difference.removes.iter().map(|key| (*key, None));
            let patched = old.with(puts.chain(removes));
            prop_assert_eq!(patched.root(), new.root());
            prop_assert_eq!(patched.len(), after.len());
            prop_assert!(new.since(&patched).is_empty());
            prop_assert_eq!(difference.is_empty(), before == after);
            // What comes and goes by itself makes no other configuration, and all else does.
            let configured = |records: &BTreeMap<u8, u8>| {
                let mut records = records.clone();
                records.retain(|number, _| !key(*number).is_urgent());
                records
            };
            let same = configured(&before) == configured(&after);
            prop_assert_eq!(patched.configuration() == old.configuration(), same);
            prop_assert_eq!(patched.configuration(), inventory(&configured(&after)).root());
            // Whoever compares digests finds every bucket with a difference, and no other.
            let digests: Vec<Hash> = old.digests().copied().collect();
            let differing = new.differing(&digests);
            for at in 0..BUCKETS {
                let same = old.bucket(at).map(|key| (key, old.content(&key)))
                    .eq(new.bucket(at).map(|key| (key, new.content(&key))));
                prop_assert_eq!(differing.contains(at), !same);
            }
        }
    }

    #[test]
    fn a_set_of_buckets_travels() {
        let mut set = BucketSet::default();
        for bucket in [0, 7, 8, 1023, 1024] {
            set.insert(bucket);
        }
        let back = BucketSet::from_bytes(set.as_bytes()).unwrap();
        assert_eq!(back.iter().collect::<Vec<_>>(), [0, 7, 8, 1023]);
        assert!(!back.contains(1024) && BucketSet::from_bytes(&[0; 127]).is_none());
    }
}
