//! What lies where in a control plane's data directory, and whose it is.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use shared::machine::lock_file;

use crate::store::Fault;

/// The file by whose lock control planes keep each other off a directory. A data plane of the same machine may use the directory, too,
/// and has a lock of another name there: their files do not meet.
const LOCK: &str = "control-plane.lock";

/// A data directory that is held: no other control plane uses it, wherever the store of either is.
#[derive(Debug)]
pub(crate) struct Held {
    /// Its path without links; none if it is not there.
    directory: Option<PathBuf>,
    _lock: Option<File>,
}

impl Held {
    /// Whether it is `directory`.
    pub(crate) fn is(&self, directory: &Path) -> bool {
        self.directory.is_some() && directory.canonicalize().ok() == self.directory
    }
}

/// Makes `directory` and holds it until what is returned is dropped. What cannot be made or locked is not held: whoever writes there says
/// why.
///
/// # Errors
///
/// If another control plane holds it.
pub(crate) fn hold(directory: &Path) -> io::Result<Held> {
    let mut maker = DirBuilder::new();
    let made = maker.recursive(true).mode(0o700).create(directory);
    let locked = made
        .and_then(|()| lock_file(&directory.join(LOCK)))
        .and_then(|lock| match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::new(ErrorKind::ResourceBusy, Fault::InUse))
            }
            locked => Ok(locked.map(|()| lock)?),
        });
    let lock = match locked {
        Err(error) if error.kind() == ErrorKind::ResourceBusy => return Err(error),
        locked => locked
            .inspect_err(|error| tracing::warn!(%error, "data_directory is not locked"))
            .ok(),
    };
    Ok(Held {
        directory: directory.canonicalize().ok(),
        _lock: lock,
    })
}

/// The file of the key for the store below `data_directory`, if `secrets_key_file` is set to that.
pub(crate) fn key_path(data_directory: &Path, secrets_key_file: Option<&Path>) -> PathBuf {
    secrets_key_file.map_or_else(
        || {
            let mut path = data_directory.to_path_buf().into_os_string();
            path.push(".key");
            path.into()
        },
        Path::to_path_buf,
    )
}

/// The store's directory.
pub(crate) fn store_path(data_directory: &Path) -> PathBuf {
    data_directory.join("store")
}

/// Where the list of data planes is kept.
pub(crate) fn nodes_path(data_directory: &Path) -> PathBuf {
    data_directory.join("nodes.json")
}

/// The directory of the store's exports.
pub(crate) fn export_path(data_directory: &Path) -> PathBuf {
    data_directory.join("exports")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_control_plane_holds_a_directory_and_a_data_plane_may_use_it_too() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("data");
        // As a data plane of the same machine does.
        std::fs::create_dir(&directory).unwrap();
        let node = lock_file(&directory.join("lock")).unwrap();
        node.try_lock().unwrap();
        let held = hold(&directory).unwrap();
        assert!(held.is(&directory));
        let refused = hold(&directory).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
        assert!(
            refused.to_string().contains("another control plane"),
            "{refused}"
        );
        drop(held);
        hold(&directory).unwrap();
    }
}
