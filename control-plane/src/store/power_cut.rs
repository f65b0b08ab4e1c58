//! What a power cut leaves: everything that was synced, and of what was written since, any part.
//!
//! The store's file is copied after each commit, that is after its sync. A cut in the middle of the next
//! commit is one of those copies with some of the sectors of the one after it, in any order, and with
//! sled's other files, which nobody syncs, gone, cut or as they were.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use shared::snapshot::Key;
use uuid::Uuid;

use super::tests::entry;
use super::{SecretsKey, Store};
use crate::config::{Change, Fields, Stored};
use crate::publisher::Journal;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// How many commits there are to be cut.
const COMMITS: u64 = 60;

/// How many records the commits go round.
const RECORDS: u64 = 7;

/// The record that commit `revision` puts, of a length that differs from the one it replaces.
fn change(revision: u64) -> Change {
    let key = Key {
        kind: "consumers",
        id: Uuid::from_u128(u128::from(revision % RECORDS)),
    };
    let mut fields = Fields::new();
    fields.insert("revision".to_owned(), revision.into());
    let length = usize::try_from(revision * 977 % 20_000).unwrap();
    fields.insert("text".to_owned(), "x".repeat(length).into());
    Change {
        puts: vec![(key, Stored::of(&fields))],
        removes: Vec::new(),
    }
}

/// All files of the store by name, as they are.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let files = entries.filter(|entry| entry.path().is_file());
    files
        .filter_map(|entry| {
            // sled renames and removes its index snapshots at any time.
            let bytes = fs::read(entry.path()).ok()?;
            Some((entry.file_name().into_string().unwrap(), bytes))
        })
        .collect()
}

fn database(files: &[(String, Vec<u8>)]) -> &[u8] {
    let found = files.iter().find(|(name, _)| name == "db");
    &found.expect("sled keeps its data in `db`").1
}

/// `synced` after some sectors of `later` reached the disk too: those that `kept` says, in turn.
fn torn(synced: &[u8], later: &[u8], kept: &[bool]) -> Vec<u8> {
    let mut mixed = synced.to_vec();
    for (at, sector) in later.chunks(SECTOR).enumerate() {
        let from = at * SECTOR;
        let same = synced.get(from..from + sector.len()) == Some(sector);
        if same || !kept[at % kept.len()] {
            continue;
        }
        // A file that grew without its sectors holds zeros in their place.
        mixed.resize(mixed.len().max(from + sector.len()), 0);
        mixed[from..from + sector.len()].copy_from_slice(sector);
    }
    mixed
}

#[test]
fn a_power_cut_loses_no_acknowledged_commit() {
    let root = tempfile::tempdir().unwrap();
    let key = SecretsKey::read_or_create(&root.path().join("store.key")).unwrap();
    let directory = root.path().join("store");
    let mut states = Vec::new();
    {
        let (mut store, _) = Store::open(&directory, &key).unwrap();
        states.push(files(&directory));
        for revision in 1..=COMMITS {
            store.commit(&entry(revision, &change(revision))).unwrap();
            states.push(files(&directory));
        }
    }
    let cut = root.path().join("cut");
    let cases = (
        0..states.len() - 1,
        prop::collection::vec(any::<bool>(), 1..97),
        0..3_u8,
    );
    let mut runner = TestRunner::new(Cases {
        cases: 150,
        failure_persistence: None,
        ..Cases::default()
    });
    runner
        .run(&cases, |(at, kept, others)| {
            let (synced, later) = (&states[at], &states[at + 1]);
            let _ = fs::remove_dir_all(&cut);
            fs::create_dir_all(&cut).unwrap();
            // The witness is written once its commit is synced: of the one that is cut there is none.
            let unsynced = later
                .iter()
                .filter(|(name, _)| name != "db" && name != "witness");
            let noted = synced.iter().filter(|(name, _)| name == "witness");
            for (name, bytes) in unsynced.chain(noted) {
                let path: PathBuf = cut.join(name);
                match others {
                    // `conf` is written and synced when the store is made.
                    _ if name == "conf" => fs::write(path, bytes).unwrap(),
                    0 => {}
                    1 => fs::write(path, &bytes[..bytes.len() / 2]).unwrap(),
                    _ => fs::write(path, bytes).unwrap(),
                }
            }
            let bytes = torn(database(synced), database(later), &kept);
            fs::write(cut.join("db"), bytes).unwrap();

            let opened = Store::open(&cut, &key);
            prop_assert!(opened.is_ok(), "cut after {at}: {:?}", opened.err());
            let (_, config) = opened.unwrap();
            let acknowledged = u64::try_from(at).unwrap();
            let revision = config.revision().0;
            prop_assert!(
                revision == acknowledged || revision == acknowledged + 1,
                "cut after {acknowledged}: {revision}"
            );
            // Each record is the one that the newest commit to it put.
            for newest in (revision.saturating_sub(RECORDS) + 1)..=revision {
                let (key, fields) = &change(newest).puts[0];
                prop_assert_eq!(config.stored(*key), Some(fields));
            }
            Ok(())
        })
        .unwrap();
}
