//! Writes whose answer is lost on the way from etcd: told as what became of them.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::super::{Subject, commit, content, put, username};
use super::InEtcd;
use crate::config::Config;
use crate::publisher::{Journal, JournalFault, Newer};
use crate::store::etcd::{EtcdSettings, EtcdStore};

/// What becomes of a transaction whose answer is lost.
struct Fate {
    /// Whether etcd is given it.
    taken: bool,
    /// What happens then, before anybody is told.
    then: Box<dyn FnOnce() + Send>,
}

/// What stands before etcd, and loses answers.
#[derive(Clone)]
struct Between {
    url: String,
    fates: Arc<Mutex<VecDeque<Fate>>>,
    /// Whether nothing is answered any more.
    gone: Arc<AtomicBool>,
}

impl Between {
    fn start(subject: &InEtcd) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let between = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            fates: Arc::default(),
            gone: Arc::default(),
        };
        let etcd = subject.client.trim_start_matches("http://").to_owned();
        let serving = between.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serving.serve(stream.unwrap(), &etcd);
            }
        });
        between
    }

    /// Answers one request and closes.
    fn serve(&self, mut stream: TcpStream, etcd: &str) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut first = String::new();
        reader.read_line(&mut first).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap() == 0 {
                return;
            }
            let line = line.trim().to_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        if self.gone.load(Ordering::SeqCst) {
            return;
        }
        let path = first.split(' ').nth(1).unwrap();
        let fate = path
            .ends_with("/txn")
            .then(|| self.fates.lock().unwrap().pop_front());
        let ask = || {
            let mut asked = TcpStream::connect(etcd).unwrap();
            write!(
                asked,
                "POST {path} HTTP/1.1\r\nHost: {etcd}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
            )
            .unwrap();
            asked.write_all(&body).unwrap();
            let mut answer = Vec::new();
            asked.read_to_end(&mut answer).unwrap();
            answer
        };
        let answer = match fate.flatten() {
            None => ask(),
            Some(Fate { taken, then }) => {
                if taken {
                    ask();
                }
                then();
                let said = r#"{"error":"grpc: the client connection is closing","code":1}"#;
                let length = said.len();
                format!("HTTP/1.1 408 Request Timeout\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{said}")
                    .into_bytes()
            }
        };
        if !self.gone.load(Ordering::SeqCst) {
            stream.write_all(&answer).unwrap();
        }
    }

    fn loses(&self, taken: bool, then: impl FnOnce() + Send + 'static) {
        let then = Box::new(then);
        self.fates.lock().unwrap().push_back(Fate { taken, then });
    }

    /// A control plane that reaches etcd by this alone.
    fn opened(&self, subject: &InEtcd) -> (EtcdStore, Config) {
        let settings = EtcdSettings {
            endpoints: vec![self.url.clone()],
            ..subject.settings()
        };
        EtcdStore::open(&settings, &subject.key(), |_, _| Ok(())).unwrap()
    }
}

fn follow(store: &mut EtcdStore, config: &mut Config) {
    let Newer::Changes(changes) = store.newer().unwrap() else {
        panic!("the log is there")
    };
    for (change, revision) in changes {
        config.apply(&change, revision);
    }
}

#[test]
fn a_write_whose_answer_is_lost_is_told_as_what_became_of_it() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let between = Between::start(&subject);
    let (mut store, mut config) = between.opened(&subject);
    // Written: it counts.
    between.loses(true, || ());
    commit(&mut store, &mut config, &put(1, "written")).unwrap();
    // Not written: it is sent again, which is no second write.
    between.loses(false, || ());
    commit(&mut store, &mut config, &put(2, "sent again")).unwrap();
    // Written by what was sent again.
    between.loses(false, || ());
    between.loses(true, || ());
    commit(&mut store, &mut config, &put(3, "late")).unwrap();
    // Another was first.
    let (mut other, mut theirs) = subject.opened();
    between.loses(false, move || {
        commit(&mut other, &mut theirs, &put(4, "first")).unwrap();
    });
    let fault = commit(&mut store, &mut config, &put(5, "second")).unwrap_err();
    assert!(matches!(fault, JournalFault::Behind), "{fault}");
    follow(&mut store, &mut config);
    assert_eq!(username(&config, 4).as_deref(), Some("first"));
    // Written, and another has gone on from there.
    let (mut other, mut theirs) = subject.opened();
    between.loses(true, move || {
        follow(&mut other, &mut theirs);
        commit(&mut other, &mut theirs, &put(6, "after")).unwrap();
    });
    commit(&mut store, &mut config, &put(5, "before")).unwrap();
    let fault = commit(&mut store, &mut config.clone(), &put(7, "x")).unwrap_err();
    assert!(matches!(fault, JournalFault::Behind), "{fault}");
    follow(&mut store, &mut config);
    commit(&mut store, &mut config, &put(7, "last")).unwrap();
    let (_, found) = subject.opened();
    assert_eq!((found.revision().0, found.len()), (7, 7));
    assert_eq!(content(&found), content(&config));
}

#[test]
fn what_nobody_knows_is_not_told_as_not_written() {
    let Some(subject) = InEtcd::start() else {
        return;
    };
    let between = Between::start(&subject);
    let (mut store, mut config) = between.opened(&subject);
    let gone = Arc::clone(&between.gone);
    between.loses(true, move || gone.store(true, Ordering::SeqCst));
    let fault = commit(&mut store, &mut config, &put(1, "written")).unwrap_err();
    assert!(matches!(fault, JournalFault::Unknown(_)), "{fault:?}");
    let said = fault.to_string();
    assert!(
        said.contains("did not say whether it has written"),
        "{said}"
    );
    assert!(!said.contains("takes no writes"), "{said}");
    // Who comes next is not to wait for the same.
    let lost = store.lost().unwrap();
    assert!(matches!(lost, JournalFault::Unreachable(_)), "{lost:?}");
    between.gone.store(false, Ordering::SeqCst);
    follow(&mut store, &mut config);
    assert!(store.lost().is_none());
    assert_eq!(username(&config, 1).as_deref(), Some("written"));
    commit(&mut store, &mut config, &put(2, "next")).unwrap();
}
