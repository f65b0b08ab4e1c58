//! The store's first format: every record under its own name, proved by a digest in the head. Read once, by the
//! first start of a version that keeps checkpoints.

use serde::{Deserialize, Serialize};
use shared::entity::definition;
use shared::snapshot::{Hash, Key, Revision};
use uuid::Uuid;

use super::seal::Sealer;
use super::{Fault, pieces};
use crate::config::{Change, Config, Stored};

/// The tree of the records.
pub(super) const RECORDS: &str = "records";

/// What the head of the first format says of the records.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Proof {
    /// How many records there are.
    count: usize,
    /// Combination of all records' hashes; independent of their order.
    digest: Hash,
}

/// Every record, if together they are what `proof` says.
pub(super) fn read(
    records: &sled::Tree,
    sealer: &Sealer,
    proof: &Proof,
    revision: Revision,
) -> Result<Config, Fault> {
    let mut puts = Vec::with_capacity(proof.count);
    let mut digest = Hash::default();
    for whole in pieces::walk(records) {
        let (name, value) = whole?;
        let json = sealer.open(&name, &value);
        let json = json.ok_or_else(|| Fault::damaged("a record is not as written"))?;
        let key = parse_name(&name);
        let key = key.ok_or_else(|| Fault::damaged("a record of an unknown kind"))?;
        combine(&mut digest, &record_hash(&name, &json));
        let record = Stored::parse(&json).map_err(|error| Fault::Damaged(error.to_string()))?;
        puts.push((key, record));
    }
    if puts.len() != proof.count || digest != proof.digest {
        let what = format!("{} records instead of {}", puts.len(), proof.count);
        return Err(Fault::Damaged(what));
    }
    let change = Change {
        puts,
        removes: Vec::new(),
    };
    Ok(Config::default().evolve(&change, revision))
}

/// The key in a record's name: kind, a zero byte, id.
fn parse_name(name: &[u8]) -> Option<Key> {
    let (kind, id) = name.split_at_checked(name.iter().position(|byte| *byte == 0)?)?;
    let kind = definition(std::str::from_utf8(kind).ok()?)?.kind;
    Some(Key {
        kind,
        id: Uuid::from_slice(id.get(1..)?).ok()?,
    })
}

fn record_hash(name: &[u8], json: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(name).update(json);
    *hasher.finalize().as_bytes()
}

/// Adds a hash to the digest. Against accidents, which is enough below the seal.
fn combine(digest: &mut Hash, hash: &Hash) {
    for (byte, other) in digest.iter_mut().zip(hash) {
        *byte ^= other;
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::store::{SecretsKey, Store};

    /// A store as the first version wrote it.
    fn recorded(root: &Path) -> (PathBuf, SecretsKey) {
        let key = SecretsKey::read_or_create(&root.join("store.key")).unwrap();
        let sealer = Sealer::new(&key);
        let directory = root.join("store");
        let database = sled::open(&directory).unwrap();
        let records = database.open_tree(RECORDS).unwrap();
        let mut digest = Hash::default();
        for id in 1..=3_u128 {
            let mut name = b"consumers\0".to_vec();
            name.extend_from_slice(Uuid::from_u128(id).as_bytes());
            let json = format!(r#"{{"username":"consumer {id}"}}"#);
            combine(&mut digest, &record_hash(&name, json.as_bytes()));
            let value = sealer.seal(&name, json.as_bytes());
            // One piece of one.
            name.extend_from_slice(&[0, 0, 0, 1]);
            records.insert(name, value).unwrap();
        }
        let head = serde_json::json!({
            "revision": 7, "count": 3, "digest": digest, "chain": Hash::default(),
        });
        let value = sealer.seal(b"head", &serde_json::to_vec(&head).unwrap());
        let meta = database.open_tree("meta").unwrap();
        meta.insert(b"head", value).unwrap();
        database.flush().unwrap();
        (directory, key)
    }

    fn wait(directory: &Path) {
        super::super::files::wait_until_unlocked(&directory.join("db"), super::super::CLOSED)
            .unwrap();
    }

    #[test]
    fn a_store_of_the_first_format_is_taken_over_with_all_records() {
        let root = tempfile::tempdir().unwrap();
        let (directory, key) = recorded(root.path());
        wait(&directory);
        for _ in 0..2 {
            let (store, config) = Store::open(&directory, &key).unwrap();
            assert_eq!((config.revision(), config.len()), (Revision(7), 3));
            assert_eq!(store.generation(), 1);
            let names = store.database.tree_names();
            assert!(names.iter().all(|name| name.as_ref() != RECORDS.as_bytes()));
            store.close().unwrap();
        }
    }

    #[test]
    fn one_with_a_record_missing_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let (directory, key) = recorded(root.path());
        wait(&directory);
        {
            let database = sled::open(&directory).unwrap();
            let records = database.open_tree(RECORDS).unwrap();
            records.pop_min().unwrap();
            database.flush().unwrap();
        }
        wait(&directory);
        let error = Store::open(&directory, &key).unwrap_err().to_string();
        assert!(error.contains("2 records instead of 3"), "{error}");
    }
}
