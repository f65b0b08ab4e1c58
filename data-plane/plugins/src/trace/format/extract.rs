//! What callers say in each format, as far as it is sound.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    AWS, B3, B3_FLAGS, B3_PARENT, B3_SAMPLED, B3_SPAN, B3_TRACE, DATADOG_PARENT, DATADOG_PRIORITY,
    DATADOG_TRACE, GCP, INSTANA_LEVEL, INSTANA_SPAN, INSTANA_TRACE, JAEGER, OT_SAMPLED, OT_SPAN,
    OT_TRACE, TRACEPARENT, TRACESTATE, TraceFormat,
};

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
    /// Whether all on the way are to keep it (B3).
    pub(crate) debug: bool,
    /// `tracestate`, which is passed on as it is.
    pub(crate) state: Option<HeaderValue>,
}

/// Reads `format` from `headers`; `None` if it is not there or malformed. What is malformed in a part is ignored as a whole,
/// but for what it says of sampling in a field of its own (Kong 3.9, propagation).
pub(crate) fn extract(format: TraceFormat, headers: &HeaderMap) -> Option<Extracted> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let found = match format {
        TraceFormat::W3c => w3c(text(&TRACEPARENT)?)?,
        TraceFormat::B3 | TraceFormat::B3Single => return b3(headers),
        TraceFormat::Jaeger => jaeger(&text(&JAEGER)?.replace("%3A", ":"))?,
        TraceFormat::Ot => {
            let span = text(&OT_SPAN).map(exact);
            let trace = text(&OT_TRACE).and_then(id).filter(|_| span != Some(None));
            Said {
                trace,
                span: span.flatten(),
                sampled: text(&OT_SAMPLED).and_then(sampled),
                ..Said::default()
            }
        }
        TraceFormat::Aws => aws(text(&AWS)?)?,
        TraceFormat::Datadog => {
            let sampled = match text(&DATADOG_PRIORITY) {
                None => None,
                Some("1" | "2") => Some(true),
                Some("0" | "-1") => Some(false),
                Some(_) => return None,
            };
            let trace = text(&DATADOG_TRACE).and_then(decimal::<u128>);
            let span = text(&DATADOG_PARENT).and_then(decimal::<u64>);
            Said {
                trace: trace.map(u128::to_be_bytes),
                span: span.map(u64::to_be_bytes),
                sampled,
                ..Said::default()
            }
        }
        TraceFormat::Gcp => gcp(text(&GCP)?)?,
        TraceFormat::Instana => Said {
            trace: Some(bytes(text(&INSTANA_TRACE)?)?),
            span: text(&INSTANA_SPAN).and_then(bytes),
            sampled: text(&INSTANA_LEVEL).and_then(|text| sampled(text.get(..1)?)),
            ..Said::default()
        },
    };
    let mut extracted = found.extracted(format)?;
    if format == TraceFormat::W3c {
        extracted.state = headers.get(TRACESTATE).cloned();
    }
    Some(extracted)
}

/// What is said of a trace.
#[derive(Default)]
struct Said {
    trace: Option<[u8; 16]>,
    span: Option<[u8; 8]>,
    parent: Option<[u8; 8]>,
    sampled: Option<bool>,
    debug: bool,
}

impl Said {
    /// The same, said in `format`; `None` if it comes to nothing. A trace is none that only has a number of zeros.
    fn extracted(self, format: TraceFormat) -> Option<Extracted> {
        let trace = self.trace.filter(|trace| *trace != [0; 16]);
        let span = self.span.filter(|_| trace.is_some());
        (trace.is_some() || self.sampled.is_some()).then_some(Extracted {
            format,
            trace,
            span,
            parent: self.parent.filter(|_| span.is_some()),
            sampled: self.sampled,
            debug: self.debug,
            state: None,
        })
    }
}

/// W3C Trace Context §3.2.2, of version 0.
fn w3c(value: &str) -> Option<Said> {
    let mut fields = value.split('-');
    let (version, trace) = (fields.next()?, exact(fields.next()?)?);
    let span: [u8; 8] = exact(fields.next()?)?;
    let [flags] = exact::<1>(fields.next()?)?;
    let sound = version == "00" && trace != [0; 16] && span != [0; 8] && fields.next().is_none();
    sound.then_some(Said {
        trace: Some(trace),
        span: Some(span),
        sampled: Some(flags & 1 == 1),
        ..Said::default()
    })
}

/// Four numbers: of trace, span and parent, where zero stands for none, and flags.
fn jaeger(value: &str) -> Option<Said> {
    let mut fields = value.split(':');
    let trace: [u8; 16] = bytes(fields.next()?)?;
    let span: [u8; 8] = bytes(fields.next()?)?;
    let parent = fields.next()?;
    let [flags] = bytes::<1>(fields.next()?)?;
    let sound = trace != [0; 16] && span != [0; 8] && is_hexadecimal(parent);
    (sound && fields.next().is_none()).then_some(Said {
        trace: Some(trace),
        span: Some(span),
        parent: exact(parent).filter(|parent| *parent != [0; 8]),
        sampled: Some(flags & 1 == 1),
        ..Said::default()
    })
}

/// `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`, in any order and with others.
fn aws(value: &str) -> Option<Said> {
    let mut said = Said::default();
    for field in value.split(';') {
        let Some((name, value)) = field.split_once('=') else {
            continue;
        };
        match (name.trim(), value.trim()) {
            ("Root", root) => {
                let (time, rest) = root.strip_prefix("1-")?.split_once('-')?;
                let sound = time.len() == 8 && rest.len() == 24;
                said.trace = Some(sound.then(|| exact(&format!("{time}{rest}"))).flatten()?);
            }
            ("Parent", parent) => said.span = Some(exact(parent)?),
            ("Sampled", "0") => said.sampled = Some(false),
            ("Sampled", "1") => said.sampled = Some(true),
            ("Sampled", _) => return None,
            _ => {}
        }
    }
    Some(said)
}

/// `105445aa7843bc8bf206b12000100000/1;o=1`; without the last part it is not kept.
fn gcp(value: &str) -> Option<Said> {
    let (trace, rest) = value.split_once('/')?;
    let (span, options) = rest.split_once(';').unwrap_or((rest, "o=0"));
    let flag = options.strip_prefix("o=")?;
    if flag.len() != 1 || !flag.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(Said {
        trace: Some(exact(trace)?),
        span: Some(decimal::<u64>(span)?.to_be_bytes()),
        sampled: Some(flag == "1"),
        ..Said::default()
    })
}

/// Reads B3 in one field, else in several. What of sampling is said in these counts for the former, too.
fn b3(headers: &HeaderMap) -> Option<Extracted> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let debug = text(&B3_FLAGS) == Some("1");
    let asked = debug
        .then_some(true)
        .or_else(|| text(&B3_SAMPLED).and_then(sampled));
    let single = text(&B3).or_else(|| b3_in_state(headers));
    if let Some(mut said) = single.and_then(b3_single) {
        said.debug |= debug && said.sampled.is_none();
        said.sampled = said.sampled.or(asked);
        return said.extracted(TraceFormat::B3Single);
    }
    let (span, parent) = (text(&B3_SPAN).map(exact), text(&B3_PARENT).map(exact));
    let sound = span != Some(None) && parent != Some(None);
    let said = Said {
        trace: text(&B3_TRACE).and_then(id).filter(|_| sound),
        span: span.flatten(),
        parent: parent.flatten(),
        sampled: asked,
        debug,
    };
    said.extracted(TraceFormat::B3)
}

/// `{trace}-{span}-{sampled}-{parent}`, the latter two perhaps left out, or what is said of sampling alone.
fn b3_single(value: &str) -> Option<Said> {
    let flag = |text: &str| match text {
        "0" => Some(false),
        "1" | "d" => Some(true),
        _ => None,
    };
    let mut said = Said {
        sampled: flag(value),
        debug: value == "d",
        ..Said::default()
    };
    if said.sampled.is_some() {
        return Some(said);
    }
    let mut fields = value.split('-');
    said.trace = Some(id(fields.next()?)?);
    said.span = Some(exact(fields.next()?)?);
    let mut rest = fields.peekable();
    if let Some(text) = rest.next_if(|text| flag(text).is_some()) {
        (said.sampled, said.debug) = (flag(text), text == "d");
    }
    if let Some(parent) = rest.next() {
        said.parent = Some(exact(parent)?);
    }
    rest.next().is_none().then_some(said)
}

/// B3 in one field as `tracestate` may carry it: as all that one says.
fn b3_in_state(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(TRACESTATE).into_iter();
    let mut states = all.filter_map(|state| state.to_str().ok());
    states.find_map(|state| state.trim().strip_prefix("b3="))
}

fn sampled(text: &str) -> Option<bool> {
    match text {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn is_hexadecimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A number in digits and nothing else.
fn decimal<N: std::str::FromStr>(text: &str) -> Option<N> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// A trace's id of 16 or 32 hexadecimal digits.
fn id(text: &str) -> Option<[u8; 16]> {
    bytes(text).filter(|_| matches!(text.len(), 16 | 32))
}

/// As many hexadecimal digits as there are to be.
fn exact<const N: usize>(text: &str) -> Option<[u8; N]> {
    bytes(text).filter(|_| text.len() == 2 * N)
}

/// Hexadecimal digits as bytes, with zeros before them.
pub(super) fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() > 2 * N || !is_hexadecimal(text) {
        return None;
    }
    let padded = format!("{text:0>width$}", width = 2 * N);
    for (byte, place) in bytes.iter_mut().zip((0..2 * N).step_by(2)) {
        *byte = u8::from_str_radix(padded.get(place..place + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
pub(super) mod tests;
