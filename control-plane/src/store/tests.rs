//! The store keeps what it acknowledged, and notices what it did not write.

use std::path::PathBuf;

use serde_json::json;
use shared::clock::UnixTime;
use shared::snapshot::Key;
use uuid::Uuid;

use super::*;
use crate::config::{Change, Fields, Stored};
use crate::history::Origin;
use crate::publisher::Publisher;

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

    /// Waits until a store that was closed has let go of its files.
    fn wait_until_closed(&self) {
        let database = self.directory().join("db");
        if database.exists() {
            files::wait_until_unlocked(&database, CLOSED).unwrap();
        }
    }

    fn open(&self) -> Result<(Store, Config), StoreError> {
        self.wait_until_closed();
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

#[test]
fn a_store_that_nothing_was_committed_to_is_as_good_as_none() {
    let place = Place::new();
    let directory = place.directory();
    assert!(!is_begun(&directory));
    let (mut store, _) = place.open().unwrap();
    assert!(!is_begun(&directory));
    store.commit(&entry(1, &put(1, "first"))).unwrap();
    assert!(is_begun(&directory));
    drop(store);
    // One of before there were witnesses.
    place.wait_until_closed();
    std::fs::remove_file(directory.join("witness")).unwrap();
    assert!(is_begun(&directory));
    let (store, _) = place.open().unwrap();
    assert!(is_begun(&directory));
    drop(store);
}

#[test]
fn a_store_that_cannot_be_looked_into_counts_as_begun() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("store");
    std::fs::create_dir(&directory).unwrap();
    assert!(!is_begun(&directory));
    // Whoever may read everything, as tests may, still cannot follow what leads to itself.
    for name in ["db", "witness"] {
        let endless = directory.join(name);
        std::os::unix::fs::symlink(&endless, &endless).unwrap();
        assert!(is_begun(&directory), "{name}");
        std::fs::remove_file(&endless).unwrap();
    }
}

#[test]
fn a_store_begun_anew_by_a_clock_that_is_behind_goes_past_what_nodes_wait_with() {
    let place = Place::new();
    let (store, config) = place.open().unwrap();
    let own = store.generation();
    let publisher = Publisher::new(config, own, Box::new(store));
    let write = |id: u128| {
        let change = put(id, &id.to_string());
        let origin = Origin::system();
        let written = publisher.transact(&origin, UnixTime::default(), |_, _| {
            Ok::<_, JournalFault>(change.clone())
        });
        written.unwrap();
        publisher.generation()
    };
    publisher.is_awaited_after(own - 1);
    publisher.is_awaited_after(own + 50);
    let passed = write(1);
    assert_eq!(passed, own + 51);
    // What holds a configuration is another matter: it may be an old store that was put back.
    publisher.is_awaited_after(own + 500);
    assert_eq!(write(2), passed);
    drop(publisher);
    let (store, config) = place.open().unwrap();
    assert_eq!(
        (store.generation(), config.revision()),
        (passed, Revision(2))
    );
    assert_eq!(username(&config, 1).as_deref(), Some("1"));
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
fn a_second_process_is_named() {
    let place = Place::new();
    let (mut store, _) = place.open().unwrap();
    store.commit_at(1, &put(1, "a")).unwrap();
    let locked = Store::open(&place.directory(), &place.key()).unwrap_err();
    let in_use = |error: &StoreError| {
        matches!(
            error,
            StoreError::Open {
                fault: Fault::InUse,
                ..
            }
        )
    };
    assert!(in_use(&locked), "{locked:?}");
}

#[test]
fn a_change_that_was_changed_behind_our_back_stops_the_start() {
    let place = Place::new();
    {
        let (mut store, _) = place.open().unwrap();
        store.commit_at(1, &put(1, "a")).unwrap();
        store.commit_at(2, &put(2, "b")).unwrap();
    }
    {
        let database = sled::open(place.directory()).unwrap();
        let log = database.open_tree("log").unwrap();
        let (key, value) = log.first().unwrap().unwrap();
        let (other, _) = log.last().unwrap().unwrap();
        assert_ne!(key, other);
        log.insert(other, value).unwrap();
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
        match place.open() {
            Ok((_, config)) => assert_eq!((config.revision(), config.len()), (Revision(20), 20)),
            Err(error) => assert!(error.to_string().contains("restore"), "{error}"),
        }
    }
}

#[test]
fn a_head_without_a_generation_is_the_first() {
    let head: Head = serde_json::from_value(json!({
        "revision": 7, "count": 0, "digest": Hash::default(), "chain": Hash::default(),
    }))
    .unwrap();
    assert_eq!((head.generation, head.revision), (1, 7));
    assert!(head.first.is_some(), "it is of the first format");
    let written = serde_json::to_vec(&Head::default()).unwrap();
    let read: Head = serde_json::from_slice(&written).unwrap();
    assert!(read.first.is_none());
}

/// Every byte of damage is noticed or repaired: never a panic, never other content than was written. If the witness
/// of the last commit is gone, too, a shorter store looks like the power cut that a later export tells of.
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
        let witnessed = case % 4 < 2;
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
        let witness = witnessed.then_some("witness");
        for name in ["conf"].into_iter().chain(witness) {
            std::fs::copy(place.directory().join(name), copy.directory().join(name)).unwrap();
        }
        std::fs::write(copy.directory().join("db"), damaged).unwrap();
        let Ok((_, config)) = copy.open() else {
            continue;
        };
        let revision = config.revision().0;
        assert!(revision <= 12 && config.len() == usize::try_from(revision).unwrap());
        assert!(!witnessed || revision == 12, "{revision} of 12 at {at}");
        for at in 1..=revision {
            let text = username(&config, u128::from(at)).unwrap();
            assert!(text.starts_with(&format!("{at}z")), "{at}: {text}");
        }
    }
}

mod checkpoints {
    use super::*;

    /// A place with 30 consumers, and checkpoints at 10 and 20.
    fn checked() -> (Place, Config) {
        let place = Place::new();
        let (mut store, mut config) = place.open().unwrap();
        // Names the files below.
        store.head.generation = 1;
        for at in 1..=30_u64 {
            let change = put(u128::from(at), &format!("consumer {at}"));
            store.commit_at(at, &change).unwrap();
            config.apply(&change, Revision(at));
            if at % 10 == 0 && at < 30 {
                let chain = store.head.chain;
                store.checkpoints.write_now(1, &config, chain).unwrap();
            }
        }
        store.close().unwrap();
        (place, config)
    }

    fn file(place: &Place, revision: u64) -> PathBuf {
        let name = format!("000001-{revision:012}.checkpoint");
        place.directory().join(name)
    }

    fn flip(path: &Path, at: usize) {
        let mut bytes = std::fs::read(path).unwrap();
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }

    /// Opens the store, which has to hold everything, and says what revision it began with.
    fn begins_with(place: &Place, config: &Config) -> u64 {
        let (store, read) = place.open().unwrap();
        let content = |config: &Config| -> Vec<(Key, Stored)> {
            let records = config.records();
            records
                .map(|(key, record)| (*key, record.clone()))
                .collect()
        };
        assert_eq!(read.revision(), config.revision());
        assert_eq!(content(&read), content(config));
        let newest = store.checkpoints.newest();
        store.close().unwrap();
        newest
    }

    fn forget(place: &Place, revisions: std::ops::RangeInclusive<u64>) {
        let database = sled::open(place.directory()).unwrap();
        let log = database.open_tree("log").unwrap();
        for revision in revisions {
            let keys: Vec<_> = log.scan_prefix(revision.to_be_bytes()).keys().collect();
            for key in keys {
                log.remove(key.unwrap()).unwrap();
            }
        }
        database.flush().unwrap();
        drop((log, database));
        place.wait_until_closed();
    }

    #[test]
    fn a_damaged_one_gives_way_to_the_one_before_and_that_to_the_log() {
        let (place, config) = checked();
        assert_eq!(begins_with(&place, &config), 20);
        for at in [0, 30, 60, 200, usize::MAX] {
            flip(&file(&place, 20), at);
            assert_eq!(begins_with(&place, &config), 10, "flipped at {at}");
            flip(&file(&place, 20), at);
        }
        assert_eq!(begins_with(&place, &config), 20);
        // One that calls itself another is none.
        std::fs::rename(file(&place, 20), file(&place, 21)).unwrap();
        assert_eq!(begins_with(&place, &config), 10);
        std::fs::remove_file(file(&place, 10)).unwrap();
        assert_eq!(begins_with(&place, &config), 0);
    }

    #[test]
    fn what_the_log_has_forgotten_is_in_the_checkpoint_or_the_start_is_refused() {
        let (place, config) = checked();
        forget(&place, 1..=15);
        assert_eq!(begins_with(&place, &config), 20);
        flip(&file(&place, 20), 100);
        let error = place.open().unwrap_err().to_string();
        assert!(
            error.contains("damaged") && error.contains("backup"),
            "{error}"
        );
    }

    #[test]
    fn a_hole_in_the_log_is_no_shorter_history() {
        let (place, _) = checked();
        forget(&place, 25..=25);
        let error = place.open().unwrap_err().to_string();
        assert!(error.contains("revision 25 is missing"), "{error}");
    }

    #[test]
    fn they_come_by_themselves_and_two_are_kept() {
        let place = Place::new();
        let (mut store, mut config) = place.open().unwrap();
        // What does not pack, so that each is due by its size.
        for at in 1..=4_u64 {
            let mut bytes = vec![0; 3 * 1024 * 1024];
            let mut stream = blake3::Hasher::new()
                .update(&at.to_be_bytes())
                .finalize_xof();
            stream.fill(&mut bytes);
            let text: String = bytes
                .iter()
                .map(|byte| char::from(b'0' + byte % 64))
                .collect();
            let change = put(1, &text);
            store.commit_at(at, &change).unwrap();
            config.apply(&change, Revision(at));
            store.checkpoint(&config).unwrap();
            store.checkpoints.finish();
        }
        assert!(store.checkpoints.newest() >= 2);
        let newest = store.checkpoints.newest();
        store.close().unwrap();
        let files = std::fs::read_dir(place.directory()).unwrap().flatten();
        let files = files.filter(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|ending| ending == "checkpoint")
        });
        assert!((1..=2).contains(&files.count()));
        assert_eq!(begins_with(&place, &config), newest);
    }
}

mod exports;
