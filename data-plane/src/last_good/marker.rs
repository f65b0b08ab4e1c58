//! Crashes that follow a change: a configuration that takes the process down is not run a third time.
//!
//! Before a configuration comes into force a marker says so; it goes after a while of health, and at an
//! orderly stop. A start that finds it follows a crash. The second such start in a row puts the
//! configuration into quarantine: this node runs the one before, tells the control plane, and takes
//! other content only.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::snapshot::{Hash, Position, Revision};

/// What the files begin with.
const MAGIC: &[u8; 8] = b"WARDTRY\x01";

/// Magic, generation, revision, root, crashes.
const LENGTH: usize = 64;

/// Starts after a crash, with one configuration, that are too many.
const CRASHES: u64 = 2;

/// Quarantined positions that are remembered.
const REMEMBERED: usize = 8;

/// The marker and the quarantine of one node.
#[derive(Debug)]
pub(crate) struct Marker {
    trying: PathBuf,
    quarantine: PathBuf,
    /// What is in quarantine, oldest first.
    quarantined: Mutex<Vec<Position>>,
    /// How many crashes this start followed.
    crashes: u64,
    /// Whether the directory is another process's by now.
    left: AtomicBool,
}

impl Marker {
    /// Reads what the process before has left in `directory`, and draws the conclusion.
    pub(crate) fn open(directory: &Path) -> Self {
        let mut marker = Self::beside(directory);
        if let Some((position, crashes)) = read(&marker.trying).next() {
            marker.crashes = crashes + 1;
            if marker.crashes >= CRASHES {
                tracing::error!(
                    revision = %position.revision,
                    crashes = marker.crashes,
                    "this configuration is not run again: the process crashed with it"
                );
                marker.isolate(position);
                marker.healthy();
            } else {
                tracing::warn!(revision = %position.revision, "the process crashed soon after a change");
                marker.write(position, marker.crashes);
            }
        }
        marker
    }

    /// Reads what is in quarantine, and draws no conclusion: the process before this one still runs.
    pub(crate) fn beside(directory: &Path) -> Self {
        let (trying, quarantine) = (directory.join("trying"), directory.join("quarantine"));
        Self {
            quarantined: Mutex::new(read(&quarantine).map(|(position, _)| position).collect()),
            trying,
            quarantine,
            crashes: 0,
            left: AtomicBool::new(false),
        }
    }

    /// How many crashes in a row, soon after a change, this start followed.
    pub(crate) const fn crashes(&self) -> u64 {
        self.crashes
    }

    /// What is not to be run again.
    pub(crate) fn quarantined(&self) -> Vec<Position> {
        self.list().clone()
    }

    /// Whether content with `root` is not to be run again.
    pub(crate) fn is_quarantined(&self, root: &Hash) -> bool {
        self.list().iter().any(|position| position.root == *root)
    }

    /// Leaves the directory to the process that has taken over.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Whether the directory was left to another process.
    pub(crate) fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// `position` is about to come into force.
    pub(crate) fn tries(&self, position: Position) {
        if !self.is_left() {
            self.write(position, 0);
        }
    }

    /// What is in force does no harm.
    pub(crate) fn healthy(&self) {
        if self.is_left() {
            return;
        }
        match std::fs::remove_file(&self.trying) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::error!(%error, "the crash marker cannot be removed");
            }
            _ => {}
        }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Position>> {
        self.quarantined
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Content with `root` may be run again: an operator orders it.
    pub(crate) fn release(&self, root: &Hash) {
        let mut list = self.list();
        let before = list.len();
        list.retain(|position| position.root != *root);
        if list.len() < before {
            tracing::warn!(
                "what this node has crashed with is run once more: an operator orders it"
            );
            self.keep(&list);
        }
    }

    fn isolate(&self, position: Position) {
        let mut list = self.list();
        list.push(position);
        let old = list.len().saturating_sub(REMEMBERED);
        list.drain(..old);
        self.keep(&list);
    }

    /// Writes what is in quarantine.
    fn keep(&self, list: &[Position]) {
        if self.is_left() {
            return;
        }
        let bytes: Vec<u8> = list
            .iter()
            .flat_map(|position| encode(*position, 0))
            .collect();
        if let Err(error) = replace(&self.quarantine, &bytes) {
            tracing::error!(%error, "the quarantine cannot be written");
        }
    }

    /// Outlives the process, not the machine: a power cut is no crash of ours.
    fn write(&self, position: Position, crashes: u64) {
        if let Err(error) = replace(&self.trying, &encode(position, crashes)) {
            tracing::error!(%error, "the crash marker cannot be written");
        }
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    std::fs::write(&unfinished, bytes)?;
    std::fs::rename(unfinished, path)
}

fn encode(position: Position, crashes: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let parts: [&[u8]; 5] = [
        MAGIC,
        &position.generation.to_be_bytes(),
        &position.revision.0.to_be_bytes(),
        &position.root,
        &crashes.to_be_bytes(),
    ];
    for (place, byte) in bytes.iter_mut().zip(parts.concat()) {
        *place = byte;
    }
    bytes
}

/// What a file tells; nothing if it is damaged or absent.
fn read(path: &Path) -> impl Iterator<Item = (Position, u64)> + use<> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let (entries, _) = bytes.as_chunks::<LENGTH>();
    let entries: Vec<_> = entries.iter().map_while(decode).collect();
    entries.into_iter()
}

fn decode(bytes: &[u8; LENGTH]) -> Option<(Position, u64)> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (generation, rest) = rest.split_first_chunk::<8>()?;
    let (revision, rest) = rest.split_first_chunk::<8>()?;
    let (root, rest) = rest.split_first_chunk::<32>()?;
    let crashes = rest.first_chunk::<8>()?;
    let position = Position {
        generation: u64::from_be_bytes(*generation),
        revision: Revision(u64::from_be_bytes(*revision)),
        // A configuration is known by its root here.
        urgent: Revision::default(),
        root: *root,
    };
    Some((position, u64::from_be_bytes(*crashes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: u64) -> Position {
        Position {
            generation: 1,
            revision: Revision(revision),
            urgent: Revision::default(),
            root: [u8::try_from(revision).unwrap(); 32],
        }
    }

    #[test]
    fn a_process_with_a_successor_leaves_its_marker_alone() {
        let directory = tempfile::tempdir().unwrap();
        let old = Marker::open(directory.path());
        old.tries(at(7));
        let new = Marker::beside(directory.path());
        old.leave();
        new.tries(at(8));
        old.healthy();
        old.tries(at(9));
        old.healthy();
        let tried = || read(&directory.path().join("trying")).next();
        assert_eq!(tried().map(|(position, _)| position), Some(at(8)));
        new.healthy();
        assert!(tried().is_none());
    }

    #[test]
    fn two_crashes_in_a_row_put_a_configuration_into_quarantine() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Marker::open(directory.path());
        let first = open();
        assert_eq!((first.crashes(), first.quarantined().len()), (0, 0));
        first.tries(at(7));
        let second = open();
        assert_eq!(second.crashes(), 1);
        assert!(!second.is_quarantined(&at(7).root));
        let third = open();
        assert_eq!(third.crashes(), 2);
        assert_eq!(third.quarantined(), [at(7)]);
        assert!(third.is_quarantined(&at(7).root) && !third.is_quarantined(&at(6).root));
        // It stays there, and the count begins anew.
        let fourth = open();
        assert_eq!((fourth.crashes(), fourth.quarantined()), (0, vec![at(7)]));
        // On order it is run again, also after the next start.
        fourth.release(&at(6).root);
        assert!(fourth.is_quarantined(&at(7).root));
        fourth.release(&at(7).root);
        assert!(!fourth.is_quarantined(&at(7).root) && open().quarantined().is_empty());
    }

    #[test]
    fn health_an_orderly_stop_and_another_change_begin_anew() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Marker::open(directory.path());
        open().tries(at(7));
        let crashed = open();
        crashed.healthy();
        crashed.healthy();
        assert_eq!(open().crashes(), 0);
        let again = open();
        again.tries(at(8));
        let crashed = open();
        assert_eq!(crashed.crashes(), 1);
        crashed.tries(at(9));
        assert_eq!(open().crashes(), 1);
    }

    #[test]
    fn damage_is_no_crash_and_old_quarantines_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Marker::open(directory.path());
        for bytes in [&b""[..], b"x", &[0; 64], &encode(at(1), 5)[..63]] {
            std::fs::write(directory.path().join("trying"), bytes).unwrap();
            std::fs::write(directory.path().join("quarantine"), bytes).unwrap();
            assert_eq!((open().crashes(), open().quarantined().len()), (0, 0));
        }
        for number in 0..20 {
            open().tries(at(number));
            open();
            open();
        }
        let kept = open().quarantined();
        assert_eq!((kept.len(), kept.last()), (REMEMBERED, Some(&at(19))));
    }
}
