//! What lies in etcd: values that are sealed, in parts where they are too large for one; and the log, each entry of which holds
//! the hash of the one before.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::snapshot::{Hash, Revision};
use uuid::Uuid;

use super::checkpoint::Newest;
use super::client::{ALL as PATIENCE, Client, EtcdError, Put};
use super::{HEAD, Head};
use crate::history::{Entry, History, HistoryFault};
use crate::store::seal::Sealer;

/// Bytes of one value. etcd takes requests of up to 1.5 MiB, and Base64 adds a third.
pub(super) const VALUE: usize = 512 * 1024;

/// Log entries that are read at once.
const PAGE: u64 = 50;

/// A log entry's value: the entry itself, or which write its parts belong to.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Value {
    Whole(#[serde(with = "base64_bytes")] Vec<u8>),
    Parts { write: Uuid, count: usize },
}

pub(super) mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(in crate::store::etcd) fn serialize<S: Serializer>(
        bytes: &[u8],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(in crate::store::etcd) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

/// What is read and written, without an opinion on what is newest.
pub(super) struct Shelf {
    pub(super) client: Client,
    pub(super) sealer: Sealer,
    pub(super) checkpoint: Newest,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").finish_non_exhaustive()
    }
}

pub(super) fn log(revision: u64) -> String {
    format!("log/{revision:020}")
}

pub(super) fn open(sealer: &Sealer, name: &str, value: &[u8]) -> Result<Vec<u8>, EtcdError> {
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

    pub(super) fn json<T: for<'de> Deserialize<'de>>(
        &self,
        name: &str,
        sealed: &[u8],
    ) -> Result<T, EtcdError> {
        serde_json::from_slice(&self.open(name, sealed)?)
            .map_err(|error| EtcdError::Content(format!("{name}: {error}")))
    }

    pub(super) fn seal_json(
        &self,
        name: &str,
        value: &impl Serialize,
    ) -> Result<Vec<u8>, EtcdError> {
        let json =
            serde_json::to_vec(value).map_err(|error| EtcdError::Content(error.to_string()))?;
        Ok(self.seal(name, &json))
    }

    /// The head, and etcd's number of it; 0 if there is none.
    pub(super) fn head(&self) -> Result<(Head, u64), EtcdError> {
        self.head_within(PATIENCE)
    }

    pub(super) fn head_within(&self, limit: Duration) -> Result<(Head, u64), EtcdError> {
        match self.client.get_within(limit, HEAD)? {
            Some(found) => Ok((self.json(HEAD, &found.value)?, found.version)),
            None => Ok((Head::default(), 0)),
        }
    }

    /// etcd's number of the head, whether that can be read or not.
    pub(super) fn head_version(&self) -> Result<u64, EtcdError> {
        Ok(self.client.get(HEAD)?.map_or(0, |found| found.version))
    }

    /// Writes `bytes` in parts below `name`.
    pub(super) fn write_parts(&self, name: &str, bytes: &[u8]) -> Result<usize, EtcdError> {
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

    pub(super) fn read_parts(&self, name: &str, count: usize) -> Result<Vec<u8>, EtcdError> {
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

    /// Hash of the log entry of `revision`, which holds that of the one before; none if it is not kept.
    pub(super) fn chain_at(&self, revision: u64) -> Result<Option<Hash>, EtcdError> {
        let name = log(revision);
        let Some(found) = self.client.get(&name)? else {
            return Ok(None);
        };
        let packed = self.packed(&name, &found.value)?;
        Ok(Some(*blake3::hash(&packed).as_bytes()))
    }

    /// The entries after `revision`, which left `chain`, up to `head`; none if one of them is not kept any more.
    /// Each holds the hash of the one before, and the last is the head's.
    pub(super) fn entries(
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

/// What part `number` of what is written as `name` is called.
pub(super) fn part_name(name: &str, number: usize) -> String {
    format!("{name}/{number:06}")
}

impl History for Shelf {
    fn entry(&self, revision: Revision) -> Result<Option<Entry>, HistoryFault> {
        let unreadable = |error: EtcdError| {
            let what = error.to_string();
            match error {
                EtcdError::Unreachable(_) => HistoryFault::Unreachable(what),
                _ => HistoryFault::Unreadable { revision, what },
            }
        };
        let name = log(revision.0);
        let Some(found) = self.client.get(&name).map_err(unreadable)? else {
            return Ok(None);
        };
        let packed = self.packed(&name, &found.value).map_err(unreadable)?;
        Entry::unpack(revision, &packed).map(Some)
    }
}
