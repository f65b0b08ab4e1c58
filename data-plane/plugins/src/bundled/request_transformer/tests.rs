//! What the upstream sees of a changed request.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::exchange::Matched;
use crate::testing::{Answer, FakeHost, Request, answer_of};

fn filter(config: Value) -> RequestTransformerFilter {
    let config: RequestTransformer = serde_json::from_value(config).unwrap();
    config.compile(&Instance { id: Uuid::nil() }).unwrap()
}

fn request(uri: &str, headers: &[(&'static str, &'static str)], body: &'static str) -> Request {
    let mut request = Request::get(uri);
    for (name, value) in headers {
        let name = HeaderName::from_static(name);
        request
            .headers
            .push((name, HeaderValue::from_static(value)));
    }
    request.body = body.into();
    request.matched = Matched::default();
    request
}

fn transform(config: Value, request: &Request) -> Answer {
    let answer = answer_of(&filter(config), &FakeHost::default(), request);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer
}

fn body_of(answer: &Answer) -> String {
    let body = answer.overrides.body.clone().unwrap_or_default();
    String::from_utf8(body.to_vec()).unwrap()
}

#[test]
fn headers_change_in_order() {
    let config = json!({
        "remove": {"headers": ["x-gone"]},
        "rename": {"headers": ["x-old:x-new"]},
        "replace": {"headers": ["x-there:2", "x-absent:2", "host:other.example"]},
        "add": {"headers": ["x-there:3", "x-added:a:b", "host:evil"]},
        "append": {"headers": ["x-more:2", "x-first:1"]},
    });
    let headers = [
        ("x-gone", "1"),
        ("x-old", "o"),
        ("x-there", "1"),
        ("x-more", "1"),
    ];
    let answer = transform(config, &request("/", &headers, ""));
    for (name, expected) in [
        ("x-gone", ""),
        ("x-old", ""),
        ("x-new", "o"),
        ("x-there", "2"),
        ("x-absent", ""),
        ("x-added", "a:b"),
        ("x-more", "1, 2"),
        ("x-first", "1"),
    ] {
        assert_eq!(answer.upstream_header(name), expected, "{name}");
    }
    assert_eq!(answer.overrides.host.unwrap(), "other.example");
}

#[test]
fn a_header_that_is_renamed_to_host_is_the_servers() {
    let transformed = |rename| {
        let config = json!({ "rename": {"headers": [rename]} });
        let headers = [("host", "named.a"), ("x-name", "named.b")];
        let answer = transform(config, &request("/", &headers, ""));
        let (name, old) = (
            answer.upstream_header("x-name"),
            answer.upstream_header("x-old"),
        );
        let host = answer
            .overrides
            .host
            .map(|host| host.to_str().unwrap().to_owned());
        (host, name, old)
    };
    let (host, name, _) = transformed("x-name:host");
    assert_eq!((host.as_deref(), &*name), (Some("named.b"), ""));
    let (host, _, old) = transformed("host:x-old");
    assert_eq!((host, &*old), (None, ""));
}

#[test]
fn the_query_changes_and_nothing_else_of_the_uri() {
    let config = json!({
        "remove": {"querystring": ["gone"]},
        "rename": {"querystring": ["old:new"]},
        "replace": {"querystring": ["there:2", "absent:2"]},
        "add": {"querystring": ["there:3", "added:$(headers.x_a or 'none')"]},
        "append": {"querystring": ["more:2"]},
    });
    let answer = transform(
        config,
        &request("/p?gone=1&old=o&there=1&more=1", &[("x-a", "h")], ""),
    );
    assert_eq!(
        answer.upstream.uri,
        "/p?new=o&there=2&more=1&more=2&added=h"
    );
}

#[test]
fn json_forms_and_multipart_bodies_change() {
    let config = json!({
        "remove": {"body": ["gone"]},
        "rename": {"body": ["old:new"]},
        "replace": {"body": ["there:2"]},
        "add": {"body": ["there:3", "added:4"]},
        "append": {"body": ["more:2"]},
    });
    let json = request(
        "/",
        &[("content-type", "application/json")],
        r#"{"gone":1,"old":{"a":1},"there":"1","more":"1","n":1.5}"#,
    );
    let changed: Value = serde_json::from_str(&body_of(&transform(config.clone(), &json))).unwrap();
    let expected =
        json!({"new": {"a": 1}, "there": "2", "more": ["1", "2"], "n": 1.5, "added": "4"});
    assert_eq!(changed, expected);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let form = request("/", &form, "gone=1&old=o&there=1&more=1");
    assert_eq!(
        body_of(&transform(config.clone(), &form)),
        "new=o&there=2&more=1&more=2&added=4"
    );
    let parts = request(
        "/",
        &[("content-type", "multipart/form-data; boundary=b")],
        "--b\r\nContent-Disposition: form-data; name=\"gone\"\r\n\r\n1\r\n--b\r\nContent-Disposition: form-data; name=\"there\"\r\n\r\n1\r\n--b--\r\n",
    );
    let changed = body_of(&transform(config.clone(), &parts));
    assert!(
        !changed.contains("gone") && changed.contains("name=\"there\"\r\n\r\n2\r\n"),
        "{changed}"
    );
    let opaque = request("/", &[("content-type", "text/plain")], "gone=1");
    assert!(transform(config.clone(), &opaque).overrides.body.is_none());
    let broken = request("/", &[("content-type", "application/json")], "[1]");
    assert!(transform(config, &broken).overrides.body.is_none());
}

#[test]
fn method_and_path_change() {
    let mut form = request("/?a=1", &[], "b=2");
    let value = HeaderValue::from_static("application/x-www-form-urlencoded");
    form.headers.push((CONTENT_TYPE, value));
    form.method = Method::POST;
    let answer = transform(json!({"http_method": "GET"}), &form);
    assert_eq!(answer.upstream.method, Method::GET);
    assert_eq!(answer.upstream.uri, "/?a=1&b=2");
    let config = json!({"replace": {"uri": "/r/$(query_params.a) x?y"}});
    let answer = transform(config, &form);
    assert_eq!(answer.overrides.path.unwrap(), "/r/1%20x%3Fy");
    let config = json!({"replace": {"uri": "/r/$(query_params.a)"}});
    for (given, path) in [
        ("%2541", Some("/r/%41")),
        ("100%25", Some("/r/100%25")),
        ("a/b", Some("/r/a/b")),
        ("..a/.b", Some("/r/..a/.b")),
        ("../admin", None),
        ("a/%252e%252E/b", None),
        ("./", None),
    ] {
        let filter = filter(config.clone());
        let request = request(&format!("/?a={given}"), &[], "");
        if let Some(path) = path {
            let answer = transform(config.clone(), &request);
            assert_eq!(answer.overrides.path.unwrap(), path);
        } else {
            let answer = answer_of(&filter, &FakeHost::default(), &request);
            assert_eq!(answer.status, 400, "{given}");
        }
    }
    let wrong = filter(json!({"replace": {"uri": "$(query_params.a)"}}));
    assert_eq!(answer_of(&wrong, &FakeHost::default(), &form).status, 500);
    // The query may hold secrets.
    let failure = form.with_exchange(|exchange| {
        let host = FakeHost::default();
        host.run(wrong.transform(exchange)).unwrap_err()
    });
    assert!(matches!(
        failure,
        Failure::Template(said) if said == "what 'replace.uri' gives does not begin with '/'"
    ));
    for place in ["headers", "querystring", "body"] {
        let wrong = filter(json!({"add": {place: ["x:$(1 .. nothing)"]}}));
        let answer = answer_of(&wrong, &FakeHost::default(), &form);
        assert_eq!(answer.status, 500, "{place}");
        assert_eq!(answer.message(), "An unexpected error occurred");
    }
}

#[test]
fn entries_that_say_nothing_are_named() {
    let config = json!({
        "add": {"headers": ["x-a", "x b:1"], "querystring": ["a:$(os.time())"]},
        "rename": {"body": ["a"]},
        "append": {"querystring": ["q:"]},
        "http_method": "G T",
    });
    let errors = crate::registry::check("request-transformer", &config).unwrap_err();
    let errors = Value::Object(errors.by_field);
    assert_eq!(errors["add"]["headers"]["1"], "invalid value: x-a");
    assert_eq!(errors["add"]["headers"]["2"], "'x b' is not a valid header");
    assert!(
        errors["add"]["querystring"]["1"]
            .as_str()
            .unwrap()
            .contains("$(os.time())")
    );
    assert_eq!(errors["rename"]["body"]["1"], "key 'a' has no value");
    assert_eq!(errors["append"]["querystring"]["1"], "key 'q' has no value");
    assert_eq!(errors["http_method"], "invalid value: G T");
}

#[test]
fn bytes_that_are_no_text_go_on_as_they_came() {
    let config = json!({
        "append": {
            "headers": ["x-out:<$(headers.x_in)>"],
            "querystring": ["q:$(headers.x_in)", "p:$(query_params.l)"],
            "body": ["b:$(headers.x_in)"],
        },
        "replace": {"uri": "/$(headers.x_in)"},
    });
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let mut request = request("/?l=%FC&k=%E9t", &form, "");
    request.body = Bytes::from_static(b"a=\xFF%FE");
    let odd = HeaderValue::from_bytes(b"gr\xFCn \xF4\x8F\xBE\x80").unwrap();
    request.headers.push((HeaderName::from_static("x-in"), odd));
    let answer = transform(config, &request);
    let out = answer.upstream.headers.get("x-out").unwrap();
    assert_eq!(out.as_bytes(), b"<gr\xFCn \xF4\x8F\xBE\x80>");
    let odd = "gr%FCn%20%F4%8F%BE%80";
    let uri = answer.upstream.uri.to_string();
    assert_eq!(uri, format!("/?l=%FC&k=%E9t&q={odd}&p=%FC"));
    assert_eq!(answer.overrides.path, Some(format!("/{odd}")));
    assert_eq!(body_of(&answer), format!("a=%FF%FE&b={odd}"));
}

#[test]
fn json_and_parts_take_bytes_as_far_as_they_can() {
    let config = json!({"add": {"body": ["b:$(headers.x_in)"]}, "rename": {"body": ["a:c"]}});
    let odd = || HeaderValue::from_bytes(b"\xFC").unwrap();
    let json = [("content-type", "application/json")];
    let mut request = request("/", &json, r#"{"a":1}"#);
    request
        .headers
        .push((HeaderName::from_static("x-in"), odd()));
    let answer = transform(config.clone(), &request);
    assert_eq!(body_of(&answer), "{\"c\":1,\"b\":\"\u{FFFD}\"}");
    let kind = HeaderValue::from_static("multipart/form-data; boundary=x");
    request.headers[0].1 = kind;
    request.body = Bytes::from_static(
        b"--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\xFE\r\n--x--\r\n",
    );
    let body = transform(config, &request).overrides.body.unwrap();
    let has = |wanted: &[u8]| body.windows(wanted.len()).any(|found| found == wanted);
    assert!(has(b"name=\"c\"\r\n\r\n\xFE\r\n"), "{body:?}");
    assert!(has(b"name=\"b\"\r\n\r\n\xFC\r\n"), "{body:?}");
}
