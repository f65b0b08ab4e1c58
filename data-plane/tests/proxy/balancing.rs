//! Upstreams with targets: whose turn it is, further attempts, health, and what operators see.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use data_plane::limits::Limits;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use serde_json::{Value, json};
use shared::clock::monotonic;
use shared::snapshot::Record;
use uuid::Uuid;

use crate::gateway::{
    PATIENCE, ask, closed_port, plugin, read_until, record, settings, start, start_with, stop,
};
use crate::tls::unknown_server;

/// A server that answers with its own port, and as unwell while it is told to be.
struct Server {
    port: u16,
    ill: Arc<AtomicBool>,
}

fn server() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let ill = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&ill);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, ill) = (stream.unwrap(), Arc::clone(&told));
            std::thread::spawn(move || {
                while let Some(head) = read_until(&mut stream, "\r\n\r\n") {
                    let status = if ill.load(Ordering::Relaxed) {
                        "500 Ill"
                    } else {
                        "200 OK"
                    };
                    let host = head
                        .lines()
                        .find(|line| line.to_ascii_lowercase().starts_with("host:"))
                        .unwrap_or_default()
                        .to_owned();
                    let body = format!("{port} {host}");
                    let answer = format!(
                        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    if stream.write_all(answer.as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
    Server { port, ill }
}

/// A service that is spread over `targets` by the upstream `u.test`.
pub(crate) fn balanced(upstream: Value, targets: &[String], service: &Value) -> Vec<Record> {
    let mut upstream = upstream;
    upstream["name"] = json!("u.test");
    let mut fields = json!({"host": "u.test", "port": 1, "read_timeout": 60_000});
    fields
        .as_object_mut()
        .unwrap()
        .extend(service.as_object().unwrap().clone());
    let mut records = vec![
        record("upstreams", 50, upstream),
        record("services", 1, fields),
        record(
            "routes",
            2,
            json!({"paths": ["/"], "service": {"id": Uuid::from_u128(1)}}),
        ),
        record(
            "routes",
            3,
            json!({"paths": ["/kept"], "preserve_host": true, "service": {"id": Uuid::from_u128(1)}}),
        ),
    ];
    for (number, target) in (100..).zip(targets) {
        let target = json!({"target": target, "upstream": {"id": Uuid::from_u128(50)}});
        records.push(record("targets", number, target));
    }
    records
}

pub(crate) fn get(proxy: &Proxy, path: &str, fields: &str) -> String {
    ask(
        proxy,
        &format!("GET {path} HTTP/1.1\r\nHost: gate.test\r\n{fields}Connection: close\r\n\r\n"),
    )
}

/// Asks the status listener.
fn status(proxy: &Proxy, method: &str, path: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(proxy.addresses().status.unwrap()).unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (code, serde_json::from_str(body).unwrap_or(Value::Null))
}

fn healths(proxy: &Proxy) -> Vec<String> {
    let (code, shown) = status(proxy, "GET", "/upstreams/u.test/health");
    assert_eq!(code, 200);
    shown["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|target| target["health"].as_str().unwrap().to_owned())
        .collect()
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let start = monotonic();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn targets_take_turns_and_hear_their_own_host() {
    let (one, two) = (server(), server());
    let targets = [
        format!("127.0.0.1:{}", one.port),
        format!("localhost:{}", two.port),
    ];
    let proxy = start(balanced(json!({}), &targets, &json!({})));
    let answers: Vec<String> = (0..8).map(|_| get(&proxy, "/", "")).collect();
    let of = |port: u16| {
        let shown = format!("\r\n\r\n{port} ");
        answers
            .iter()
            .filter(|answer| answer.contains(&shown))
            .count()
    };
    assert_eq!((of(one.port), of(two.port)), (4, 4), "{answers:?}");
    for host in [&targets[0], &targets[1]] {
        let line = format!("host: {host}");
        assert!(
            answers.iter().any(|answer| answer.contains(&line)),
            "{host}"
        );
    }
    assert!(get(&proxy, "/kept", "").ends_with("host: gate.test"));
    stop(proxy);
    let named = json!({"host_header": "named.test"});
    let proxy = start(balanced(named, &targets[..1], &json!({})));
    let expected = format!("host: named.test:{}", one.port);
    assert!(get(&proxy, "/", "").ends_with(&expected));
    stop(proxy);
}

#[test]
fn a_refused_request_goes_to_the_next_target() {
    let one = server();
    let targets = [
        format!("127.0.0.1:{}", closed_port()),
        format!("127.0.0.1:{}", one.port),
        format!("127.0.0.1:{}", closed_port()),
    ];
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut records = balanced(json!({}), &targets, &json!({"retries": 2}));
    records.push(plugin(200, "file-log", &json!({"path": log})));
    let proxy = start(records);
    for _ in 0..9 {
        let answer = get(&proxy, "/", "");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        // Nothing of a POST has been sent to a server that refuses.
        let posted = ask(
            &proxy,
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        );
        assert!(posted.starts_with("HTTP/1.1 200 "), "{posted}");
    }
    stop(proxy);
    wait_for("all is logged", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.lines().count() == 18)
    });
    // Each attempt but the last is told with what became of it.
    for line in std::fs::read_to_string(&log).unwrap().lines() {
        let told: Value = serde_json::from_str(line).unwrap();
        let (last, failed) = told["tries"].as_array().unwrap().split_last().unwrap();
        assert_eq!(
            (&last["ip"], &last["port"]),
            (&json!("127.0.0.1"), &json!(one.port))
        );
        assert!(
            last["state"].is_null() && last["balancer_latency"].is_u64(),
            "{last}"
        );
        for one in failed {
            assert_eq!(
                (&one["state"], &one["code"]),
                (&json!("failed"), &json!(502))
            );
        }
        // None was tried before the request began.
        let at = failed.first().unwrap_or(last)["balancer_start"].as_u64();
        assert!(told["started_at"].as_u64() <= at, "{told}");
        assert!(told["request"]["tls"].is_null(), "{told}");
    }
    let proxy = start(balanced(json!({}), &targets, &json!({"retries": 0})));
    let failed = (0..9)
        .filter(|_| get(&proxy, "/", "").starts_with("HTTP/1.1 502 "))
        .count();
    assert_eq!(failed, 6);
    stop(proxy);
}

#[test]
fn without_a_target_there_is_kongs_503() {
    let proxy = start(balanced(json!({}), &[], &json!({})));
    for (fields, part) in [
        (
            "",
            "\"message\":\"failure to get a peer from the ring-balancer\"",
        ),
        (
            "Accept: text/html\r\n",
            "<p>failure to get a peer from the ring-balancer.</p>",
        ),
    ] {
        let answer = get(&proxy, "/", fields);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains(part), "{answer}");
    }
    assert_eq!(status(&proxy, "GET", "/upstreams/other/health").0, 404);
    assert_eq!(status(&proxy, "DELETE", "/upstreams/u.test/health").0, 405);
    stop(proxy);
}

#[test]
fn passive_checks_take_a_target_out_until_somebody_puts_it_back() {
    let (one, two) = (server(), server());
    let targets = [
        format!("127.0.0.1:{}", one.port),
        format!("127.0.0.1:{}", two.port),
    ];
    let upstream = json!({"healthchecks": {"passive": {"unhealthy": {"http_failures": 1}}}});
    let proxy = start(balanced(upstream, &targets, &json!({})));
    assert_eq!(healths(&proxy), ["HEALTHY", "HEALTHY"]);
    one.ill.store(true, Ordering::Relaxed);
    let failed = (0..6)
        .filter(|_| get(&proxy, "/", "").starts_with("HTTP/1.1 500 "))
        .count();
    assert_eq!(failed, 1);
    assert_eq!(healths(&proxy), ["UNHEALTHY", "HEALTHY"]);
    one.ill.store(false, Ordering::Relaxed);
    let path = format!("/upstreams/u.test/targets/{}/healthy", targets[0]);
    assert_eq!(status(&proxy, "PUT", &path).0, 204);
    assert_eq!(healths(&proxy), ["HEALTHY", "HEALTHY"]);
    let one_target = format!("/upstreams/u.test/targets/{}", targets[0]);
    for (method, path, code, data) in [
        ("GET", "/upstreams/u.test/targets", 200, Some(2)),
        ("GET", "/upstreams/u.test/targets/", 200, Some(2)),
        ("GET", "/upstreams/u.test/targets/all/", 200, Some(2)),
        ("GET", "/upstreams/u.test/targets/all?size=1", 200, Some(1)),
        (
            "GET",
            "/upstreams/u.test/targets/all?size=1&offset=1",
            200,
            Some(1),
        ),
        (
            "GET",
            "/upstreams/u.test/targets/all?size=1&offset=2",
            200,
            Some(0),
        ),
        ("GET", "/upstreams/u.test/targets/all?size=0", 400, None),
        ("GET", "/upstreams/u.test/targets/all?size=1001", 400, None),
        ("GET", "/upstreams/u.test/targets/all?size=x", 400, None),
        ("GET", "/upstreams/u.test/targets/all?offset=x", 400, None),
        ("GET", "/upstreams/u.test/health/", 200, Some(2)),
        ("GET", &one_target, 200, None),
        ("GET", "/upstreams/u.test/targets/nobody:1", 404, None),
        ("POST", "/upstreams/u.test/targets", 405, None),
        ("DELETE", &one_target, 405, None),
        ("PATCH", &one_target, 405, None),
        ("PUT", &one_target, 405, None),
        // As Kong's since 3.0.
        ("POST", &path, 404, None),
        ("GET", &path, 404, None),
        (
            "PUT",
            "/upstreams/u.test/targets/nobody:1/healthy",
            404,
            None,
        ),
        ("GET", "/status/dns", 501, None),
    ] {
        let (found, shown) = status(&proxy, method, path);
        assert_eq!(found, code, "{method} {path} {shown}");
        let length = shown["data"].as_array().map(Vec::len);
        assert_eq!(length, data, "{method} {path} {shown}");
    }
    let (_, page) = status(&proxy, "GET", "/upstreams/u.test/targets?size=2");
    assert_eq!(
        (&page["offset"], &page["next"]),
        (&json!("2"), &json!("/upstreams/u.test/targets?offset=2"))
    );
    let (_, shown) = status(&proxy, "GET", &one_target);
    assert_eq!(shown["target"], json!(targets[0]));
    let (_, whole) = status(&proxy, "GET", "/upstreams/u.test/health?balancer_health=1");
    assert_eq!(whole["data"]["health"], "HEALTHY");
    stop(proxy);
}

#[test]
fn active_checks_find_a_target_ill_and_well_again() {
    for kind in ["http", "tcp"] {
        let (one, two) = (server(), server());
        let refusing = closed_port();
        let targets = [
            format!("127.0.0.1:{}", one.port),
            format!(
                "127.0.0.1:{}",
                if kind == "tcp" { refusing } else { two.port }
            ),
        ];
        let upstream = json!({"healthchecks": {"active": {
            "type": kind, "http_path": "/status",
            "healthy": {"interval": 0.05, "successes": 1},
            "unhealthy": {"interval": 0.05, "http_failures": 1, "tcp_failures": 1}
        }}});
        let proxy = start(balanced(upstream, &targets, &json!({"retries": 0})));
        if kind == "tcp" {
            wait_for("a closed port", || {
                healths(&proxy) == ["HEALTHY", "UNHEALTHY"]
            });
        } else {
            two.ill.store(true, Ordering::Relaxed);
            wait_for("ill", || healths(&proxy) == ["HEALTHY", "UNHEALTHY"]);
            for _ in 0..4 {
                assert!(get(&proxy, "/", "").starts_with("HTTP/1.1 200 "));
            }
            one.ill.store(true, Ordering::Relaxed);
            wait_for("all ill", || {
                get(&proxy, "/", "").starts_with("HTTP/1.1 503 ")
            });
            two.ill.store(false, Ordering::Relaxed);
            wait_for("well again", || healths(&proxy) == ["UNHEALTHY", "HEALTHY"]);
            assert!(get(&proxy, "/", "").starts_with("HTTP/1.1 200 "));
        }
        stop(proxy);
    }
}

#[test]
fn checks_by_tls_and_of_grpc_find_a_target_well_or_not() {
    let server = unknown_server("check.test");
    let check = |active: Value, port: u16, expected: &str| {
        let mut active = active;
        active["healthy"] = json!({"interval": 0.05, "successes": 1});
        active["unhealthy"] = json!({"interval": 0.05, "tcp_failures": 1});
        active["https_sni"] = json!("check.test");
        let upstream = json!({"healthchecks": {"active": active}});
        let target = format!("127.0.0.1:{port}");
        let proxy = start(balanced(
            upstream,
            std::slice::from_ref(&target),
            &json!({}),
        ));
        // What it is at first is not what a check has found.
        let other = if expected == "HEALTHY" {
            "unhealthy"
        } else {
            "healthy"
        };
        let path = format!("/upstreams/u.test/targets/{target}/{other}");
        assert_eq!(status(&proxy, "PUT", &path).0, 204);
        wait_for(&active.to_string(), || healths(&proxy) == [expected]);
        stop(proxy);
    };
    let https = |verify: bool| json!({"type": "https", "https_verify_certificate": verify});
    check(https(false), server, "HEALTHY");
    check(https(true), server, "UNHEALTHY");
    check(json!({"type": "grpc"}), server, "HEALTHY");
    check(json!({"type": "grpc"}), closed_port(), "UNHEALTHY");
}

#[test]
fn a_server_that_fails_everybody_is_not_asked_again_for_each() {
    // It closes every connection without an answer.
    let (port, heads) = crate::gateway::upstream(&[""]);
    let targets = [format!("127.0.0.1:{port}")];
    let records = balanced(json!({}), &targets, &json!({"retries": 3}));
    let settings = Settings {
        workers: 1,
        ..settings()
    };
    let proxy = start_with(&settings, Limits::default(), records);
    for _ in 0..2 {
        assert!(get(&proxy, "/", "").starts_with("HTTP/1.1 502 "));
    }
    assert_eq!(heads.try_iter().count(), 8, "each has its attempts");
    let requests = 200;
    for _ in 0..requests {
        assert!(get(&proxy, "/", "").starts_with("HTTP/1.1 502 "));
    }
    let asked = heads.try_iter().count();
    assert!((requests..2 * requests).contains(&asked), "{asked}");
    stop(proxy);
}

/// The answers to so many `requests` to one worker, whose targets are some that fail each of them and the one at `port`; how many
/// those failed.
fn ask_beside_ill_ones(ill: usize, port: u16, requests: usize) -> (Vec<String>, usize) {
    let ill: Vec<_> = (0..ill).map(|_| crate::gateway::upstream(&[""])).collect();
    let ports = ill.iter().map(|(port, _)| *port).chain([port]);
    let targets: Vec<String> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
    let settings = Settings {
        workers: 1,
        ..settings()
    };
    let records = balanced(json!({}), &targets, &json!({}));
    let proxy = start_with(&settings, Limits::default(), records);
    let answers = (0..requests).map(|_| get(&proxy, "/", "")).collect();
    stop(proxy);
    let failed = ill.iter().map(|(_, heads)| heads.try_iter().count());
    (answers, failed.sum())
}

#[test]
fn each_is_asked_of_other_targets_while_one_of_them_answers() {
    for ill in [1, 3] {
        let well = server();
        let (answers, failed) = ask_beside_ill_ones(ill, well.port, 400);
        for answer in answers {
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        assert!(failed > 150, "{failed}");
    }
}

#[test]
fn a_target_that_has_too_much_to_do_is_spared_most_of_what_others_fail() {
    for refusal in [
        &["HTTP/1.1 503 A\r\nContent-Length: 0\r\n\r\n"],
        &["HTTP/1.1 429 A\r\nContent-Length: 0\r\n\r\n"],
    ] {
        let (port, heads) = crate::gateway::upstream(refusal);
        let (answers, _) = ask_beside_ill_ones(1, port, 800);
        let bad = answers.iter().filter(|one| one.contains(" 502 ")).count();
        let asked = heads.try_iter().count();
        assert!(bad > 100 && bad + asked == 800, "{bad} {asked}");
    }
}

#[test]
fn a_cookie_keeps_a_client_with_its_target() {
    let servers: Vec<Server> = (0..3).map(|_| server()).collect();
    let targets: Vec<String> = servers
        .iter()
        .map(|server| format!("127.0.0.1:{}", server.port))
        .collect();
    let upstream = json!({
        "algorithm": "consistent-hashing", "hash_on": "cookie", "hash_on_cookie": "sticky",
        "hash_on_cookie_path": "/app"
    });
    let proxy = start(balanced(upstream, &targets, &json!({})));
    let body = |answer: &str| answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    let first = get(&proxy, "/", "");
    let cookie = first
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .unwrap();
    assert!(
        cookie.starts_with("sticky=") && cookie.ends_with("; Path=/app"),
        "{cookie}"
    );
    let value = cookie.split(';').next().unwrap();
    for _ in 0..6 {
        let again = get(&proxy, "/", &format!("Cookie: {value}\r\n"));
        assert_eq!(body(&again), body(&first));
        assert!(!again.contains("set-cookie"), "{again}");
    }
    stop(proxy);
}

#[test]
fn a_body_that_is_there_is_sent_again() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = server();
    let targets = [
        format!("127.0.0.1:{}", dead.local_addr().unwrap().port()),
        format!("127.0.0.1:{}", one.port),
    ];
    std::thread::spawn(move || {
        for stream in dead.incoming() {
            let mut stream = stream.unwrap();
            let _ = read_until(&mut stream, "\r\n\r\n");
        }
    });
    let proxy = start(balanced(json!({}), &targets, &json!({"retries": 1})));
    for framing in [
        "Content-Length: 2\r\n\r\nhi",
        "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ] {
        for _ in 0..2 {
            let request = format!("PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{framing}");
            let answer = ask(&proxy, &request);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
    }
    stop(proxy);
}
