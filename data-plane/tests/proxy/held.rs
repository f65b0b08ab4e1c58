//! What is held for clients while nothing of it has gone upstream, and answers that are read whole: as much as there is room for,
//! and what is more is refused before anybody has seen a part of it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use data_plane::limits::Limits;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use serde_json::{Value, json};
use shared::tls::provider;
use uuid::Uuid;

use crate::downgrade::{begin, next, sound};
use crate::gateway::{
    OK, PATIENCE, configuration, connect, eventually, plugin, record, settings, start_with, stop,
    upstream,
};
use crate::limits::connect_from;
use crate::overload::{frame, patient_server};

/// A hundred and twenty pages: ninety of them for one client, and fifteen less for one request, since a core may keep those.
const ROOM: usize = 120 * 4096;
const SMALL: usize = 10_000;
const LARGE: usize = 600_000;

/// A gateway with that room, and a plugin for every request, before a server with `answers`.
fn gateway(
    limits: Limits,
    name: &str,
    config: &Value,
    answers: &'static [&'static str],
) -> (Proxy, Receiver<String>) {
    let (port, heads) = upstream(answers);
    let routes = [json!({"paths": ["/"], "request_buffering": false})];
    let mut records = configuration(port, &json!({}), &routes);
    records.push(record("consumers", 50, json!({"username": "nobody"})));
    records.push(plugin(60, name, config));
    (start_with(&one_worker(), limits, records), heads)
}

fn one_worker() -> Settings {
    Settings {
        workers: 1,
        ..settings()
    }
}

fn limits() -> Limits {
    Limits {
        held: ROOM,
        // Nothing here ends because it takes long.
        handshake: Duration::from_hours(1),
        body: Duration::from_hours(1),
        head: Duration::from_hours(1),
        ..Limits::default()
    }
}

/// A form of so many bytes, of unknown length, up to its last byte.
fn form(length: usize) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{}",
        "x".repeat(length)
    )
}

const END: &str = "\r\n0\r\n\r\n";

/// The answer to what is sent on `stream`, which may be refused before all of it is.
fn answer(mut stream: TcpStream, sent: &str) -> String {
    let _ = stream.write_all(sent.as_bytes());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// It lets everybody pass whose body has no key.
fn key_in_body() -> Value {
    json!({"key_in_body": true, "anonymous": Uuid::from_u128(50)})
}

#[test]
fn a_body_that_a_plugin_reads_goes_upstream_whole_or_not_at_all() {
    let (proxy, heads) = gateway(limits(), "key-auth", &key_in_body(), &[OK]);
    let ask = |from, length| answer(connect_from(&proxy, from), &(form(length) + END));
    let served = ask("127.0.0.1", SMALL);
    assert!(served.starts_with("HTTP/1.1 200 "), "{served}");
    heads.recv_timeout(PATIENCE).unwrap();
    // There is never room for these.
    let many = form(SMALL).replace("xx", "&&") + END;
    for refused in [ask("127.0.0.1", LARGE), answer(connect(&proxy), &many)] {
        assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
        assert!(!refused.contains("retry-after"), "{refused}");
    }
    assert!(
        heads.try_recv().is_err(),
        "the server has seen a part of it"
    );
    // A client leaves room for others, until it has gone itself.
    let mut crowd = Vec::new();
    for length in [6 * SMALL; 8].into_iter().chain([SMALL; 20]) {
        let mut stream = connect(&proxy);
        stream.write_all(form(length).as_bytes()).unwrap();
        crowd.push(stream);
    }
    eventually("what has come of them is counted", || {
        let refused = ask("127.0.0.1", 10 * SMALL);
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: 1")
    });
    let served = ask("127.0.0.2", SMALL / 2);
    assert!(served.starts_with("HTTP/1.1 200 "), "{served}");
    drop(crowd);
    eventually("they are forgotten", || {
        ask("127.0.0.1", 10 * SMALL).starts_with("HTTP/1.1 200 ")
    });
    stop(proxy);
}

#[test]
fn what_a_plugin_does_not_parse_takes_up_no_more_than_it_is() {
    let config = json!({"secret_v1": "secret", "tolerance_second": i64::MAX});
    let (proxy, _heads) = gateway(limits(), "standard-webhooks", &config, &[OK]);
    let text = form(SMALL).replace("xx", "&&") + END;
    let fields = "webhook-id: a\r\nwebhook-timestamp: 1\r\nwebhook-signature: v1,x\r\nHost:";
    let judged = answer(connect(&proxy), &text.replacen("Host:", fields, 1));
    assert!(judged.starts_with("HTTP/1.1 400 "), "{judged}");
    stop(proxy);
}

#[test]
fn a_body_that_a_plugin_waits_for_has_an_end_however_its_client_dawdles() {
    let limits = Limits {
        body: Duration::from_secs(2),
        ..limits()
    };
    let (proxy, heads) = gateway(limits, "key-auth", &key_in_body(), &[OK]);
    let mut stream = connect(&proxy);
    stream.write_all((form(1) + "\r\n").as_bytes()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let mut late = [0; 12];
    // Four times as often as it has to.
    let is_late = (0..500).any(|_| {
        let _ = stream.write_all(b"1\r\nx\r\n");
        stream.read_exact(&mut late).is_ok()
    });
    assert!(is_late && late == *b"HTTP/1.1 408");
    assert!(heads.try_recv().is_err());
    stop(proxy);
}

#[test]
fn a_body_that_is_held_back_goes_on_to_its_server_where_its_client_dawdles() {
    let limits = Limits {
        body: Duration::from_secs(2),
        ..limits()
    };
    let (port, heads) = upstream(&[OK]);
    let records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    let proxy = start_with(&one_worker(), limits, records);
    let mut stream = connect(&proxy);
    stream.write_all((form(1) + "\r\n").as_bytes()).unwrap();
    let pause = Duration::from_millis(20);
    let is_asked = (0..500).any(|_| {
        stream.write_all(b"1\r\nx\r\n").unwrap();
        heads.recv_timeout(pause).is_ok()
    });
    assert!(is_asked);
    stop(proxy);
}

#[test]
fn a_body_that_stops_while_a_plugin_reads_it_is_late() {
    let limits = Limits {
        body: Duration::from_millis(50),
        ..limits()
    };
    // One answers what it cannot read, the other lets it pass.
    for (name, config) in [
        ("request-transformer", json!({"add": {"body": ["a:b"]}})),
        ("key-auth", key_in_body()),
    ] {
        let (proxy, heads) = gateway(limits, name, &config, &[OK]);
        let late = answer(connect(&proxy), &form(SMALL));
        assert!(late.starts_with("HTTP/1.1 408 "), "{name}: {late}");
        assert!(heads.try_recv().is_err(), "{name}");
        stop(proxy);
    }
}

/// An answer in JSON.
fn json_answer(body: &str) -> &'static str {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    Box::leak((head + body).into_boxed_str())
}

/// A small one, and then large ones.
fn answers() -> &'static [&'static str] {
    let answer = |length: usize| json_answer(&format!("{{\"a\":\"{}\"}}", "x".repeat(length)));
    Box::leak(Box::new([answer(SMALL), answer(LARGE)]))
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn an_answer_that_a_plugin_has_to_read_is_refused_where_there_is_no_room_and_another_is_passed_on()
{
    let config = json!({"add": {"json": ["b:c"]}});
    let (proxy, _heads) = gateway(limits(), "response-transformer", &config, answers());
    let changed = answer(connect(&proxy), GET);
    assert!(changed.starts_with("HTTP/1.1 200 "), "{changed}");
    assert!(changed.ends_with(r#""b":"c"}"#), "{changed}");
    let refused = answer(connect(&proxy), GET);
    assert!(refused.starts_with("HTTP/1.1 502 "), "{refused}");
    stop(proxy);

    // So is one of which much would be made.
    let many = json_answer(&format!("[{}0]", "0,".repeat(SMALL)));
    let answers = Box::leak(Box::new([many]));
    let (proxy, _heads) = gateway(limits(), "response-transformer", &config, answers);
    let refused = answer(connect(&proxy), GET);
    assert!(refused.starts_with("HTTP/1.1 502 "), "{refused}");
    stop(proxy);

    let config = json!({"strategy": "memory", "content_type": ["application/json"]});
    let (proxy, heads) = gateway(limits(), "proxy-cache", &config, self::answers());
    let other = GET.replace(" / ", " /other ");
    for (request, length, asked) in [
        (GET, SMALL, 1),
        (GET, SMALL, 0),
        (&other, LARGE, 1),
        (&other, LARGE, 1),
    ] {
        let answer = answer(connect(&proxy), request);
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.len() > length);
        assert_eq!(heads.try_iter().count(), asked, "{request}");
    }
    stop(proxy);
}

#[test]
fn an_answer_that_is_passed_on_leaves_no_room_taken() {
    // The server never comes to the end of it.
    let begun = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n",
        ROOM,
        "x".repeat(ROOM)
    );
    let begun: &str = Box::leak(begun.into_boxed_str());
    let answers = Box::leak(Box::new([begun, begun, begun, OK]));
    let (port, _heads) = upstream(answers);
    let routes = [json!({"paths": ["/"]}), json!({"paths": ["/form"]})];
    let mut records = configuration(port, &json!({}), &routes);
    records.push(record("consumers", 50, json!({"username": "nobody"})));
    let config = json!({"strategy": "memory", "content_type": ["application/json"]});
    records.push(plugin(60, "proxy-cache", &config));
    records.push(plugin(61, "key-auth", &key_in_body()));
    let proxy = start_with(&one_worker(), limits(), records);
    let slow = [(); 3].map(|()| {
        let mut slow = connect(&proxy);
        slow.write_all(GET.as_bytes()).unwrap();
        slow.read_exact(&mut vec![0; ROOM]).unwrap();
        slow
    });
    let form = form(8 * SMALL).replace("POST / ", "POST /form ") + END;
    let served = answer(connect(&proxy), &form);
    assert!(served.starts_with("HTTP/1.1 200 "), "{served}");
    drop(slow);
    stop(proxy);
}

const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection on which a head has begun, and its second half.
fn begun(proxy: &Proxy) -> (TcpStream, Vec<u8>) {
    let mut stream = begin(proxy);
    stream.write_all(&frame(4, 0, 0, &[])).unwrap();
    assert!(next(&mut stream).is_some(), "it is served");
    let fields = sound();
    let (first, second) = fields.split_at(fields.len() / 2);
    stream
        .write_all(&frame(HEADERS, END_STREAM, 1, first))
        .unwrap();
    (stream, frame(CONTINUATION, END_HEADERS, 1, second))
}

/// Whether the request on `stream` is answered, of which `rest` was missing.
fn is_answered(stream: &mut TcpStream, rest: &[u8]) -> bool {
    let _ = stream.write_all(rest);
    loop {
        match next(stream) {
            Some((HEADERS, 1, _)) => return true,
            Some(_) => {}
            None => return false,
        }
    }
}

/// Which request on `stream` is the last that is served, as the other side takes its leave (RFC 9113 §6.8).
fn last_served(stream: &mut TcpStream) -> Option<[u8; 4]> {
    loop {
        if let (GOAWAY, 0, payload) = next(stream)? {
            return payload.first_chunk().copied();
        }
    }
}

/// Whether the other side ends `stream`, rather than waits for more of it.
fn has_ended(stream: &mut TcpStream) -> bool {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn over_http_2_there_is_room_for_so_many_unfinished_heads() {
    let (port, _heads) = upstream(&[OK]);
    let records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    let proxy = start_with(&one_worker(), limits(), records);
    let (mut first, rest) = begun(&proxy);
    let (mut second, _) = begun(&proxy);
    let served = last_served(&mut second);
    assert_eq!(served, Some([0; 4]), "there is no room for two");
    // That of a head that has all its frames but not the whole of the last counts until that is there.
    let (most, last) = rest.split_at(rest.len() - 1);
    first.write_all(most).unwrap();
    let (mut third, _) = begun(&proxy);
    assert_eq!(last_served(&mut third), Some([0; 4]));
    // One that comes at once needs none, whatever else has begun to come behind it.
    let mut at_once = begin(&proxy);
    assert!(next(&mut at_once).is_some());
    let fields = sound();
    let (begins, ends) = fields.split_at(5);
    let frames = [
        frame(HEADERS, END_STREAM, 1, begins),
        frame(CONTINUATION, END_HEADERS, 1, ends),
        vec![0],
    ];
    assert!(is_answered(&mut at_once, &frames.concat()));
    assert!(is_answered(&mut first, last));
    let (mut fourth, rest) = begun(&proxy);
    assert!(is_answered(&mut fourth, &rest), "there is room again");
    stop(proxy);
}

/// A connection to `proxy` with a request that has `arrived` at its server, and a head behind it for which there is no room; and what
/// has the server answer.
fn crowded(proxy: &Proxy, arrived: &Receiver<Sender<()>>) -> (TcpStream, Sender<()>) {
    let mut shared = begin(proxy);
    let whole = frame(HEADERS, END_STREAM | END_HEADERS, 1, &sound());
    shared.write_all(&whole).unwrap();
    let go = arrived.recv_timeout(PATIENCE).unwrap();
    let fields = sound();
    let (begins, ends) = fields.split_at(5);
    // What comes of it in one piece, and later, is not kept.
    let many = [
        frame(HEADERS, END_STREAM, 3, begins),
        frame(CONTINUATION, 0, 3, ends),
    ];
    shared.write_all(&many.concat()).unwrap();
    assert_eq!(last_served(&mut shared), Some([0, 0, 0, 1]));
    (shared, go)
}

#[test]
fn over_http_2_what_is_under_way_ends_beside_a_head_without_room() {
    let (port, arrived) = patient_server();
    let records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    let proxy = start_with(&one_worker(), limits(), records);
    let (mut first, rest) = begun(&proxy);
    let (mut shared, go) = crowded(&proxy, &arrived);
    let end = frame(CONTINUATION, END_HEADERS, 3, &[]);
    shared.write_all(&end).unwrap();
    go.send(()).unwrap();
    assert!(is_answered(&mut shared, &[]));
    assert!(arrived.try_recv().is_err(), "the other was served");
    drop(shared);
    let served = std::thread::spawn(move || {
        arrived.recv_timeout(PATIENCE).unwrap().send(()).unwrap();
    });
    assert!(is_answered(&mut first, &rest));
    served.join().unwrap();
    stop(proxy);
}

#[test]
fn over_http_2_a_node_that_stops_names_no_other_request_the_last() {
    let (port, arrived) = patient_server();
    let records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    let patient = Settings {
        drain_timeout_ms: 60_000,
        ..one_worker()
    };
    let proxy = start_with(&patient, limits(), records);
    let (unfinished, _) = begun(&proxy);
    let (mut shared, go) = crowded(&proxy, &arrived);
    let address = proxy.addresses().proxy.unwrap();
    let stopping = std::thread::spawn(move || stop(proxy));
    eventually("it takes nothing new", || {
        TcpStream::connect(address).is_err()
    });
    go.send(()).unwrap();
    let mut told = std::iter::from_fn(|| next(&mut shared)).map(|(kind, ..)| kind);
    let first = told.find(|kind| matches!(*kind, HEADERS | GOAWAY));
    assert_eq!(first, Some(HEADERS));
    drop((unfinished, shared));
    stopping.join().unwrap();
}

#[test]
fn a_greeting_of_tls_may_be_long_and_not_longer() {
    let (port, _heads) = upstream(&[OK]);
    let records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    let proxy = start_with(&one_worker(), limits(), records);
    let connect = || {
        let stream = TcpStream::connect(proxy.addresses().proxy_tls.unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let many = (0..60).map(|number| vec![number; 200]);
    client.alpn_protocols = many.chain([b"http/1.1".to_vec()]).collect();
    let name = ServerName::try_from("a.test").unwrap();
    let mut session = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut tcp = connect();
    // It comes to be shown a certificate, in which it does not believe.
    let answered = session.complete_io(&mut tcp).unwrap_err().to_string();
    assert!(answered.contains("certificate"), "{answered}");

    // Records of a message that is announced with 60,000 bytes.
    let mut greeting = vec![1, 0, 0xea, 0x60, 3, 3];
    greeting.resize(24_000, b'x');
    let mut tcp = connect();
    for part in greeting.chunks(8_000) {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        let record = [&[22, 3, 1], &length[..], part].concat();
        let _ = tcp.write_all(&record);
    }
    assert!(has_ended(&mut tcp), "it is still listened to");
    stop(proxy);
}
