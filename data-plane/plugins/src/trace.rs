//! Trace context: which request of which caller caused this one, carried in header fields.
//!
//! Formats: W3C Trace Context (`traceparent`, `tracestate`), Zipkin's B3 in one field or several, and those of Jaeger,
//! `OpenTracing`, AWS, Datadog, Google Cloud and Instana.

mod format;

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::hexadecimal::hexadecimal;
use shared::schema::FieldErrors;

use self::format::Extracted;
use crate::exchange::Exchange;
use crate::host::Host;
use crate::logs::log_record::Additions;

/// A format of trace context.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TraceFormat {
    /// W3C Trace Context.
    W3c,
    /// B3, several fields; or one, where it is read.
    B3,
    /// B3, one field.
    B3Single,
    /// Jaeger.
    Jaeger,
    /// `OpenTracing`.
    Ot,
    /// AWS X-Ray.
    Aws,
    /// Datadog.
    Datadog,
    /// Google Cloud.
    Gcp,
    /// Instana.
    Instana,
}

impl TraceFormat {
    /// Whether client and server can be sides of one span.
    const fn has_shared_spans(self) -> bool {
        matches!(self, Self::B3 | Self::B3Single | Self::Jaeger)
    }
}

/// A format to tell the upstream in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InjectFormat {
    /// The one that the request came with.
    Preserve,
    /// That of requests that came without: what the request came with is not looked at.
    Ignore,
    /// This one.
    #[serde(untagged)]
    Format(TraceFormat),
}

impl JsonSchema for InjectFormat {
    fn schema_name() -> Cow<'static, str> {
        "InjectFormat".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        formats_and(&["preserve", "ignore"], generator)
    }
}

/// The schema of a format's name, or of one of `others`.
fn formats_and(others: &[&str], generator: &mut SchemaGenerator) -> Schema {
    let mut schema = TraceFormat::json_schema(generator);
    if let Some(Value::Array(formats)) = schema.get_mut("oneOf") {
        formats.splice(0..0, others.iter().map(|name| json!({ "const": name })));
    }
    schema
}

/// How trace context is read and told (Kong 3.9, propagation).
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Propagation {
    /// Formats that are looked for, in this order.
    #[serde(default)]
    #[schemars(schema_with = "extractable")]
    pub extract: Option<Vec<TraceFormat>>,

    /// Header fields that are removed after reading.
    #[serde(default)]
    #[schemars(schema_with = "clearable")]
    pub clear: Option<Vec<String>>,

    /// Formats that the upstream is told in.
    #[serde(default)]
    #[schemars(schema_with = "injectable")]
    pub inject: Option<Vec<InjectFormat>>,

    /// Format of `preserve` for requests that came without.
    #[serde(default = "w3c")]
    pub default_format: TraceFormat,
}

impl Propagation {
    /// Whether it says more than a default: then `header_type` of earlier versions says nothing (Kong 3.9).
    pub(crate) fn is_told(&self) -> bool {
        self.extract.is_some() || self.clear.is_some() || self.inject.is_some()
    }
}

/// The formats that may be looked for: `b3` is looked for in both of its forms.
fn extractable(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = TraceFormat::json_schema(generator);
    if let Some(Value::Array(formats)) = schema.get_mut("oneOf") {
        formats.retain(|format| format.get("const") != Some(&json!("b3-single")));
    }
    json_schema!({ "type": ["array", "null"], "items": schema })
}

/// The formats that may be listed: `ignore` is no format.
fn injectable(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["array", "null"], "items": formats_and(&["preserve"], generator) })
}

fn clearable(_: &mut SchemaGenerator) -> Schema {
    let name = json!({ "type": "string", "format": "kong-header-name" });
    json_schema!({ "type": ["array", "null"], "items": name })
}

const fn w3c() -> TraceFormat {
    TraceFormat::W3c
}

impl Default for Propagation {
    fn default() -> Self {
        Self {
            extract: None,
            clear: None,
            inject: None,
            default_format: w3c(),
        }
    }
}

/// How a plugin reads and tells trace context.
#[derive(Clone, Debug)]
pub(crate) struct Carrier {
    pub(crate) extract: Vec<TraceFormat>,
    pub(crate) clear: Vec<HeaderName>,
    pub(crate) inject: Vec<InjectFormat>,
    pub(crate) default: TraceFormat,
    /// Whether the caller's span is also the exchange's own, where the format has it so.
    shares_spans: bool,
}

const ALL: [TraceFormat; 8] = [
    TraceFormat::W3c,
    TraceFormat::B3,
    TraceFormat::Jaeger,
    TraceFormat::Ot,
    TraceFormat::Datadog,
    TraceFormat::Aws,
    TraceFormat::Gcp,
    TraceFormat::Instana,
];

/// Who decides which traces are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sampling {
    /// The caller, where it says so; of other traces this share is kept.
    Caller(f64),
    /// The trace's id, of which this share is kept, unless the caller wants none of it: so that all who
    /// ask the id decide the same.
    Id(f64),
}

impl Sampling {
    /// Whether the trace with this id is kept, of which the caller has said `asked`.
    fn keeps(self, id: &[u8; 16], asked: Option<bool>, host: &impl Host) -> bool {
        let (share, drawn) = match (self, asked) {
            (Self::Caller(_), Some(asked)) => return asked,
            (Self::Id(_), Some(false)) => return false,
            (Self::Caller(share), None) => {
                let mut drawn = [0; 4];
                host.random(&mut drawn);
                (share, drawn)
            }
            // Kong 3.9 reads the first eight bytes as a number of the processor: these four count most.
            (Self::Id(share), _) => match id {
                [0, 0, 0, 0, 0, 0, 0, 0, .., a, b, c, d] | [_, _, _, _, a, b, c, d, ..] => {
                    (share, [*a, *b, *c, *d])
                }
            },
        };
        f64::from(u32::from_le_bytes(drawn)) < share * (f64::from(u32::MAX) + 1.0)
    }
}

impl Carrier {
    /// That of a configuration; `None` if it names header fields that are none.
    pub(crate) fn new(propagation: &Propagation) -> Option<Self> {
        let clear = propagation.clear.as_deref().unwrap_or_default().iter();
        Some(Self {
            extract: propagation.extract.clone().unwrap_or_else(|| ALL.to_vec()),
            clear: clear
                .map(|name| HeaderName::try_from(name.as_str()).ok())
                .collect::<Option<_>>()?,
            inject: propagation
                .inject
                .clone()
                .unwrap_or_else(|| vec![InjectFormat::Preserve]),
            default: propagation.default_format,
            shares_spans: false,
        })
    }

    /// The same for a plugin that takes the caller's span for the exchange's own, where the format has it so.
    pub(crate) fn sharing_spans(self) -> Self {
        Self {
            shares_spans: true,
            ..self
        }
    }

    /// The same, as `header_type` of earlier versions has it: B3 is looked for first, and a format is told beside the
    /// caller's.
    pub(crate) fn told_in(mut self, format: InjectFormat) -> Self {
        self.extract = ALL.to_vec();
        self.extract.swap(0, 1);
        match format {
            InjectFormat::Ignore => {
                self.extract.clear();
                self.inject = vec![format];
            }
            InjectFormat::Preserve => self.inject = vec![format],
            InjectFormat::Format(_) => self.inject = vec![InjectFormat::Preserve, format],
        }
        self
    }

    /// The trace that a request belongs to: its caller's, or a new one. The upstream is told of it, and logs are.
    pub(crate) fn carry(
        &self,
        exchange: &mut Exchange<'_>,
        sampling: Sampling,
        long_ids: bool,
        host: &impl Host,
    ) -> Trace {
        let headers = &mut exchange.request.headers;
        let found = self.find(headers);
        for name in &self.clear {
            headers.remove(name);
        }
        let trace = self.trace(found.as_ref(), sampling, long_ids, host);
        let state = found.as_ref().and_then(|found| found.state.clone());
        let additions = Additions::of(&mut exchange.notes);
        let ids = additions.entry("trace_id").or_insert_with(|| json!({}));
        for format in &self.inject {
            let format = match format {
                InjectFormat::Preserve | InjectFormat::Ignore => {
                    found.as_ref().map_or(self.default, |found| found.format)
                }
                InjectFormat::Format(format) => *format,
            };
            let is_begun_here = found.as_ref().is_none_or(|found| found.trace.is_none());
            let told = if is_begun_here && format == TraceFormat::Ot {
                trace.with_short_id()
            } else {
                trace
            };
            format::inject(format, headers, &told, state.as_ref());
            let (name, id) = format::shown_id(format, &told);
            if let Value::Object(ids) = ids {
                ids.insert(name.to_owned(), id.into());
            }
        }
        trace
    }

    /// The trace that a request belongs to of which no upstream is told.
    pub(crate) fn read(
        &self,
        headers: &HeaderMap,
        sampling: Sampling,
        long_ids: bool,
        host: &impl Host,
    ) -> Trace {
        self.trace(self.find(headers).as_ref(), sampling, long_ids, host)
    }

    fn find(&self, headers: &HeaderMap) -> Option<Extracted> {
        let mut formats = self.extract.iter();
        formats.find_map(|format| format::extract(*format, headers))
    }

    fn trace(
        &self,
        found: Option<&Extracted>,
        sampling: Sampling,
        long_ids: bool,
        host: &impl Host,
    ) -> Trace {
        let trace = Trace::of(found, sampling, long_ids, host);
        match found {
            Some(Extracted {
                format,
                span: Some(span),
                parent,
                ..
            }) if self.shares_spans && format.has_shared_spans() && *span != [0; 8] => Trace {
                server: *span,
                caller: *parent,
                ..trace
            },
            _ => trace,
        }
    }
}

/// The trace that an exchange belongs to, and the exchange's own spans.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Trace {
    pub(crate) id: [u8; 16],
    /// The span above that of the exchange: the caller's, or its parent if the caller's is the exchange's own.
    pub(crate) caller: Option<[u8; 8]>,
    /// The span of the exchange.
    pub(crate) server: [u8; 8],
    /// The span of asking the upstream.
    pub(crate) client: [u8; 8],
    /// Whether it is kept.
    pub(crate) sampled: bool,
    /// Whether all on the way are to keep it, as its caller has said.
    pub(crate) debug: bool,
}

impl Trace {
    /// One that nobody has begun before.
    pub(crate) fn begin(sampling: Sampling, long_ids: bool, host: &impl Host) -> Self {
        Self::of(None, sampling, long_ids, host)
    }

    /// The one that its caller has told of, or a new one.
    fn of(found: Option<&Extracted>, sampling: Sampling, long_ids: bool, host: &impl Host) -> Self {
        let mut id = [0; 16];
        host.random(&mut id);
        if !long_ids {
            id = shortened(id);
        }
        let span = || {
            let mut id = [0; 8];
            host.random(&mut id);
            id
        };
        let id = found.and_then(|found| found.trace).unwrap_or(id);
        let sampled = sampling.keeps(&id, found.and_then(|found| found.sampled), host);
        Self {
            id,
            caller: found.and_then(|found| found.span),
            server: span(),
            client: span(),
            sampled,
            debug: sampled && found.is_some_and(|found| found.debug),
        }
    }

    /// The same with an id of 8 bytes, as `OpenTracing` has it where nobody has begun the trace before (Kong 3.9, propagation).
    fn with_short_id(self) -> Self {
        Self {
            id: shortened(self.id),
            ..self
        }
    }

    /// The id in hexadecimal digits; only half of it if the other half is zero.
    pub(crate) fn short_id(&self) -> String {
        let text = hexadecimal(&self.id);
        match text.strip_prefix("0000000000000000") {
            Some(short) => short.to_owned(),
            None => text,
        }
    }
}

/// An id of 8 bytes, made of one of 16.
fn shortened(mut id: [u8; 16]) -> [u8; 16] {
    if let Some(first) = id.first_chunk_mut::<8>() {
        *first = [0; 8];
    }
    id
}

/// The response header that tells of traces, as the configurations of their plugins name it.
pub(crate) fn response_header(name: Option<&str>) -> Result<Option<HeaderName>, FieldErrors> {
    let wrong = |_| FieldErrors::at(&["http_response_header_for_traceid"], "bad header name");
    name.map(HeaderName::try_from).transpose().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::schema::Record;

    use super::*;

    #[test]
    fn formats_are_known_by_kongs_names() {
        for (name, format) in [
            ("preserve", InjectFormat::Preserve),
            ("ignore", InjectFormat::Ignore),
            ("w3c", InjectFormat::Format(TraceFormat::W3c)),
            ("b3-single", InjectFormat::Format(TraceFormat::B3Single)),
        ] {
            assert_eq!(json!(format), name);
            assert_eq!(
                serde_json::from_value::<InjectFormat>(json!(name)).unwrap(),
                format
            );
        }
        let names = |field: &str| {
            let shown = Record::of::<Propagation>().kong();
            let fields = shown.as_array().unwrap().iter();
            let mut found = fields.filter_map(|one| one.get(field));
            found.next().unwrap()["elements"]["one_of"].clone()
        };
        let formats = [
            "w3c",
            "b3",
            "b3-single",
            "jaeger",
            "ot",
            "aws",
            "datadog",
            "gcp",
            "instana",
        ];
        let looked_for: Vec<&str> = formats
            .into_iter()
            .filter(|name| *name != "b3-single")
            .collect();
        assert_eq!(names("extract"), json!(looked_for));
        let told: Vec<&str> = ["preserve"].into_iter().chain(formats).collect();
        assert_eq!(names("inject"), json!(told));
    }
}
