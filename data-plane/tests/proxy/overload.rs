//! More than can be served, and floods of frames: some are refused, the others do not notice.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use data_plane::limits::Limits;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use serde_json::json;
use socket2::{SockFilter, SockRef};

use crate::gateway::{
    OK, PATIENCE, ask, configuration, connect, read_until, serve_each, settings, start, start_with,
    stop, upstream,
};

/// `:status: 503`, as the library compresses it (RFC 7541 §6.2.1, appendix B).
pub(crate) const UNAVAILABLE: [u8; 5] = [0x48, 0x83, 0x6c, 0x0c, 0xff];

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\nConnection: close\r\n\r\n";

/// A server that answers each request only once it is told to.
pub(crate) fn patient_server() -> (u16, std::sync::mpsc::Receiver<Sender<()>>) {
    let (arrivals, arrived) = channel();
    let port = serve_each(move |mut stream| {
        while read_until(&mut stream, "\r\n\r\n").is_some() {
            let (go, gone) = channel();
            if arrivals.send(go).is_err() || gone.recv().is_err() {
                return;
            }
            stream.write_all(OK.as_bytes()).unwrap();
        }
    });
    (port, arrived)
}

fn with_limits(port: u16, limits: Limits) -> Proxy {
    patient(port, limits, Duration::from_secs(10))
}

/// The same, which waits so long for its server.
fn patient(port: u16, limits: Limits, patience: Duration) -> Proxy {
    let one_worker = Settings {
        workers: 1,
        ..settings()
    };
    let service = json!({"read_timeout": patience.as_secs() * 1_000, "retries": 0});
    let routes = [json!({"paths": ["/"]})];
    start_with(&one_worker, limits, configuration(port, &service, &routes))
}

#[test]
fn as_many_requests_are_under_way_as_may_be_and_no_more() {
    for (limits, message) in [
        (
            Limits {
                in_flight: 2,
                ..Limits::default()
            },
            "too many requests are under way",
        ),
        (
            Limits {
                upstream_in_flight: 2,
                ..Limits::default()
            },
            "The upstream server is currently unavailable",
        ),
    ] {
        let (port, arrived) = patient_server();
        let proxy = with_limits(port, limits);
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = connect(&proxy);
            stream.write_all(REQUEST.as_bytes()).unwrap();
            held.push((stream, arrived.recv().unwrap()));
        }
        // Three times what can be done: by both versions of HTTP what is too much is refused at once.
        for _ in 0..3 {
            let refused = ask(&proxy, REQUEST);
            assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
            assert!(
                refused.contains(message) && refused.contains("retry-after: 1"),
                "{refused}"
            );
        }
        let mut stream = reluctant(&proxy);
        ask_for(&mut stream, 1, "/");
        let refused = wait_for(&mut stream, 1, 1);
        assert!(refused.starts_with(&UNAVAILABLE), "{refused:x?}");
        for (mut stream, go) in held {
            go.send(()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        // There is room again.
        let mut stream = connect(&proxy);
        stream.write_all(REQUEST.as_bytes()).unwrap();
        arrived.recv().unwrap().send(()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        stop(proxy);
    }
}

/// A frame of HTTP/2.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[test]
fn a_flood_of_frames_reaches_nobody_else() {
    let (port, _heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let settings = frame(4, 0, 0, &[]);
    let head: &[u8] = &[0x82, 0x84, 0x86, 0x41, 0x01, b'a'];
    let floods: [(&str, Vec<u8>, Vec<u8>); 6] = [
        ("ping", Vec::new(), frame(6, 0, 0, &[0; 8])),
        ("settings", Vec::new(), frame(4, 0, 0, &[0, 4, 0, 0, 0, 1])),
        ("continuation", frame(1, 0, 1, head), frame(9, 0, 1, &[])),
        ("empty data", frame(1, 4, 1, head), frame(0, 0, 1, &[])),
        ("priority", Vec::new(), frame(2, 0, 3, &[0, 0, 0, 0, 1])),
        ("window", Vec::new(), frame(8, 0, 0, &[0, 0, 0, 1])),
    ];
    for (name, before, repeated) in floods {
        let mut stream = TcpStream::connect(proxy.addresses().proxy.unwrap()).unwrap();
        stream
            .set_write_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .unwrap();
        stream.write_all(&settings).unwrap();
        stream.write_all(&before).unwrap();
        let many = repeated.repeat(1000);
        for _ in 0..20 {
            // It is cut off, or nobody reads it any more.
            if stream.write_all(&many).is_err() {
                break;
            }
        }
        let answer = ask(&proxy, REQUEST);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{name} {answer}");
    }
    stop(proxy);
}

/// A client of HTTP/2 that gives its answers no room until it says so for one of them (RFC 9113 §6.5.2, §6.9).
fn reluctant(proxy: &Proxy) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.addresses().proxy.unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .unwrap();
    stream
        .write_all(&frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]))
        .unwrap();
    stream
}

/// Asks for `path` on the stream `id`.
pub(crate) fn ask_for(stream: &mut TcpStream, id: u32, path: &str) {
    let mut head = vec![0x82, 0x86, 0x41, 0x01, b'a', 0x04];
    head.push(u8::try_from(path.len()).unwrap());
    head.extend(path.as_bytes());
    stream.write_all(&frame(1, 5, id, &head)).unwrap();
}

/// The next frame: its kind, its stream and what it carries.
fn next_frame(stream: &mut TcpStream) -> (u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).unwrap();
    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut payload).unwrap();
    let id = u32::from_be_bytes(head[5..].try_into().unwrap());
    (head[3], id, payload)
}

/// Waits for a frame of this kind on the stream `id`; what it carries.
pub(crate) fn wait_for(stream: &mut TcpStream, kind: u8, id: u32) -> Vec<u8> {
    loop {
        let (found, of, payload) = next_frame(stream);
        if (found, of) == (kind, id) {
            return payload;
        }
    }
}

/// Waits until a stream is given up (RFC 9113 §6.4); which.
fn reset(stream: &mut TcpStream) -> u32 {
    loop {
        let (kind, id, _) = next_frame(stream);
        if kind == 3 {
            return id;
        }
    }
}

/// A server whose answer to `/small` is that, which has none for `/later`, and whose others do not end; says when one of
/// these was given up.
fn endless_server() -> (u16, std::sync::mpsc::Receiver<()>) {
    let (ended, ends) = channel();
    let port = serve_each(move |mut stream| {
        while let Some(head) = read_until(&mut stream, "\r\n\r\n") {
            if head.starts_with("GET /small ") {
                stream.write_all(OK.as_bytes()).unwrap();
                continue;
            }
            if head.starts_with("GET /later ") {
                continue;
            }
            let long = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
            stream.write_all(long).unwrap();
            while stream.write_all(&vec![b'x'; 64 * 1024]).is_ok() {}
            let _ = ended.send(());
            return;
        }
    });
    (port, ends)
}

#[test]
fn a_client_that_gives_its_answers_no_room_is_let_go() {
    let (port, ends) = endless_server();
    let limits = Limits {
        take: Duration::from_secs(1),
        ..Limits::default()
    };
    let proxy = with_limits(port, limits);
    let mut stream = reluctant(&proxy);
    for id in [1, 3, 5] {
        ask_for(&mut stream, id, "/");
    }
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    for _ in 0..3 {
        ends.recv_timeout(PATIENCE).unwrap();
    }
    stop(proxy);
}

/// A server whose answers say nothing behind their heads, or, but for that, little, again and again; says when each was given up.
fn quiet_server(is_silent: bool) -> (u16, std::sync::mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (ended, ends) = channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_until(&mut stream, "\r\n\r\n").unwrap();
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
        stream.write_all(head).unwrap();
        if is_silent {
            assert!(read_until(&mut stream, "\r\n").is_none());
        }
        while stream.write_all(b"data: x\n\n").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
        ended.send(()).unwrap();
    });
    (port, ends)
}

/// The client at `stream` vanishes: its end stays, and nothing reaches it any more (`BPF_RET`, of no bytes).
fn vanish(stream: &TcpStream) {
    let nothing = SockFilter::new(0x06, 0, 0, 0);
    SockRef::from(stream).attach_filter(&[nothing]).unwrap();
}

#[test]
fn a_client_that_has_vanished_is_let_go_though_nothing_waits_for_it() {
    let (port, ends) = quiet_server(false);
    let limits = Limits {
        vanished: Duration::from_secs(2),
        ..Limits::default()
    };
    let proxy = with_limits(port, limits);
    let mut stream = TcpStream::connect(proxy.addresses().proxy.unwrap()).unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).unwrap();
    ask_for(&mut stream, 1, "/");
    wait_for(&mut stream, 0, 1);
    vanish(&stream);
    ends.recv_timeout(PATIENCE).unwrap();
    drop(stream);
    stop(proxy);
}

#[test]
fn one_of_http1_is_let_go_whether_its_answer_says_anything_or_not() {
    for is_silent in [true, false] {
        let (port, ends) = quiet_server(is_silent);
        let limits = Limits {
            vanished: Duration::from_secs(3),
            ..Limits::default()
        };
        let proxy = patient(port, limits, Duration::from_mins(10));
        let mut stream = TcpStream::connect(proxy.addresses().proxy.unwrap()).unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        read_until(&mut stream, "\r\n\r\n").unwrap();
        // As long as it is there it stays, however silent.
        let early = ends.recv_timeout(Duration::from_secs(5));
        assert!(early.is_err(), "it is there, silent: {is_silent}");
        vanish(&stream);
        let over = ends.recv_timeout(Duration::from_secs(30));
        assert!(over.is_ok(), "silent: {is_silent}");
        drop(stream);
        stop(proxy);
    }
}

#[test]
fn an_answer_may_lie_while_others_are_taken() {
    let (port, ends) = endless_server();
    let limits = Limits {
        take: Duration::from_secs(2),
        ..Limits::default()
    };
    let proxy = with_limits(port, limits);
    let mut stream = reluctant(&proxy);
    ask_for(&mut stream, 1, "/");
    wait_for(&mut stream, 1, 1);
    for id in (3..103).step_by(2) {
        ask_for(&mut stream, id, "/small");
        wait_for(&mut stream, 1, id);
        stream
            .write_all(&frame(8, 0, id, &1_000_u32.to_be_bytes()))
            .unwrap();
        wait_for(&mut stream, 0, id);
        std::thread::sleep(Duration::from_millis(100));
    }
    stream
        .write_all(&frame(8, 0, 1, &1_000_u32.to_be_bytes()))
        .unwrap();
    assert_eq!(wait_for(&mut stream, 0, 1), [b'x'; 1_000]);
    assert!(ends.try_recv().is_err());
    drop(stream);
    stop(proxy);
}

#[test]
fn answers_that_lie_beside_others_end_alone() {
    let (port, ends) = endless_server();
    let limits = Limits {
        take: Duration::from_secs(2),
        ..Limits::default()
    };
    let proxy = with_limits(port, limits);
    let mut stream = reluctant(&proxy);
    ask_for(&mut stream, 1, "/later");
    let ids: Vec<u32> = (3..43).step_by(2).collect();
    for id in &ids {
        ask_for(&mut stream, *id, "/");
        wait_for(&mut stream, 1, *id);
    }
    // As many may lie as a browser leaves.
    let mut ended: Vec<u32> = (0..ids.len() - 15).map(|_| reset(&mut stream)).collect();
    ended.sort_unstable();
    ended.dedup();
    assert_eq!(ended.len(), 5);
    for _ in &ended {
        ends.recv_timeout(PATIENCE).unwrap();
    }
    ask_for(&mut stream, 43, "/small");
    wait_for(&mut stream, 1, 43);
    let left = ids.iter().find(|id| !ended.contains(id)).unwrap();
    let room = frame(8, 0, *left, &1_000_u32.to_be_bytes());
    stream.write_all(&room).unwrap();
    assert_eq!(wait_for(&mut stream, 0, *left), [b'x'; 1_000]);
    assert!(ends.try_recv().is_err());
    drop(stream);
    stop(proxy);
}

#[test]
fn a_client_of_http2_that_asks_for_nothing_is_let_go_and_one_that_waits_is_not() {
    let (port, arrived) = patient_server();
    let limits = Limits {
        idle: Duration::from_secs(1),
        ..Limits::default()
    };
    let proxy = with_limits(port, limits);
    let mut stream = reluctant(&proxy);
    ask_for(&mut stream, 1, "/");
    let go = arrived.recv().unwrap();
    std::thread::sleep(Duration::from_millis(2_500));
    go.send(()).unwrap();
    wait_for(&mut stream, 1, 1);
    let room = frame(8, 0, 1, &1_000_u32.to_be_bytes());
    stream.write_all(&room).unwrap();
    wait_for(&mut stream, 0, 1);
    // It is told so, in order (RFC 9113 §6.8), and cut off if it says nothing to that.
    wait_for(&mut stream, 7, 0);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    stop(proxy);
}

#[test]
fn one_address_cannot_have_all_requests() {
    let (port, arrived) = patient_server();
    let limits = Limits {
        requests_per_address: 2,
        ..Limits::default()
    };
    let proxy = with_limits(port, limits);
    let (mut one, mut other) = (reluctant(&proxy), reluctant(&proxy));
    let mut waiting = Vec::new();
    for stream in [&mut one, &mut other] {
        ask_for(stream, 1, "/");
        waiting.push(arrived.recv().unwrap());
    }
    for stream in [&mut one, &mut other] {
        ask_for(stream, 3, "/");
        let head = wait_for(stream, 1, 3);
        assert!(head.starts_with(&UNAVAILABLE), "{head:x?}");
    }
    // There is room again once an answer has been taken.
    waiting.remove(0).send(()).unwrap();
    wait_for(&mut one, 1, 1);
    let room = frame(8, 0, 1, &1_000_u32.to_be_bytes());
    one.write_all(&room).unwrap();
    wait_for(&mut one, 0, 1);
    ask_for(&mut other, 5, "/");
    let third = arrived.recv().unwrap();
    third.send(()).unwrap();
    let head = wait_for(&mut other, 1, 5);
    assert_eq!(head.first(), Some(&0x88), "{head:x?}");
    drop(waiting);
    stop(proxy);
}
