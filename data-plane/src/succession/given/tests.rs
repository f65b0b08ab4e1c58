//! What a process gives, and what the next one takes of it.

use std::os::unix::net::UnixDatagram;

use rustix::process::{Pid, WaitId, WaitIdOptions, getpid, waitid};
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::listening::inherited::Process;
use crate::live::Live;
use crate::proxy::Proxy;
use crate::settings::Settings;

fn given(size: usize) -> Given {
    let revocation = |id: u128| Revocation {
        id: Uuid::from_u128(id),
        before: Revocation::FOR_GOOD,
        expires_at: 9,
    };
    Given {
        withdrawn: Some(true),
        silence: 70_000,
        runs: true,
        revocations: (0..7).map(revocation).collect(),
        unstored: vec![revocation(3)],
        flights: vec![[1; 32], [2; 32]],
        keys: vec![4; 100],
        kept: vec![5; size],
        filters: [vec![6; 3], Vec::new(), vec![7; 2]],
        unhealthy: Vec::new(),
        servers: Servers::default(),
    }
}

#[test]
fn what_is_cut_off_is_not_taken_and_what_is_not_known_is_passed_over() {
    for given in [given(10), Given::default()] {
        let bytes = given.encode().unwrap();
        // Processes of versions before say no less than the first of these.
        let mut ends = vec![of_four_parts(&given).len()];
        let flights = given.flights.concat();
        let ill = serde_json::to_vec(&given.unhealthy).unwrap();
        let servers = serde_json::to_vec(&given.servers).unwrap();
        let later = std::iter::once(&flights).chain(&given.filters);
        for part in later.chain([&ill, &servers]) {
            ends.push(ends.last().unwrap() + size_of::<u64>() + part.len());
        }
        assert_eq!(ends.last(), Some(&bytes.len()));
        for length in (0..bytes.len()).filter(|length| !ends.contains(length)) {
            assert_eq!(Given::decode(&bytes[..length]), None, "{length}");
        }
        let more = [&bytes[..], &3_u64.to_be_bytes(), b"new"].concat();
        for length in bytes.len() + 1..more.len() {
            assert_eq!(Given::decode(&more[..length]), None, "{length}");
        }
        assert_eq!(Given::decode(&more).as_ref(), Some(&given));
        assert_eq!(Given::decode(&bytes), Some(given));
    }
}

/// What a process of the version that knew of no flights, and gave nothing of its filters, gives: see [`Given::encode`].
fn of_four_parts(given: &Given) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend([given.withdrawn.map_or(2, u8::from), u8::from(given.runs)]);
    bytes.extend(given.silence.to_be_bytes());
    let revocations = unstored::encode(given.revocations.iter());
    let unstored = unstored::encode(given.unstored.iter());
    for part in [&revocations, &unstored, &given.keys, &given.kept] {
        bytes.extend(u64::try_from(part.len()).unwrap().to_be_bytes());
        bytes.extend(part);
    }
    bytes
}

#[test]
fn what_a_process_gives_that_knows_of_no_flights_is_taken() {
    for mut given in [given(10), Given::default()] {
        let before = of_four_parts(&given);
        // What that one knows stands in front.
        assert!(given.encode().unwrap().starts_with(&before));
        (given.flights, given.filters) = Default::default();
        assert_eq!(Given::decode(&before), Some(given));
    }
}

/// The end of a process before this one, which is there or not, and this one's.
pub(in crate::succession) fn before(is_there: bool) -> (UnixDatagram, Predecessor) {
    let (words, ours) = UnixDatagram::pair().unwrap();
    let process = Process::of(if is_there { getpid() } else { ended() });
    let predecessor = Predecessor {
        words: ours,
        gives: true,
        process,
    };
    (words, predecessor)
}

/// The number of a process that has ended.
fn ended() -> Pid {
    let mut other = std::process::Command::new("true").spawn().unwrap();
    let number = Pid::from_child(&other);
    other.wait().unwrap();
    number
}

#[test]
fn a_process_is_gone_once_it_has_ended_also_if_nobody_has_seen_that() {
    let (_words, mut predecessor) = before(true);
    assert!(!predecessor.is_gone());
    let mut other = std::process::Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let number = Pid::from_child(&other);
    predecessor.process = Process::of(number);
    assert!(!predecessor.is_gone());
    drop(other.stdin.take());
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(number), ended).unwrap();
    assert!(predecessor.is_gone(), "nobody has seen its end");
    other.wait().unwrap();
    assert!(predecessor.is_gone());
    predecessor.process = Process::Numbered(number);
    assert!(predecessor.is_gone());
    predecessor.process = Process::Numbered(getpid());
    assert!(!predecessor.is_gone());
}

/// A node whose filters know so many proofs, and what they go on with.
pub(in crate::succession) fn knowing(proofs: u64) -> (Proxy, [Vec<u8>; KINDS]) {
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    let settings = Settings {
        proxy_listen: vec![any.into()],
        proxy_tls_listen: vec![any.into()],
        status_listen: Vec::new(),
        access_log: "off".to_owned(),
        workers: 1,
        ..Settings::default()
    };
    let proxy = Proxy::start(&settings, Live::default()).unwrap();
    let until = UnixTime::now().saturating_add(ASKED).as_millis();
    let proofs = (0..proofs).flat_map(|number| {
        let proof = *blake3::hash(&number.to_be_bytes()).as_bytes();
        [&proof[..], &until.to_be_bytes()].concat()
    });
    let counted = [proofs.collect(), Vec::new(), Vec::new()];
    plugins::registry::succession::take(&proxy.node().states, &counted, UnixTime::now());
    (proxy, counted)
}

#[test]
fn what_filters_go_on_with_keeps_nothing_else_waiting() {
    let (proxy, counted) = knowing(1);
    let node = proxy.node();
    let first = Given::of(node, Some(&Holds::default()), false).unwrap();
    assert_eq!(first.filters[0], counted[0]);
    let last = Given::of(node, None, false).unwrap();
    assert_eq!(last.filters, <[Vec<u8>; KINDS]>::default());
    let behind = Given {
        filters: first.filters,
        ..Given::default()
    };
    assert_eq!(Given::of_filters(node), behind);
}

#[test]
fn where_names_led_last_is_known_to_the_next_process() {
    let name = json!({"name": "a.test", "kind": "A", "found": [], "stale": 5_000});
    let (before, _) = knowing(0);
    let name = serde_json::from_value(name).unwrap();
    before.node().dns.take(&[name]);
    let given = Given::of(before.node(), Some(&Holds::default()), false).unwrap();
    let given = Given::decode(&given.encode().unwrap()).unwrap();
    let (next, _) = knowing(0);
    assert_eq!(next.node().dns.give(), []);
    given.tell(next.node());
    let known = serde_json::to_value(next.node().dns.give()).unwrap();
    assert_eq!(known[0]["name"], "a.test");
    assert!(known[0]["stale"].as_u64().unwrap() >= 5_000, "{known}");
}

#[test]
fn who_asks_is_given_all_of_it_however_long_it_is() {
    for size in [0, 3 * PIECE, 3 * 1024 * 1024] {
        let (words, before) = before(true);
        let asking = std::thread::spawn(move || ask(Some(&before)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            words.set_nonblocking(true).unwrap();
            let words = tokio::net::UnixDatagram::from_std(words).unwrap();
            let mut said = [0; 16];
            let count = words.recv(&mut said).await.unwrap();
            assert_eq!(&said[..count], ASKS);
            send(&words, &given(size).encode().unwrap()).await.unwrap();
        });
        assert_eq!(asking.join().unwrap().unwrap(), Some(given(size)));
    }
}

#[test]
fn only_a_process_that_is_gone_is_done_without() {
    for said in [&[&b"what"[..]][..], &[&3_u64.to_be_bytes(), b"abc"]] {
        let (words, before) = before(true);
        for word in said {
            words.send(word).unwrap();
        }
        let error = ask(Some(&before)).unwrap_err();
        assert!(!is_silence(&error), "{said:?}");
    }
    let (_words, there) = before(true);
    let error = receive(&there, Duration::ZERO).unwrap_err();
    assert!(is_silence(&error), "it is there, and says nothing");
    // It has ended before it was asked, and in the middle of its answer.
    for said in [None, Some(9_u64)] {
        let (words, before) = before(false);
        if let Some(length) = said {
            words.send(&length.to_be_bytes()).unwrap();
        }
        drop(words);
        assert_eq!(receive(&before, ASKED).unwrap(), None);
    }
}

#[test]
fn the_last_words_of_a_process_are_heard_after_its_end() {
    let (words, before) = before(false);
    let bytes = given(10).encode().unwrap();
    let length = u64::try_from(bytes.len()).unwrap();
    words.send(&length.to_be_bytes()).unwrap();
    words.send(&bytes).unwrap();
    drop(words);
    assert_eq!(receive(&before, ASKED).unwrap(), Some(given(10)));
    assert_eq!(receive(&before, ASKED).unwrap(), None);
}
