//! `grpc-gateway`: lets clients of HTTP and JSON call gRPC servers, by what a `.proto` file says of paths (Kong 3.9,
//! grpc-gateway).
//!
//! ```text
//!  GET /v1/messages/ann ─► the message that path, query and body say ─► server
//!  JSON                ◄─ the message of its answer                 ◄┘
//! ```

mod binding;

use bytes::{Bytes, BytesMut};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    CONTENT_TYPE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};
use prost_reflect::MessageDescriptor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;

use self::binding::Binding;
use crate::body::LARGEST;
use crate::credentials::arguments::Arguments;
use crate::exchange::{BodyError, BodyMap, Exchange, Parsing, Reply, Source};
use crate::filter::{Filter, Flow, Instance, Phases, Plugin};
use crate::host::Host;
use crate::transcoding::definitions::Loaded;
use crate::transcoding::{GRPC_STATUS, Messages, decode, encode, forget_compression, refuse};

const ANYBODY: HeaderValue = HeaderValue::from_static("*");

/// Configuration of `grpc-gateway`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct GrpcGateway {
    /// File on the data planes, with the service's definition and its HTTP paths (`google.api.http`). What it imports
    /// is looked for beside and below it.
    #[serde(default)]
    pub proto: Option<String>,
}

impl Plugin for GrpcGateway {
    const NAME: &'static str = "grpc-gateway";
    const PRIORITY: u32 = 998;
    type Filter = GrpcGatewayFilter;

    fn compile(self, _: &Instance) -> Result<GrpcGatewayFilter, FieldErrors> {
        Ok(GrpcGatewayFilter {
            bindings: self.proto.map(Loaded::new),
        })
    }
}

/// Translates between clients and servers.
#[derive(Debug)]
pub struct GrpcGatewayFilter {
    bindings: Option<Loaded<Vec<Binding>>>,
}

/// How an answer is to be shown.
#[derive(Clone, Debug)]
struct Awaited {
    output: MessageDescriptor,
    shown: Option<String>,
}

impl Filter for GrpcGatewayFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        if exchange.request.method == Method::OPTIONS {
            return Flow::Answer(preflight());
        }
        let origin = (ACCESS_CONTROL_ALLOW_ORIGIN, ANYBODY);
        exchange.response_headers.push(origin);
        let Some(bindings) = &self.bindings else {
            let text = "transcoding requests require a .proto file defining the service";
            return refuse(StatusCode::BAD_REQUEST, text);
        };
        let Some(bindings) = bindings.get(host, |definitions| binding::all(&definitions)) else {
            let text = "An unexpected error occurred";
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, text);
        };
        let (method, path) = (&exchange.request.method, &exchange.path);
        let mut all = bindings.iter();
        let found = all.find_map(|one| Some((one, one.captures(method, path)?)));
        let Some((binding, captures)) = found else {
            let text = format!("failed to transcode .proto file Unknown path \"{path}\"");
            return refuse(StatusCode::BAD_REQUEST, text);
        };
        let captures: Vec<(&str, String)> = captures;
        let query = Arguments::of(&exchange.request.uri);
        let body = if binding.has_body() {
            match exchange.body.read(LARGEST, Parsing::Json).await {
                Ok(body) => body,
                Err(BodyError::TooLarge(_)) => {
                    return refuse(StatusCode::PAYLOAD_TOO_LARGE, "Payload too large");
                }
                Err(BodyError::Broken) => return refuse(StatusCode::BAD_REQUEST, "Bad request"),
            }
        } else {
            Bytes::new()
        };
        let message = binding.message(&captures, &query, &body);
        let framed = match message.and_then(|said| encode(&binding.types.input, said)) {
            Ok(framed) => framed,
            Err(error) => {
                let text = format!("the request is no {}: {error}", binding.types.input.name());
                return refuse(StatusCode::BAD_REQUEST, text);
            }
        };
        exchange.upstream.body = Some(framed);
        exchange.upstream.path = Some(binding.rpc.clone());
        exchange.request.method = Method::POST;
        if let Ok(uri) = Uri::try_from(exchange.request.uri.path()) {
            exchange.request.uri = uri;
        }
        let headers = &mut exchange.request.headers;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        forget_compression(headers);
        exchange.notes.put(Awaited {
            output: binding.types.output.clone(),
            shown: binding.shown.clone(),
        });
        Flow::Continue
    }

    fn phases(&self) -> Phases {
        Phases::RESPONSE
    }

    fn on_response(&self, reply: &mut Reply<'_>, _: &impl Host) {
        let Some(awaited) = reply.seen.notes.get::<Awaited>() else {
            return;
        };
        if reply.source != Source::Service {
            return;
        }
        // An answer without messages has its status among its first fields.
        if let Some(status) = reply.headers.get(GRPC_STATUS) {
            *reply.status = http_status(status);
        }
        let json = HeaderValue::from_static("application/json");
        reply.headers.insert(CONTENT_TYPE, json);
        reply.maps.push(Box::new(Shown {
            awaited: awaited.clone(),
            messages: Messages::default(),
        }));
    }
}

/// Lets pages ask from everywhere.
fn preflight() -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(b"OK"));
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "application/json"),
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (ACCESS_CONTROL_ALLOW_METHODS, "GET,POST,PATCH,DELETE"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "content-type"),
    ] {
        let name: HeaderName = name;
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What `status` of gRPC is in HTTP (Kong 3.9).
fn http_status(status: &HeaderValue) -> StatusCode {
    let status = match status.as_bytes() {
        b"0" => 200,
        b"1" => 499,
        b"3" | b"9" | b"11" => 400,
        b"4" => 504,
        b"5" => 404,
        b"6" | b"10" => 409,
        b"7" => 403,
        b"8" => 429,
        b"14" => 503,
        b"16" => 401,
        _ => 500,
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Messages on their way to a client, as JSON.
#[derive(Debug)]
struct Shown {
    awaited: Awaited,
    messages: Messages,
}

impl BodyMap for Shown {
    fn data(&mut self, data: Bytes) -> Bytes {
        self.messages.push(&data);
        let mut shown = BytesMut::new();
        while let Some(message) = self.messages.next() {
            let mut json = decode(&self.awaited.output, &message).unwrap_or_default();
            if let Some(field) = &self.awaited.shown {
                json = json
                    .get_mut(field)
                    .map(serde_json::Value::take)
                    .unwrap_or_default();
            }
            shown.extend_from_slice(json.to_string().as_bytes());
        }
        shown.freeze()
    }

    fn end(&mut self, _: Option<&HeaderMap>) -> Bytes {
        Bytes::new()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::testing::{FakeHost, Request, answer_of, reply_of};
    use crate::transcoding::tests::definitions;

    fn filter(config: Value) -> GrpcGatewayFilter {
        let config: GrpcGateway = serde_json::from_value(config).unwrap();
        config.compile(&Instance { id: Uuid::nil() }).unwrap()
    }

    #[test]
    fn a_request_becomes_a_call_and_its_answer_json() {
        let (filter, host) = (
            filter(json!({"proto": "/defs/greet.proto"})),
            FakeHost::default(),
        );
        let mut request = Request::get("/v1/messages/ann?loud=1&x=2");
        let accepted = HeaderName::from_static("grpc-accept-encoding");
        request
            .headers
            .push((accepted, HeaderValue::from_static("gzip")));
        let answer = answer_of(&filter, &host, &request);
        let known = definitions();
        let input = &known.method("/greet.v1.Greeter/Say").unwrap().input;
        let expected = encode(input, json!({"name": "ann", "loud": true})).unwrap();
        assert_eq!(answer.overrides.body, Some(expected));
        assert_eq!(
            answer.overrides.path.as_deref(),
            Some("/greet.v1.Greeter/Say")
        );
        assert_eq!(answer.upstream.method, Method::POST);
        assert_eq!(answer.upstream.uri.query(), None);
        assert_eq!(answer.upstream_header("content-type"), "application/grpc");
        assert_eq!(answer.upstream_header("grpc-accept-encoding"), "");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        let fields = [("content-type", "application/grpc")];
        // The message `text: ann`.
        let message = "\0\0\0\0\u{5}\n\u{3}ann";
        let replied = reply_of(&filter, &host, &request, &fields, message);
        let shown: Value = serde_json::from_slice(&replied.body).unwrap();
        assert_eq!(
            shown,
            json!({"text": "ann", "boolean_test": false, "count": 0})
        );
        assert_eq!(replied.headers[CONTENT_TYPE], "application/json");
        for (grpc, http) in [("0", 200), ("5", 404), ("12", 500), ("16", 401), ("x", 500)] {
            let fields = [("grpc-status", grpc)];
            let replied = reply_of(&filter, &host, &request, &fields, "");
            assert_eq!(replied.status, http, "{grpc}");
            assert_eq!(replied.headers["grpc-status"], grpc);
        }
    }

    #[test]
    fn what_is_no_call_is_refused() {
        let host = FakeHost::default();
        let known = json!({"proto": "/defs/greet.proto"});
        for (config, method, uri, body, status, said) in [
            (
                json!({}),
                Method::GET,
                "/v1/messages/a",
                "",
                400,
                "require a .proto file",
            ),
            (
                known.clone(),
                Method::GET,
                "/v1/none",
                "",
                400,
                "Unknown path \"/v1/none\"",
            ),
            (
                known.clone(),
                Method::GET,
                "/v1/messages/a?times=x",
                "",
                400,
                "no Greeting",
            ),
            (
                known.clone(),
                Method::POST,
                "/v1/messages:send",
                "{\"name\":null}",
                400,
                "null",
            ),
            (known.clone(), Method::OPTIONS, "/v1/none", "", 200, "OK"),
            (
                json!({"proto": "/defs/none.proto"}),
                Method::GET,
                "/",
                "",
                500,
                "unexpected",
            ),
        ] {
            let mut request = Request::get(uri);
            request.method = method;
            request.body = Bytes::from_static(body.as_bytes());
            let answer = answer_of(&filter(config), &host, &request);
            assert_eq!(answer.status, status, "{uri}");
            assert!(answer.body.contains(said), "{uri}: {}", answer.body);
        }
    }
}
