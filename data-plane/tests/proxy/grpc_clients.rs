//! Clients of gRPC that are slow or go too far: nobody else's affair, and no fault of the server.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::gateway::{configuration, plugin, record, start, stop};
use crate::grpc::{call, client};
use crate::http2::{Body, run};

/// More than a client's and a server's windows take together.
const LARGE: usize = 8 * 1024 * 1024;

/// Answers a call to `/hello.Large` with much, and others with what they say, with a status in trailers.
async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let large = request.uri().path().starts_with("/hello.Large");
    let body = match request.into_body().collect().await {
        Ok(body) if !large => body.to_bytes(),
        _ => vec![0; LARGE].into(),
    };
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
    let body = StreamBody::new(tokio_stream::iter(frames)).boxed();
    let mut response = Response::new(body);
    let grpc = "application/grpc".parse().unwrap();
    response.headers_mut().insert("content-type", grpc);
    Ok(response)
}

async fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(http2.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    port
}

fn records(port: u16, service: &Value) -> Vec<shared::snapshot::Record> {
    let route = json!({"paths": ["/hello."], "protocols": ["grpc"], "strip_path": false});
    configuration(port, service, &[route])
}

#[test]
fn what_plugins_answer_a_call_is_said_by_header() {
    run(async {
        let port = server().await;
        // That the host is among the fields is the second's condition.
        let unless_no_host = json!({"status_code": 405, "trigger": "host"});
        for (name, config, code, message) in [
            ("jwt", json!({}), "16", "Unauthorized"),
            (
                "request-termination",
                unless_no_host,
                "3",
                "Method not allowed",
            ),
            // Without a message of its own.
            (
                "request-termination",
                json!({"status_code": 429}),
                "8",
                "ResourceExhausted",
            ),
        ] {
            let mut records = records(port, &json!({"protocol": "grpc"}));
            records.push(plugin(60, name, &config));
            let proxy = start(records);
            let mut client = client(&proxy).await;
            let empty = Full::default().boxed();
            let request = call("/hello.Hello/Say", "application/grpc", empty);
            let response = client.send_request(request).await.unwrap();
            let headers = response.headers();
            assert_eq!(headers["grpc-status"], code, "{name}");
            assert_eq!(headers["grpc-message"], message);
            assert_eq!(headers["content-type"], "application/grpc");
            let body = response.into_body().collect().await.unwrap();
            assert!(body.to_bytes().is_empty());
            drop(client);
            tokio::task::spawn_blocking(move || stop(proxy))
                .await
                .unwrap();
        }
    });
}

#[test]
fn clients_that_read_nothing_hold_up_nobody_else() {
    run(async {
        let port = server().await;
        let service = json!({"protocol": "grpc", "read_timeout": 10_000, "retries": 0});
        let proxy = start(records(port, &service));
        // Two workers share the connections of these clients among them.
        let mut idle = Vec::new();
        for _ in 0..12 {
            let mut client = client(&proxy).await;
            let body = Full::default().boxed();
            let asked = call("/hello.Large/Say", "application/grpc", body);
            let response = client.send_request(asked).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            idle.push((client, response));
        }
        for _ in 0..4 {
            let mut client = client(&proxy).await;
            let asked = call(
                "/hello.Small/Say",
                "application/grpc",
                Full::from("x").boxed(),
            );
            let response = client.send_request(asked).await.unwrap();
            let answered = response.into_body().collect().await.unwrap();
            assert_eq!(answered.to_bytes(), "x");
        }
        drop(idle);
        tokio::task::spawn_blocking(move || stop(proxy))
            .await
            .unwrap();
    });
}

#[test]
fn a_body_that_a_filter_refuses_is_no_fault_of_the_server() {
    run(async {
        let port = server().await;
        let service = json!({"protocol": "grpc", "host": "up.test", "retries": 0});
        let mut records = records(port, &service);
        let unhealthy = json!({"http_failures": 1, "tcp_failures": 1, "timeouts": 1});
        let checks = json!({"passive": {"unhealthy": unhealthy}});
        let upstream = json!({"name": "up.test", "healthchecks": checks});
        let owner = json!({"id": Uuid::from_u128(300)});
        let target = json!({"target": format!("127.0.0.1:{port}"), "upstream": owner});
        let limit = json!({"allowed_payload_size": 10, "size_unit": "bytes"});
        records.extend([
            record("upstreams", 300, upstream),
            record("targets", 301, target),
            plugin(200, "request-size-limiting", &limit),
        ]);
        let proxy = start(records);
        for (parts, status, said) in [
            (
                &["much too long for it"][..],
                "3",
                "Request size limit exceeded",
            ),
            (&["0123456789", "x"], "3", "Request size limit exceeded"),
            (&["short"], "0", ""),
        ] {
            let mut client = client(&proxy).await;
            let frames: Vec<Result<Frame<Bytes>, Infallible>> = parts
                .iter()
                .map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes()))))
                .collect();
            let body = StreamBody::new(tokio_stream::iter(frames)).boxed();
            let asked = call("/hello.Small/Say", "application/grpc", body);
            let response = client.send_request(asked).await.unwrap();
            let headers = response.headers().clone();
            let answered = response.into_body().collect().await.unwrap();
            let trailers = answered.trailers().cloned().unwrap_or_default();
            let told = |name: &str| {
                let value = headers.get(name).or_else(|| trailers.get(name));
                value.map_or("", |value| value.to_str().unwrap()).to_owned()
            };
            assert_eq!(told("grpc-status"), status, "{parts:?} {headers:?}");
            assert_eq!(told("grpc-message"), said, "{parts:?}");
        }
        tokio::task::spawn_blocking(move || stop(proxy))
            .await
            .unwrap();
    });
}
