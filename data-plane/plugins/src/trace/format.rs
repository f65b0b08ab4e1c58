//! The formats of trace context.

mod extract;

use http::{HeaderMap, HeaderName, HeaderValue};
use shared::hexadecimal::hexadecimal;

pub(super) use self::extract::{Extracted, extract};
use super::{Trace, TraceFormat};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
const JAEGER: HeaderName = HeaderName::from_static("uber-trace-id");
const AWS: HeaderName = HeaderName::from_static("x-amzn-trace-id");
const DATADOG_TRACE: HeaderName = HeaderName::from_static("x-datadog-trace-id");
const DATADOG_PARENT: HeaderName = HeaderName::from_static("x-datadog-parent-id");
const DATADOG_PRIORITY: HeaderName = HeaderName::from_static("x-datadog-sampling-priority");
const GCP: HeaderName = HeaderName::from_static("x-cloud-trace-context");
const INSTANA_TRACE: HeaderName = HeaderName::from_static("x-instana-t");
const INSTANA_SPAN: HeaderName = HeaderName::from_static("x-instana-s");
const INSTANA_LEVEL: HeaderName = HeaderName::from_static("x-instana-l");
const OT_TRACE: HeaderName = HeaderName::from_static("ot-tracer-traceid");
const OT_SPAN: HeaderName = HeaderName::from_static("ot-tracer-spanid");
const OT_SAMPLED: HeaderName = HeaderName::from_static("ot-tracer-sampled");

/// Tells the upstream of `trace`.
pub(super) fn inject(
    format: TraceFormat,
    headers: &mut HeaderMap,
    trace: &Trace,
    state: Option<&HeaderValue>,
) {
    let mut put = |name: HeaderName, text: String| {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    };
    let span = hexadecimal(&trace.client);
    let flag = u8::from(trace.sampled);
    let parent = hexadecimal(&trace.server);
    match format {
        TraceFormat::W3c => {
            let id = hexadecimal(&trace.id);
            put(TRACEPARENT, format!("00-{id}-{span}-{flag:02x}"));
            match state {
                Some(state) => _ = headers.insert(TRACESTATE, state.clone()),
                None => _ = headers.remove(TRACESTATE),
            }
        }
        TraceFormat::B3 => {
            put(B3_TRACE, trace.short_id());
            put(B3_SPAN, span);
            put(B3_PARENT, parent);
            let (said, other) = if trace.debug {
                (B3_FLAGS, B3_SAMPLED)
            } else {
                (B3_SAMPLED, B3_FLAGS)
            };
            put(said, flag.to_string());
            headers.remove(other);
        }
        TraceFormat::B3Single => {
            let flag = match (trace.debug, trace.sampled) {
                (true, _) => "d",
                (false, true) => "1",
                (false, false) => "0",
            };
            put(B3, format!("{}-{span}-{flag}-{parent}", trace.short_id()));
        }
        TraceFormat::Jaeger => {
            let id = trace.short_id();
            put(JAEGER, format!("{id}:{span}:{parent}:{flag:02x}"));
        }
        TraceFormat::Ot => {
            put(OT_TRACE, trace.short_id());
            put(OT_SPAN, span);
            put(OT_SAMPLED, flag.to_string());
        }
        TraceFormat::Aws => {
            let id = hexadecimal(&trace.id);
            let (time, rest) = id.split_at(8);
            put(
                AWS,
                format!("Root=1-{time}-{rest};Parent={span};Sampled={flag}"),
            );
        }
        TraceFormat::Datadog => {
            put(DATADOG_TRACE, low_half(trace).to_string());
            put(DATADOG_PARENT, u64::from_be_bytes(trace.client).to_string());
            put(DATADOG_PRIORITY, flag.to_string());
        }
        TraceFormat::Gcp => {
            let (id, span) = (hexadecimal(&trace.id), u64::from_be_bytes(trace.client));
            put(GCP, format!("{id}/{span};o={flag}"));
        }
        TraceFormat::Instana => {
            put(INSTANA_TRACE, hexadecimal(&trace.id));
            put(INSTANA_SPAN, span);
            put(INSTANA_LEVEL, flag.to_string());
        }
    }
}

/// What logs call `format`, and the trace's id as it is told there (Kong 3.9, `get_formatted_trace_id`).
pub(super) fn shown_id(format: TraceFormat, trace: &Trace) -> (&'static str, String) {
    match format {
        TraceFormat::W3c => ("w3c", hexadecimal(&trace.id)),
        TraceFormat::B3 | TraceFormat::B3Single => ("b3", trace.short_id()),
        TraceFormat::Jaeger => ("jaeger", trace.short_id()),
        TraceFormat::Ot => ("ot", trace.short_id()),
        TraceFormat::Aws => ("aws", hexadecimal(&trace.id)),
        TraceFormat::Datadog => ("datadog", low_half(trace).to_string()),
        TraceFormat::Gcp => ("gcp", hexadecimal(&trace.id)),
        TraceFormat::Instana => ("instana", hexadecimal(&trace.id)),
    }
}

/// The half of an id that Datadog knows.
fn low_half(trace: &Trace) -> u64 {
    let low = trace.id.last_chunk();
    low.map_or(0, |low| u64::from_be_bytes(*low))
}

#[cfg(test)]
mod tests {
    use super::extract::tests::{ID, SPAN, headers};
    use super::extract::{bytes, extract};
    use super::*;

    fn trace() -> Trace {
        Trace {
            id: bytes(ID).unwrap(),
            caller: None,
            server: [1; 8],
            client: bytes(SPAN).unwrap(),
            sampled: true,
            debug: false,
        }
    }

    #[test]
    fn each_format_is_read_as_it_is_told() {
        let mut trace = trace();
        for format in [
            TraceFormat::W3c,
            TraceFormat::B3,
            TraceFormat::B3Single,
            TraceFormat::Jaeger,
            TraceFormat::Ot,
            TraceFormat::Aws,
            TraceFormat::Gcp,
            TraceFormat::Instana,
            TraceFormat::Datadog,
        ] {
            if format == TraceFormat::Datadog {
                // Its ids are half as long.
                trace.id = bytes(&ID[16..]).unwrap();
            }
            let mut told = HeaderMap::new();
            inject(format, &mut told, &trace, None);
            let read = extract(format, &told).unwrap();
            assert_eq!(
                (read.trace, read.span),
                (Some(trace.id), Some(trace.client)),
                "{format:?}"
            );
            assert_eq!((read.sampled, read.format), (Some(true), format));
        }
    }

    #[test]
    fn who_asks_for_a_trace_to_be_kept_by_all_is_heard_by_all() {
        for (fields, format, expected) in [
            (
                ("b3", format!("{ID}-{SPAN}-d")),
                TraceFormat::B3Single,
                ("b3", "-d-"),
            ),
            (
                ("x-b3-flags", "1".to_owned()),
                TraceFormat::B3,
                ("x-b3-flags", "1"),
            ),
        ] {
            let mut told = headers(&[(fields.0, &fields.1)]);
            let read = extract(format, &told).unwrap();
            assert!(read.debug && read.sampled == Some(true));
            let trace = Trace {
                debug: read.debug,
                ..trace()
            };
            inject(format, &mut told, &trace, None);
            let value = told[expected.0].to_str().unwrap();
            assert!(value.contains(expected.1), "{value}");
            assert!(!told.contains_key("x-b3-sampled"));
        }
    }

    #[test]
    fn b3_in_one_field_leaves_the_others_alone() {
        let asked = [
            ("x-b3-traceid", ID),
            ("x-b3-sampled", "1"),
            ("x-b3-flags", "1"),
        ];
        let mut told = headers(&asked);
        inject(TraceFormat::B3Single, &mut told, &trace(), None);
        for (name, value) in asked {
            assert_eq!(told[name], value);
        }
        assert!(told.contains_key("b3"));
    }

    #[test]
    fn short_ids_stay_short() {
        let short = headers(&[
            ("x-b3-traceid", "463ac35c9f6413ad"),
            ("x-b3-spanid", "a2fb4a1d1a96d312"),
        ]);
        let read = extract(TraceFormat::B3, &short).unwrap();
        assert_eq!(read.sampled, None);
        let trace = Trace {
            id: read.trace.unwrap(),
            caller: read.span,
            server: [1; 8],
            client: [2; 8],
            sampled: false,
            debug: false,
        };
        assert_eq!(trace.short_id(), "463ac35c9f6413ad");
    }
}
