//! The configuration on disk: a log of sealed changes, a head that proves it, and now and then a checkpoint of
//! everything, so that a start need not read every change there ever was.
//!
//! A commit costs as much as the change, whatever the number of records: it adds to the end of the log and
//! replaces the head. Beside the store there are exports of it, in case it is lost.
//!
//! sled's own flush does not survive a power cut on Linux, so each commit also syncs sled's file through
//! a descriptor of ours before it is acknowledged.

mod checkpoint;
pub mod etcd;
pub mod export;
mod fault;
mod files;
mod first_format;
mod found;
mod past;
mod pieces;
#[cfg(test)]
mod power_cut;
mod reserve;
pub mod restore;
mod room;
mod seal;
#[cfg(test)]
pub(crate) mod suite;
#[cfg(test)]
mod tests;
mod witness;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::snapshot::{Hash, Revision};
use shared::telemetry::chain;
use sled::Transactional;
use sled::transaction::{ConflictableTransactionError, TransactionError};

use crate::config::Config;
use crate::history::{Entry, History};
use crate::publisher::{Journal, JournalFault};
use checkpoint::{Checkpoint, Checkpoints};
pub use fault::{Fault, StoreError};
use files::file_error;
use first_format::Proof;
pub use found::{Chains, Found};
use past::Past;
pub use past::REVISIONS;
use reserve::Reserve;
use room::{Room, Shortage};
pub(crate) use room::{check_room_to_begin, check_room_to_open};
use seal::Sealer;
pub use seal::SecretsKey;
pub(crate) use seal::is_missing;
use witness::Witness;
pub(crate) use witness::is_begun;

/// How long sled may take to close a store.
const CLOSED: Duration = Duration::from_secs(30);

/// The generation of stores that were made before generations were times.
const FIRST_GENERATION: u64 = 1;

const fn first_generation() -> u64 {
    FIRST_GENERATION
}

/// The generation of a store that is made, or restored, at `now` where `known` is the highest that is known: the time in
/// seconds, so that it comes after those of stores that this machine knows nothing of, and after `known` in any case.
fn generation_after(known: u64, now: UnixTime) -> u64 {
    known.saturating_add(1).max(now.as_secs())
}

/// What the last commit left, sealed under `head`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Head {
    /// Grows when an export takes the store's place; 0 before there is a store. Absent in the first format.
    #[serde(default = "first_generation")]
    generation: u64,
    revision: u64,
    /// Hash of the last log entry, which holds that of the one before.
    chain: Hash,
    /// What proves the records of the first format, which were kept one by one.
    #[serde(flatten, skip_serializing)]
    first: Option<Proof>,
}

/// An open store.
pub struct Store {
    directory: PathBuf,
    /// Tells how much of the disk is free. Tests have others.
    room: fn(&Path) -> std::io::Result<Room>,
    /// What it opens by if the disk is full the next time.
    reserve: Reserve,
    /// Kept for its lock and its background work.
    database: sled::Db,
    log: sled::Tree,
    meta: sled::Tree,
    /// sled's own file, to sync it for real.
    file: File,
    sealer: Arc<Sealer>,
    head: Head,
    /// Knows the last commit, should the database forget it.
    witness: Witness,
    checkpoints: Checkpoints,
    /// How many revisions the log goes back.
    revisions: u64,
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
        let reserve = Reserve::open(directory);
        let database = files::open(directory)?;
        let open = |name: &str| {
            let tree = database.open_tree(name);
            tree.map_err(|error| Fault::from(error).at(directory))
        };
        let (log, meta) = (open("log")?, open("meta")?);
        let file = files::sync_created(directory)?;
        let sealer = Arc::new(Sealer::new(key));
        let mut store = Self {
            directory: directory.to_path_buf(),
            room: Room::of,
            reserve,
            log,
            meta,
            file,
            checkpoints: Checkpoints::new(directory, Arc::clone(&sealer)),
            sealer,
            head: Head::default(),
            witness: Witness::open(directory),
            revisions: REVISIONS,
            broken: None,
            database,
        };
        let config = store.load()?;
        store.check_whole()?;
        if store.head.revision > 0 {
            // One of before there were witnesses has one from now on.
            store.witness.note(&store.head);
        }
        if store.head.generation == 0 {
            store.head.generation = generation_after(0, UnixTime::now());
        }
        if let Ok(room) = Room::of(directory) {
            store.reserve.take(room);
        }
        Ok((store, config))
    }

    /// Refuses a database that was longer once.
    fn check_whole(&self) -> Result<(), StoreError> {
        let Some(seen) = witness::seen(&self.directory) else {
            return Ok(());
        };
        let own = witness::Seen::from(&self.head);
        // A process that ended between its commit and its note leaves a witness that is one behind.
        if (own.generation, own.revision) > (seen.generation, seen.revision) || own == seen {
            return Ok(());
        }
        Err(StoreError::Lost {
            path: self.directory.display().to_string(),
            generation: own.generation,
            revision: Revision(own.revision),
            seen: Revision(seen.revision),
        })
    }

    /// Has the log go back so many revisions. A longer one becomes shorter with the next commits.
    #[must_use]
    pub const fn keeping(mut self, revisions: u64) -> Self {
        self.revisions = revisions;
        self
    }

    /// Closes the store and waits until sled's background threads have let go of its lock: before, its
    /// files can neither be opened again nor moved.
    fn close(mut self) -> Result<(), StoreError> {
        self.checkpoints.finish();
        let path = self.directory.join("db");
        drop(self);
        files::wait_until_unlocked(&path, CLOSED)
    }

    /// The generation: when the store was made or restored, in seconds since 1970, and more than any that was known then.
    pub const fn generation(&self) -> u64 {
        self.head.generation
    }

    /// Fills an empty store with a whole configuration, as `generation`.
    fn fill(&mut self, generation: u64, config: &Config) -> Result<(), StoreError> {
        let head = Head {
            generation,
            revision: config.revision().0,
            ..Head::default()
        };
        self.begin_with(head, config)
    }

    /// Makes `config` what the log goes on from: whole in a checkpoint before the head counts on it.
    fn begin_with(&mut self, head: Head, config: &Config) -> Result<(), StoreError> {
        self.checkpoints
            .write_now(head.generation, config, head.chain)?;
        let sealed = self.sealed(&head);
        let inserted = self.meta.insert(HEAD, sealed).map_err(Fault::from);
        inserted
            .and_then(|_| self.sync())
            .map_err(|fault| fault.at(&self.directory))?;
        self.witness.note(&head);
        self.head = head;
        Ok(())
    }

    fn load(&mut self) -> Result<Config, StoreError> {
        let directory = self.directory.clone();
        let read = |fault: Fault| fault.at(&directory);
        if let Some(sealed) = self.meta.get(HEAD).map_err(Fault::from).map_err(read)? {
            let head = self.sealer.open(HEAD, &sealed).ok_or_else(|| {
                StoreError::Key(format!(
                    "the store in {} was sealed with another key: set secrets_key_file to that key",
                    directory.display()
                ))
            })?;
            self.head = serde_json::from_slice(&head)
                .map_err(|error| read(Fault::damaged(error.to_string())))?;
        }
        match self.head.first.take() {
            Some(proof) => self.take_over(&proof),
            None => self.replay().map_err(read),
        }
    }

    /// Reads a store of the first format, and makes it one of this.
    fn take_over(&mut self, proof: &Proof) -> Result<Config, StoreError> {
        let directory = self.directory.clone();
        let at = |fault: Fault| fault.at(&directory);
        let records = self.database.open_tree(first_format::RECORDS);
        let records = records.map_err(Fault::from).map_err(at)?;
        let revision = Revision(self.head.revision);
        let config = first_format::read(&records, &self.sealer, proof, revision).map_err(at)?;
        drop(records);
        self.begin_with(self.head.clone(), &config)?;
        let dropped = self.database.drop_tree(first_format::RECORDS);
        dropped.map_err(Fault::from).map_err(at)?;
        self.sync().map_err(at)?;
        Ok(config)
    }

    /// What the newest checkpoint holds and the log has added to it since. If that does not lead to the head, the
    /// checkpoint before it is tried, and at last the whole log.
    fn replay(&mut self) -> Result<Config, Fault> {
        let mut reason = None;
        for path in self.checkpoints.candidates(self.head.generation) {
            let tried = self.checkpoints.read(&path).and_then(|checkpoint| {
                let revision = checkpoint.config.revision().0;
                self.follow(checkpoint).map(|found| (revision, found))
            });
            match tried {
                Ok((revision, (config, bytes))) => {
                    self.checkpoints.opened(revision, &path, bytes);
                    return Ok(config);
                }
                Err(fault) => {
                    tracing::warn!(file = %path.display(), error = %chain(&fault), "a checkpoint is ignored");
                    reason.get_or_insert(fault);
                }
            }
        }
        let nothing = Checkpoint {
            config: Config::default(),
            chain: Hash::default(),
        };
        let (config, bytes) = self
            .follow(nothing)
            .map_err(|fault| reason.unwrap_or(fault))?;
        self.checkpoints.opened(0, &self.directory, bytes);
        Ok(config)
    }

    /// What the log leads to from `checkpoint`, which has to be the head, and the bytes that were read for it.
    fn follow(&self, checkpoint: Checkpoint) -> Result<(Config, usize), Fault> {
        let Checkpoint {
            mut config,
            mut chain,
        } = checkpoint;
        if config.revision().0 > self.head.revision {
            return Err(Fault::damaged("it is newer than the head"));
        }
        let mut bytes = 0;
        while config.revision().0 < self.head.revision {
            let revision = config.revision().next();
            let missing = || Fault::Damaged(format!("revision {revision} is missing in the log"));
            let packed = past::read(&self.log, &self.sealer, revision)?.ok_or_else(missing)?;
            let (entry, previous) = Entry::unpack_linked(revision, &packed)
                .map_err(|fault| Fault::Damaged(fault.to_string()))?;
            if previous != chain {
                let what = format!("revision {revision} does not follow the one before");
                return Err(Fault::Damaged(what));
            }
            chain = *blake3::hash(&packed).as_bytes();
            bytes += packed.len();
            config.apply(&entry.change(), revision);
        }
        if chain == self.head.chain {
            Ok((config, bytes))
        } else {
            Err(Fault::damaged("the log does not lead to the head"))
        }
    }

    fn sealed(&self, head: &Head) -> Vec<u8> {
        let json = serde_json::to_vec(head).expect("numbers and bytes are JSON");
        self.sealer.seal(HEAD, &json)
    }

    fn sync(&self) -> Result<(), Fault> {
        self.database.flush()?;
        Ok(self.file.sync_data()?)
    }

    /// Refuses writes for which there is no room, or after one that failed.
    fn check_writable(&mut self) -> Result<(), JournalFault> {
        if let Some(reason) = &self.broken {
            return Err(read_only(reason));
        }
        // A disk that does not tell its space is not thereby full.
        if let Ok(room) = (self.room)(&self.directory) {
            let shortage = |shortage: Shortage| JournalFault::NoRoom(shortage.to_string());
            room.check().map_err(shortage)?;
            self.reserve.take(room);
        }
        Ok(())
    }

    /// Acknowledges nothing any more, since nobody knows what a write that failed has left.
    fn breaks(&mut self, error: &(dyn std::error::Error + 'static)) -> JournalFault {
        let reason = chain(error).to_string();
        tracing::error!(error = reason, "store is read-only from now on");
        let fault = read_only(&reason);
        self.broken = Some(reason);
        fault
    }

    fn write(&mut self, entry: &Entry) -> Result<(), Fault> {
        let packed = entry.pack(&self.head.chain)?;
        let head = Head {
            revision: entry.revision.0,
            chain: *blake3::hash(&packed).as_bytes(),
            ..self.head.clone()
        };
        let name = past::log_name(entry.revision);
        let sealed = self.sealer.seal(&name, &packed);
        let sealed_head = self.sealed(&head);
        let forgotten = past::forgotten(
            &self.log,
            entry.revision,
            self.revisions,
            self.checkpoints.newest(),
        );
        (&self.log, &self.meta)
            .transaction(|(log, meta)| {
                for (name, pieces) in &forgotten {
                    pieces::remove(log, name, *pieces)?;
                }
                pieces::put(log, &name, &sealed)?;
                meta.insert(HEAD, sealed_head.as_slice())?;
                Ok::<(), ConflictableTransactionError<()>>(())
            })
            .map_err(|error| match error {
                TransactionError::Storage(error) => Fault::from(error),
                TransactionError::Abort(()) => Fault::damaged("the transaction was aborted"),
            })?;
        self.sync()?;
        self.witness.note(&head);
        self.head = head;
        self.checkpoints.grow(packed.len());
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

    fn checkpoint(&mut self, config: &Config) -> Result<(), JournalFault> {
        let Head {
            generation,
            revision,
            chain,
            ..
        } = self.head;
        if self.broken.is_none() && config.revision().0 == revision {
            self.checkpoints.consider(generation, config, chain);
        }
        Ok(())
    }

    fn pass(
        &mut self,
        known: u64,
        config: &Config,
        now: UnixTime,
    ) -> Result<Option<u64>, JournalFault> {
        self.check_writable()?;
        let head = Head {
            generation: generation_after(known, now),
            ..self.head.clone()
        };
        let generation = head.generation;
        self.begin_with(head, config)
            .map_err(|error| self.breaks(&error))?;
        Ok(Some(generation))
    }

    fn commit(&mut self, entry: &Entry) -> Result<(), JournalFault> {
        self.check_writable()?;
        if entry.revision.0 != self.head.revision + 1 {
            return Err(JournalFault::Broken(format!(
                "revision {} does not follow {}",
                entry.revision, self.head.revision
            )));
        }
        self.write(entry).map_err(|fault| self.breaks(&fault))
    }
}

/// The name of the head in its tree.
const HEAD: &[u8] = b"head";

fn read_only(reason: &str) -> JournalFault {
    JournalFault::Broken(format!("read-only until the next start: {reason}"))
}
