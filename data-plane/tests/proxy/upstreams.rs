//! What upstream servers do wrong, and what the client hears of it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use data_plane::limits::Limits;
use data_plane::settings::Settings;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, Stream};
use serde_json::{Value, json};

use crate::gateway::{
    OK, PATIENCE, ask, closed_port, configuration, connect, read_until, serve_each, settings,
    start, start_with, stop, upstream,
};

const REQUEST: &str =
    "GET / HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\nConnection: close\r\n\r\n";

/// TLS with a certificate of the server's own making.
pub(crate) fn own_tls() -> Arc<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["other.test".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(shared::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    Arc::new(config)
}

/// A server that speaks TLS.
fn tls_upstream() -> u16 {
    let config = own_tls();
    serve_each(move |mut tcp| {
        let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut stream = Stream::new(&mut tls, &mut tcp);
        if read_until(&mut stream, "\r\n\r\n").is_some() {
            stream.write_all(OK.as_bytes()).unwrap();
        }
    })
}

#[test]
fn a_certificate_is_checked_if_the_service_says_so() {
    let port = tls_upstream();
    for (verify, expected) in [
        (json!(true), "502"),
        (json!(false), "200"),
        (Value::Null, "200"),
    ] {
        let service = json!({"protocol": "https", "tls_verify": verify, "retries": 0, "read_timeout": 60_000});
        let proxy = start(configuration(port, &service, &[json!({"paths": ["/"]})]));
        let answer = ask(&proxy, REQUEST);
        assert_eq!(
            answer.split(' ').nth(1),
            Some(expected),
            "{verify} {answer}"
        );
        assert!(
            !answer.contains("certificate"),
            "the client learns nothing of the inside: {answer}"
        );
        stop(proxy);
    }
}

#[test]
fn failures_have_kongs_status_and_body() {
    let check = |port, service: Value, status: &str, message: &str| {
        let proxy = start(configuration(port, &service, &[json!({"paths": ["/"]})]));
        let answer = ask(&proxy, REQUEST);
        assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
        let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(body["message"], message, "{answer}");
        let id = body["request_id"].as_str().unwrap();
        assert_eq!(id.len(), 32);
        assert!(
            answer.contains(&format!("x-kong-request-id: {id}\r\n")),
            "{answer}"
        );
        assert!(
            answer.contains("x-kong-upstream-latency: ") && answer.contains("server: kong/"),
            "{answer}"
        );
        stop(proxy);
    };
    let invalid = "An invalid response was received from the upstream server";
    let late = "The upstream server is timing out";
    check(closed_port(), json!({}), "502", invalid);
    let brief = json!({"read_timeout": 300});
    check(upstream(&["HTTP/1.1 "]).0, brief, "504", late);
    for answer in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nX: y\nZ: y\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ] {
        let answers: &'static [&'static str] = Box::leak(Box::new([answer]));
        check(upstream(answers).0, json!({"retries": 0}), "502", invalid);
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    check(
        port,
        json!({"read_timeout": 200, "retries": 0}),
        "504",
        late,
    );
    let no_such = json!({"host": "no-such-host.invalid", "connect_timeout": 5000});
    check(1, no_such, "503", "name resolution failed");
}

#[test]
fn a_status_is_an_answer_and_a_server_that_takes_nothing_is_late() {
    // No status makes the gateway ask again.
    let unwell = "HTTP/1.1 503 Unwell\r\nContent-Length: 0\r\n\r\n";
    let (port, heads) = upstream(Box::leak(Box::new([unwell, OK])));
    let routes = [json!({"paths": ["/"]})];
    let proxy = start(configuration(port, &json!({"retries": 5}), &routes));
    assert!(ask(&proxy, REQUEST).starts_with("HTTP/1.1 503 "));
    assert_eq!(heads.try_iter().count(), 1);
    stop(proxy);

    // A server that stops to read does not keep the client for ever.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = json!({"write_timeout": 200, "retries": 0});
    let proxy = start(configuration(port, &service, &routes));
    let mut stream = connect(&proxy);
    let mut sender = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        let head = REQUEST.replacen("GET", "POST", 1);
        let length = 1024 * 1024 * 1024;
        let head = head.replacen(
            "\r\n\r\n",
            &format!("\r\nContent-Length: {length}\r\n\r\n"),
            1,
        );
        let _ = sender.write_all(head.as_bytes());
        // Until the gateway does not take more.
        while sender.write_all(&[b'x'; 8 * 1024]).is_ok() {}
    });
    let line = read_until(&mut stream, "\r\n").unwrap();
    assert!(line.starts_with("HTTP/1.1 504 "), "{line}");
    drop((stream, listener));
    stop(proxy);
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12";
    for answer in ["", begun] {
        let mut client = connect(&proxy);
        client.write_all(REQUEST.as_bytes()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        read_until(&mut server, "\r\n\r\n").unwrap();
        server.write_all(answer.as_bytes()).unwrap();
        if !answer.is_empty() {
            read_until(&mut client, "\r\n\r\n12").unwrap();
        }
        drop(client);
        // Closed, perhaps by a reset.
        let ended = server.read_to_end(&mut Vec::new());
        let ended = ended.map_err(|error| error.kind());
        let reset = Err(std::io::ErrorKind::ConnectionReset);
        assert!(ended == Ok(0) || ended == reset, "{answer:?} {ended:?}");
    }
    stop(proxy);
}

#[test]
fn an_idempotent_request_gets_another_try_and_no_more_than_allowed() {
    for (retries, expected, tries) in [(2, "200", 3), (1, "502", 2), (0, "502", 1)] {
        // A fresh connection that closes is no stale one of the pool: each costs a try.
        let (port, heads) = upstream(&["", "", OK]);
        let proxy = start(configuration(
            port,
            &json!({"retries": retries}),
            &[json!({"paths": ["/"]})],
        ));
        let answer = ask(&proxy, REQUEST);
        assert_eq!(
            answer.split(' ').nth(1),
            Some(expected),
            "{retries} {answer}"
        );
        assert_eq!(heads.try_iter().count(), tries, "{retries}");
        stop(proxy);
    }
}

#[test]
fn another_try_over_a_kept_connection_has_all_of_its_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let one_worker = Settings {
        workers: 1,
        ..settings()
    };
    let service = json!({"retries": 1, "read_timeout": 3_000});
    let records = configuration(port, &service, &[json!({"paths": ["/"]})]);
    let proxy = start_with(&one_worker, Limits::default(), records);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut clients = [connect(&proxy), connect(&proxy)];
    // At the same time, so that two connections are kept.
    let mut servers = clients.each_mut().map(|client| {
        client.write_all(request).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        read_until(&mut server, "\r\n\r\n").unwrap();
        server
    });
    for (client, server) in clients.iter_mut().zip(&mut servers) {
        server.write_all(OK.as_bytes()).unwrap();
        read_until(client, "\r\n\r\nok").unwrap();
    }
    // The one used last is used first; it says nothing.
    let [client, _] = &mut clients;
    let [other, silent] = &mut servers;
    client.write_all(request).unwrap();
    read_until(silent, "\r\n\r\n").unwrap();
    read_until(other, "\r\n\r\n").unwrap();
    // Long enough for a timer that is set to the past.
    std::thread::sleep(Duration::from_millis(100));
    other.write_all(OK.as_bytes()).unwrap();
    let line = read_until(client, "\r\n").unwrap();
    assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
    drop((clients, servers));
    stop(proxy);
}

#[test]
fn one_hundred_continue_comes_only_when_the_body_is_wanted() {
    let (port, heads) = upstream(&[OK]);
    let proxy = start(configuration(
        port,
        &json!({"read_timeout": 60_000}),
        &[json!({"paths": ["/wanted"]})],
    ));
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
    };
    let mut stream = connect(&proxy);
    stream.write_all(head("/none").as_bytes()).unwrap();
    let line = read_until(&mut stream, "\r\n").unwrap();
    assert!(line.starts_with("HTTP/1.1 404 "), "{line}");

    let mut stream = connect(&proxy);
    stream.write_all(head("/wanted").as_bytes()).unwrap();
    let line = read_until(&mut stream, "\r\n\r\n").unwrap();
    assert!(line.starts_with("HTTP/1.1 100 "), "{line}");
    stream.write_all(b"body").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        !heads
            .recv()
            .unwrap()
            .to_ascii_lowercase()
            .contains("expect")
    );
    stop(proxy);
}
