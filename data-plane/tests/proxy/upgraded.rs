//! A WebSocket is one exchange: logged, counted and under way until it ends, whatever ends it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::Duration;

use data_plane::limits::Limits;
use data_plane::settings::Settings;
use serde_json::{Value, json};
use shared::clock::monotonic;
use uuid::Uuid;

use crate::gateway::{
    PATIENCE, ask, configuration, connect, counted, eventually, get_status, plugin, read_until,
    record, serve_each, settings, start_with, stop,
};
use crate::waits::{endless_answer, with_little_room};

const HANDSHAKE: &str =
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// What the server sends right behind its head, and for each line, and what makes it leave.
const GREETING: usize = 5;
const ANSWER: usize = 70_000;
const LEAVE: &str = "leave\n";

/// A server that switches protocols, or says `ok` to who does not ask for that.
fn server() -> u16 {
    serve_each(|mut stream| {
        while let Some(head) = read_until(&mut stream, "\r\n\r\n") {
            if head.to_ascii_lowercase().contains("upgrade: websocket") {
                return speak(stream);
            }
            let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if stream.write_all(ok).is_err() {
                return;
            }
        }
    })
}

fn speak(mut stream: TcpStream) {
    let head =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let greeting = "g".repeat(GREETING);
    stream
        .write_all(format!("{head}{greeting}").as_bytes())
        .unwrap();
    while let Some(line) = read_until(&mut stream, "\n") {
        if line == LEAVE || stream.write_all(&vec![b'a'; ANSWER]).is_err() {
            return;
        }
    }
}

/// The lines of a log once there are `count`.
pub(crate) fn lines(log: &Path, count: usize) -> Vec<Value> {
    let begun = monotonic();
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let whole = text.ends_with('\n') || text.is_empty();
        let lines: Vec<Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        if whole && lines.len() >= count {
            return lines;
        }
        assert!(begun.elapsed() < PATIENCE, "{text}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Opens a WebSocket, sends two lines and reads what comes; answers with the length of the answer's head as well.
fn open(mut stream: TcpStream) -> (TcpStream, usize) {
    stream.write_all(HANDSHAKE.as_bytes()).unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream.write_all(b"one\ntwo\n").unwrap();
    let mut all = vec![0; GREETING + 2 * ANSWER];
    stream.read_exact(&mut all).unwrap();
    (stream, head.len())
}

#[test]
fn a_client_may_take_nothing_for_as_long_as_its_service_says() {
    let limits = Limits {
        vanished: Duration::from_secs(2),
        ..Limits::default()
    };
    let service = json!({"read_timeout": 600_000});
    let mut records = configuration(server(), &service, &[json!({"paths": ["/ws"]})]);
    let (endless, ended) = endless_answer();
    records.extend([
        record(
            "services",
            101,
            json!({"host": "127.0.0.1", "port": endless}),
        ),
        record(
            "routes",
            102,
            json!({"paths": ["/"], "service": {"id": Uuid::from_u128(101)}}),
        ),
    ]);
    let proxy = start_with(&settings(), limits, records);
    let (mut stream, _) = open(connect(&proxy));
    // More than the systems in between take.
    let lines = 300;
    stream.write_all("x\n".repeat(lines).as_bytes()).unwrap();
    // It goes on for longer than a client without a WebSocket that takes nothing.
    let idle = with_little_room(&proxy);
    ended.recv_timeout(PATIENCE).unwrap();
    drop(idle);
    let mut all = vec![0; lines * ANSWER];
    stream.read_exact(&mut all).unwrap();
    stop(proxy);
}

#[derive(Clone, Copy, Debug)]
enum End {
    Client,
    Server,
    Silence,
    Node,
}

#[test]
fn a_websocket_is_told_of_once_it_has_ended_whatever_ends_it() {
    for end in [End::Client, End::Server, End::Silence, End::Node] {
        let directory = tempfile::tempdir().unwrap();
        let [access, told] = ["access.log", "told.log"].map(|name| directory.path().join(name));
        let settings = Settings {
            access_log: access.to_str().unwrap().to_owned(),
            drain_timeout_ms: 300,
            ..settings()
        };
        let read_timeout = if matches!(end, End::Silence) {
            1_500
        } else {
            60_000
        };
        let mut records = configuration(
            server(),
            &json!({"name": "chat", "read_timeout": read_timeout}),
            &[
                json!({"name": "ws", "paths": ["/ws"]}),
                json!({"name": "plain", "paths": ["/plain"]}),
            ],
        );
        records.push(counted());
        records.push(plugin(
            200,
            "file-log",
            &json!({"path": told.to_str().unwrap()}),
        ));
        let proxy = start_with(&settings, Limits::default(), records);
        let (mut stream, head) = open(connect(&proxy));
        let begun = monotonic();
        if !matches!(end, End::Silence) {
            // What is over meanwhile is told of, and the WebSocket is not.
            let plain = "GET /plain HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            assert!(ask(&proxy, plain).starts_with("HTTP/1.1 200 "));
            assert_eq!(lines(&told, 1)[0]["route"]["name"], "plain", "{end:?}");
            assert_eq!(lines(&access, 1)[0]["path"], "/plain", "{end:?}");
            let metrics = get_status(&proxy, "/metrics");
            assert!(!metrics.contains("route=\"ws\""), "{metrics}");
        }
        let mut received = "one\ntwo\n".len();
        let lasted = begun.elapsed();
        match end {
            End::Client => stream.shutdown(Shutdown::Both).unwrap(),
            End::Server => {
                stream.write_all(LEAVE.as_bytes()).unwrap();
                received += LEAVE.len();
                drop(stream);
            }
            End::Silence => assert!(read_until(&mut stream, "\n").is_none()),
            End::Node => {}
        }
        let find = |log: &Path, is_it: fn(&Value) -> bool| {
            let count = if matches!(end, End::Silence) { 1 } else { 2 };
            lines(log, count).into_iter().find(is_it).unwrap()
        };
        let is_told = |told: &Value| told["route"]["name"] == "ws";
        if !matches!(end, End::Node) {
            find(&told, is_told);
            let metrics = get_status(&proxy, "/metrics");
            for (direction, bytes) in [
                ("ingress", HANDSHAKE.len() + received),
                ("egress", head + GREETING + 2 * ANSWER),
            ] {
                let line = format!(
                    r#"kong_bandwidth_bytes{{service="chat",route="ws",direction="{direction}",workspace="default",consumer=""}} {bytes}"#
                );
                assert!(metrics.contains(&line), "{end:?}: {line}\n{metrics}");
            }
        }
        stop(proxy);
        let record = find(&told, is_told);
        assert_eq!(record["response"]["status"], 101, "{end:?}");
        assert_eq!(
            record["request"]["size"],
            HANDSHAKE.len() + received,
            "{end:?}"
        );
        assert_eq!(
            record["response"]["size"],
            head + GREETING + 2 * ANSWER,
            "{end:?}"
        );
        let whole = u128::from(record["latencies"]["request"].as_u64().unwrap());
        assert!(whole + 1 >= lasted.as_millis(), "{end:?}: {record}");
        let line = find(&access, |line| line["path"] == "/ws");
        assert_eq!(line["bytes_received"], received, "{end:?}");
        assert_eq!(line["bytes_sent"], GREETING + 2 * ANSWER, "{end:?}");
        assert_eq!(line["status"], 101, "{end:?}");
    }
}

#[test]
fn a_websocket_is_a_request_under_way_until_it_ends() {
    let one = Settings {
        workers: 1,
        ..settings()
    };
    let limits = Limits {
        in_flight: 1,
        ..Limits::default()
    };
    let records = configuration(server(), &json!({}), &[json!({"paths": ["/"]})]);
    let proxy = start_with(&one, limits, records);
    let plain = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert!(ask(&proxy, plain).starts_with("HTTP/1.1 200 "));
    let (stream, _) = open(connect(&proxy));
    assert!(ask(&proxy, plain).starts_with("HTTP/1.1 503 "));
    drop(stream);
    eventually("there is room again", || {
        ask(&proxy, plain).starts_with("HTTP/1.1 200 ")
    });
    stop(proxy);
}
