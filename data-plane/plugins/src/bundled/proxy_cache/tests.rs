//! What proxy cache promises.

use http::header::CACHE_CONTROL;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Answer, FakeHost, Request, answer_of, consumer, left, reply_of};

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
fn memory_has_the_names_that_it_has_in_kong() {
    let compiled = |name: &str| {
        let config = json!({ "strategy": "memory", "memory": { "dictionary_name": name } });
        let config: ProxyCache = serde_json::from_value(config).unwrap();
        config.compile(&Instance { id: Uuid::nil() })
    };
    for name in ["kong", "kong_db_cache", "kong_locks"] {
        assert!(compiled(name).is_ok(), "{name}");
    }
    for name in ["", "nope", "kong_"] {
        let errors = compiled(name).err().unwrap();
        let said = json!([format!("missing shared dict '{name}'")]);
        assert_eq!(errors.by_field["@entity"], said);
    }
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
    host.advance(5.9);
    assert_eq!(ask(&filter, &host, "/a?x=1&y=2", "").body, "body");
    host.advance(0.1);
    assert_eq!(ask(&filter, &host, "/a?x=1&y=2", "").body, "");
}

#[test]
fn an_answer_that_is_too_long_is_not_kept_and_says_so() {
    let host = FakeHost::default();
    let filter = filter(&json!({}));
    let whole = String::leak("a".repeat(LARGEST + 1));
    for (uri, body, told) in [("/a", &whole[1..], "Miss"), ("/b", &whole[..], "Bypass")] {
        let reply = reply_of(&filter, &host, &Request::get(uri), &[PLAIN], body);
        assert_eq!(reply.headers[STATUS], told);
        let hit = ask(&filter, &host, uri, "").header("x-cache-status");
        assert_eq!(hit == "Hit", told == "Miss", "{uri}");
    }
}

#[test]
fn a_node_with_little_memory_keeps_few_answers_and_lets_go_of_them() {
    let host = FakeHost::default();
    host.has_memory(4 * LARGEST);
    let filter = filter(&json!({}));
    let large = &*String::leak("a".repeat(LARGEST - 1024));
    let places: Vec<_> = (0..32).map(|number| format!("/{number}")).collect();
    let hits = || {
        let answers = places.iter().map(|uri| ask(&filter, &host, uri, ""));
        let hits = answers.filter(|answer| answer.header("x-cache-status") == "Hit");
        hits.count()
    };
    for uri in &places {
        reply_of(&filter, &host, &Request::get(uri), &[PLAIN], large);
    }
    let kept = hits();
    assert!((1..=4).contains(&kept), "{kept} are kept");
    host.node_states().of::<store::Store>().let_go();
    assert_eq!(hits(), 0);
    assert_eq!(fill(&filter, &host, "/0", &[PLAIN]), "Miss");
    assert_eq!(hits(), 1);
}

#[test]
fn what_one_client_was_told_beside_the_answer_is_told_to_no_other() {
    let host = FakeHost::default();
    let filter = filter(&json!({}));
    let mut request = Request::get("/a");
    let token = (
        HeaderName::from_static("x-token"),
        HeaderValue::from_static("secret"),
    );
    let vary = (http::header::VARY, HeaderValue::from_static("origin"));
    request.told = vec![token, vary];
    let headers = [PLAIN, ("vary", "accept"), ("x-token", "public")];
    reply_of(&filter, &host, &request, &headers, "body");
    let hit = ask(&filter, &host, "/a", "");
    assert_eq!(hit.body, "body");
    assert_eq!(hit.header("x-token"), "public");
    assert_eq!(hit.header("vary"), "accept");
}

#[test]
fn what_an_operator_drops_is_not_served_and_what_comes_later_is() {
    let host = FakeHost::default();
    let filter = filter(&json!({}));
    let drop = |id: Uuid| {
        let revocation = Revocation {
            id,
            before: host.now().as_millis(),
            expires_at: host.now().as_secs() + 60,
        };
        host.revocations().add([revocation], host.now());
        host.advance(1.0);
    };
    let served = |uri: &str| ask(&filter, &host, uri, "").body == "body";
    for uri in ["/a", "/b"] {
        fill(&filter, &host, uri, &[PLAIN]);
        assert!(served(uri));
    }
    let key = ask(&filter, &host, "/a", "").header("x-cache-key");
    let bytes =
        (0..32).map(|place| u8::from_str_radix(&key[2 * place..2 * place + 2], 16).unwrap());
    let key: Vec<u8> = bytes.collect();
    drop(Revocation::cached(key.try_into().unwrap()));
    assert!(!served("/a") && served("/b"));
    fill(&filter, &host, "/a", &[PLAIN]);
    assert!(served("/a"));
    drop(Revocation::cache(Uuid::nil()));
    assert!(!served("/a") && !served("/b"));
    fill(&filter, &host, "/b", &[PLAIN]);
    assert!(served("/b"));
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

#[test]
fn an_answer_is_kept_for_as_long_as_it_says() {
    let filter = filter(&json!({"cache_control": true}));
    let fill = |field: (&'static str, &'static str)| {
        fill(&filter, &FakeHost::default(), "/", &[PLAIN, field])
    };
    let check = |control: &'static str, expected: &str| {
        assert_eq!(fill(("cache-control", control)), expected, "{control}");
    };
    check("max-age=3", "Miss");
    check("public, max-age=30", "Miss");
    check("s-maxage=3, max-age=0", "Miss");
    check("max-age=0", "Bypass");
    check("public", "Bypass");
    check("max-age=3, private", "Bypass");
    check("max-age=3, no-store", "Bypass");
    check("public, max-age=60, private", "Bypass");
    let expires = |date: &'static str| fill(("expires", date));
    assert_eq!(expires("Fri, 01 Jan 2038 00:00:00 GMT"), "Miss");
    assert_eq!(expires("Thu, 01 Jan 2015 00:00:00 GMT"), "Bypass");
    assert_eq!(expires("0"), "Bypass");
}

#[test]
fn media_types_may_be_meant_in_parts() {
    let check = |wanted: &str, given: &'static str, expected: &str| {
        let filter = filter(&json!({"content_type": [wanted]}));
        let headers = [("content-type", given)];
        assert_eq!(
            fill(&filter, &FakeHost::default(), "/", &headers),
            expected,
            "{wanted} {given}"
        );
    };
    check("text/*", "text/html", "Miss");
    check("text/*", "application/json", "Bypass");
    check("*/*", "application/json", "Miss");
    check("*", "application/json", "Miss");
    check("*; charset=utf-8", "text/html; charset=utf-8", "Miss");
    check("*", "text/html; charset=utf-8", "Bypass");
    check("*/json", "application/json", "Miss");
    check("*/json", "application/xml", "Bypass");
    check("application/xml;", "application/xml", "Bypass");
    check("*/*", "application/xml;", "Bypass");
    check(
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "Miss",
    );
    check(
        "application/json",
        "application/json; charset=utf-8",
        "Bypass",
    );
}

#[test]
fn rule_54_an_answer_for_somebody_is_for_nobody_else() {
    let filter = filter(&json!({}));
    let key = |credential: Option<&str>, groups: Option<&[&str]>| {
        Request::get("/a").with_exchange(|exchange| {
            exchange.identity.credential = credential.map(str::to_owned);
            let groups = groups.map(|groups| groups.iter().map(ToString::to_string).collect());
            exchange.identity.authenticated_groups = groups;
            filter.key(exchange)
        })
    };
    let all = [
        key(None, None),
        key(Some("alice"), None),
        key(Some("bob"), None),
        key(Some("bob"), Some(&["admins"])),
        key(None, Some(&["admins"])),
    ];
    for (number, one) in all.iter().enumerate() {
        assert_eq!(
            all.iter().filter(|other| *other == one).count(),
            1,
            "{number}"
        );
    }
    assert_eq!(key(Some("alice"), None), key(Some("alice"), None));
}

/// A request for `/a` with these `fields`.
fn with(fields: &[(&'static str, &'static str)]) -> Request {
    let mut request = Request::get("/a");
    for (name, value) in fields {
        let name = HeaderName::from_static(name);
        request
            .headers
            .push((name, HeaderValue::from_static(value)));
    }
    request
}

#[test]
fn an_answer_serves_those_alone_who_take_what_it_varies_by() {
    let host = FakeHost::default();
    let filter = filter(&json!({}));
    let served = |fields: &[(&'static str, &'static str)]| {
        let hit = answer_of(&filter, &host, &with(fields));
        let key = hit.header("x-cache-key");
        (hit.body, key)
    };
    let (de, en) = ([("accept-language", "de")], [("accept-language", "en")]);
    for (fields, body) in [(de, "ja"), (en, "yes")] {
        reply_of(
            &filter,
            &host,
            &with(&fields),
            &[PLAIN, ("vary", "Accept-Language")],
            body,
        );
    }
    assert_eq!(served(&de).0, "ja");
    assert_eq!(served(&en).0, "yes");
    assert_eq!(served(&[("accept-language", "fr")]).0, "");
    assert_eq!(
        served(&de).1,
        served(&en).1,
        "what an operator drops is all of it"
    );
    // What nothing varies by any more is everybody's.
    host.advance(301.0);
    reply_of(&filter, &host, &with(&de), &[PLAIN], "all");
    assert_eq!(served(&[]).0, "all");
    host.advance(301.0);
    reply_of(&filter, &host, &with(&de), &[PLAIN, ("vary", "*")], "none");
    assert_eq!(served(&de).0, "");
    let key = |encodings: &'static str| served(&[("accept-encoding", encodings)]).1;
    let none = served(&[]).1;
    for (one, other) in [
        ("gzip, br", "br,GZIP"),
        ("gzip;q=1.0, br;q=0.8", "gzip;q=0.5, br"),
        ("gzip", "gzip, gzip"),
        ("gzip;q=0", "gzip; q=0.000"),
    ] {
        assert_eq!(key(one), key(other), "{one} {other}");
        assert_ne!(key(one), none, "{one}");
    }
    assert_eq!(key(""), none);
    assert_ne!(key("gzip"), key("br"));
    assert_ne!(key("gzip"), key("gzip;q=0"));
}

#[test]
fn an_answer_to_whom_the_upstream_alone_knows_is_not_kept() {
    let host = FakeHost::default();
    let filter = filter(&json!({}));
    let told = [("authorization", "Bearer a")];
    let status = |control: &'static str| {
        let headers = [PLAIN, ("cache-control", control)];
        let reply = reply_of(&filter, &host, &with(&told), &headers, "mine");
        reply.headers[STATUS].to_str().unwrap().to_owned()
    };
    assert_eq!(status("max-age=60"), "Bypass");
    assert_eq!(answer_of(&filter, &host, &with(&[])).body, "");
    for control in ["public", "s-maxage=9", "max-age=9, must-revalidate"] {
        assert_ne!(status(control), "Bypass", "{control}");
        assert_eq!(answer_of(&filter, &host, &with(&[])).body, "mine");
        host.advance(301.0);
    }
    let mut seen = with(&told).with_exchange(left);
    assert!(is_somebodys(&seen, &HeaderMap::new()));
    seen.identity.consumer = Some(consumer("alice", None));
    assert!(
        !is_somebodys(&seen, &HeaderMap::new()),
        "the key tells whose it is"
    );
    seen.identity.anonymous = true;
    assert!(is_somebodys(&seen, &HeaderMap::new()));
}
