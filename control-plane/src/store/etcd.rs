//! The configuration in etcd, for several control planes over one store. There is no leader: whoever
//! commits names the head that the change was decided on, and decides again if that is not the head any
//! more.
//!
//! ```text
//! PREFIX/head                  what was committed last, and by which write
//! PREFIX/log/REVISION          each change, sealed, or where its parts are
//! PREFIX/part/WRITE/NUMBER     parts of a change that is too large for one value
//! PREFIX/checkpoint/latest     which checkpoint a start begins with
//! PREFIX/checkpoint/WRITE/NUMBER
//! PREFIX/fleet/REPLICA/PART    what each control plane knows of its nodes, and PREFIX/order/… for those of others
//! PREFIX/rollouts              changes on their way through the fleet
//! PREFIX/flight/KEY            work that one node of all control planes does, what came of it; and what their nodes need of each other (claims/asides.rs)
//! ```
//!
//! A change of any size is there with one small transaction: its parts are written before, and nobody
//! looks for them until the log names them. No watch is trusted: every control plane asks for the head
//! many times a second, which finds everything that a watch could lose.

mod background;
mod board;
mod checkpoint;
mod claims;
mod client;
mod generation;
mod regression;
mod replace;
mod server;
mod settling;
mod sweep;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use shared::clock::{UnixTime, monotonic};
use shared::snapshot::{Hash, Revision};
use uuid::Uuid;

use super::past::REVISIONS;
use super::seal::{Sealer, SecretsKey};
use super::{Found, StoreError};
use crate::config::Config;
use crate::history::{Entry, History, HistoryFault};
use crate::publisher::{Journal, JournalFault, Newer};
use background::in_background;
pub use board::{Board, Post};
use checkpoint::Newest;
pub use claims::{Claimed, Claims};
use client::{ALL as PATIENCE, Client, Comparison, Put};
pub use client::{EtcdError, EtcdSettings};
use regression::Regression;
pub use server::{Server, Version};
use settling::Settled;
use sweep::Sweeper;

/// Bytes of one value. etcd takes requests of up to 1.5 MiB, and Base64 adds a third.
const VALUE: usize = 512 * 1024;

/// Log entries that are read at once.
const PAGE: u64 = 50;

/// The name of the head.
const HEAD: &str = "head";

/// What was committed last.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Head {
    generation: u64,
    revision: u64,
    /// Hash of the last log entry, which holds that of the one before.
    chain: Hash,
    /// Which write it was: tells after a lost answer whether it came through.
    write: Uuid,
    /// Whether a restore put the store there, rather than that it was begun where nothing was; none of earlier versions.
    #[serde(default)]
    restored: Option<bool>,
}

/// A log entry's value: the entry itself, or which write its parts belong to.
#[derive(Debug, Deserialize, Serialize)]
enum Value {
    Whole(#[serde(with = "base64_bytes")] Vec<u8>),
    Parts { write: Uuid, count: usize },
}

mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

/// The store of one control plane.
#[derive(Debug)]
pub struct EtcdStore {
    shelf: Arc<Shelf>,
    head: Head,
    /// etcd's own number of the head that was read last: what a commit is compared with.
    seen: u64,
    /// How many revisions the log goes back.
    revisions: u64,
    /// Why the last look at it failed, if it did: then nobody waits for a write to fail as well.
    unreachable: Option<EtcdError>,
    /// Why the last write was not answered, if nobody has looked since.
    lost: Option<EtcdError>,
    /// Whether what is there has another past than what is known here. etcd's numbers may be the same.
    parted: bool,
    /// Whether what is there is older than what is known here.
    regression: Regression,
    sweeper: Arc<Mutex<Sweeper>>,
}

/// Why nothing is written once that is so.
const PARTED: &str = "etcd went back to an earlier state, and on from there in another way: what this control plane \
                      knows is not there any more; `POST /clustering/exports` here keeps it, start it again to take what is";

/// What is read and written, without an opinion on what is newest.
struct Shelf {
    client: Client,
    sealer: Sealer,
    checkpoint: Newest,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").finish_non_exhaustive()
    }
}

fn log(revision: u64) -> String {
    format!("log/{revision:020}")
}

fn open(sealer: &Sealer, name: &str, value: &[u8]) -> Result<Vec<u8>, EtcdError> {
    sealer.open(name.as_bytes(), value).ok_or_else(|| {
        EtcdError::Content(format!(
            "{name} was changed, or sealed with another key: set secrets_key_file to that key"
        ))
    })
}

impl Shelf {
    fn seal(&self, name: &str, value: &[u8]) -> Vec<u8> {
        self.sealer.seal(name.as_bytes(), value)
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, EtcdError> {
        open(&self.sealer, name, sealed)
    }

    fn json<T: for<'de> Deserialize<'de>>(
        &self,
        name: &str,
        sealed: &[u8],
    ) -> Result<T, EtcdError> {
        serde_json::from_slice(&self.open(name, sealed)?)
            .map_err(|error| EtcdError::Content(format!("{name}: {error}")))
    }

    fn seal_json(&self, name: &str, value: &impl Serialize) -> Result<Vec<u8>, EtcdError> {
        let json =
            serde_json::to_vec(value).map_err(|error| EtcdError::Content(error.to_string()))?;
        Ok(self.seal(name, &json))
    }

    /// The head, and etcd's number of it; 0 if there is none.
    fn head(&self) -> Result<(Head, u64), EtcdError> {
        self.head_within(PATIENCE)
    }

    fn head_within(&self, limit: Duration) -> Result<(Head, u64), EtcdError> {
        match self.client.get_within(limit, HEAD)? {
            Some(found) => Ok((self.json(HEAD, &found.value)?, found.version)),
            None => Ok((Head::default(), 0)),
        }
    }

    /// etcd's number of the head, whether that can be read or not.
    fn head_version(&self) -> Result<u64, EtcdError> {
        Ok(self.client.get(HEAD)?.map_or(0, |found| found.version))
    }

    /// Writes `bytes` in parts below `name`.
    fn write_parts(&self, name: &str, bytes: &[u8]) -> Result<usize, EtcdError> {
        let mut count = 0;
        for part in bytes.chunks(VALUE) {
            let name = part_name(name, count);
            let sealed = self.seal(&name, part);
            self.client.put(&Put {
                name,
                value: sealed,
            })?;
            count += 1;
        }
        Ok(count)
    }

    fn read_parts(&self, name: &str, count: usize) -> Result<Vec<u8>, EtcdError> {
        let mut bytes = Vec::new();
        for number in 0..count {
            let name = part_name(name, number);
            let found = self.client.get(&name)?;
            let found = found.ok_or_else(|| EtcdError::Content(format!("{name} is missing")))?;
            bytes.extend(self.open(&name, &found.value)?);
        }
        Ok(bytes)
    }

    /// The packed entry in a log value.
    fn packed(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, EtcdError> {
        match self.json(name, sealed)? {
            Value::Whole(packed) => Ok(packed),
            Value::Parts { write, count } => self.read_parts(&format!("part/{write}"), count),
        }
    }

    /// The entries after `revision`, which left `chain`, up to `head`; none if one of them is not kept any more.
    /// Each holds the hash of the one before, and the last is the head's.
    fn entries(
        &self,
        revision: u64,
        mut chain: Option<Hash>,
        head: &Head,
    ) -> Result<Option<Vec<Entry>>, EtcdError> {
        let last = head.revision;
        let broken = |revision: u64| {
            EtcdError::Content(format!(
                "revision {revision} does not follow the one before"
            ))
        };
        let mut entries = Vec::new();
        let mut next = revision + 1;
        while next <= last {
            let until = last.min(next + PAGE - 1);
            let page = self.client.range(&log(next), &log(until + 1))?;
            for found in page {
                if found.name != log(next) {
                    return Ok(None);
                }
                let packed = self.packed(&found.name, &found.value)?;
                let (entry, previous) = Entry::unpack_linked(Revision(next), &packed)
                    .map_err(|error| EtcdError::Content(error.to_string()))?;
                if chain.is_some_and(|chain| chain != previous) {
                    return Err(broken(next));
                }
                chain = Some(*blake3::hash(&packed).as_bytes());
                entries.push(entry);
                next += 1;
            }
            if next <= until {
                return Ok(None);
            }
        }
        if chain.is_some_and(|chain| chain != head.chain) {
            return Err(EtcdError::Content(
                "the log does not lead to the head".into(),
            ));
        }
        Ok(Some(entries))
    }
}

impl EtcdStore {
    /// Opens the store and reads all of it. Nothing is written if `permits` has something against what is found.
    pub fn open(
        settings: &EtcdSettings,
        key: &SecretsKey,
        permits: impl FnOnce(&Found) -> Result<(), StoreError>,
    ) -> Result<(Self, Config), StoreError> {
        let shelf = Self::shelf(settings, key)?;
        let (head, seen) = shelf.head()?;
        permits(&head.found())?;
        let mut store = Self::at(shelf, head, seen);
        if store.seen == 0 {
            store.declare_generation(UnixTime::now())?;
        }
        let config = store.shelf.load(&store.head)?;
        Ok((store, config))
    }

    fn shelf(settings: &EtcdSettings, key: &SecretsKey) -> Result<Shelf, EtcdError> {
        Ok(Shelf {
            client: Client::start(settings)?,
            sealer: Sealer::new(key),
            checkpoint: Newest::default(),
        })
    }

    /// The store at `head`, of which etcd's number is `seen`.
    fn at(shelf: Shelf, head: Head, seen: u64) -> Self {
        Self {
            shelf: Arc::new(shelf),
            head,
            seen,
            revisions: REVISIONS,
            unreachable: None,
            lost: None,
            parted: false,
            regression: Regression::default(),
            sweeper: Arc::default(),
        }
    }

    /// Has the log go back so many revisions from the next checkpoint on.
    #[must_use]
    pub const fn keeping(mut self, revisions: u64) -> Self {
        self.revisions = revisions;
        self
    }

    /// The generation: when the store was made or restored, in seconds since 1970, and more than any that was known then.
    pub const fn generation(&self) -> u64 {
        self.head.generation
    }

    /// Takes away what others have begun to write and never finished, if it is time to look.
    fn sweep_if_due(&self) {
        // One that is at work is not waited for.
        let due = self.sweeper.try_lock();
        if !due.is_ok_and(|sweeper| sweeper.is_due(monotonic())) {
            return;
        }
        let (store, sweeper) = (Arc::clone(&self.shelf), Arc::clone(&self.sweeper));
        in_background("sweep", move || {
            sweep(&store, &sweeper, monotonic()).map(drop)
        });
    }

    fn write(&mut self, entry: &Entry) -> Result<bool, EtcdError> {
        let packed = entry
            .pack(&self.head.chain)
            .map_err(|error| EtcdError::Content(error.to_string()))?;
        let write = Uuid::new_v4();
        let head = Head {
            generation: self.head.generation,
            revision: entry.revision.0,
            chain: *blake3::hash(&packed).as_bytes(),
            write,
            ..self.head
        };
        let large = packed.len() > VALUE;
        let value = if large {
            let count = self.shelf.write_parts(&format!("part/{write}"), &packed)?;
            Value::Parts { write, count }
        } else {
            Value::Whole(packed)
        };
        let name = log(entry.revision.0);
        let value = self.shelf.seal_json(&name, &value)?;
        let puts = [
            Put {
                name: HEAD.to_owned(),
                value: self.shelf.seal_json(HEAD, &head)?,
            },
            Put { name, value },
        ];
        let unchanged = Comparison {
            name: HEAD,
            version: self.seen,
        };
        // Others sweep away what nobody has named for long: this process may have stood still meanwhile.
        let first = large.then(|| part_name(&format!("part/{write}"), 0));
        match self
            .shelf
            .settle(&unchanged, first.as_deref(), &puts, &head)?
        {
            Settled::Ours(version) => {
                (self.head, self.seen) = (head, version);
                Ok(true)
            }
            Settled::Theirs => {
                // It was decided on what is not the newest any more: nobody looks for its parts.
                if large && let Err(error) = self.shelf.delete_parts(&format!("part/{write}")) {
                    tracing::warn!(%error, "the parts of a change that came too late stay in etcd");
                }
                Ok(false)
            }
        }
    }
}

/// What part `number` of what is written as `name` is called.
fn part_name(name: &str, number: usize) -> String {
    format!("{name}/{number:06}")
}

fn sweep(shelf: &Shelf, sweeper: &Mutex<Sweeper>, now: Instant) -> Result<usize, EtcdError> {
    let mut sweeper = sweeper.lock().unwrap_or_else(PoisonError::into_inner);
    sweeper.turn(shelf, now)
}

impl From<EtcdError> for JournalFault {
    fn from(error: EtcdError) -> Self {
        match &error {
            // It answers, and goes on to say so until somebody makes room.
            EtcdError::Refused(reason) if reason.contains("space exceeded") => {
                Self::NoRoom(error.to_string())
            }
            EtcdError::Unknown(_) => Self::Unknown(error.to_string()),
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

impl Journal for EtcdStore {
    fn commit(&mut self, entry: &Entry) -> Result<(), JournalFault> {
        if let Some(error) = &self.unreachable {
            return Err(error.clone().into());
        }
        if self.parted {
            return Err(JournalFault::Broken(PARTED.to_owned()));
        }
        self.regression.check()?;
        if entry.revision.0 != self.head.revision + 1 {
            return Err(JournalFault::Behind);
        }
        let written = self.write(entry);
        if let Err(EtcdError::Unreachable(reason) | EtcdError::Unknown(reason)) = &written {
            self.lost = Some(EtcdError::Unreachable(reason.clone()));
        }
        if written? {
            Ok(())
        } else {
            Err(JournalFault::Behind)
        }
    }

    fn lost(&self) -> Option<JournalFault> {
        self.lost.clone().map(JournalFault::from)
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn newer(&mut self) -> Result<Newer, JournalFault> {
        let looked = self.shelf.head();
        self.unreachable = looked.as_ref().err().cloned();
        self.lost = None;
        let (head, version) = looked?;
        if self.regression.look(&head, &self.head, monotonic())? {
            return Ok(Newer::Changes(Vec::new()));
        }
        if (head.generation, head.revision) == (self.head.generation, self.head.revision) {
            self.parted = head.chain != self.head.chain;
            if self.parted {
                return Err(JournalFault::Broken(PARTED.to_owned()));
            }
            self.seen = version;
            return Ok(Newer::Changes(Vec::new()));
        }
        if head.generation != self.head.generation && self.seen != 0 {
            let reason =
                "the store was restored as another generation: start this control plane again";
            return Err(JournalFault::Broken(reason.to_owned()));
        }
        let chain = Some(self.head.chain);
        let entries = self.shelf.entries(self.head.revision, chain, &head);
        // What cannot follow on what is known here is nothing to write on.
        self.parted = matches!(entries, Err(EtcdError::Content(_)));
        let newer = match entries? {
            Some(entries) => {
                let changes = entries.iter();
                Newer::Changes(
                    changes
                        .map(|entry| (entry.change(), entry.revision))
                        .collect(),
                )
            }
            None => Newer::Whole(Box::new(self.shelf.load(&head)?)),
        };
        (self.head, self.seen) = (head, version);
        Ok(newer)
    }

    fn checkpoint(&mut self, config: &Config) -> Result<(), JournalFault> {
        if config.revision().0 == self.head.revision && self.shelf.is_checkpoint_due(config) {
            let store = Arc::clone(&self.shelf);
            let (config, kept) = (config.clone(), self.revisions);
            let (generation, chain) = (self.head.generation, self.head.chain);
            let started = in_background("checkpoint", move || {
                store.write_checkpoint(generation, &config, chain, kept)
            });
            if !started {
                self.shelf.checkpoint.ended();
            }
        }
        self.sweep_if_due();
        Ok(())
    }

    fn history(&self) -> Arc<dyn History> {
        Arc::<Shelf>::clone(&self.shelf)
    }
}

impl History for Shelf {
    fn entry(&self, revision: Revision) -> Result<Option<Entry>, HistoryFault> {
        let unreadable = |error: EtcdError| HistoryFault::Unreadable {
            revision,
            what: error.to_string(),
        };
        let name = log(revision.0);
        let Some(found) = self.client.get(&name).map_err(unreadable)? else {
            return Ok(None);
        };
        let packed = self.packed(&name, &found.value).map_err(unreadable)?;
        Entry::unpack(revision, &packed).map(Some)
    }
}
