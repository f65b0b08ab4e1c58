//! What is read of trace context, and what is not.

use super::*;

pub(in super::super) const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
pub(in super::super) const SPAN: &str = "00f067aa0ba902b7";

pub(in super::super) fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
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
        &[("x-cloud-trace-context", &format!("{ID}/1"))],
        ID,
        "1",
        Some(false),
    );
    let spaced = format!("  Root =   1-{}-{}  ;  Sampled   =1", &ID[..8], &ID[8..]);
    check(
        TraceFormat::Aws,
        &[("x-amzn-trace-id", &spaced)],
        ID,
        "",
        Some(true),
    );
    let long = u128::from_be_bytes(bytes(ID).unwrap()).to_string();
    let long = [("x-datadog-trace-id", &*long), ("x-datadog-parent-id", "x")];
    check(TraceFormat::Datadog, &long, ID, "", None);
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
fn what_is_malformed_in_a_part_is_ignored_whole() {
    let zeros = "0".repeat(32);
    let long = "1".repeat(33);
    let check = |format, name: &'static str, values: &[String]| {
        for value in values {
            let found = extract(format, &headers(&[(name, value)]));
            assert_eq!(found, None, "{name}: {value}");
        }
    };
    check(
        TraceFormat::W3c,
        "traceparent",
        &[
            String::new(),
            format!("01-{ID}-{SPAN}-01"),
            format!("vv-{ID}-{SPAN}-01"),
            format!("00-{ID}-{SPAN}-01-more"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{ID}-{}-01", &zeros[..16]),
            format!("00-{ID}x-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", &ID[1..]),
            format!("00-{ID}-{SPAN}-1"),
            format!("00-{ID}-{SPAN}-001"),
        ],
    );
    check(
        TraceFormat::B3,
        "b3",
        &[
            format!("123-{SPAN}-1"),
            format!("{ID}-"),
            format!("{ID}-123-1"),
            format!("{ID}-{SPAN}-x"),
            format!("{ID}-{SPAN}-1-123"),
            format!("{ID}-{SPAN}-1-{SPAN}-1"),
            format!("{zeros}-{SPAN}"),
            "true".to_owned(),
        ],
    );
    check(
        TraceFormat::Jaeger,
        "uber-trace-id",
        &[
            format!("{zeros}:{SPAN}:0:01"),
            format!("{long}:{SPAN}:0:01"),
            format!("{ID}:{}:0:01", &zeros[..16]),
            format!("{ID}:{SPAN}:vv:01"),
            format!("{ID}:{SPAN}:0:001"),
            format!("{ID}:{SPAN}:0"),
            format!("{ID}:{SPAN}:0:01:1"),
        ],
    );
    let root = format!("Root=1-{}-{}", &ID[..8], &ID[8..]);
    check(
        TraceFormat::Aws,
        "x-amzn-trace-id",
        &[
            root.replace("=1-", "=0-"),
            format!("Root=1-{}-{}", &ID[..8], &ID[9..]),
            format!("{root};Parent=123"),
            format!("{root};Parent={};Sampled=1", "v".repeat(16)),
            format!("{root};Sampled=2"),
            format!("{root};Sampled="),
        ],
    );
    check(
        TraceFormat::Gcp,
        "x-cloud-trace-context",
        &[
            ID.to_owned(),
            format!("{ID}/;o=1"),
            format!("{ID}/{SPAN};o=1"),
            format!("{ID}/99999999999999999999;o=1"),
            format!("{ID}/1;o=01"),
            format!("{ID}/1;o="),
            format!("{ID}/1;o=v"),
            "123/1;o=0".to_owned(),
        ],
    );
}

#[test]
fn of_several_fields_those_that_speak_of_sampling_are_heard_all_the_same() {
    let sampled_alone = |format, fields: &[(&'static str, &str)]| {
        let read = extract(format, &headers(fields)).unwrap();
        assert_eq!(
            (read.trace, read.sampled),
            (None, Some(false)),
            "{fields:?}"
        );
    };
    for bad in [
        [("x-b3-traceid", "x"), ("x-b3-spanid", SPAN)],
        [("x-b3-traceid", ID), ("x-b3-spanid", "123")],
    ] {
        let fields = [&bad[..], &[("x-b3-sampled", "0")]].concat();
        sampled_alone(TraceFormat::B3, &fields);
    }
    let bad = [
        ("ot-tracer-traceid", ID),
        ("ot-tracer-spanid", "1"),
        ("ot-tracer-sampled", "0"),
    ];
    sampled_alone(TraceFormat::Ot, &bad);
    sampled_alone(
        TraceFormat::Datadog,
        &[
            ("x-datadog-trace-id", "0x1"),
            ("x-datadog-sampling-priority", "-1"),
        ],
    );
    let bad = [
        ("x-datadog-trace-id", "1"),
        ("x-datadog-sampling-priority", "3"),
    ];
    assert_eq!(extract(TraceFormat::Datadog, &headers(&bad)), None);
}
