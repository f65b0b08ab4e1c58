//! The phases of filters, through sockets: what they see and change, for whom, and what they are told
//! afterwards.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

use serde_json::{Value, json};
use shared::entity::basic_auth_hash;
use shared::snapshot::Record;
use uuid::Uuid;

use crate::gateway::{
    OK, PATIENCE, ask, configuration, counted, eventually, get_status, plugin, record, scoped,
    start, stop, upstream,
};
use crate::redis::Redis;

const JSON: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 20\r\nX-Secret: 1\r\n\r\n{\"a\":\"1\",\"b\":\"gone\"}";

/// Ann and Bob with their passwords, Bob in the group `slow`.
fn consumers() -> Vec<Record> {
    let mut records = Vec::new();
    for (number, name) in [(300, "ann"), (400, "bob")] {
        let id = Uuid::from_u128(number);
        let consumer = json!({"id": id});
        records.push(record("consumers", number, json!({"username": name})));
        let hash = basic_auth_hash("pass", id);
        let password = json!({"consumer": consumer, "username": name, "password": hash});
        records.push(record("basicauth_credentials", number + 1, password));
    }
    let group = json!({"id": Uuid::from_u128(500)});
    records.push(record("consumer_groups", 500, json!({"name": "slow"})));
    let member = json!({"consumer_group": group, "consumer": {"id": Uuid::from_u128(400)}});
    records.push(record("consumer_group_consumers", 501, member));
    records
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n{headers}Connection: close\r\n\r\n")
}

fn basic(name: &str) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{name}:pass"));
    format!("Authorization: Basic {encoded}\r\n")
}

#[test]
fn filters_change_requests_and_responses_of_every_maker() {
    let (port, heads) = upstream(&[JSON]);
    let mut records = configuration(
        port,
        &json!({}),
        &[
            json!({"paths": ["~/users/(?<user>[a-z]+)"], "strip_path": false}),
            json!({"paths": ["/closed"]}),
        ],
    );
    records.push(plugin(
        200,
        "request-transformer",
        &json!({
            "add": {"headers": ["x-user:$(uri_captures.user)"], "querystring": ["n:1"]},
            "replace": {"uri": "/people/$(uri_captures['user'])"},
            "remove": {"headers": ["x-gone"]},
        }),
    ));
    records.push(plugin(
        201,
        "response-transformer",
        &json!({
            "remove": {"json": ["b"], "headers": ["x-secret"]},
            "add": {"json": ["c:true"], "json_types": ["boolean"], "headers": ["x-added:1"]},
        }),
    ));
    records.push(plugin(
        202,
        "cors",
        &json!({"origins": ["http://x.example"]}),
    ));
    records.push(plugin(
        203,
        "correlation-id",
        &json!({"echo_downstream": true}),
    ));
    records.push(scoped(
        plugin(
            204,
            "request-termination",
            &json!({"status_code": 418, "body": "{\"b\":1,\"d\":2}"}),
        ),
        &json!({"route": {"id": Uuid::from_u128(3)}}),
    ));
    let proxy = start(records);

    let answer = ask(
        &proxy,
        &get("/users/ann?m=0", "X-Gone: 1\r\nKong-Request-ID: mine\r\n"),
    );
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200 "), "{answer}");
    assert_eq!(body, r#"{"a":"1","c":true}"#);
    for (line, there) in [
        ("content-length: 18", true),
        ("x-secret", false),
        ("x-added: 1", true),
        ("kong-request-id: mine", true),
        ("access-control-allow-origin: http://x.example", true),
        ("x-kong-upstream-latency", true),
    ] {
        assert_eq!(head.contains(line), there, "{line}\n{head}");
    }
    let sent = heads.recv().unwrap().to_ascii_lowercase();
    assert!(
        sent.starts_with("get /people/ann?m=0&n=1 http/1.1\r\n"),
        "{sent}"
    );
    assert!(
        sent.contains("x-user: ann\r\n") && !sent.contains("x-gone"),
        "{sent}"
    );

    let answer = ask(&proxy, &get("/closed", ""));
    assert!(answer.starts_with("HTTP/1.1 418 "), "{answer}");
    assert!(answer.ends_with(r#"{"d":2,"c":true}"#), "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("x-added: 1\r\n"),
        "{answer}"
    );

    let answer = ask(&proxy, &get("/none", ""));
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("x-added: 1\r\n"),
        "global ones see that too: {answer}"
    );
    stop(proxy);
}

#[test]
fn consumers_and_their_groups_have_configurations_of_their_own() {
    let (port, heads) = upstream(&[OK]);
    let mut records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    records.extend(consumers());
    records.push(plugin(
        200,
        "basic-auth",
        &json!({"anonymous": "ann", "hide_credentials": true}),
    ));
    let tagged = |number: u128, value: &str, scope: &Value| {
        let config = json!({"add": {"headers": [format!("x-tag:{value}")]}});
        scoped(plugin(number, "request-transformer", &config), scope)
    };
    records.push(tagged(201, "all", &json!({})));
    records.push(tagged(
        202,
        "route",
        &json!({"route": {"id": Uuid::from_u128(2)}}),
    ));
    records.push(tagged(
        203,
        "group",
        &json!({"consumer_group": {"id": Uuid::from_u128(500)}}),
    ));
    let ann = json!({"consumer": {"id": Uuid::from_u128(300)}, "enabled": false});
    records.push(tagged(204, "ann", &ann));
    let proxy = start(records);
    let tag = |headers: &str| {
        let answer = ask(&proxy, &get("/", headers));
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let head = heads.recv().unwrap().to_ascii_lowercase();
        assert!(!head.contains("authorization"), "{head}");
        let line = head
            .lines()
            .find(|line| line.starts_with("x-tag: "))
            .unwrap();
        let name = head
            .lines()
            .find(|line| line.starts_with("x-consumer-username: "));
        format!(
            "{} {}",
            &line["x-tag: ".len()..],
            &name.unwrap()["x-consumer-username: ".len()..]
        )
    };
    assert_eq!(tag(&basic("bob")), "group bob");
    assert_eq!(tag(&basic("ann")), "route ann", "hers is disabled");
    assert_eq!(tag(""), "route ann", "she stands in for nobody");
    stop(proxy);
}

#[test]
fn what_is_over_is_told_and_counted() {
    let (port, _heads) = upstream(&[OK]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let collector = listener.local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("exchanges.log");
    let mut records = configuration(
        port,
        &json!({"name": "shop"}),
        &[json!({"name": "front", "paths": ["/x"]})],
    );
    records.extend(consumers());
    records.push(plugin(
        200,
        "http-log",
        &json!({"http_endpoint": format!("http://{collector}/log")}),
    ));
    records.push(plugin(
        201,
        "file-log",
        &json!({"path": file.to_str().unwrap()}),
    ));
    records.push(plugin(202, "basic-auth", &json!({})));
    records.push(plugin(
        203,
        "prometheus",
        &json!({"status_code_metrics": true, "per_consumer": true}),
    ));
    let added = json!({"add": {"headers": ["x-added:1"], "querystring": ["added:1"]}});
    records.push(plugin(204, "request-transformer", &added));
    let proxy = start(records);
    let request = format!(
        "POST /x/y?token=secret HTTP/1.1\r\nHost: a\r\n{}Content-Length: 5\r\nConnection: close\r\n\r\nhello",
        basic("ann")
    );
    assert!(ask(&proxy, &request).starts_with("HTTP/1.1 200 "));

    // Strangers may come meanwhile, to a port that was another test's before: they are told of, too.
    let posted = collected(listener);
    let record_of = |status: u64| {
        std::iter::from_fn(|| posted.recv_timeout(PATIENCE).ok())
            .find(|told: &Value| told["response"]["status"] == status)
            .unwrap()
    };
    let told = record_of(200);
    assert_eq!(told["request"]["uri"], "/x/y?token=REDACTED");
    assert_eq!(told["request"]["method"], "POST");
    assert_eq!(told["request"]["headers"]["authorization"], "REDACTED");
    assert_eq!(told["request"]["size"], request.len());
    assert_eq!(told["response"]["status"], 200);
    assert_eq!(told["upstream_status"], "200");
    assert_eq!(told["route"]["name"], "front");
    assert_eq!(told["service"]["name"], "shop");
    assert_eq!(told["consumer"]["username"], "ann");
    assert_eq!(told["source"], "upstream");
    assert_eq!(told["upstream_uri"], "/y?token=REDACTED&added=1");

    // Whoever sees every request hears of those that cannot be read, too.
    let long = get(&format!("/{}", "a".repeat(100_000)), "");
    let answer = ask(&proxy, &long);
    assert!(answer.starts_with("HTTP/1.1 414 "), "{answer}");
    let refused = record_of(414);
    assert_eq!(refused["request"]["headers"], json!({}));
    assert_eq!(refused["upstream_uri"], "");

    let metrics = get_status(&proxy, "/metrics");
    let line = r#"kong_http_requests_total{service="shop",route="front",code="200",source="service",workspace="default",consumer="ann"} 1"#;
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
    assert!(
        !metrics.contains("kong_bandwidth_bytes{"),
        "that was not asked for: {metrics}"
    );
    stop(proxy);
    let ids = [&told, &refused].map(|told| told["request"]["id"].as_str().unwrap().to_owned());
    let mut written = String::new();
    eventually("both are logged", || {
        written = std::fs::read_to_string(&file).unwrap_or_default();
        written.ends_with('\n') && ids.iter().all(|id| written.contains(id))
    });
    for line in written.lines() {
        let _: Value = serde_json::from_str(line).unwrap();
    }
}

#[test]
fn filters_for_every_request_see_what_is_refused_too() {
    let (port, _heads) = upstream(&[OK]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("exchanges.log");
    let routes = [
        json!({"paths": ["/x"]}),
        json!({"paths": ["/secure"], "protocols": ["https"]}),
        json!({"paths": ["/moved"], "protocols": ["https"], "https_redirect_status_code": 308}),
        json!({"paths": ["/grpc"], "protocols": ["grpc"], "strip_path": false}),
    ];
    let mut records = configuration(port, &json!({}), &routes);
    records.push(plugin(200, "file-log", &json!({"path": file})));
    let added = json!({"add": {"headers": ["x-added:1"]}});
    records.push(plugin(201, "response-transformer", &added));
    let proxy = start(records);
    let large = "y".repeat(70_000);
    let cases = [
        (
            format!("POST /x?a=b HTTP/1.1\r\nHost: a\r\nX: {large}\r\n\r\n"),
            400,
            "POST",
            "/x?a=b",
        ),
        (
            format!("PUT /x?a={large} HTTP/1.1\r\nHost: a\r\n\r\n"),
            414,
            "PUT",
            "/",
        ),
        (
            "GET /x HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n".to_owned(),
            400,
            "GET",
            "/x",
        ),
        (
            "GET /x%00 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(),
            400,
            "GET",
            "/x%00",
        ),
        (
            "TRACE /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(),
            405,
            "TRACE",
            "/x",
        ),
        (get("/other", ""), 404, "GET", "/other"),
        (get("/secure", ""), 426, "GET", "/secure"),
        (get("/moved?a", ""), 308, "GET", "/moved?a"),
        (get("/grpc", ""), 426, "GET", "/grpc"),
    ];
    for (request, status, _, _) in &cases {
        let answer = ask(&proxy, request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains("x-added: 1\r\n"), "{answer}");
    }
    stop(proxy);
    let mut written = Vec::new();
    eventually("each is told of", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        // Cores write for themselves, and of strangers, too.
        let told = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let told: Vec<_> = told.collect();
        let found = cases.iter().map_while(|(_, status, method, uri)| {
            let mut told = told.iter();
            told.find(|told| {
                let request = &told["request"];
                told["response"]["status"] == *status
                    && (&request["method"], &request["uri"]) == (&json!(method), &json!(uri))
            })
        });
        written = found.cloned().collect();
        written.len() == cases.len()
    });
    for told in written {
        assert_eq!(
            (&told["upstream_uri"], &told["source"]),
            (&json!(""), &json!("kong"))
        );
    }
}

/// The records that are posted to `listener` at `/log`, over whatever connections.
fn collected(listener: TcpListener) -> mpsc::Receiver<Value> {
    let (sender, records) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, sender) = (stream.unwrap(), sender.clone());
            std::thread::spawn(move || {
                while let Some((head, told)) = message(&mut stream) {
                    assert!(head.starts_with("POST /log HTTP/1.1\r\n"), "{head}");
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                    let _ = sender.send(serde_json::from_str(&told).unwrap());
                }
            });
        }
    });
    records
}

/// A head and the body that its length announces, unless the connection has ended.
fn message(stream: &mut TcpStream) -> Option<(String, String)> {
    let head = crate::gateway::read_until(stream, "\r\n\r\n")?;
    let lower = head.to_ascii_lowercase();
    let length = lower.split("content-length: ").nth(1).unwrap();
    let length = length.split("\r\n").next().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).unwrap()))
}

#[test]
fn a_body_without_a_length_is_counted_on_its_way() {
    let (port, _heads) = upstream(&[OK]);
    let mut records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    let limit = json!({"allowed_payload_size": 5, "size_unit": "bytes"});
    records.push(plugin(200, "request-size-limiting", &limit));
    let proxy = start(records);
    let send = |more: &str| {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n{more}Connection: close\r\n\r\n6\r\nhello!\r\n0\r\n\r\n"
        );
        ask(&proxy, &request)
    };
    for (more, status) in [("", "413"), ("Expect: 100-continue\r\n", "417")] {
        let answer = send(more);
        let (_, last) = answer.rsplit_once("HTTP/1.1 ").unwrap();
        assert!(last.starts_with(status), "{answer}");
        let said = "\"message\":\"Request size limit exceeded\"";
        assert!(last.contains(said), "{answer}");
        let lower = last.to_ascii_lowercase();
        assert!(lower.contains("x-kong-response-latency: "), "{answer}");
        assert!(!lower.contains("via: "), "{answer}");
    }
    stop(proxy);
}

#[test]
fn nodes_count_together_in_redis() {
    let redis = Redis::start();
    let (port, _heads) = upstream(&[OK]);
    let nodes: Vec<_> = (0..2)
        .map(|_| {
            let mut records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
            let config = json!({
                "minute": 3, "policy": "redis", "limit_by": "ip", "fault_tolerant": false,
                "redis": {"host": "127.0.0.1", "port": redis.port, "password": redis.password},
            });
            records.push(plugin(200, "rate-limiting", &config));
            start(records)
        })
        .collect();
    let status = |node: usize| {
        let answer = ask(&nodes[node], &get("/", ""));
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    let statuses = [status(0), status(1), status(0), status(1), status(0)];
    // A minute may begin meanwhile: then three more are let through, never four.
    let passed = statuses
        .iter()
        .take_while(|status| *status == "200")
        .count();
    assert!((3..=5).contains(&passed), "{statuses:?}");
    if passed == 3 {
        assert_eq!(statuses[3], "429");
    }
    redis.stop();
    let answer = ask(&nodes[0], &get("/", ""));
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert!(answer.contains("An unexpected error occurred"), "{answer}");
    for node in nodes {
        stop(node);
    }
}

#[test]
fn a_node_that_stops_has_told_redis_what_it_counted() {
    let redis = Redis::start();
    let (port, _heads) = upstream(&[OK]);
    let mut records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    // The last time to tell would be long after the test.
    let config = json!({
        "year": 9, "policy": "redis", "limit_by": "service", "sync_rate": 3600,
        "redis": {"host": "127.0.0.1", "port": redis.port, "password": redis.password},
    });
    records.push(plugin(200, "rate-limiting", &config));
    let proxy = start(records);
    for _ in 0..5 {
        assert!(ask(&proxy, &get("/", "")).starts_with("HTTP/1.1 200 "));
    }
    assert!(redis.command("KEYS ratelimit:*").ends_with("*0\r\n"));
    stop(proxy);
    let keys = redis.command("KEYS ratelimit:*");
    let key = keys.lines().last().unwrap();
    let counted = redis.command(&format!("GET {key}"));
    assert!(counted.ends_with("$1\r\n5\r\n"), "{keys} {counted}");
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";

#[test]
fn a_kept_answer_counts_as_the_upstreams() {
    let (port, _heads) = upstream(&[CHUNKED]);
    let mut records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    records.push(plugin(200, "proxy-cache", &json!({"strategy": "memory"})));
    records.push(counted());
    let proxy = start(records);
    for (status, length) in [("miss", false), ("hit", true)] {
        let answer = ask(&proxy, &get("/", "")).to_ascii_lowercase();
        assert!(
            answer.contains(&format!("x-cache-status: {status}\r\n")),
            "{answer}"
        );
        assert_eq!(answer.contains("content-length: "), length, "{answer}");
        for name in ["x-kong-proxy-latency", "x-kong-upstream-latency"] {
            assert!(answer.contains(name), "{name} {answer}");
        }
        assert!(!answer.contains("x-kong-response-latency"), "{answer}");
    }
    let metrics = get_status(&proxy, "/metrics");
    let count = r#"code="200",source="service",workspace="default",consumer=""} 2"#;
    assert!(metrics.contains(count), "{metrics}");
    stop(proxy);
}
