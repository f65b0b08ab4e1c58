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
mod shelf;
mod sweep;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use shared::clock::{UnixTime, monotonic};
use shared::snapshot::{Hash, Revision};
use uuid::Uuid;

use super::past::REVISIONS;
use super::seal::{Sealer, SecretsKey};
use super::{Chains, Found, StoreError};
use crate::config::Config;
use crate::history::{Entry, History};
use crate::publisher::{Journal, JournalFault, Newer, Place};
use background::in_background;
pub use board::{Board, Post};
use checkpoint::Newest;
pub use claims::{Claimed, Claims};
use client::{Client, Comparison, Put};
pub use client::{EtcdError, EtcdSettings};
use regression::Regression;
pub use server::{Server, Version};
use settling::Settled;
use shelf::{Shelf, VALUE, Value, log, part_name};
use sweep::Sweeper;

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

/// What came of the last look at etcd, and of a write since.
#[derive(Debug, Default)]
enum Last {
    #[default]
    Answered,
    /// The write was not: nobody knows what became of it before somebody looks.
    WriteLost(EtcdError),
    /// The look failed: nobody waits for a write to fail as well.
    LookFailed(EtcdError),
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
    last: Last,
    /// Whether what is there has another past than what is known here. etcd's numbers may be the same.
    parted: bool,
    /// Whether what is there is older than what is known here.
    regression: Regression,
    sweeper: Arc<Mutex<Sweeper>>,
}

/// Why nothing is written once that is so.
const PARTED: &str = "etcd went back to an earlier state, and on from there in another way: what this control plane \
                      knows is not there any more; `POST /clustering/exports` here keeps it for a `restore`; to go on without, \
                      move its nodes.json and exports away and start it again";

impl EtcdStore {
    /// Opens the store and reads all of it. Nothing is written if `permits` has something against what is found.
    pub fn open(
        settings: &EtcdSettings,
        key: &SecretsKey,
        permits: impl FnOnce(&Found, &Chains<'_>) -> Result<(), StoreError>,
    ) -> Result<(Self, Config), StoreError> {
        let shelf = Self::shelf(settings, key)?;
        let (head, seen) = shelf.head()?;
        permits(&head.found(), &|revision| Ok(shelf.chain_at(revision.0)?))?;
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
            last: Last::default(),
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
                    tracing::warn!(%error, "the parts of a change that lost the race stay in etcd");
                }
                Ok(false)
            }
        }
    }
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
        if let Last::LookFailed(error) = &self.last {
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
            self.last = Last::WriteLost(EtcdError::Unreachable(reason.clone()));
        }
        if written? {
            Ok(())
        } else {
            Err(JournalFault::Behind)
        }
    }

    fn lost(&self) -> Option<JournalFault> {
        match &self.last {
            Last::WriteLost(error) => Some(error.clone().into()),
            Last::Answered | Last::LookFailed(_) => None,
        }
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn newer(&mut self) -> Result<Newer, JournalFault> {
        let looked = self.shelf.head();
        self.last = match &looked {
            Ok(_) => Last::Answered,
            Err(error) => Last::LookFailed(error.clone()),
        };
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
        if self.parted {
            let there = self.shelf.chain_at(self.head.revision);
            if there.is_ok_and(|there| there.is_some_and(|there| Some(there) != chain)) {
                return Err(JournalFault::Broken(PARTED.to_owned()));
            }
        }
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

    fn place(&self) -> Option<Place> {
        Some(Place {
            revision: Revision(self.head.revision),
            chain: self.head.chain,
        })
    }
}
