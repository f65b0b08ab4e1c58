//! What the gateway says by itself: forms of errors, fields about itself, answers about protocols.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use data_plane::limits::Limits;
use data_plane::settings::Settings;
use serde_json::{Value, json};

use crate::gateway::{
    OK, ask, closed_port, configuration, connect, plugin, read_until, settings, start, start_with,
    stop, upstream,
};

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n{fields}Connection: close\r\n\r\n")
}

#[test]
fn an_error_has_the_form_that_the_client_takes() {
    let proxy = start(configuration(
        closed_port(),
        &json!({"retries": 0}),
        &[json!({"paths": ["/down"]})],
    ));
    let invalid = "An invalid response was received from the upstream server";
    for (fields, content_type, part) in [
        (
            "",
            "text/plain; charset=utf-8",
            format!("{invalid}\nrequest_id: "),
        ),
        (
            "Accept: */*\r\n",
            "application/json; charset=utf-8",
            format!("{{\n  \"message\":\"{invalid}\",\n  \"request_id\":\""),
        ),
        (
            "Accept: text/html,application/xml;q=0.9\r\n",
            "text/html; charset=utf-8",
            format!("<p>{invalid}.</p>"),
        ),
        (
            "Content-Type: application/xml\r\n",
            "application/xml; charset=utf-8",
            format!("<message>{invalid}</message>"),
        ),
    ] {
        let answer = ask(&proxy, &get("/down", fields));
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        assert!(
            answer.contains(&format!("content-type: {content_type}\r\n")) && answer.contains(&part),
            "{answer}"
        );
        assert!(
            answer.contains("x-kong-upstream-latency: ") && !answer.contains("response-latency"),
            "{answer}"
        );
    }
    // What routing finds is JSON for whoever does not ask for something else.
    for (fields, content_type) in [
        ("", "application/json"),
        ("Content-Type: text/html\r\n", "application/json"),
        ("Accept: text/html\r\n", "text/html"),
        ("Accept: text/plain\r\n", "text/plain"),
    ] {
        let answer = ask(&proxy, &get("/none", fields));
        let line = format!("content-type: {content_type}; charset=utf-8\r\n");
        assert!(answer.contains(&line), "{fields} {answer}");
    }
    let answer = ask(&proxy, &get("/none", ""));
    assert!(
        answer.contains("\"message\":\"no Route matched with those values\"")
            && answer.contains("x-kong-response-latency: ")
            && !answer.contains("upstream-latency"),
        "{answer}"
    );
    stop(proxy);
}

#[test]
fn rule_135_an_operator_chooses_what_is_told_and_off_leaves_no_trace() {
    let (port, heads) = upstream(&[OK]);
    let records = || {
        configuration(
            port,
            &json!({"name": "service-1"}),
            &[json!({"paths": ["/r"], "name": "route-1"})],
        )
    };
    let quiet = Settings {
        headers: vec!["off".to_owned()],
        headers_upstream: vec!["off".to_owned()],
        ..settings()
    };
    let proxy = start_with(&quiet, Limits::default(), records());
    let answer = ask(&proxy, &get("/r", "Kong-Debug: 1\r\n"));
    assert!(answer.contains("server: origin"), "{answer}");
    assert!(!heads.recv().unwrap().contains("x-kong-request-id"));
    let own = ask(&proxy, &get("/none", ""));
    for text in [&answer, &own] {
        assert!(
            !text.contains("x-kong-") && !text.contains("via:"),
            "{text}"
        );
        assert!(
            !text.contains("kong-route") && !text.contains("server: kong"),
            "{text}"
        );
    }
    stop(proxy);

    let open = Settings {
        headers: vec!["X-Kong-Upstream-Status".to_owned(), "Via".to_owned()],
        allow_debug_header: true,
        ..settings()
    };
    let proxy = start_with(&open, Limits::default(), records());
    let answer = ask(&proxy, &get("/r", "Kong-Debug: 1\r\n"));
    for line in [
        "x-kong-upstream-status: 200",
        "via: 1.1 kong/",
        "kong-route-id: 00000000-0000-0000-0000-000000000002",
        "kong-route-name: route-1",
        "kong-service-id: 00000000-0000-0000-0000-000000000001",
        "kong-service-name: service-1",
    ] {
        assert!(answer.contains(line), "{line} in {answer}");
    }
    assert!(!answer.contains("latency"), "{answer}");
    assert!(!ask(&proxy, &get("/r", "")).contains("kong-route-id"));
    stop(proxy);
}

#[test]
fn an_answer_that_does_not_wait_for_the_body_ends_the_connection() {
    let (port, _heads) = upstream(&[OK]);
    let proxy = start(configuration(
        port,
        &json!({}),
        &[json!({"paths": ["/"], "request_buffering": false})],
    ));
    for (length, body, closes) in [(5, "hello", false), (500, "hello", true)] {
        let mut stream = connect(&proxy);
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .unwrap();
        let answer = read_until(&mut stream, "\r\n\r\n").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let told = answer.contains("connection: close\r\n");
        assert_eq!(told, closes, "{answer}");
    }
    stop(proxy);
}

#[test]
fn clients_are_taken_at_every_address_of_the_lists() {
    let (port, _heads) = upstream(&[OK]);
    let list = [
        "127.0.0.1:0",
        "127.0.0.2:0 http2 backlog=16",
        "127.0.0.1:0 ssl reuseport",
    ];
    let settings = Settings {
        proxy_listen: list.map(|one| one.parse().unwrap()).into(),
        proxy_tls_listen: Vec::new(),
        status_listen: vec!["off".parse().unwrap()],
        ..settings()
    };
    let records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    let proxy = start_with(&settings, Limits::default(), records);
    let addresses = proxy.addresses();
    assert_eq!(addresses.status, None);
    let [first, second, secure] = addresses.listeners[..] else {
        panic!("{addresses:?}")
    };
    assert_eq!(
        (addresses.proxy, addresses.proxy_tls),
        (Some(first), Some(secure))
    );
    for (address, status) in [(first, 200), (second, 200), (secure, 400)] {
        let answer = crate::gateway::get(address, "/");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    stop(proxy);
}

#[test]
fn a_grpc_route_says_what_it_needs() {
    let proxy = start(configuration(
        closed_port(),
        &json!({}),
        &[json!({"paths": ["/grpc"], "protocols": ["grpc", "grpcs"], "strip_path": false})],
    ));
    let answer = ask(&proxy, &get("/grpc", "Content-Type: application/grpc\r\n"));
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
    let lower = answer.to_ascii_lowercase();
    assert!(
        lower.contains("upgrade: http/2\r\n") && lower.contains("connection: upgrade"),
        "{answer}"
    );
    let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["message"], "Please use HTTP2 protocol");
    stop(proxy);
}

#[test]
fn a_status_without_a_name_keeps_that_of_the_upstream() {
    let (port, heads) = upstream(&[
        "HTTP/1.1 999 Quite strange\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 299\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 404 Nowhere\r\nContent-Length: 0\r\n\r\n",
    ]);
    let service = json!({"path": "/base"});
    let proxy = start(configuration(port, &service, &[json!({"paths": ["/"]})]));
    for line in ["999 Quite strange", "299 ", "404 Not Found"] {
        let answer = ask(
            &proxy,
            "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        );
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {line}\r\n")),
            "{answer}"
        );
        let head = heads.recv().unwrap();
        assert!(head.starts_with("OPTIONS * HTTP/1.1\r\n"), "{head}");
    }
    stop(proxy);
}

#[test]
fn what_a_server_says_before_its_answer_reaches_clients_that_take_it_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (go_on, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            read_until(&mut stream, "\r\n\r\n").unwrap();
            let before = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
                          HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-own\r\nX-Own: 1\r\nSet-Cookie: session=a\r\n\
                          X-Accel-Expires: 1\r\nContent-Length: 7\r\n\r\n";
            stream.write_all(before.as_bytes()).unwrap();
            told.recv().unwrap();
            stream.write_all(OK.as_bytes()).unwrap();
        }
    });
    let routes = [json!({"paths": ["/"]})];
    let proxy = start(configuration(port, &json!({}), &routes));
    let mut client = connect(&proxy);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    client.write_all(request.as_bytes()).unwrap();
    let first = read_until(&mut client, "\r\n\r\n").unwrap();
    assert_eq!(first, "HTTP/1.1 102 Processing\r\n\r\n");
    let second = read_until(&mut client, "\r\n\r\n").unwrap();
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
    assert_eq!(second, hints, "no more than hints");
    go_on.send(()).unwrap();
    let mut last = String::new();
    client.read_to_string(&mut last).unwrap();
    assert!(
        last.starts_with("HTTP/1.1 200 OK\r\n") && last.ends_with("\r\n\r\nok"),
        "{last}"
    );

    // A client of HTTP/1.0 would take the first answer for the last.
    go_on.send(()).unwrap();
    let old = ask(&proxy, "GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert!(old.starts_with("HTTP/1.0 200 OK\r\n"), "{old}");
    assert_eq!(old.matches("HTTP/1.").count(), 1, "{old}");
    stop(proxy);
}

#[test]
fn a_server_may_say_often_that_it_is_at_work_but_not_for_ever() {
    let said = |times: usize| {
        let before = "HTTP/1.1 102 Processing\r\n\r\n".repeat(times);
        let answers = [&*String::leak(before + OK)];
        let (port, _heads) = upstream(Box::leak(Box::new(answers)));
        let records = configuration(port, &json!({"retries": 0}), &[json!({"paths": ["/"]})]);
        let proxy = start(records);
        let answer = ask(
            &proxy,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        );
        stop(proxy);
        let count = answer.matches("HTTP/1.1 102 Processing\r\n\r\n").count();
        let last = answer.contains("HTTP/1.1 200 OK\r\n");
        (count, last, answer.contains("HTTP/1.1 502 "))
    };
    assert_eq!(said(200), (200, true, false));
    let (_, answered, failed) = said(20_000);
    assert!(failed && !answered, "a head without end");
}

#[test]
fn a_length_that_an_answer_to_head_tells_passes_the_cache() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n";
    let (port, _heads) = upstream(Box::leak(Box::new([answer])));
    let mut records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
    records.push(plugin(200, "proxy-cache", &json!({"strategy": "memory"})));
    let proxy = start(records);
    for status in ["miss", "hit"] {
        let head = "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = ask(&proxy, head).to_ascii_lowercase();
        let told = format!("x-cache-status: {status}\r\n");
        assert!(answer.contains(&told), "{answer}");
        assert!(answer.contains("content-length: 2\r\n"), "{answer}");
    }
    stop(proxy);
}

#[test]
fn an_answer_that_may_have_no_content_has_none() {
    let (port, _heads) = upstream(&[OK]);
    for (status, framed) in [(204, false), (205, true), (304, false), (403, true)] {
        let mut records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
        let config = json!({"deny": ["127.0.0.1"], "status": status, "message": "no"});
        records.push(plugin(90, "ip-restriction", &config));
        let proxy = start(records);
        let answer = ask(&proxy, &get("/", ""));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        let has = |name: &str| head.contains(&format!("\r\n{name}: "));
        assert_eq!(has("content-length"), framed, "{answer}");
        assert_eq!(
            (has("content-type"), body.is_empty()),
            (status == 403, status != 403),
            "{answer}"
        );
        stop(proxy);
    }
}
