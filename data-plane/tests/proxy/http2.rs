//! HTTP/2 from clients: with and without TLS, many requests at once, trailers.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_plane::proxy::Proxy;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::gateway::{
    OK, PATIENCE, configuration, plugin, read_until, record, start, stop, upstream,
};

pub(crate) type Body = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

pub(crate) fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            tokio::time::timeout(PATIENCE, work).await.unwrap();
        });
}

async fn client(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> SendRequest<Body> {
    let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(io))
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) async fn plain(proxy: &Proxy) -> SendRequest<Body> {
    client(
        TcpStream::connect(proxy.addresses().proxy.unwrap())
            .await
            .unwrap(),
    )
    .await
}

pub(crate) fn request(uri: &str) -> Request<Body> {
    Request::builder()
        .uri(uri)
        .body(Full::default().boxed())
        .unwrap()
}

/// The status of the answer to a request with `fields`, each as `name: value`, and `body`.
pub(crate) fn status(proxy: &Proxy, uri: &str, fields: &[&str], body: &'static str) -> u16 {
    let mut request = Request::post(uri);
    for field in fields {
        let (name, value) = field.split_once(": ").unwrap();
        request = request.header(name, value);
    }
    let request = request.body(Full::from(body).boxed()).unwrap();
    let mut status = 0;
    run(async {
        let answer = plain(proxy).await.send_request(request).await.unwrap();
        status = answer.status().as_u16();
    });
    status
}

#[test]
fn many_requests_share_one_connection_and_none_waits_for_another() {
    const MANY: usize = 40;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let all_there = Arc::new(std::sync::Barrier::new(MANY));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let all_there = Arc::clone(&all_there);
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                read_until(&mut stream, "\r\n\r\n").unwrap();
                // Nobody is answered before all have asked.
                all_there.wait();
                stream.write_all(OK.as_bytes()).unwrap();
            });
        }
    });
    let proxy = start(configuration(
        port,
        &json!({"read_timeout": 60_000}),
        &[json!({"paths": ["/"]})],
    ));
    run(async {
        let client = plain(&proxy).await;
        let asked = (0..MANY).map(|number| {
            let mut client = client.clone();
            async move {
                let response = client
                    .send_request(request(&format!("http://a.test/{number}")))
                    .await
                    .unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                assert_eq!(response.version(), Version::HTTP_2);
                assert_eq!(
                    response.headers()["via"],
                    format!("1.1 {}", shared::version::KONG_PRODUCT)
                );
                assert!(!response.headers().contains_key("keep-alive"));
                response.into_body().collect().await.unwrap().to_bytes()
            }
        });
        for body in futures::future::join_all(asked).await {
            assert_eq!(body, "ok");
        }
    });
    stop(proxy);
}

#[test]
fn an_answer_of_the_gateway_has_no_content_where_none_may_be() {
    let (port, _) = upstream(&[]);
    let mut records = configuration(port, &json!({}), &[json!({"paths": ["/empty"]})]);
    let config = json!({"status_code": 204, "message": "never sent"});
    records.push(plugin(100, "request-termination", &config));
    let proxy = start(records);
    run(async {
        let mut client = plain(&proxy).await;
        for (method, path, status, length) in [
            (Method::HEAD, "/none", StatusCode::NOT_FOUND, true),
            (Method::GET, "/none", StatusCode::NOT_FOUND, true),
            (Method::HEAD, "/empty", StatusCode::NO_CONTENT, false),
            (Method::GET, "/empty", StatusCode::NO_CONTENT, false),
        ] {
            let mut request = request(&format!("http://a.test{path}"));
            *request.method_mut() = method.clone();
            let response = client.send_request(request).await.unwrap();
            assert_eq!(response.status(), status, "{method} {path}");
            let told = response.headers().get(CONTENT_LENGTH).cloned();
            assert_eq!(told.is_some(), length, "{method} {path}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let sent = method == Method::GET && length;
            assert_eq!(!body.is_empty(), sent, "{method} {path}");
        }
    });
    stop(proxy);
}

#[test]
fn trailers_pass_both_ways_and_hop_by_hop_fields_do_not() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, received) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").unwrap();
        let body = read_until(&mut stream, "\r\n\r\n").unwrap();
        sender.send((head, body)).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n")
            .unwrap();
    });
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    run(async {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-digest", "5".parse().unwrap());
        trailers.insert("content-length", "5".parse().unwrap());
        let frames = [
            Ok(Frame::data(Bytes::from_static(b"hello"))),
            Ok(Frame::trailers(trailers)),
        ];
        let body = StreamBody::new(futures::stream::iter(frames)).boxed();
        let request = Request::post("http://a.test/")
            .header("te", "trailers")
            .body(body)
            .unwrap();
        let response = plain(&proxy).await.send_request(request).await.unwrap();
        assert!(!response.headers().contains_key("x-hop"));
        let body = response.into_body().collect().await.unwrap();
        let trailers = body.trailers().unwrap().clone();
        assert_eq!(trailers["x-sum"], "7");
        assert!(!trailers.contains_key("content-length"));
        assert_eq!(body.to_bytes(), "ok");
    });
    let (head, body) = received.recv().unwrap();
    assert!(
        head.to_ascii_lowercase().contains("te: trailers\r\n"),
        "{head}"
    );
    assert_eq!(body, "5\r\nhello\r\n0\r\nx-digest: 5\r\n\r\n");
    stop(proxy);
}

#[test]
fn an_answer_that_breaks_off_at_once_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if read_until(&mut stream, "\r\n\r\n").is_some() {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
            }
        }
    });
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    run(async {
        // The head may be here before it is known that nothing follows: then the stream is reset.
        for _ in 0..1000 {
            let answered = plain(&proxy)
                .await
                .send_request(request("http://a.test/"))
                .await;
            let Ok(response) = answered else { continue };
            if response.status() == StatusCode::BAD_GATEWAY {
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert!(
                    body.starts_with(b"An invalid response was received"),
                    "{body:?}"
                );
                return;
            }
        }
        panic!("never told");
    });
    stop(proxy);
}

#[test]
fn a_length_that_the_data_breaks_does_not_become_a_request() {
    let (port, heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    run(async {
        for (length, expected) in [("3", false), ("100", false), ("5", true)] {
            let request = Request::post("http://a.test/")
                .header("content-length", length)
                .body(
                    StreamBody::new(futures::stream::iter([Ok(Frame::data(
                        Bytes::from_static(b"hello"),
                    ))]))
                    .boxed(),
                )
                .unwrap();
            let mut client = plain(&proxy).await;
            let answered =
                tokio::time::timeout(Duration::from_secs(5), client.send_request(request)).await;
            let succeeded =
                matches!(answered, Ok(Ok(response)) if response.status() == StatusCode::OK);
            // The upstream answers before it has seen the body, so only a lie in time is known to fail.
            assert!(succeeded || !expected, "{length}");
        }
        let mut client = plain(&proxy).await;
        let mut other = request("http://a.test/");
        other
            .headers_mut()
            .insert("host", "b.test".parse().unwrap());
        let response = client.send_request(other).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let response = client
            .send_request(request("http://a.test/%00"))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        // Also twice the same: what stands in front may have looked at one of them.
        for lengths in [["0", "0"], ["0", "5"]] {
            let mut twice = request("http://a.test/");
            for length in lengths {
                let length = length.parse().unwrap();
                twice.headers_mut().append("content-length", length);
            }
            if let Ok(response) = client.send_request(twice).await {
                assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{lengths:?}");
            }
        }
    });
    for head in heads.try_iter() {
        assert!(
            head.trim_start_matches("hello")
                .starts_with("POST / HTTP/1.1\r\n"),
            "{head}"
        );
    }
    stop(proxy);
}

/// Plain HTTP is told so, in the form that it asks for.
fn is_told_that_it_speaks_no_tls(address: std::net::SocketAddr) {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET /bare HTTP/1.1\r\nHost: gate.test\r\nAccept: text/html\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 ")
            && answer.contains("<p>The plain HTTP request was sent to HTTPS port.</p>"),
        "{answer}"
    );
}

#[test]
fn tls_offers_http2_and_http1_and_tells_the_upstream() {
    let (port, heads) = upstream(&[OK]);
    let made = rcgen::generate_simple_self_signed(vec!["gate.test".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (
        directory.path().join("c.pem"),
        directory.path().join("k.pem"),
    );
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let settings = data_plane::settings::Settings {
        proxy_tls_certificate: Some(certificate),
        proxy_tls_key: Some(key),
        ..crate::gateway::settings()
    };
    let log = directory.path().join("log");
    let mut records = configuration(
        port,
        &json!({}),
        &[json!({"snis": ["gate.test"], "protocols": ["https"], "paths": ["/"]})],
    );
    records.push(plugin(200, "file-log", &json!({"path": log})));
    let limits = data_plane::limits::Limits::default();
    let proxy = crate::gateway::start_with(&settings, limits, records);
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let connect = async |protocol: &[u8]| {
        let mut config = ClientConfig::builder_with_provider(shared::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(proxy.addresses().proxy_tls.unwrap())
            .await
            .unwrap();
        let name = ServerName::try_from("gate.test").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap()
    };
    run(async {
        let stream = connect(b"h2").await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let response = client(stream)
            .await
            .send_request(request("https://gate.test/"))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);

        let mut stream = connect(b"http/1.1").await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: gate.test\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

        // What was agreed on binds both.
        for (agreed, sent) in [
            (
                &b"http/1.1"[..],
                &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
            ),
            (b"h2", b"GET / HTTP/1.1\r\nHost: gate.test\r\n\r\n"),
        ] {
            let mut stream = connect(agreed).await;
            stream.write_all(sent).await.unwrap();
            let mut answer = Vec::new();
            // The end may come without word.
            let _ = stream.read_to_end(&mut answer).await;
            assert!(answer.is_empty(), "{agreed:?}: {answer:?}");
        }
    });
    for head in heads.try_iter() {
        let head = head.to_ascii_lowercase();
        assert!(head.contains("x-forwarded-proto: https\r\n"), "{head}");
    }
    is_told_that_it_speaks_no_tls(proxy.addresses().proxy_tls.unwrap());
    stop(proxy);
    let written = (0..500).find_map(|_| {
        std::thread::sleep(Duration::from_millis(10));
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        (text.lines().count() == 3).then_some(text)
    });
    for line in written.unwrap().lines() {
        let told: serde_json::Value = serde_json::from_str(line).unwrap();
        let tls = &told["request"]["tls"];
        if told["request"]["uri"] == "/bare" {
            assert_eq!(
                (&told["response"]["status"], tls),
                (&json!(400), &json!(null))
            );
            continue;
        }
        assert_eq!(
            (&tls["version"], &tls["client_verify"]),
            (&json!("TLSv1.3"), &json!("NONE"))
        );
        assert!(tls["cipher"].as_str().unwrap().starts_with("TLS_"), "{tls}");
    }
}

#[test]
fn a_client_may_run_out_of_patience_but_not_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Takes connections and never answers.
    let proxy = start(configuration(
        port,
        &json!({"read_timeout": 60_000}),
        &[json!({"paths": ["/"]})],
    ));
    run(async {
        // Whoever has waited for an answer is in no hurry.
        let mut patient = plain(&proxy).await;
        for _ in 0..2 {
            let mut waiting = tokio::task::JoinSet::new();
            for _ in 0..60 {
                let asked = patient.send_request(request("http://a.test/"));
                waiting.spawn(tokio::time::timeout(Duration::from_millis(200), asked));
            }
            let outcomes = waiting.join_all().await;
            assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
        }
        let served = patient.send_request(request("http://a.test/%00")).await;
        assert_eq!(served.unwrap().status(), StatusCode::BAD_REQUEST);
        // Unless it goes on and on.
        while patient.ready().await.is_ok() {
            let mut waiting = tokio::task::JoinSet::new();
            for _ in 0..100 {
                let asked = patient.send_request(request("http://a.test/"));
                waiting.spawn(tokio::time::timeout(Duration::from_millis(100), asked));
            }
            waiting.join_all().await;
        }
        // Others are served as before.
        let response = plain(&proxy)
            .await
            .send_request(request("http://a.test/%00"))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    });
    drop(listener);
    stop(proxy);
}

#[test]
fn uploads_that_a_server_does_not_read_hold_up_no_others() {
    // Takes connections and reads nothing: what it has room for is little.
    let stuck = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    stuck.set_recv_buffer_size(4096).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    stuck.bind(&any.into()).unwrap();
    stuck.listen(64).unwrap();
    let stuck_at = stuck.local_addr().unwrap().as_socket().unwrap().port();
    let (port, _heads) = upstream(&[OK]);
    let mut records = configuration(port, &json!({}), &[json!({"paths": ["/fine"]})]);
    let owner = json!({"id": uuid::Uuid::from_u128(101)});
    let service = json!({"host": "127.0.0.1", "port": stuck_at, "write_timeout": 20_000});
    let route = json!({"paths": ["/stuck"], "request_buffering": false, "service": owner});
    records.extend([
        record("services", 101, service),
        record("routes", 102, route),
    ]);
    let proxy = start(records);
    run(async {
        let mut shared = plain(&proxy).await;
        let upload = |path: &str, length: usize| {
            let body = Full::from(vec![0; length]).boxed();
            let request = Request::post(format!("http://a.test{path}")).body(body);
            request.unwrap()
        };
        let stuck: Vec<_> = (0..8)
            .map(|_| tokio::spawn(shared.send_request(upload("/stuck", 16 * 1024 * 1024))))
            .collect();
        // They go on until nobody takes more.
        let mut others = tokio::task::JoinSet::new();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            others.spawn(shared.send_request(upload("/fine", 1000)));
        }
        for response in others.join_all().await {
            assert_eq!(response.unwrap().status(), StatusCode::OK);
        }
        assert!(stuck.iter().all(|upload| !upload.is_finished()));
    });
    drop(stuck);
    stop(proxy);
}
