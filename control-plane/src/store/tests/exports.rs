//! Exports of a store, and restores from them.

use serde_json::json;
use shared::entity::{Entity, Revocation, SessionKey};
use uuid::Uuid;

use super::*;
use crate::store::export;
use crate::store::restore::{RestoreCommand, Restored, restore};

/// Earlier than any store is made.
const NOW: UnixTime = UnixTime::from_secs(1_700_000_000);

/// A place with 20 consumers at revision 20, exported.
fn exported() -> (Place, PathBuf) {
    let place = Place::new();
    let (mut store, mut config) = place.open().unwrap();
    for at in 1..=20_u64 {
        let change = put(u128::from(at), &format!("consumer {at}"));
        store.commit_at(at, &change).unwrap();
        config = config.evolve(&change, Revision(at));
    }
    let directory = place.directory().with_file_name("exports");
    let into = (directory.as_path(), export::KEPT);
    let written = export::write(into, &place.key(), store.generation(), &config, NOW);
    let (path, is_new) = written.unwrap();
    assert!(is_new);
    (place, path)
}

/// Restores what has been closed: sled lets go of its files a moment after that.
fn restored(place: &Place, from: &Path) -> Result<Restored, StoreError> {
    place.wait_until_closed();
    restored_at_once(place, from)
}

fn restored_at_once(place: &Place, from: &Path) -> Result<Restored, StoreError> {
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
    let before = place.open().unwrap().0.generation();
    std::fs::remove_dir_all(place.directory()).unwrap();
    let done = restored(&place, &path).unwrap();
    // One more than the export's: that it was restored is a part of the history.
    assert_eq!((done.generation, done.revision), (before + 1, Revision(21)));
    assert_eq!((done.records, done.exported_at), (20, NOW));
    let (mut store, config) = place.open().unwrap();
    assert_eq!(store.generation(), before + 1);
    assert_eq!(username(&config, 20).as_deref(), Some("consumer 20"));
    let told = store.history().entry(Revision(21)).unwrap().unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    assert_eq!(told.origin.path, format!("restore --from {name}"));
    assert_eq!((told.at, told.edits.len()), (NOW, 0));
    store.commit_at(22, &put(21, "new")).unwrap();
    drop(store);
    assert_eq!(
        place.open().unwrap().0.generation(),
        before + 1,
        "a commit keeps the generation"
    );
}

#[test]
fn each_restore_is_a_new_generation_and_keeps_the_store_from_before() {
    let (place, path) = exported();
    let known = {
        let (mut store, _) = place.open().unwrap();
        store.commit_at(21, &put(21, "later")).unwrap();
        store.generation()
    };
    let first = restored(&place, &path).unwrap();
    let kept = first.replaced.expect("there was a store");
    let (_, before) = Store::open(&kept, &place.key()).unwrap();
    assert_eq!(username(&before, 21).as_deref(), Some("later"));
    std::fs::remove_dir_all(kept).unwrap();
    assert_eq!(first.generation, known + 1);
    assert_eq!(restored(&place, &path).unwrap().generation, known + 2);
}

#[test]
fn what_was_ended_since_an_export_stays_ended() {
    let (place, path) = exported();
    let session_key = |number: u128, state: &str| {
        let key = Key {
            kind: SessionKey::KIND,
            id: Uuid::from_u128(number),
        };
        let fields = json!({
            "id": key.id, "secret": "c2VjcmV0", "created_at": 1, "activate_at": 1, "decrypt_until": null, "state": state,
        });
        (key, Stored::of(fields.as_object().unwrap()))
    };
    let logout = Key {
        kind: Revocation::KIND,
        id: Uuid::from_u128(9),
    };
    let ended = json!({ "id": logout.id, "before": 5, "until": 10 });
    let (_, first) = session_key(1, "ready");
    let path = {
        let (mut store, mut config) = place.open().unwrap();
        let change = Change {
            puts: vec![(session_key(1, "ready").0, first)],
            removes: Vec::new(),
        };
        store.commit_at(21, &change).unwrap();
        config = config.evolve(&change, Revision(21));
        let directory = path.parent().unwrap();
        let into = (directory, export::KEPT);
        export::write(into, &place.key(), store.generation(), &config, NOW)
            .unwrap()
            .0
    };
    let change = Change {
        puts: vec![
            session_key(1, "revoked"),
            session_key(2, "ready"),
            (logout, Stored::of(ended.as_object().unwrap())),
        ],
        removes: Vec::new(),
    };
    {
        let (mut store, _) = place.open().unwrap();
        store.commit_at(22, &put(21, "later")).unwrap();
        store.commit_at(23, &change).unwrap();
    }
    let done = restored(&place, &path).unwrap();
    assert!(done.carried);
    std::fs::remove_dir_all(done.replaced.unwrap()).unwrap();
    let (_, config) = place.open().unwrap();
    assert_eq!(username(&config, 21), None);
    assert_eq!(config.revision(), Revision(22));
    for (key, stored) in &change.puts {
        assert_eq!(config.stored(*key), Some(stored));
    }
    // Nothing is known of what was ended where the store is gone, or where another is, which takes no key away.
    std::fs::remove_dir_all(place.directory()).unwrap();
    assert!(!restored(&place, &path).unwrap().carried);
    std::fs::remove_dir_all(place.directory()).unwrap();
    {
        let (mut store, _) = place.open().unwrap();
        let other = Change {
            puts: vec![session_key(3, "ready"), change.puts[2].clone()],
            removes: Vec::new(),
        };
        store.commit_at(1, &other).unwrap();
    }
    assert!(!restored(&place, &path).unwrap().carried);
    let (_, config) = place.open().unwrap();
    let known = |number| config.contains(session_key(number, "").0);
    assert!(known(1) && !known(3) && config.contains(logout));
}

#[test]
fn a_store_that_does_not_open_is_replaced_by_a_later_generation_than_any_export() {
    let (place, path) = exported();
    // As none that is made today.
    let later = path.with_file_name("9999999999-000000000001.export");
    std::fs::write(later, "whatever").unwrap();
    std::fs::write(place.directory().join("db"), "no database").unwrap();
    assert_eq!(restored(&place, &path).unwrap().generation, 10_000_000_000);
}

#[test]
fn the_store_of_a_running_control_plane_is_left_alone() {
    let (place, path) = exported();
    let _running = place.open().unwrap();
    let error = restored_at_once(&place, &path).unwrap_err();
    let error = chain(&error).to_string();
    assert!(error.contains("stop that one first"), "{error}");
    assert!(place.directory().exists());
}

#[test]
fn a_store_begun_anew_and_an_export_restored_elsewhere_are_later_than_what_nobody_here_knows() {
    let day = UnixTime::from_secs(1_800_000_000);
    let next = UnixTime::from_secs(1_800_086_400);
    assert!(generation_after(0, day) < generation_after(0, next));
    assert!(generation_after(7, day) < generation_after(7, next));
    // A clock that goes back takes no restore back.
    let restored = generation_after(0, next);
    assert_eq!(generation_after(restored, day), restored + 1);
}

#[test]
fn a_store_that_is_older_than_its_export_has_lost_writes() {
    let (place, path) = exported();
    let own = place.open().unwrap().0.generation();
    let directory = path.parent().unwrap();
    let check = |generation, revision| {
        export::check_not_behind(directory, &Found::at(generation, Revision(revision)))
    };
    check(own, 20).unwrap();
    check(own, 21).unwrap();
    check(own + 1, 3).unwrap();
    // One that was just begun in the place of the one that was lost.
    check(own + 1, 0).unwrap_err();
    let error = check(own, 19).unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    // Those that an operator has asked for are as good a witness.
    let asked = directory.join(export::ON_DEMAND);
    std::fs::create_dir(&asked).unwrap();
    std::fs::copy(&path, asked.join(format!("{own}-000000000030.export"))).unwrap();
    let error = check(own, 29).unwrap_err().to_string();
    assert!(error.contains(asked.to_str().unwrap()), "{error}");
}

#[test]
fn three_exports_are_kept_and_no_state_is_written_twice() {
    let place = Place::new();
    let directory = place.directory().with_file_name("exports");
    let mut config = Config::default();
    for revision in 1..=5 {
        config = config.evolve(&put(1, &revision.to_string()), Revision(revision));
        for expected in [true, false] {
            let into = (directory.as_path(), export::KEPT);
            let (_, is_new) = export::write(into, &place.key(), 1, &config, NOW).unwrap();
            assert_eq!(is_new, expected);
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
