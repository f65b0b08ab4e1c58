//! Requests that two servers could read in two ways never get past the first.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt as _;
use serde_json::json;

use crate::gateway::{
    OK, PATIENCE, ask, configuration, connect, read_until, start, stop, upstream,
};
use crate::http2;

/// The status of the answer to `request`, once the proxy has closed the connection.
fn status(proxy: &data_plane::proxy::Proxy, request: &str) -> String {
    let answer = ask(proxy, request);
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn a_request_that_could_be_read_in_two_ways_is_refused() {
    let (port, heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for head in [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\nHost: a@b\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a/b\r\n",
        "GET http://b/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
        "GET http://a/ HTTP/1.1\r\n",
        "GET http://u@a/ HTTP/1.1\r\nHost: u@a\r\n",
        "GET /a%zz HTTP/1.1\r\nHost: a\r\n",
        "GET /a%00 HTTP/1.1\r\nHost: a\r\n",
        "GET /a%4 HTTP/1.1\r\nHost: a\r\n",
        "GET a HTTP/1.1\r\nHost: a\r\n",
        "GET /#a HTTP/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\nZ: y\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\rZ: y\r\n",
        "GET / HTTP/1.1\nHost: a\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 39\r\nTransfer-Encoding: chunked\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 39\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 39\r\nContent-Length: 0\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 39\r\nContent-Length: 39\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +39\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 39, 39\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
        "GET / HTTP/0.9\r\nHost: a\r\n",
        "GET / HTTP/1.\r\nHost: a\r\n",
        "GET / HTTP/1.10\r\nHost: a\r\n",
        "GET / http/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n",
        "GET\t/ HTTP/1.1\r\nHost: a\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n",
        "GET /\r\nHost: a\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n",
        "GET /\u{e4} HTTP/1.1\r\nHost: a\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\0: y\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\0\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX(y): z\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: z\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 39\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x27\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 9\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 39.0\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 39\r\ncontent-length: 39\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked chunked\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 39\r\n",
    ] {
        let request = format!("{head}\r\n{smuggled}");
        let answer = ask(&proxy, &request);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head:?} {answer}");
        assert!(
            answer.contains("Bad request\nrequest_id: "),
            "{head:?} {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head:?} {answer}");
    }
    assert!(heads.try_recv().is_err(), "the upstream heard of none");
    assert_eq!(
        status(
            &proxy,
            "TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        ),
        "405"
    );
    assert_eq!(
        status(
            &proxy,
            "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nConnection: close\r\n\r\n"
        ),
        "405"
    );
    assert!(heads.try_recv().is_err());
    stop(proxy);
}

/// RFC 9110 §2.5, §6.2, as nginx does: what goes upstream is of the version that the gateway speaks.
#[test]
fn a_later_version_of_http_1_is_served_as_1_1_and_another_http_is_refused() {
    let (port, heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let ask = |version: &str| {
        let head = format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n");
        ask(&proxy, &head)
    };
    assert!(ask("1.2").starts_with("HTTP/1.1 200 "));
    let sent = heads.recv_timeout(PATIENCE).unwrap();
    assert!(sent.starts_with("GET / HTTP/1.1\r\n"), "{sent}");
    for version in ["2.0", "3.0", "9.9"] {
        let answer = ask(version);
        assert!(answer.starts_with("HTTP/1.1 505 "), "{version} {answer}");
        let told = "HTTP version not supported\nrequest_id: ";
        assert!(answer.contains(told), "{version} {answer}");
    }
    assert!(heads.try_recv().is_err());
    stop(proxy);
}

/// RFC 9112 §3.2.2: what `Host` says counts for nothing then.
#[test]
fn an_absolute_target_is_what_is_asked_for_whatever_host_says() {
    let (port, heads) = upstream(&[OK]);
    let routes = [
        json!({"hosts": ["target.test"], "preserve_host": true}),
        json!({"hosts": ["field.test"], "paths": ["/secret"]}),
    ];
    let proxy = start(configuration(port, &json!({}), &routes));
    let get = |target: &str, host: &str| {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        status(&proxy, &head)
    };
    assert_eq!(get("http://TARGET.test/secret?a", "field.test"), "200");
    let head = heads.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("GET /secret?a HTTP/1.1\r\n"), "{head}");
    let lower = head.to_ascii_lowercase();
    assert!(!lower.contains("field.test"), "{head}");
    assert_eq!(
        lower.matches("\r\nhost: target.test\r\n").count(),
        1,
        "{head}"
    );
    assert!(
        lower.contains("\r\nx-forwarded-host: target.test\r\n"),
        "{head}"
    );
    // Nor is a route of that host met.
    assert_eq!(get("http://other.test/secret", "field.test"), "404");
    assert_eq!(get("http://field.test/secret", "target.test"), "200");
    stop(proxy);
}

#[test]
fn a_broken_chunk_is_answered_and_nothing_behind_it_is_a_request() {
    let proxy_for = |port| {
        start(configuration(
            port,
            &json!({"retries": 0}),
            &[json!({"paths": ["/"]})],
        ))
    };
    for body in [
        "0x1\r\na\r\n0\r\n\r\n",
        "1 \r\na\r\n0\r\n\r\n",
        "1\na\r\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1;a\nb\r\na\r\n0\r\n\r\n",
        "1;a\rb\r\na\r\n0\r\n\r\n",
        "1;\0\r\na\r\n0\r\n\r\n",
        " 1\r\na\r\n0\r\n\r\n",
        "+1\r\na\r\n0\r\n\r\n",
        "-1\r\na\r\n0\r\n\r\n",
        ";a\r\n0\r\n\r\n",
        "1\r\n\na\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "1\r\na0\r\n\r\n",
        "ffffffffffffffff1\r\na\r\n0\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX: y\r\n folded\r\n\r\n",
        "0\n\n",
    ] {
        let (port, heads) = upstream(&[OK]);
        let proxy = proxy_for(port);
        let answer = ask(
            &proxy,
            &format!(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
            ),
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{body:?} {answer}");
        assert!(
            heads.try_iter().all(|head| !head.contains("smuggled")),
            "{body:?}"
        );
        stop(proxy);
    }
}

#[test]
fn requests_before_a_refused_one_are_answered_first() {
    let (port, heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let answer = ask(
        &proxy,
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\nHost: a\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    let lines: Vec<&str> = answer
        .split("HTTP/1.1 ")
        .skip(1)
        .map(|part| &part[..3])
        .collect();
    assert_eq!(lines, ["200", "200", "400"], "{answer}");
    let heads: Vec<String> = heads.try_iter().collect();
    assert_eq!(heads.len(), 2, "{heads:?}");
    stop(proxy);
}

#[test]
fn a_head_has_limits_that_are_told() {
    let (port, _heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let target = |length: usize| {
        status(
            &proxy,
            &format!(
                "GET /{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                "x".repeat(length - 1)
            ),
        )
    };
    assert_eq!(target(16 * 1024), "200");
    assert_eq!(target(16 * 1024 + 1), "414");
    assert_eq!(target(500 * 1024), "414");
    let fields = |count: usize| {
        status(
            &proxy,
            &format!(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}\r\n",
                "x: y\r\n".repeat(count - 2)
            ),
        )
    };
    assert_eq!(fields(1000), "200");
    assert_eq!(fields(1001), "400");
    let size = |length: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nx: ";
        status(
            &proxy,
            &format!("{start}{}\r\n\r\n", "y".repeat(length - start.len() - 4)),
        )
    };
    assert_eq!(size(64 * 1024), "200");
    assert_eq!(size(64 * 1024 + 1), "400");
    assert_eq!(size(300 * 1024), "400");
    stop(proxy);
}

/// One size for both versions of HTTP, and one answer.
#[test]
fn a_head_that_is_too_large_is_told_so() {
    const TOO_LARGE: &str = "Request header or cookie too large\nrequest_id: ";
    const BEFORE: usize = "GET / HTTP/1.1\r\nx: \r\nhost: a.test\r\n\r\n".len();
    let (port, heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    http2::run(async {
        let mut client = http2::plain(&proxy).await;
        for (length, status, told) in [
            (64 * 1024, StatusCode::OK, "ok"),
            (64 * 1024 + 1, StatusCode::BAD_REQUEST, TOO_LARGE),
            (100 * 1024, StatusCode::BAD_REQUEST, TOO_LARGE),
        ] {
            let mut request = http2::request("http://a.test/");
            let value = "y".repeat(length - BEFORE).parse().unwrap();
            request.headers_mut().insert("x", value);
            let answer = client.send_request(request).await.unwrap();
            assert_eq!(answer.status(), status, "{length}");
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert!(body.starts_with(told.as_bytes()), "{length} {body:?}");
        }
    });
    assert!(heads.recv_timeout(PATIENCE).is_ok() && heads.try_recv().is_err());
    stop(proxy);
}

#[test]
fn a_request_may_come_byte_by_byte_and_cut_anywhere() {
    let (port, heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let mut stream = connect(&proxy);
    for byte in b"\r\nGET /1 HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_micros(300));
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
    assert!(heads.recv().unwrap().starts_with("GET /1 "));
    stop(proxy);
}

#[test]
fn only_a_websocket_is_an_upgrade() {
    let (port, heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    for (method, protocol) in [
        ("GET", "h2c"),
        ("GET", "TLS/1.2"),
        ("POST", "websocket"),
        ("GET", "websocket, h2c"),
    ] {
        let mut stream = connect(&proxy);
        write!(
            stream,
            "{method} /1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\nContent-Length: 0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 2, "{answer}");
        let head = heads.recv().unwrap().to_ascii_lowercase();
        assert!(!head.contains("upgrade"), "{head}");
        heads.recv().unwrap();
    }
    stop(proxy);
}

#[test]
fn a_websocket_that_is_refused_leaves_the_connection_as_it_was() {
    let (port, heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let mut stream = connect(&proxy);
    stream
        .write_all(b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    let head = read_until(&mut stream, "\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("HTTP/1.1 200 "), "{answer}");
    assert!(
        heads
            .recv()
            .unwrap()
            .to_ascii_lowercase()
            .contains("upgrade: websocket")
    );
    assert!(heads.recv().unwrap().starts_with("GET /2 "));
    stop(proxy);
}

#[test]
fn a_length_in_disguise_does_not_go_upstream() {
    let (port, heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    ask(
        &proxy,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent_Length: 5\r\nTransfer_Encoding: chunked\r\nX_Kept: 1\r\n\r\n",
    );
    let head = heads.recv().unwrap().to_ascii_lowercase();
    assert!(
        !head.contains("content_length") && !head.contains("transfer_encoding"),
        "{head}"
    );
    assert!(head.contains("x_kept: 1"), "{head}");
    stop(proxy);
}

#[test]
fn an_answer_whose_framing_is_broken_is_none() {
    for (answer, expected) in [
        ("200 OK\r\nContent-Length: 2\r\n\r\nok", "200"),
        (
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "200",
        ),
        (
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "200",
        ),
        (
            "200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok",
            "502",
        ),
        (
            "200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n",
            "200",
        ),
        (
            "200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            "502",
        ),
        ("200 OK\r\nContent-Length: 0\r\n\r\n\r\n", "200"),
        ("200 OK\r\nContent-Length: -2\r\n\r\nok", "502"),
        ("200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", "502"),
    ] {
        let answer: &str = format!("HTTP/1.1 {answer}").leak();
        let (port, _heads) = upstream(Box::leak(Box::new([answer])));
        let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
        let found = status(
            &proxy,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        );
        assert_eq!(found, expected, "{answer:?}");
        stop(proxy);
    }
}

#[test]
fn of_an_answer_that_breaks_off_the_client_has_what_came() {
    for (answer, length) in [
        ("Content-Length: 50\r\n\r\nshort", "content-length: 50"),
        (
            "Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
            "transfer-encoding: chunked",
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            read_until(&mut stream, "\r\n\r\n").unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\n{answer}").unwrap();
        });
        let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
        let found = ask(&proxy, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let (head, body) = found.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains(length),
            "{found}"
        );
        assert!(
            body.contains("short") && !body.contains("0\r\n\r\n"),
            "{found}"
        );
        stop(proxy);
    }
}
