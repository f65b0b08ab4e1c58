//! What has become of the configuration, change by change: who, when, what was before and what after.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::entity::{DEFAULT_WORKSPACE, definition};
use shared::snapshot::{Hash, Key, Revision};
use uuid::Uuid;

use crate::config::{Change, Config, Stored};

/// Who asked for a change, and how.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Origin {
    /// The user; none if no access control is on, or if the control plane acted by itself.
    pub user: Option<String>,
    /// The method of the request; empty if the control plane acted by itself.
    pub method: String,
    /// The path of the request, without its query.
    pub path: String,
    /// The workspace that was asked.
    pub workspace: Uuid,
    /// Where the request came from.
    pub client_ip: Option<IpAddr>,
    /// The status that it was answered with, if it was a request and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

impl Origin {
    /// The same with the status that a successful request is answered with.
    #[must_use]
    pub fn answered(self, status: http::StatusCode) -> Self {
        Self {
            status: Some(status.as_u16()),
            ..self
        }
    }

    /// The control plane itself.
    pub const fn system() -> Self {
        Self {
            user: None,
            method: String::new(),
            path: String::new(),
            workspace: DEFAULT_WORKSPACE,
            client_ip: None,
            status: None,
        }
    }
}

/// One record before and after a change. Of one that is new there is no before, of one that is gone no after.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// Which record.
    pub key: Key,
    /// As it was.
    pub before: Option<Stored>,
    /// As it is now.
    pub after: Option<Stored>,
}

/// One committed change.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The revision that it made.
    pub revision: Revision,
    /// When.
    pub at: UnixTime,
    /// Who asked for it.
    pub origin: Origin,
    /// What it did.
    pub edits: Vec<Edit>,
}

/// Why the past cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HistoryFault {
    /// The version that wrote this revision kept no history.
    #[error("revision {0} was written before there was a history")]
    TooOld(Revision),
    /// The store does not answer now.
    #[error("{0}")]
    Unreachable(String),
    /// The store's trouble.
    #[error("reading revision {revision}: {what}")]
    Unreadable {
        /// Which one.
        revision: Revision,
        /// Why not.
        what: String,
    },
}

/// The committed changes, as far back as they are kept.
pub trait History: Send + Sync {
    /// The change that made `revision`; `None` if it is not kept any more, or not there yet.
    fn entry(&self, revision: Revision) -> Result<Option<Entry>, HistoryFault>;
}

/// A history that is not kept.
#[derive(Debug)]
pub struct Forgotten;

impl History for Forgotten {
    fn entry(&self, _: Revision) -> Result<Option<Entry>, HistoryFault> {
        Ok(None)
    }
}

impl Entry {
    /// The entry for `change` to `config`.
    pub fn of(
        config: &Config,
        change: &Change,
        revision: Revision,
        at: UnixTime,
        origin: &Origin,
    ) -> Self {
        let edit = |key: &Key, after: Option<&Stored>| Edit {
            key: *key,
            before: config.stored(*key).cloned(),
            after: after.cloned(),
        };
        let puts = change
            .puts
            .iter()
            .map(|(key, record)| edit(key, Some(record)));
        let removes = change.removes.iter().map(|key| edit(key, None));
        Self {
            revision,
            at,
            origin: origin.clone(),
            edits: puts.chain(removes).collect(),
        }
    }

    /// The entry that says that what is at the revision before was put there from the export `from`. It changes
    /// nothing.
    pub fn restored(revision: Revision, at: UnixTime, from: &Path) -> Self {
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        let origin = Origin {
            path: format!("restore --from {name}"),
            ..Origin::system()
        };
        Self {
            revision,
            at,
            origin,
            edits: Vec::new(),
        }
    }

    /// What it did, as a change.
    pub fn change(&self) -> Change {
        let mut change = Change::default();
        for edit in &self.edits {
            match &edit.after {
                Some(record) => change.puts.push((edit.key, record.clone())),
                None => change.removes.push(edit.key),
            }
        }
        change
    }

    /// The entry as the log keeps it, after the one with the hash `previous`.
    pub fn pack(&self, previous: &Hash) -> std::io::Result<Vec<u8>> {
        let heading = Heading {
            revision: self.revision,
            at: self.at,
            previous: *previous,
            origin: self.origin.clone(),
        };
        let mut encoder = zstd::Encoder::new(Vec::new(), COMPRESSION)?;
        serde_json::to_writer(&mut encoder, &heading)?;
        for edit in &self.edits {
            encoder.write_all(b"\n")?;
            serde_json::to_writer(&mut encoder, &(edit.key.kind, edit.key.id))?;
            for side in [&edit.before, &edit.after] {
                encoder.write_all(b"\n")?;
                encoder.write_all(side.as_ref().map_or(NONE, Stored::json))?;
            }
        }
        encoder.finish()
    }

    /// Reads what [`Self::pack`] wrote for `revision`.
    pub fn unpack(revision: Revision, packed: &[u8]) -> Result<Self, HistoryFault> {
        Self::unpack_linked(revision, packed).map(|(entry, _)| entry)
    }

    /// The same, with the hash of the entry before it.
    pub fn unpack_linked(revision: Revision, packed: &[u8]) -> Result<(Self, Hash), HistoryFault> {
        if packed.first() == Some(&b'{') {
            return Err(HistoryFault::TooOld(revision));
        }
        parse(packed).map_err(|what| HistoryFault::Unreadable { revision, what })
    }
}

/// zstd's level: a log is written far more often than read.
const COMPRESSION: i32 = 1;

/// What stands for a side that is not there.
const NONE: &[u8] = b"null";

/// The first line of an entry. Each edit follows in three: its key, and the record before and after.
#[derive(Deserialize, Serialize)]
struct Heading {
    revision: Revision,
    at: UnixTime,
    previous: Hash,
    origin: Origin,
}

fn parse(packed: &[u8]) -> Result<(Entry, Hash), String> {
    let text = |error: serde_json::Error| error.to_string();
    let mut content = Vec::new();
    zstd::Decoder::new(packed)
        .and_then(|mut decoder| decoder.read_to_end(&mut content))
        .map_err(|error| error.to_string())?;
    let mut lines = content.split(|byte| *byte == b'\n');
    let heading: Heading =
        serde_json::from_slice(lines.next().unwrap_or_default()).map_err(text)?;
    let mut edits = Vec::new();
    while let Some(key) = lines.next() {
        let (kind, id): (String, Uuid) = serde_json::from_slice(key).map_err(text)?;
        let mut side = || match lines.next() {
            Some(NONE) => Ok(None),
            Some(json) => Stored::parse(json).map(Some).map_err(text),
            None => Err("a record is missing".to_owned()),
        };
        let (before, after) = (side()?, side()?);
        // A kind that this version does not know any more says nothing to it.
        if let Some(entity) = definition(&kind) {
            let key = Key {
                kind: entity.kind,
                id,
            };
            edits.push(Edit { key, before, after });
        }
    }
    let entry = Entry {
        revision: heading.revision,
        at: heading.at,
        origin: heading.origin,
        edits,
    };
    Ok((entry, heading.previous))
}
