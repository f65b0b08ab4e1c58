//! An etcd that was put back to an earlier state, or emptied, while control planes know what was there.

use std::path::Path;
use std::time::Duration;

use shared::clock::UnixTime;
use shared::snapshot::Revision;

use super::super::{Subject, commit, content, put};
use super::InEtcd;
use crate::history::Entry;
use crate::publisher::{Journal, Newer};
use crate::store::etcd::EtcdStore;
use crate::store::{Chains, Found, StoreError};

/// What lies below `from`, once more below `to`, in the place of what is there.
fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn an_etcd_that_went_back_is_neither_followed_nor_written_on() {
    let Some(mut subject) = InEtcd::start() else {
        return;
    };
    let backup = subject.place().join("backup");
    let (mut one, mut ours) = subject.opened();
    commit(&mut one, &mut ours, &put(1, "kept")).unwrap();
    subject.kill();
    copy(&subject.files(), &backup);
    subject.clear(&mut one);
    commit(&mut one, &mut ours, &put(2, "lost")).unwrap();
    subject.kill();
    copy(&backup, &subject.files());
    subject.clear(&mut one);
    let Newer::Changes(changes) = one.newer().unwrap() else {
        panic!("an older state is no news")
    };
    assert!(changes.is_empty());
    commit(&mut one, &mut ours.clone(), &put(3, "on what is lost")).unwrap_err();
    // It is no stale answer, and said.
    let told = (0..600).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        one.newer().err()
    });
    let told = told.expect("it stays older").to_string();
    assert!(told.contains("put back to an earlier state"), "{told}");
    let fault = commit(&mut one, &mut ours.clone(), &put(3, "on what is lost")).unwrap_err();
    assert_eq!(fault.to_string(), told);
    // Nobody who had more begins there, and that writes nothing.
    let refused = EtcdStore::open(&subject.settings(), &subject.key(), |found, _| {
        assert!(found.lacks(one.generation(), ours.revision()), "{found:?}");
        Err(StoreError::Key("refused".to_owned()))
    });
    refused.unwrap_err();
    // Another goes on from what there is, until it has written as much.
    let (mut other, mut theirs) = subject.opened();
    commit(&mut other, &mut theirs, &put(2, "instead")).unwrap();
    assert_eq!(theirs.revision(), ours.revision());
    let fault = one.newer().unwrap_err();
    assert!(fault.to_string().contains("in another way"), "{fault}");
    commit(&mut one, &mut ours, &put(3, "on what is lost")).unwrap_err();
    // And when it has written more.
    commit(&mut other, &mut theirs, &put(4, "further")).unwrap();
    let fault = one.newer().unwrap_err();
    assert!(fault.to_string().contains("in another way"), "{fault}");
    commit(&mut one, &mut ours, &put(3, "on what is lost")).unwrap_err();
    let (_, found) = subject.opened();
    assert_eq!(content(&found), content(&theirs));
    // Who starts tells by the log, as far back as that goes.
    let (had, there) = (one.place().unwrap(), other.place().unwrap());
    assert_eq!(had.revision.next(), there.revision);
    let trying = EtcdStore::try_open(&subject.settings(), &subject.key(), |_, past| {
        assert_eq!(past(there.revision)?, Some(there.chain));
        assert!(past(had.revision)?.is_some_and(|chain| chain != had.chain));
        assert_eq!(past(there.revision.next())?, None);
        Ok(())
    });
    trying.unwrap();
}

#[test]
fn an_etcd_that_was_emptied_is_not_begun_anew_by_who_knows_what_was_there() {
    let Some(mut subject) = InEtcd::start() else {
        return;
    };
    let (mut one, mut ours) = subject.opened();
    commit(&mut one, &mut ours, &put(1, "kept")).unwrap();
    subject.kill();
    // One that is begun within the same second is of the same generation.
    while UnixTime::now().as_secs() <= one.generation() {
        std::thread::sleep(Duration::from_millis(50));
    }
    std::fs::remove_dir_all(subject.files()).unwrap();
    subject.clear(&mut one);
    let open = |permits: fn(&Found, &Chains<'_>) -> Result<(), StoreError>| {
        EtcdStore::open(&subject.settings(), &subject.key(), permits)
    };
    let refused = open(|found, _| Err(StoreError::Key(format!("{found:?}")))).unwrap_err();
    let nothing = format!("{:?}", Found::at(0, Revision(0)));
    assert_eq!(refused.to_string(), nothing);
    let found = EtcdStore::try_open(&subject.settings(), &subject.key(), |_, _| Ok(())).unwrap();
    assert_eq!(found, Found::at(0, Revision(0)), "nothing was written");
    // Whoever knows of nothing begins. Who had all of it still says what to do.
    let (mut other, mut theirs) = {
        let (store, config) = open(|_, _| Ok(())).unwrap();
        (store, config)
    };
    for id in 2..5 {
        commit(&mut other, &mut theirs, &put(id, "instead")).unwrap();
    }
    let told = (0..600).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        one.newer().err()
    });
    let told = told.expect("it is no stale answer").to_string();
    for part in ["was begun anew", "/clustering/exports", "restore --from"] {
        assert!(told.contains(part), "{told}");
    }
    let found = EtcdStore::try_open(&subject.settings(), &subject.key(), |_, _| Ok(())).unwrap();
    assert!(found.lacks(one.generation(), ours.revision()), "{found:?}");
    // A restore makes it whole again.
    let entry = Entry::restored(ours.revision().next(), UnixTime::now(), Path::new("export"));
    let restored = subject.replace(&subject.key(), &ours, &entry);
    let found = EtcdStore::try_open(&subject.settings(), &subject.key(), |_, _| Ok(())).unwrap();
    assert_eq!(found.generation, restored);
    assert!(!found.lacks(one.generation(), ours.revision()), "{found:?}");
    assert!(!found.begun);
}
