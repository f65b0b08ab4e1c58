//! The suite on etcd, and what only a store with several writers has.

mod lost_answers;
mod put_back;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use shared::clock::UnixTime;
use shared::snapshot::Revision;

use super::{Subject, commit, put, username};
use crate::config::Config;
use crate::history::{Entry, HistoryFault};
use crate::publisher::{Journal, JournalFault, Newer};
use crate::store::etcd::{Board, Claimed, Claims, EtcdSettings, EtcdStore, Post, Server};
use crate::store::{SecretsKey, StoreError, generation_after};

/// One member of etcd with a store of its own; ended when dropped.
pub(crate) struct InEtcd {
    root: tempfile::TempDir,
    peer: String,
    client: String,
    child: Child,
}

/// How often a start is tried: the port that was free a moment ago may be taken.
const STARTS: u32 = 3;

/// An address that was free a moment ago.
fn address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn spawn(root: &Path, peer: &str, client: &str) -> std::io::Result<Child> {
    Command::new("etcd")
        .args(["--name", "m", "--data-dir"])
        .arg(root.join("etcd"))
        .args(["--listen-peer-urls", peer])
        .args(["--initial-advertise-peer-urls", peer])
        .args(["--listen-client-urls", client])
        .args(["--advertise-client-urls", client])
        .args(["--initial-cluster", &format!("m={peer}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

impl InEtcd {
    pub(crate) fn settings(&self) -> EtcdSettings {
        EtcdSettings {
            endpoints: vec![self.client.clone()],
            prefix: "/suite".to_owned(),
            ..EtcdSettings::default()
        }
    }

    /// Waits until the member answers; false if it has ended.
    fn answers(&mut self) -> bool {
        for _ in 0..600 {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if EtcdStore::try_open(&self.settings(), &self.key(), |_, _| Ok(())).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    /// Starts it again where it was.
    pub(crate) fn revive(&mut self) {
        self.child = spawn(self.root.path(), &self.peer, &self.client).unwrap();
        assert!(self.answers(), "etcd does not come back");
    }

    /// Has the member raise the alarm that its space is used up, or take it back.
    fn alarm(&self, action: &str) {
        let address = self.client.trim_start_matches("http://");
        let body = format!(r#"{{"action":"{action}","memberID":1,"alarm":"NOSPACE"}}"#);
        let mut stream = TcpStream::connect(address).unwrap();
        let length = body.len();
        write!(
            stream,
            "POST /v3/maintenance/alarm HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for InEtcd {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Subject for InEtcd {
    type Journal = EtcdStore;

    fn start() -> Option<Self> {
        for _ in 0..STARTS {
            let root = tempfile::tempdir().unwrap();
            let (peer, client) = (address(), address());
            let child = match spawn(root.path(), &peer, &client) {
                Ok(child) => child,
                Err(error) => {
                    eprintln!("not tested with etcd, which cannot be started: {error}");
                    return None;
                }
            };
            let mut started = Self {
                root,
                peer,
                client,
                child,
            };
            if started.answers() {
                return Some(started);
            }
        }
        panic!("etcd is installed but does not answer")
    }

    fn open(&self, key: &SecretsKey) -> Result<(EtcdStore, Config, u64), StoreError> {
        let (store, config) = EtcdStore::open(&self.settings(), key, |_, _| Ok(()))?;
        let generation = store.generation();
        Ok((store, config, generation))
    }

    fn place(&self) -> &Path {
        self.root.path()
    }

    fn files(&self) -> PathBuf {
        self.root.path().join("etcd")
    }

    fn replace(&self, key: &SecretsKey, config: &Config, entry: &Entry) -> u64 {
        let before = EtcdStore::to_be_replaced(&self.settings(), key).unwrap();
        let generation = generation_after(before.generation, UnixTime::now());
        before.store.replace(generation, config, entry).unwrap();
        generation
    }

    fn obstruct(&mut self, _: &mut EtcdStore) {
        self.kill();
    }

    fn clear(&mut self, _: &mut EtcdStore) {
        self.revive();
    }
}

super::suite!(InEtcd);

#[test]
fn the_version_of_etcd_is_known() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let server = Server::new(&subject.settings()).unwrap();
    let version = futures::executor::block_on(server.version()).unwrap();
    let said = Command::new("etcd").arg("--version").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let expected = format!("etcd Version: {version}\n");
    assert!(said.contains(&expected), "{version}: {said}");
}

#[test]
fn of_two_that_write_at_once_one_is_told_to_look_first() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let (mut one, mut ours) = subject.opened();
    let (mut other, mut theirs) = subject.opened();
    commit(&mut one, &mut ours, &put(1, "first")).unwrap();
    let fault = commit(&mut other, &mut theirs, &put(2, "late")).unwrap_err();
    assert!(matches!(fault, JournalFault::Behind), "{fault}");
    let Newer::Changes(changes) = other.newer().unwrap() else {
        panic!("the log is there")
    };
    for (change, revision) in changes {
        theirs.apply(&change, revision);
    }
    assert_eq!(username(&theirs, 1).as_deref(), Some("first"));
    commit(&mut other, &mut theirs, &put(2, "now")).unwrap();
    let Newer::Changes(changes) = one.newer().unwrap() else {
        panic!("the log is there")
    };
    let [(change, revision)] = changes.as_slice() else {
        panic!("{changes:?}")
    };
    ours.apply(change, *revision);
    assert_eq!(super::content(&ours), super::content(&theirs));
}

#[test]
fn a_past_that_is_out_of_reach_is_not_taken_for_damaged() {
    let Some(mut subject) = InEtcd::start() else {
        return;
    };
    let (mut store, mut config) = subject.opened();
    commit(&mut store, &mut config, &put(1, "first")).unwrap();
    let history = store.history();
    assert!(history.entry(Revision(1)).unwrap().is_some());
    subject.kill();
    let fault = history.entry(Revision(1)).unwrap_err();
    assert!(matches!(fault, HistoryFault::Unreachable(_)), "{fault}");
}

#[test]
fn an_etcd_without_space_takes_no_writes_and_says_so() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let (mut store, mut config) = subject.opened();
    commit(&mut store, &mut config, &put(1, "kept")).unwrap();
    subject.alarm("ACTIVATE");
    for text in ["small", &noise()] {
        let fault = commit(&mut store, &mut config, &put(2, text)).unwrap_err();
        let said = fault.to_string();
        assert!(said.contains("database space exceeded"), "{said}");
        assert!(matches!(fault, JournalFault::NoRoom(_)), "{fault:?}");
    }
    assert!(store.newer().is_ok(), "what is there is read");
    let (_, read) = subject.opened();
    assert_eq!(super::content(&read), super::content(&config));
    subject.alarm("DEACTIVATE");
    commit(&mut store, &mut config, &put(2, "again")).unwrap();
    let (_, read) = subject.opened();
    assert_eq!((read.revision(), read.len()), (config.revision(), 2));
}

/// A text that is too large for one value, since nothing makes it shorter.
fn noise() -> String {
    let hashes = (0..20_000_u32).map(|number| blake3::hash(&number.to_be_bytes()));
    hashes.map(|hash| hash.to_hex().to_string()).collect()
}

#[test]
fn what_cannot_be_read_any_more_is_replaced_all_the_same() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let (mut store, mut config) = subject.opened();
    for id in [1, 2] {
        commit(&mut store, &mut config, &put(id, "kept")).unwrap();
    }
    store.forget("log/00000000000000000001").unwrap();
    subject.open(&subject.key()).unwrap_err();
    let entry = Entry::restored(
        config.revision().next(),
        UnixTime::default(),
        Path::new("x"),
    );
    subject.replace(&subject.key(), &config, &entry);
    let (_, read) = subject.opened();
    assert_eq!(super::content(&read), super::content(&config));
    // Whoever still runs by what was there writes nothing on what is there now.
    commit(&mut store, &mut config, &put(3, "late")).unwrap_err();
    let (_, read) = subject.opened();
    assert_eq!((read.revision(), read.len()), (entry.revision, 2));

    // The head itself, too.
    let other = SecretsKey::read_or_create(&subject.place().join("other.key")).unwrap();
    subject.open(&other).unwrap_err();
    subject.replace(&other, &config, &entry);
    let (_, read, _) = subject.open(&other).unwrap();
    assert_eq!(super::content(&read), super::content(&config));
}

#[test]
fn what_control_planes_tell_each_other_is_sealed_and_agreed_on() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let board = |key: &SecretsKey| Board::new(&subject.settings(), key).unwrap();
    let key = subject.key();
    let (mut one, other) = (board(&key), board(&key));
    let replica = uuid::Uuid::from_u128(1);
    let (part, order) = (
        Post::Part(replica, 7),
        Post::Order(uuid::Uuid::from_u128(2)),
    );
    one.tell(&part, b"first").unwrap();
    one.tell(&order, b"node").unwrap();
    let posts = other.posts().unwrap();
    assert_eq!(posts.keys().collect::<Vec<_>>(), [&part, &order]);
    assert_eq!(other.read(&part).unwrap().as_deref(), Some(&b"first"[..]));
    one.tell(&part, b"second").unwrap();
    assert!(other.posts().unwrap()[&part] > posts[&part]);
    let stranger = SecretsKey::read_or_create(&subject.place().join("another.key")).unwrap();
    assert!(board(&stranger).read(&part).is_err());
    one.leave(replica).unwrap();
    assert_eq!(other.read(&part).unwrap(), None);
    assert_eq!(other.posts().unwrap().len(), 1);

    let (mut ours, mut theirs) = (one.rollouts(), other.rollouts());
    assert_eq!(ours.newer().unwrap(), None);
    assert!(ours.write(b"1").unwrap());
    assert!(
        !theirs.write(b"2").unwrap(),
        "written without having been seen"
    );
    assert_eq!(theirs.newer().unwrap().as_deref(), Some(&b"1"[..]));
    assert!(theirs.write(b"2").unwrap());
    assert_eq!(theirs.newer().unwrap(), None);
    assert_eq!(ours.newer().unwrap().as_deref(), Some(&b"2"[..]));
    // What cannot be read is kept where nobody writes.
    let aside = ours.set_aside(b"2").unwrap();
    assert!(aside.starts_with("rollouts.unread/"), "{aside}");
    assert_eq!(theirs.newer().unwrap(), None);
    // One that was taken away is made anew by whoever has seen that.
    theirs.clear().unwrap();
    assert_eq!(ours.newer().unwrap(), None);
    assert!(!ours.write(b"3").unwrap());
    assert!(ours.write(b"3").unwrap());
}

#[test]
fn work_is_claimed_by_one_control_plane_and_what_comes_of_it_known_to_all() {
    use futures::executor::block_on;
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let key = subject.key();
    let claims = || Claims::new(&subject.settings(), &key).unwrap();
    let (one, other) = (claims(), claims());
    let claim = |claims: &Claims, over| block_on(claims.claim(b"work", over)).unwrap();
    let look = || block_on(other.look(b"work")).unwrap();
    let Claimed::Ours(ours) = claim(&one, 0) else {
        panic!("nobody else has it");
    };
    assert_eq!(claim(&other, 0), Claimed::Theirs(ours));
    assert_eq!(look(), Some(Claimed::Theirs(ours)));
    // Given up, it is the next one's.
    block_on(one.release(b"work", ours)).unwrap();
    assert_eq!(look(), None);
    let Claimed::Ours(second) = claim(&other, ours) else {
        panic!("it was given up");
    };
    // Whoever has lost it changes nothing any more.
    block_on(one.release(b"work", ours)).unwrap();
    block_on(one.finish(b"work", ours, b"late".to_vec())).unwrap();
    assert_eq!(claim(&one, 0), Claimed::Theirs(second));
    // One that takes too long is followed by who has seen that.
    let Claimed::Ours(third) = claim(&one, second) else {
        panic!("nobody has touched it since");
    };
    block_on(other.finish(b"work", second, b"late".to_vec())).unwrap();
    assert_eq!(look(), Some(Claimed::Theirs(third)));
    block_on(one.finish(b"work", third, b"sealed".to_vec())).unwrap();
    assert_eq!(claim(&other, third), Claimed::Done(b"sealed".to_vec()));
    assert_eq!(look(), Some(Claimed::Done(b"sealed".to_vec())));
    // Many at once are claimed once each.
    let everyone = (0..64).map(|number: u8| {
        let claims = [&one, &other][usize::from(number % 2)];
        async move { claims.claim(&[number / 2], 0).await.unwrap() }
    });
    let claimed = block_on(futures::future::join_all(everyone));
    let ours = |claimed: &&Claimed| matches!(claimed, Claimed::Ours(_));
    assert_eq!(claimed.iter().filter(ours).count(), 32);
}

#[test]
fn what_was_begun_and_never_finished_is_taken_away() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let (mut store, mut config) = subject.opened();
    commit(&mut store, &mut config, &put(1, &noise())).unwrap();
    for revision in 2..=501 {
        commit(&mut store, &mut config, &put(revision, "text")).unwrap();
    }
    for name in ["part/lost", "checkpoint/lost"] {
        store.begin(name).unwrap();
    }
    let now = shared::clock::monotonic();
    let (soon, later) = (now + Duration::from_mins(59), now + Duration::from_hours(1));
    let swept = [now, soon, later, later].map(|at| store.sweep(at).unwrap());
    assert_eq!(swept, [0, 0, 2, 0]);
    // Whoever stood still meanwhile does not name what is gone.
    assert!(!store.names("part/lost").unwrap());
    store.begin("part/there").unwrap();
    assert!(store.names("part/there").unwrap());
    // What is named stays: the history of the large change, and what a start begins with.
    let entry = store.history().entry(Revision(1)).unwrap();
    assert_eq!(entry.unwrap().edits.len(), 1);
    let (_, read) = subject.opened();
    assert_eq!(super::content(&read), super::content(&config));
}

#[test]
fn a_start_finds_everything_while_two_write_a_checkpoint() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let (mut one, mut config) = subject.opened();
    let (mut other, _) = subject.opened();
    for number in 1..=500 {
        commit(&mut one, &mut config, &put(number % 7, "text")).unwrap();
    }
    other.newer().unwrap();
    other.checkpoint(&config).unwrap();
    for _ in 0..20 {
        let (_, read) = subject.opened();
        assert_eq!(read.revision(), config.revision());
        assert_eq!(super::content(&read), super::content(&config));
    }
}
