//! `grpc-web`: lets browsers call gRPC servers (gRPC-Web protocol; Kong 3.9, grpc-web).
//!
//! ```text
//!  browser ─► frames, in base64 if it is `-text` ─► frames ─► server
//!         ◄─ frames, the trailers as the last one ◄─ frames and trailers ◄┘
//! ```
//!
//! With a `.proto` file the messages of a browser may be JSON, in frames or, as `application/json`, without.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    CONTENT_TYPE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;

use crate::body::LARGEST;
use crate::exchange::{BodyError, BodyMap, Exchange, Parsing, Reply, Source};
use crate::filter::{Filter, Flow, Instance, Phases, Plugin};
use crate::host::Host;
use crate::transcoding::definitions::{Definitions, Loaded, Method as Call};
use crate::transcoding::{
    GRPC_STATUS, Messages, decode as json_of, encode, forget_compression, frame, refuse,
};

const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Marks the frame that holds trailers.
const TRAILERS: u8 = 0x80;

/// Configuration of `grpc-web`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct GrpcWeb {
    /// File on the data planes, with the service's definition, to translate JSON by. What it imports is looked for
    /// beside and below it.
    #[serde(default)]
    pub proto: Option<String>,

    /// Looks methods up by the path that goes upstream. Of no effect without `proto`.
    #[serde(default)]
    pub pass_stripped_path: Option<bool>,

    /// Value of `Access-Control-Allow-Origin`.
    #[serde(default = "any")]
    pub allow_origin_header: Option<String>,
}

#[allow(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
fn any() -> Option<String> {
    Some("*".to_owned())
}

impl Plugin for GrpcWeb {
    const NAME: &'static str = "grpc-web";
    const PRIORITY: u32 = 3;
    type Filter = GrpcWebFilter;

    fn compile(self, _: &Instance) -> Result<GrpcWebFilter, FieldErrors> {
        let origin = self.allow_origin_header.or_else(any).unwrap_or_default();
        let origin = HeaderValue::from_str(&origin)
            .map_err(|_| FieldErrors::at(&["allow_origin_header"], "not the value of a header"))?;
        Ok(GrpcWebFilter {
            origin,
            definitions: self.proto.map(Loaded::new),
            stripped: self.pass_stripped_path.unwrap_or(false),
        })
    }
}

/// Translates between browsers and servers.
#[derive(Debug)]
pub struct GrpcWebFilter {
    origin: HeaderValue,
    definitions: Option<Loaded<Definitions>>,
    /// Whether methods are looked up by what is left of a path upstream.
    stripped: bool,
}

/// How a browser speaks.
#[derive(Clone, Debug)]
struct Dialect {
    media_type: HeaderValue,
    /// In base64.
    text: bool,
    /// Of JSON, whether its messages stand in frames.
    json: Option<bool>,
    /// What is called, if that has to be known.
    call: Option<Call>,
}

impl Dialect {
    /// That of a request with these header fields.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let media_type = headers.get(CONTENT_TYPE)?;
        let text = media_type.to_str().ok()?;
        let name = text.split(';').next().unwrap_or_default().trim();
        let (text, json) = match name.to_ascii_lowercase().as_str() {
            "application/grpc-web" | "application/grpc-web+proto" => (false, None),
            "application/grpc-web-text" | "application/grpc-web-text+proto" => (true, None),
            "application/grpc-web+json" => (false, Some(true)),
            "application/grpc-web-text+json" => (true, Some(true)),
            "application/json" => (false, Some(false)),
            _ => return None,
        };
        Some(Self {
            media_type: media_type.clone(),
            text,
            json,
            call: None,
        })
    }
}

impl Filter for GrpcWebFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        if exchange.request.method == Method::OPTIONS {
            return Flow::Answer(self.preflight());
        }
        let origin = (ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone());
        exchange.response_headers.push(origin);
        let dialect = Dialect::of(&exchange.request.headers);
        let known = dialect.filter(|one| one.json.is_none() || self.definitions.is_some());
        let Some(mut dialect) = known else {
            return refuse(
                StatusCode::BAD_REQUEST,
                "transcoding requests require a .proto file defining the service",
            );
        };
        if let (Some(_), Some(definitions)) = (dialect.json, &self.definitions) {
            let Some(definitions) = definitions.get(host, Ok) else {
                let text = "An unexpected error occurred";
                return refuse(StatusCode::INTERNAL_SERVER_ERROR, text);
            };
            dialect.call = self.method(definitions, &exchange.path).cloned();
            if dialect.call.is_none() {
                let text = format!("Unknown path \"{}\"", exchange.path);
                return refuse(StatusCode::BAD_REQUEST, text);
            }
            forget_compression(&mut exchange.request.headers);
        }
        if dialect.text || dialect.call.is_some() {
            // What is decoded first is parsed as what comes of that.
            let parsing = match &dialect.call {
                Some(_) if !dialect.text => Parsing::Json,
                _ => Parsing::Nothing,
            };
            let mut body = match exchange.body.read(LARGEST, parsing).await {
                Ok(body) => body,
                Err(BodyError::TooLarge(_)) => {
                    return refuse(StatusCode::PAYLOAD_TOO_LARGE, "Payload too large");
                }
                Err(BodyError::Broken) => return refuse(StatusCode::BAD_REQUEST, "Bad request"),
            };
            if dialect.text {
                let Some(decoded) = decode(&body) else {
                    return refuse(StatusCode::BAD_REQUEST, "the body is no base64");
                };
                if dialect.call.is_some()
                    && exchange.body.make_room(&decoded, Parsing::Json).is_err()
                {
                    return refuse(StatusCode::BAD_REQUEST, "Bad request");
                }
                body = decoded;
            }
            if let Some(call) = &dialect.call {
                if dialect.json == Some(true) {
                    let mut messages = Messages::default();
                    messages.push(&body);
                    body = messages.next().unwrap_or_default();
                }
                let said = serde_json::from_slice(&body).map_err(|error| error.to_string());
                body = match said.and_then(|said| encode(&call.input, said)) {
                    Ok(framed) => framed,
                    Err(error) => {
                        let text = format!("the request is no {}: {error}", call.input.name());
                        return refuse(StatusCode::BAD_REQUEST, text);
                    }
                };
            }
            exchange.upstream.body = Some(body);
        }
        let grpc = HeaderValue::from_static("application/grpc");
        exchange.request.headers.insert(CONTENT_TYPE, grpc);
        exchange.notes.put(dialect);
        Flow::Continue
    }

    fn phases(&self) -> Phases {
        Phases::RESPONSE
    }

    fn on_response(&self, reply: &mut Reply<'_>, _: &impl Host) {
        // What the gateway itself answers is no gRPC: clients go by its status.
        let Some(dialect) = reply.seen.notes.get::<Dialect>() else {
            return;
        };
        if reply.source != Source::Service {
            return;
        }
        let headers = &mut *reply.headers;
        headers.insert(CONTENT_TYPE, dialect.media_type.clone());
        let mut frames = Frames {
            dialect: dialect.clone(),
            messages: Messages::default(),
            status: None,
            message: None,
        };
        // An answer without messages has its status among its first fields. Without frames it is told there.
        if dialect.json != Some(false) {
            frames.status = headers.remove(GRPC_STATUS);
            frames.message = headers.remove(GRPC_MESSAGE);
        }
        reply.maps.push(Box::new(frames));
    }
}

impl GrpcWebFilter {
    /// The method that a request for `path` calls. Of a longer path the end is left: a method's has two parts.
    fn method<'a>(&self, definitions: &'a Definitions, path: &str) -> Option<&'a Call> {
        let mut slashes = path.rmatch_indices('/').map(|(place, _)| place);
        let end = slashes.nth(1).and_then(|place| path.get(place..));
        definitions.method(end.filter(|_| self.stripped).unwrap_or(path))
    }

    /// Lets browsers ask from everywhere that is allowed.
    fn preflight(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from_static(b"OK"));
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone());
        for (name, value) in [
            (CONTENT_TYPE, "application/grpc-web-text+proto"),
            (ACCESS_CONTROL_ALLOW_METHODS, "POST"),
            (
                ACCESS_CONTROL_ALLOW_HEADERS,
                "content-type,x-grpc-web,x-user-agent",
            ),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// Base64 in pieces, each of which may be padded.
fn decode(text: &[u8]) -> Option<Bytes> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for quantum in text.trim_ascii().chunks(4) {
        STANDARD.decode_vec(quantum, &mut bytes).ok()?;
    }
    Some(bytes.into())
}

/// Frames on their way to a browser.
#[derive(Debug)]
struct Frames {
    dialect: Dialect,
    messages: Messages,
    status: Option<HeaderValue>,
    message: Option<HeaderValue>,
}

impl Frames {
    fn encode(&self, bytes: Bytes) -> Bytes {
        if self.dialect.text {
            STANDARD.encode(bytes).into()
        } else {
            bytes
        }
    }
}

impl BodyMap for Frames {
    fn data(&mut self, data: Bytes) -> Bytes {
        let Some(call) = &self.dialect.call else {
            return self.encode(data);
        };
        self.messages.push(&data);
        let mut shown = BytesMut::new();
        while let Some(message) = self.messages.next() {
            let json = json_of(&call.output, &message).unwrap_or_default();
            let json = json.to_string();
            if self.dialect.json == Some(true) {
                shown.put(frame(0, json.as_bytes()));
            } else {
                shown.put_slice(json.as_bytes());
            }
        }
        self.encode(shown.freeze())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Bytes {
        if self.dialect.json == Some(false) {
            return Bytes::new();
        }
        let said = |name: &HeaderName, own: &Option<HeaderValue>| {
            let value = trailers.and_then(|trailers| trailers.get(name));
            value.or(own.as_ref()).cloned()
        };
        let status = said(&GRPC_STATUS, &self.status);
        let message = said(&GRPC_MESSAGE, &self.message);
        let mut lines = BytesMut::new();
        let mut line = |name: &HeaderName, value: &[u8]| {
            for part in [name.as_str().as_bytes(), b":", value, b"\r\n"] {
                lines.put_slice(part);
            }
        };
        // A server that broke off has not said that all is well.
        line(
            &GRPC_STATUS,
            status.as_ref().map_or(b"2", HeaderValue::as_bytes),
        );
        line(
            &GRPC_MESSAGE,
            message.as_ref().map_or(b"", HeaderValue::as_bytes),
        );
        for (name, value) in trailers.into_iter().flatten() {
            if *name != GRPC_STATUS && *name != GRPC_MESSAGE {
                line(name, value.as_bytes());
            }
        }
        self.encode(frame(TRAILERS, &lines))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::testing::{FakeHost, Request, answer_of, reply_of};

    fn filter() -> GrpcWebFilter {
        let config: GrpcWeb = serde_json::from_value(json!({})).unwrap();
        config.compile(&Instance { id: Uuid::nil() }).unwrap()
    }

    fn call(media_type: &'static str, body: &'static str) -> Request {
        let mut request = Request::get("/hello.HelloService/SayHello");
        request.method = Method::POST;
        request.body = Bytes::from_static(body.as_bytes());
        let media_type = HeaderValue::from_static(media_type);
        request.headers.push((CONTENT_TYPE, media_type));
        request
    }

    #[test]
    fn requests_become_those_of_grpc() {
        let host = FakeHost::default();
        for (media_type, body, sent) in [
            ("application/grpc-web", "abc", None),
            ("application/grpc-web+proto", "abc", None),
            ("application/grpc-web-text", "YQ==YmM=", Some("abc")),
            ("application/grpc-web-text+proto; a=b", "YWJj", Some("abc")),
        ] {
            let answer = answer_of(&filter(), &host, &call(media_type, body));
            assert_eq!(answer.status, 200, "{media_type}");
            assert_eq!(answer.upstream_header("content-type"), "application/grpc");
            assert_eq!(answer.header("access-control-allow-origin"), "*");
            assert_eq!(answer.overrides.body.as_deref(), sent.map(str::as_bytes));
        }
        for (media_type, body) in [("application/grpc-web-text", "!"), ("text/plain", "abc")] {
            let answer = answer_of(&filter(), &host, &call(media_type, body));
            assert_eq!(answer.status, 400, "{media_type}");
        }
        let mut asked = call("text/plain", "");
        asked.method = Method::OPTIONS;
        let answer = answer_of(&filter(), &host, &asked);
        assert_eq!((answer.status, answer.body.as_str()), (200, "OK"));
        assert_eq!(answer.header("access-control-allow-methods"), "POST");
    }

    #[test]
    fn trailers_become_the_last_frame() {
        let trailers = |lines: &[(&'static str, &'static str)]| {
            let lines = lines.iter().map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_static(value))
            });
            lines.collect::<HeaderMap>()
        };
        let end = |text, status: Option<&'static str>, trailers: Option<&HeaderMap>| {
            let media_type = if text {
                "application/grpc-web-text"
            } else {
                "application/grpc-web"
            };
            let media_type = (CONTENT_TYPE, HeaderValue::from_static(media_type));
            let mut frames = Frames {
                dialect: Dialect::of(&HeaderMap::from_iter([media_type])).unwrap(),
                messages: Messages::default(),
                status: status.map(HeaderValue::from_static),
                message: None,
            };
            frames.end(trailers)
        };
        let fine = trailers(&[("grpc-status", "0")]);
        assert_eq!(
            end(true, None, Some(&fine)),
            "gAAAAB5ncnBjLXN0YXR1czowDQpncnBjLW1lc3NhZ2U6DQo="
        );
        let more = trailers(&[("grpc-status", "5"), ("grpc-message", "gone"), ("a", "b")]);
        let told = end(false, None, Some(&more));
        assert_eq!(&told[..5], [0x80, 0, 0, 0, 39]);
        assert_eq!(&told[5..], b"grpc-status:5\r\ngrpc-message:gone\r\na:b\r\n");
        assert!(end(false, Some("7"), None).ends_with(b"grpc-status:7\r\ngrpc-message:\r\n"));
        assert!(end(false, None, None).ends_with(b"grpc-status:2\r\ngrpc-message:\r\n"));
    }

    /// The message `name: ann` or `text: ann`, and the latter as JSON.
    const MESSAGE: &str = "\0\0\0\0\u{5}\n\u{3}ann";
    const SHOWN: &str = r#"{"text":"ann","boolean_test":false,"count":0}"#;

    #[test]
    fn json_is_translated_by_the_definitions() {
        let host = FakeHost::default();
        let config = json!({"proto": "/defs/greet.proto", "pass_stripped_path": true});
        let config: GrpcWeb = serde_json::from_value(config).unwrap();
        let filter = config.compile(&Instance { id: Uuid::nil() }).unwrap();
        let asked = |media_type: &'static str, path: &str, body: &'static str| {
            let mut request = call(media_type, body);
            request.uri = path.to_owned();
            request
        };
        let path = "/prefix/greet.v1.Greeter/Plain";
        for (media_type, body, shown) in [
            ("application/json", r#"{"name":"ann"}"#, SHOWN.to_owned()),
            (
                "application/grpc-web+json",
                "\0\0\0\0\u{e}{\"name\":\"ann\"}",
                format!("\0\0\0\0-{SHOWN}"),
            ),
        ] {
            let request = asked(media_type, path, body);
            let answer = answer_of(&filter, &host, &request);
            assert_eq!(answer.overrides.body.as_deref(), Some(MESSAGE.as_bytes()));
            assert_eq!(answer.upstream_header("content-type"), "application/grpc");
            let fields = [("content-type", "application/grpc")];
            let replied = reply_of(&filter, &host, &request, &fields, MESSAGE);
            assert_eq!(replied.headers[CONTENT_TYPE], media_type);
            assert!(
                replied.body.starts_with(shown.as_bytes()),
                "{:?}",
                replied.body
            );
            let framed = media_type != "application/json";
            assert_eq!(replied.body.len() > shown.len(), framed);
        }
        for (path, body, said) in [
            (path, "[", "the request is no Greeting"),
            (path, r#"{"loud": 1}"#, "the request is no Greeting"),
            ("/greet.v1.Greeter/None", "{}", "Unknown path"),
        ] {
            let answer = answer_of(&filter, &host, &asked("application/json", path, body));
            assert_eq!(answer.status, 400, "{path} {body}");
            assert!(answer.body.contains(said), "{}", answer.body);
        }
        let lost = json!({"proto": "/defs/none.proto"});
        let lost: GrpcWeb = serde_json::from_value(lost).unwrap();
        let lost = lost.compile(&Instance { id: Uuid::nil() }).unwrap();
        let answer = answer_of(&lost, &host, &asked("application/json", path, "{}"));
        assert_eq!(answer.status, 500);
    }
}
