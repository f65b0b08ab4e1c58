//! `grpc-web`: lets browsers call gRPC servers (gRPC-Web protocol; Kong 3.9, grpc-web).
//!
//! ```text
//!  browser ─► frames, in base64 if it is `-text` ─► frames ─► server
//!         ◄─ frames, the trailers as the last one ◄─ frames and trailers ◄┘
//! ```

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
use crate::exchange::{BodyError, BodyMap, Exchange, Reply, Source};
use crate::filter::{Filter, Flow, Instance, Phases, Plugin};
use crate::host::Host;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Marks the frame that holds trailers.
const TRAILERS: u8 = 0x80;

/// Configuration of `grpc-web`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct GrpcWeb {
    /// File with the service's definition, to translate JSON by.
    #[serde(default)]
    #[schemars(extend("x-not-yet" = true))]
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
        Ok(GrpcWebFilter { origin })
    }
}

/// Translates between browsers and servers.
#[derive(Debug)]
pub struct GrpcWebFilter {
    origin: HeaderValue,
}

/// How a browser speaks.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Dialect {
    media_type: HeaderValue,
    /// In base64.
    text: bool,
}

impl Dialect {
    /// That of a request with these header fields.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let media_type = headers.get(CONTENT_TYPE)?;
        let text = media_type.to_str().ok()?;
        let name = text.split(';').next().unwrap_or_default().trim();
        let text = match name.to_ascii_lowercase().as_str() {
            "application/grpc-web" | "application/grpc-web+proto" => false,
            "application/grpc-web-text" | "application/grpc-web-text+proto" => true,
            _ => return None,
        };
        Some(Self {
            media_type: media_type.clone(),
            text,
        })
    }
}

impl Filter for GrpcWebFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, _: &impl Host) -> Flow {
        if exchange.request.method == Method::OPTIONS {
            return Flow::Answer(self.preflight());
        }
        let origin = (ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone());
        exchange.response_headers.push(origin);
        let Some(dialect) = Dialect::of(&exchange.request.headers) else {
            return refuse(
                StatusCode::BAD_REQUEST,
                "transcoding requests require a .proto file defining the service",
            );
        };
        if dialect.text {
            let body = match exchange.body.read(LARGEST).await {
                Ok(body) => body,
                Err(BodyError::TooLarge(_)) => {
                    return refuse(StatusCode::PAYLOAD_TOO_LARGE, "Payload too large");
                }
                Err(BodyError::Broken) => return refuse(StatusCode::BAD_REQUEST, "Bad request"),
            };
            let Some(body) = decode(&body) else {
                return refuse(StatusCode::BAD_REQUEST, "the body is no base64");
            };
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
        // An answer without messages has its status among its first fields.
        let status = headers.remove(GRPC_STATUS);
        let message = headers.remove(GRPC_MESSAGE);
        reply.maps.push(Box::new(Frames {
            text: dialect.text,
            status,
            message,
        }));
    }
}

impl GrpcWebFilter {
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

fn refuse(status: StatusCode, message: &'static str) -> Flow {
    let mut response = Response::new(Bytes::from_static(message.as_bytes()));
    *response.status_mut() = status;
    Flow::Answer(response)
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
    text: bool,
    status: Option<HeaderValue>,
    message: Option<HeaderValue>,
}

impl Frames {
    fn encode(&self, bytes: Bytes) -> Bytes {
        if self.text {
            STANDARD.encode(bytes).into()
        } else {
            bytes
        }
    }
}

impl BodyMap for Frames {
    fn data(&mut self, data: Bytes) -> Bytes {
        self.encode(data)
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Bytes {
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
        let length = u32::try_from(lines.len()).unwrap_or(u32::MAX);
        let mut frame = BytesMut::with_capacity(lines.len() + 5);
        frame.put_u8(TRAILERS);
        frame.put_u32(length);
        frame.put(lines);
        self.encode(frame.freeze())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::testing::{FakeHost, Request, answer_of};

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
            let mut frames = Frames {
                text,
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
}
