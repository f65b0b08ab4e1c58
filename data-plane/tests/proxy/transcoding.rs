//! Clients of HTTP and JSON in front of a server that a library of gRPC has made.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::Service;
use uuid::Uuid;

use crate::gateway::{ask, configuration, plugin, scoped, start, stop};

const DEFINITION: &str = r#"
    syntax = "proto3";
    package greet.v1;
    import "google/api/annotations.proto";
    message Hello { string name = 1; bool loud = 2; }
    message Said { string text = 1; }
    service Greeter {
      rpc Say(Hello) returns (Said) {
        option (google.api.http) = {
          get: "/v1/say/{name}"
          additional_bindings { post: "/v1/say" body: "*" }
        };
      }
      rpc Repeat(Hello) returns (stream Said) {
        option (google.api.http) = { get: "/v1/repeat/{name}" };
      }
    }
"#;

#[derive(Clone, PartialEq, prost::Message)]
struct Hello {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "2")]
    loud: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Said {
    #[prost(string, tag = "1")]
    text: String,
}

/// Greets everybody but `nobody`.
#[derive(Clone)]
struct Greeter;

impl NamedService for Greeter {
    const NAME: &'static str = "greet.v1.Greeter";
}

fn greeting(hello: &Hello) -> Result<Said, Status> {
    let text = match (hello.name.as_str(), hello.loud) {
        ("nobody", _) => return Err(Status::not_found("nobody is here")),
        (name, true) => name.to_uppercase(),
        (name, false) => name.to_owned(),
    };
    Ok(Said { text })
}

impl UnaryService<Hello> for Greeter {
    type Response = Said;
    type Future = Ready<Result<Response<Said>, Status>>;

    fn call(&mut self, request: Request<Hello>) -> Self::Future {
        ready(greeting(request.get_ref()).map(Response::new))
    }
}

impl ServerStreamingService<Hello> for Greeter {
    type Response = Said;
    type ResponseStream = tokio_stream::Iter<std::vec::IntoIter<Result<Said, Status>>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Hello>) -> Self::Future {
        let said = greeting(request.get_ref());
        ready(said.map(|said| {
            let twice = vec![Ok(said.clone()), Ok(said)];
            Response::new(tokio_stream::iter(twice))
        }))
    }
}

impl Service<http::Request<Body>> for Greeter {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Said, Hello>::default());
            Ok(match request.uri().path() {
                "/greet.v1.Greeter/Say" => grpc.unary(Greeter, request).await,
                "/greet.v1.Greeter/Repeat" => grpc.server_streaming(Greeter, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// Starts the server, in a thread of its own.
fn server() -> u16 {
    let (sender, port) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap().port()).unwrap();
            tonic::transport::Server::builder()
                .add_service(Greeter)
                .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener))
                .await
                .unwrap();
        });
    });
    port.recv().unwrap()
}

#[test]
fn clients_of_json_are_understood_by_a_server_of_grpc() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("greet.proto");
    std::fs::write(&file, DEFINITION).unwrap();
    let proto = json!({"proto": file});
    let routes = [
        json!({"paths": ["/v1"], "protocols": ["http"], "strip_path": false}),
        json!({"paths": ["/greet."], "protocols": ["http"], "strip_path": false}),
    ];
    let mut records = configuration(server(), &json!({"protocol": "grpc"}), &routes);
    for (number, name, route) in [(200, "grpc-gateway", 2), (201, "grpc-web", 3)] {
        let route = json!({"route": {"id": Uuid::from_u128(route)}});
        records.push(scoped(plugin(number, name, &proto), &route));
    }
    let proxy = start(records);
    let said = |text: &str| json!({"text": text}).to_string();
    let posted = json!({"name": "ann", "loud": true}).to_string();
    for (line, body, status, expected) in [
        ("GET /v1/say/ann", "", 200, said("ann")),
        ("GET /v1/say/ann?loud=true", "", 200, said("ANN")),
        ("POST /v1/say", &posted, 200, said("ANN")),
        ("GET /v1/say/nobody", "", 404, String::new()),
        ("GET /v1/repeat/ann", "", 200, said("ann") + &said("ann")),
        ("POST /greet.v1.Greeter/Say", &posted, 200, said("ANN")),
    ] {
        let head = format!(
            "{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}",
            body.len()
        );
        let answer = ask(&proxy, &format!("{head}\r\n\r\n{body}"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let start = format!("HTTP/1.1 {status} ");
        assert!(head.starts_with(&start), "{line}: {answer}");
        let chunked = head
            .to_ascii_lowercase()
            .contains("transfer-encoding: chunked");
        let body = if chunked {
            unchunked(body)
        } else {
            body.to_owned()
        };
        let values = |text: &str| -> Vec<Value> {
            let values = serde_json::Deserializer::from_str(text).into_iter();
            values.collect::<Result<_, _>>().unwrap()
        };
        assert_eq!(values(&body), values(&expected), "{line}: {answer}");
    }
    stop(proxy);
}

/// What a body says that came in chunks.
fn unchunked(body: &str) -> String {
    let mut whole = String::new();
    let mut rest = body;
    while let Some((length, more)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        let Some(data) = more.get(..length).filter(|data| !data.is_empty()) else {
            break;
        };
        whole.push_str(data);
        rest = &more[length + 2..];
    }
    whole
}
