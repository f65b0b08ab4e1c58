//! What lasts longer than a request: it keeps no configuration in memory, and is told of if the node waits no longer.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use data_plane::compile::{CompiledSnapshot, compile};
use data_plane::limits::Limits;
use data_plane::live::Live;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use shared::snapshot::{Record, Revision, Snapshot};
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::gateway::{
    PATIENCE, ask, configuration, connect, counted, eventually, get_status, plugin, read_until,
    record, serve_each, settings, start_with, stop,
};
use crate::http2;
use crate::upgraded::lines;

const PLAIN: &str = "GET /plain HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const STREAM: &str = "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n";
const WAIT: &str = "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n";
const UPGRADE: &str =
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A server that begins an answer to `/stream` and does not end it, says nothing to `/wait`, speaks without end to who asks
/// for a WebSocket, and says `ok` to others.
fn server() -> u16 {
    serve_each(serve)
}

fn serve(mut stream: TcpStream) {
    while let Some(head) = read_until(&mut stream, "\r\n\r\n") {
        let (begun, lasts) = if head.starts_with("GET /stream ") {
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
                true,
            )
        } else if head.starts_with("GET /wait ") {
            ("", true)
        } else if head.starts_with("GET /ws ") {
            (
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x01\x05hello",
                true,
            )
        } else {
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false)
        };
        if stream.write_all(begun.as_bytes()).is_err() {
            return;
        }
        if lasts {
            let _ = stream.read(&mut [0; 1]);
            return;
        }
    }
}

/// Says hello to whoever connects.
fn greeter() -> u16 {
    serve_each(|mut stream| {
        stream.write_all(b"hello").unwrap();
        let _ = stream.read(&mut [0; 1]);
    })
}

/// Routes to `server`, one of byte streams, and a plugin that writes each exchange to `log`.
fn records(log: &Path) -> Vec<Record> {
    let routes = ["plain", "stream", "wait", "ws"];
    let routes = routes
        .map(|name| json!({"name": name, "paths": [format!("/{name}")], "strip_path": false}));
    let service = json!({"name": "app", "read_timeout": 60_000, "retries": 0});
    let mut records = configuration(server(), &service, &routes);
    let bytes = json!({"host": "127.0.0.1", "port": greeter(), "protocol": "tcp"});
    let route = json!({
        "name": "bytes", "protocols": ["tcp"], "sources": [{"ip": "127.0.0.1"}],
        "service": {"id": Uuid::from_u128(300)},
    });
    records.push(record("services", 300, bytes));
    records.push(record("routes", 301, route));
    let path = json!({"path": log.to_str().unwrap()});
    let config = plugins::registry::check("file-log", &path).unwrap();
    let protocols = json!(["http", "tcp"]);
    let all = json!({"name": "file-log", "config": config, "protocols": protocols});
    records.push(record("plugins", 200, all));
    records.push(plugin(
        201,
        "prometheus",
        &json!({"bandwidth_metrics": true, "status_code_metrics": true}),
    ));
    records
}

/// One core with a stream listener.
fn one_core(access: &Path, drain: u64) -> Settings {
    Settings {
        workers: 1,
        access_log: access.to_str().unwrap().to_owned(),
        drain_timeout_ms: drain,
        stream_listen: vec!["127.0.0.1:0".parse().unwrap()],
        ..settings()
    }
}

/// The connection after an answer to `request` has begun, with what it says.
fn begin(mut stream: TcpStream, request: &str) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    read_until(&mut stream, "hello").unwrap();
    stream
}

fn to_bytes(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.addresses().stream[0]).unwrap()
}

/// Begins to read an answer to `/stream` by HTTP/2, and goes on for as long as the runtime lasts.
fn begin_http2(proxy: &Proxy) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (client, mut answer) = runtime.block_on(async {
        let mut client = http2::plain(proxy).await;
        let request = http2::request("http://a/stream");
        let mut answer = client.send_request(request).await.unwrap();
        let first = answer.frame().await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "hello");
        (client, answer)
    });
    runtime.spawn(async move {
        let _ = answer.frame().await;
        drop(client);
    });
    runtime
}

fn snapshot(revision: u64, records: Vec<Record>) -> Arc<CompiledSnapshot> {
    Arc::new(compile(&Snapshot::new(1, Revision(revision), records)).unwrap())
}

#[test]
fn what_lasts_keeps_no_configuration_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let [access, told] = ["access.log", "told.log"].map(|name| directory.path().join(name));
    let records = records(&told);
    let live: Live = Arc::new(ArcSwapOption::from(Some(snapshot(1, records.clone()))));
    let first: Weak<_> = Arc::downgrade(&live.load_full().unwrap());
    let settings = one_core(&access, 3000);
    let proxy = Proxy::start_with(&settings, Limits::default(), Arc::clone(&live)).unwrap();
    let streams = [
        begin(connect(&proxy), STREAM),
        begin(connect(&proxy), UPGRADE),
        begin(to_bytes(&proxy), ""),
    ];
    let runtime = begin_http2(&proxy);
    assert!(first.upgrade().is_some());
    // Nothing of the first configuration is in the second but the route of what has no name.
    live.store(Some(snapshot(2, vec![counted()])));
    assert!(ask(&proxy, PLAIN).starts_with("HTTP/1.1 404 "));
    eventually("nothing holds it", || first.upgrade().is_none());
    // All of them are told of by what they began with.
    for stream in streams {
        stream.shutdown(Shutdown::Both).unwrap();
    }
    runtime.shutdown_background();
    let names = |lines: Vec<Value>| {
        let mut names: Vec<String> = lines
            .iter()
            .filter_map(|line| Some(line["route"]["name"].as_str()?.to_owned()))
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(lines(&told, 4)), ["bytes", "stream", "stream", "ws"]);
    let of_routes: Vec<_> = lines(&access, 5)
        .into_iter()
        .filter(|line| !line["route"].is_null())
        .collect();
    assert_eq!(of_routes.len(), 4);
    let metrics = get_status(&proxy, "/metrics");
    for line in [
        r#"kong_http_requests_total{service="app",route="stream",code="200",source="service",workspace="default",consumer=""} 2"#,
        r#"kong_http_requests_total{service="app",route="ws",code="101",source="service",workspace="default",consumer=""} 1"#,
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    stop(proxy);
}

#[test]
fn what_the_end_of_a_node_cuts_off_is_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let [access, told] = ["access.log", "told.log"].map(|name| directory.path().join(name));
    let proxy = start_with(&one_core(&access, 300), Limits::default(), records(&told));
    let mut waits = connect(&proxy);
    waits.write_all(WAIT.as_bytes()).unwrap();
    let _streams = [begin(connect(&proxy), STREAM), begin(to_bytes(&proxy), "")];
    let mut web_socket = begin(connect(&proxy), UPGRADE);
    let _http2 = begin_http2(&proxy);
    assert!(ask(&proxy, PLAIN).starts_with("HTTP/1.1 200 "));
    stop(proxy);
    // Its client is told why (RFC 6455 §7.4.1, 1001): it may connect again.
    let mut last = Vec::new();
    web_socket.read_to_end(&mut last).unwrap();
    assert_eq!(last, [0x88, 2, 0x03, 0xe9]);
    let mut ends: Vec<_> = lines(&access, 6)
        .iter()
        .map(|line| {
            let path = line["path"].as_str().unwrap_or("bytes").to_owned();
            (
                path,
                line["status"].as_u64().unwrap(),
                line["ended_by"].as_str().map(str::to_owned),
            )
        })
        .collect();
    ends.sort();
    let cut = |path: &str, status| (path.to_owned(), status, Some("drain_timeout".to_owned()));
    assert_eq!(
        ends,
        [
            ("/plain".to_owned(), 200, None),
            cut("/stream", 200),
            cut("/stream", 200),
            cut("/wait", 503),
            cut("/ws", 101),
            ("bytes".to_owned(), 503, None),
        ]
    );
    let mut told: Vec<_> = lines(&told, 6)
        .iter()
        .map(|line| {
            (
                line["route"]["name"].as_str().unwrap().to_owned(),
                line["response"]["status"].as_u64(),
            )
        })
        .collect();
    told.sort();
    let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["bytes", "plain", "stream", "stream", "wait", "ws"],
        "{told:?}"
    );
}

#[test]
fn a_node_that_stops_asks_a_redis_that_is_silent_for_all_its_cores() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let connections = || std::iter::from_fn(|| silent.accept().ok()).count();
    let mut records = configuration(server(), &json!({}), &[json!({"paths": ["/"]})]);
    let config = json!({
        "year": 9, "policy": "redis", "limit_by": "service", "sync_rate": 3600,
        "redis": {"host": "127.0.0.1", "port": silent.local_addr().unwrap().port(), "timeout": 300},
    });
    records.push(plugin(200, "rate-limiting", &config));
    let settings = Settings {
        workers: 8,
        ..settings()
    };
    let proxy = start_with(&settings, Limits::default(), records);
    assert!(ask(&proxy, PLAIN).starts_with("HTTP/1.1 200 "));
    connections();
    stop(proxy);
    // As the node is told to stop, and once all its cores have ended.
    let asked = connections();
    assert!((1..=2).contains(&asked), "{asked}");
}
