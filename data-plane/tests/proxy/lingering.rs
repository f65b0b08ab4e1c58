//! Uploads over HTTP/2 that are answered before all of them has come: who sends on is not reset for a while.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use data_plane::limits::Limits;
use data_plane::proxy::Proxy;
use serde_json::json;

use crate::gateway::{configuration, read_until, settings, start_with, stop};
use crate::overload::frame;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const PING: u8 = 6;
const WINDOW: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// How `:status: 404` is written (RFC 7541, appendix A).
const NOT_FOUND: u8 = 0x80 | 0x0d;
/// `SETTINGS_INITIAL_WINDOW_SIZE` of 0: no answer's content is sent before there is room made for it.
const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];
const NEVER: Duration = Duration::from_hours(1);

/// A server that refuses each upload as it begins, and reads nothing of it; one to `/grpc` as servers of gRPC do.
fn refusing_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head = read_until(&mut stream, "\r\n\r\n").unwrap();
            let (status, kind) = if head.contains("/grpc") {
                ("200 OK", "application/grpc+proto")
            } else {
                ("413 Large", "text/plain")
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: 5\r\nConnection: close\r\n\r\nearly"
            );
            stream.write_all(answer.as_bytes()).unwrap();
            kept.push(stream);
        }
    });
    port
}

/// A gateway that has a route for `/server` alone, and is patient when it is to end.
fn gateway(linger: Duration, linger_silence: Duration) -> Proxy {
    gateway_with(Limits {
        linger,
        linger_silence,
        in_flight: 1,
        ..Limits::default()
    })
}

fn gateway_with(limits: Limits) -> Proxy {
    let settings = data_plane::settings::Settings {
        workers: 1,
        drain_timeout_ms: 60_000,
        ..settings()
    };
    let routes = [json!({"paths": ["/server"], "request_buffering": false})];
    let records = configuration(refusing_server(), &json!({}), &routes);
    start_with(&settings, limits, records)
}

/// A client that sends no more than it may.
struct Client {
    stream: TcpStream,
    /// Bytes that the gateway takes on the first stream.
    room: usize,
    reset: Option<Vec<u8>>,
    /// The streams that are reset.
    resets: Vec<u32>,
}

impl Client {
    fn new(proxy: &Proxy) -> Self {
        Self::with(proxy, &[])
    }

    /// One with these settings (RFC 9113 §6.5.1).
    fn with(proxy: &Proxy, settings: &[u8]) -> Self {
        let mut stream = TcpStream::connect(proxy.addresses().proxy.unwrap()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_mins(1)))
            .unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .unwrap();
        stream.write_all(&frame(4, 0, 0, settings)).unwrap();
        Self {
            stream,
            room: 65_535,
            reset: None,
            resets: Vec::new(),
        }
    }

    /// Begins to send to `path`.
    fn begin(&mut self, id: u32, path: &str) {
        let mut head = vec![0x83, 0x86, 0x41, 0x01, b'a', 0x04];
        head.push(u8::try_from(path.len()).unwrap());
        head.extend(path.as_bytes());
        let head = frame(HEADERS, END_HEADERS, id, &head);
        self.stream.write_all(&head).unwrap();
    }

    /// Begins to send to `path`, and waits until that is answered; how the answer's head begins.
    fn is_refused(&mut self, id: u32, path: &str) -> u8 {
        self.begin(id, path);
        let mut status = None;
        loop {
            let (kind, flags, of, payload) = self.next();
            if of != id {
                continue;
            }
            if kind == HEADERS {
                status = payload.first().copied();
            }
            if kind <= HEADERS && flags & END_STREAM != 0 {
                return status.unwrap();
            }
        }
    }

    /// The next frame: its kind, its flags, its stream and what it carries.
    fn next(&mut self) -> (u8, u8, u32, Vec<u8>) {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        self.stream.read_exact(&mut payload).unwrap();
        let id = u32::from_be_bytes(head[5..].try_into().unwrap());
        match (head[3], id) {
            (WINDOW, 1) => {
                let more = u32::from_be_bytes(payload[..].try_into().unwrap());
                self.room += usize::try_from(more).unwrap();
            }
            (RESET, 1) => self.reset = Some(payload.clone()),
            _ => {}
        }
        if head[3] == RESET {
            self.resets.push(id);
        }
        (head[3], head[4], id, payload)
    }

    /// Sends so much once there is room for it, unless the stream is reset before.
    fn send(&mut self, bytes: usize, flags: u8) {
        while self.room < bytes && self.reset.is_none() {
            self.next();
        }
        if self.reset.is_none() {
            self.room -= bytes;
            let data = frame(DATA, flags, 1, &vec![b'u'; bytes]);
            self.stream.write_all(&data).unwrap();
        }
    }

    /// Waits until the gateway has come to what was sent.
    fn is_heard(&mut self) {
        self.stream.write_all(&frame(PING, 0, 0, &[0; 8])).unwrap();
        while self.next().0 != PING {}
    }
}

#[test]
fn a_refused_upload_may_go_on_to_its_end() {
    let proxy = gateway(NEVER, NEVER);
    for path in ["/none", "/server"] {
        let mut client = Client::new(&proxy);
        client.is_refused(1, path);
        // Four times what it may send ahead.
        for _ in 0..64 {
            client.send(16 * 1024, 0);
            client.is_heard();
            assert_eq!(client.reset, None, "{path}");
        }
        // It counts as no request.
        assert_eq!(client.is_refused(3, "/none"), NOT_FOUND, "{path}");
        client.send(1, END_STREAM);
        client.is_heard();
        client.is_heard();
        assert_eq!(client.reset, None, "{path}");
        drop(client);
    }
    stop(proxy);
}

#[test]
fn a_refused_upload_without_end_is_reset_in_the_end() {
    let proxy = gateway(Duration::from_millis(300), NEVER);
    let mut client = Client::new(&proxy);
    client.is_refused(1, "/none");
    while client.reset.is_none() {
        client.send(1024, 0);
        client.is_heard();
    }
    assert_eq!(client.reset, Some(vec![0; 4]), "no error");
    assert_eq!(client.is_refused(3, "/none"), NOT_FOUND);
    drop(client);
    stop(proxy);

    // Who says nothing more has gone elsewhere.
    let proxy = gateway(NEVER, Duration::from_millis(300));
    let mut client = Client::new(&proxy);
    client.is_refused(1, "/server");
    while client.reset.is_none() {
        client.next();
    }
    drop(client);
    stop(proxy);
}

#[test]
fn few_refused_uploads_of_a_connection_may_go_on_and_the_oldest_makes_room() {
    let proxy = gateway(NEVER, NEVER);
    let mut client = Client::new(&proxy);
    for number in 0..16 {
        assert_eq!(client.is_refused(1 + 2 * number, "/none"), NOT_FOUND);
    }
    client.is_heard();
    client.is_heard();
    assert_eq!(client.resets, [0; 0]);
    client.is_refused(33, "/none");
    while client.reset.is_none() {
        client.next();
    }
    client.is_heard();
    assert_eq!(client.resets, [1]);
    assert_eq!(client.reset, Some(vec![0; 4]));
    drop(client);
    stop(proxy);
}

#[test]
fn a_call_of_grpc_is_reset_behind_its_answer() {
    let proxy = gateway(NEVER, NEVER);
    let mut client = Client::new(&proxy);
    client.is_refused(1, "/server/grpc");
    while client.reset.is_none() {
        client.next();
    }
    assert_eq!(client.reset, Some(vec![0; 4]));
    drop(client);
    stop(proxy);
}

#[test]
fn who_has_too_many_requests_is_reset_behind_the_answer() {
    let proxy = gateway_with(Limits {
        linger: NEVER,
        linger_silence: NEVER,
        requests_per_address: 1,
        ..Limits::default()
    });
    let mut client = Client::with(&proxy, &NO_WINDOW);
    // Under way until it is taken.
    client.begin(3, "/none");
    while client.next().0 != HEADERS {}
    client.begin(5, "/none");
    while client.next().0 != HEADERS {}
    let room = |id| frame(WINDOW, 0, id, &1_000_u32.to_be_bytes());
    client.stream.write_all(&room(5)).unwrap();
    while client.resets.is_empty() {
        client.next();
    }
    client.stream.write_all(&room(3)).unwrap();
    while client.next().1 & END_STREAM == 0 {}
    client.is_heard();
    client.is_heard();
    assert_eq!(client.resets, [5]);
    drop(client);
    stop(proxy);
}

#[test]
fn a_node_that_ends_does_not_wait_for_refused_uploads() {
    for sends in [true, false] {
        let proxy = gateway(NEVER, NEVER);
        let mut client = Client::new(&proxy);
        client.is_refused(1, "/none");
        client.send(1024, 0);
        client.is_heard();
        let stopping = std::thread::spawn(|| stop(proxy));
        while client.reset.is_none() {
            if sends {
                client.send(1024, 0);
                client.is_heard();
            } else {
                client.next();
            }
        }
        assert_eq!(client.reset, Some(vec![0; 4]), "no error");
        drop(client);
        stopping.join().unwrap();
    }
}

#[test]
fn what_is_sent_beside_an_answer_that_lasts_is_not_taken_for_ever() {
    let proxy = gateway(Duration::ZERO, NEVER);
    let mut client = Client::with(&proxy, &NO_WINDOW);
    client.begin(1, "/none");
    while client.next().0 != HEADERS {}
    let mut sent = 0;
    while client.room >= 16 * 1024 {
        client.send(16 * 1024, 0);
        sent += 16 * 1024;
        assert!(sent < 2 * 1024 * 1024, "all is taken");
        client.is_heard();
        client.is_heard();
    }
    assert_eq!(client.reset, None, "the answer goes on");
    let room = frame(WINDOW, 0, 1, &1_000_u32.to_be_bytes());
    client.stream.write_all(&room).unwrap();
    while client.reset.is_none() {
        client.next();
    }
    assert_eq!(client.reset, Some(vec![0; 4]), "no error");
    drop(client);
    stop(proxy);
}
