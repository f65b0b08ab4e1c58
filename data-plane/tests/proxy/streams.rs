//! Byte streams: TCP as it is, TLS that ends here, and TLS that is passed on.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use data_plane::limits::Limits;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use serde_json::{Value, json};
use shared::snapshot::Record;
use uuid::Uuid;

use crate::gateway::{
    PATIENCE, closed_port, counted, get_status, plugin, record, scoped, serve_each, settings,
    start_with, stop,
};
use crate::tls::known_name;
use crate::upstreams::own_tls;
use crate::waits::{endless_answer, with_little_room};

/// Says its name to whoever connects, and sends back what it gets.
fn echo(name: &'static str) -> u16 {
    serve_each(move |mut stream| {
        stream.write_all(name.as_bytes()).unwrap();
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    })
}

/// A server that keeps what it gets and closes.
fn listener() -> (u16, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, heard) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut bytes = vec![0; 5];
            stream.unwrap().read_exact(&mut bytes).unwrap();
            sender.send(bytes).unwrap();
        }
    });
    (port, heard)
}

fn service(number: u128, fields: &Value) -> Record {
    let mut all = json!({"host": "127.0.0.1", "protocol": "tcp", "retries": 1});
    let object = all.as_object_mut().unwrap();
    object.extend(fields.as_object().unwrap().clone());
    record("services", number, all)
}

fn route(number: u128, service: u128, fields: &Value) -> Record {
    let mut all = json!({"protocols": ["tcp"], "service": {"id": Uuid::from_u128(service)}});
    let object = all.as_object_mut().unwrap();
    object.extend(fields.as_object().unwrap().clone());
    record("routes", number, all)
}

fn gateway(records: Vec<Record>) -> Proxy {
    with_limits(Limits::default(), records)
}

fn with_limits(limits: Limits, records: Vec<Record>) -> Proxy {
    let settings = Settings {
        stream_listen: vec![
            "127.0.0.1:0".parse().unwrap(),
            "127.0.0.1:0 ssl".parse().unwrap(),
        ],
        ..settings()
    };
    start_with(&settings, limits, records)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What a client gets that sends `ping` and ends its side.
fn converse(stream: &mut TcpStream) -> String {
    stream.write_all(b"ping").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn bytes_go_both_ways_until_both_sides_have_ended() {
    let one = echo("one ");
    let proxy = gateway(vec![
        service(1, &json!({"port": one})),
        route(2, 1, &json!({"sources": [{"ip": "127.0.0.0/8"}]})),
    ]);
    let mut stream = connect(proxy.addresses().stream[0]);
    assert_eq!(converse(&mut stream), "one ping");
    stop(proxy);
}

#[test]
fn a_client_may_take_nothing_for_as_long_as_its_service_says() {
    // More than the systems in between take.
    const MUCH: usize = 20 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(&vec![b'x'; MUCH]);
    });
    let limits = Limits {
        vanished: Duration::from_secs(2),
        ..Limits::default()
    };
    let (endless, ended) = endless_answer();
    let records = vec![
        service(1, &json!({"port": port, "read_timeout": 600_000})),
        route(2, 1, &json!({"sources": [{"ip": "127.0.0.0/8"}]})),
        service(3, &json!({"port": endless, "protocol": "http"})),
        record(
            "routes",
            4,
            json!({"paths": ["/"], "service": {"id": Uuid::from_u128(3)}}),
        ),
    ];
    let proxy = with_limits(limits, records);
    let mut stream = connect(proxy.addresses().stream[0]);
    // It goes on for longer than a client of HTTP that takes nothing.
    let idle = with_little_room(&proxy);
    ended.recv_timeout(PATIENCE).unwrap();
    drop(idle);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), MUCH);
    stop(proxy);
}

#[test]
fn a_server_behind_tls_may_speak_first() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut tls = rustls::ServerConnection::new(own_tls()).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
        stream.write_all(b"220 ready").unwrap();
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).unwrap();
        stream.write_all(&heard).unwrap();
    });
    let proxy = gateway(vec![
        service(1, &json!({"port": port, "protocol": "tls"})),
        route(2, 1, &json!({"sources": [{"ip": "127.0.0.1"}]})),
    ]);
    let mut stream = connect(proxy.addresses().stream[0]);
    let mut greeting = [0; 9];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 ready");
    stream.write_all(b"QUIT").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"QUIT");
    drop(stream);
    stop(proxy);
}

#[test]
fn the_route_is_found_by_the_ends_of_the_connection() {
    let (one, two) = (echo("one "), echo("two "));
    let proxy = gateway(vec![
        service(1, &json!({"port": one})),
        service(2, &json!({"port": two})),
        route(3, 1, &json!({"sources": [{"ip": "10.0.0.0/8"}]})),
        route(4, 2, &json!({"sources": [{"ip": "127.0.0.1"}]})),
    ]);
    let mut stream = connect(proxy.addresses().stream[0]);
    assert_eq!(converse(&mut stream), "two ping");
    stop(proxy);
    let nobody = gateway(vec![
        service(1, &json!({"port": one})),
        route(3, 1, &json!({"sources": [{"ip": "10.0.0.0/8"}]})),
    ]);
    let mut stream = connect(nobody.addresses().stream[0]);
    let mut answer = Vec::new();
    // Closed, perhaps by a reset.
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty());
    stop(nobody);
}

#[test]
fn an_upstream_balances_streams_past_a_target_that_is_down() {
    let one = echo("one ");
    let down = closed_port();
    let upstream = json!({"id": Uuid::from_u128(10)});
    let proxy = gateway(vec![
        record("upstreams", 10, json!({"name": "streams.test"})),
        record(
            "targets",
            11,
            json!({"upstream": upstream, "target": format!("127.0.0.1:{one}"), "weight": 100}),
        ),
        record(
            "targets",
            12,
            json!({"upstream": upstream, "target": format!("127.0.0.1:{down}"), "weight": 100}),
        ),
        service(1, &json!({"host": "streams.test", "port": 1})),
        route(2, 1, &json!({"sources": [{"ip": "127.0.0.1"}]})),
    ]);
    for _ in 0..4 {
        let mut stream = connect(proxy.addresses().stream[0]);
        assert_eq!(converse(&mut stream), "one ping");
    }
    stop(proxy);
}

#[test]
fn a_silent_stream_is_closed() {
    let one = echo("one ");
    let proxy = gateway(vec![
        service(1, &json!({"port": one, "read_timeout": 1_500})),
        route(2, 1, &json!({"sources": [{"ip": "127.0.0.1"}]})),
    ]);
    let mut stream = connect(proxy.addresses().stream[0]);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer, b"one ");
    stop(proxy);
}

#[test]
fn tls_ends_here_or_is_passed_on_by_the_name_that_is_asked_for() {
    let one = echo("one ");
    let (passed, heard) = listener();
    let (mut records, client) = known_name("ends.test");
    let client = Arc::new(client);
    records.extend([
        service(1, &json!({"port": one})),
        service(2, &json!({"port": passed})),
        route(3, 1, &json!({"protocols": ["tls"], "snis": ["ends.test"]})),
        route(
            4,
            2,
            &json!({"protocols": ["tls_passthrough"], "snis": ["passed.test"]}),
        ),
    ]);
    let proxy = gateway(records);
    let address = proxy.addresses().stream[1];
    let connection = |name: &'static str| {
        let name = rustls_pki_types::ServerName::try_from(name).unwrap();
        rustls::ClientConnection::new(Arc::clone(&client), name).unwrap()
    };
    let mut tls = rustls::StreamOwned::new(connection("ends.test"), connect(address));
    tls.write_all(b"ping").unwrap();
    let mut answer = [0; 8];
    tls.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"one ping");

    // What is passed on is the ClientHello itself: a handshake record of TLS.
    let mut connection_passed = connection("passed.test");
    let mut stream = connect(address);
    connection_passed.write_tls(&mut stream).unwrap();
    assert_eq!(&heard.recv().unwrap()[..3], [22, 3, 1]);

    // A name without a route, and bytes that are no TLS.
    for hello in [
        {
            let mut bytes = Vec::new();
            connection("other.test").write_tls(&mut bytes).unwrap();
            bytes
        },
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let mut stream = connect(address);
        stream.write_all(&hello).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{answer:?}");
    }
    stop(proxy);
}

#[test]
fn a_server_behind_tls_is_asked_for_by_the_clients_name_if_the_route_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            let mut tls = rustls::ServerConnection::new(own_tls()).unwrap();
            let mut tcp = tcp.unwrap();
            let _ = tls.complete_io(&mut tcp);
            let name = tls.server_name().unwrap_or("none").to_owned();
            let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
            let _ = stream.write_all(format!("{name}\n").as_bytes());
        }
    });
    let target =
        json!({"target": format!("127.0.0.1:{port}"), "upstream": {"id": Uuid::from_u128(10)}});
    for (host, preserve_host, expected) in [
        ("localhost", false, "localhost\n"),
        ("localhost", true, "ends.test\n"),
        ("u.test", false, "none\n"),
        ("u.test", true, "ends.test\n"),
    ] {
        let (mut records, client) = known_name("ends.test");
        let to = json!({"host": host, "port": port, "protocol": "tls"});
        let by =
            json!({"protocols": ["tls"], "snis": ["ends.test"], "preserve_host": preserve_host});
        records.extend([
            record("upstreams", 10, json!({"name": "u.test"})),
            record("targets", 11, target.clone()),
            service(1, &to),
            route(3, 1, &by),
        ]);
        let proxy = gateway(records);
        let name = rustls_pki_types::ServerName::try_from("ends.test").unwrap();
        let connection = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
        let stream = connect(proxy.addresses().stream[1]);
        let mut tls = rustls::StreamOwned::new(connection, stream);
        let mut told = vec![0; expected.len()];
        tls.read_exact(&mut told).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&told),
            expected,
            "{host} {preserve_host}"
        );
        drop(tls);
        stop(proxy);
    }
}

#[test]
fn plugins_see_the_streams_of_protocols_that_they_name() {
    let one = echo("one ");
    let collector = UdpSocket::bind("127.0.0.1:0").unwrap();
    collector.set_read_timeout(Some(PATIENCE)).unwrap();
    let log = json!({"host": "127.0.0.1", "port": collector.local_addr().unwrap().port()});
    let streams = json!({"protocols": ["tcp"]});
    let counts = json!({
        "status_code_metrics": true, "latency_metrics": true, "upstream_health_metrics": true
    });
    let upstream = json!({"id": Uuid::from_u128(50)});
    let with = |more: Vec<Record>| {
        let mut records = vec![
            service(1, &json!({"port": one, "name": "bytes"})),
            route(
                2,
                1,
                &json!({"sources": [{"ip": "127.0.0.1"}], "name": "front"}),
            ),
            record("upstreams", 50, json!({"name": "u.test"})),
            record(
                "targets",
                51,
                json!({"target": "127.0.0.1:1", "upstream": upstream}),
            ),
        ];
        records.extend(more);
        gateway(records)
    };
    let proxy = with(vec![
        scoped(plugin(200, "udp-log", &log), &streams),
        scoped(plugin(201, "prometheus", &counts), &streams),
        // These see requests only.
        plugin(202, "ip-restriction", &json!({"deny": ["127.0.0.1"]})),
        plugin(203, "request-termination", &json!({})),
    ]);
    let address = proxy.addresses().stream[0];
    let mut stream = connect(address);
    assert_eq!(converse(&mut stream), "one ping");
    let mut buffer = [0; 4096];
    let length = collector.recv(&mut buffer).unwrap();
    let told: Value = serde_json::from_slice(&buffer[..length]).unwrap();
    let session = json!({"received": 4, "sent": 8, "status": 200, "server_port": address.port()});
    assert_eq!(told["session"], session);
    assert_eq!(told["upstream"], json!({"received": 8, "sent": 4}));
    assert_eq!(told["client_ip"], "127.0.0.1");
    assert_eq!(told["tries"][0]["port"], one);
    assert_eq!(told["service"]["name"], "bytes");
    assert_eq!(told["route"]["name"], "front");
    let metrics = get_status(&proxy, "/metrics");
    let labels = r#"service="bytes",route="front""#;
    for line in [
        format!(
            r#"kong_stream_sessions_total{{{labels},code="200",source="service",workspace="default"}} 1"#
        ),
        format!(r#"kong_session_duration_ms_bucket{{{labels},workspace="default",le="+Inf"}} 1"#),
        r#"kong_upstream_target_health{upstream="u.test",target="127.0.0.1:1",address="127.0.0.1:1",state="healthchecks_off",subsystem="stream"} 1"#.to_owned(),
    ] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
    assert!(!metrics.contains("kong_bandwidth_bytes{"), "{metrics}");
    stop(proxy);

    let closed = with(vec![
        scoped(plugin(200, "udp-log", &log), &streams),
        scoped(
            plugin(202, "ip-restriction", &json!({"deny": ["127.0.0.1"]})),
            &streams,
        ),
        scoped(counted(), &streams),
    ]);
    let mut answer = Vec::new();
    let _ = connect(closed.addresses().stream[0]).read_to_end(&mut answer);
    assert!(answer.is_empty());
    let length = collector.recv(&mut buffer).unwrap();
    let told: Value = serde_json::from_slice(&buffer[..length]).unwrap();
    assert_eq!(told["session"]["status"], 403);
    assert_eq!(told["upstream"], json!({"received": 0, "sent": 0}));
    let metrics = get_status(&closed, "/metrics");
    let line = format!(
        r#"kong_stream_sessions_total{{{labels},code="403",source="kong",workspace="default"}} 1"#
    );
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
    stop(closed);
}
