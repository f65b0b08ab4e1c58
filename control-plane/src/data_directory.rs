//! What lies where in a control plane's data directory, and whose it is.

use std::ffi::OsStr;
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

/// The file of the key for the store below `data_directory`: `secrets_key_file` if that is set, else one beside the directory.
pub(crate) fn key_path(data_directory: &Path, secrets_key_file: Option<&Path>) -> PathBuf {
    if let Some(file) = secrets_key_file {
        return file.to_path_buf();
    }
    let with_ending = |name: &OsStr| {
        let mut name = name.to_os_string();
        name.push(".key");
        name
    };
    // Versions before took what is written: of `data/` and `.` that is a file within the directory, which goes with each copy of it.
    let before = PathBuf::from(with_ending(data_directory.as_os_str()));
    let whole = data_directory.canonicalize();
    let whole = whole.as_deref().unwrap_or(data_directory);
    let named = if data_directory.file_name().is_some() {
        data_directory
    } else {
        whole
    };
    match named.file_name() {
        Some(name) if !before.exists() => named.with_file_name(with_ending(name)),
        _ => before,
    }
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
    fn the_key_lies_beside_the_directory_however_that_is_written() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let data = place.join("data");
        let beside = place.join("data.key");
        assert_eq!(key_path(&data, None), beside);
        assert_eq!(key_path(&data.join(""), None), beside);
        assert_eq!(key_path(Path::new("data"), None), Path::new("data.key"));
        let set = Path::new("set.key");
        assert_eq!(key_path(&data, Some(set)), set);
        std::fs::create_dir_all(data.join("sub")).unwrap();
        assert_eq!(key_path(&data.join("sub/.."), None), beside);
        // One that is there already is not lost.
        std::fs::write(data.join(".key"), "").unwrap();
        assert_eq!(key_path(&data.join(""), None), data.join(".key"));
        assert_eq!(key_path(&data, None), beside);
    }

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
