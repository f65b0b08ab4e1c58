//! The store keeps what it acknowledged, and notices what it did not write.

use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::config::Fields;

struct Place {
    root: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
        }
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join("store")
    }

    fn key(&self) -> SecretsKey {
        SecretsKey::read_or_create(&self.root.path().join("store.key")).unwrap()
    }

    fn open(&self) -> Result<(Store, Config), StoreError> {
        Store::open(&self.directory(), &self.key())
    }
}

fn put(id: u128, text: &str) -> Change {
    let key = Key {
        kind: "consumers",
        id: Uuid::from_u128(id),
    };
    let mut fields = Fields::new();
    fields.insert("username".to_owned(), text.into());
    Change {
        puts: vec![(key, Stored::of(&fields))],
        removes: Vec::new(),
    }
}

/// The entry of a commit of the control plane itself.
pub(super) fn entry(revision: u64, change: &Change) -> Entry {
    Entry::of(
        &Config::default(),
        change,
        Revision(revision),
        UnixTime::default(),
        &Origin::system(),
    )
}

trait CommitAt {
    fn commit_at(&mut self, revision: u64, change: &Change) -> Result<(), JournalFault>;
}

impl CommitAt for Store {
    fn commit_at(&mut self, revision: u64, change: &Change) -> Result<(), JournalFault> {
        self.commit(&entry(revision, change))
    }
}

fn username(config: &Config, id: u128) -> Option<String> {
    let record = config.record(Key {
        kind: "consumers",
        id: Uuid::from_u128(id),
    })?;
    Some(record["username"].as_str().unwrap().to_owned())
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let place = Place::new();
    let large = "x".repeat(100_000);
    {
        let (mut store, config) = place.open().unwrap();
        assert!(config.is_empty());
        store.commit_at(1, &put(1, "first")).unwrap();
        store.commit_at(2, &put(2, &large)).unwrap();
        store.commit_at(3, &put(1, "again")).unwrap();
        let removes = vec![Key {
            kind: "consumers",
            id: Uuid::from_u128(3),
        }];
        store.commit_at(4, &put(3, "gone")).unwrap();
        store
            .commit_at(
                5,
                &Change {
                    puts: Vec::new(),
                    removes,
                },
            )
            .unwrap();
    }
    {
        let (mut store, config) = place.open().unwrap();
        assert_eq!((config.revision(), config.len()), (Revision(5), 2));
        assert_eq!(username(&config, 1).as_deref(), Some("again"));
        assert_eq!(username(&config, 2), Some(large));
        store.commit_at(6, &put(2, "small")).unwrap();
    }
    let (_, config) = place.open().unwrap();
    assert_eq!(username(&config, 2).as_deref(), Some("small"));
}

#[test]
fn a_revision_that_does_not_follow_is_refused_and_changes_nothing() {
    let place = Place::new();
    let (mut store, _) = place.open().unwrap();
    store.commit_at(1, &put(1, "a")).unwrap();
    assert!(store.commit_at(1, &put(2, "b")).is_err());
    assert!(store.commit_at(3, &put(2, "b")).is_err());
    store.commit_at(2, &put(2, "b")).unwrap();
}

#[test]
fn another_key_and_a_second_process_are_named() {
    let place = Place::new();
    let (mut store, _) = place.open().unwrap();
    store.commit_at(1, &put(1, "a")).unwrap();
    let locked = place.open().unwrap_err().to_string();
    assert!(locked.contains("another control plane"), "{locked}");
    drop(store);
    let other = SecretsKey::read_or_create(&place.root.path().join("other.key")).unwrap();
    let error = Store::open(&place.directory(), &other)
        .unwrap_err()
        .to_string();
    assert!(error.contains("secrets_key_file"), "{error}");
}

#[test]
fn no_secret_is_readable_in_the_files() {
    let place = Place::new();
    {
        let (mut store, _) = place.open().unwrap();
        store.commit_at(1, &put(1, "canary-canary-canary")).unwrap();
    }
    for entry in std::fs::read_dir(place.directory()).unwrap().flatten() {
        if entry.path().is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            assert!(
                !bytes.windows(13).any(|window| window == b"canary-canary"),
                "{entry:?}"
            );
        }
    }
}

#[test]
fn a_record_that_was_changed_behind_our_back_stops_the_start() {
    let place = Place::new();
    {
        let (mut store, _) = place.open().unwrap();
        store.commit_at(1, &put(1, "a")).unwrap();
        store.commit_at(2, &put(2, "b")).unwrap();
    }
    {
        let database = sled::open(place.directory()).unwrap();
        let records = database.open_tree("records").unwrap();
        let (key, value) = records.first().unwrap().unwrap();
        let (other, _) = records.last().unwrap().unwrap();
        assert_ne!(key, other);
        records.insert(other, value).unwrap();
        database.flush().unwrap();
    }
    let error = place.open().unwrap_err().to_string();
    assert!(error.contains("damaged"), "{error}");
}

#[test]
fn a_crash_while_sled_writes_its_index_is_repaired() {
    let place = Place::new();
    {
        let (mut store, _) = place.open().unwrap();
        store.commit_at(1, &put(1, "a")).unwrap();
    }
    std::fs::write(
        place.directory().join("snap.0000000000000001.generating"),
        b"half",
    )
    .unwrap();
    let (_, config) = place.open().unwrap();
    assert_eq!(username(&config, 1).as_deref(), Some("a"));
}

#[test]
fn a_truncated_file_is_an_error_or_whole_and_never_a_panic() {
    for keep in [0, 100, 5_000, 50_000] {
        let place = Place::new();
        {
            let (mut store, _) = place.open().unwrap();
            for at in 0..20_u64 {
                store
                    .commit_at(at + 1, &put(u128::from(at), &"y".repeat(3000)))
                    .unwrap();
            }
        }
        let path = place.directory().join("db");
        std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(keep)
            .unwrap();
        if let Ok((_, config)) = place.open() {
            assert!(config.revision() <= Revision(20));
            assert_eq!(u64::try_from(config.len()).unwrap(), config.revision().0);
        }
    }
}

#[test]
fn a_nearly_full_disk_refuses_writes_until_there_is_room() {
    let place = Place::new();
    let (mut store, _) = place.open().unwrap();
    store.room = |_| {
        Ok(Room {
            free: 1,
            total: 1 << 40,
        })
    };
    let fault = store.commit_at(1, &put(1, "a")).unwrap_err();
    assert!(matches!(fault, JournalFault::NoRoom(_)), "{fault}");
    assert!(
        fault.to_string().contains("1024 MiB must stay free"),
        "{fault}"
    );
    store.room = |_| {
        Ok(Room {
            free: 1 << 39,
            total: 1 << 40,
        })
    };
    store.commit_at(1, &put(1, "a")).unwrap();
}

#[test]
fn a_head_without_a_generation_is_the_first() {
    let head: Head = serde_json::from_value(json!({
        "revision": 7, "count": 0, "digest": Hash::default(), "chain": Hash::default(),
    }))
    .unwrap();
    assert_eq!((head.generation, head.revision), (1, 7));
}

/// Every byte of damage is noticed, repaired, or looks like the power cut that a later export tells of:
/// never a panic, never other content than was written.
#[test]
fn no_damage_gives_other_content_than_was_written() {
    let place = Place::new();
    {
        let (mut store, _) = place.open().unwrap();
        for at in 1..=12_u64 {
            let change = put(u128::from(at), &format!("{at}{}", "z".repeat(2000)));
            store.commit_at(at, &change).unwrap();
        }
    }
    let whole = std::fs::read(place.directory().join("db")).unwrap();
    let written = whole.iter().rposition(|byte| *byte != 0).unwrap();
    for case in 0..60_usize {
        let at = written * case / 60;
        let mut damaged = whole.clone();
        if case % 2 == 0 {
            damaged[at] ^= 0x55;
        } else {
            damaged.truncate(at);
        }
        let copy = Place::new();
        std::fs::create_dir_all(copy.directory()).unwrap();
        std::fs::copy(
            place.root.path().join("store.key"),
            copy.root.path().join("store.key"),
        )
        .unwrap();
        std::fs::copy(
            place.directory().join("conf"),
            copy.directory().join("conf"),
        )
        .unwrap();
        std::fs::write(copy.directory().join("db"), damaged).unwrap();
        let Ok((_, config)) = copy.open() else {
            continue;
        };
        let revision = config.revision().0;
        assert!(revision <= 12 && config.len() == usize::try_from(revision).unwrap());
        for at in 1..=revision {
            let text = username(&config, u128::from(at)).unwrap();
            assert!(text.starts_with(&format!("{at}z")), "{at}: {text}");
        }
    }
}

mod exports {
    use super::*;
    use crate::store::export;
    use crate::store::restore::{RestoreCommand, Restored, restore};

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    /// A place with 20 consumers at revision 20, exported.
    fn exported() -> (Place, PathBuf) {
        let place = Place::new();
        let (mut store, mut config) = place.open().unwrap();
        for at in 1..=20_u64 {
            let change = put(u128::from(at), &format!("consumer {at}"));
            store.commit_at(at, &change).unwrap();
            config = config.evolve(&change, Revision(at));
        }
        let path = export::write(
            &place.directory().with_file_name("exports"),
            &place.key(),
            store.generation(),
            &config,
            NOW,
        );
        (place, path.unwrap().expect("the state is new"))
    }

    fn restored(place: &Place, from: &Path) -> Result<Restored, StoreError> {
        let command = RestoreCommand {
            from: from.to_path_buf(),
            data_directory: place.root.path().to_path_buf(),
            secrets_key_file: Some(place.root.path().join("store.key")),
            ..RestoreCommand::default()
        };
        restore(&command, NOW)
    }

    #[test]
    fn a_lost_store_comes_back_from_its_export_as_the_next_generation() {
        let (place, path) = exported();
        std::fs::remove_dir_all(place.directory()).unwrap();
        let done = restored(&place, &path).unwrap();
        assert_eq!((done.generation, done.revision), (2, Revision(20)));
        assert_eq!((done.records, done.exported_at), (20, NOW));
        let (mut store, config) = place.open().unwrap();
        assert_eq!(store.generation(), 2);
        assert_eq!(username(&config, 20).as_deref(), Some("consumer 20"));
        store.commit_at(21, &put(21, "new")).unwrap();
        drop(store);
        assert_eq!(
            place.open().unwrap().0.generation(),
            2,
            "a commit keeps the generation"
        );
    }

    #[test]
    fn each_restore_is_a_new_generation_and_keeps_the_store_from_before() {
        let (place, path) = exported();
        {
            let (mut store, _) = place.open().unwrap();
            store.commit_at(21, &put(21, "later")).unwrap();
        }
        let first = restored(&place, &path).unwrap();
        let kept = first.replaced.expect("there was a store");
        let (_, before) = Store::open(&kept, &place.key()).unwrap();
        assert_eq!(username(&before, 21).as_deref(), Some("later"));
        std::fs::remove_dir_all(kept).unwrap();
        assert_eq!(restored(&place, &path).unwrap().generation, 3);
    }

    #[test]
    fn a_store_that_does_not_open_is_replaced_by_a_later_generation_than_any_export() {
        let (place, path) = exported();
        let later = path.with_file_name("000007-000000000001.export");
        std::fs::write(later, "whatever").unwrap();
        std::fs::write(place.directory().join("db"), "no database").unwrap();
        assert_eq!(restored(&place, &path).unwrap().generation, 8);
    }

    #[test]
    fn the_store_of_a_running_control_plane_is_left_alone() {
        let (place, path) = exported();
        let _running = place.open().unwrap();
        let error = restored(&place, &path).unwrap_err().to_string();
        assert!(error.contains("stop that one first"), "{error}");
        assert!(place.directory().exists());
    }

    #[test]
    fn a_store_that_is_older_than_its_export_has_lost_writes() {
        let (_place, path) = exported();
        let directory = path.parent().unwrap();
        let check = |generation, revision| {
            export::check_not_behind(directory, generation, Revision(revision))
        };
        check(1, 20).unwrap();
        check(1, 21).unwrap();
        check(2, 3).unwrap();
        let error = check(1, 19).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn three_exports_are_kept_and_no_state_is_written_twice() {
        let place = Place::new();
        let directory = place.directory().with_file_name("exports");
        let mut config = Config::default();
        for revision in 1..=5 {
            config = config.evolve(&put(1, &revision.to_string()), Revision(revision));
            for expected in [true, false] {
                let written = export::write(&directory, &place.key(), 1, &config, NOW).unwrap();
                assert_eq!(written.is_some(), expected);
            }
        }
        let names: Vec<String> = export::list(&directory)
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            names,
            [3, 4, 5].map(|revision| format!("000001-{revision:012}.export"))
        );
    }

    #[test]
    fn no_damaged_or_foreign_export_is_restored() {
        let (place, path) = exported();
        let whole = std::fs::read(&path).unwrap();
        assert!(
            !whole.windows(11).any(|window| window == b"consumer 20"),
            "an export is sealed"
        );
        let mut cases: Vec<Vec<u8>> = (0..whole.len())
            .step_by(7)
            .map(|keep| whole[..keep].to_vec())
            .collect();
        for at in (0..whole.len()).step_by(5) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            cases.push(flipped);
        }
        for case in cases {
            std::fs::write(&path, case).unwrap();
            let error = export::read(&path, &place.key()).unwrap_err();
            assert!(matches!(error, StoreError::Export { .. }), "{error}");
        }
        std::fs::write(&path, whole).unwrap();
        let other = SecretsKey::read_or_create(&place.root.path().join("other.key")).unwrap();
        let error = export::read(&path, &other).unwrap_err().to_string();
        assert!(error.contains("secrets_key_file"), "{error}");
    }
}
