//! Whether the process before this one has ended without having been told to, however long it had run: a file says that a process runs,
//! and goes as that is told to stop. By a configuration that crashes a node only after a while nothing is put into quarantine, since it
//! may have been something else; but the control plane has to know.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::clock::{UnixTime, machine_started};

use super::marker::replace;

const NAME: &str = "running";
/// Differs after a restart of the machine: a power cut is no crash of ours.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Stands for a boot id that cannot be read, such as with systemd's `ProcSubset=pid`: then the clocks tell when the machine started.
const HIDDEN: &str = "-";
/// By how much that may seem to have moved, as the wall clock is set. A machine that restarts sooner after its start has crashed.
const CLOCK_SET: Duration = Duration::from_mins(5);

/// The file of one node.
#[derive(Debug)]
pub(crate) struct Running {
    path: PathBuf,
    machine_started: UnixTime,
    boot_id: String,
    process: u32,
    /// Whether it could not be noted that this process runs.
    owes: Mutex<bool>,
}

impl Running {
    pub(super) fn of(directory: &Path) -> Self {
        let boot_id = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
        let boot_id = Some(boot_id.trim()).filter(|id| !id.is_empty());
        Self {
            path: directory.join(NAME),
            machine_started: machine_started(),
            boot_id: boot_id.unwrap_or(HIDDEN).to_owned(),
            process: std::process::id(),
            owes: Mutex::default(),
        }
    }

    /// Whether a process has run here that was not told to stop, and does not run any more.
    pub(super) fn has_crashed(&self) -> bool {
        let said = std::fs::read_to_string(&self.path).unwrap_or_default();
        let mut words = said.split(' ');
        let (started, boot_id) = (words.next(), words.next().unwrap_or(HIDDEN));
        let Some(started) = started.and_then(|started| started.parse().ok()) else {
            return false;
        };
        if ![boot_id, &self.boot_id].contains(&HIDDEN) {
            return boot_id == self.boot_id;
        }
        let (then, now) = (UnixTime::from_secs(started), self.machine_started);
        now.saturating_since(then).max(then.saturating_since(now)) <= CLOCK_SET
    }

    /// This process runs, and none before it.
    pub(crate) fn begins(&self) {
        self.note(&mut self.owes());
    }

    /// The directory can be written to: what could not be noted is.
    pub(super) fn catches_up(&self) {
        let mut owes = self.owes();
        if *owes {
            self.note(&mut owes);
        }
    }

    fn note(&self, owes: &mut bool) {
        let noted = replace(&self.path, self.said().as_bytes());
        if let Err(error) = &noted {
            tracing::error!(%error, "it cannot be noted that this process runs");
            // What is there is of a process whose end is known by now.
            _ = std::fs::remove_file(&self.path);
        }
        *owes = noted.is_err();
    }

    /// This process was told to stop, or has a successor, which says that it runs itself.
    pub(crate) fn ends(&self) {
        let mut owes = self.owes();
        *owes = false;
        let said = std::fs::read_to_string(&self.path).unwrap_or_default();
        if said != self.said() {
            return;
        }
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::error!(%error, "it cannot be noted that this process was told to stop");
            }
            _ => {}
        }
    }

    fn owes(&self) -> MutexGuard<'_, bool> {
        self.owes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn said(&self) -> String {
        let (started, boot_id) = (self.machine_started.as_secs(), &self.boot_id);
        format!("{started} {boot_id} {}", self.process)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ends_without_having_been_told_to_has_crashed() {
        let root = tempfile::tempdir().unwrap();
        let process = |process| Running {
            process,
            ..Running::of(root.path())
        };
        let first = process(1);
        assert!(!first.has_crashed());
        first.begins();
        // Killed, and then told to stop.
        let second = process(2);
        assert!(second.has_crashed());
        second.begins();
        second.ends();
        let third = process(3);
        assert!(!third.has_crashed());
        // Whoever has a successor takes nothing of its away.
        third.begins();
        let successor = process(4);
        successor.begins();
        third.ends();
        assert!(process(5).has_crashed());
        // Nor has anybody crashed with whom the machine went down; but that its clock is set is no restart.
        let started = Running::of(root.path()).machine_started;
        for (boot_id, later, has_crashed) in [
            ("another", 0, false),
            (&*process(5).boot_id, 400, true),
            (HIDDEN, 200, true),
            (HIDDEN, 400, false),
        ] {
            let again = Running {
                machine_started: started.saturating_add(Duration::from_secs(later)),
                boot_id: boot_id.to_owned(),
                ..process(6)
            };
            assert_eq!(again.has_crashed(), has_crashed, "{boot_id}, {later}");
        }
        // What nobody has written says nothing.
        for bytes in ["", " ", " 7", "x"] {
            std::fs::write(root.path().join(NAME), bytes).unwrap();
            assert!(!process(7).has_crashed(), "{bytes}");
        }
    }

    #[test]
    fn what_a_full_disk_kept_from_being_noted_is_noted_later() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(NAME);
        // Nothing can be renamed to it.
        std::fs::create_dir(&path).unwrap();
        let full = Running::of(root.path());
        full.begins();
        full.catches_up();
        std::fs::remove_dir(&path).unwrap();
        assert!(!full.has_crashed());
        full.catches_up();
        assert!(full.has_crashed());
        full.ends();
        full.catches_up();
        assert!(!full.has_crashed());
    }
}
