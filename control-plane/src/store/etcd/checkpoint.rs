//! The whole configuration in etcd, now and then, so that a start need not read every change there ever was.
//!
//! Several control planes may write one at the same time: each has names of its own, and the one that is there
//! is the one that all agree on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::snapshot::Hash;
use shared::telemetry::chain as chain_of;
use uuid::Uuid;

use super::client::{Comparison, Put};
use super::shelf::{Shelf, Value, log, part_name};
use super::{EtcdError, Head};
use crate::config::Config;
use crate::store::export;

/// After how many revisions a new checkpoint is written.
const CHECKPOINT: u64 = 500;

/// Where it stands which one is complete.
const LATEST: &str = "checkpoint/latest";

/// How often a start looks for the checkpoint, which another control plane may just replace.
const ATTEMPTS: u32 = 3;

/// Which checkpoint is complete.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Latest {
    revision: u64,
    parts: usize,
    /// What its parts are named after; none in those of before, which are named after the revision.
    #[serde(default)]
    write: Option<Uuid>,
    /// Hash of the log entry that it includes last; none in those of before.
    #[serde(default)]
    chain: Option<Hash>,
}

impl Latest {
    fn name(&self) -> String {
        match self.write {
            Some(write) => format!("checkpoint/{write}"),
            None => format!("checkpoint/{}", self.revision),
        }
    }
}

/// What is known of the newest checkpoint.
#[derive(Debug, Default)]
pub(super) struct Newest {
    revision: AtomicU64,
    /// Whether one is being written.
    begun: AtomicBool,
}

impl Newest {
    /// The one that was begun is not written any more.
    pub(super) fn ended(&self) {
        self.begun.store(false, Ordering::Release);
    }
}

impl Shelf {
    /// The newest checkpoint, and the hash of the log entry that it includes last.
    fn read_checkpoint(&self) -> Result<(Config, Option<Hash>), EtcdError> {
        let mut attempt = 1;
        loop {
            let Some((latest, _)) = self.latest()? else {
                return Ok((Config::default(), Some(Hash::default())));
            };
            match self.read_parts(&latest.name(), latest.parts) {
                Ok(content) => {
                    self.checkpoint
                        .revision
                        .store(latest.revision, Ordering::Relaxed);
                    let export = export::unpack(&content)
                        .map_err(|error| EtcdError::Content(chain_of(&error).to_string()))?;
                    return Ok((export.config, latest.chain));
                }
                Err(EtcdError::Content(_)) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// The whole configuration at `head`.
    pub(super) fn load(&self, head: &Head) -> Result<Config, EtcdError> {
        let (mut config, chain) = self.read_checkpoint()?;
        let entries = self.entries(config.revision().0, chain, head)?;
        let missing = || EtcdError::Content("the log does not reach back to the checkpoint".into());
        for entry in entries.ok_or_else(missing)? {
            config.apply(&entry.change(), entry.revision);
        }
        Ok(config)
    }

    /// Whether it is time for a checkpoint of `config`, which then counts as begun.
    pub(super) fn is_checkpoint_due(&self, config: &Config) -> bool {
        let newest = self.checkpoint.revision.load(Ordering::Relaxed);
        let due = config.revision().0 >= newest + CHECKPOINT;
        due && !self.checkpoint.begun.swap(true, Ordering::Acquire)
    }

    /// Writes a checkpoint of `config`, the last of whose log entries has the hash `chain`, unless another
    /// control plane has. Takes away what no start and no reader of the past needs, who may look `kept` revisions
    /// back.
    pub(super) fn write_checkpoint(
        &self,
        generation: u64,
        config: &Config,
        chain: Hash,
        kept: u64,
    ) -> Result<(), EtcdError> {
        let written = self.renew_checkpoint(generation, config, chain);
        if let Ok(revision) = written {
            self.checkpoint.revision.store(revision, Ordering::Relaxed);
        }
        self.checkpoint.ended();
        self.forget_before((written? + 1).saturating_sub(kept))
    }

    fn renew_checkpoint(
        &self,
        generation: u64,
        config: &Config,
        chain: Hash,
    ) -> Result<u64, EtcdError> {
        let others = self.latest()?.map_or(0, |(latest, _)| latest.revision);
        if others + CHECKPOINT > config.revision().0 {
            return Ok(others);
        }
        self.replace_checkpoint(generation, config, chain)?;
        Ok(config.revision().0)
    }

    /// Takes the log away before `revision`, with the parts of what was too large for it.
    fn forget_before(&self, revision: u64) -> Result<(), EtcdError> {
        for (name, _) in self.client.names(&log(0), &log(revision))? {
            let Some(found) = self.client.get(&name)? else {
                continue;
            };
            if let Value::Parts { write, .. } = self.json(&name, &found.value)? {
                self.delete_parts(&format!("part/{write}"))?;
            }
        }
        self.client.delete(&log(0), &log(revision))
    }

    pub(super) fn delete_parts(&self, name: &str) -> Result<(), EtcdError> {
        self.client.delete(&format!("{name}/"), &format!("{name}0"))
    }

    /// What the parts of the complete checkpoint are named after, if there is one.
    pub(super) fn newest_checkpoint(&self) -> Result<Option<String>, EtcdError> {
        Ok(self.latest()?.map(|(latest, _)| latest.name()))
    }

    /// Which checkpoint is complete, and etcd's number of the write that says so.
    fn latest(&self) -> Result<Option<(Latest, u64)>, EtcdError> {
        let Some(found) = self.client.get(LATEST)? else {
            return Ok(None);
        };
        Ok(Some((self.json(LATEST, &found.value)?, found.version)))
    }

    /// Puts a checkpoint of `config` in the place of the one that there is, unless another control plane has done
    /// so meanwhile: whether it is there.
    pub(super) fn replace_checkpoint(
        &self,
        generation: u64,
        config: &Config,
        chain: Hash,
    ) -> Result<bool, EtcdError> {
        let found = self.client.get(LATEST)?;
        let version = found.as_ref().map_or(0, |found| found.version);
        // The parts of one that cannot be read are swept away as nobody's.
        let before: Option<Latest> = found.and_then(|found| self.json(LATEST, &found.value).ok());
        let content = export::pack(generation, config, UnixTime::now())
            .map_err(|error| EtcdError::Content(error.to_string()))?;
        let mut latest = Latest {
            revision: config.revision().0,
            parts: 0,
            write: Some(Uuid::new_v4()),
            chain: Some(chain),
        };
        latest.parts = self.write_parts(&latest.name(), &content)?;
        let put = Put {
            name: LATEST.to_owned(),
            value: self.seal_json(LATEST, &latest)?,
        };
        let unchanged = Comparison {
            name: LATEST,
            version,
        };
        // Others sweep away what nobody has named for long: this process may have stood still meanwhile.
        let first = (latest.parts > 0).then(|| part_name(&latest.name(), 0));
        let ours = self.client.commit(&unchanged, first.as_deref(), &[put])?;
        let ours = ours.is_some();
        // What is not the latest is of no use to anyone.
        let useless = if ours { before } else { Some(latest) };
        if let Some(useless) = useless {
            self.delete_parts(&useless.name())?;
        }
        Ok(ours)
    }
}
