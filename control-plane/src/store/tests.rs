//! The store keeps what it acknowledged, and notices what it did not write.

use std::path::PathBuf;

use super::*;

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
        puts: vec![(key, Arc::new(fields))],
        removes: Vec::new(),
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
        store.commit(Revision(1), &put(1, "first")).unwrap();
        store.commit(Revision(2), &put(2, &large)).unwrap();
        store.commit(Revision(3), &put(1, "again")).unwrap();
        let removes = vec![Key {
            kind: "consumers",
            id: Uuid::from_u128(3),
        }];
        store.commit(Revision(4), &put(3, "gone")).unwrap();
        store
            .commit(
                Revision(5),
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
        store.commit(Revision(6), &put(2, "small")).unwrap();
    }
    let (_, config) = place.open().unwrap();
    assert_eq!(username(&config, 2).as_deref(), Some("small"));
}

#[test]
fn a_revision_that_does_not_follow_is_refused_and_changes_nothing() {
    let place = Place::new();
    let (mut store, _) = place.open().unwrap();
    store.commit(Revision(1), &put(1, "a")).unwrap();
    assert!(store.commit(Revision(1), &put(2, "b")).is_err());
    assert!(store.commit(Revision(3), &put(2, "b")).is_err());
    store.commit(Revision(2), &put(2, "b")).unwrap();
}

#[test]
fn another_key_and_a_second_process_are_named() {
    let place = Place::new();
    let (mut store, _) = place.open().unwrap();
    store.commit(Revision(1), &put(1, "a")).unwrap();
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
        store
            .commit(Revision(1), &put(1, "canary-canary-canary"))
            .unwrap();
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
        store.commit(Revision(1), &put(1, "a")).unwrap();
        store.commit(Revision(2), &put(2, "b")).unwrap();
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
        store.commit(Revision(1), &put(1, "a")).unwrap();
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
                    .commit(Revision(at + 1), &put(u128::from(at), &"y".repeat(3000)))
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
