//! Trailers behind an answer, and the fields that are for proxies only.

use serde_json::json;

use crate::gateway::{OK, ask, configuration, start, stop, upstream};

#[test]
fn trailers_reach_clients_that_take_them() {
    let (port, _heads) = upstream(&[
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Expires, X-Sum\r\n\r\n\
         5\r\nhello\r\n0\r\nX-Sum: 7\r\nContent-Length: 1\r\nX-Consumer-Id: 1\r\n\r\n",
    ]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let get = |fields: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
        ask(&proxy, &request)
    };
    let answer = get("TE: deflate;q=0.5, Trailers\r\n");
    assert!(
        answer.contains("\r\ntrailer: Expires, X-Sum\r\n"),
        "{answer}"
    );
    assert!(
        answer.ends_with("\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"),
        "{answer}"
    );
    let answer = get("");
    assert!(!answer.contains("trailer"), "{answer}");
    assert!(answer.ends_with("5\r\nhello\r\n0\r\n\r\n"), "{answer}");
    stop(proxy);
}

#[test]
fn what_is_for_proxies_stays_here() {
    let (port, heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    ask(
        &proxy,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nProxy: a\r\nProxy-Connection: close\r\n\
         Proxy-Authorization: Basic YTpi\r\nX-Proxy: kept\r\n\r\n",
    );
    let head = heads.recv().unwrap().to_ascii_lowercase();
    assert!(head.contains("\r\nx-proxy: kept\r\n"), "{head}");
    assert!(!head.contains("\r\nproxy"), "{head}");
    stop(proxy);
}
