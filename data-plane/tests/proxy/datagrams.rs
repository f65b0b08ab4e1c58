//! UDP: datagrams both ways, in a session for each client.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use data_plane::limits::Limits;
use data_plane::settings::Settings;
use serde_json::{Value, json};
use shared::snapshot::Record;
use uuid::Uuid;

use crate::gateway::{PATIENCE, ask, record, settings, start_with, stop};

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends back what it gets, with its name and what it calls the sender before it.
fn echo(name: &'static str) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, source)) = socket.recv_from(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            let answer = format!("{name} {} {text}", source.port());
            socket.send_to(answer.as_bytes(), source).unwrap();
        }
    });
    port
}

fn service(number: u128, fields: &Value) -> Record {
    let mut all = json!({"host": "127.0.0.1", "protocol": "udp"});
    let object = all.as_object_mut().unwrap();
    object.extend(fields.as_object().unwrap().clone());
    record("services", number, all)
}

fn route(number: u128, service: u128, protocol: &str, source: &str) -> Record {
    let service = json!({"id": Uuid::from_u128(service)});
    let sources = json!([{"ip": source}]);
    let fields = json!({"protocols": [protocol], "service": service, "sources": sources});
    record("routes", number, fields)
}

/// What `client` hears from the gateway at `address` when it says `text`.
fn converse(client: &UdpSocket, address: SocketAddr, text: &str) -> String {
    client.send_to(text.as_bytes(), address).unwrap();
    let mut buffer = [0; 2048];
    let (length, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(from, address);
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[test]
fn datagrams_go_to_the_service_of_their_route_and_back() {
    let (one, two) = (echo("one"), echo("two"));
    let settings = Settings {
        stream_listen: vec!["127.0.0.1:0 udp".parse().unwrap()],
        ..settings()
    };
    let upstream = record("upstreams", 5, json!({"name": "pair"}));
    let target = json!({
        "target": format!("127.0.0.1:{two}"), "weight": 100, "upstream": {"id": Uuid::from_u128(5)},
    });
    let records = vec![
        service(1, &json!({"port": one})),
        service(2, &json!({"host": "pair", "port": 1})),
        // A route of TCP is none of UDP.
        route(3, 1, "tcp", "127.0.0.1"),
        route(4, 2, "udp", "127.0.0.0/8"),
        upstream,
        record("targets", 6, target),
    ];
    let proxy = start_with(&settings, Limits::default(), records);
    let address = proxy.addresses().stream[0];
    let (client, other) = (socket(), socket());
    let words = |answer: String| {
        let words: Vec<String> = answer.split(' ').map(str::to_owned).collect();
        (words[0].clone(), words[1].clone(), words[2].clone())
    };
    let first = words(converse(&client, address, "a"));
    assert_eq!((first.0.as_str(), first.2.as_str()), ("two", "a"));
    let again = words(converse(&client, address, "b"));
    assert_eq!(
        (again.1, again.2.as_str()),
        (first.1.clone(), "b"),
        "one session"
    );
    let others = words(converse(&other, address, "c"));
    assert!(others.1 != first.1 && others.2 == "c", "another session");
    stop(proxy);
}

#[test]
fn whoever_sends_datagrams_in_the_name_of_an_address_takes_no_connection_from_it() {
    let settings = Settings {
        stream_listen: vec!["127.0.0.1:0 udp".parse().unwrap()],
        ..settings()
    };
    let limits = Limits {
        connections_per_address: 1,
        ..Limits::default()
    };
    let records = vec![
        service(1, &json!({"port": echo("one")})),
        route(2, 1, "udp", "127.0.0.1"),
    ];
    let proxy = start_with(&settings, limits, records);
    let address = proxy.addresses().stream[0];
    let client = socket();
    assert!(converse(&client, address, "a").starts_with("one "));
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = ask(&proxy, request);
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    stop(proxy);
}

#[test]
fn a_session_ends_with_the_silence_of_both_sides() {
    let port = echo("one");
    let settings = Settings {
        stream_listen: vec!["127.0.0.1:0 udp".parse().unwrap()],
        ..settings()
    };
    let records = vec![
        service(1, &json!({"port": port, "read_timeout": 50})),
        route(2, 1, "udp", "127.0.0.1"),
    ];
    let proxy = start_with(&settings, Limits::default(), records);
    let address = proxy.addresses().stream[0];
    let client = socket();
    let mut ports = std::collections::HashSet::new();
    // With a session that ends after so short a time, another port is used once nobody has said anything for
    // longer. An answer that comes later than that is lost, as it may be.
    client
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    for _ in 0..500 {
        client.send_to(b"a", address).unwrap();
        let mut buffer = [0; 64];
        if let Ok(length) = client.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            ports.insert(text.split(' ').nth(1).unwrap().to_owned());
        }
        if ports.len() > 1 {
            break;
        }
        while client.recv(&mut buffer).is_ok() {}
    }
    assert!(ports.len() > 1);
    stop(proxy);
}
