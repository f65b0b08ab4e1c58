//! What every store keeps: the same tests for each of them.
//!
//! That of etcd starts a member of its own where etcd is installed, as `tests/faults/run` does; elsewhere its
//! tests say so and pass.

pub(crate) mod etcd;
mod sled;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use shared::clock::UnixTime;
use shared::snapshot::{Key, Revision};
use uuid::Uuid;

use super::{SecretsKey, StoreError};
use crate::config::{Change, Config, Fields, Stored};
use crate::history::{Entry, Origin};
use crate::publisher::{Journal, JournalFault};

/// A store that can be opened again and again.
pub(crate) trait Subject: Sized {
    type Journal: Journal;

    /// An empty store; none if what it needs is not on this machine.
    fn start() -> Option<Self>;

    /// Opens it with the key in this file: what commits go to, what was committed, and the generation.
    fn open(&self, key: &SecretsKey) -> Result<(Self::Journal, Config, u64), StoreError>;

    /// A directory for keys, and whatever else a test writes.
    fn place(&self) -> &Path;

    /// Where what is stored lies.
    fn files(&self) -> PathBuf;

    /// Puts a configuration in the place of what is stored, as a restore does, with the entry that says so; gives the
    /// generation.
    fn replace(&self, key: &SecretsKey, config: &Config, entry: &Entry) -> u64;

    /// Has writes fail from now on.
    fn obstruct(&mut self, journal: &mut Self::Journal);

    /// Takes the obstacle away.
    fn clear(&mut self, journal: &mut Self::Journal);

    fn key(&self) -> SecretsKey {
        SecretsKey::read_or_create(&self.place().join("store.key")).unwrap()
    }

    fn opened(&self) -> (Self::Journal, Config) {
        let (journal, config, _) = self.open(&self.key()).unwrap();
        (journal, config)
    }
}

/// Runs every test of the suite on one store.
macro_rules! suite {
    ($subject:ty: $($test:ident)*) => {
        $(
            #[test]
            fn $test() {
                if let Some(mut subject) = <$subject as crate::store::suite::Subject>::start() {
                    crate::store::suite::$test(&mut subject);
                }
            }
        )*
    };
    ($subject:ty) => {
        crate::store::suite::suite! { $subject:
            what_was_committed_is_there_after_a_restart
            a_revision_that_does_not_follow_changes_nothing
            another_key_is_refused_by_its_setting
            no_secret_is_readable_where_it_lies
            the_past_tells_who_when_and_what
            a_large_change_is_there_whole
            any_changes_lead_to_the_same_after_a_restart
            many_small_changes_are_kept_together
            a_restored_configuration_is_a_later_generation
            a_write_that_fails_changes_nothing_and_the_next_may_succeed
        }
    };
}
use suite;

fn key(id: u128) -> Key {
    Key {
        kind: "consumers",
        id: Uuid::from_u128(id),
    }
}

fn consumer(id: u128, text: &str) -> (Key, Stored) {
    let fields = Fields::from_iter([("username".to_owned(), text.into())]);
    (key(id), Stored::of(&fields))
}

fn put(id: u128, text: &str) -> Change {
    Change {
        puts: vec![consumer(id, text)],
        removes: Vec::new(),
    }
}

fn remove(id: u128) -> Change {
    Change {
        puts: Vec::new(),
        removes: vec![key(id)],
    }
}

fn username(config: &Config, id: u128) -> Option<String> {
    let record = config.record(key(id))?;
    Some(record["username"].as_str().unwrap().to_owned())
}

/// Commits `change` to `config` as the control plane does.
fn commit(
    journal: &mut impl Journal,
    config: &mut Config,
    change: &Change,
) -> Result<(), JournalFault> {
    let revision = config.revision().next();
    let origin = Origin::system();
    journal.commit(&Entry::of(
        config,
        change,
        revision,
        UnixTime::default(),
        &origin,
    ))?;
    config.apply(change, revision);
    journal.checkpoint(config)
}

/// Everything that a configuration holds.
fn content(config: &Config) -> Vec<(Key, Vec<u8>)> {
    let records = config.records();
    records
        .map(|(key, record)| (*key, record.json().to_vec()))
        .collect()
}

fn what_was_committed_is_there_after_a_restart(subject: &impl Subject) {
    let large = "x".repeat(100_000);
    {
        let (mut journal, mut config) = subject.opened();
        assert!(config.is_empty());
        for change in [
            put(1, "first"),
            put(2, &large),
            put(1, "again"),
            put(3, "gone"),
            remove(3),
        ] {
            commit(&mut journal, &mut config, &change).unwrap();
        }
    }
    {
        let (mut journal, mut config) = subject.opened();
        assert_eq!((config.revision(), config.len()), (Revision(5), 2));
        assert_eq!(username(&config, 1).as_deref(), Some("again"));
        assert_eq!(username(&config, 2), Some(large));
        commit(&mut journal, &mut config, &put(2, "small")).unwrap();
    }
    let (_, config) = subject.opened();
    assert_eq!(username(&config, 2).as_deref(), Some("small"));
}

fn a_revision_that_does_not_follow_changes_nothing(subject: &impl Subject) {
    let entry = |revision, change: &Change| {
        Entry::of(
            &Config::default(),
            change,
            Revision(revision),
            UnixTime::default(),
            &Origin::system(),
        )
    };
    {
        let (mut journal, _) = subject.opened();
        journal.commit(&entry(1, &put(1, "a"))).unwrap();
        assert!(journal.commit(&entry(1, &put(2, "b"))).is_err());
        assert!(journal.commit(&entry(3, &put(2, "b"))).is_err());
        journal.commit(&entry(2, &put(3, "c"))).unwrap();
    }
    let (_, config) = subject.opened();
    assert_eq!((config.revision(), config.len()), (Revision(2), 2));
    assert_eq!(username(&config, 2), None);
}

fn another_key_is_refused_by_its_setting(subject: &impl Subject) {
    {
        let (mut journal, mut config) = subject.opened();
        commit(&mut journal, &mut config, &put(1, "a")).unwrap();
    }
    let other = SecretsKey::read_or_create(&subject.place().join("other.key")).unwrap();
    let Err(error) = subject.open(&other) else {
        panic!("opened with another key")
    };
    let text = error.to_string();
    assert!(text.contains("secrets_key_file"), "{text}");
}

fn no_secret_is_readable_where_it_lies(subject: &impl Subject) {
    {
        let (mut journal, mut config) = subject.opened();
        let change = put(1, "canary-canary-canary");
        commit(&mut journal, &mut config, &change).unwrap();
        assert_eq!(
            username(&config, 1).as_deref(),
            Some("canary-canary-canary")
        );
    }
    let mut directories = vec![subject.files()];
    let mut read = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
                continue;
            }
            let bytes = std::fs::read(entry.path()).unwrap();
            read += bytes.len();
            let readable = bytes.windows(13).any(|window| window == b"canary-canary");
            assert!(!readable, "{entry:?}");
        }
    }
    assert!(read > 100, "nothing was found to look at");
}

fn the_past_tells_who_when_and_what(subject: &impl Subject) {
    let origin = Origin {
        user: Some("ada".to_owned()),
        method: "PATCH".to_owned(),
        path: "/consumers/1".to_owned(),
        client_ip: Some(IpAddr::from([192, 0, 2, 7])),
        ..Origin::system()
    };
    let at = UnixTime::from_secs(1_800_000_000);
    {
        let (mut journal, mut config) = subject.opened();
        commit(&mut journal, &mut config, &put(1, "before")).unwrap();
        let entry = Entry::of(&config, &put(1, "after"), Revision(2), at, &origin);
        journal.commit(&entry).unwrap();
        config.apply(&entry.change(), Revision(2));
        commit(&mut journal, &mut config, &remove(1)).unwrap();
    }
    let (journal, _) = subject.opened();
    let history = journal.history();
    let read = history.entry(Revision(2)).unwrap().unwrap();
    assert_eq!((read.at, &read.origin), (at, &origin));
    let [edit] = read.edits.as_slice() else {
        panic!("{read:?}")
    };
    assert_eq!(edit.before, Some(consumer(1, "before").1));
    assert_eq!(edit.after, Some(consumer(1, "after").1));
    let last = history.entry(Revision(3)).unwrap().unwrap();
    assert_eq!(last.edits[0].after, None);
    for unknown in [0, 4, 1_000_000] {
        assert_eq!(history.entry(Revision(unknown)).unwrap(), None);
    }
}

fn a_large_change_is_there_whole(subject: &impl Subject) {
    const COUNT: u128 = 3_000;
    // What does not pack well, so that the change is larger than any single value.
    let text = |id: u128| {
        let mut stream = blake3::Hasher::new()
            .update(&id.to_be_bytes())
            .finalize_xof();
        let mut bytes = [0; 300];
        stream.fill(&mut bytes);
        bytes
            .map(|byte| char::from(b'a' + byte % 26))
            .iter()
            .collect::<String>()
    };
    let all = Change {
        puts: (0..COUNT).map(|id| consumer(id, &text(id))).collect(),
        removes: Vec::new(),
    };
    {
        let (mut journal, mut config) = subject.opened();
        commit(&mut journal, &mut config, &put(7, "before")).unwrap();
        commit(&mut journal, &mut config, &all).unwrap();
    }
    {
        let (mut journal, mut config) = subject.opened();
        assert_eq!(config.len(), usize::try_from(COUNT).unwrap());
        for id in [0, 7, 2_999] {
            assert_eq!(username(&config, id), Some(text(id)));
        }
        let entry = journal.history().entry(Revision(2)).unwrap().unwrap();
        assert_eq!(entry.edits.len(), config.len());
        assert_eq!(entry.edits[7].before, Some(consumer(7, "before").1));
        let gone = Change {
            puts: vec![consumer(COUNT, "new")],
            removes: (0..COUNT).map(key).collect(),
        };
        commit(&mut journal, &mut config, &gone).unwrap();
    }
    let (_, config) = subject.opened();
    assert_eq!((config.len(), config.revision()), (1, Revision(3)));
}

fn any_changes_lead_to_the_same_after_a_restart(subject: &impl Subject) {
    // What is done to which of a few records, and how long its new text is.
    let step = (0..8_u128, prop::option::weighted(0.8, 0..20_000_usize));
    let steps = prop::collection::vec(prop::collection::vec(step, 1..6), 1..8);
    let mut runner = TestRunner::new(Cases {
        cases: 6,
        failure_persistence: None,
        ..Cases::default()
    });
    runner
        .run(&steps, |steps| {
            // Each case goes on from what the one before has left.
            let (mut journal, mut config) = subject.opened();
            for step in steps {
                let mut change = Change::default();
                for (id, length) in step {
                    let known = config.contains(key(id));
                    let named = |own: &Key| *own == key(id);
                    let twice = change.removes.iter().any(named)
                        || change.puts.iter().any(|(own, _)| named(own));
                    match length {
                        _ if twice => {}
                        Some(length) => change.puts.push(consumer(id, &"y".repeat(length))),
                        None if known => change.removes.push(key(id)),
                        None => {}
                    }
                }
                commit(&mut journal, &mut config, &change).unwrap();
            }
            drop(journal);
            let (_, read) = subject.opened();
            prop_assert_eq!(read.revision(), config.revision());
            prop_assert_eq!(content(&read), content(&config));
            Ok(())
        })
        .unwrap();
}

fn many_small_changes_are_kept_together(subject: &impl Subject) {
    const COUNT: u64 = 600;
    let (mut journal, mut config) = subject.opened();
    for number in 1..=COUNT {
        let change = put(u128::from(number % 50), &format!("text {number}"));
        commit(&mut journal, &mut config, &change).unwrap();
    }
    let history = journal.history();
    for revision in [1, 499, 500, 501, COUNT] {
        let entry = history.entry(Revision(revision)).unwrap().unwrap();
        let text = username(
            &Config::default().evolve(&entry.change(), Revision(1)),
            u128::from(revision % 50),
        );
        assert_eq!(text, Some(format!("text {revision}")));
    }
    drop((journal, history));
    let (_, read) = subject.opened();
    assert_eq!(read.revision(), Revision(COUNT));
    assert_eq!(content(&read), content(&config));
}

fn a_restored_configuration_is_a_later_generation(subject: &impl Subject) {
    let mut kept = Config::default();
    let generation = {
        let (mut journal, mut config) = subject.opened();
        commit(&mut journal, &mut config, &put(1, "kept")).unwrap();
        kept.clone_from(&config);
        for id in [2, 4] {
            commit(&mut journal, &mut config, &put(id, "later")).unwrap();
        }
        drop(journal);
        subject.open(&subject.key()).unwrap().2
    };
    let from = Path::new("/exports/kept.export");
    let entry = Entry::restored(kept.revision().next(), UnixTime::default(), from);
    let replaced = subject.replace(&subject.key(), &kept, &entry);
    assert!(replaced > generation);
    {
        let (mut journal, mut config, restored) = subject.open(&subject.key()).unwrap();
        assert_eq!(restored, replaced);
        assert_eq!((config.revision(), config.len()), (Revision(2), 1));
        let history = journal.history();
        let told = history.entry(Revision(2)).unwrap().unwrap();
        assert_eq!(told.origin.path, "restore --from kept.export");
        assert_eq!(told, entry);
        for gone in [1, 3] {
            assert_eq!(history.entry(Revision(gone)).unwrap(), None);
        }
        commit(&mut journal, &mut config, &put(3, "after")).unwrap();
    }
    let (_, config, restored) = subject.open(&subject.key()).unwrap();
    assert_eq!(restored, replaced, "a commit keeps the generation");
    assert_eq!(username(&config, 1).as_deref(), Some("kept"));
    assert_eq!(username(&config, 2), None);
    assert_eq!(username(&config, 3).as_deref(), Some("after"));
}

fn a_write_that_fails_changes_nothing_and_the_next_may_succeed(subject: &mut impl Subject) {
    {
        let (mut journal, mut config) = subject.opened();
        commit(&mut journal, &mut config, &put(1, "a")).unwrap();
        subject.obstruct(&mut journal);
        for _ in 0..2 {
            let fault = commit(&mut journal, &mut config, &put(2, "b")).unwrap_err();
            let text = fault.to_string();
            assert!(text.contains("the store takes no writes"), "{text}");
        }
        assert_eq!(config.revision(), Revision(1));
        subject.clear(&mut journal);
        commit(&mut journal, &mut config, &put(3, "c")).unwrap();
    }
    let (_, config) = subject.opened();
    assert_eq!((config.revision(), config.len()), (Revision(2), 2));
    assert_eq!(username(&config, 2), None);
    assert_eq!(username(&config, 3).as_deref(), Some("c"));
}
