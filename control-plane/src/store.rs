//! The configuration on disk: sealed records, a log of changes, and a head that proves both.
//!
//! Beside the store there are exports of it, in case it is lost.
//!
//! sled's own flush does not survive a power cut on Linux, so each commit also syncs sled's file through
//! a descriptor of ours before it is acknowledged.

pub mod etcd;
pub mod export;
mod files;
mod past;
mod pieces;
#[cfg(test)]
mod power_cut;
pub mod restore;
mod room;
mod seal;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::entity::definition;
use shared::snapshot::{Hash, Key, Revision};
use sled::Transactional;
use sled::transaction::{ConflictableTransactionError, TransactionError};
use uuid::Uuid;

use crate::config::{Change, Config, Stored};
use crate::history::{Entry, History, Origin};
use crate::publisher::{Journal, JournalFault};
use files::file_error;
use past::Past;
use room::Room;
use seal::Sealer;
pub use seal::SecretsKey;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or a file of it cannot be used.
    #[error("{attempt} {path}")]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The database does not open.
    #[error(
        "opening the store in {path}: {reason}; if another control plane uses it, stop that one first"
    )]
    Open {
        /// Where.
        path: String,
        /// Why not.
        reason: String,
    },
    /// Content does not prove itself.
    #[error("the store in {path} is damaged: {what}; restore it from a backup")]
    Damaged {
        /// Where.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The store opens, but an export of it knows a later state.
    #[error(
        "the store has lost writes: it is at revision {revision} of generation {generation}, older than its export \
         {path}; restore that (`wardgate-control-plane restore --from {path}`) or move it away to go on without"
    )]
    Behind {
        /// The store's generation.
        generation: u64,
        /// The store's revision.
        revision: Revision,
        /// The export.
        path: String,
    },
    /// A file is no export that can be restored.
    #[error("{path} cannot be restored: {what}")]
    Export {
        /// The file.
        path: String,
        /// Why not.
        what: String,
    },
    /// etcd.
    #[error(transparent)]
    Etcd(#[from] etcd::EtcdError),
    /// The key that seals the store does not fit, or cannot be read.
    #[error("{0}")]
    Key(String),
}

/// How long sled may take to close a store.
const CLOSED: Duration = Duration::from_secs(30);

/// The generation of a store that was never restored from an export.
const FIRST_GENERATION: u64 = 1;

const fn first_generation() -> u64 {
    FIRST_GENERATION
}

/// What the last commit left, sealed under `head`.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Head {
    /// Grows when an export takes the store's place. Absent in the first format.
    #[serde(default = "first_generation")]
    generation: u64,
    revision: u64,
    /// How many records there are.
    count: usize,
    /// Combination of all records' hashes; independent of their order.
    digest: Hash,
    /// Hash of the last log entry, which holds that of the one before.
    chain: Hash,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            generation: FIRST_GENERATION,
            revision: 0,
            count: 0,
            digest: Hash::default(),
            chain: Hash::default(),
        }
    }
}

/// An open store.
pub struct Store {
    directory: PathBuf,
    /// Tells how much of the disk is free. Tests have others.
    room: fn(&Path) -> std::io::Result<Room>,
    /// Kept for its lock and its background work.
    database: sled::Db,
    records: sled::Tree,
    log: sled::Tree,
    meta: sled::Tree,
    /// sled's own file, to sync it for real.
    file: File,
    sealer: Arc<Sealer>,
    head: Head,
    /// The hash of each record, to take it out of the digest when the record changes.
    hashes: HashMap<Key, Hash>,
    /// Why nothing is acknowledged any more. A failed sync may have lost pages: it is never retried.
    broken: Option<String>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("revision", &self.head.revision)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `directory`, repairs what a crash left, and reads and checks everything.
    pub fn open(directory: &Path, key: &SecretsKey) -> Result<(Self, Config), StoreError> {
        let database = files::open(directory)?;
        let open = |name: &str| {
            database
                .open_tree(name)
                .map_err(|error| damaged(directory, error.to_string()))
        };
        let (records, log, meta) = (open("records")?, open("log")?, open("meta")?);
        let file = files::sync_created(directory)?;
        let mut store = Self {
            directory: directory.to_path_buf(),
            room: Room::of,
            records,
            log,
            meta,
            file,
            sealer: Arc::new(Sealer::new(key)),
            head: Head::default(),
            hashes: HashMap::new(),
            broken: None,
            database,
        };
        let config = store.load(directory)?;
        Ok((store, config))
    }

    /// Closes the store and waits until sled's background threads have let go of its lock: before, its
    /// files can neither be opened again nor moved.
    fn close(self) -> Result<(), StoreError> {
        let path = self.directory.join("db");
        drop(self);
        files::wait_until_unlocked(&path, CLOSED)
    }

    /// How often the store was made anew from an export, counted from 1.
    pub const fn generation(&self) -> u64 {
        self.head.generation
    }

    /// Fills an empty store with a whole configuration, as `generation`.
    fn fill(&mut self, generation: u64, config: &Config) -> Result<(), String> {
        self.head.generation = generation;
        let puts = config.records().map(|(key, record)| (*key, record.clone()));
        let change = Change {
            puts: puts.collect(),
            removes: Vec::new(),
        };
        let (empty, origin) = (Config::default(), Origin::system());
        self.write(&Entry::of(
            &empty,
            &change,
            config.revision(),
            UnixTime::now(),
            &origin,
        ))
    }

    fn load(&mut self, directory: &Path) -> Result<Config, StoreError> {
        let read = |error: sled::Error| damaged(directory, error.to_string());
        if let Some(sealed) = self.meta.get(HEAD).map_err(read)? {
            let head = self.sealer.open(HEAD, &sealed).ok_or_else(|| {
                StoreError::Key(format!(
                    "the store in {} was sealed with another key: set secrets_key_file to that key",
                    directory.display()
                ))
            })?;
            self.head = serde_json::from_slice(&head)
                .map_err(|error| damaged(directory, error.to_string()))?;
        }
        let mut puts = Vec::with_capacity(self.head.count);
        let mut digest = Hash::default();
        for whole in pieces::walk(&self.records) {
            let (name, sealed) = whole.map_err(|what| damaged(directory, what))?;
            let json = self.sealer.open(&name, &sealed);
            let json =
                json.ok_or_else(|| damaged(directory, "a record is not as written".into()))?;
            let key = parse_name(&name)
                .ok_or_else(|| damaged(directory, "a record of an unknown kind".into()))?;
            let hash = record_hash(&name, &json);
            combine(&mut digest, &hash);
            self.hashes.insert(key, hash);
            let record =
                Stored::parse(&json).map_err(|error| damaged(directory, error.to_string()))?;
            puts.push((key, record));
        }
        if puts.len() != self.head.count || digest != self.head.digest {
            let what = format!("{} records instead of {}", puts.len(), self.head.count);
            return Err(damaged(directory, what));
        }
        let change = Change {
            puts,
            removes: Vec::new(),
        };
        Ok(Config::default().evolve(&change, Revision(self.head.revision)))
    }

    fn write(&mut self, entry: &Entry) -> Result<(), String> {
        let mut head = Head {
            revision: entry.revision.0,
            ..self.head.clone()
        };
        let mut hashes: Vec<(Key, Option<Hash>)> = Vec::with_capacity(entry.edits.len());
        let mut puts = Vec::new();
        let mut old: Vec<(Vec<u8>, usize)> = Vec::new();
        for edit in &entry.edits {
            let name = name(edit.key);
            if self.hashes.contains_key(&edit.key) {
                old.push((name.clone(), pieces::count(&self.records, &name)));
            }
            let hash = edit.after.as_ref().map(|record| {
                let hash = record_hash(&name, record.json());
                puts.push((name.clone(), self.sealer.seal(&name, record.json())));
                hash
            });
            hashes.push((edit.key, hash));
        }
        for (key, hash) in &hashes {
            match self.hashes.get(key) {
                Some(old) => combine(&mut head.digest, old),
                None => head.count += usize::from(hash.is_some()),
            }
            match hash {
                Some(new) => combine(&mut head.digest, new),
                None => head.count -= usize::from(self.hashes.contains_key(key)),
            }
        }
        let packed = entry
            .pack(&self.head.chain)
            .map_err(|error| error.to_string())?;
        head.chain = *blake3::hash(&packed).as_bytes();
        let log_name = past::log_name(entry.revision);
        let packed = self.sealer.seal(&log_name, &packed);
        let sealed_head = serde_json::to_vec(&head).map_err(|error| error.to_string())?;
        let sealed_head = self.sealer.seal(HEAD, &sealed_head);

        let forgotten = past::forgotten(&self.log, entry.revision);
        (&self.records, &self.log, &self.meta)
            .transaction(|(records, log, meta)| {
                for (name, pieces) in &old {
                    pieces::remove(records, name, *pieces)?;
                }
                for (name, sealed) in &puts {
                    pieces::put(records, name, sealed)?;
                }
                if let Some((name, pieces)) = &forgotten {
                    pieces::remove(log, name, *pieces)?;
                }
                pieces::put(log, &log_name, &packed)?;
                meta.insert(HEAD, sealed_head.as_slice())?;
                Ok::<(), ConflictableTransactionError<()>>(())
            })
            .map_err(|error| match error {
                TransactionError::Storage(error) => error.to_string(),
                TransactionError::Abort(()) => "the transaction was aborted".to_owned(),
            })?;
        self.database.flush().map_err(|error| error.to_string())?;
        self.file.sync_data().map_err(|error| error.to_string())?;
        for (key, hash) in hashes {
            match hash {
                Some(hash) => self.hashes.insert(key, hash),
                None => self.hashes.remove(&key),
            };
        }
        self.head = head;
        Ok(())
    }
}

impl Journal for Store {
    fn history(&self) -> Arc<dyn History> {
        Arc::new(Past {
            log: self.log.clone(),
            sealer: Arc::clone(&self.sealer),
        })
    }

    fn commit(&mut self, entry: &Entry) -> Result<(), JournalFault> {
        if let Some(reason) = &self.broken {
            let reason = format!("read-only until the next start: {reason}");
            return Err(JournalFault::Broken(reason));
        }
        if entry.revision.0 != self.head.revision + 1 {
            return Err(JournalFault::Broken(format!(
                "revision {} does not follow {}",
                entry.revision, self.head.revision
            )));
        }
        // A disk that does not tell its space is not thereby full.
        if let Ok(room) = (self.room)(&self.directory) {
            room.check().map_err(JournalFault::NoRoom)?;
        }
        self.write(entry).map_err(|reason| {
            tracing::error!(%reason, "store is read-only from now on");
            self.broken = Some(reason.clone());
            JournalFault::Broken(reason)
        })
    }
}

/// The name of the head in its tree.
const HEAD: &[u8] = b"head";

fn damaged(directory: &Path, what: String) -> StoreError {
    StoreError::Damaged {
        path: directory.display().to_string(),
        what,
    }
}

/// A record's name in its tree: kind, a zero byte, id.
fn name(key: Key) -> Vec<u8> {
    let mut name = key.kind.as_bytes().to_vec();
    name.push(0);
    name.extend_from_slice(key.id.as_bytes());
    name
}

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

/// Adds a hash to the digest, or takes it out again. Against accidents, which is enough below the seal.
fn combine(digest: &mut Hash, hash: &Hash) {
    for (byte, other) in digest.iter_mut().zip(hash) {
        *byte ^= other;
    }
}
