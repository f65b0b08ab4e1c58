//! Reserves room on the disk: a file of the store that is given up when the disk is too full to open the store.
//!
//! A store that is open needs no room to be read, but opening takes some. So a control plane starts also where others have
//! filled its disk; it takes no writes there, as ever while the disk is nearly full.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use super::files::is_in_use;
use super::room::{OPENING, Room};

/// The file in the store's directory.
pub(super) const NAME: &str = "reserve";

/// How large it is, in bytes: twice what opening takes.
const SIZE: u64 = 2 * OPENING;

/// What it leaves of a disk that is full, in bytes: what opening has begun may end.
const LEFT: u64 = 1024 * 1024;

/// The reserve of one store.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    /// Bytes that were given up for opening.
    given: u64,
    /// Whether it has its size, or cannot have one here.
    whole: bool,
}

impl Reserve {
    /// Gives the room back if less is free in `directory` than opening takes. Call before that.
    pub(super) fn open(directory: &Path) -> Self {
        let path = directory.join(NAME);
        let mut reserve = Self {
            path,
            given: 0,
            whole: false,
        };
        let size = Self::of(directory);
        let is_full = || Room::of(directory).is_ok_and(|room| room.free < OPENING);
        // Of one that is open it is not to be taken away.
        if size > 0 && is_full() && !is_in_use(directory) {
            match fs::remove_file(&reserve.path) {
                Ok(()) => {
                    reserve.given = size;
                    tracing::warn!(
                        path = %directory.display(),
                        "the disk is full: the store opens in the room that it has kept"
                    );
                }
                Err(error) => tracing::warn!(%error, "the store's reserve cannot be given up"),
            }
        }
        reserve
    }

    /// Its bytes in `directory`.
    pub(super) fn of(directory: &Path) -> u64 {
        fs::metadata(directory.join(NAME)).map_or(0, |found| found.len())
    }

    fn size(&self) -> u64 {
        self.path.parent().map_or(0, Self::of)
    }

    /// Takes room for it, once the store is open: all of it where the disk has room for writes beside it, or what is left of
    /// what was given up.
    pub(super) fn take(&mut self, room: Room) {
        if self.whole {
            return;
        }
        let size = self.size();
        if size >= SIZE {
            self.whole = true;
            return;
        }
        let missing = SIZE - size;
        let beside = Room {
            free: room.free.saturating_sub(missing),
            ..room
        };
        let wanted = if beside.check().is_ok() {
            SIZE
        } else if self.given > 0 {
            self.given.min(room.free.saturating_sub(LEFT))
        } else {
            return;
        };
        if wanted <= size {
            return;
        }
        match self.allocate(wanted) {
            Ok(()) => self.whole = wanted == SIZE,
            Err(error) => {
                // Not every file system can keep room. The store needs none that it does not have.
                tracing::debug!(%error, "no room is kept for opening the store");
                self.whole = error.kind() == ErrorKind::Unsupported;
                if size == 0 {
                    let _ = fs::remove_file(&self.path);
                }
            }
        }
    }

    /// Removes that of the store in `directory`, which is not to be opened any more.
    pub(super) fn remove(directory: &Path) {
        // Without one there is nothing to do, and it harms nobody.
        let _ = fs::remove_file(directory.join(NAME));
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&self.path)?;
        fallocate(&file, FallocateFlags::empty(), 0, size)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Room = Room {
        free: 0,
        total: 1 << 40,
    };

    #[test]
    fn room_is_kept_where_there_is_some_and_taken_back_after_it_was_needed() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path();
        let plenty = Room {
            free: 1 << 39,
            ..FULL
        };
        let mut reserve = Reserve::open(directory);
        reserve.take(FULL);
        assert_eq!(Reserve::of(directory), 0, "writes come first");
        reserve.take(plenty);
        assert_eq!((Reserve::of(directory), reserve.whole), (SIZE, true));
        // Not on this disk, but as if it had been needed.
        fs::remove_file(directory.join(NAME)).unwrap();
        let mut given = Reserve {
            given: SIZE,
            whole: false,
            ..reserve
        };
        given.take(Room { free: SIZE, ..FULL });
        assert_eq!((Reserve::of(directory), given.whole), (SIZE - LEFT, false));
        given.take(FULL);
        assert_eq!(Reserve::of(directory), SIZE - LEFT);
        given.take(plenty);
        assert_eq!((Reserve::of(directory), given.whole), (SIZE, true));
    }
}
