//! Crashes that follow a change: a configuration that takes the process down is not run a third time.
//!
//! Before a configuration comes into force a marker says so; it goes after a while of health, and at an
//! orderly stop. A start that finds it follows a crash. The second such start in a row puts the
//! configuration into quarantine: this node runs the one before, tells the control plane, and takes
//! another only. Keys and revocations, which come by themselves, make no other configuration.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::snapshot::{Hash, Position, Revision};

/// What the files begin with.
const MAGIC: &[u8; 8] = b"WARDTRY\x02";
/// The same, of the format in which a configuration was known by the root of all records. It is read, not written.
const BY_ROOT: &[u8; 8] = b"WARDTRY\x01";

/// Magic, generation, revision, root, configuration, crashes.
const LENGTH: usize = 96;

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
    quarantined: Mutex<Vec<Tried>>,
    run: Mutex<Run>,
    /// How many crashes this start followed.
    crashes: u64,
    /// Whether the process before this one went on for a while, and may have released something.
    beside: bool,
    /// Whether the directory is another process's by now.
    left: AtomicBool,
}

/// A configuration that was about to come into force.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Tried {
    position: Position,
    /// What it is known by: see [`Snapshot::configuration`](shared::snapshot::Snapshot::configuration).
    configuration: Hash,
}

/// What this process knows of the configurations that it runs.
#[derive(Debug, Default)]
struct Run {
    /// The one in force.
    current: Option<Hash>,
    /// The one that the marker is about, and how many crashes it has to it.
    trying: Option<(Hash, u64)>,
    /// The one that has done no harm for a while.
    proven: Option<Hash>,
}

impl Marker {
    /// Reads what the process before has left in `directory`, and draws the conclusion.
    pub(crate) fn open(directory: &Path) -> Self {
        let mut marker = Self::beside(directory);
        marker.beside = false;
        if let Some((tried, crashes)) = read(&marker.trying).next() {
            marker.crashes = crashes + 1;
            let revision = tried.position.revision;
            if marker.crashes >= CRASHES {
                tracing::error!(
                    %revision,
                    crashes = marker.crashes,
                    "this configuration is not run again: the process crashed with it"
                );
                marker.isolate(tried);
                marker.remove();
            } else {
                tracing::warn!(%revision, "the process crashed soon after a change");
                marker.run().trying = Some((tried.configuration, marker.crashes));
                marker.write(&tried, marker.crashes);
            }
        }
        marker
    }

    /// Reads what is in quarantine, and draws no conclusion: the process before this one still runs.
    pub(crate) fn beside(directory: &Path) -> Self {
        let (trying, quarantine) = (directory.join("trying"), directory.join("quarantine"));
        Self {
            quarantined: Mutex::new(read(&quarantine).map(|(tried, _)| tried).collect()),
            run: Mutex::default(),
            trying,
            quarantine,
            crashes: 0,
            beside: true,
            left: AtomicBool::new(false),
        }
    }

    /// How many crashes in a row, soon after a change, this start followed.
    pub(crate) const fn crashes(&self) -> u64 {
        self.crashes
    }

    /// What is not to be run again.
    pub(crate) fn quarantined(&self) -> Vec<Position> {
        self.list().iter().map(|tried| tried.position).collect()
    }

    /// Whether `configuration`, or content with `root`, is not to be run again.
    pub(crate) fn is_quarantined(&self, configuration: &Hash, root: &Hash) -> bool {
        let is_it = |tried: &Tried| [*configuration, *root].contains(&tried.configuration);
        self.list().iter().any(is_it)
    }

    /// Takes up what the process before this one was ordered to release since this one began beside it: the order is not
    /// given again. Whether there is such.
    pub(crate) fn takes_up_releases(&self) -> bool {
        if !self.beside || self.is_left() {
            return false;
        }
        let Ok(bytes) = std::fs::read(&self.quarantine) else {
            return false;
        };
        let kept: Vec<Tried> = entries(&bytes).map(|(tried, _)| tried).collect();
        let mut list = self.list();
        let before = list.len();
        list.retain(|tried| kept.contains(tried));
        list.len() < before
    }

    /// Leaves the directory to the process that has taken over.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Whether the directory was left to another process.
    pub(crate) fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// The process starts with `configuration`.
    pub(crate) fn starts(&self, configuration: Hash) {
        self.run().current = Some(configuration);
    }

    /// The configuration in force.
    pub(crate) fn current(&self) -> Option<Hash> {
        self.run().current
    }

    /// `configuration` is about to come into force, at `position`.
    pub(crate) fn tries(&self, position: Position, configuration: Hash) {
        if self.is_left() {
            return;
        }
        let mut run = self.run();
        run.current = Some(configuration);
        // Only its keys or revocations are new.
        if run.proven == Some(configuration) {
            return;
        }
        let same = run.trying.filter(|(trying, _)| *trying == configuration);
        let crashes = same.map_or(0, |(_, crashes)| crashes);
        run.trying = Some((configuration, crashes));
        drop(run);
        let tried = Tried {
            position,
            configuration,
        };
        self.write(&tried, crashes);
    }

    /// What is in force does no harm.
    pub(crate) fn healthy(&self) {
        if self.is_left() {
            return;
        }
        let mut run = self.run();
        (run.proven, run.trying) = (run.current, None);
        drop(run);
        self.remove();
    }

    fn remove(&self) {
        match std::fs::remove_file(&self.trying) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::error!(%error, "the crash marker cannot be removed");
            }
            _ => {}
        }
    }

    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list(&self) -> MutexGuard<'_, Vec<Tried>> {
        self.quarantined
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// `configuration`, or content with `root`, may be run again.
    pub(crate) fn release(&self, configuration: &Hash, root: &Hash) {
        let mut list = self.list();
        let before = list.len();
        list.retain(|tried| ![*configuration, *root].contains(&tried.configuration));
        if list.len() < before {
            tracing::warn!("what this node has crashed with is in quarantine no more");
            self.keep(&list);
        }
    }

    fn isolate(&self, tried: Tried) {
        let mut list = self.list();
        list.push(tried);
        let old = list.len().saturating_sub(REMEMBERED);
        list.drain(..old);
        self.keep(&list);
    }

    /// Writes what is in quarantine.
    fn keep(&self, list: &[Tried]) {
        if self.is_left() {
            return;
        }
        let bytes: Vec<u8> = list.iter().flat_map(|tried| encode(tried, 0)).collect();
        if let Err(error) = replace(&self.quarantine, &bytes) {
            tracing::error!(%error, "the quarantine cannot be written");
        }
    }

    /// Outlives the process, not the machine: a power cut is no crash of ours.
    fn write(&self, tried: &Tried, crashes: u64) {
        if let Err(error) = replace(&self.trying, &encode(tried, crashes)) {
            tracing::error!(%error, "the crash marker cannot be written");
        }
    }
}

pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    std::fs::write(&unfinished, bytes)?;
    std::fs::rename(unfinished, path)
}

fn encode(tried: &Tried, crashes: u64) -> [u8; LENGTH] {
    let Tried {
        position,
        configuration,
    } = tried;
    let mut bytes = [0; LENGTH];
    let parts: [&[u8]; 6] = [
        MAGIC,
        &position.generation.to_be_bytes(),
        &position.revision.0.to_be_bytes(),
        &position.root,
        configuration,
        &crashes.to_be_bytes(),
    ];
    for (place, byte) in bytes.iter_mut().zip(parts.concat()) {
        *place = byte;
    }
    bytes
}

/// What a file tells; nothing if it is damaged or absent.
fn read(path: &Path) -> impl Iterator<Item = (Tried, u64)> + use<> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let entries: Vec<_> = entries(&bytes).collect();
    entries.into_iter()
}

/// The same of what was read.
fn entries(bytes: &[u8]) -> impl Iterator<Item = (Tried, u64)> {
    let length = if bytes.starts_with(BY_ROOT) {
        LENGTH - size_of::<Hash>()
    } else {
        LENGTH
    };
    bytes.chunks(length).map_while(decode)
}

fn decode(bytes: &[u8]) -> Option<(Tried, u64)> {
    let by_root = bytes.strip_prefix(BY_ROOT);
    let rest = by_root.or_else(|| bytes.strip_prefix(MAGIC))?;
    let (generation, rest) = rest.split_first_chunk::<8>()?;
    let (revision, rest) = rest.split_first_chunk::<8>()?;
    let (root, rest) = rest.split_first_chunk::<32>()?;
    let (configuration, rest) = if by_root.is_some() {
        (root, rest)
    } else {
        rest.split_first_chunk::<32>()?
    };
    let crashes = rest.first_chunk::<8>()?;
    let position = Position {
        generation: u64::from_be_bytes(*generation),
        revision: Revision(u64::from_be_bytes(*revision)),
        // A configuration is the same with whatever keys.
        urgent: Revision::default(),
        root: *root,
    };
    let tried = Tried {
        position,
        configuration: *configuration,
    };
    Some((tried, u64::from_be_bytes(*crashes)))
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

    /// What is configured at the revision `number`.
    fn configured(number: u64) -> Hash {
        [u8::try_from(number).unwrap() + 100; 32]
    }

    impl Marker {
        fn tries_at(&self, number: u64) {
            self.tries(at(number), configured(number));
        }
    }

    #[test]
    fn a_process_with_a_successor_leaves_its_marker_alone() {
        let directory = tempfile::tempdir().unwrap();
        let old = Marker::open(directory.path());
        old.tries_at(7);
        let new = Marker::beside(directory.path());
        old.leave();
        new.tries_at(8);
        old.healthy();
        old.tries_at(9);
        old.healthy();
        let tried = || read(&directory.path().join("trying")).next();
        assert_eq!(tried().map(|(tried, _)| tried.position), Some(at(8)));
        new.healthy();
        assert!(tried().is_none());
    }

    #[test]
    fn two_crashes_in_a_row_put_a_configuration_into_quarantine() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Marker::open(directory.path());
        let first = open();
        assert_eq!((first.crashes(), first.quarantined().len()), (0, 0));
        first.tries_at(7);
        let second = open();
        assert_eq!(second.crashes(), 1);
        assert!(!second.is_quarantined(&configured(7), &[0; 32]));
        let third = open();
        assert_eq!(third.crashes(), 2);
        assert_eq!(third.quarantined(), [at(7)]);
        assert!(
            third.is_quarantined(&configured(7), &[0; 32])
                && !third.is_quarantined(&configured(6), &[0; 32])
        );
        // It stays there, and the count begins anew.
        let fourth = open();
        assert_eq!((fourth.crashes(), fourth.quarantined()), (0, vec![at(7)]));
        // On order it is run again, also after the next start.
        fourth.release(&configured(6), &[0; 32]);
        assert!(fourth.is_quarantined(&configured(7), &[0; 32]));
        fourth.release(&configured(7), &[0; 32]);
        assert!(
            !fourth.is_quarantined(&configured(7), &[0; 32]) && open().quarantined().is_empty()
        );
    }

    #[test]
    fn a_successor_takes_up_what_the_process_before_it_was_ordered_to_release() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Marker::open(directory.path());
        for number in [6, 7] {
            open().tries_at(number);
            open();
            open();
        }
        let old = open();
        let new = Marker::beside(directory.path());
        assert!(!new.takes_up_releases());
        old.release(&configured(7), &[0; 32]);
        assert!(new.is_quarantined(&configured(7), &[0; 32]));
        assert!(new.takes_up_releases() && !new.takes_up_releases());
        assert_eq!(new.quarantined(), [at(6)]);
        // What cannot be read releases nothing, nor does whoever has a successor.
        std::fs::remove_file(directory.path().join("quarantine")).unwrap();
        assert!(!new.takes_up_releases() && !old.takes_up_releases());
        assert_eq!(
            (new.quarantined(), old.quarantined()),
            (vec![at(6)], vec![at(6)])
        );
        new.release(&configured(6), &[0; 32]);
        assert!(open().quarantined().is_empty());
    }

    #[test]
    fn health_an_orderly_stop_and_another_change_begin_anew() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Marker::open(directory.path());
        open().tries_at(7);
        let crashed = open();
        crashed.healthy();
        crashed.healthy();
        assert_eq!(open().crashes(), 0);
        let again = open();
        again.tries_at(8);
        let crashed = open();
        assert_eq!(crashed.crashes(), 1);
        crashed.tries_at(9);
        assert_eq!(open().crashes(), 1);
    }

    #[test]
    fn damage_is_no_crash_and_old_quarantines_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Marker::open(directory.path());
        for bytes in [
            &b""[..],
            b"x",
            &[0; 96],
            &encode(
                &Tried {
                    position: at(1),
                    configuration: configured(1),
                },
                5,
            )[..95],
        ] {
            std::fs::write(directory.path().join("trying"), bytes).unwrap();
            std::fs::write(directory.path().join("quarantine"), bytes).unwrap();
            assert_eq!((open().crashes(), open().quarantined().len()), (0, 0));
        }
        for number in 0..20 {
            open().tries_at(number);
            open();
            open();
        }
        let kept = open().quarantined();
        assert_eq!((kept.len(), kept.last()), (REMEMBERED, Some(&at(19))));
    }

    #[test]
    fn what_the_version_before_has_crashed_with_is_known_by_its_root() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Marker::open(directory.path());
        let of_before = |number: u64, crashes: u8| {
            let mut bytes = b"WARDTRY\x01".to_vec();
            bytes.extend(1_u64.to_be_bytes());
            bytes.extend(number.to_be_bytes());
            bytes.extend(at(number).root);
            bytes.extend([0, 0, 0, 0, 0, 0, 0, crashes]);
            bytes
        };
        let write =
            |name: &str, bytes: &[u8]| std::fs::write(directory.path().join(name), bytes).unwrap();
        write("quarantine", &[of_before(4, 0), of_before(5, 0)].concat());
        write("trying", &of_before(7, 1));
        for marker in [open(), open()] {
            assert_eq!(marker.quarantined(), [at(4), at(5), at(7)]);
            for number in [4, 5, 7] {
                assert!(marker.is_quarantined(&configured(number), &at(number).root));
            }
            assert!(!marker.is_quarantined(&configured(6), &at(6).root));
        }
        open().release(&configured(5), &at(5).root);
        assert_eq!(open().quarantined(), [at(4), at(7)]);
    }

    #[test]
    fn keys_and_revocations_make_no_other_configuration() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Marker::open(directory.path());
        let poison = configured(7);
        let first = open();
        first.tries(at(7), poison);
        first.tries(at(8), poison);
        let second = open();
        second.starts(poison);
        // The count goes on.
        second.tries(at(9), poison);
        let third = open();
        assert_eq!((third.crashes(), third.quarantined()), (2, vec![at(9)]));
        assert!(third.is_quarantined(&poison, &[0; 32]));
        // What has run well for a while is not suspected for its new keys.
        let good = configured(6);
        third.tries(at(10), good);
        third.healthy();
        third.tries(at(11), good);
        assert_eq!(open().crashes(), 0);
        third.tries(at(12), configured(12));
        third.tries(at(13), good);
        assert_eq!(
            open().crashes(),
            1,
            "another may have done harm before it went"
        );
    }
}
