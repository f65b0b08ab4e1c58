//! gRPC through to a server of HTTP/2, and TLS towards servers.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use data_plane::proxy::Proxy;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use crate::gateway::{ask, configuration, plugin, start, stop};
use crate::http2::{Body, run};

/// What stands in `Via` of a message that came by HTTP/2.
const BY_HTTP2: &str = "2 kong/3.9.1";

/// Sends each message back as it comes, then the status in trailers.
async fn echo(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let authority = request.uri().authority().unwrap().to_string();
    let path = request.uri().path().to_owned();
    let field = |name| request.headers().get(name).cloned();
    let (te, via) = (field("te"), field("via"));
    let mut body = request.into_body();
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(4);
    tokio::spawn(async move {
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data()
                && sender.send(Ok(Frame::data(data))).await.is_err()
            {
                return;
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert("x-authority", authority.parse().unwrap());
        let _ = sender.send(Ok(Frame::trailers(trailers))).await;
    });
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut response = Response::new(StreamBody::new(stream).boxed());
    let headers = response.headers_mut();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    headers.insert("x-path", path.parse().unwrap());
    for (name, value) in [("x-te", te), ("x-via", via)] {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    Ok(response)
}

/// A server of HTTP/2 without TLS that takes one call at a time on a connection, and answers once it has `calls` of
/// them and all that their clients send. It refuses the first to `/refused.`, having read it, and ends the connection
/// with one to `/last.`.
async fn narrow_server(calls: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let met = Arc::new(tokio::sync::Barrier::new(calls));
    let refused = Arc::new(AtomicBool::new(false));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (met, refused) = (Arc::clone(&met), Arc::clone(&refused));
            let last = Arc::new(tokio::sync::Notify::new());
            let ends = Arc::clone(&last);
            let answer = move |request: Request<Incoming>| {
                let (met, refused) = (Arc::clone(&met), Arc::clone(&refused));
                let last = Arc::clone(&last);
                async move {
                    let path = request.uri().path().to_owned();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    if path.starts_with("/last.") {
                        last.notify_one();
                    } else if !path.starts_with("/refused.") {
                        met.wait().await;
                    } else if !refused.swap(true, Ordering::Relaxed) {
                        return Err(h2::Error::from(h2::Reason::REFUSED_STREAM));
                    }
                    Ok(Response::new(Full::new(body)))
                }
            };
            tokio::spawn(async move {
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let served = builder
                    .max_concurrent_streams(1)
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                let mut served = std::pin::pin!(served);
                tokio::select! {
                    _ = served.as_mut() => return,
                    () = ends.notified() => served.as_mut().graceful_shutdown(),
                }
                let _ = served.await;
            });
        }
    });
    port
}

/// A server of HTTP/2 without TLS.
async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service_fn(echo)),
            );
        }
    });
    port
}

/// The same with TLS and a certificate that nobody knows.
async fn secure_server() -> u16 {
    let made = rcgen::generate_simple_self_signed(vec!["grpc.test".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = rustls::ServerConfig::builder_with_provider(shared::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let accepted = acceptor.accept(stream);
            tokio::spawn(async move {
                // Clients that do not believe the certificate go away.
                if let Ok(stream) = accepted.await {
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service_fn(echo))
                        .await;
                }
            });
        }
    });
    port
}

pub(crate) async fn client(proxy: &Proxy) -> SendRequest<Body> {
    let stream = TcpStream::connect(proxy.addresses().proxy.unwrap())
        .await
        .unwrap();
    let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) fn call(path: &str, content_type: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method("POST")
        .uri(format!("http://grpc.test{path}"))
        .header("content-type", content_type)
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

fn proxy_to(port: u16) -> Proxy {
    proxy_with(port, &json!({"read_timeout": 60_000, "retries": 0}))
}

fn proxy_with(port: u16, service: &serde_json::Value) -> Proxy {
    let mut service = service.clone();
    service["protocol"] = json!("grpc");
    start(configuration(
        port,
        &service,
        &[
            json!({"paths": ["/hello."], "protocols": ["grpc", "grpcs"], "strip_path": false}),
            json!({"paths": ["/secure."], "protocols": ["grpcs"], "strip_path": false}),
            json!({"paths": ["/last.", "/refused."], "protocols": ["grpc"], "strip_path": false}),
            json!({"paths": ["/kept."], "protocols": ["grpc"], "strip_path": false, "preserve_host": true}),
        ],
    ))
}

#[test]
fn messages_pass_both_ways_as_they_come_with_status_in_trailers() {
    run(async {
        let port = server().await;
        let proxy = proxy_to(port);
        let mut client = client(&proxy).await;
        let (messages, receiver) =
            tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let request = call(
            "/hello.Hello/Say",
            "application/grpc",
            StreamBody::new(stream).boxed(),
        );
        let sent = tokio::spawn(client.send_request(request));
        messages
            .send(Ok(Frame::data(Bytes::from_static(b"one"))))
            .await
            .unwrap();
        let response = sent.await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["x-path"], "/hello.Hello/Say");
        assert_eq!(response.headers()["x-te"], "trailers");
        assert!(response.headers().contains_key("x-kong-upstream-latency"));
        for name in ["x-via", "via"] {
            assert_eq!(response.headers()[name], BY_HTTP2, "{name}");
        }
        let mut body = response.into_body();
        // The first message is back before the second is sent.
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "one");
        messages
            .send(Ok(Frame::data(Bytes::from_static(b"two"))))
            .await
            .unwrap();
        drop(messages);
        let rest = body.collect().await.unwrap();
        let trailers = rest.trailers().unwrap().clone();
        assert_eq!(rest.to_bytes(), "two");
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers["x-authority"], format!("127.0.0.1:{port}"));
        // The connection to the server is used again, and the client's host kept where that is asked for.
        let kept = call(
            "/kept.Hello/Say",
            "application/grpc",
            Full::from("x").boxed(),
        );
        let response = client.send_request(kept).await.unwrap();
        let rest = response.into_body().collect().await.unwrap();
        assert_eq!(rest.trailers().unwrap()["x-authority"], "grpc.test");
        drop(client);
        tokio::task::spawn_blocking(move || stop(proxy))
            .await
            .unwrap();
    });
}

#[test]
fn a_service_of_grpcs_is_asked_through_tls() {
    run(async {
        let port = secure_server().await;
        for (verify, status) in [(false, "0"), (true, "13")] {
            let service = json!({
                "protocol": "grpcs", "tls_verify": verify, "read_timeout": 60_000, "retries": 0,
            });
            let route = json!({"paths": ["/"], "protocols": ["grpc"], "strip_path": false});
            let proxy = start(configuration(port, &service, &[route]));
            let mut client = client(&proxy).await;
            let request = call(
                "/hello.Hello/Say",
                "application/grpc",
                Full::from("x").boxed(),
            );
            let response = client.send_request(request).await.unwrap();
            // A failure is all head.
            let told = response.headers().get("grpc-status").cloned();
            if !verify {
                assert_eq!(response.headers()["via"], BY_HTTP2);
            }
            let trailers = response.into_body().collect().await.unwrap();
            let trailers = trailers.trailers().cloned().unwrap_or_default();
            let told = told.or_else(|| trailers.get("grpc-status").cloned());
            assert_eq!(told.unwrap(), status, "{verify}");
            drop(client);
            tokio::task::spawn_blocking(move || stop(proxy))
                .await
                .unwrap();
        }
    });
}

#[test]
fn what_does_not_fit_is_said_as_kong_says_it() {
    run(async {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = closed.local_addr().unwrap().port();
        drop(closed);
        let proxy = proxy_to(port);
        let mut client = client(&proxy).await;
        let empty = || Full::default().boxed();
        let response = client
            .send_request(call("/hello.Hello/Say", "application/json", empty()))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["message"], "Non-gRPC request matched gRPC route");
        let response = client
            .send_request(call("/secure.Hello/Say", "application/grpc", empty()))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "1");
        assert_eq!(
            response.headers()["grpc-message"],
            "gRPC request matched gRPCs route"
        );
        let response = client
            .send_request(call("/hello.Hello/Say", "application/grpc", empty()))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(response.headers()["grpc-status"], "13");
        let response = client
            .send_request(call("/none", "application/grpc", empty()))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()["grpc-status"], "5");
        drop(client);
        tokio::task::spawn_blocking(move || stop(proxy))
            .await
            .unwrap();
    });
}

#[test]
fn browsers_get_trailers_as_the_last_frame() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    run(async {
        let port = server().await;
        let mut records = configuration(
            port,
            &json!({"protocol": "grpc"}),
            &[json!({"paths": ["/"]})],
        );
        records.push(plugin(200, "grpc-web", &json!({})));
        let proxy = start(records);
        let (proxy, answer) = tokio::task::spawn_blocking(move || {
            let request = "POST /hello.HelloService/SayHello HTTP/1.1\r\nHost: a\r\n\
                Content-Type: application/grpc-web-text\r\nContent-Length: 16\r\n\
                Connection: close\r\n\r\nAAAAAAYKBGhleWE=";
            let answer = ask(&proxy, request);
            (proxy, answer)
        })
        .await
        .unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let lower = answer.to_ascii_lowercase();
        for line in [
            "content-type: application/grpc-web-text\r\n",
            "access-control-allow-origin: *\r\n",
            "x-te: trailers\r\n",
        ] {
            assert!(lower.contains(line), "{line} {answer}");
        }
        let lines = format!("grpc-status:0\r\ngrpc-message:\r\nx-authority:127.0.0.1:{port}\r\n");
        let mut last = vec![0x80, 0, 0, 0, u8::try_from(lines.len()).unwrap()];
        last.extend_from_slice(lines.as_bytes());
        for piece in ["AAAAAAYKBGhleWE=", &STANDARD.encode(last)] {
            assert!(answer.contains(piece), "{piece} {answer}");
        }
        tokio::task::spawn_blocking(move || stop(proxy))
            .await
            .unwrap();
    });
}

#[test]
fn a_server_that_takes_few_calls_at_a_time_is_connected_to_more_often() {
    run(async {
        let port = narrow_server(3).await;
        let proxy = proxy_to(port);
        let client = client(&proxy).await;
        let one = |path: &'static str| {
            let mut client = client.clone();
            async move {
                let body = Full::from("x").boxed();
                let sent = client.send_request(call(path, "application/grpc", body));
                let response = sent.await.unwrap();
                let body = response.into_body().collect().await.unwrap();
                body.to_bytes()
            }
        };
        // The second time there are connections already.
        for _ in 0..2 {
            let say = || one("/hello.Hello/Say");
            let (first, second, third) = tokio::join!(say(), say(), say());
            assert_eq!(
                (&*first, &*second, &*third),
                (&b"x"[..], &b"x"[..], &b"x"[..])
            );
        }
        drop(client);
        tokio::task::spawn_blocking(move || stop(proxy))
            .await
            .unwrap();
    });
}

#[test]
fn a_call_that_a_server_has_not_looked_at_is_made_again_body_and_all() {
    run(async {
        let port = narrow_server(1).await;
        let proxy = proxy_with(port, &json!({"read_timeout": 60_000, "retries": 1}));
        let mut client = client(&proxy).await;
        let body = Full::from("all of it").boxed();
        let response = client
            .send_request(call("/refused.Hello/Say", "application/grpc", body))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "all of it");
        drop(client);
        tokio::task::spawn_blocking(move || stop(proxy))
            .await
            .unwrap();
    });
}

#[test]
fn a_connection_that_the_server_has_ended_costs_no_call() {
    run(async {
        let port = narrow_server(1).await;
        let proxy = proxy_to(port);
        let mut client = client(&proxy).await;
        for _ in 0..10 {
            let body = Full::from("x").boxed();
            let response = client
                .send_request(call("/last.Hello/Say", "application/grpc", body))
                .await
                .unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, "x");
        }
        drop(client);
        tokio::task::spawn_blocking(move || stop(proxy))
            .await
            .unwrap();
    });
}

#[test]
fn a_client_may_go_on_sending_for_longer_than_the_server_may_be_silent() {
    run(async {
        let port = narrow_server(1).await;
        let proxy = proxy_with(port, &json!({"read_timeout": 1_500, "retries": 0}));
        let mut client = client(&proxy).await;
        let (messages, receiver) =
            tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let body = StreamBody::new(stream).boxed();
        let sent =
            tokio::spawn(client.send_request(call("/hello.Hello/Say", "application/grpc", body)));
        // Nor does its own silence count for the server's.
        for _ in 0..2 {
            let message = Ok(Frame::data(Bytes::from_static(b".")));
            messages.send(message).await.unwrap();
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        drop(messages);
        let response = sent.await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), 2);
        drop(client);
        tokio::task::spawn_blocking(move || stop(proxy))
            .await
            .unwrap();
    });
}

#[test]
fn a_server_that_says_nothing_any_more_is_asked_by_another_connection() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            // As if the machine had vanished.
            let _silent = listener.accept().await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(echo))
                .await
        });
        let proxy = proxy_with(port, &json!({"read_timeout": 1_500, "retries": 0}));
        let mut client = client(&proxy).await;
        for served in [false, true, true] {
            let body = Full::from("x").boxed();
            let response = client
                .send_request(call("/hello.Hello/Say", "application/grpc", body))
                .await
                .unwrap();
            assert_eq!(response.headers().contains_key("x-path"), served);
        }
        drop(client);
        tokio::task::spawn_blocking(move || stop(proxy))
            .await
            .unwrap();
    });
}
