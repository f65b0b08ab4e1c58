//! Whether there is memory and time left to compile in. A regular expression may take a thousand times its text, so a
//! configuration that would exhaust memory is refused as a whole, and the current one stays.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shared::clock::monotonic;
use shared::machine::{available_bytes, resident_bytes, total_bytes};

use crate::memory::Pressure;

/// What a configuration may always take, in bytes: others may have used up the rest.
const LEAST: u64 = 64 * 1024 * 1024;

/// Part of the machine's memory that is to stay free, in per cent.
const FREE: u64 = 5;

/// Pause between two looks at the memory: each costs a read of what the kernel tells.
const BETWEEN: Duration = Duration::from_millis(5);

/// What one compilation may take; the default: as much as it wants.
#[derive(Debug, Default)]
pub struct Room {
    bounds: Option<Bounds>,
    looked: Cell<Option<Instant>>,
    waiting: Option<Waiting>,
}

#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// What the process had in use when it began.
    before: u64,
    /// What it may have; none: what the machine has.
    limit: Option<u64>,
}

/// Whoever waits for a compilation. Dropping it ends that.
#[derive(Debug)]
pub(crate) struct Wait(Arc<AtomicBool>);

/// Whether somebody still does.
type Waiting = Arc<AtomicBool>;

impl Drop for Wait {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Room {
    /// That of a process that may have `limit` bytes, or what the machine has; while somebody waits for the outcome.
    pub(crate) fn of_process(limit: Option<u64>) -> (Self, Wait) {
        let before = resident_bytes();
        let waiting = Arc::new(AtomicBool::new(true));
        let room = Self {
            bounds: Some(Bounds { before, limit }),
            looked: Cell::default(),
            waiting: Some(Arc::clone(&waiting)),
        };
        (room, Wait(waiting))
    }

    /// Says why there is no room to go on. Looks now and then only.
    pub(crate) fn check(&self) -> Result<(), String> {
        let is_over = |waiting: &Waiting| !waiting.load(Ordering::Relaxed);
        if self.waiting.as_ref().is_some_and(is_over) {
            return Err("compiling the configuration took too long".to_owned());
        }
        let Some(bounds) = self.bounds else {
            return Ok(());
        };
        let now = monotonic();
        let looked = self.looked.get();
        if looked.is_some_and(|looked| now.duration_since(looked) < BETWEEN) {
            return Ok(());
        }
        self.looked.set(Some(now));
        let machine = || (available_bytes(), total_bytes());
        bounds.judge(resident_bytes(), machine)
    }
}

impl Bounds {
    /// With `used` bytes now, on a machine that tells what is available and what there is.
    fn judge(&self, used: u64, machine: impl FnOnce() -> (u64, u64)) -> Result<(), String> {
        let grown = used.saturating_sub(self.before);
        if grown <= LEAST {
            return Ok(());
        }
        let is_short = if let Some(limit) = self.limit {
            Pressure::of(used, limit) >= Pressure::High
        } else {
            let (available, total) = machine();
            available < total / 100 * FREE
        };
        if !is_short {
            return Ok(());
        }
        let mebibytes = |bytes: u64| bytes / (1024 * 1024);
        Err(format!(
            "the configuration takes more memory than this node has: {} MiB up to here, with which {} MiB are in use; \
             shorten or remove expressions, or give the node more memory (memory_limit_mb)",
            mebibytes(grown),
            mebibytes(used)
        ))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One that there is nothing left of.
    pub(in crate::compile) fn none() -> Room {
        Room::of_process(None).0
    }

    #[test]
    fn what_takes_all_memory_is_stopped_and_what_takes_little_is_not() {
        const MIB: u64 = 1024 * 1024;
        for (limit, before, used, machine, expected) in [
            (Some(1000), 100, 900, (0, 0), true),
            (Some(1000), 100, 920, (0, 0), false),
            // Others use the memory, not what is compiled.
            (Some(1000), 900, 960, (0, 0), true),
            (Some(1000), 900, 965, (0, 0), false),
            (None, 100, 5000, (500, 10_000), true),
            (None, 100, 5000, (499, 10_000), false),
            (None, 100, 150, (10, 10_000), true),
            // The kernel does not tell.
            (None, 100, 5000, (0, 0), true),
        ] {
            let bounds = Bounds {
                before: before * MIB,
                limit: limit.map(|limit: u64| limit * MIB),
            };
            let (available, total): (u64, u64) = machine;
            let judged = bounds.judge(used * MIB, || (available * MIB, total * MIB));
            assert_eq!(
                judged.is_ok(),
                expected,
                "{limit:?} {before} {used} {machine:?}"
            );
        }
        assert!(Room::default().check().is_ok());
    }

    #[test]
    fn there_is_room_as_long_as_somebody_waits() {
        let (room, wait) = Room::of_process(None);
        assert!(room.check().is_ok());
        drop(wait);
        assert!(room.check().is_err());
        assert!(none().check().is_err());
    }
}
