//! Whom `cors` allows what.

use uuid::Uuid;

use serde_json::{Value, json};

use super::*;
use crate::testing::{FakeHost, Request, answer_of, reply_of};

fn filter(config: Value) -> CorsFilter {
    let config: Cors = serde_json::from_value(config).unwrap();
    config.compile(&Instance { id: Uuid::nil() }).unwrap()
}

fn preflight(config: Value, more: &[(HeaderName, &'static str)]) -> HeaderMap {
    let mut request = Request::get("/");
    request.method = Method::OPTIONS;
    for (name, value) in [
        (ORIGIN, "http://origin1.example"),
        (ACCESS_CONTROL_REQUEST_METHOD, "GET"),
    ]
    .iter()
    .chain(more)
    {
        let value = HeaderValue::from_static(value);
        request.headers.push((name.clone(), value));
    }
    let answer = answer_of(&filter(config), &FakeHost::default(), &request);
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    answer.headers
}

#[test]
fn a_preflight_is_answered_with_all_that_is_allowed() {
    let headers = preflight(json!({}), &[(ACCESS_CONTROL_REQUEST_HEADERS, "x-a,x-b")]);
    assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert_eq!(
        headers[ACCESS_CONTROL_ALLOW_METHODS],
        "GET,HEAD,PUT,PATCH,POST,DELETE,OPTIONS,TRACE,CONNECT"
    );
    assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], "x-a,x-b");
    assert!(!headers.contains_key(ACCESS_CONTROL_MAX_AGE) && !headers.contains_key(VARY));
    let config = json!({
        "origins": ["http://origin1.example", "example.org"], "methods": ["GET"], "max_age": 23,
        "headers": ["origin", "type"], "credentials": true, "private_network": true,
    });
    let headers = preflight(config, &[(REQUEST_PRIVATE_NETWORK, "true")]);
    assert_eq!(
        headers[ACCESS_CONTROL_ALLOW_ORIGIN],
        "http://origin1.example"
    );
    assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], "GET");
    assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], "origin,type");
    assert_eq!(headers[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
    assert_eq!(headers[ACCESS_CONTROL_MAX_AGE], "23");
    assert_eq!(headers[ALLOW_PRIVATE_NETWORK], "true");
    assert_eq!(headers[VARY], "Origin");
    let headers = preflight(json!({"credentials": true}), &[]);
    assert_eq!(
        headers[ACCESS_CONTROL_ALLOW_ORIGIN],
        "http://origin1.example"
    );
}

#[test]
fn what_is_no_expression_is_named() {
    for (origin, good) in [
        ("invalid_**regex", false),
        ("(a", false),
        (r"^https://[a-z]*+\.example$", false),
        (r"a\**b", true),
        ("[a*]*x", true),
        (r".*\.?x", true),
    ] {
        let config = json!({"origins": [".*.example.com", origin]});
        let errors = crate::registry::check("cors", &config).err();
        let why = if origin.contains("*+") {
            ": possessive quantifiers (`*+`, `++`, `?+`, `}+`) are not supported"
        } else {
            ""
        };
        let expected = json!({"2": format!("'{origin}' is not a valid regex{why}")});
        let found = errors.map(|errors| errors.by_field["origins"].clone());
        assert_eq!(found, (!good).then_some(expected), "{origin}");
    }
}

#[test]
fn an_empty_origin_is_none() {
    for optional in [true, false] {
        let filter = filter(json!({
            "origins": ["http://a.example"], "allow_origin_absent": optional,
        }));
        for origin in ["", "http://b.example"] {
            let mut request = Request::get("/");
            request
                .headers
                .push((ORIGIN, HeaderValue::from_static(origin)));
            let reply = reply_of(&filter, &FakeHost::default(), &request, &[], "");
            let found = reply.headers.get(ACCESS_CONTROL_ALLOW_ORIGIN);
            let expected = optional || !origin.is_empty();
            assert_eq!(found.is_some(), expected, "{optional} '{origin}'");
        }
    }
}

#[test]
fn origins_are_compared_whole_or_by_host() {
    let check = |origins: &[&str], origin: &str, expected: Option<&str>| {
        let filter = filter(json!({"origins": origins}));
        let mut headers = HeaderMap::new();
        filter.allow(&mut headers, Some(&HeaderValue::from_str(origin).unwrap()));
        let allowed = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN);
        assert_eq!(
            allowed.map(|value| value.to_str().unwrap()),
            expected,
            "{origins:?} {origin}"
        );
    };
    let two = ["http://a.example", "https://b.example"];
    check(&two, "http://a.example", Some("http://a.example"));
    check(&two, "http://a.example:80", Some("http://a.example"));
    check(&two, "https://a.example", None);
    check(&two, "http://c.example", None);
    check(
        &["http://a.example"],
        "http://c.example",
        Some("http://a.example"),
    );
    let regex = [r".*\.example\.com", r"https?://x\.test(:\d+)?$"];
    check(
        &regex,
        "http://deep.example.com:90",
        Some("http://deep.example.com:90"),
    );
    check(&regex, "http://example.com", None);
    check(&regex, "http://deep.example.com.evil", None);
    check(&regex, "https://x.test:99", Some("https://x.test:99"));
    check(&["http://a.example", "*"], "http://c.example", Some("*"));
}
