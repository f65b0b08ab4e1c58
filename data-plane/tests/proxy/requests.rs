//! Requests through to the upstream, and answers back.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use data_plane::limits::{KeepAlive, Limits};
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use serde_json::json;
use shared::clock::monotonic;

use crate::gateway::{
    OK, PATIENCE, ask, configuration, connect, eventually, get, get_status, patient, read_until,
    serve_each, settings, start, start_with, stop, upstream,
};

#[test]
fn a_request_goes_upstream_and_its_answer_comes_back() {
    let (port, heads) = upstream(&[OK]);
    let proxy = start(configuration(
        port,
        &json!({"path": "/base"}),
        &[json!({"paths": ["/api"]})],
    ));
    let answer = ask(
        &proxy,
        "GET /api//x/../y%7e?q=1& HTTP/1.1\r\nHost: Gate.test\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\
         X-Consumer-Username: root\r\nx_consumer_id: 1\r\nX-Forwarded-Host: evil\r\nX-Forwarded-For: 9.9.9.9\r\nX-Kept: yes\r\n\r\n",
    );
    let head = heads.recv().unwrap().to_ascii_lowercase();
    assert!(head.starts_with("get /base/y~?q=1& http/1.1\r\n"), "{head}");
    for line in [
        format!("host: 127.0.0.1:{port}\r\n"),
        "x-kept: yes\r\n".to_owned(),
        "x-forwarded-host: gate.test\r\n".to_owned(),
        "x-forwarded-proto: http\r\n".to_owned(),
        "x-forwarded-prefix: /api\r\n".to_owned(),
        "x-forwarded-for: 9.9.9.9, 127.0.0.1\r\n".to_owned(),
        "x-real-ip: 127.0.0.1\r\n".to_owned(),
        "x-kong-request-id: ".to_owned(),
    ] {
        assert!(head.contains(&line), "{line} in {head}");
    }
    for name in ["x-hop", "consumer", "evil"] {
        assert!(!head.contains(name), "{name} in {head}");
    }
    let lower = answer.to_ascii_lowercase();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok"),
        "{answer}"
    );
    for part in [
        "server: origin",
        "via: 1.1 kong/3.9.1",
        "x-kong-upstream-latency: ",
        "x-kong-proxy-latency: ",
        "content-length: 2",
    ] {
        assert!(lower.contains(part), "{part} in {answer}");
    }
    assert!(!lower.contains("keep-alive: 1"), "{answer}");
    stop(proxy);
}

#[test]
fn without_a_route_or_a_configuration_there_is_a_reason() {
    let (port, _heads) = upstream(&[OK]);
    let proxy = start(configuration(
        port,
        &json!({}),
        &[json!({"paths": ["/api"]})],
    ));
    let answer = ask(
        &proxy,
        "GET /other HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(
        answer.contains("\"message\":\"no Route matched with those values\"")
            && answer.contains("\"request_id\":\"")
    );
    assert!(
        answer.to_ascii_lowercase().contains("server: kong/3.9.1"),
        "{answer}"
    );
    stop(proxy);

    let empty = Proxy::start(&settings(), Arc::new(ArcSwapOption::empty())).unwrap();
    let answer = ask(
        &empty,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert!(
        answer.starts_with("HTTP/1.1 503 ")
            && answer.to_ascii_lowercase().contains("retry-after: "),
        "{answer}"
    );
    stop(empty);
}

#[test]
fn connections_are_kept_on_both_sides_and_a_dead_one_is_replaced() {
    let (port, heads) = upstream(&[OK, "", OK]);
    let proxy = start(configuration(
        port,
        &json!({"retries": 0}),
        &[json!({"paths": ["/"]})],
    ));
    let mut stream = connect(&proxy);
    for _ in 0..2 {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        stream.read_exact(&mut [0; 2]).unwrap();
    }
    // The second request was sent on the pooled connection, which closed, and once more.
    assert_eq!(heads.try_iter().count(), 3);
    drop(stream);
    stop(proxy);
}

#[test]
fn connections_to_servers_are_kept_as_the_settings_say() {
    let default = KeepAlive::default();
    for (keep_alive, expected) in [
        (default, 1),
        (
            KeepAlive {
                connections: 0,
                ..default
            },
            3,
        ),
        (
            KeepAlive {
                exchanges: 2,
                ..default
            },
            2,
        ),
        (
            KeepAlive {
                idle: Duration::ZERO,
                ..default
            },
            3,
        ),
    ] {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let port = serve_each(move |mut stream| {
            counted.fetch_add(1, Ordering::SeqCst);
            while read_until(&mut stream, "\r\n\r\n").is_some() {
                stream.write_all(OK.as_bytes()).unwrap();
            }
        });
        let limits = Limits {
            keep_alive,
            ..Limits::default()
        };
        let one_worker = Settings {
            workers: 1,
            ..settings()
        };
        let records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
        let proxy = start_with(&one_worker, limits, records);
        for _ in 0..3 {
            let answer = ask(
                &proxy,
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            );
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        assert_eq!(count.load(Ordering::SeqCst), expected, "{keep_alive:?}");
        stop(proxy);
    }
}

#[test]
fn a_post_is_not_sent_twice() {
    let (port, heads) = upstream(&[""]);
    let proxy = start(configuration(
        port,
        &json!({"retries": 5}),
        &[json!({"paths": ["/"]})],
    ));
    let answer = ask(
        &proxy,
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(heads.try_iter().count(), 1);
    stop(proxy);
}

/// Has it stop, which is under way when this returns: its cores listen until they know of it.
fn stops(proxy: Proxy) -> JoinHandle<()> {
    let address = proxy.addresses().proxy.unwrap();
    let stopping = std::thread::spawn(move || stop(proxy));
    eventually("nobody listens any more", || {
        TcpStream::connect(address).is_err()
    });
    stopping
}

#[test]
fn a_protocol_is_switched_and_bytes_flow_both_ways() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let head = read_until(&mut stream, "\r\n\r\n")
            .unwrap()
            .to_ascii_lowercase();
        assert!(head.contains("upgrade: websocket\r\n"), "{head}");
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
            .unwrap();
        while let Some(line) = read_until(&mut stream, "\n") {
            stream
                .write_all(line.to_ascii_uppercase().as_bytes())
                .unwrap();
        }
    });
    let proxy = patient(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let mut stream = connect(&proxy);
    stream
        .write_all(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 101 ")
            && head.to_ascii_lowercase().contains("upgrade: websocket"),
        "{head}"
    );
    stream.write_all(b"hello\n").unwrap();
    assert_eq!(read_until(&mut stream, "\n").unwrap(), "earlyHELLO\n");
    // It counts as a connection, and a node that stops waits for its end.
    let status = get_status(&proxy, "/status");
    assert!(status.contains("\"connections_active\":1"), "{status}");
    let stopping = stops(proxy);
    stream.write_all(b"still\n").unwrap();
    assert_eq!(read_until(&mut stream, "\n").unwrap(), "STILL\n");
    drop(stream);
    stopping.join().unwrap();
}

#[test]
fn a_plain_request_to_an_https_route_is_sent_there() {
    let (port, _heads) = upstream(&[OK]);
    let proxy = start(configuration(
        port,
        &json!({}),
        &[
            json!({"paths": ["/up"], "protocols": ["https"]}),
            json!({"paths": ["/to"], "protocols": ["https"], "https_redirect_status_code": 301}),
        ],
    ));
    let answer = ask(
        &proxy,
        "GET /up HTTP/1.1\r\nHost: a:8000\r\nConnection: close\r\n\r\n",
    );
    assert!(
        answer.starts_with("HTTP/1.1 426 ") && answer.contains("Please use HTTPS protocol"),
        "{answer}"
    );
    let answer = ask(
        &proxy,
        "GET /to?x=y HTTP/1.1\r\nHost: a:8000\r\nConnection: close\r\n\r\n",
    );
    assert!(
        answer.starts_with("HTTP/1.1 301 ") && answer.contains("https://a/to?x=y"),
        "{answer}"
    );
    stop(proxy);
}

#[test]
fn a_large_body_streams_both_ways() {
    const SIZE: usize = 20 * 1024 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let head = read_until(&mut stream, "\r\n\r\n")
            .unwrap()
            .to_ascii_lowercase();
        assert!(
            head.contains(&format!("content-length: {SIZE}\r\n")),
            "{head}"
        );
        let received =
            std::io::copy(&mut (&stream).take(SIZE as u64), &mut std::io::sink()).unwrap();
        assert_eq!(received, SIZE as u64);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            .unwrap();
        let chunk = vec![b'x'; 1024 * 1024];
        for _ in 0..20 {
            stream.write_all(b"100000\r\n").unwrap();
            stream.write_all(&chunk).unwrap();
            stream.write_all(b"\r\n").unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
    });
    let proxy = start(configuration(
        port,
        &json!({"read_timeout": 60000}),
        &[json!({"paths": ["/"]})],
    ));
    let mut stream = connect(&proxy);
    write!(
        stream,
        "PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {SIZE}\r\n\r\n"
    )
    .unwrap();
    stream.write_all(&vec![b'y'; SIZE]).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.len() > SIZE && answer.ends_with(b"0\r\n\r\n"));
    stop(proxy);
}

#[test]
fn stopping_lets_an_exchange_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (told, asked) = channel();
    let (go, went) = channel::<()>();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_until(&mut stream, "\r\n\r\n").unwrap();
        told.send(()).unwrap();
        went.recv().unwrap();
        stream.write_all(OK.as_bytes()).unwrap();
    });
    let proxy = patient(configuration(
        port,
        &json!({"read_timeout": 60_000}),
        &[json!({"paths": ["/"]})],
    ));
    let mut stream = connect(&proxy);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    asked.recv_timeout(PATIENCE).unwrap();
    let stopping = stops(proxy);
    go.send(()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"),
        "{answer}"
    );
    stopping.join().unwrap();
}

#[test]
fn stopping_ends_although_clients_keep_coming() {
    let (port, heads) = upstream(&[OK]);
    // Nobody else takes them.
    std::thread::spawn(move || heads.into_iter().for_each(drop));
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let address = proxy.addresses().proxy.unwrap();
    let (served, wait) = channel();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let served = served.clone();
            std::thread::spawn(move || {
                // Until the listener is closed.
                while let Ok(mut stream) = TcpStream::connect(address) {
                    let mut answer = String::new();
                    let _ =
                        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
                    let _ = stream.read_to_string(&mut answer);
                    let _ = served.send(());
                }
            })
        })
        .collect();
    for _ in 0..4 {
        wait.recv_timeout(PATIENCE).unwrap();
    }
    let (stopped, ended) = channel();
    std::thread::spawn(move || {
        stop(proxy);
        stopped.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_mins(1)).unwrap();
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn stopping_takes_one_more_request_of_each_connection() {
    let (go, went) = channel::<()>();
    let went = Arc::new(Mutex::new(went));
    let port = serve_each(move |mut stream| {
        while let Some(head) = read_until(&mut stream, "\r\n\r\n") {
            let (start, end) = OK.split_at(OK.len() - 2);
            stream.write_all(start.as_bytes()).unwrap();
            if head.starts_with("GET /slow ") {
                went.lock().unwrap().recv().unwrap();
            }
            stream.write_all(end.as_bytes()).unwrap();
        }
    });
    let proxy = patient(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let (mut idle, mut busy) = (connect(&proxy), connect(&proxy));
    let asked = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    idle.write_all(asked).unwrap();
    read_until(&mut idle, "ok").unwrap();
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let head = read_until(&mut busy, "\r\n\r\n").unwrap();
    assert!(!head.contains("connection:"), "{head}");
    let status = proxy.addresses().status.unwrap();
    let mut since = monotonic();
    let stopping = std::thread::spawn(move || stop(proxy));
    eventually("it says that it stops", || {
        get(status, "/status/ready").starts_with("HTTP/1.1 503 ")
    });
    let asks = |mut stream: TcpStream, since: Instant| {
        stream.write_all(asked).unwrap();
        // It waits for two seconds: a client that was held up for as long is too late.
        let is_in_time = since.elapsed() < Duration::from_secs(2);
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        assert!(
            !is_in_time
                || answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"),
            "{read:?} {answer}"
        );
    };
    asks(idle, since);
    since = monotonic();
    go.send(()).unwrap();
    read_until(&mut busy, "ok").unwrap();
    asks(busy, since);
    stopping.join().unwrap();
}
