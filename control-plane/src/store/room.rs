//! How much of the disk must stay free. A full disk would break the store in the middle of a commit;
//! a refusal before that costs nothing.

use std::io;
use std::path::Path;

use super::reserve::Reserve;
use super::{Fault, StoreError};

/// Less than this, in bytes, is never enough.
const LEAST: u64 = 64 * 1024 * 1024;

/// Nor is less than this part of the disk, in per cent …
const PART: u64 = 5;

/// … unless that much, in bytes, is there: on a large disk the part says nothing.
const PLENTY: u64 = 1024 * 1024 * 1024;

/// Opening a store may write that much, in bytes: what its last process has left in its log is taken in.
pub(super) const OPENING: u64 = 16 * 1024 * 1024;

/// Says why the store in `directory` may not open again, if there is too little room for that.
pub(crate) fn check_room_to_open(directory: &Path) -> Result<(), StoreError> {
    match Room::of(directory) {
        Ok(room) if room.free.saturating_add(Reserve::of(directory)) < OPENING => {
            Err(Fault::Full.at(directory))
        }
        // A disk that does not tell its space is not thereby full.
        _ => Ok(()),
    }
}

/// Says why no store can be begun in `directory`, which may be there or not, if there is too little room for that.
pub(crate) fn check_room_to_begin(directory: &Path) -> Result<(), StoreError> {
    match nearest(directory).map(Room::of) {
        Some(Ok(room)) if room.check().is_err() => Err(Fault::Full.at(directory)),
        _ => Ok(()),
    }
}

/// The nearest directory above `directory` that is there, or that itself.
fn nearest(directory: &Path) -> Option<&Path> {
    // What a relative path begins in has no name.
    let named = |at| {
        if at == Path::new("") {
            Path::new(".")
        } else {
            at
        }
    };
    directory.ancestors().map(named).find(|at| at.is_dir())
}

/// The space of a file system, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) free: u64,
    pub(super) total: u64,
}

impl Room {
    /// The space where `directory` is.
    pub(super) fn of(directory: &Path) -> io::Result<Self> {
        let found = rustix::fs::statvfs(directory)?;
        Ok(Self {
            free: found.f_bavail.saturating_mul(found.f_frsize),
            total: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }

    /// Refuses where there is too little of it.
    pub(super) fn check(self) -> Result<(), Shortage> {
        let part = (self.total / 100).saturating_mul(PART).min(PLENTY);
        let needed = part.max(LEAST);
        if self.free >= needed {
            return Ok(());
        }
        let mebibytes = |bytes: u64| bytes / (1024 * 1024);
        Err(Shortage {
            free: mebibytes(self.free),
            needed: mebibytes(needed),
        })
    }
}

/// A disk has too little room, in MiB.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "the disk has {free} MiB free and {needed} MiB must stay free; make room and send the request again"
)]
pub(super) struct Shortage {
    free: u64,
    needed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_stop_before_the_disk_is_full() {
        const MIB: u64 = 1024 * 1024;
        let enough = |free: u64, total: u64| Room { free, total }.check().is_ok();
        // 64 MiB on a small disk, 5 % on one in the middle, 1 GiB on a large one.
        for (total, least) in [
            (512 * MIB, 64 * MIB),
            (10_000 * MIB, 500 * MIB),
            (4_000_000 * MIB, 1024 * MIB),
        ] {
            assert!(enough(least, total), "{least} of {total}");
            assert!(!enough(least - 1, total), "{} of {total}", least - 1);
        }
        let text = Room { free: 0, total: 0 }.check().unwrap_err().to_string();
        assert!(text.contains("64 MiB must stay free"), "{text}");
    }

    #[test]
    fn what_is_not_there_yet_is_on_the_disk_of_what_is_above() {
        assert_eq!(nearest(Path::new("nowhere/store")), Some(Path::new(".")));
        let place = tempfile::tempdir().unwrap();
        let there = place.path();
        assert_eq!(nearest(&there.join("nowhere/store")), Some(there));
        assert_eq!(nearest(there), Some(there));
    }

    #[test]
    fn a_directory_tells_its_space() {
        let place = tempfile::tempdir().unwrap();
        let room = Room::of(place.path()).unwrap();
        assert!(room.total > 0 && room.free <= room.total, "{room:?}");
    }
}
