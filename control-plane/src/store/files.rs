//! The store's directory: private, repaired before it is opened, and synced once it is there.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::clock::monotonic;

use super::reserve;
use super::{Fault, StoreError};

/// Bytes of pages that sled keeps in memory. After the start only the past is read from the store: the
/// configuration itself is in memory.
const PAGES: u64 = 8 * 1024 * 1024;

/// The ending of a file's name that is not whole yet.
const UNFINISHED: &str = "new";

/// Opens the database. A crash in the middle of sled's own start, or a damaged snapshot of its index,
/// would keep it from ever opening again: both are only caches and are taken away.
pub(super) fn open(directory: &Path) -> Result<sled::Db, StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| file_error("making", directory, source))?;
    remove(directory, |name| {
        let unfinished = Path::new(name)
            .extension()
            .is_some_and(|end| end == UNFINISHED);
        unfinished || (name.starts_with("snap.") && name.ends_with(".generating"))
    })?;
    match try_open(directory) {
        Ok(database) => Ok(database),
        Err(Fault::Damaged(what)) => {
            tracing::warn!(error = %what, "store does not open; trying without what can be made anew");
            let copy = set_aside(directory)?;
            remove(directory, |name| name.starts_with("snap."))?;
            if let Ok(database) = try_open(directory) {
                return Ok(database);
            }
            // What sled was set to when the store was made. That is what it is set to here.
            remove(directory, |name| name == "conf")?;
            try_open(directory).map_err(|fault| match fault {
                Fault::Damaged(what) => {
                    let copy = copy.display();
                    let what = format!("{what}, and are as they were found in {copy}");
                    Fault::Damaged(what).at(directory)
                }
                fault => fault.at(directory),
            })
        }
        Err(fault) => Err(fault.at(directory)),
    }
}

/// Writes a private file of these parts, whole or not at all: its name appears once its content is on disk.
pub(super) fn write_whole(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut unfinished = path.to_path_buf().into_os_string();
    unfinished.push(".");
    unfinished.push(UNFINISHED);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    File::open(directory)?.sync_all()
}

/// Syncs everything that opening may have created, and gives the file that each commit syncs.
pub(super) fn sync_created(directory: &Path) -> Result<File, StoreError> {
    let sync = |path: &Path| {
        File::open(path)
            .and_then(|file| file.sync_all().map(|()| file))
            .map_err(|source| file_error("syncing", path, source))
    };
    let blobs = directory.join("blobs");
    if blobs.is_dir() {
        sync(&blobs)?;
    }
    let file = sync(&directory.join("db"))?;
    sync(directory)?;
    if let Some(parent) = directory
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        sync(parent)?;
    }
    Ok(file)
}

/// Waits until nobody holds the lock of the database file at `path`.
pub(super) fn wait_until_unlocked(path: &Path, most: Duration) -> Result<(), StoreError> {
    let started = monotonic();
    let file = File::open(path).map_err(|source| file_error("opening", path, source))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if started.elapsed() < most => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => {
                let source = io::Error::from(io::ErrorKind::TimedOut);
                return Err(file_error("waiting for the lock of", path, source));
            }
            Err(TryLockError::Error(source)) => {
                return Err(file_error("locking", path, source));
            }
        }
    }
}

fn try_open(directory: &Path) -> Result<sled::Db, Fault> {
    let config = sled::Config::new()
        .path(directory)
        .cache_capacity(PAGES)
        .mode(sled::Mode::HighThroughput);
    // sled panics on some damaged files instead of returning an error.
    match catch_unwind(AssertUnwindSafe(|| config.open())) {
        Ok(Ok(database)) => Ok(database),
        // What sled says of its lock says nothing of why.
        Ok(Err(sled::Error::Io(_))) if is_in_use(directory) => Err(Fault::InUse),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Fault::damaged("its files cannot be read")),
    }
}

/// Whether another process has the store in `directory` open: a running control plane holds sled's lock.
pub(super) fn is_in_use(directory: &Path) -> bool {
    let file = File::open(directory.join("db"));
    let tried = file.map(|file| file.try_lock());
    matches!(tried, Ok(Err(TryLockError::WouldBlock)))
}

/// Copies the directory as it is, for whoever wants to know what happened.
fn set_aside(directory: &Path) -> Result<PathBuf, StoreError> {
    let mut copy = directory.to_path_buf().into_os_string();
    copy.push(".damaged");
    let copy = PathBuf::from(copy);
    let failed = |source| file_error("copying the damaged store to", &copy, source);
    fs::create_dir_all(&copy).map_err(failed)?;
    for entry in fs::read_dir(directory).map_err(failed)?.flatten() {
        if entry.path().is_file() && entry.file_name() != reserve::NAME {
            fs::copy(entry.path(), copy.join(entry.file_name())).map_err(failed)?;
        }
    }
    Ok(copy)
}

fn remove(directory: &Path, taken: impl Fn(&str) -> bool) -> Result<(), StoreError> {
    let failed = |source| file_error("repairing", directory, source);
    for entry in fs::read_dir(directory).map_err(failed)?.flatten() {
        if entry.file_name().to_str().is_some_and(&taken) {
            let path = entry.path();
            fs::remove_file(&path).map_err(|source| file_error("removing", &path, source))?;
        }
    }
    Ok(())
}

pub(super) fn file_error(attempt: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::File {
        attempt,
        path: path.display().to_string(),
        source,
    }
}
