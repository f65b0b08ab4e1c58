//! Heads of HTTP/2 that a client does not send to their end.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use data_plane::limits::Limits;
use data_plane::proxy::Proxy;
use shared::clock::monotonic;

use crate::downgrade::{begin, next, sound};
use crate::gateway::{OK, PATIENCE, connect, stop, upstream};
use crate::overload::frame;
use crate::waits::{SHORT, impatient};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const ENHANCE_YOUR_CALM: u32 = 0xb;

/// How a connection of HTTP/2 ends on which `sent` comes behind the preface: the last stream and the code that are told, and how
/// long that took.
fn farewell(proxy: &Proxy, sent: &[u8]) -> (Option<[u32; 2]>, Duration) {
    loop {
        let start = monotonic();
        let mut stream = begin(proxy);
        stream.write_all(sent).unwrap();
        // A client that was held up itself was late for another reason.
        if start.elapsed() < SHORT / 3 {
            let mut told = None;
            while let Some((kind, _, payload)) = next(&mut stream) {
                if kind == GOAWAY {
                    let word = |at: usize| payload[at..at + 4].try_into().unwrap();
                    told = Some([0, 4].map(|at| u32::from_be_bytes(word(at))));
                }
            }
            return (told, start.elapsed());
        }
    }
}

#[test]
fn a_head_of_http2_that_does_not_end_is_given_up() {
    let (port, heads) = upstream(&[OK]);
    let limits = Limits {
        head: SHORT,
        ..Limits::default()
    };
    let proxy = impatient(port, limits);
    let fields = sound();
    let (first, second) = fields.split_at(5);
    let begun = frame(HEADERS, END_STREAM, 1, first);
    let begun_next = frame(HEADERS, END_STREAM, 3, first);
    let more = frame(CONTINUATION, 0, 1, second);
    let whole = frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields);
    let last = whole.len() - 1;
    for (name, served, sent) in [
        ("a first part", 0, begun.clone()),
        ("two parts", 0, [&begun[..], &more].concat()),
        (
            "the last part of them",
            0,
            [&begun[..], &more[..9]].concat(),
        ),
        ("all but a byte", 0, whole[..last].to_vec()),
        (
            "what comes behind a request",
            1,
            [&whole[..], &begun_next].concat(),
        ),
    ] {
        let (told, time) = farewell(&proxy, &sent);
        assert_eq!(told, Some([served, ENHANCE_YOUR_CALM]), "{name}");
        let by_default = Limits::default().head;
        assert!((SHORT..by_default).contains(&time), "{name} {time:?}");
    }
    let mut stream = connect(&proxy);
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nS").unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    // One byte at a time helps nobody.
    let mut stream = begin(&proxy);
    let start = monotonic();
    for part in frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields).chunks(1) {
        if stream.write_all(part).is_err() || start.elapsed() > SHORT * 3 {
            break;
        }
        std::thread::sleep(SHORT / 10);
    }
    let ended = std::iter::from_fn(|| next(&mut stream)).any(|(kind, ..)| kind == GOAWAY);
    assert!(ended);
    let asked = heads.try_iter().count();
    assert_eq!(asked, 1, "only one of them was whole");
    stop(proxy);
}

#[test]
fn heads_of_http2_may_follow_each_other_in_parts_for_as_long_as_they_like() {
    let (port, heads) = upstream(&[OK]);
    let long = SHORT * 6;
    let limits = Limits {
        head: long,
        ..Limits::default()
    };
    let proxy = impatient(port, limits);
    let fields = sound();
    let begin_one = |number: u32| {
        let (first, second) = fields.split_at(5);
        let id = 2 * number + 1;
        let begun = frame(HEADERS, END_STREAM, id, first);
        (begun, frame(CONTINUATION, END_HEADERS, id, second))
    };
    let mut stream = begin(&proxy);
    let start = monotonic();
    let (begun, mut rest) = begin_one(0);
    stream.write_all(&begun).unwrap();
    let mut asked = 0;
    // Whenever a part of one comes, the rest of the one before has come with it.
    while start.elapsed() < long * 2 {
        asked += 1;
        let (begun, next_rest) = begin_one(asked);
        let both = [std::mem::replace(&mut rest, next_rest), begun].concat();
        stream.write_all(&both).unwrap();
        heads.recv_timeout(PATIENCE).unwrap();
        std::thread::sleep(long / 20);
    }
    // Nor does it end while nothing is on its way, or a part of something else: a network may be away for a while.
    stream.write_all(&rest).unwrap();
    heads.recv_timeout(PATIENCE).unwrap();
    let id = 2 * asked + 3;
    stream
        .write_all(&frame(HEADERS, END_HEADERS, id, &fields))
        .unwrap();
    let body = frame(DATA, END_STREAM, id, &[b'x'; 100]);
    let (first, second) = body.split_at(50);
    stream.write_all(first).unwrap();
    std::thread::sleep(SHORT * 2);
    stream.write_all(second).unwrap();
    heads.recv_timeout(PATIENCE).unwrap();
    for cut in [1, 12] {
        let question = frame(PING, 0, 0, b"question");
        let (first, second) = question.split_at(cut);
        stream.write_all(first).unwrap();
        std::thread::sleep(SHORT * 2);
        stream.write_all(second).unwrap();
        let is_answer =
            |(kind, _, payload): (u8, u32, Vec<u8>)| kind == PING && payload == b"question";
        assert!(std::iter::from_fn(|| next(&mut stream)).any(is_answer));
    }
    stop(proxy);
}
