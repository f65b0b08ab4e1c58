//! Spans as OTLP has them (opentelemetry-proto 1.5, trace and collector), as far as they are filled.

pub(super) mod records;

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use crate::exchange::{Log, Source};
use crate::logs::log_record;
use crate::trace::Trace;

#[derive(Clone, PartialEq, Message)]
struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

/// Who tells.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Number(i64),
}

const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const ERROR: i32 = 2;

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::Text(value.into()))
}

fn number(key: &str, value: impl Into<i64>) -> KeyValue {
    attribute(key, Value::Number(value.into()))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

/// What the gateway calls itself, with Kong's defaults.
pub(super) fn resource(mut attributes: BTreeMap<String, String>) -> Resource {
    for (key, value) in [
        ("service.name", "kong"),
        ("service.version", shared::version::KONG_VERSION),
    ] {
        attributes
            .entry(key.to_owned())
            .or_insert_with(|| value.to_owned());
    }
    let attributes = attributes.into_iter();
    Resource {
        attributes: attributes.map(|(key, value)| text(&key, value)).collect(),
    }
}

impl Resource {
    /// The same on the node with this id.
    pub(super) fn of_node(&self, id: &str) -> Self {
        const INSTANCE: &str = "service.instance.id";
        let mut resource = self.clone();
        if !self.attributes.iter().any(|known| known.key == INSTANCE) {
            resource.attributes.push(text(INSTANCE, id));
        }
        resource
    }
}

const MILLISECOND: u64 = 1_000_000;

fn failed(failed: bool) -> Option<Status> {
    failed.then_some(Status { code: ERROR })
}

/// Kong's attributes of the span of a request.
fn of_request(log: &Log<'_>) -> Vec<KeyValue> {
    let seen = log.seen;
    let scheme = if seen.client.https { "https" } else { "http" };
    // Without the port, as Kong tells it.
    let host = seen.client.host();
    let mut attributes = vec![
        text("http.method", seen.method.as_str()),
        text(
            "http.url",
            format!("{scheme}://{host}{}", log_record::shown_target(log)),
        ),
        text("http.host", host),
        text("http.scheme", scheme),
        text("http.flavor", version(seen.request.version)),
        text("http.client_ip", seen.client.address.to_string()),
        text("net.peer.ip", seen.client.peer.to_string()),
        number("http.status_code", log.status.as_u16()),
        text("kong.request.id", &*seen.request_id),
    ];
    if let Some(matched) = log.matched {
        let records = matched.records.as_ref();
        let path = records.and_then(|records| records.route.pointer("/paths/0")?.as_str());
        attributes.push(text("http.route", path.unwrap_or_default()));
    }
    attributes
}

/// The spans of one exchange.
pub(super) fn spans(trace: &Trace, log: &Log<'_>) -> Bytes {
    let begin = log.started_at.as_millis() * MILLISECOND;
    let mut spans = vec![Span {
        trace_id: trace.id.to_vec(),
        id: trace.server.to_vec(),
        parent_span_id: trace
            .caller
            .map(|caller| caller.to_vec())
            .unwrap_or_default(),
        name: "kong".to_owned(),
        kind: SERVER,
        start_time_unix_nano: begin,
        end_time_unix_nano: begin + log.latencies.request * MILLISECOND,
        attributes: of_request(log),
        status: failed(log.status.as_u16() >= 500),
    }];
    spans.extend(attempts(trace, log));
    let scope = ScopeSpans { scope: None, spans };
    Bytes::from(scope.encode_to_vec())
}

/// The spans of the servers that were tried, in order. Each ends where the next one begins, the last one with the
/// head of the answer; of this one the upstream was told.
fn attempts(trace: &Trace, log: &Log<'_>) -> Vec<Span> {
    let last = log.tries.len().saturating_sub(1);
    let answered = log
        .latencies
        .proxy
        .map(|proxy| log.started_at.as_millis() + log.latencies.kong + proxy);
    let spans = (0_u64..).zip(log.tries.iter().enumerate());
    let spans = spans.map(|(count, (place, one))| {
        let next = log.tries.get(place + 1).map(|next| next.started_at);
        let begin = one.started_at * MILLISECOND;
        let end = next.or(answered).map(|end| end * MILLISECOND);
        let mut attributes = vec![
            number("try_count", i64::try_from(count + 1).unwrap_or(i64::MAX)),
            text("net.peer.ip", &one.host),
            number("net.peer.port", one.port),
            text("net.peer.name", &one.name),
        ];
        attributes.extend(matched(log));
        let answer = log.upstream_status.filter(|_| place == last);
        let status = one.failed.or(answer.map(|status| status.as_u16()));
        if let Some(status) = status {
            attributes.push(number("http.status_code", status));
        }
        let id = u64::from_be_bytes(trace.client);
        let id = if place == last {
            id
        } else {
            id.wrapping_add(count + 1)
        };
        let broken = place == last && log.source == Source::Error;
        Span {
            trace_id: trace.id.to_vec(),
            id: id.to_be_bytes().to_vec(),
            parent_span_id: trace.server.to_vec(),
            name: "kong.balancer".to_owned(),
            kind: CLIENT,
            start_time_unix_nano: begin,
            end_time_unix_nano: end
                .unwrap_or_default()
                .max(begin + one.chosen_within.max(1)),
            attributes,
            status: failed(one.failed.is_some() || broken),
        }
    });
    spans.collect()
}

/// For whom a server is asked, and by what. The span of the request has Kong's attributes and no more.
fn matched(log: &Log<'_>) -> Vec<KeyValue> {
    let mut attributes = Vec::new();
    if let Some(matched) = log.matched {
        attributes.push(text("kong.route.id", matched.route.id.to_string()));
        if let Some(service) = &matched.service {
            attributes.push(text("kong.service.id", service.id.to_string()));
            attributes.push(text("kong.service.name", service.shown()));
        }
    }
    if let Some(consumer) = &log.seen.identity.consumer {
        attributes.push(text("kong.consumer.id", consumer.id.to_string()));
    }
    attributes
}

const fn version(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "1.0",
        http::Version::HTTP_2 => "2.0",
        _ => "1.1",
    }
}

/// What of the gateway tells, as Kong calls it.
fn scope() -> Scope {
    Scope {
        name: "kong-internal".to_owned(),
        version: "0.1.0".to_owned(),
    }
}

/// The body of a request that exports the spans of several exchanges.
pub(super) fn request(resource: &Resource, batch: &[Bytes]) -> Bytes {
    let spans = batch
        .iter()
        .filter_map(|entry| ScopeSpans::decode(entry.clone()).ok())
        .flat_map(|scope| scope.spans);
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(resource.clone()),
            scope_spans: vec![ScopeSpans {
                scope: Some(scope()),
                spans: spans.collect(),
            }],
        }],
    };
    Bytes::from(request.encode_to_vec())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The service's name, the span's name and kind, who was asked, and whether that failed, for each span of a
    /// request.
    pub(in super::super) fn decode(body: &Bytes) -> Vec<String> {
        let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
        let mut found = Vec::new();
        for spans in request.resource_spans {
            let resource = spans.resource.unwrap();
            let name = resource
                .attributes
                .iter()
                .find(|one| one.key == "service.name");
            let Some(Value::Text(service)) = name.unwrap().value.clone().unwrap().value else {
                panic!("service.name is no text");
            };
            for span in spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                assert_eq!((span.trace_id.len(), span.id.len()), (16, 8));
                assert!(span.end_time_unix_nano > span.start_time_unix_nano);
                let failed = span.status.map_or("", |_| " failed");
                let told = span.attributes.iter().filter(|one| {
                    matches!(&*one.key, "try_count" | "net.peer.name" | "net.peer.ip")
                });
                let told = told.map(|one| match one.value.clone().unwrap().value {
                    Some(Value::Text(text)) => format!(" {text}"),
                    Some(Value::Number(number)) => format!(" {number}"),
                    None => panic!("{} has no value", one.key),
                });
                let told = told.collect::<Vec<_>>().concat();
                found.push(format!(
                    "{service} {} {}{told}{failed}",
                    span.name, span.kind
                ));
            }
        }
        found
    }
}
