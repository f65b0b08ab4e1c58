//! Heads that pass as they came: a route without filters and one whose filter changes nothing tell upstream and client
//! the same, whatever form the fields have inside.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;
use uuid::Uuid;

use crate::gateway::{ask, configuration, plugin, record, scoped, start, stop, upstream};

/// An answer that passes as it came, and one in which much has to be looked at.
const USUAL: &str = "HTTP/1.1 200 OK\r\nServer: Origin\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
                     Keep-Alive: timeout=5\r\nConnection: keep-alive\r\nContent-Length: 2\r\nSet-Cookie: a=1\r\n\
                     Set-Cookie: b=2\r\nTrailer: x\r\nETag: \"1\"\r\n\r\nok";
const STRANGE: &str = "HTTP/1.1 200 OK\r\nServer:Origin\r\nVia: 1.0 a\r\nX-Kong-Upstream-Latency: 9\r\n\
                       X-Kong-Request-Id: theirs\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-Empty:\r\n\
                       Content-Length: 2\r\nETag: \"1\" \r\n\r\nok";

/// A head's lines in order, without what differs from one request to the next.
fn lines(head: &str) -> Vec<String> {
    let mut lines: Vec<String> = head
        .lines()
        .filter(|line| !line.contains("request-id: ") && !line.contains("-latency: "))
        .filter(|line| !line.starts_with("date: ") || line.contains("1994"))
        .map(ToOwned::to_owned)
        .collect();
    lines.sort();
    lines
}

/// Requests with a cookie that a session key of the cluster has sealed.
fn cookies() -> impl Iterator<Item = String> {
    let key = Uuid::from_u128(71);
    let head = [&[1, 2][..], &key.as_bytes()[..8], &[7; 20]].concat();
    let sealed = URL_SAFE_NO_PAD.encode(head);
    let requests = [
        format!("Host: a\r\nCookie: s={sealed}; s2=more\r\n"),
        format!("Host: a\r\nCookie: s={sealed}; a=1 ;s2=more\r\nCookie: c=\"3\"; d\r\n"),
    ];
    requests.into_iter()
}

#[test]
fn a_head_passes_alike_with_filters_and_without() {
    let requests = [
        "Host: Gate.test\r\n",
        "Host: gate.test\r\nX-Kept: yes\r\nCookie: a=1\r\nAccept: */*\r\nUSER-AGENT: Me\r\n",
        "host:gate.test\r\nx-odd:  a \r\nX-Empty:\r\n",
        "Host: a\r\nX-Consumer-Id: 1\r\nx_userinfo: 1\r\ncontent_length: 3\r\nX-Forwarded-Host: b\r\nExpect: no\r\n",
        "Host: a\r\nX-Forwarded-For: 9.9.9.9\r\nVia: 1.0 b\r\nX-Kong-Request-Id: mine\r\n",
        "Host: a\r\nx_forwarded_for: 1\r\nX-Forwarded-User: root\r\nForwarded: for=1\r\nX-Original-URL: /y\r\n",
        "Host: a\r\nConnection: x-forwarded-for\r\nX-Forwarded-For: 9.9.9.9\r\n",
        "Host: a\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\n",
        "Host: a\r\nConnection: Keep-Alive\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n",
        "Host: a\r\nContent-Length: 0\r\nContent-Type: text/plain\r\n",
    ];
    for answer in [USUAL, STRANGE] {
        let (port, heads) = upstream(Box::leak(Box::new([answer])));
        let mut records = configuration(
            port,
            &json!({}),
            &[
                json!({"paths": ["/bare"], "strip_path": true}),
                json!({"paths": ["/seen"], "strip_path": true}),
            ],
        );
        let idle = plugin(
            70,
            "request-size-limiting",
            &json!({"allowed_payload_size": 100}),
        );
        records.push(scoped(idle, &json!({"route": {"id": Uuid::from_u128(3)}})));
        records.push(record(
            "session_keys",
            71,
            json!({"secret": STANDARD.encode([1; 32]), "activate_at": 1, "state": "ready"}),
        ));
        let proxy = start(records);
        for fields in requests.iter().map(ToString::to_string).chain(cookies()) {
            let [bare, seen] = ["/bare", "/seen"].map(|path| {
                let request = format!("GET {path}/x?q HTTP/1.1\r\n{fields}\r\n");
                let close = "GET / HTTP/1.1\r\nHost: none\r\nConnection: close\r\n\r\n";
                let answers = ask(&proxy, &format!("{request}{close}"));
                let (answer, _) = answers.split_once("HTTP/1.1 404").unwrap_or((&answers, ""));
                let upstream = heads.recv().unwrap().replace(path, "/route");
                (lines(&upstream), lines(answer))
            });
            assert_eq!(bare, seen, "{fields}");
            let believed = [
                "x_forwarded_for",
                "x-forwarded-user",
                "forwarded: ",
                "x-original-url",
            ];
            for name in believed {
                assert!(
                    bare.0.iter().all(|line| !line.starts_with(name)),
                    "{bare:?}"
                );
            }
            if fields.contains("Cookie: s=") {
                // A session of another route of the host.
                let left = bare.0.iter().filter(|line| line.starts_with("cookie: "));
                let left: Vec<_> = left.map(String::as_str).collect();
                let expected: &[&str] = if fields.contains("a=1") {
                    &["cookie: a=1; c=\"3\"; d"]
                } else {
                    &[]
                };
                assert_eq!(left, expected, "{fields}");
            }
            if fields.contains("9.9.9.9") {
                let chain = "x-forwarded-for: 9.9.9.9, 127.0.0.1".to_owned();
                assert!(bare.0.contains(&chain), "{bare:?}");
            }
            let (_, answer) = bare;
            assert!(answer.contains(&"etag: \"1\"".to_owned()), "{answer:?}");
        }
        stop(proxy);
    }
}
