//! Frames of HTTP/2 that carry nothing, from clients and from servers: as many as may come are served, with one more the
//! connection ends, and those that go with requests and answers do not count (RFC 9113 §10.5).

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use data_plane::proxy::Proxy;
use http::StatusCode;
use http_body_util::{BodyExt as _, Empty};
use serde_json::json;
use shared::clock::monotonic;

use crate::downgrade::{begin, next, silent, sound};
use crate::gateway::{OK, PATIENCE, configuration, read_until, serve_each, start, stop, upstream};
use crate::grpc::{call, client};
use crate::http2::run;
use crate::overload::frame;

/// Most frames of a connection that carry nothing, and the time after which there may be as many again.
const MOST: usize = 1000;
const WITHIN: Duration = Duration::from_secs(10);

const ENHANCE_YOUR_CALM: u32 = 0xb;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Frames that carry nothing, by what they are called.
fn idle_frames() -> [(&'static str, Vec<u8>); 7] {
    [
        ("ping", frame(PING, 0, 0, &[0; 8])),
        ("answers to no ping", frame(PING, ACK, 0, &[0; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1])),
        ("settings that say nothing", frame(SETTINGS, 0, 0, &[])),
        ("priority", frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1])),
        ("window", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        // PRIORITY_UPDATE (RFC 9218 §7.1), which the library does not know.
        ("unknown", frame(0x10, 0, 0, &[0, 0, 0, 1])),
    ]
}

/// Whether a question that a client asks now is answered; else the code with which the connection has ended, 0 if it has
/// without one.
fn answers(stream: &mut TcpStream) -> Result<(), u32> {
    let _ = stream.write_all(&frame(PING, 0, 0, b"question"));
    loop {
        match next(stream) {
            Some((PING, 0, payload)) if payload == b"question" => return Ok(()),
            Some((GOAWAY, 0, payload)) => {
                return Err(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
            Some(_) => {}
            None => return Err(0),
        }
    }
}

/// Sends `one` more than may be to a connection that has had as many since `begun` at most, until it ends; why it has ended.
fn above(stream: &mut TcpStream, one: &[u8], begun: Instant, within: Duration) -> u32 {
    loop {
        let _ = stream.write_all(one);
        match answers(stream) {
            // Who is held up for so long may send as many again.
            Ok(()) => assert!(begun.elapsed() >= within, "it is served above the limit"),
            Err(code) => return code,
        }
    }
}

#[test]
fn as_many_frames_that_carry_nothing_are_served_as_may_be_and_no_more() {
    let (port, _heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    for (name, one) in idle_frames() {
        let begun = monotonic();
        // It begins with one of them.
        let mut stream = begin(&proxy);
        stream.write_all(&one.repeat(MOST - 3)).unwrap();
        assert_eq!(answers(&mut stream), Ok(()), "{name}: one below the limit");
        assert_eq!(answers(&mut stream), Ok(()), "{name}: at the limit");
        let code = above(&mut stream, &one, begun, WITHIN);
        assert_eq!(code, ENHANCE_YOUR_CALM, "{name}");
    }
    // A request is a reason for some more.
    let begun = monotonic();
    let mut stream = begin(&proxy);
    let (_, one) = &idle_frames()[0];
    stream.write_all(&one.repeat(MOST - 1)).unwrap();
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &sound());
    stream.write_all(&request).unwrap();
    assert_eq!(answers(&mut stream), Ok(()));
    assert_eq!(
        above(&mut stream, &one.repeat(MOST), begun, WITHIN),
        ENHANCE_YOUR_CALM
    );
    stop(proxy);
}

/// A server whose answer is so long.
fn long_server(length: usize) -> u16 {
    serve_each(move |mut stream| {
        while read_until(&mut stream, "\r\n\r\n").is_some() {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            let answer = [head.into_bytes(), vec![b'x'; length]].concat();
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    })
}

/// A client that gives each DATA frame's room back on the stream and on the connection, and asks each time how long the way is.
#[test]
fn frames_that_go_with_an_answer_are_none_too_many() {
    const WINDOW: u8 = 64;
    const PARTS: usize = 1200;
    let port = long_server(PARTS * usize::from(WINDOW));
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let mut stream = begin(&proxy);
    let small = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, WINDOW]);
    let request = frame(HEADERS, END_STREAM | END_HEADERS, 1, &sound());
    stream.write_all(&[small, request].concat()).unwrap();
    let (mut taken, mut parts) = (0, 0);
    while taken < PARTS * usize::from(WINDOW) {
        let (kind, id, payload) = next(&mut stream).expect("it goes on");
        assert!(kind != GOAWAY && kind != RST_STREAM, "{kind} {payload:?}");
        if (kind, id) != (DATA, 1) || payload.is_empty() {
            continue;
        }
        taken += payload.len();
        parts += 1;
        let room = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let told = [
            frame(WINDOW_UPDATE, 0, 0, &room),
            frame(WINDOW_UPDATE, 0, 1, &room),
            frame(PING, 0, 0, &[7; 8]),
        ];
        stream.write_all(&told.concat()).unwrap();
    }
    assert!(parts >= PARTS, "{parts}");
    assert_eq!(answers(&mut stream), Ok(()));
    stop(proxy);
}

/// A client that says of each of its requests again and again which of them comes first, and gives it up once it is answered.
#[test]
fn frames_that_go_with_requests_are_none_too_many() {
    let (port, _heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let mut stream = begin(&proxy);
    for number in 0..300 {
        let id = 2 * number + 1;
        let priority = frame(PRIORITY, 0, id, &[0, 0, 0, 0, 1]);
        let request = frame(HEADERS, END_STREAM | END_HEADERS, id, &sound());
        let room = frame(WINDOW_UPDATE, 0, id, &[0, 1, 0, 0]);
        let asked = [priority.repeat(3), request, room, priority.repeat(3)];
        stream.write_all(&asked.concat()).unwrap();
        loop {
            let (kind, of, payload) = next(&mut stream).expect("it goes on");
            assert!(kind != GOAWAY && kind != RST_STREAM, "{kind} {payload:?}");
            // The answer's only part, or its end.
            if (kind, of) == (DATA, id) {
                break;
            }
        }
        let cancel = frame(RST_STREAM, 0, id, &[0, 0, 0, 8]);
        stream.write_all(&cancel).unwrap();
    }
    assert_eq!(answers(&mut stream), Ok(()));
    stop(proxy);
}

/// Has a client begin with `before`, then send `one` as often as the library takes it, and once more.
fn ends_above(proxy: &Proxy, before: &[u8], one: &[u8], most: usize) {
    let mut stream = begin(proxy);
    stream.write_all(before).unwrap();
    stream.write_all(&one.repeat(most - 1)).unwrap();
    assert_eq!(answers(&mut stream), Ok(()), "one below the limit");
    stream.write_all(one).unwrap();
    assert_eq!(answers(&mut stream), Ok(()), "at the limit");
    stream.write_all(one).unwrap();
    assert_eq!(answers(&mut stream), Err(ENHANCE_YOUR_CALM));
}

#[test]
fn a_connection_has_a_hundred_data_frames_without_data_and_no_more() {
    let (listener, proxy) = silent();
    let upload = frame(HEADERS, END_HEADERS, 1, &sound());
    ends_above(&proxy, &upload, &frame(DATA, 0, 1, &[]), 100);
    // What they are filled up with is no data.
    ends_above(&proxy, &upload, &frame(DATA, 8, 1, &[3, 0, 0, 0]), 100);
    drop(listener);
    stop(proxy);
}

#[test]
fn a_head_comes_in_so_many_parts_and_no_more() {
    let (port, _heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    for (parts, served) in [(9, true), (10, true), (11, false)] {
        let mut stream = begin(&proxy);
        let head = [
            frame(HEADERS, END_STREAM, 1, &sound()),
            frame(CONTINUATION, 0, 1, &[]).repeat(parts),
            frame(CONTINUATION, END_HEADERS, 1, &[]),
        ];
        let _ = stream.write_all(&head.concat());
        let end = std::iter::from_fn(|| next(&mut stream))
            .find(|(kind, ..)| matches!(*kind, HEADERS | GOAWAY));
        let (kind, _, payload) = end.unwrap();
        assert_eq!(kind == HEADERS, served, "{parts} {payload:?}");
        assert!(served || payload[4..8] == ENHANCE_YOUR_CALM.to_be_bytes());
    }
    stop(proxy);
}

#[test]
fn a_client_may_give_up_a_hundred_requests_at_once_and_no_more() {
    let (listener, proxy) = silent();
    let pair = |number: u32| {
        let id = 2 * number + 1;
        let request = frame(HEADERS, END_STREAM | END_HEADERS, id, &sound());
        [request, frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat()
    };
    let begun = monotonic();
    let mut stream = begin(&proxy);
    for number in 0..100 {
        stream.write_all(&pair(number)).unwrap();
        assert_eq!(answers(&mut stream), Ok(()), "{number}");
    }
    for number in 100.. {
        let _ = stream.write_all(&pair(number));
        if answers(&mut stream).is_err() {
            break;
        }
        // The end of a request is noticed in its own time.
        assert!(number < 110 || begun.elapsed() >= WITHIN, "{number}");
    }
    drop(listener);
    stop(proxy);
}

/// A server of gRPC that sends a client so many frames more, or fewer, than it may before it answers; what the client says to
/// that.
fn restless_server(more: isize, one: Vec<u8>) -> (u16, Receiver<Option<u32>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (ends, ended) = channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut [0; 24]).unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
        let mut reasons = 0;
        let asked = loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).unwrap();
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            stream.read_exact(&mut vec![0; length]).unwrap();
            if matches!(head[3], HEADERS | DATA) {
                reasons += 1;
                if head[4] & END_STREAM != 0 {
                    break head[8];
                }
            }
        };
        // The first was its settings.
        let most = MOST - 1 + 10 * reasons;
        let count = most.checked_add_signed(more).unwrap();
        let _ = stream.write_all(&one.repeat(count));
        // `:status: 200` and `content-type: application/grpc`, as the head of an answer without more (RFC 7541 §6).
        let mut answer = vec![0x88, 0x0f, 0x10, 0x10];
        answer.extend(b"application/grpc");
        answer.extend(b"\x00\x0bgrpc-status\x010");
        let head = frame(HEADERS, END_STREAM | END_HEADERS, asked.into(), &answer);
        let _ = stream.write_all(&head);
        let farewell = std::iter::from_fn(|| next(&mut stream)).find(|(kind, ..)| *kind == GOAWAY);
        let code = farewell.map(|(.., told)| u32::from_be_bytes(told[4..8].try_into().unwrap()));
        let _ = ends.send(code);
    });
    (port, ended)
}

#[test]
fn a_server_may_send_as_many_and_no_more() {
    run(async {
        let above = idle_frames().map(|(name, one)| (name, one, 1, StatusCode::BAD_GATEWAY));
        let [ping, ..] = idle_frames();
        let within = [-1, 0].map(|more| (ping.0, ping.1.clone(), more, StatusCode::OK));
        for (name, one, more, expected) in within.into_iter().chain(above) {
            let (port, ended) = restless_server(more, one);
            let service = json!({"protocol": "grpc", "retries": 0});
            let route = json!({"paths": ["/hello."], "protocols": ["grpc"], "strip_path": false});
            let proxy = start(configuration(port, &service, &[route]));
            let mut client = client(&proxy).await;
            let asked = call("/hello.A/Say", "application/grpc", Empty::new().boxed());
            let answer = client.send_request(asked).await.unwrap();
            assert_eq!(answer.status(), expected, "{name} {more}");
            drop((client, answer));
            tokio::task::spawn_blocking(move || stop(proxy))
                .await
                .unwrap();
            let code = ended.recv_timeout(PATIENCE).unwrap();
            let told = (more > 0).then_some(ENHANCE_YOUR_CALM);
            assert_eq!(code, told, "{name} {more}");
        }
    });
}
