//! The router against a linear scan in the order that Kong documents.

mod paths;
mod together;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use serde_json::{Value, json};
use shared::entity::Route;
use shared::properties::cases;
use shared::types::patterns::readable;

use super::entry::entries;
use super::{Asked, Found, Router, bare, split_port};
use crate::compile::room::Room;
use crate::http1::headers::View;

fn route(number: usize, mut fields: Value) -> Route {
    let object = fields.as_object_mut().unwrap();
    object.insert(
        "id".to_owned(),
        json!(uuid::Uuid::from_u128(u128::try_from(number).unwrap() + 1)),
    );
    object.insert("created_at".to_owned(), json!(1000 + number));
    object.insert("updated_at".to_owned(), json!(1));
    serde_json::from_value(fields).unwrap()
}

fn routes(fields: Vec<Value>) -> Vec<Route> {
    fields
        .into_iter()
        .enumerate()
        .map(|(number, fields)| route(number, fields))
        .collect()
}

fn compile(routes: &[Route]) -> Router {
    Router::compile(&routes.iter().collect::<Vec<_>>(), &Room::default()).unwrap()
}

/// `method authority path`, then `name: value` fields.
fn find(router: &Router, line: &str, fields: &[(&'static str, &'static str)]) -> Option<Found> {
    let parts: Vec<&str> = line.split(' ').collect();
    let headers: HeaderMap = fields
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect();
    router.find(&Asked {
        method: &parts[0].parse::<Method>().unwrap(),
        path: parts[2],
        readable: readable(parts[2]).as_deref(),
        authority: parts[1],
        headers: View::Map(&headers),
        server_name: None,
        https: false,
    })
}

#[test]
fn precedence() {
    let check = |first: Value, second: Value, line: &str, expected: usize| {
        for (fields, expected) in [
            (vec![first.clone(), second.clone()], expected),
            (vec![second.clone(), first.clone()], 1 - expected),
        ] {
            let list = routes(fields);
            let found = find(&compile(&list), line, &[("x-v", "2"), ("x-w", "3")]);
            assert_eq!(
                found.map(|found| found.route),
                Some(expected),
                "{first} {second}"
            );
        }
    };
    // More kinds of attributes win over any single one.
    check(
        json!({"hosts": ["a.test"], "paths": ["/"]}),
        json!({"paths": ["/long/path"]}),
        "GET a.test /long/path",
        0,
    );
    check(
        json!({"hosts": ["a.test"]}),
        json!({"methods": ["GET"], "paths": ["/"]}),
        "GET a.test /",
        1,
    );
    // A plain host wins over a wildcard.
    check(
        json!({"hosts": ["*.a.test"]}),
        json!({"hosts": ["x.a.test"]}),
        "GET x.a.test /",
        1,
    );
    // More header names win.
    check(
        json!({"headers": {"x-v": ["1", "2"]}}),
        json!({"headers": {"x-v": ["2"], "x-w": ["3"]}}),
        "GET a.test /",
        1,
    );
    // A regular expression wins over a prefix, and the higher priority over the lower.
    check(
        json!({"paths": ["/abc/def"]}),
        json!({"paths": ["~/a.c"]}),
        "GET a.test /abc/def",
        1,
    );
    check(
        json!({"paths": ["~/abc"], "regex_priority": 1}),
        json!({"paths": ["~/a.*"], "regex_priority": 5}),
        "GET a.test /abc",
        1,
    );
    // A host of any kind wins over a method, and a method over a server name, which is of no account without TLS.
    check(
        json!({"methods": ["GET"]}),
        json!({"hosts": ["a.*"]}),
        "GET a.test /",
        1,
    );
    check(
        json!({"methods": ["GET"]}),
        json!({"headers": {"x-v": ["2"]}}),
        "GET a.test /",
        1,
    );
    // The longer prefix wins.
    check(
        json!({"paths": ["/a"]}),
        json!({"paths": ["/z", "/abc"]}),
        "GET a.test /abcd",
        1,
    );
}

#[test]
fn the_older_route_wins_a_tie() {
    let list = routes(vec![json!({"paths": ["/a"]}), json!({"paths": ["/a"]})]);
    assert_eq!(find(&compile(&list), "GET h /a", &[]).unwrap().route, 0);
}

#[test]
fn every_attribute_must_match() {
    let list = routes(vec![json!({
        "hosts": ["a.test"], "paths": ["/x"], "methods": ["GET", "POST"], "headers": {"x-v": ["One"]}
    })]);
    let router = compile(&list);
    let fits = |line: &str, value| find(&router, line, &[("x-v", value)]).is_some();
    assert!(fits("GET a.test /xyz", "one") && fits("POST a.test:8000 /x", "ONE"));
    assert!(!fits("PUT a.test /x", "one"));
    assert!(!fits("GET b.test /x", "one"));
    assert!(!fits("GET a.test /y", "one"));
    assert!(!fits("GET a.test /x", "two"));
}

#[test]
fn hosts_with_wildcards_and_ports() {
    let check = |host: &str, authority: &str, expected: bool| {
        let list = routes(vec![json!({"hosts": [host]})]);
        let line = format!("GET {authority} /");
        assert_eq!(
            find(&compile(&list), &line, &[]).is_some(),
            expected,
            "{host} {authority}"
        );
    };
    check("*.a.test", "x.a.test", true);
    check("*.a.test", "x.y.a.test:9000", true);
    check("*.a.test", "a.test", false);
    check("*.a.test", ".a.test", false);
    check("a.*", "a.test", true);
    check("a.*", "aa.test", false);
    check("a.test:8000", "a.test:8000", true);
    check("a.test:8000", "a.test", false);
    check("a.test:80", "a.test", true);
    check("a.test", "a.test:1234", true);
    check("*.a.test:80", "x.a.test", true);
    check("*.a.test:81", "x.a.test", false);
    check("A.Test", "a.test", true);
}

#[test]
fn an_address_matches_with_or_without_brackets() {
    let list = routes(vec![
        json!({"hosts": ["::11", "[::12]"]}),
        json!({"hosts": ["[::11]:321", "[::31]:321"]}),
    ]);
    let router = compile(&list);
    let check = |authority: &str, expected: Option<usize>| {
        let found = find(&router, &format!("GET {authority} /"), &[]);
        assert_eq!(found.map(|found| found.route), expected, "{authority}");
    };
    check("::11", Some(0));
    check("[::11]", Some(0));
    check("[::12]:654", Some(0));
    check("[::11]:321", Some(1));
    check("[::31]:321", Some(1));
    check("[::31]:654", None);
}

#[test]
fn a_host_with_its_port_wins_over_the_host_alone() {
    let check = |hosts: [Value; 2], authority: &str, expected: usize| {
        let [first, second] = hosts;
        let list = routes(vec![json!({"hosts": first}), json!({"hosts": second})]);
        let line = format!("GET {authority} /");
        let found = find(&compile(&list), &line, &[]).map(|found| found.route);
        assert_eq!(found, Some(expected), "{authority}");
    };
    let plain = [json!(["a.test", "b.test"]), json!(["a.test:321", "b.test"])];
    check(plain.clone(), "a.test:321", 1);
    check(plain.clone(), "a.test:123", 0);
    // What names no port is not above others because its route names one elsewhere.
    check(plain, "b.test", 0);
    let wild = [json!(["a.*"]), json!(["a.*:80", "a.test.*"])];
    check(wild.clone(), "a.org:80", 1);
    check(wild.clone(), "a.org", 1);
    check(wild, "a.org:81", 0);
    // A plain host is above a wildcard, whatever port that has.
    check(
        [json!(["x.a.test"]), json!(["*.a.test:81"])],
        "x.a.test:81",
        0,
    );
}

#[test]
fn a_server_name_lifts_no_route_where_there_is_no_tls() {
    let list = routes(vec![
        json!({"hosts": ["a.test"], "snis": ["a.test"], "protocols": ["http", "https"]}),
        json!({"hosts": ["a.test"], "paths": ["/x"], "protocols": ["http"]}),
        json!({"hosts": ["a.test"], "protocols": ["http", "https"]}),
    ]);
    let router = compile(&list);
    let headers = HeaderMap::new();
    let find = |server_name: Option<&str>| {
        let asked = Asked {
            method: &Method::GET,
            path: "/",
            readable: None,
            authority: "a.test",
            headers: View::Map(&headers),
            server_name,
            https: server_name.is_some(),
        };
        router.find(&asked).map(|found| found.route)
    };
    assert_eq!(find(Some("a.test")), Some(0), "one more attribute");
    assert_eq!(find(Some("b.test")), Some(2));
    let plain = self::find(&router, "GET a.test /x", &[]);
    assert_eq!(plain.map(|found| found.route), Some(1));
    assert_eq!(
        find(None),
        Some(2),
        "it shadows none that has no server name"
    );
}

#[test]
fn an_sni_counts_only_with_tls() {
    let list = routes(vec![
        json!({"snis": ["*.test"], "paths": ["/wild"], "protocols": ["https"]}),
        json!({"snis": ["a.test"], "paths": ["/wild"], "protocols": ["https"]}),
        json!({"snis": ["a.test"], "protocols": ["https"]}),
    ]);
    let router = compile(&list);
    let headers = HeaderMap::new();
    let asked = |path, server_name| Asked {
        method: &Method::GET,
        path,
        readable: None,
        authority: "h",
        headers: View::Map(&headers),
        server_name,
        https: true,
    };
    let wild = |name| router.find(&asked("/wild", Some(name))).unwrap().route;
    assert_eq!(
        (wild("a.test"), wild("b.test")),
        (1, 0),
        "the exact one first"
    );
    let find = |server_name, https| {
        let asked = Asked {
            https,
            ..asked("/", server_name)
        };
        router.find(&asked).is_some()
    };
    assert!(find(Some("a.test"), true) && find(None, false));
    assert!(!find(Some("b.test"), true) && !find(None, true));
}

#[test]
fn each_of_fifty_thousand_routes_is_found() {
    let fields = (0..50_000)
        .map(|number| match number % 4 {
            0 => json!({"hosts": [format!("h{number}.test")]}),
            1 => json!({"hosts": [format!("*.w{number}.test")], "paths": ["/a"]}),
            2 => json!({"paths": [format!("/p{number}/")]}),
            _ => json!({"hosts": ["shared.test"], "paths": [format!("/s/{number}/x")], "methods": ["GET"]}),
        })
        .collect();
    let list = routes(fields);
    let router = compile(&list);
    for number in (0..50_000_usize).step_by(997) {
        let line = match number % 4 {
            0 => format!("GET h{number}.test /any"),
            1 => format!("GET x.w{number}.test /a/b"),
            2 => format!("GET other /p{number}/c"),
            _ => format!("GET shared.test /s/{number}/x"),
        };
        assert_eq!(
            find(&router, &line, &[]).map(|found| found.route),
            Some(number),
            "{line}"
        );
    }
    assert!(find(&router, "GET shared.test /s/1/x", &[]).is_none());
}

#[test]
fn routes_that_only_a_header_or_a_server_name_tells_apart_are_found_by_it() {
    let count = 5_000;
    let mut fields: Vec<Value> = (0..count)
        .map(|number| json!({"headers": {"x-place": [format!("Some-{number}"), "any"]}}))
        .collect();
    fields.extend((0..count).map(|number| {
        json!({"snis": [format!("s{number}.test")], "paths": ["/same"], "protocols": ["https"]})
    }));
    let list = routes(fields);
    let router = compile(&list);
    // A scan of all for each would look at fifty million.
    for number in 0..count {
        let mut headers = HeaderMap::new();
        let value = format!("SOME-{number}");
        headers.insert("x-place", HeaderValue::from_str(&value).unwrap());
        headers.insert("accept", HeaderValue::from_static("*/*"));
        let name = format!("s{number}.test");
        let mut asked = Asked {
            method: &Method::GET,
            path: "/",
            readable: None,
            authority: "h",
            headers: View::Map(&headers),
            server_name: None,
            https: false,
        };
        assert_eq!(router.find(&asked).unwrap().route, number);
        asked.path = "/same";
        (asked.server_name, asked.https) = (Some(name.as_str()), true);
        assert_eq!(router.find(&asked).unwrap().route, count + number);
    }
    let any = find(&router, "GET h /", &[("x-place", "Any")]);
    assert_eq!(any.unwrap().route, 0, "the oldest");
}

fn any_route() -> impl Strategy<Value = Value> {
    let hosts = prop::option::of(prop::sample::subsequence(
        vec![
            "a.test",
            "*.test",
            "b.*",
            "a.test:81",
            "*.a.test",
            "x.*",
            "*.test:81",
            "B.Test",
        ],
        1..3,
    ));
    let paths = prop::option::of(prop::sample::subsequence(
        vec![
            "/",
            "/a",
            "/ab",
            "/a/b",
            "~/a.",
            "~/.*b",
            "~/ab|/a",
            "~/(?:a(b))",
            "~/(?i)AB",
            "~/a+b",
            "~/(ab)?/?",
            "~/\u{e9}",
            "~/a b",
            "~/a%20",
        ],
        1..4,
    ));
    let methods = prop::option::of(prop::sample::subsequence(vec!["GET", "POST"], 1..2));
    let headers = prop::option::of(prop::sample::select(vec![
        json!({"x-v": ["1"]}),
        json!({"x-v": ["1", "2"], "x-w": ["~*^3"]}),
        json!({"x-none": ["1"]}),
    ]));
    let snis = prop::option::of(prop::sample::subsequence(
        vec!["s.test", "*.test", "s.*"],
        1..2,
    ));
    (hosts, paths, methods, headers, snis, 0..3).prop_map(
        |(hosts, paths, methods, headers, snis, priority)| {
            json!({
                "hosts": hosts, "paths": paths, "methods": methods, "headers": headers, "snis": snis,
                "regex_priority": priority, "protocols": ["http", "https"]
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(512)))]

    #[test]
    fn the_index_agrees_with_a_scan(
        fields in prop::collection::vec(any_route(), 1..12),
        authority in prop::sample::select(vec![
            "a.test", "b.test", "a.test:81", "b.x:9", "c", "y.a.test", ".test", "test", "x.", "x.y:81",
        ]),
        path in prop::sample::select(vec![
            "/", "/a", "/ab", "/a/b/c", "/xb", "/zz", "/%C3%A9", "/AB", "/a%20b/c",
        ]),
        method in prop::sample::select(vec![Method::GET, Method::POST, Method::PUT]),
        value in prop::sample::select(vec!["1", "2", "9"]),
        server_name in prop::option::of(prop::sample::select(vec!["s.test", "s.x", "test"])),
        https in any::<bool>(),
    ) {
        let list = routes(fields);
        let mut headers = HeaderMap::new();
        headers.insert("x-v", HeaderValue::from_static(value));
        headers.insert("x-w", HeaderValue::from_static("33"));
        let readable = readable(path);
        let readable = readable.as_deref();
        let asked = Asked { method: &method, path, readable, authority, headers: View::Map(&headers), server_name, https };
        let mut faults = Vec::new();
        let (host, port) = split_port(authority);
        let host = bare(host);
        let mut matching: Vec<_> = list
            .iter()
            .enumerate()
            .filter_map(|(number, route)| entries(number, route, &Room::default(), &mut faults))
            .flatten()
            .filter(|entry| entry.hosts.is_empty() || entry.hosts.iter().any(|rule| rule.matches(host, port, https)))
            .filter_map(|entry| entry.matches(&asked).map(|matched| (entry.rank.clone(), entry.route, matched)))
            .collect();
        matching.sort_by(|a, b| b.0.cmp(&a.0));
        prop_assert_eq!(
            compile(&list).find(&asked).map(|found| (found.route, found.matched)),
            matching.first().map(|(_, route, matched)| (*route, *matched))
        );
    }
}
