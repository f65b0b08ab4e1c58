//! Trailers behind an answer, and the fields that are for proxies only.

use std::io::Write as _;
use std::net::TcpListener;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::json;

use crate::gateway::{
    OK, ask, configuration, connect, plugin, read_until, serve_each, start, stop, upstream,
};
use crate::http2::{plain, run};

#[test]
fn trailers_reach_clients_that_take_them() {
    let (port, _heads) = upstream(&[
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Expires, X-Sum\r\n\r\n\
         5  \r\nhello\r\n0 \r\nX-Sum: 7\r\nContent-Length: 1\r\nX-Consumer-Id: 1\r\n\r\n",
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
fn trailers_are_announced_to_servers_that_get_them() {
    let owner = plugin(200, "session", &json!({"request_headers": ["id"]}));
    for (plugins, method, body, announced) in [
        (&[][..], "POST", "1\r\na\r\n0\r\nX-Sum: 7\r\n\r\n", true),
        (
            std::slice::from_ref(&owner),
            "POST",
            "1\r\na\r\n0\r\nX-Sum: 7\r\n\r\n",
            false,
        ),
        (&[], "GET", "", false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut records = configuration(port, &json!({}), &[json!({"paths": ["/"]})]);
        records.extend_from_slice(plugins);
        let proxy = start(records);
        let mut client = connect(&proxy);
        let coding = if body.is_empty() {
            ""
        } else {
            "Transfer-Encoding: chunked\r\n"
        };
        let head = format!("{method} / HTTP/1.1\r\nHost: a\r\nTrailer: X-Sum\r\n{coding}\r\n");
        client
            .write_all(format!("{head}{body}").as_bytes())
            .unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let head = read_until(&mut server, "\r\n\r\n")
            .unwrap()
            .to_ascii_lowercase();
        assert_eq!(head.contains("\r\ntrailer: x-sum\r\n"), announced, "{head}");
        if !body.is_empty() {
            let sent = read_until(&mut server, "\r\n\r\n").unwrap();
            assert_eq!(sent.contains("x-sum: 7"), announced, "{sent}");
        }
        drop((client, server));
        stop(proxy);
    }
}

#[test]
fn those_of_uploads_are_bounded_alike_by_both_versions() {
    const MOST: usize = 16 * 1024;
    let port = serve_each(|mut stream| {
        while read_until(&mut stream, "\r\n\r\n").is_some()
            && read_until(&mut stream, "\r\n\r\n").is_some()
            && stream.write_all(OK.as_bytes()).is_ok()
        {}
    });
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let of_length = |length: usize| vec!["y".repeat(length - "x-sum: \r\n\r\n".len())];
    for (values, status) in [
        (of_length(MOST - 1), 200),
        (of_length(MOST), 200),
        (of_length(MOST + 1), 400),
        (of_length(100 * 1024), 400),
        (vec!["y".to_owned(); 64], 200),
        (vec!["y".to_owned(); 65], 400),
    ] {
        let what = format!("{} of {} bytes", values.len(), values[0].len());
        let parts = values.iter().flat_map(|value| ["x-sum: ", value, "\r\n"]);
        let lines: String = parts.collect();
        let head =
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = ask(&proxy, &format!("{head}1\r\na\r\n0\r\n{lines}\r\n"));
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{what}: {answer}");
        run(async {
            let mut trailers = HeaderMap::new();
            for value in values {
                trailers.append("x-sum", value.parse().unwrap());
            }
            let frames = [
                Ok(Frame::data(Bytes::from_static(b"a"))),
                Ok(Frame::trailers(trailers)),
            ];
            let body = StreamBody::new(futures::stream::iter(frames)).boxed();
            let request = Request::post("http://a.test/").body(body).unwrap();
            let answer = plain(&proxy).await.send_request(request).await.unwrap();
            assert_eq!(answer.status(), status, "{what}");
        });
    }
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
