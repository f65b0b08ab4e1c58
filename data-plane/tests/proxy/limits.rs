//! Connections, requests, bodies and memory: at the limit all is well, above it one is refused, below it again.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use data_plane::limits::Limits;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use serde_json::json;
use shared::clock::monotonic;
use shared::machine::resident_bytes;
use socket2::{Domain, Socket, Type};

use crate::downgrade::begin;
use crate::gateway::{
    OK, PATIENCE, ask, configuration, eventually, get_status, plugin, read_until, serve_each,
    settings, start, start_with, stop, upstream,
};
use crate::overload::{UNAVAILABLE, ask_for, patient_server, wait_for};

const KEPT: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// A gateway before a server that answers as long as what it is asked can be received.
fn gateway(limits: Limits, trusted: &[&str]) -> (Proxy, Receiver<String>) {
    let (port, heads) = upstream(&[OK]);
    let settings = Settings {
        trusted_ips: trusted.iter().map(|ip| ip.parse().unwrap()).collect(),
        ..settings()
    };
    let routes = [json!({"paths": ["/"]})];
    let service = json!({"read_timeout": 60_000});
    let proxy = start_with(&settings, limits, configuration(port, &service, &routes));
    (proxy, heads)
}

/// A connection from an address of this machine.
pub(crate) fn connect_from(proxy: &Proxy, address: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from: SocketAddr = format!("{address}:0").parse().unwrap();
    socket.bind(&from.into()).unwrap();
    socket
        .connect(&proxy.addresses().proxy.unwrap().into())
        .unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether a request on `stream` is answered, which is kept open.
fn is_served(stream: &mut TcpStream) -> bool {
    stream.write_all(KEPT.as_bytes()).is_ok()
        && read_until(stream, "\r\n\r\nok").is_some_and(|answer| answer.contains(" 200 "))
}

/// Asks on new connections until one is taken: the end of an old one is noticed in its own time.
fn is_served_at_last(proxy: &Proxy, address: &str) {
    eventually("there is room again", || {
        is_served(&mut connect_from(proxy, address))
    });
}

#[test]
fn as_many_connections_are_taken_as_may_be_and_no_more() {
    let limits = Limits {
        connections: 3,
        ..Limits::default()
    };
    let (proxy, _heads) = gateway(limits, &[]);
    let mut open: Vec<_> = (1..=3)
        .map(|last| connect_from(&proxy, &format!("127.0.0.{last}")))
        .collect();
    assert!(open.iter_mut().all(is_served));
    assert!(!is_served(&mut connect_from(&proxy, "127.0.0.4")));
    assert!(open.iter_mut().all(is_served), "who is there stays");
    open.pop();
    is_served_at_last(&proxy, "127.0.0.4");
    stop(proxy);
}

#[test]
fn one_address_cannot_take_all_connections() {
    let limits = Limits {
        connections_per_address: 2,
        ..Limits::default()
    };
    let (proxy, _heads) = gateway(limits, &["127.0.0.9"]);
    let mut open: Vec<_> = (0..2).map(|_| connect_from(&proxy, "127.0.0.1")).collect();
    assert!(open.iter_mut().all(is_served));
    assert!(!is_served(&mut connect_from(&proxy, "127.0.0.1")));
    let mut others: Vec<_> = (0..2).map(|_| connect_from(&proxy, "127.0.0.2")).collect();
    assert!(others.iter_mut().all(is_served));
    // Behind a trusted proxy are many clients.
    let mut many: Vec<_> = (0..5).map(|_| connect_from(&proxy, "127.0.0.9")).collect();
    assert!(many.iter_mut().all(is_served));
    open.pop();
    is_served_at_last(&proxy, "127.0.0.1");
    let metrics = get_status(&proxy, "/metrics");
    let count = |state: &str| -> u64 {
        let end = format!(",subsystem=\"http\",state=\"{state}\"}} ");
        let mut lines = metrics.lines();
        let line = lines.find_map(|line| {
            let rest = line.strip_prefix("kong_nginx_connections_total{node_id=\"")?;
            Some(rest.split_once(&end)?.1)
        });
        line.unwrap().parse().unwrap()
    };
    assert!(count("accepted") > count("handled"), "{metrics}");
    stop(proxy);
}

#[test]
fn a_process_that_has_almost_no_memory_left_takes_no_work() {
    let with = |memory| {
        let limits = Limits {
            memory: Some(memory),
            ..Limits::default()
        };
        gateway(limits, &[])
    };
    let (roomy, _heads) = with(u64::MAX);
    assert!(ask(&roomy, LAST).starts_with("HTTP/1.1 200 "));
    stop(roomy);
    let (full, _heads) = with(1);
    // It is weighed a moment after the start.
    eventually("connections are closed as they come", || {
        let mut stream = connect_from(&full, "127.0.0.1");
        let mut answer = String::new();
        let sent = stream.write_all(LAST.as_bytes());
        sent.is_err() || stream.read_to_string(&mut answer).is_err() || answer.is_empty()
    });
    assert!(get_status(&full, "/status").starts_with("HTTP/1.1 200 "));
    stop(full);
}

/// The last quarter of what a server may have under way is for those who have little of it, by both versions of HTTP.
#[test]
fn one_address_cannot_have_all_of_a_server() {
    let (port, arrived) = patient_server();
    let limits = Limits {
        upstream_in_flight: 32,
        ..Limits::default()
    };
    let one_worker = Settings {
        workers: 1,
        trusted_ips: vec!["127.0.0.9".parse().unwrap()],
        ..settings()
    };
    let routes = [json!({"paths": ["/"]})];
    let service = json!({"read_timeout": 60_000, "retries": 0});
    let proxy = start_with(&one_worker, limits, configuration(port, &service, &routes));
    let mut held = Vec::new();
    let mut is_taken = |address: &str| {
        let mut stream = connect_from(&proxy, address);
        stream.write_all(LAST.as_bytes()).unwrap();
        // It is refused, or arrives at the server.
        stream
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        let (mut answer, begun) = ([0; 12], monotonic());
        loop {
            if let Ok(go) = arrived.try_recv() {
                held.push((stream, go));
                return true;
            }
            match stream.read_exact(&mut answer) {
                Ok(()) => {
                    assert_eq!(&answer, b"HTTP/1.1 503");
                    return false;
                }
                Err(error) => {
                    let waits = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                    assert!(waits && begun.elapsed() < PATIENCE, "{address}: {error}");
                }
            }
        }
    };
    let taken = (0..32).take_while(|_| is_taken("127.0.0.1")).count();
    // A core takes four at a time.
    assert!((20..=26).contains(&taken), "{taken}");
    assert!(
        is_taken("127.0.0.2") && is_taken("127.0.0.2"),
        "others have room"
    );
    assert!(!is_taken("127.0.0.2"), "each a little");
    assert!(!is_taken("127.0.0.1"));
    // A trusted proxy speaks for many.
    while is_taken("127.0.0.9") {}
    assert_eq!(held.len(), 32);
    // `begin` is from the first address.
    let mut stream = begin(&proxy);
    ask_for(&mut stream, 1, "/");
    let refused = wait_for(&mut stream, 1, 1);
    assert!(refused.starts_with(&UNAVAILABLE), "{refused:x?}");
    drop((held, stream));
    stop(proxy);
}

#[test]
fn while_memory_is_gone_nothing_is_begun_and_what_was_is_finished() {
    const ROOM: u64 = 400 * 1024 * 1024;
    const MORE: usize = 700 * 1024 * 1024;
    let (port, arrived) = patient_server();
    let limits = Limits {
        memory: Some(resident_bytes() + ROOM),
        ..Limits::default()
    };
    let routes = [json!({"paths": ["/"]})];
    let records = configuration(port, &json!({"read_timeout": 60_000}), &routes);
    let proxy = start_with(&settings(), limits, records);
    let mut stream = begin(&proxy);
    ask_for(&mut stream, 1, "/");
    let waiting = arrived.recv_timeout(PATIENCE).unwrap();
    let taken = vec![1_u8; MORE];
    eventually("connections are closed as they come", || {
        let mut other = connect_from(&proxy, "127.0.0.1");
        let mut answer = String::new();
        let _ = other.write_all(b"GET /%00 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let _ = other.read_to_string(&mut answer);
        answer.is_empty()
    });
    ask_for(&mut stream, 3, "/");
    let head = wait_for(&mut stream, 1, 3);
    assert!(head.starts_with(&UNAVAILABLE), "{head:x?}");
    waiting.send(()).unwrap();
    let head = wait_for(&mut stream, 1, 1);
    assert_eq!(head.first(), Some(&0x88), "{head:x?}");
    assert!(taken.iter().step_by(1 << 20).all(|byte| *byte == 1));
    drop((taken, stream));
    eventually("there is room again", || {
        let mut other = connect_from(&proxy, "127.0.0.1");
        other.write_all(LAST.as_bytes()).is_ok()
            && arrived
                .recv_timeout(Duration::from_secs(1))
                .is_ok_and(|go| go.send(()).is_ok())
    });
    let mut stream = begin(&proxy);
    ask_for(&mut stream, 1, "/");
    arrived.recv_timeout(PATIENCE).unwrap().send(()).unwrap();
    assert_eq!(wait_for(&mut stream, 1, 1).first(), Some(&0x88));
    drop(stream);
    stop(proxy);
}

/// A JSON object of so many bytes.
fn object(length: usize) -> String {
    let around = r#"{"x":""}"#.len();
    format!(r#"{{"x":"{}"}}"#, "y".repeat(length - around))
}

/// A server that tells how much of a body came to it, in an object as long as the path says.
fn counting_server() -> u16 {
    serve_each(|mut stream| {
        while let Some(head) = read_until(&mut stream, "\r\n\r\n") {
            let field = |name: &str| {
                let mut lines = head.lines();
                let line = lines.find(|line| line.to_ascii_lowercase().starts_with(name));
                line.and_then(|line| line[name.len()..].trim().parse().ok())
            };
            let mut body = vec![0; field("content-length:").unwrap_or(0)];
            stream.read_exact(&mut body).unwrap();
            let length = head.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Came: {}\r\nContent-Length: {length}\r\n\r\n{}",
                body.len(),
                object(length)
            );
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// What is longer is refused, on either way: a field that is to be changed may be in it.
#[test]
fn plugins_look_into_bodies_up_to_a_length() {
    const REQUEST: usize = 8 * 1024 * 1024;
    const ANSWER: usize = 32 * 1024 * 1024;
    let port = counting_server();
    let mut records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    let field = json!({"add": {"body": ["a:1"]}});
    records.push(plugin(200, "request-transformer", &field));
    let field = json!({"add": {"json": ["a:1"]}});
    records.push(plugin(201, "response-transformer", &field));
    let proxy = start(records);
    let added = r#","a":"1""#.len();
    for (sent, is_read) in [(REQUEST - 1, true), (REQUEST, true), (REQUEST + 1, false)] {
        let head = format!(
            "POST /100 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {sent}\r\n\r\n"
        );
        let answer = ask(&proxy, &(head + &object(sent)));
        let status = if is_read {
            "HTTP/1.1 200 "
        } else {
            "HTTP/1.1 413 "
        };
        assert!(answer.starts_with(status), "{sent} {answer}");
        let told = format!("x-came: {}\r\n", sent + added);
        assert_eq!(
            answer.to_ascii_lowercase().contains(&told),
            is_read,
            "{answer}"
        );
    }
    for (length, status) in [(ANSWER - 1, 200), (ANSWER, 200), (ANSWER + 1, 502)] {
        let request = format!("GET /{length} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let answer = ask(&proxy, &request);
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{length} {answer:.300}");
        assert_eq!(answer.ends_with(r#","a":"1"}"#), status == 200, "{length}");
    }
    stop(proxy);
}
