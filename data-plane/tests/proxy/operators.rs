//! What operators see: the access log, metrics, status.

use std::io::Write as _;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use data_plane::compile::compile;
use data_plane::limits::Limits;
use data_plane::live::Live;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use serde_json::{Value, json};
use shared::snapshot::{Record, Revision, Snapshot};

use crate::gateway::{
    OK, PATIENCE, ask, configuration, connect, counted, eventually, get, patient, read_until,
    settings, start, start_with, stop, upstream,
};

#[test]
fn an_exchange_is_logged_and_counted_when_its_last_byte_has_gone() {
    let (port, _heads) = upstream(&[OK]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let logging = Settings {
        access_log: path.to_str().unwrap().to_owned(),
        ..settings()
    };
    let routes = [json!({"name": "front", "paths": ["/x"]})];
    let mut records = configuration(port, &json!({"name": "shop"}), &routes);
    records.push(counted());
    let proxy = start_with(&logging, Limits::default(), records);
    let request = "POST /x?code=secret HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    let answer = ask(&proxy, request);
    // Heads and bodies.
    let bytes = |direction: &str, count: usize| {
        format!(
            r#"kong_bandwidth_bytes{{service="shop",route="front",direction="{direction}",workspace="default",consumer=""}} {count}"#
        )
    };
    ask(
        &proxy,
        "GET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    let metrics = get(proxy.addresses().status.unwrap(), "/metrics");
    for line in [
        r#"kong_http_requests_total{service="shop",route="front",code="200",source="service",workspace="default",consumer=""} 1"#,
        r#"kong_http_requests_total{service="",route="",code="404",source="kong",workspace="default",consumer=""} 1"#,
        &bytes("ingress", request.len()),
        &bytes("egress", answer.len()),
        r#"kong_upstream_latency_ms_count{service="shop",route="front",workspace="default"} 1"#,
        // No control plane has ever been heard here.
        "kong_datastore_reachable 0",
        "kong_control_plane_connected 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}\n{metrics}"
        );
    }
    for (name, rest) in [
        ("kong_node_info", ",version="),
        ("kong_nginx_requests_total", ",subsystem=\"http\"} 2"),
        (
            "kong_nginx_connections_total",
            ",subsystem=\"http\",state=\"accepted\"} 2",
        ),
    ] {
        let begins = format!("{name}{{node_id=\"");
        let mut lines = metrics.lines();
        let found = lines.any(|line| line.starts_with(&begins) && line.contains(rest));
        assert!(found, "{name}\n{metrics}");
    }
    let process = format!(",pid=\"{}\",kong_subsystem=\"http\"}} ", std::process::id());
    let mut lines = metrics.lines();
    let memory =
        lines.find(|line| line.starts_with("kong_memory_workers_lua_vms_bytes{node_id=\""));
    let (_, bytes) = memory.unwrap().split_once(&process).unwrap();
    assert!(bytes.parse::<u64>().unwrap() > 1 << 20, "{bytes}");
    let status = get(proxy.addresses().status.unwrap(), "/status");
    let body: Value = serde_json::from_str(status.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["server"]["total_requests"], 2);
    assert_eq!(body["server"]["connections_accepted"], 2);
    assert_eq!(body["ready"], true);
    // It has none, as a data plane of Kong 3 has none.
    assert!(body.get("database").is_none(), "{body}");
    let used = body["memory"]["workers_lua_vms"][0]["http_allocated_gc"].as_str();
    assert!(used.unwrap().ends_with(" MiB"), "{body}");
    let exact = get(proxy.addresses().status.unwrap(), "/status?unit=b");
    let exact: Value = serde_json::from_str(exact.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let capacity = &exact["memory"]["lua_shared_dicts"]["kong"]["capacity"];
    assert!(capacity.as_u64().unwrap() > 0, "{exact}");
    for (query, fault) in [
        ("unit=V", "invalid unit 'V'"),
        ("scale=-1", "scale must be"),
    ] {
        let refused = get(
            proxy.addresses().status.unwrap(),
            &format!("/status?{query}"),
        );
        let told = refused.starts_with("HTTP/1.1 400 ") && refused.contains(fault);
        assert!(told, "{refused}");
    }
    stop(proxy);
    let read = || std::fs::read_to_string(&path).unwrap();
    eventually("both are logged", || read().lines().count() == 2);
    let written = read();
    let line: Value = serde_json::from_str(written.lines().next().unwrap()).unwrap();
    assert_eq!(line["bytes_received"], 5);
    assert_eq!(line["bytes_sent"], 2);
    assert_eq!(line["status"], 200);
    assert_eq!(line["query"], "code=[redacted]");
    assert!(!written.contains("secret"), "{written}");
}

#[test]
fn a_node_is_ready_from_its_first_configuration_until_it_stops() {
    let empty = Proxy::start(&settings(), Arc::default()).unwrap();
    assert!(get(empty.addresses().status.unwrap(), "/status/ready").starts_with("HTTP/1.1 503 "));
    stop(empty);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (release, wait) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_until(&mut stream, "\r\n\r\n").unwrap();
        wait.recv().unwrap();
        stream.write_all(OK.as_bytes()).unwrap();
    });
    let proxy = patient(configuration(
        port,
        &json!({"read_timeout": 60_000}),
        &[json!({"paths": ["/"]})],
    ));
    let status = proxy.addresses().status.unwrap();
    assert!(get(status, "/status/ready").starts_with("HTTP/1.1 200 "));
    let mut stream = connect(&proxy);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut begun = connect(&proxy);
    begun.write_all(b"GET / HT").unwrap();
    let silent = connect(&proxy);
    let told = "\"connections_reading\":1,\"connections_waiting\":1,\"connections_writing\":1,";
    eventually(told, || get(status, "/status").contains(told));
    let metrics = get(status, "/metrics");
    for state in ["reading", "waiting", "writing"] {
        let line = format!(",subsystem=\"http\",state=\"{state}\"}} 1\n");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    drop((begun, silent));
    let stopping = std::thread::spawn(move || stop(proxy));
    eventually("it says that it stops", || {
        get(status, "/status/ready").starts_with("HTTP/1.1 503 ")
    });
    release.send(()).unwrap();
    assert!(
        read_until(&mut stream, "\r\n\r\n")
            .unwrap()
            .starts_with("HTTP/1.1 200 ")
    );
    stopping.join().unwrap();
}

#[test]
fn a_service_of_another_protocol_stops_only_its_own_routes() {
    let (port, _heads) = upstream(&[OK]);
    let mut records = configuration(port, &json!({}), &[json!({"paths": ["/http"]})]);
    records.extend(crate::gateway::unsupported());
    let proxy = start(records);
    let request =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(ask(&proxy, &request("/http")).starts_with("HTTP/1.1 200 "));
    let answer = ask(&proxy, &request("/bytes"));
    assert!(
        answer.starts_with("HTTP/1.1 503 ")
            && answer.contains("the protocol of the service is not supported"),
        "{answer}"
    );
    stop(proxy);
}

#[test]
fn exchanges_are_told_of_only_where_a_plugin_has_them_told() {
    let (port, _heads) = upstream(&[OK]);
    let plain = configuration(port, &json!({}), &[json!({"paths": ["/x"]})]);
    let told = [plain.clone(), vec![counted()]].concat();
    let snapshot = |revision, records: &[Record]| {
        let records = Snapshot::new(1, Revision(revision), records.to_vec());
        Arc::new(compile(&records).unwrap())
    };
    let live: Live = Arc::new(ArcSwapOption::from(Some(snapshot(1, &told))));
    let proxy = Proxy::start_with(&settings(), Limits::default(), Arc::clone(&live)).unwrap();
    let [proxied, status] = [proxy.addresses().proxy, proxy.addresses().status];
    assert!(get(proxied.unwrap(), "/x").starts_with("HTTP/1.1 200 "));
    eventually("the exchange is counted", || {
        get(status.unwrap(), "/metrics").contains("kong_bandwidth_bytes")
    });
    for (revision, records, expected) in [(2, &plain, false), (3, &told, true)] {
        live.store(Some(snapshot(revision, records)));
        let metrics = get(status.unwrap(), "/metrics");
        for name in [
            "kong_http_requests_total",
            "kong_bandwidth_bytes",
            "kong_kong_latency_ms",
            "kong_upstream_latency_ms",
            "kong_request_latency_ms",
        ] {
            assert_eq!(metrics.contains(name), expected, "{name} {metrics}");
        }
        assert!(
            metrics.contains("kong_nginx_connections_total{"),
            "{metrics}"
        );
    }
    stop(proxy);
}

#[test]
fn an_exchange_whose_client_leaves_is_counted_as_499() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_until(&mut stream, "\r\n\r\n").unwrap();
        asked.send(()).unwrap();
        // The connection to the upstream is closed with the client's.
        assert!(read_until(&mut stream, "never").is_none());
        asked.send(()).unwrap();
    });
    let service = json!({"name": "slow", "read_timeout": 10_000});
    let routes = [json!({"name": "r", "paths": ["/"]})];
    let mut records = configuration(port, &service, &routes);
    records.push(counted());
    let proxy = start(records);
    let mut stream = connect(&proxy);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    wait.recv_timeout(PATIENCE).unwrap();
    drop(stream);
    wait.recv_timeout(PATIENCE).unwrap();
    let line = r#"kong_http_requests_total{service="slow",route="r",code="499",source="kong",workspace="default",consumer=""} 1"#;
    eventually(line, || {
        get(proxy.addresses().status.unwrap(), "/metrics").contains(line)
    });
    stop(proxy);
}

#[test]
fn rule_136_the_status_listener_has_what_it_has_and_no_files() {
    let (port, _heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let addresses = proxy.addresses();
    for path in [
        "/../etc/passwd",
        "/status/../../etc/passwd",
        "/metrics/..%2f..%2fetc/passwd",
        "/openid-connect/explain/..%2f..%2fetc%2fpasswd",
        "//status",
        "/debug/pprof",
    ] {
        let answer = get(addresses.status.unwrap(), path);
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        assert!(!answer.contains("root:"), "{path}");
    }
    for (method, path, status) in [
        ("HEAD", "/status", "200"),
        ("GET", "/status/", "200"),
        ("GET", "/metrics/", "200"),
        ("DELETE", "/status/ready/", "405"),
        ("GET", "/status//", "404"),
        ("GET", "/", "404"),
        ("POST", "/status", "405"),
        ("DELETE", "/status/ready", "405"),
        ("FOO", "/metrics", "405"),
        ("POST", "/nothing", "404"),
    ] {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut stream = std::net::TcpStream::connect(addresses.status.unwrap()).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let answer = std::io::read_to_string(stream).unwrap();
        let line = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&line), "{method} {path}: {answer}");
    }
    // Taken out of its balancer, and back.
    for (origin, body, status, ready) in [
        ("", "status=draining", "204", "503"),
        ("", r#"{"status":"ready"}"#, "204", "200"),
        ("", "status=other", "400", "200"),
        ("Origin: http://a\r\n", "status=draining", "403", "200"),
    ] {
        let length = body.len();
        let request = format!(
            "POST /status/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{origin}Content-Length: {length}\r\n\r\n{body}"
        );
        let mut stream = std::net::TcpStream::connect(addresses.status.unwrap()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let answer = std::io::read_to_string(stream).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{body}: {answer}"
        );
        let probed = get(addresses.status.unwrap(), "/status/ready");
        assert!(
            probed.starts_with(&format!("HTTP/1.1 {ready} ")),
            "{body}: {probed}"
        );
    }
    let status = get(addresses.status.unwrap(), "/status");
    let (_, hash) = status.split_once("\"configuration_hash\":\"").unwrap();
    let hash = hash.split('"').next().unwrap();
    assert!(hash.len() == 32 && hash != "0".repeat(32), "{status}");
    // And none of it is where clients are.
    let answer = get(addresses.proxy.unwrap(), "/metrics");
    assert!(!answer.contains("kong_"), "{answer}");
    stop(proxy);
}
