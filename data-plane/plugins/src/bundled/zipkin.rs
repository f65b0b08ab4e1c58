//! `zipkin`: sends traces to a Zipkin server (Zipkin API v2; Kong 3.9, zipkin).

mod spans;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::schema::FieldErrors;

use crate::config::values::{Number, SecretUrl, yes};
use crate::exchange::{Exchange, Reply, Seen};
use crate::filter::{Filter, Flow, Instance, Over, Phases, Plugin, Protocols};
use crate::host::{Host, Waits};
use crate::logs::http_target::{self, HttpTarget};
use crate::logs::queue::{Outbox, QueueConfig};
use crate::trace::{
    Carrier, InjectFormat, Propagation, Sampling, Trace, TraceFormat, response_header,
};

/// Names of tags that the gateway sets itself.
const RESERVED: [&str; 13] = [
    "error",
    "http.method",
    "http.path",
    "http.status_code",
    "kong.balancer.state",
    "kong.balancer.try",
    "kong.consumer",
    "kong.credential",
    "kong.node.id",
    "kong.route",
    "kong.service",
    "lc",
    "peer.hostname",
];

/// Configuration of `zipkin`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Zipkin {
    /// Name that the gateway's spans have.
    #[serde(default = "kong")]
    pub local_service_name: String,

    /// URL of the server; without one, trace context is only passed on.
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true))]
    pub http_endpoint: Option<SecretUrl>,

    /// Share of new traces that is kept, from 0 to 1.
    #[serde(default = "share")]
    #[schemars(range(min = 0, max = 1))]
    pub sample_ratio: Number,

    /// Name of services that have none.
    #[serde(default)]
    pub default_service_name: Option<String>,

    /// Tells of the consumer's credential.
    #[serde(default = "yes")]
    pub include_credential: bool,

    /// Length of the ids of new traces, in bytes.
    #[serde(default = "long")]
    pub traceid_byte_count: IdLength,

    /// Format that the upstream is told in.
    #[serde(default = "preserve")]
    pub header_type: InjectFormat,

    /// Format of `preserve` for requests that came without.
    #[serde(default = "b3")]
    pub default_header_type: TraceFormat,

    /// Header that adds tags: `name=value;name=value`.
    #[serde(default = "tags_header")]
    pub tags_header: String,

    /// Tags of every span.
    #[serde(default)]
    pub static_tags: Option<Vec<Tag>>,

    /// What the span of an exchange is named by.
    #[serde(default = "method")]
    pub http_span_name: SpanName,

    /// How spans tell what the gateway has spent time with.
    #[serde(default)]
    pub phase_duration_flavor: PhaseFlavor,

    /// Longest wait for a connection, in milliseconds.
    #[serde(default = "Number::of::<2000>")]
    pub connect_timeout: Number,

    /// Longest wait while sending, in milliseconds.
    #[serde(default = "Number::of::<5000>")]
    pub send_timeout: Number,

    /// Longest wait for the answer, in milliseconds.
    #[serde(default = "Number::of::<5000>")]
    pub read_timeout: Number,

    /// Response header that tells the client the trace's id.
    #[serde(default)]
    pub http_response_header_for_traceid: Option<String>,

    /// How spans wait and are sent.
    #[serde(default)]
    pub queue: QueueConfig,

    /// How trace context is read and told; its `default_format` in place of `default_header_type`.
    #[serde(default)]
    pub propagation: Option<Propagation>,
}

/// A name and a value.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Tag {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

/// The length of an id, in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IdLength {
    /// 8.
    Short,
    /// 16.
    Long,
}

impl<'de> Deserialize<'de> for IdLength {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            8 => Ok(Self::Short),
            16 => Ok(Self::Long),
            _ => Err(serde::de::Error::custom("expected one of: 8, 16")),
        }
    }
}

impl Serialize for IdLength {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(match self {
            Self::Short => 8,
            Self::Long => 16,
        })
    }
}

impl JsonSchema for IdLength {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IdLength".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "enum": [8, 16] })
    }
}

/// What a span is named by.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanName {
    /// The method.
    Method,
    /// Method and path.
    MethodPath,
}

/// How spans tell of phases.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseFlavor {
    /// By annotations of their beginnings and ends.
    #[default]
    Annotations,
    /// By tags with their durations.
    Tags,
}

fn kong() -> String {
    "kong".to_owned()
}

fn share() -> Number {
    Number(serde_json::Number::from_f64(0.001).expect("0.001 is finite"))
}

const fn long() -> IdLength {
    IdLength::Long
}

const fn preserve() -> InjectFormat {
    InjectFormat::Preserve
}

const fn b3() -> TraceFormat {
    TraceFormat::B3
}

fn tags_header() -> String {
    "Zipkin-Tags".to_owned()
}

const fn method() -> SpanName {
    SpanName::Method
}

impl Plugin for Zipkin {
    const NAME: &'static str = "zipkin";
    const PRIORITY: u32 = 100_000;
    const DISPENSABLE: bool = true;
    const PROTOCOLS: Protocols = Protocols::ALL;
    type Filter = ZipkinFilter;

    fn compile(self, instance: &Instance) -> Result<ZipkinFilter, FieldErrors> {
        let tags = self.static_tags.as_deref().unwrap_or_default();
        for (place, tag) in tags.iter().enumerate() {
            if RESERVED.contains(&tag.name.as_str()) {
                let place = (place + 1).to_string();
                let message = format!("must not be one of: {}", RESERVED.join(", "));
                return Err(FieldErrors::at(&["static_tags", &place, "name"], message));
            }
            if tags.iter().take(place).any(|known| known.name == tag.name) {
                let message = format!("repeated tags are not allowed: {}", tag.name);
                return Err(FieldErrors::at(&["static_tags"], message));
            }
        }
        let waits = Waits {
            connect: self.connect_timeout.milliseconds(),
            send: self.send_timeout.milliseconds(),
            read: self.read_timeout.milliseconds(),
        };
        let target = match &self.http_endpoint {
            None => None,
            Some(url) => Some(
                HttpTarget::new("http_endpoint", url, HeaderMap::new(), "application/json")?
                    .within(waits),
            ),
        };
        let bad = || FieldErrors::at(&["propagation", "clear"], "bad header name");
        let carrier = if let Some(propagation) = &self.propagation {
            Carrier::new(propagation).ok_or_else(bad)?
        } else {
            let propagation = Propagation {
                default_format: self.default_header_type,
                ..Propagation::default()
            };
            let carrier = Carrier::new(&propagation).ok_or_else(bad)?;
            carrier.told_in(self.header_type)
        };
        let tags_header = HeaderName::try_from(self.tags_header.as_str())
            .map_err(|_| FieldErrors::at(&["tags_header"], "bad header name"))?;
        Ok(ZipkinFilter {
            outbox: Outbox::new(instance.id, self.queue.clone()),
            target,
            carrier: carrier.sharing_spans(),
            tags_header,
            shown: response_header(self.http_response_header_for_traceid.as_deref())?,
            config: Box::new(self),
        })
    }
}

/// Traces exchanges.
#[derive(Debug)]
pub struct ZipkinFilter {
    outbox: Outbox,
    config: Box<Zipkin>,
    target: Option<HttpTarget>,
    carrier: Carrier,
    tags_header: HeaderName,
    shown: Option<HeaderName>,
}

/// The trace of this exchange, as this plugin has it, and the tags that the client adds.
struct Traced(Trace, Vec<(String, String)>);

impl Filter for ZipkinFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        let (sampling, long) = (self.sampling(), self.has_long_ids());
        let trace = self.carrier.carry(exchange, sampling, long, host);
        let tags = self.tags(&exchange.request.headers);
        exchange.notes.put(Traced(trace, tags));
        Flow::Continue
    }

    fn phases(&self) -> Phases {
        Phases::ALL
    }

    fn on_response(&self, reply: &mut Reply<'_>, host: &impl Host) {
        if reply.seen.notes.get::<Traced>().is_none() {
            let traced = self.late(reply.seen, host);
            reply.seen.notes.put(traced);
        }
        if let Some(name) = &self.shown
            && let Some(Traced(trace, _)) = reply.seen.notes.get()
            && let Ok(value) = HeaderValue::from_str(&trace.short_id())
        {
            reply.headers.insert(name.clone(), value);
        }
    }

    fn on_log(&self, over: Over<'_>, host: &impl Host) {
        let Some(target) = &self.target else {
            return;
        };
        let (config, node) = (&self.config, host.node_id());
        let spans = match over {
            Over::Exchange(log) => {
                let late;
                let Traced(trace, tags) = if let Some(traced) = log.seen.notes.get() {
                    traced
                } else {
                    late = self.late(log.seen, host);
                    &late
                };
                let spans = || spans::of_exchange(config, trace, tags, log, node);
                trace.sampled.then(spans)
            }
            Over::Stream(log) => {
                let trace = Trace::begin(self.sampling(), self.has_long_ids(), host);
                let spans = || spans::of_stream(config, &trace, log, node);
                trace.sampled.then(spans)
            }
        };
        let Some(spans) = spans else {
            return;
        };
        let spans: Vec<String> = spans.iter().map(Value::to_string).collect();
        let entry = Bytes::from(spans.join(","));
        target.push(host, &self.outbox, entry, || http_target::list);
    }
}

impl ZipkinFilter {
    /// The trace of an exchange that no route was found for.
    fn late(&self, seen: &Seen, host: &impl Host) -> Traced {
        let headers = &seen.request.headers;
        let (sampling, long) = (self.sampling(), self.has_long_ids());
        let trace = self.carrier.read(headers, sampling, long, host);
        Traced(trace, self.tags(headers))
    }

    /// The tags that a client adds.
    fn tags(&self, headers: &HeaderMap) -> Vec<(String, String)> {
        let tags = headers.get(&self.tags_header);
        let tags = tags
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let tags = tags.split(';').filter_map(|tag| tag.split_once('='));
        let tags = tags.map(|(name, value)| (name.trim(), value.trim()));
        let is_one = |(name, value): &(&str, &str)| {
            !name.is_empty() && !value.is_empty() && !name.contains(char::is_whitespace)
        };
        tags.filter(is_one)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    fn sampling(&self) -> Sampling {
        Sampling::Caller(self.config.sample_ratio.value())
    }

    fn has_long_ids(&self) -> bool {
        self.config.traceid_byte_count == IdLength::Long
    }
}
