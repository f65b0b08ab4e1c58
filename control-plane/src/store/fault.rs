//! What can be wrong with a store, grouped by what to do about it.

use std::io::{self, ErrorKind};
use std::path::Path;

use shared::snapshot::Revision;

use super::etcd::EtcdError;

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
        source: io::Error,
    },
    /// There is a store, and not what it is sealed with.
    #[error(
        "secrets_key_file: {path} is missing while the store that it seals exists, in {store}: restore it"
    )]
    NoKey {
        /// Where the key is to be.
        path: String,
        /// Where the store is.
        store: String,
    },
    /// The database does not open.
    #[error("opening the store in {path}")]
    Open {
        /// Where.
        path: String,
        /// Why not.
        #[source]
        fault: Fault,
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
         {path}; restore that (`wardgate-control-plane restore --from {path}`) or move the exports away to go on without"
    )]
    Behind {
        /// The store's generation.
        generation: u64,
        /// The store's revision.
        revision: Revision,
        /// The export.
        path: String,
    },
    /// etcd answers, but this control plane had what it does not know.
    #[error(
        "the store has lost writes: etcd is at revision {revision} of generation {generation}, and this control plane had \
         revision {had} of generation {of}; restore the newest export (`wardgate-control-plane restore`), one of a control plane that \
         still runs if there is one, or move {path} and the exports beside it away to go on without"
    )]
    WasAhead {
        /// The store's generation.
        generation: u64,
        /// The store's revision.
        revision: Revision,
        /// What this control plane had.
        had: Revision,
        /// The generation of that.
        of: u64,
        /// The file that says so, which holds the list of data planes, too.
        path: String,
    },
    /// etcd answers, and has another past than this control plane had.
    #[error(
        "the store has lost writes: etcd is at revision {revision} of generation {generation}, and its revision {had} is \
         another than this control plane had: it was put back, and went on from there in another way; restore the newest \
         export (`wardgate-control-plane restore`), one of a control plane that still runs if there is one, or move {path} and \
         the exports beside it away to go on without"
    )]
    Parted {
        /// The store's generation.
        generation: u64,
        /// The store's revision.
        revision: Revision,
        /// The one that this control plane had otherwise.
        had: Revision,
        /// The file that says so, which holds the list of data planes, too.
        path: String,
    },
    /// The store opens, but its end is gone.
    #[error(
        "the store in {path} has lost writes: it is at revision {revision} of generation {generation}, and revision \
         {seen} was acknowledged; restore the newest of its exports (`wardgate-control-plane restore`) or remove \
         {path}/witness to go on without"
    )]
    Lost {
        /// Where.
        path: String,
        /// The store's generation.
        generation: u64,
        /// The store's revision.
        revision: Revision,
        /// The revision that was the last.
        seen: Revision,
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
    Etcd(#[from] EtcdError),
    /// The key that seals the store does not fit, or cannot be read.
    #[error("{0}")]
    Key(String),
}

/// Why a store, or a file of it, cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The disk is full. What was committed before is whole.
    #[error("no space left on the disk; make room, nothing is lost")]
    Full,
    /// Another process has it.
    #[error("another control plane uses it: stop that one first")]
    InUse,
    /// What is there is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// The system does not do what was asked of it.
    #[error("its files, which this user must be able to read and write, cannot be used")]
    Unusable(#[source] io::Error),
}

impl Fault {
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    /// The same, of the store in `directory`.
    pub(super) fn at(self, directory: &Path) -> StoreError {
        let path = directory.display().to_string();
        match self {
            Self::Damaged(what) => StoreError::Damaged { path, what },
            Self::Full | Self::InUse | Self::Unusable(_) => StoreError::Open { path, fault: self },
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Unusable(error),
        }
    }
}

impl From<sled::Error> for Fault {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => error.into(),
            sled::Error::Corruption { .. } => Self::damaged("its files are corrupt"),
            sled::Error::Unsupported(_) => Self::damaged("its file conf is corrupt"),
            error @ (sled::Error::CollectionNotFound(_) | sled::Error::ReportableBug(_)) => {
                Self::Damaged(error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_damage_and_from_files_that_cannot_be_used() {
        let full = || io::Error::from(ErrorKind::StorageFull);
        for error in [Fault::from(full()), sled::Error::Io(full()).into()] {
            assert!(matches!(error, Fault::Full), "{error}");
        }
        let forbidden = Fault::from(io::Error::from(ErrorKind::PermissionDenied));
        assert!(matches!(forbidden, Fault::Unusable(_)), "{forbidden}");
        let corrupt = sled::Error::Corruption { at: None, bt: () };
        assert!(matches!(Fault::from(corrupt), Fault::Damaged(_)));
    }
}
