//! What proxy cache promises.

use http::header::CACHE_CONTROL;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Answer, FakeHost, Request, answer_of, reply_of};

const PLAIN: (&str, &str) = ("content-type", "text/plain");

fn filter(config: &Value) -> ProxyCacheFilter {
    let mut fields = json!({"strategy": "memory"});
    fields
        .as_object_mut()
        .unwrap()
        .extend(config.as_object().unwrap().clone());
    let config: ProxyCache = serde_json::from_value(fields).unwrap();
    config.compile(&Instance { id: Uuid::nil() }).unwrap()
}

/// Lets the upstream answer, and gives back what the client is told of the cache.
fn fill(
    filter: &ProxyCacheFilter,
    host: &FakeHost,
    uri: &str,
    headers: &[(&'static str, &'static str)],
) -> String {
    let reply = reply_of(filter, host, &Request::get(uri), headers, "body");
    reply.headers[STATUS].to_str().unwrap().to_owned()
}

fn ask(filter: &ProxyCacheFilter, host: &FakeHost, uri: &str, control: &str) -> Answer {
    let mut request = Request::get(uri);
    if !control.is_empty() {
        let value = HeaderValue::from_str(control).unwrap();
        request.headers.push((CACHE_CONTROL, value));
    }
    answer_of(filter, host, &request)
}

#[test]
fn an_answer_serves_those_who_ask_the_same_until_it_is_old() {
    let host = FakeHost::default();
    let filter = filter(&json!({"cache_ttl": 10}));
    assert_eq!(
        fill(&filter, &host, "/a?x=1&y=2", &[PLAIN, ("x-b", "1")]),
        "Miss"
    );
    host.advance(4.0);
    let hit = ask(&filter, &host, "/a?y=2&x=1", "");
    assert_eq!((hit.status, hit.body.as_str()), (200, "body"));
    assert_eq!(hit.header("x-cache-status"), "Hit");
    assert_eq!(hit.header("age"), "4");
    assert_eq!(hit.header("x-b"), "1");
    assert_eq!(hit.header("x-cache-key").len(), 64);
    assert_eq!(
        ask(&filter, &host, "/a?x=2", "").header("x-cache-status"),
        ""
    );
    host.advance(7.0);
    assert_eq!(ask(&filter, &host, "/a?x=1&y=2", "").body, "");
}

#[test]
fn what_is_not_to_be_kept_is_not() {
    let host = FakeHost::default();
    let plain = filter(&json!({}));
    for headers in [
        &[("content-type", "text/html")][..],
        &[],
        &[PLAIN, ("set-cookie", "a=b")],
    ] {
        assert_eq!(fill(&plain, &host, "/a", headers), "Bypass", "{headers:?}");
    }
    let control = filter(&json!({"cache_control": true}));
    let check = |value: &'static str, expected: &str| {
        let told = fill(&control, &host, "/a", &[PLAIN, ("cache-control", value)]);
        assert_eq!(told, expected, "{value}");
    };
    check("public", "Bypass");
    check("public, max-age=60, private", "Bypass");
    check("public, no-store", "Bypass");
    check("max-age=60", "Bypass");
    check("public, max-age=0", "Bypass");
    check("public, max-age=60", "Miss");
}

#[test]
fn clients_say_how_old_an_answer_may_be() {
    let host = FakeHost::default();
    let filter = filter(&json!({"cache_control": true, "storage_ttl": 1000}));
    let headers = [PLAIN, ("cache-control", "public, max-age=60")];
    assert_eq!(ask(&filter, &host, "/a", "only-if-cached").status, 504);
    fill(&filter, &host, "/a", &headers);
    host.advance(30.0);
    let served = |control: &str| ask(&filter, &host, "/a", control).body == "body";
    assert!(served("") && served("max-age=31") && served("min-fresh=30"));
    assert!(!served("max-age=29") && !served("min-fresh=31"));
    assert!(!served("no-cache") && !served("no-store"));
    host.advance(60.0);
    assert!(!served("") && !served("max-stale=29") && served("max-stale=30"));
}
