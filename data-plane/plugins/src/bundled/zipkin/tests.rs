//! What zipkin promises.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;
use shared::clock::UnixTime;
use uuid::Uuid;

use super::*;
use crate::exchange::{Matched, Named, Try};
use crate::logs::log_record::Additions;
use crate::stream::StreamLog;
use crate::testing::{FakeHost, Request, answer_of, consumer, log_of, logged, unrouted};

fn filter(config: Value) -> ZipkinFilter {
    let config: Zipkin = serde_json::from_value(config).unwrap();
    config.compile(&Instance { id: Uuid::nil() }).unwrap()
}

#[test]
fn new_traces_are_told_in_the_configured_format() {
    let host = FakeHost::default();
    let told = |config: Value, name: &str| {
        answer_of(&filter(config), &host, &Request::get("/")).upstream_header(name)
    };
    assert_eq!(told(json!({}), "x-b3-traceid").len(), 32);
    assert_eq!(
        told(json!({"traceid_byte_count": 8}), "x-b3-traceid").len(),
        16
    );
    assert_eq!(told(json!({"sample_ratio": 1}), "x-b3-sampled"), "1");
    assert_eq!(told(json!({"sample_ratio": 0}), "x-b3-sampled"), "0");
    for name in ["traceparent", "x-b3-traceid"] {
        let told = told(json!({"header_type": "w3c"}), name);
        assert!(!told.is_empty(), "beside the default: {name}");
    }
    let jaeger = told(json!({"default_header_type": "jaeger"}), "uber-trace-id");
    let jaeger: Vec<usize> = jaeger.split(':').map(str::len).collect();
    assert_eq!(jaeger, [32, 16, 16, 2]);
    let ot = json!({"default_header_type": "ot"});
    assert_eq!(told(ot, "ot-tracer-traceid").len(), 16);
    let config = json!({"header_type": "ignore", "default_header_type": "w3c"});
    let mut request = Request::get("/");
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = HeaderValue::from_str(&format!("00-{id}-00f067aa0ba902b7-01")).unwrap();
    request
        .headers
        .push((HeaderName::from_static("traceparent"), parent));
    let told = answer_of(&filter(config), &host, &request).upstream_header("traceparent");
    assert!(told.len() == 55 && !told.contains(id), "{told}");
    let inject = json!({"propagation": {"inject": ["ignore"]}});
    assert!(crate::registry::check("zipkin", &inject).is_err());
}

#[test]
fn spans_reach_the_server() {
    let bodies: Rc<RefCell<Vec<Value>>> = Rc::default();
    let host = FakeHost::default();
    let seen = Rc::clone(&bodies);
    host.connect(Rc::new(move |request| {
        seen.borrow_mut()
            .push(serde_json::from_slice(request.body()).unwrap());
        Ok(http::Response::new(Bytes::new()))
    }));
    let filter = filter(json!({
        "http_endpoint": "http://zipkin.example/api/v2/spans", "sample_ratio": 1,
        "static_tags": [{"name": "static", "value": "ok"}], "http_span_name": "method_path",
    }));
    let mut request = Request::get("/a?b=secret");
    let header = HeaderName::from_static("zipkin-tags");
    request
        .headers
        .push((header, HeaderValue::from_static("foo=bar; baz=1")));
    log_of(&filter, &host, &request);
    host.run(host.sleep(Duration::from_secs(5)));
    let bodies = bodies.take();
    let spans = bodies[0].as_array().unwrap();
    let id = "00000000-0000-0000-0000-000000000000";
    let named = |one: &Value| (one["name"].clone(), one["kind"].clone());
    let [request, proxy, _attempt] = spans.as_slice() else {
        panic!("{spans:?}");
    };
    assert_eq!(named(request), (json!("GET /a"), json!("SERVER")));
    let tags = json!({
        "lc": "kong", "kong.node.id": "node-1", "static": "ok", "foo": "bar", "baz": "1",
        "http.method": "GET", "http.host": "gateway.example", "http.path": "/a",
        "http.status_code": "200", "http.protocol": "HTTP/1.1",
    });
    assert_eq!(request["tags"], tags);
    assert_eq!(
        request["remoteEndpoint"],
        json!({"ipv4": "127.0.0.1", "port": 40_000})
    );
    let marks = |one: &Value| {
        let marks = one["annotations"].as_array().unwrap().iter();
        let marks = marks.map(|mark| {
            let after = mark["timestamp"].as_u64().unwrap() - one["timestamp"].as_u64().unwrap();
            format!("{} {after}", mark["value"].as_str().unwrap())
        });
        marks.collect::<Vec<_>>()
    };
    assert_eq!(marks(request), ["krs 0", "krf 0"]);
    assert_eq!(named(proxy), (json!("GET /a (proxy)"), json!("CLIENT")));
    assert_eq!(proxy["parentId"], request["id"]);
    assert_eq!(proxy["duration"], 10_000);
    let expected = [
        "kas 0",
        "kaf 2000",
        "khs 5000",
        "khf 5000",
        "kbs 5000",
        "kbf 10000",
    ];
    assert_eq!(marks(proxy), expected);
    assert_eq!(proxy["tags"]["kong.route"], id);
    assert!(!bodies[0].to_string().contains("secret"));
}

/// The spans of `exchanges`, each reported for itself.
fn reported(config: &Value, exchanges: impl FnOnce(&ZipkinFilter, &FakeHost)) -> Vec<Value> {
    let spans: Rc<RefCell<Vec<Value>>> = Rc::default();
    let host = FakeHost::default();
    let seen = Rc::clone(&spans);
    host.connect(Rc::new(move |request| {
        let body: Vec<Value> = serde_json::from_slice(request.body()).unwrap();
        seen.borrow_mut().extend(body);
        Ok(http::Response::new(Bytes::new()))
    }));
    let mut fields = json!({"http_endpoint": "http://zipkin.example/", "sample_ratio": 1});
    let config = config.as_object().unwrap().clone();
    fields.as_object_mut().unwrap().extend(config);
    exchanges(&filter(fields), &host);
    host.run(host.sleep(Duration::from_secs(5)));
    spans.take()
}

fn with(fields: &[(&'static str, &str)]) -> Request {
    let mut request = Request::get("/a");
    for (name, value) in fields {
        let name = HeaderName::from_static(name);
        let value = HeaderValue::from_str(value).unwrap();
        request.headers.push((name, value));
    }
    request
}

const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const PARENT: &str = "00000000000000bb";

#[test]
fn a_span_is_shared_with_the_caller_where_the_format_has_it_so() {
    let check = |fields: &[(&'static str, &str)], shared: bool, parent: Value| {
        let request = with(fields);
        let spans = reported(&json!({}), |filter, host| log_of(filter, host, &request));
        let [server, proxy, attempt] = spans.as_slice() else {
            panic!("{spans:?}");
        };
        assert_eq!(server["id"] == SPAN, shared, "{fields:?}");
        assert_eq!(server["parentId"], parent, "{fields:?}");
        assert_eq!(proxy["parentId"], server["id"]);
        assert_eq!(attempt["parentId"], server["id"]);
        assert_eq!(server["traceId"], ID);
    };
    check(
        &[("b3", &format!("{ID}-{SPAN}-1-{PARENT}"))],
        true,
        json!(PARENT),
    );
    check(&[("b3", &format!("{ID}-{SPAN}-1"))], true, Value::Null);
    check(&[("b3", &format!("{ID}-{SPAN}"))], true, Value::Null);
    let several = [("x-b3-traceid", ID), ("x-b3-spanid", SPAN)];
    check(&several, true, Value::Null);
    let several = [several[0], several[1], ("x-b3-parentspanid", PARENT)];
    check(&several, true, json!(PARENT));
    check(
        &[("uber-trace-id", &format!("{ID}:{SPAN}:{PARENT}:1"))],
        true,
        json!(PARENT),
    );
    check(
        &[("uber-trace-id", &format!("{ID}:{SPAN}:0:1"))],
        true,
        Value::Null,
    );
    check(
        &[("traceparent", &format!("00-{ID}-{SPAN}-01"))],
        false,
        json!(SPAN),
    );
    let ot = [("ot-tracer-traceid", ID), ("ot-tracer-spanid", SPAN)];
    check(&ot, false, json!(SPAN));
    check(
        &[("b3", &format!("{ID}-0000000000000000-1"))],
        false,
        json!("0000000000000000"),
    );
}

#[test]
fn the_upstream_is_told_whose_child_it_is() {
    let told = |field: (&'static str, &str)| {
        let filter = filter(json!({}));
        let answer = answer_of(&filter, &FakeHost::default(), &with(&[field]));
        answer.upstream_header(field.0)
    };
    let b3 = told(("b3", &format!("{ID}-{SPAN}-1-{PARENT}")));
    assert!(
        b3.starts_with(ID) && b3.ends_with(&format!("-1-{SPAN}")),
        "{b3}"
    );
    let short = &ID[..16];
    let jaeger = told(("uber-trace-id", &format!("{short}:{SPAN}:{PARENT}:1")));
    let fields: Vec<&str> = jaeger.split(':').collect();
    assert_eq!((fields[0], fields[2], fields[3]), (short, SPAN, "01"));
}

#[test]
fn what_meets_no_route_is_traced_too() {
    let request = with(&[
        ("b3", &format!("{ID}-{SPAN}-1")),
        ("zipkin-tags", "error = true;foo bar=baz;none;empty=;=bar;="),
    ]);
    let config = json!({"http_response_header_for_traceid": "x-trace"});
    let spans = reported(&config, |filter, host| {
        assert_eq!(unrouted(filter, host, &request)["x-trace"], ID);
    });
    let [server, proxy] = spans.as_slice() else {
        panic!("{spans:?}");
    };
    assert_eq!(
        (&server["traceId"], &server["id"]),
        (&json!(ID), &json!(SPAN))
    );
    assert_eq!(server["tags"]["http.status_code"], "404");
    assert_eq!(server["tags"]["error"], "true");
    for none in ["foo bar", "none", "empty", ""] {
        assert_eq!(server["tags"].get(none), None, "{none}");
    }
    assert_eq!(
        (&proxy["name"], &proxy["parentId"]),
        (&json!("GET (proxy)"), &json!(SPAN))
    );
    assert_eq!(
        (&proxy["tags"], &proxy["remoteEndpoint"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn who_has_asked_is_told_of_the_request() {
    let spans = reported(&json!({}), |filter, host| {
        logged(filter, host, &Request::get("/a"), |seen| {
            seen.identity.consumer = Some(consumer("alice", None));
            seen.identity.credential = Some("key".to_owned());
        });
    });
    let id = consumer("alice", None).id.to_string();
    assert_eq!(spans[0]["tags"]["kong.consumer"], id);
    assert_eq!(spans[0]["tags"]["kong.credential"], "key");
    assert_eq!(spans[1]["tags"]["kong.consumer"], Value::Null);
    assert_eq!(spans[1]["tags"]["peer.hostname"], "up.example");
}

#[test]
fn a_server_is_waited_for_as_long_as_each_step_may_take() {
    let waits = |config: Value| {
        let mut all = Vec::new();
        reported(&config, |filter, host| {
            log_of(filter, host, &Request::get("/a"));
            host.run(host.sleep(Duration::from_secs(5)));
            all.push(host.last_limits());
        });
        let limits = all.pop().unwrap();
        (limits.waits.unwrap(), limits.timeout)
    };
    let expected = Waits {
        connect: Duration::from_secs(2),
        send: Duration::from_secs(5),
        read: Duration::from_millis(500),
    };
    assert_eq!(
        waits(json!({"read_timeout": 500})),
        (expected, Duration::from_millis(7500))
    );
}

#[test]
fn streams_are_told_with_each_server_that_was_tried() {
    let bodies: Rc<RefCell<Vec<Value>>> = Rc::default();
    let host = FakeHost::default();
    let seen = Rc::clone(&bodies);
    host.connect(Rc::new(move |request| {
        seen.borrow_mut()
            .push(serde_json::from_slice(request.body()).unwrap());
        Ok(http::Response::new(Bytes::new()))
    }));
    let matched = Matched {
        service: Some(Named {
            id: Uuid::from_u128(8),
            name: Some("s".to_owned()),
        }),
        ..Matched::default()
    };
    let attempt = |number: u8, failed| Try {
        host: format!("10.0.0.{number}"),
        port: 9,
        name: format!("{number}.example"),
        started_at: 1_000,
        chosen_within: 2_000_000,
        failed,
    };
    let log = StreamLog {
        matched: &matched,
        client: "2001:db8::1".parse().unwrap(),
        client_port: 7,
        port: 9000,
        status: http::StatusCode::OK,
        connected: true,
        received: 5,
        sent: 6,
        started_at: UnixTime::from_secs(1),
        kong: 3,
        session: 9,
        tls: None,
        tries: &[attempt(1, Some(502)), attempt(2, None)],
    };
    for ratio in [1, 0] {
        let filter = filter(json!({
            "http_endpoint": "http://zipkin.example", "sample_ratio": ratio,
            "phase_duration_flavor": "tags",
        }));
        filter.on_log(Over::Stream(&log), &host);
    }
    host.run(host.sleep(Duration::from_secs(5)));
    let bodies = bodies.take();
    assert_eq!(bodies.len(), 1);
    let spans = bodies[0].as_array().unwrap();
    let names: Vec<_> = spans
        .iter()
        .map(|span| span["name"].as_str().unwrap())
        .collect();
    let tried = ["stream (balancer try 1)", "stream (balancer try 2)"];
    assert_eq!(names, ["stream", "stream (proxy)", tried[0], tried[1]]);
    let client = json!({"ipv6": "2001:db8::1", "port": 7});
    assert_eq!(spans[0]["remoteEndpoint"], client);
    assert_eq!(spans[1]["tags"]["kong.preread.duration_ms"], "3");
    assert_eq!(spans[1]["tags"]["peer.hostname"], "2.example");
    let server = json!({"serviceName": "s", "ipv4": "10.0.0.2", "port": 9});
    for span in [&spans[1], &spans[3]] {
        assert_eq!(span["remoteEndpoint"], server);
        assert_eq!(span["parentId"], spans[0]["id"]);
    }
    assert_eq!(spans[2]["tags"]["kong.balancer.state"], "failed");
    assert_eq!(spans[2]["tags"]["http.status_code"], "502");
    assert_eq!(
        (&spans[2]["timestamp"], &spans[2]["duration"]),
        (&json!(1_000_000), &json!(2000))
    );
    let tags = json!({
        "kong.balancer.try": "2", "kong.route": Uuid::nil(), "kong.service": Uuid::from_u128(8),
        "kong.service_name": "s",
    });
    assert_eq!(spans[3]["tags"], tags);
}

#[test]
fn static_tags_are_each_of_their_own_name() {
    let check = |names: [&str; 2], expected: Value| {
        let tags = names.map(|name| json!({"name": name, "value": "x"}));
        let errors = crate::registry::check("zipkin", &json!({ "static_tags": tags }));
        let errors = Value::Object(errors.unwrap_err().by_field);
        assert_eq!(errors, json!({ "static_tags": expected }));
    };
    check(["foo", "foo"], json!("repeated tags are not allowed: foo"));
    let reserved = "must not be one of: error, http.method, http.path, http.status_code, kong.balancer.state, kong.balancer.try, kong.consumer, kong.credential, kong.node.id, kong.route, kong.service, lc, peer.hostname";
    check(["foo", "error"], json!({"2": {"name": reserved}}));
}

#[test]
fn what_cannot_be_looked_for_or_cleared_is_named_by_its_place() {
    let check = |propagation: Value, expected: Value| {
        let config = json!({ "propagation": propagation });
        let errors = crate::registry::check("zipkin", &config).unwrap_err();
        assert_eq!(errors.by_field["propagation"], expected, "{propagation}");
    };
    check(
        json!({"extract": ["w3c", "b3-single"]}),
        json!({"extract": {"2": "expected one of: w3c, b3, jaeger, ot, aws, datadog, gcp, instana"}}),
    );
    check(
        json!({"clear": ["x-a", "a b"]}),
        json!({"clear": {"2": "bad header name 'a b', allowed characters are A-Z, a-z, 0-9, '_', and '-'"}}),
    );
}

#[test]
fn logs_are_told_the_traces_id_in_each_format_that_is_told() {
    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";
    let host = FakeHost::default();
    let ids = |format: &str, field: Option<(&'static str, String)>| {
        let filter = filter(json!({"header_type": format}));
        let mut request = Request::get("/");
        request.headers.extend(field.map(|(name, value)| {
            let value = HeaderValue::from_str(&value).unwrap();
            (HeaderName::from_static(name), value)
        }));
        request.with_exchange(|exchange| {
            let flow = host.run(filter.on_request(exchange, &host));
            assert!(matches!(flow, Flow::Continue));
            Additions::of(&mut exchange.notes)["trace_id"].clone()
        })
    };
    let w3c = || Some(("traceparent", format!("00-{ID}-{SPAN}-01")));
    let b3 = || Some(("b3", format!("{ID}-{SPAN}-1")));
    assert_eq!(ids("jaeger", w3c()), json!({"w3c": ID, "jaeger": ID}));
    assert_eq!(ids("b3", b3()), json!({"b3": ID}));
    let datadog = json!({"b3": ID, "datadog": "11803532876627986230"});
    assert_eq!(ids("datadog", b3()), datadog);
    let made = ids("gcp", None);
    assert_eq!(made["b3"], made["gcp"], "beside the default");
    assert_eq!(made.as_object().unwrap().len(), 2);
}
