//! The roll-outs in a file, so that a control plane that starts again goes on to hold back what it held.
//!
//! One control plane leads all nodes where roll-outs are staged, so that this is its own, and not the store's.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::machine::write_durably;
use shared::snapshot::Revision;

use super::Rollout;

/// Roll-outs that are remembered.
const REMEMBERED: usize = 100;

/// Why the roll-outs cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file.
    #[error("{path}")]
    File {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// What it holds.
    #[error("{path} is damaged; without it every node is led to the newest configuration at once")]
    Content {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// What is kept of roll-outs.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Journal {
    /// The generation of all revisions in it.
    pub generation: u64,
    /// The last state that every node was led to.
    pub released: Revision,
    /// The roll-outs, newest first.
    pub rollouts: Vec<Rollout>,
}

impl Journal {
    /// Reads the file at `path`; none if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, JournalError> {
        match std::fs::read(path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes)
                    .map(Some)
                    .map_err(|source| JournalError::Content {
                        path: path.to_owned(),
                        source,
                    })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(JournalError::File {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Writes it to `path`. Once this returns, it is there after a power failure, too.
    pub fn write(&self, path: &Path) -> Result<(), JournalError> {
        let failed = |source| JournalError::File {
            path: path.to_owned(),
            source,
        };
        let text = serde_json::to_string(self).map_err(|error| failed(error.into()))?;
        write_durably(path, &text).map_err(failed)
    }

    /// Forgets the file at `path`: a state that was held back long ago must not be led to again.
    pub fn forget(path: &Path) -> Result<(), JournalError> {
        // A disk that cannot be written answers so whether there is such a file or not.
        if !path.exists() {
            return Ok(());
        }
        std::fs::remove_file(path).map_err(|source| JournalError::File {
            path: path.to_owned(),
            source,
        })
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
