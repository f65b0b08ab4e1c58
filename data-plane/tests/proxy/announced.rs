//! The PROXY protocol: who a client is, by the word of a proxy that passes its bytes on; and ports that lead to ours.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use data_plane::limits::Limits;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use serde_json::json;
use uuid::Uuid;

use crate::gateway::{
    OK, PATIENCE, ask, configuration, connect, record, settings, start_with, stop, upstream,
};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\r\n";

/// A header of version 2 for a connection over IPv4, with one more piece that nobody knows.
fn version_2(command: u8) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, 0x11, 0, 16]);
    bytes.extend([192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80]);
    bytes.extend([0xe0, 0, 1, 7]);
    bytes
}

/// Settings whose listener for HTTP takes headers.
fn announced(trusted: &str, real_ip_header: &str) -> Settings {
    Settings {
        proxy_listen: vec!["127.0.0.1:0 proxy_protocol".parse().unwrap()],
        trusted_ips: vec![trusted.parse().unwrap()],
        real_ip_header: real_ip_header.to_owned(),
        ..settings()
    }
}

fn close_after(stream: &mut TcpStream, sent: &[u8]) -> String {
    // Whoever is closed at once may hear of it before all is sent.
    let _ = stream.write_all(sent);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines();
    lines.find_map(|line| {
        let (own, value) = line.split_once(": ")?;
        own.eq_ignore_ascii_case(name).then_some(value)
    })
}

#[test]
fn a_trusted_proxy_says_first_who_the_client_is() {
    let fields = "Host: a\r\nX-Forwarded-For: 10.9.9.9\r\nX-Real-IP: 10.9.9.9\r\n";
    let with_fields = REQUEST.replacen("Host: a\r\n", fields, 1);
    let with_fields = with_fields.as_str();
    let (local, proxy_line) = ("127.0.0.1", "proxy_protocol");
    let unknown = b"PROXY UNKNOWN\r\n".to_vec();
    for (trusted, real, header, request, client, chain) in [
        (
            local,
            proxy_line,
            LINE.to_vec(),
            REQUEST,
            "192.0.2.1",
            "192.0.2.1",
        ),
        (
            local,
            proxy_line,
            version_2(0x21),
            REQUEST,
            "192.0.2.1",
            "192.0.2.1",
        ),
        (local, proxy_line, version_2(0x20), REQUEST, local, local),
        (local, proxy_line, unknown, REQUEST, local, local),
        // Fields of the request say nothing then of who asks.
        (
            local,
            proxy_line,
            LINE.to_vec(),
            with_fields,
            "192.0.2.1",
            "10.9.9.9, 127.0.0.1",
        ),
        (
            local,
            "X-Real-IP",
            LINE.to_vec(),
            with_fields,
            "10.9.9.9",
            "10.9.9.9, 127.0.0.1",
        ),
        (local, "X-Real-IP", LINE.to_vec(), REQUEST, local, local),
        // Nobody else is believed.
        (
            "10.0.0.0/8",
            proxy_line,
            LINE.to_vec(),
            REQUEST,
            local,
            local,
        ),
    ] {
        let (port, heads) = upstream(&[OK]);
        let records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
        let proxy = start_with(&announced(trusted, real), Limits::default(), records);
        let sent = [&header[..], request.as_bytes()].concat();
        let answer = close_after(&mut connect(&proxy), &sent);
        let case = format!("{trusted} {real} {:?}", String::from_utf8_lossy(&header));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{case} {answer}");
        let head = heads.recv().unwrap();
        assert_eq!(field(&head, "x-real-ip"), Some(client), "{case}");
        assert_eq!(field(&head, "x-forwarded-for"), Some(chain), "{case}");
        stop(proxy);
    }
}

#[test]
fn a_header_may_come_in_pieces_and_one_must_come() {
    let (port, heads) = upstream(&[OK]);
    let records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    let brief = Limits {
        handshake: Duration::from_millis(300),
        ..Limits::default()
    };
    let settings = announced("127.0.0.1", "proxy_protocol");
    let proxy = start_with(&settings, Limits::default(), records.clone());
    for header in [LINE.to_vec(), version_2(0x21)] {
        let mut stream = connect(&proxy);
        stream.set_nodelay(true).unwrap();
        for byte in header {
            stream.write_all(&[byte]).unwrap();
        }
        let kept = REQUEST.replace("Connection: close\r\n", "");
        let answer = close_after(&mut stream, format!("{kept}{REQUEST}").as_bytes());
        assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
        for _ in 0..2 {
            let head = heads.recv().unwrap();
            assert_eq!(field(&head, "x-real-ip"), Some("192.0.2.1"));
        }
    }
    stop(proxy);
    let proxy = start_with(&settings, brief, records);
    for sent in [
        REQUEST.as_bytes(),
        b"PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PROXY TCP4 192.0.2.1",
        b"",
    ] {
        let answer = close_after(&mut connect(&proxy), sent);
        assert_eq!(answer, "", "{:?}", String::from_utf8_lossy(sent));
    }
    assert!(heads.try_recv().is_err());
    stop(proxy);
}

#[test]
fn streams_are_routed_by_where_their_proxy_says_that_they_come_from() {
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = echo.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in echo.incoming() {
            let mut stream = stream.unwrap();
            let mut said = [0; 4];
            stream.read_exact(&mut said).unwrap();
            stream.write_all(&said).unwrap();
        }
    });
    let settings = Settings {
        stream_listen: vec!["127.0.0.1:0 proxy_protocol".parse().unwrap()],
        trusted_ips: vec!["127.0.0.1".parse().unwrap()],
        real_ip_header: "proxy_protocol".to_owned(),
        ..settings()
    };
    let service = json!({"host": "127.0.0.1", "port": port, "protocol": "tcp"});
    let route = json!({
        "protocols": ["tcp"], "service": {"id": Uuid::from_u128(1)},
        "sources": [{"ip": "192.0.2.1", "port": 4660}],
    });
    let records = vec![record("services", 1, service), record("routes", 2, route)];
    let proxy = start_with(&settings, Limits::default(), records);
    let address = proxy.addresses().stream[0];
    let converse = |header: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        close_after(&mut stream, &[header, b"ping"].concat())
    };
    assert_eq!(converse(LINE), "ping");
    assert_eq!(converse(b"PROXY TCP4 192.0.2.2 10.0.0.1 4660 80\r\n"), "");
    assert_eq!(converse(b"PROXY UNKNOWN\r\n"), "");
    stop(proxy);
}

#[test]
fn upstreams_hear_of_the_port_that_leads_here() {
    let (port, heads) = upstream(&[OK]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address: SocketAddr = free.local_addr().unwrap();
    drop(free);
    let settings = Settings {
        proxy_listen: vec![address.into()],
        port_maps: vec![format!("80:{}", address.port()).parse().unwrap()],
        ..settings()
    };
    let records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    let proxy = start_with(&settings, Limits::default(), records);
    ask(&proxy, REQUEST);
    let head = heads.recv().unwrap();
    assert_eq!(field(&head, "x-forwarded-port"), Some("80"), "{head}");
    stop(proxy);
}

#[test]
fn a_host_is_preserved_as_the_client_has_written_it() {
    let (port, heads) = upstream(&[OK]);
    let settings = Settings {
        trusted_ips: vec!["127.0.0.1".parse().unwrap()],
        ..settings()
    };
    let routes = [json!({"paths": ["/"], "preserve_host": true})];
    let records = configuration(port, &json!({}), &routes);
    let proxy = start_with(&settings, Limits::default(), records);
    let own = format!("127.0.0.1:{port}");
    for (version, fields, expected) in [
        (
            "1.1",
            "Host: App.Example.com:8080\r\n",
            "App.Example.com:8080",
        ),
        (
            "1.1",
            "Host: a\r\nX-Forwarded-Host: b\r\nX-Forwarded-Port: 81\r\n",
            "a",
        ),
        ("1.0", "", own.as_str()),
    ] {
        ask(
            &proxy,
            &format!("GET / HTTP/{version}\r\n{fields}Connection: close\r\n\r\n"),
        );
        let head = heads.recv().unwrap();
        assert_eq!(field(&head, "host"), Some(expected), "{fields}");
    }
    stop(proxy);
}

#[test]
fn a_header_that_nobody_can_send_is_not_waited_for() {
    let settings = Settings {
        real_ip_header: "proxy_protocol".to_owned(),
        ..settings()
    };
    let refused = Proxy::start(&settings, data_plane::live::Live::default()).unwrap_err();
    let said = refused.to_string();
    assert!(
        said.starts_with("real_ip_header: ") && said.contains("proxy_listen"),
        "{said}"
    );
}
