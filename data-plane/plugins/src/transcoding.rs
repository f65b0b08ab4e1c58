//! gRPC messages as JSON, by the services that a `.proto` file defines: what `grpc-web` and `grpc-gateway` share.

pub(crate) mod definitions;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, Response, StatusCode};
use prost::Message as _;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, Kind, MessageDescriptor, ReflectMessage as _,
    SerializeOptions, Value as Field,
};
use serde_json::Value;

use crate::filter::Flow;

/// What became of a call.
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What a caller can read.
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Longest message of an answer that is translated, in bytes.
const LARGEST: usize = 16 * 1024 * 1024;

/// How deep messages of an answer may be nested: as deep as they are decoded.
const DEEPEST: usize = 100;

/// How many levels an `Any` counts for: what it holds is bytes to the decoder, and is copied at each level.
const OF_ANY: usize = 20;

/// What stands before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// `message` behind its prefix (gRPC over HTTP/2, Length-Prefixed-Message).
pub(crate) fn frame(kind: u8, message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(kind);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// The frame of the message that `json` says in the form of `input`. Fields that it does not know are passed by.
pub(crate) fn encode(input: &MessageDescriptor, mut json: Value) -> Result<Bytes, String> {
    change_times(&mut json, input, &|time| {
        let (_, clock) = time.split_once(['T', 't', ' '])?;
        let has_zone = clock.contains(['Z', 'z', '+', '-']);
        (!has_zone).then(|| format!("{time}Z"))
    });
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(input.clone(), json, &options)
        .map_err(|error| error.to_string())?;
    Ok(frame(0, &message.encode_to_vec()))
}

/// `message`, which has the form of `output`, as JSON: fields by the names in the file, those that are not set by their
/// default, numbers as numbers (Kong 3.9).
pub(crate) fn decode(output: &MessageDescriptor, message: &[u8]) -> Option<Value> {
    let options = SerializeOptions::new()
        .stringify_64_bit_integers(false)
        .use_proto_field_name(true)
        .skip_default_fields(false);
    let message = DynamicMessage::decode(output.clone(), message).ok()?;
    if is_deeper(&message, DEEPEST) {
        return None;
    }
    let serializer = serde_json::value::Serializer;
    let mut shown = message.serialize_with_options(serializer, &options).ok()?;
    change_times(&mut shown, output, &|time| {
        time.strip_suffix('Z').map(str::to_owned)
    });
    Some(shown)
}

/// Puts what `change` makes of a time in its place, for each time in `value`, which has the form `form`. Kong writes none with
/// a zone and takes those without, and all are in UTC.
fn change_times(
    value: &mut Value,
    form: &MessageDescriptor,
    change: &dyn Fn(&str) -> Option<String>,
) {
    match value {
        Value::String(time) if form.full_name() == "google.protobuf.Timestamp" => {
            if let Some(changed) = change(time) {
                *time = changed;
            }
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                let field = form.get_field_by_name(name);
                let Some(field) = field.or_else(|| form.get_field_by_json_name(name)) else {
                    continue;
                };
                let Kind::Message(inner) = field.kind() else {
                    continue;
                };
                match value {
                    Value::Array(list) if field.is_list() => {
                        for value in list {
                            change_times(value, &inner, change);
                        }
                    }
                    Value::Object(entries) if field.is_map() => {
                        if let Kind::Message(inner) = inner.map_entry_value_field().kind() {
                            for value in entries.values_mut() {
                                change_times(value, &inner, change);
                            }
                        }
                    }
                    value => change_times(value, &inner, change),
                }
            }
        }
        _ => {}
    }
}

/// Whether messages are nested in `message` in more than `levels`. What an `Any` holds is decoded only when it is written as
/// JSON, which knows no bound of its own.
fn is_deeper(message: &DynamicMessage, levels: usize) -> bool {
    let is_too_deep = |inner: &DynamicMessage, cost: usize| {
        let left = levels.checked_sub(cost);
        left.is_none_or(|left| is_deeper(inner, left))
    };
    let any_of = |field: &Field| {
        field
            .as_message()
            .is_some_and(|inner| is_too_deep(inner, 1))
    };
    let fields = message.fields().map(|(_, value)| value);
    let extensions = message.extensions().map(|(_, value)| value);
    let mut values = fields.chain(extensions);
    values.any(|value| match value {
        Field::List(items) => items.iter().any(any_of),
        Field::Map(entries) => entries.values().any(any_of),
        value => any_of(value),
    }) || held(message).is_some_and(|inner| is_too_deep(&inner, OF_ANY))
}

/// The message that `any` holds, if it is an `Any` with one of a known type.
fn held(any: &DynamicMessage) -> Option<DynamicMessage> {
    let descriptor = any.descriptor();
    if descriptor.full_name() != "google.protobuf.Any" {
        return None;
    }
    let (name, value) = (
        any.get_field_by_name("type_url")?,
        any.get_field_by_name("value")?,
    );
    let (_, name) = name.as_str()?.rsplit_once('/')?;
    let form = descriptor.parent_pool().get_message_by_name(name)?;
    DynamicMessage::decode(form, value.as_bytes()?.clone()).ok()
}

/// Has a server answer with messages as they are: compressed ones are not translated.
pub(crate) fn forget_compression(headers: &mut HeaderMap) {
    headers.remove(GRPC_ACCEPT_ENCODING);
}

/// An answer that says why there is no call, as a text.
pub(crate) fn refuse(status: StatusCode, message: impl Into<Bytes>) -> Flow {
    let mut response = Response::new(message.into());
    *response.status_mut() = status;
    Flow::Answer(response)
}

/// The messages of an answer, put together from its parts.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    held: BytesMut,
    /// Whether what follows cannot be read any more.
    broken: bool,
}

impl Messages {
    /// Takes the next part.
    pub(crate) fn push(&mut self, part: &[u8]) {
        if !self.broken {
            self.held.extend_from_slice(part);
        }
    }

    /// The next message, if it is there.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let prefix: [u8; PREFIX] = self.held.get(..PREFIX)?.try_into().ok()?;
        let [compressed, length @ ..] = prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        // Nobody has offered to read compressed ones.
        if compressed != 0 || length > LARGEST {
            self.broken = true;
            self.held.clear();
            return None;
        }
        if self.held.len() - PREFIX < length {
            return None;
        }
        self.held.advance(PREFIX);
        Some(self.held.split_to(length).freeze())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::definitions::Definitions;
    use super::*;

    /// The definitions of a service that is called in the ways of Kong's own tests.
    pub(crate) const SERVICE: &str = r#"
        syntax = "proto3";
        package greet.v1;
        import "google/api/annotations.proto";
        import "google/protobuf/timestamp.proto";
        import "parts/limb.proto";
        service Greeter {
          rpc Say (Greeting) returns (Reply) {
            option (google.api.http) = {
              get: "/v1/messages/{name}"
              additional_bindings { get: "/v1/messages/legacy/{name=*}" }
              additional_bindings { post: "/v1/messages:send" body: "*" }
            };
          }
          rpc Grow (Body) returns (Body) {
            option (google.api.http) = {
              get: "/v1/grow/{tail.endings}"
              additional_bindings { put: "/v1/bodies/{name=shelves/*}/legs" body: "legs" response_body: "legs" }
            };
          }
          rpc Plain (Greeting) returns (Reply);
        }
        enum Mood { MOOD_UNKNOWN = 0; MOOD_GLAD = 1; }
        message Greeting {
          string name = 1;
          bool loud = 2;
          repeated int32 times = 3;
          Mood mood = 4;
          google.protobuf.Timestamp when = 5;
          repeated google.protobuf.Timestamp past = 6;
        }
        message Reply { string text = 1; bool boolean_test = 2; int64 count = 3; parts.Limb limb = 4; }
        message Body { string name = 1; parts.Limb legs = 2; parts.Limb tail = 3; }
    "#;

    pub(crate) fn read(path: &str) -> Result<String, String> {
        match path {
            "/defs/greet.proto" => Ok(SERVICE.to_owned()),
            "/defs/parts/limb.proto" => Ok(
                "syntax = \"proto3\"; package parts; message Limb { int32 count = 1; string endings = 2; }"
                    .to_owned(),
            ),
            "/defs/broken.proto" => Ok("syntax = \"proto3\"; message {".to_owned()),
            "/defs/away.proto" => Ok("syntax = \"proto3\"; import \"../secret.proto\";".to_owned()),
            _ => Err("no such file".to_owned()),
        }
    }

    pub(crate) fn definitions() -> Definitions {
        Definitions::read("/defs/greet.proto", &read).unwrap()
    }

    #[test]
    fn a_message_is_the_same_in_both_forms() {
        let definitions = definitions();
        let method = definitions.method("/greet.v1.Greeter/Plain").unwrap();
        let said = json!({
            "name": "ann", "loud": true, "times": [1, 2], "mood": "MOOD_GLAD", "unknown": 1,
            "when": "2026-01-02T03:04:05", "past": ["2025-01-02T03:04:05+01:00"],
        });
        let framed = encode(&method.input, said).unwrap();
        let mut messages = Messages::default();
        let mut read = Vec::new();
        for byte in framed.iter().chain(&frame(0, b"")) {
            messages.push(&[*byte]);
            read.extend(messages.next());
        }
        let [first, second] = read.as_slice() else {
            panic!("{read:?}")
        };
        let expected = json!({
            "name": "ann", "loud": true, "times": [1, 2], "mood": "MOOD_GLAD",
            "when": "2026-01-02T03:04:05", "past": ["2025-01-02T02:04:05"],
        });
        assert_eq!(decode(&method.input, first), Some(expected));
        let empty = json!({ "text": "", "boolean_test": false, "count": 0 });
        assert_eq!(decode(&method.output, second), Some(empty));
        assert!(encode(&method.input, json!({ "loud": "x" })).is_err());
        assert!(encode(&method.input, json!([])).is_err());
        assert_eq!(decode(&method.output, b"\xff"), None);
    }

    #[test]
    fn what_is_compressed_or_too_long_is_not_read_nor_kept() {
        for prefix in [[1, 0, 0, 0, 1], [0, 255, 255, 255, 255]] {
            let mut messages = Messages::default();
            messages.push(&prefix);
            assert_eq!(messages.next(), None);
            messages.push(&frame(0, b"x"));
            assert_eq!(messages.next(), None);
            assert!(messages.held.is_empty());
        }
        for (length, is_read) in [(LARGEST - 1, true), (LARGEST, true), (LARGEST + 1, false)] {
            let mut messages = Messages::default();
            messages.push(&frame(0, &vec![0; length]));
            let read = messages.next().map(|message| message.len());
            assert_eq!(read, is_read.then_some(length));
        }
    }

    #[test]
    fn what_is_packed_deeper_than_it_is_worth_is_not_translated() {
        const FILE: &str = r#"
            syntax = "proto3"; package deep;
            import "google/protobuf/any.proto";
            service Deep { rpc Dive (Box) returns (Box); }
            message Box { string name = 1; Box inner = 2; repeated google.protobuf.Any details = 3; }
        "#;
        let definitions = Definitions::read("deep.proto", &|_| Ok(FILE.to_owned())).unwrap();
        let form = &definitions.method("/deep.Deep/Dive").unwrap().output;
        // A field of `message` with its length before it.
        let field = |number: u8, message: &[u8]| {
            let mut field = BytesMut::new();
            field.put_u8(number << 3 | 2);
            prost::encoding::encode_varint(u64::try_from(message.len()).unwrap(), &mut field);
            field.put_slice(message);
            field.freeze()
        };
        let any = |kind: &str, message: &[u8]| {
            let kind = field(1, format!("a/{kind}").as_bytes());
            [kind, field(2, message)].concat()
        };
        let named = field(1, b"x");
        let once = decode(form, &field(3, &any("deep.Box", &named))).unwrap();
        let expected = json!([{ "@type": "a/deep.Box", "name": "x", "details": [] }]);
        assert_eq!(once["details"], expected);
        let nested = |levels: usize| {
            let innermost = any("deep.Box", &named);
            let all = (0..levels).fold(innermost, |inner, _| any("google.protobuf.Any", &inner));
            decode(form, &field(3, &all))
        };
        assert!(nested(2).is_some());
        assert_eq!(nested(5), None);
        assert_eq!(nested(5000), None);
        // Without one, as deep as before.
        let plain = |levels: usize| {
            let all = (0..levels).fold(named.clone(), |inner, _| field(2, &inner));
            decode(form, &all).is_some()
        };
        assert!(plain(100) && !plain(101));
    }
}
