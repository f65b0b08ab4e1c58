//! Whether the process before this one has ended without having been told to, however long it had run: a file says that a process runs,
//! and goes as that is told to stop. By a configuration that crashes a node only after a while nothing is put into quarantine, since it
//! may have been something else; but the control plane has to know.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::marker::replace;

const NAME: &str = "running";
/// Differs after a restart of the machine: a power cut is no crash of ours.
const MACHINE: &str = "/proc/sys/kernel/random/boot_id";

/// The file of one node.
#[derive(Debug)]
pub(crate) struct Running {
    path: PathBuf,
    machine: String,
    process: u32,
}

impl Running {
    pub(super) fn of(directory: &Path) -> Self {
        let machine = std::fs::read_to_string(MACHINE).unwrap_or_default();
        Self {
            path: directory.join(NAME),
            machine: machine.trim().to_owned(),
            process: std::process::id(),
        }
    }

    /// Whether a process has run here that was not told to stop, and does not run any more.
    pub(super) fn has_crashed(&self) -> bool {
        let said = std::fs::read_to_string(&self.path).unwrap_or_default();
        let machine = said.split_once(' ').map(|(machine, _)| machine);
        machine.is_some_and(|machine| !machine.is_empty() && machine == self.machine)
    }

    /// This process runs, and none before it.
    pub(crate) fn begins(&self) {
        if let Err(error) = replace(&self.path, self.said().as_bytes()) {
            tracing::error!(%error, "it cannot be noted that this process runs");
            // What is there is of a process whose end is known by now.
            _ = std::fs::remove_file(&self.path);
        }
    }

    /// This process was told to stop, or has a successor, which says that it runs itself.
    pub(crate) fn ends(&self) {
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

    fn said(&self) -> String {
        format!("{} {}", self.machine, self.process)
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
        // Nor has anybody crashed with whom the machine went down.
        let again = Running {
            machine: "another start".to_owned(),
            ..process(6)
        };
        assert!(!again.has_crashed());
        // What nobody has written says nothing.
        for bytes in ["", " ", " 7", "x"] {
            std::fs::write(root.path().join(NAME), bytes).unwrap();
            assert!(!process(7).has_crashed(), "{bytes}");
        }
    }
}
