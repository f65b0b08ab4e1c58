//! The formats of trace context.

use http::{HeaderMap, HeaderName, HeaderValue};
use shared::hexadecimal::hexadecimal;

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

/// What a caller has said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Extracted {
    pub(crate) format: TraceFormat,
    /// None of a caller that has said of sampling alone.
    pub(crate) trace: Option<[u8; 16]>,
    pub(crate) span: Option<[u8; 8]>,
    /// The span above the caller's.
    pub(crate) parent: Option<[u8; 8]>,
    pub(crate) sampled: Option<bool>,
    /// `tracestate`, which is passed on as it is.
    pub(crate) state: Option<HeaderValue>,
}

/// Reads `format` from `headers`; `None` if it is not there or malformed.
pub(super) fn extract(format: TraceFormat, headers: &HeaderMap) -> Option<Extracted> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let found = |format, trace, span, sampled| {
        Some(Extracted {
            format,
            trace: Some(trace),
            span,
            parent: None,
            sampled,
            state: None,
        })
    };
    match format {
        TraceFormat::W3c => {
            // W3C Trace Context §3.2.2; later versions may have more fields.
            let mut fields = text(&TRACEPARENT)?.split('-');
            let version = fields.next()?;
            let trace = bytes::<16>(fields.next().filter(|text| text.len() == 32)?)?;
            let span = bytes::<8>(fields.next().filter(|text| text.len() == 16)?)?;
            let [flags] = bytes::<1>(fields.next()?)?;
            let known = version != "00" || fields.next().is_none();
            if version == "ff" || version.len() != 2 || !known || trace == [0; 16] || span == [0; 8]
            {
                return None;
            }
            let mut extracted = found(format, trace, Some(span), Some(flags & 1 == 1))?;
            extracted.state = headers.get(TRACESTATE).cloned();
            Some(extracted)
        }
        TraceFormat::B3 | TraceFormat::B3Single => b3(headers),
        TraceFormat::Jaeger => {
            let value = text(&JAEGER)?.replace("%3A", ":");
            let mut fields = value.split(':');
            let trace = bytes(fields.next()?)?;
            let span = bytes(fields.next()?)?;
            let parent = bytes(fields.next()?);
            let [flags] = bytes::<1>(fields.next()?)?;
            let mut extracted = found(format, trace, Some(span), Some(flags & 1 == 1))?;
            // Zero stands for none.
            extracted.parent = parent.filter(|parent| *parent != [0; 8]);
            Some(extracted)
        }
        TraceFormat::Ot => {
            let trace = bytes(text(&OT_TRACE)?)?;
            let sampled = text(&OT_SAMPLED).and_then(sampled);
            found(format, trace, text(&OT_SPAN).and_then(bytes), sampled)
        }
        TraceFormat::Aws => {
            // `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`
            let fields = text(&AWS)?.split(';');
            let fields = fields.filter_map(|field| field.trim().split_once('='));
            let field = |wanted: &str| {
                let mut named = fields.clone().filter(|(name, _)| *name == wanted);
                named.next().map(|(_, value)| value)
            };
            let mut root = field("Root")?.split('-');
            let (_version, time) = (root.next()?, root.next()?);
            let trace = bytes(&format!("{time}{}", root.next()?))?;
            let span = field("Parent").and_then(bytes);
            found(format, trace, span, field("Sampled").and_then(sampled))
        }
        TraceFormat::Datadog => {
            let number = |name: &HeaderName| text(name)?.parse::<u64>().ok();
            let trace = u128::from(number(&DATADOG_TRACE)?).to_be_bytes();
            let span = number(&DATADOG_PARENT).map(u64::to_be_bytes);
            let priority = text(&DATADOG_PRIORITY).and_then(|text| text.parse::<i32>().ok());
            found(format, trace, span, priority.map(|priority| priority > 0))
        }
        TraceFormat::Gcp => {
            // `105445aa7843bc8bf206b12000100000/1;o=1`
            let value = text(&GCP)?;
            let (ids, options) = value.split_once(';').unwrap_or((value, ""));
            let (trace, span) = ids.split_once('/').unwrap_or((ids, ""));
            let span = span.parse::<u64>().ok().map(u64::to_be_bytes);
            let kept = options.strip_prefix("o=").and_then(sampled);
            found(format, bytes(trace)?, span, kept)
        }
        TraceFormat::Instana => {
            let trace = bytes(text(&INSTANA_TRACE)?)?;
            let level = text(&INSTANA_LEVEL).and_then(|text| sampled(text.get(..1)?));
            found(format, trace, text(&INSTANA_SPAN).and_then(bytes), level)
        }
    }
}

/// Reads B3 in one field, else in several. What of sampling is said in these counts for the former, too.
fn b3(headers: &HeaderMap) -> Option<Extracted> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let debug = (text(&B3_FLAGS) == Some("1")).then_some(true);
    let asked = debug.or_else(|| text(&B3_SAMPLED).and_then(sampled));
    let mut found = Extracted {
        format: TraceFormat::B3Single,
        trace: None,
        span: None,
        parent: None,
        sampled: asked,
        state: None,
    };
    if let Some(single) = text(&B3).or_else(|| b3_in_state(headers)) {
        if let Some(alone) = sampled(single) {
            found.sampled = Some(alone);
            return Some(found);
        }
        let mut fields = single.split('-');
        let trace = fields.next().and_then(bytes);
        let span = fields.next().and_then(bytes);
        if trace.is_some() && span.is_some() {
            (found.trace, found.span) = (trace, span);
            found.sampled = fields.next().and_then(sampled).or(asked);
            found.parent = fields.next().and_then(bytes);
            return Some(found);
        }
    }
    found.format = TraceFormat::B3;
    found.trace = text(&B3_TRACE).and_then(bytes);
    found.span = text(&B3_SPAN)
        .and_then(bytes)
        .filter(|_| found.trace.is_some());
    found.parent = text(&B3_PARENT)
        .and_then(bytes)
        .filter(|_| found.span.is_some());
    (found.trace.is_some() || asked.is_some()).then_some(found)
}

/// B3 in one field as `tracestate` may carry it: as all that one says.
fn b3_in_state(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(TRACESTATE).into_iter();
    let mut states = all.filter_map(|state| state.to_str().ok());
    states.find_map(|state| state.trim().strip_prefix("b3="))
}

fn sampled(text: &str) -> Option<bool> {
    match text {
        "1" | "true" | "d" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// Hexadecimal digits as bytes, with zeros before them.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.is_empty() || text.len() > 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let padded = format!("{text:0>width$}", width = 2 * N);
    for (byte, place) in bytes.iter_mut().zip((0..2 * N).step_by(2)) {
        *byte = u8::from_str_radix(padded.get(place..place + 2)?, 16).ok()?;
    }
    Some(bytes)
}

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
            put(B3_SAMPLED, flag.to_string());
            headers.remove(B3_FLAGS);
        }
        TraceFormat::B3Single => {
            put(B3, format!("{}-{span}-{flag}-{parent}", trace.short_id()));
            // What the caller said beside it may be another thing.
            headers.remove(B3_SAMPLED);
            headers.remove(B3_FLAGS);
        }
        TraceFormat::Jaeger => {
            let id = hexadecimal(&trace.id);
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
        TraceFormat::Jaeger => ("jaeger", hexadecimal(&trace.id)),
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
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn each_format_is_read_as_it_is_told() {
        let mut trace = Trace {
            id: bytes(ID).unwrap(),
            caller: None,
            server: [1; 8],
            client: bytes(SPAN).unwrap(),
            sampled: true,
        };
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
    fn b3_says_of_sampling_without_a_trace_too() {
        let check = |fields: &[(&'static str, &str)], format, traced: bool, sampled| {
            let read = extract(TraceFormat::B3, &headers(fields)).unwrap();
            assert_eq!(
                (read.format, read.trace.is_some()),
                (format, traced),
                "{fields:?}"
            );
            assert_eq!(read.sampled, sampled, "{fields:?}");
        };
        let (single, several) = (TraceFormat::B3Single, TraceFormat::B3);
        check(&[("b3", "0")], single, false, Some(false));
        check(&[("b3", "d")], single, false, Some(true));
        check(&[("x-b3-sampled", "true")], several, false, Some(true));
        check(
            &[("x-b3-flags", "1"), ("x-b3-sampled", "0")],
            several,
            false,
            Some(true),
        );
        let ids = format!("{ID}-{SPAN}");
        check(&[("b3", &ids)], single, true, None);
        check(
            &[("b3", &ids), ("x-b3-sampled", "0")],
            single,
            true,
            Some(false),
        );
        let kept = format!("{ids}-1");
        check(
            &[("b3", &kept), ("x-b3-sampled", "0")],
            single,
            true,
            Some(true),
        );
        check(&[("b3", "x"), ("x-b3-traceid", ID)], several, true, None);
        let in_state = format!("b3={kept}");
        check(&[("tracestate", &in_state)], single, true, Some(true));
        let beside = [("tracestate", "a=b"), ("tracestate", &in_state)];
        check(&beside, single, true, Some(true));
        check(
            &[("b3", "0"), ("tracestate", &in_state)],
            single,
            false,
            Some(false),
        );
        let behind = format!("a=b,{in_state}");
        assert_eq!(
            extract(TraceFormat::B3, &headers(&[("tracestate", &behind)])),
            None
        );
        for nothing in ["x", "2", ""] {
            assert_eq!(extract(TraceFormat::B3, &headers(&[("b3", nothing)])), None);
        }
    }

    #[test]
    fn formats_of_providers_are_read_as_they_write_them() {
        let check = |format, fields: &[(&'static str, &str)], trace: &str, span: &str, sampled| {
            let read = extract(format, &headers(fields)).unwrap();
            let ids = (read.trace, read.span);
            assert_eq!(ids, (bytes(trace), bytes(span)), "{fields:?}");
            assert_eq!(read.sampled, sampled, "{fields:?}");
        };
        let aws = "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736; Parent=00f067aa0ba902b7; Sampled=0";
        check(
            TraceFormat::Aws,
            &[("x-amzn-trace-id", aws)],
            ID,
            SPAN,
            Some(false),
        );
        let gcp = format!("{ID}/67667974448284343;o=1");
        check(
            TraceFormat::Gcp,
            &[("x-cloud-trace-context", &gcp)],
            ID,
            SPAN,
            Some(true),
        );
        check(
            TraceFormat::Gcp,
            &[("x-cloud-trace-context", ID)],
            ID,
            "",
            None,
        );
        let datadog = [
            ("x-datadog-trace-id", "67667974448284343"),
            ("x-datadog-parent-id", "67667974448284343"),
            ("x-datadog-sampling-priority", "-1"),
        ];
        check(TraceFormat::Datadog, &datadog, SPAN, SPAN, Some(false));
        let instana = [
            ("x-instana-t", ID),
            ("x-instana-s", SPAN),
            ("x-instana-l", "1,x"),
        ];
        check(TraceFormat::Instana, &instana, ID, SPAN, Some(true));
        for (format, name, value) in [
            (TraceFormat::Aws, "x-amzn-trace-id", "Root=1-4bf92f35"),
            (TraceFormat::Gcp, "x-cloud-trace-context", "/1;o=1"),
            (TraceFormat::Datadog, "x-datadog-trace-id", "0x1"),
            (TraceFormat::Instana, "x-instana-t", "none"),
        ] {
            assert_eq!(extract(format, &headers(&[(name, value)])), None, "{value}");
        }
    }

    #[test]
    fn a_malformed_traceparent_is_none() {
        let good = format!("00-{ID}-{SPAN}-01");
        assert!(extract(TraceFormat::W3c, &headers(&[("traceparent", &good)])).is_some());
        let later = format!("01-{ID}-{SPAN}-00-more");
        assert!(extract(TraceFormat::W3c, &headers(&[("traceparent", &later)])).is_some());
        for bad in [
            String::new(),
            format!("ff-{ID}-{SPAN}-01"),
            format!("00-{ID}-{SPAN}-01-more"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{ID}-{}-01", "0".repeat(16)),
            format!("00-{ID}x-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", &ID[1..]),
        ] {
            let found = extract(TraceFormat::W3c, &headers(&[("traceparent", &bad)]));
            assert_eq!(found, None, "{bad}");
        }
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
        };
        assert_eq!(trace.short_id(), "463ac35c9f6413ad");
    }
}
