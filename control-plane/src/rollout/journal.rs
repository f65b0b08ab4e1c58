//! The roll-outs where they are kept, so that a control plane that starts again goes on to hold back what it
//! held: in a file of the one that leads all nodes, or in a value that all of them agree on.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::machine::{read_bounded, write_durably};
use shared::snapshot::Revision;
use uuid::Uuid;

use super::{Rollout, State};
use crate::history::HistoryFault;

/// Roll-outs that are remembered.
const REMEMBERED: usize = 100;

/// Bytes of all of them before packing, and of the largest file that is read.
const LARGEST: usize = 64 * 1024 * 1024;

/// Why the roll-outs cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file.
    #[error("{path}")]
    File {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// What it holds.
    #[error(
        "{path} is damaged: put it back from a backup, or move it away, and every node is led to the newest configuration at \
         once"
    )]
    Content {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// What is kept for all control planes.
    #[error("the roll-outs that all control planes agree on")]
    Shared(#[source] Unagreed),
    /// The states that they are about.
    #[error("the states that they are about")]
    History(#[from] HistoryFault),
}

/// Why a value cannot be agreed on: what went wrong where it is kept.
pub(crate) type Unagreed = Box<dyn std::error::Error + Send + Sync>;

/// A value that several control planes agree on: whoever writes it has seen what it was before.
pub trait Agreed: std::fmt::Debug + Send + Sync {
    /// The value, unless it is the one that was seen last, or there is none.
    ///
    /// # Errors
    ///
    /// If it cannot be reached or read.
    fn newer(&mut self) -> Result<Option<Vec<u8>>, Unagreed>;

    /// Writes `value` in the place of the one that was seen last. Whether it was still that; if not, the new one
    /// has to be seen first.
    ///
    /// # Errors
    ///
    /// If it cannot be reached, or nobody knows whether it was written.
    fn write(&mut self, value: &[u8]) -> Result<bool, Unagreed>;

    /// Keeps `value`, which was seen last and cannot be read, under another name: that name.
    ///
    /// # Errors
    ///
    /// If it cannot be kept. Then it is seen once more.
    fn set_aside(&mut self, value: &[u8]) -> Result<String, Unagreed>;

    /// Takes the value away.
    ///
    /// # Errors
    ///
    /// If it cannot be reached.
    fn clear(&mut self) -> Result<(), Unagreed>;
}

/// Where roll-outs are kept.
#[derive(Debug)]
pub enum Keeper {
    /// In a file of the one control plane that there is.
    File {
        /// The file.
        path: PathBuf,
        /// Whether it has been read.
        seen: bool,
    },
    /// Where all control planes see them.
    Shared(Box<dyn Agreed>),
}

impl Keeper {
    /// In the file at `path`.
    pub const fn file(path: PathBuf) -> Self {
        Self::File { path, seen: false }
    }

    /// Whether others may write them, too.
    pub const fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }

    /// What is kept, unless it is what was seen or written last, or there is nothing.
    pub fn newer(&mut self) -> Result<Option<Journal>, JournalError> {
        match self {
            Self::File { seen: true, .. } => Ok(None),
            Self::File { path, seen } => {
                *seen = true;
                Journal::read(path)
            }
            Self::Shared(agreed) => {
                let Some(packed) = agreed.newer().map_err(JournalError::Shared)? else {
                    return Ok(None);
                };
                let json = zstd::bulk::decompress(&packed, LARGEST);
                match json.and_then(|json| Ok(serde_json::from_slice(&json)?)) {
                    Ok(journal) => Ok(Some(journal)),
                    Err(error) => {
                        let kept_as = agreed.set_aside(&packed).map_err(JournalError::Shared)?;
                        tracing::error!(
                            %error,
                            kept_as,
                            "the roll-outs that all control planes agree on cannot be read; nodes are led to the newest configuration"
                        );
                        Ok(None)
                    }
                }
            }
        }
    }

    /// Keeps `journal`. Once this returns, it is there after a power failure, too. False if others have written
    /// meanwhile.
    pub fn write(&mut self, journal: &Journal) -> Result<bool, JournalError> {
        match self {
            Self::File { path, .. } => journal.write(path).map(|()| true),
            Self::Shared(agreed) => {
                let failed = |error: io::Error| JournalError::Shared(error.into());
                let json = serde_json::to_vec(journal).map_err(|error| failed(error.into()))?;
                let packed = zstd::bulk::compress(&json, 1).map_err(failed)?;
                agreed.write(&packed).map_err(JournalError::Shared)
            }
        }
    }

    /// Forgets what is kept: a state that was held back long ago must not be led to again.
    pub fn forget(&mut self) -> Result<(), JournalError> {
        match self {
            Self::File { path, .. } => Journal::forget(path),
            Self::Shared(agreed) => agreed.clear().map_err(JournalError::Shared),
        }
    }
}

/// What is kept of roll-outs.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Journal {
    /// The generation of all revisions in it.
    pub generation: u64,
    /// The last state that every node was led to.
    pub released: Revision,
    /// The control plane that looks after the one that is open.
    #[serde(default)]
    pub conductor: Uuid,
    /// The roll-outs, newest first.
    pub rollouts: Vec<Rollout>,
}

impl Journal {
    /// Whether `revision` was part of a roll-out that was rolled back.
    pub fn took_back(&self, revision: Revision) -> bool {
        let mut rollouts = self.rollouts.iter();
        rollouts.any(|rollout| {
            let part = rollout.from < revision && revision <= rollout.to;
            part && rollout.state == State::RolledBack
        })
    }

    /// Reads the file at `path`; none if there is none.
    fn read(path: &Path) -> Result<Option<Self>, JournalError> {
        let damaged = |source| JournalError::Content {
            path: path.to_owned(),
            source,
        };
        let bytes = match read_bounded(path, LARGEST) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::FileTooLarge => return Err(damaged(error)),
            Err(source) => {
                return Err(JournalError::File {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let journal = serde_json::from_slice(&bytes).map_err(|error| damaged(error.into()))?;
        Ok(Some(journal))
    }

    fn write(&self, path: &Path) -> Result<(), JournalError> {
        let failed = |source| JournalError::File {
            path: path.to_owned(),
            source,
        };
        let text = serde_json::to_string(self).map_err(|error| failed(error.into()))?;
        write_durably(path, &text).map_err(failed)
    }

    fn forget(path: &Path) -> Result<(), JournalError> {
        // A disk that cannot be written answers so whether there is such a file or not.
        if !path.exists() {
            return Ok(());
        }
        fs::remove_file(path).map_err(|source| JournalError::File {
            path: path.to_owned(),
            source,
        })
    }

    /// The last revision that it says something of.
    pub fn last(&self) -> Revision {
        let newest = self.rollouts.first().map(|rollout| rollout.to);
        newest.unwrap_or_default().max(self.released)
    }

    /// The roll-out that decides who gets what, if there is one.
    pub fn open(&self) -> Option<&Rollout> {
        self.rollouts.first().filter(|rollout| rollout.is_open())
    }

    /// The same, to be changed.
    pub fn open_mut(&mut self) -> Option<&mut Rollout> {
        self.rollouts
            .first_mut()
            .filter(|rollout| rollout.is_open())
    }

    /// Begins `rollout`. What is open before is to be ended first.
    pub fn begin(&mut self, rollout: Rollout) {
        // Who was given what is of interest only while it matters.
        if let Some(before) = self.rollouts.first_mut() {
            before.members.clear();
        }
        self.rollouts.insert(0, rollout);
        self.rollouts.truncate(REMEMBERED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_any_size_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rollouts.json");
        let sparse = fs::File::create(&path).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let damaged = Keeper::file(path).newer().unwrap_err();
        assert!(damaged.to_string().contains("move it away"), "{damaged}");
        let JournalError::Content { source, .. } = damaged else {
            panic!("{damaged}")
        };
        assert_eq!(source.kind(), ErrorKind::FileTooLarge);
    }
}
