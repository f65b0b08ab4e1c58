//! What the upstream is told of a request, and how routes judge it, by the letter of Kong's reference: paths, `Host`,
//! `X-Forwarded-*`, what counts as HTTPS, which fields' values match, what is never sent twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use data_plane::limits::Limits;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::gateway::{
    OK, ask, configuration, read_until, record, serve_each, settings, start, start_with, stop,
    upstream,
};

fn send(proxy: &Proxy, target: &str, fields: &str) -> String {
    let request =
        format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n{fields}Connection: close\r\n\r\n");
    ask(proxy, &request)
}

/// A proxy that believes its neighbours, or nobody.
fn believing(trusts: bool, port: u16, routes: &[Value]) -> Proxy {
    let trusted = if trusts { &["127.0.0.1"][..] } else { &[] };
    let settings = Settings {
        trusted_ips: trusted.iter().map(|ip| ip.parse().unwrap()).collect(),
        ..settings()
    };
    let records = configuration(port, &json!({}), routes);
    start_with(&settings, Limits::default(), records)
}

#[test]
fn paths_and_queries_go_upstream_and_are_told_as_they_were() {
    let (port, heads) = upstream(&[OK]);
    let routes = [
        json!({"paths": ["/strip"]}),
        json!({"paths": ["/keep"], "strip_path": false}),
        json!({"paths": ["~/re/(?<id>\\d+)"]}),
        json!({"paths": ["/"]}),
    ];
    let proxy = start(configuration(port, &json!({}), &routes));
    for (target, sent, path, prefix) in [
        ("/strip/x?", "/x?", "/strip/x", Some("/strip")),
        (
            "/strip//y/../x?a=%2f&&",
            "/x?a=%2f&&",
            "/strip//y/../x",
            Some("/strip"),
        ),
        ("/strip", "/", "/strip", Some("/strip")),
        ("/stripped", "/ped", "/stripped", Some("/strip")),
        ("/keep/x", "/keep/x", "/keep/x", None),
        ("/re/42/x", "/x", "/re/42/x", Some("/re/42")),
        ("/other?x", "/other?x", "/other", None),
        ("/a%2fb%7e", "/a%2Fb~", "/a%2fb%7e", None),
    ] {
        let answer = send(&proxy, target, "");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let head = heads.recv().unwrap();
        assert!(
            head.starts_with(&format!("GET {sent} HTTP/1.1\r\n")),
            "{target}: {head}"
        );
        let lower = head.to_ascii_lowercase();
        let has = |line: &str| lower.contains(&format!("\r\n{line}\r\n"));
        assert!(
            has(&format!("x-forwarded-path: {path}")),
            "{target}: {head}"
        );
        match prefix {
            Some(prefix) => assert!(has(&format!("x-forwarded-prefix: {prefix}")), "{head}"),
            None => assert!(!lower.contains("x-forwarded-prefix"), "{target}: {head}"),
        }
    }
    stop(proxy);
}

#[test]
fn only_trusted_peers_speak_for_their_clients() {
    let (port, heads) = upstream(&[OK]);
    let routes = [
        json!({"paths": ["/p"]}),
        json!({"paths": ["/secure"], "protocols": ["https"]}),
        json!({"paths": ["/moved"], "protocols": ["https"], "https_redirect_status_code": 307}),
    ];
    let said = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: public.test\r\nX-Forwarded-Port: 8443\r\n\
                X-Forwarded-Prefix: /outer\r\nX-Forwarded-Path: /outer/p\r\nX-Forwarded-For: 192.0.2.7\r\n";
    for trusts in [true, false] {
        let proxy = believing(trusts, port, &routes);
        send(&proxy, "/p", said);
        let head = heads.recv().unwrap().to_ascii_lowercase();
        let own = proxy.addresses().proxy.unwrap().port().to_string();
        let (proto, host, port, prefix, path) = if trusts {
            ("https", "public.test", "8443", "/outer", "/outer/p")
        } else {
            ("http", "a.test", own.as_str(), "/p", "/p")
        };
        for line in [
            format!("x-forwarded-proto: {proto}"),
            format!("x-forwarded-host: {host}"),
            format!("x-forwarded-port: {port}"),
            format!("x-forwarded-prefix: {prefix}"),
            format!("x-forwarded-path: {path}"),
            "x-forwarded-for: 192.0.2.7, 127.0.0.1".to_owned(),
        ] {
            assert_eq!(
                head.matches(&format!("\r\n{line}\r\n")).count(),
                1,
                "{line}: {head}"
            );
        }
        // What counts as HTTPS.
        let answer = send(&proxy, "/secure", "X-Forwarded-Proto: https\r\n");
        let expected = if trusts {
            "HTTP/1.1 200 "
        } else {
            "HTTP/1.1 426 "
        };
        assert!(answer.starts_with(expected), "{answer}");
        if trusts {
            heads.recv().unwrap();
        } else {
            assert!(answer.contains("\r\nconnection: Upgrade\r\n"), "{answer}");
            assert!(
                answer.contains("\r\nupgrade: TLS/1.2, HTTP/1.1\r\n"),
                "{answer}"
            );
        }
        let to_http = "X-Forwarded-Proto: http\r\nX-Forwarded-Host: public.test\r\n";
        let answer = send(&proxy, "/moved/x?y=%20", to_http);
        let host = if trusts { "public.test" } else { "a.test" };
        let location = format!("\r\nlocation: https://{host}/moved/x?y=%20\r\n");
        assert!(answer.starts_with("HTTP/1.1 307 "), "{answer}");
        assert!(
            answer.contains(&location) && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
        stop(proxy);
    }
}

#[test]
fn a_server_hears_the_first_host_that_there_is() {
    let (port, heads) = upstream(&[OK]);
    let own = format!("127.0.0.1:{port}");
    let id = |id: u128| json!({ "id": Uuid::from_u128(id) });
    let service = |host: &str| json!({"host": host, "port": port, "read_timeout": 10_000});
    let route = |path: &str, service: u128, preserve: bool| json!({"paths": [path], "service": id(service), "preserve_host": preserve});
    let proxy = start(vec![
        record("services", 1, service("localhost")),
        record("services", 2, service("named.up")),
        record("services", 3, service("plain.up")),
        record(
            "upstreams",
            11,
            json!({"name": "named.up", "host_header": "in.test"}),
        ),
        record("upstreams", 12, json!({"name": "plain.up"})),
        record("targets", 21, json!({"target": own, "upstream": id(11)})),
        record("targets", 22, json!({"target": own, "upstream": id(12)})),
        record("routes", 31, route("/service", 1, false)),
        record("routes", 32, route("/header", 2, false)),
        record("routes", 33, route("/target", 3, false)),
        record("routes", 34, route("/preserved", 2, true)),
    ]);
    for (path, expected) in [
        ("/service", format!("localhost:{port}")),
        ("/header", format!("in.test:{port}")),
        ("/target", own.clone()),
        ("/preserved", "a.test".to_owned()),
    ] {
        send(&proxy, path, "");
        let head = heads.recv().unwrap().to_ascii_lowercase();
        assert!(
            head.contains(&format!("\r\nhost: {expected}\r\n")),
            "{path}: {head}"
        );
    }
    stop(proxy);
}

#[test]
fn header_values_match_whatever_their_case_and_any_of_several() {
    let (port, _heads) = upstream(&[OK]);
    let routes = [
        json!({"headers": {"X-Version": ["One", "two"], "X-Stage": ["live"]}}),
        json!({"headers": {"x-pattern": ["~*^v[0-9]+$"]}}),
    ];
    let proxy = start(configuration(port, &json!({}), &routes));
    for (fields, matches) in [
        ("x-version: ONE\r\nX-STAGE: Live\r\n", true),
        (
            "X-Version: three\r\nX-Version: two\r\nX-Stage: live\r\n",
            true,
        ),
        ("X-Version: one\r\n", false),
        ("X-Version: on\r\nX-Stage: live\r\n", false),
        ("X-Pattern: v12\r\n", true),
        ("X-Pattern: v12x\r\n", false),
    ] {
        let answer = send(&proxy, "/", fields);
        let expected = if matches {
            "HTTP/1.1 200 "
        } else {
            "HTTP/1.1 404 "
        };
        assert!(answer.starts_with(expected), "{fields}: {answer}");
    }
    stop(proxy);
}

/// How often a server that hangs up after reading a head has been asked, once the client has its answer to `method`.
fn tries(method: &str) -> usize {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let port = serve_each(move |mut stream| {
        if read_until(&mut stream, "\r\n\r\n").is_some() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let service = json!({"retries": 2});
    let proxy = start(configuration(port, &service, &[json!({"paths": ["/"]})]));
    let request = format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let answer = ask(&proxy, &request);
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    stop(proxy);
    asked.load(Ordering::SeqCst)
}

#[test]
fn what_may_not_be_repeated_is_sent_once() {
    for (method, expected) in [
        ("GET", 3),
        ("PUT", 3),
        ("DELETE", 3),
        ("POST", 1),
        ("PATCH", 1),
        ("LOCK", 1),
    ] {
        assert_eq!(tries(method), expected, "{method}");
    }
}
