//! What is written is found again, by its node only, and what is damaged is passed over.

use std::os::unix::fs::PermissionsExt;
use std::sync::LazyLock;

use shared::signature::Signer;
use shared::snapshot::{Key, Record};
use shared::tls::CONTROL_PLANE_NAME;
use uuid::Uuid;

use super::*;
use crate::config_sync::vouching::{cluster, vouch};

fn snapshot(revision: u64) -> Snapshot {
    let record = Record {
        key: Key {
            kind: if revision < 2 { "services" } else { "routes" },
            id: Uuid::from_u128(u128::from(revision)),
        },
        json: br#"{"name":"hunter2"}"#.as_slice().into(),
    };
    Snapshot::new(1, Revision(revision), vec![record])
}

/// A control plane, and who believes it.
static CLUSTER: LazyLock<(Signer, Verifier)> = LazyLock::new(|| cluster(CONTROL_PLANE_NAME));

fn write(files: &LastGood, number: u64) {
    let snapshot = snapshot(number);
    let vouched = vouch(&CLUSTER.0, &snapshot.position);
    files.write(&snapshot, &vouched).unwrap();
}

fn tries(files: &LastGood, number: u64) {
    let snapshot = snapshot(number);
    files
        .marker
        .tries(snapshot.position, snapshot.configuration());
}

fn open(directory: &Path) -> LastGood {
    LastGood::open(&directory.join("data"), Secret::new(vec![7; 100]), "node-1").unwrap()
}

fn revision(files: &LastGood) -> Option<u64> {
    let loaded = files.load(&CLUSTER.1, |snapshot| Ok(snapshot.position.revision.0));
    loaded.map(|(revision, _)| revision)
}

#[test]
fn a_crash_counts_however_late_it_comes() {
    let root = tempfile::tempdir().unwrap();
    let first = open(root.path());
    first.running.begins();
    tries(&first, 7);
    first.marker.healthy();
    // Killed.
    let second = open(root.path());
    assert_eq!((second.crashes(), second.marker.quarantined()), (1, vec![]));
    second.running.begins();
    // Told to stop.
    second.running.ends();
    assert_eq!(open(root.path()).crashes(), 0);
}

#[test]
fn the_newest_is_found_again_and_nobody_else_can_read_it() {
    let root = tempfile::tempdir().unwrap();
    let files = open(root.path());
    assert_eq!(revision(&files), None);
    for number in 1..=5 {
        write(&files, number);
        assert_eq!(revision(&files), Some(number));
    }
    let directory = root.path().join("data");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), FILES.len());
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    let newest = directory.join(FILES[0]);
    assert_eq!(mode(&newest), 0o600);
    let bytes = std::fs::read(newest).unwrap();
    assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
    for (secret, node) in [(vec![8; 100], "node-1"), (vec![7; 100], "node-2")] {
        let other = LastGood::open(&directory, Secret::new(secret), node).unwrap();
        assert_eq!(revision(&other), None);
    }
}

#[test]
fn who_has_left_the_directory_puts_nothing_in_the_place_of_its_files() {
    let root = tempfile::tempdir().unwrap();
    let files = open(root.path());
    write(&files, 1);
    // It had begun to write when it left, and a file of that name is another's by now.
    let newer = write_unfinished(&files.directory, UNFINISHED, b"half").unwrap();
    files.leave();
    assert!(!files.place(newer.clone(), &FILES).unwrap());
    assert!(newer.exists());
    assert_eq!(revision(&files), Some(1));
    write(&files, 2);
    assert_eq!(revision(&files), Some(1));
}

#[test]
fn a_damaged_file_is_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let files = open(root.path());
    write(&files, 1);
    write(&files, 2);
    let newest = root.path().join("data").join(FILES[0]);
    let good = std::fs::read(&newest).unwrap();
    for length in 0..good.len() {
        std::fs::write(&newest, &good[..length]).unwrap();
        assert_eq!(revision(&files), Some(1), "cut to {length}");
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&newest, bad).unwrap();
        assert_eq!(revision(&files), Some(1), "flipped at {at}");
    }
    // A crash between the renames leaves no newest file.
    std::fs::remove_file(&newest).unwrap();
    assert_eq!(revision(&files), Some(1));
    write(&files, 3);
    assert_eq!(revision(&files), Some(3));
}

/// Three files were written, of which the newest is gone: what stands in its place from now on.
fn without_the_newest_of_three(root: &Path) -> (LastGood, PathBuf) {
    let files = open(root);
    for number in 1..=3 {
        write(&files, number);
    }
    let newest = files.directory.join(FILES[0]);
    std::fs::remove_file(&newest).unwrap();
    (files, newest)
}

#[test]
fn where_a_directory_stands_the_next_name_is_used() {
    let newest = |number| Some(snapshot(number).configuration());
    for taken in [&FILES[..1], &FILES[1..2], &[FILES[0], FILES[2]]] {
        let root = tempfile::tempdir().unwrap();
        for name in taken {
            std::fs::create_dir_all(root.path().join("data").join(name)).unwrap();
        }
        let files = open(root.path());
        for number in 1..=4 {
            write(&files, number);
            assert_eq!(revision(&files), Some(number), "{taken:?}");
        }
        let names = files.names();
        assert_eq!(names.len(), FILES.len() - taken.len());
        assert_eq!(files.holds(names[0]), newest(4));
        if let Some(before) = names.get(1) {
            assert_eq!(files.holds(before), newest(3));
        }
        // Also one that comes, or goes, while it runs.
        let first = files.directory.join(FILES[0]);
        if first.is_dir() {
            std::fs::remove_dir(&first).unwrap();
        } else {
            std::fs::remove_file(&first).unwrap();
            std::fs::create_dir(&first).unwrap();
        }
        for number in 5..=7 {
            write(&files, number);
            assert_eq!(revision(&files), Some(number), "{taken:?}");
        }
    }
    let root = tempfile::tempdir().unwrap();
    let files = open(root.path());
    for name in FILES {
        std::fs::create_dir(files.directory.join(name)).unwrap();
    }
    let snapshot = snapshot(1);
    let vouched = vouch(&CLUSTER.0, &snapshot.position);
    files.write(&snapshot, &vouched).unwrap_err();
}

/// The configuration of `number` with another key.
fn write_with_key(files: &LastGood, number: u64, key: u64) {
    let mut records: Vec<_> = snapshot(number).records().collect();
    let id = Uuid::from_u128(u128::from(key));
    records.push(Record {
        key: Key {
            kind: "session_keys",
            id,
        },
        json: b"{}".as_slice().into(),
    });
    let snapshot = Snapshot::new(1, Revision(key), records);
    let vouched = vouch(&CLUSTER.0, &snapshot.position);
    files.write(&snapshot, &vouched).unwrap();
    assert_eq!(revision(files), Some(key));
}

#[test]
fn where_a_directory_stands_the_configuration_before_is_kept_all_the_same() {
    let of = |number| Some(snapshot(number).configuration());
    for (taken, again) in FILES.iter().flat_map(|name| [(name, false), (name, true)]) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("data").join(taken)).unwrap();
        let files = open(root.path());
        write(&files, 2);
        write(&files, 3);
        for key in 4..8 {
            // Also by a process that has not written what is there.
            let other = again.then(|| open(root.path()));
            write_with_key(other.as_ref().unwrap_or(&files), 3, key);
            let found = files.names().into_iter().map(|name| files.holds(name));
            assert_eq!(found.collect::<Vec<_>>(), [of(3), of(2)], "{taken}: {key}");
        }
    }
    // One that comes while it runs.
    let root = tempfile::tempdir().unwrap();
    let (files, newest) = without_the_newest_of_three(root.path());
    std::fs::create_dir(&newest).unwrap();
    write_with_key(&files, 3, 4);
    let found = files.names().into_iter().map(|name| files.holds(name));
    assert_eq!(found.collect::<Vec<_>>(), [of(3), of(2)]);
}

#[test]
fn a_file_that_is_longer_than_any_is_not_read() {
    let root = tempfile::tempdir().unwrap();
    let files = open(root.path());
    write(&files, 1);
    write(&files, 2);
    let newest = files.directory.join(FILES[0]);
    let file = OpenOptions::new().write(true).open(&newest).unwrap();
    file.set_len(LONGEST + 1).unwrap();
    let refused = files.read(&newest).unwrap_err();
    assert!(matches!(refused, Unusable::Foreign), "{refused}");
    assert_eq!(revision(&files), Some(1));
}

fn make_pipe(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
}

#[test]
fn what_is_of_no_use_gives_its_place_and_another_configuration_stays() {
    let of = |number| Some(snapshot(number).configuration());
    for (useless, expected) in [(FILES[0], [3, 2, 1]), (FILES[1], [3, 3, 1])] {
        let root = tempfile::tempdir().unwrap();
        let files = open(root.path());
        for number in 1..=3 {
            write(&files, number);
        }
        let useless = files.directory.join(useless);
        std::fs::remove_file(&useless).unwrap();
        make_pipe(&useless);
        let files = open(root.path());
        write_with_key(&files, 3, 4);
        let found = files.names().into_iter().map(|name| files.holds(name));
        assert_eq!(found.collect::<Vec<_>>(), expected.map(of), "{useless:?}");
    }
}

#[test]
fn a_pipe_is_passed_over_and_makes_place() {
    let root = tempfile::tempdir().unwrap();
    let (_, newest) = without_the_newest_of_three(root.path());
    make_pipe(&newest);
    let files = open(root.path());
    assert_eq!(revision(&files), Some(2));
    for number in 4..=6 {
        write(&files, number);
        assert_eq!(revision(&files), Some(number));
    }
    let names = files.names();
    assert!(names.iter().all(|name| files.holds(name).is_some()));
}

#[test]
fn one_that_cannot_be_used_gives_way_to_the_one_before() {
    let root = tempfile::tempdir().unwrap();
    let files = open(root.path());
    write(&files, 1);
    write(&files, 2);
    let used = files.load(&CLUSTER.1, |snapshot| match snapshot.position.revision.0 {
        2 => Err("does not compile".to_owned()),
        number => Ok(number),
    });
    assert_eq!(used.map(|(revision, _)| revision), Some(1));
}

#[test]
fn none_takes_the_place_of_one_that_the_process_crashed_with_that_serves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let files = open(root.path());
    write(&files, 1);
    assert_eq!(revision(&files), Some(1));
    write(&files, 2);
    tries(&files, 2);
    let again = open(root.path());
    assert_eq!(revision(&again), Some(2), "once may be chance");
    assert_eq!(revision(&open(root.path())), None);
}

#[test]
fn one_that_the_process_crashed_with_gives_way_to_the_one_before() {
    let root = tempfile::tempdir().unwrap();
    let files = open(root.path());
    write(&files, 2);
    write(&files, 3);
    tries(&files, 3);
    assert_eq!(revision(&open(root.path())), Some(3));
    assert_eq!(revision(&open(root.path())), Some(2));
    // A renewed private key seals from then on.
    let files = open(root.path());
    files.renew(Secret::new(vec![9; 100]));
    write(&files, 4);
    let directory = root.path().join("data");
    let renewed = LastGood::open(&directory, Secret::new(vec![9; 100]), "node-1").unwrap();
    assert_eq!(revision(&renewed), Some(4));
}

#[test]
fn keys_and_revocations_leave_a_configuration_to_go_back_to() {
    let root = tempfile::tempdir().unwrap();
    let files = open(root.path());
    write(&files, 2);
    let mut poison = snapshot(3).records().collect::<Vec<_>>();
    for number in 4..10 {
        let kind = if number % 2 == 0 {
            "revocations"
        } else {
            "session_keys"
        };
        let id = Uuid::from_u128(u128::from(number));
        poison.push(Record {
            key: Key { kind, id },
            json: b"{}".as_slice().into(),
        });
        // Also by a process that has not written what is there.
        let files = if number < 7 {
            &files
        } else {
            &open(root.path())
        };
        let snapshot = Snapshot::new(1, Revision(number), poison.clone());
        files.marker.starts(snapshot.configuration());
        files
            .write(&snapshot, &vouch(&CLUSTER.0, &snapshot.position))
            .unwrap();
        assert_eq!(revision(files), Some(number));
        if number == 9 {
            files
                .marker
                .tries(snapshot.position, snapshot.configuration());
        }
    }
    assert_eq!(revision(&open(root.path())), Some(9));
    assert_eq!(revision(&open(root.path())), Some(2));
}

#[test]
fn what_no_control_plane_of_the_cluster_vouches_for_is_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let files = open(root.path());
    write(&files, 1);
    let told = |vouched: Vouched| {
        files.write(&snapshot(2), &vouched).unwrap();
        let found = revision(&files);
        // Back to what was before.
        std::fs::rename(
            root.path().join("data").join(FILES[1]),
            root.path().join("data").join(FILES[0]),
        )
        .unwrap();
        found
    };
    let signer = &CLUSTER.0;
    assert_eq!(told(vouch(signer, &snapshot(2).position)), Some(2));
    assert_eq!(told(vouch(signer, &snapshot(3).position)), Some(1));
    assert_eq!(told(Vouched::default()), Some(1));
    let (stranger, _) = cluster(CONTROL_PLANE_NAME);
    assert_eq!(told(vouch(&stranger, &snapshot(2).position)), Some(1));
    let mut forged = vouch(signer, &snapshot(2).position);
    *forged.signature.last_mut().unwrap() ^= 1;
    assert_eq!(told(forged), Some(1));
}

/// The file that some version has written, read by this one.
fn recorded(name: &str) -> (Vec<Record>, Kept) {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(name);
    let root = tempfile::tempdir().unwrap();
    let files = open(root.path());
    let newest = root.path().join("data").join(FILES[0]);
    std::fs::copy(&recorded, &newest).unwrap();
    files
        .load(&CLUSTER.1, |read| Ok(read.records().collect::<Vec<_>>()))
        .unwrap()
}

/// What every version since the first has written stays readable.
#[test]
fn a_file_of_the_first_format_is_read() {
    let (records, kept) = recorded("last-good-1");
    assert!(records.into_iter().eq(snapshot(1).records()));
    assert_eq!(kept.snapshot.position, snapshot(1).position);
    assert_eq!(kept.vouched, None);
}
