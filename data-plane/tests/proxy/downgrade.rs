//! Heads of HTTP/2 that would be something else as HTTP/1.1: none of them reaches a server (RFC 9113 §8.2, §8.3).

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::Receiver;

use data_plane::proxy::Proxy;
use serde_json::json;

use crate::gateway::{OK, PATIENCE, ask, configuration, start, stop, upstream};
use crate::overload::frame;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a client has heard of its only request.
#[derive(Debug, Eq, PartialEq)]
enum Heard {
    /// A head with this status.
    Status(u16),
    /// The request, or the connection, was cut off.
    Cut,
}

/// A field as it is, neither indexed nor compressed (RFC 7541 §6.2.2).
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    for part in [name, value] {
        // Lengths from 127 on have a second byte.
        match part.len().checked_sub(127) {
            None => bytes.push(u8::try_from(part.len()).unwrap()),
            Some(more @ 0..128) => bytes.extend([127, u8::try_from(more).unwrap()]),
            Some(more) => {
                let more = u32::try_from(more).unwrap();
                let low = u8::try_from(more % 128).unwrap() | 128;
                let middle = u8::try_from(more / 128 % 128).unwrap() | 128;
                bytes.extend([127, low, middle, u8::try_from(more / 128 / 128).unwrap()]);
            }
        }
        bytes.extend(part);
    }
    bytes
}

pub(crate) fn begin(proxy: &Proxy) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.addresses().proxy.unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).unwrap();
    stream
}

/// The next frame: its kind, its stream and what it carries.
pub(crate) fn next(stream: &mut TcpStream) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut payload).ok()?;
    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], id, payload))
}

/// Sends a head with these fields and says what comes of it.
fn hear(proxy: &Proxy, fields: &[(&[u8], &[u8])], body: Option<&[u8]>) -> Heard {
    let block = fields.iter().flat_map(|(name, value)| literal(name, value));
    hear_block(proxy, &block.collect::<Vec<u8>>(), body)
}

/// The same of a head as it is compressed.
fn hear_block(proxy: &Proxy, block: &[u8], body: Option<&[u8]>) -> Heard {
    let mut stream = begin(proxy);
    let mut parts = block.chunks(16_384).peekable();
    let (mut kind, ends) = (1, if body.is_none() { END_STREAM } else { 0 });
    let mut flags = ends;
    while let Some(part) = parts.next() {
        let last = if parts.peek().is_none() {
            END_HEADERS
        } else {
            0
        };
        // Whoever is cut off need not take the rest.
        let _ = stream.write_all(&frame(kind, flags | last, 1, part));
        (kind, flags) = (9, 0);
    }
    if let Some(body) = body {
        let _ = stream.write_all(&frame(0, END_STREAM, 1, body));
    }
    loop {
        match next(&mut stream) {
            // The first field is the status: one of the static table (RFC 7541 appendix A), or compressed.
            Some((1, _, head)) => {
                let status = match *head {
                    [0x88, ..] => 200,
                    [0x8c, ..] => 400,
                    [0x8d, ..] => 404,
                    [0x48, 0x83, 0x68, 0x2d, 0x7f, ..] => 414,
                    _ => 0,
                };
                return Heard::Status(status);
            }
            Some((3 | 7, ..)) | None => return Heard::Cut,
            Some(_) => {}
        }
    }
}

fn gateway() -> (Proxy, Receiver<String>) {
    let (port, heads) = upstream(&[OK]);
    let service = json!({"read_timeout": 60_000, "retries": 0});
    (
        start(configuration(port, &service, &[json!({"paths": ["/"]})])),
        heads,
    )
}

type Field<'a> = (&'a [u8], &'a [u8]);

const METHOD: Field<'_> = (b":method", b"GET");
const SCHEME: Field<'_> = (b":scheme", b"http");
const PATH: Field<'_> = (b":path", b"/");
const AUTHORITY: Field<'_> = (b":authority", b"a");
const SOUND: [Field<'_>; 4] = [METHOD, SCHEME, PATH, AUTHORITY];

#[test]
fn a_head_that_would_be_another_request_is_refused() {
    let (proxy, heads) = gateway();
    assert_eq!(hear(&proxy, &SOUND, None), Heard::Status(200));
    heads.recv().unwrap();
    let more: &[Field<'_>] = &[
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"close"),
        (b"keep-alive", b"1"),
        (b"proxy-connection", b"close"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b"X-Upper", b"1"),
        (b"x y", b"1"),
        (b"x:", b"1"),
        (b"", b"1"),
        (b"x\r\ny", b"1"),
        (b"x", b"1\r\ny: 2"),
        (b"x", b"1\ny: 2"),
        (b"x", b"1\0"),
        (b":method", b"GET"),
        (b":path", b"/"),
        (b":status", b"200"),
        (b":unknown", b"1"),
        (b"content-length", b"5"),
        (b"content-length", b"+0"),
        (b"content-length", b"0, 0"),
        (b"host", b"b"),
    ];
    for field in more {
        let head = [&SOUND[..], &[*field]].concat();
        let answer = hear(&proxy, &head, None);
        let case = field.map_text();
        assert!(
            matches!(answer, Heard::Cut | Heard::Status(400)),
            "{case} {answer:?}"
        );
    }
    let heads_without: &[&[Field<'_>]] = &[
        &[SCHEME, PATH, AUTHORITY],
        &[METHOD, PATH, AUTHORITY],
        &[METHOD, SCHEME, AUTHORITY],
        &[METHOD, SCHEME, PATH],
        &[METHOD, SCHEME, (b":path", b""), AUTHORITY],
        &[METHOD, SCHEME, (b":path", b"a"), AUTHORITY],
        &[METHOD, SCHEME, (b":path", b"/ HTTP/1.1\r\nx: y"), AUTHORITY],
        &[METHOD, SCHEME, (b":path", b"/a b"), AUTHORITY],
        &[
            (b":method", b"GET / HTTP/1.1\r\nHost: b\r\n\r\nGET"),
            SCHEME,
            PATH,
            AUTHORITY,
        ],
        &[(b":method", b""), SCHEME, PATH, AUTHORITY],
        &[METHOD, SCHEME, PATH, (b":authority", b"a\r\nx: y")],
        &[METHOD, SCHEME, PATH, (b":authority", b"a b")],
        &[METHOD, SCHEME, PATH, (b":authority", b"u@a")],
        &[METHOD, SCHEME, PATH, (b":authority", b"a/b")],
        &[METHOD, SCHEME, PATH, (b":authority", b"a:8a")],
        &[METHOD, SCHEME, PATH, (b":authority", b"a:+80")],
        &[METHOD, SCHEME, PATH, (b"x", b"1"), AUTHORITY],
    ];
    for head in heads_without {
        let answer = hear(&proxy, head, None);
        let case: Vec<_> = head.iter().map(MapText::map_text).collect();
        assert!(
            matches!(answer, Heard::Cut | Heard::Status(400)),
            "{case:?} {answer:?}"
        );
    }
    let post = (&b":method"[..], &b"POST"[..]);
    for (length, body) in [(&b"4"[..], &b"hello"[..]), (b"0", b"hello")] {
        let head = [post, SCHEME, PATH, AUTHORITY, (b"content-length", length)];
        let answer = hear(&proxy, &head, Some(body));
        assert!(answer != Heard::Status(200), "{answer:?}");
    }
    let all: Vec<String> = heads.try_iter().collect();
    assert!(
        all.iter()
            .all(|head| head.starts_with("POST / HTTP/1.1\r\n") && !head.contains("hello")),
        "{all:?}"
    );
    stop(proxy);
}

trait MapText {
    /// To be read in a failure.
    fn map_text(&self) -> String;
}

impl MapText for Field<'_> {
    fn map_text(&self) -> String {
        format!(
            "{:?}: {:?}",
            String::from_utf8_lossy(self.0),
            String::from_utf8_lossy(self.1)
        )
    }
}

#[test]
fn a_head_has_the_limits_of_one_of_http1() {
    let (proxy, heads) = gateway();
    let fields = |count: usize| [&SOUND[..], &vec![(&b"x"[..], &b"y"[..]); count]].concat();
    assert_eq!(hear(&proxy, &fields(1000), None), Heard::Status(200));
    assert_eq!(hear(&proxy, &fields(1001), None), Heard::Status(400));
    // A cookie may come in crumbs.
    let crumbs = [&fields(999)[..], &[(&b"cookie"[..], &b"a=b"[..]); 50]].concat();
    assert_eq!(hear(&proxy, &crumbs, None), Heard::Status(200));
    for (length, expected) in [(16 * 1024, 200), (16 * 1024 + 1, 414)] {
        let path = format!("/{}", "x".repeat(length - 1));
        let head = [METHOD, SCHEME, (b":path", path.as_bytes()), AUTHORITY];
        assert_eq!(
            hear(&proxy, &head, None),
            Heard::Status(expected),
            "{length}"
        );
    }
    let large = "y".repeat(70 * 1024);
    let head = [&SOUND[..], &[(&b"x"[..], large.as_bytes())]].concat();
    assert!(hear(&proxy, &head, None) != Heard::Status(200));
    assert_eq!(heads.try_iter().count(), 3);
    stop(proxy);
}

/// A field that is told once and then named by its place in the table, a byte each time ("HPACK bomb").
#[test]
fn fields_that_unpack_to_more_than_a_head_may_have_are_refused() {
    let (proxy, heads) = gateway();
    let sound = sound();
    // With incremental indexing (RFC 7541 §6.2.1), so that it is the first of the dynamic table.
    let mut told = literal(b"x", &[b'y'; 4_000]);
    told[0] = 0x40;
    let bomb = |times: usize| [&sound[..], &told, &vec![0x80 | 0x3e; times]].concat();
    assert_eq!(hear_block(&proxy, &bomb(14), None), Heard::Status(200));
    // 64 KiB and a little, a megabyte, and 200 of them.
    for times in [17, 260, 50_000] {
        let heard = hear_block(&proxy, &bomb(times), None);
        assert_ne!(heard, Heard::Status(200), "{times}");
    }
    assert_eq!(hear(&proxy, &SOUND, None), Heard::Status(200));
    assert_eq!(heads.try_iter().count(), 2);
    stop(proxy);
}

/// A server that takes connections and never answers, so that each request stays for long; and a gateway before it.
pub(crate) fn silent() -> (TcpListener, Proxy) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = json!({"read_timeout": 60_000, "retries": 0});
    let proxy = start(configuration(port, &service, &[json!({"paths": ["/"]})]));
    (listener, proxy)
}

/// The block of a head that is as it should be.
pub(crate) fn sound() -> Vec<u8> {
    let fields = SOUND.iter();
    fields
        .flat_map(|(name, value)| literal(name, value))
        .collect()
}

#[test]
fn a_connection_has_as_many_requests_at_a_time_as_it_may_and_no_more() {
    const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
    let (listener, proxy) = silent();
    let head = sound();
    let mut stream = begin(&proxy);
    for number in 0..101 {
        let request = frame(1, END_STREAM | END_HEADERS, 2 * number + 1, &head);
        stream.write_all(&request).unwrap();
    }
    let mut announced = Vec::new();
    loop {
        match next(&mut stream).unwrap() {
            // Pairs of a number and a value: 3 is the most streams, 4 a stream's window, 6 the longest head.
            (4, _, settings) if !settings.is_empty() => {
                announced = settings
                    .chunks(6)
                    .map(|pair| {
                        (
                            pair[1],
                            u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]]),
                        )
                    })
                    .collect();
            }
            (3, id, code) => {
                assert_eq!((id, &code[..]), (201, &REFUSED_STREAM[..]));
                break;
            }
            (kind, id, _) => assert!(id == 0, "{kind} {id}"),
        }
    }
    for limit in [(3, 100), (4, 256 * 1024), (6, 128 * 1024)] {
        assert!(announced.contains(&limit), "{announced:?}");
    }
    drop((stream, listener));
    stop(proxy);
}

#[test]
fn a_client_that_resets_its_streams_at_once_is_cut_off() {
    // To be given no more room is an error (RFC 9113 §6.9), for which the server resets the stream.
    resets(8, [0, 0, 0, 0]);
    // CANCEL (RFC 9113 §7).
    resets(3, [0, 0, 0, 8]);
}

/// Has a client send a frame of this kind behind each request.
fn resets(kind: u8, payload: [u8; 4]) {
    let (listener, proxy) = silent();
    let head = sound();
    let mut stream = begin(&proxy);
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let cut = (0..5000_u32).any(|number| {
        let id = 2 * number + 1;
        let both = [
            frame(1, END_STREAM | END_HEADERS, id, &head),
            frame(kind, 0, id, &payload),
        ];
        stream.write_all(&both.concat()).is_err()
    });
    let mut rest = Vec::new();
    let ended = cut || stream.read_to_end(&mut rest).is_ok();
    assert!(ended, "the connection is closed: {kind}");
    let answer = ask(
        &proxy,
        "GET /%00 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    drop(listener);
    stop(proxy);
}
