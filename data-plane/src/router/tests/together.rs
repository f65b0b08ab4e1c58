//! Routes that could take each other's requests, as the tests of Kong 3.9's traditional router have them.

use super::*;

/// Which of some routes a request goes to, by the place in the list.
struct Case {
    line: &'static str,
    fields: &'static [(&'static str, &'static str)],
    expected: Option<usize>,
}

const fn goes(line: &'static str, expected: usize) -> Case {
    Case {
        line,
        fields: &[],
        expected: Some(expected),
    }
}

const fn lost(line: &'static str) -> Case {
    Case {
        line,
        fields: &[],
        expected: None,
    }
}

const fn with(fields: &'static [(&'static str, &'static str)], expected: Option<usize>) -> Case {
    Case {
        line: "GET a.test /my-route/hello",
        fields,
        expected,
    }
}

fn check(fields: Value, cases: &[Case]) {
    let Value::Array(fields) = fields else {
        unreachable!("a list of routes")
    };
    let count = fields.len();
    let places: Vec<usize> = (0..count).collect();
    // Nothing here is a tie, so who is older does not count.
    for turned in [false, true] {
        let (mut fields, mut places) = (fields.clone(), places.clone());
        if turned {
            fields.reverse();
            places.reverse();
        }
        let router = compile(&routes(fields));
        for Case {
            line,
            fields,
            expected,
        } in cases
        {
            let found = find(&router, line, fields).map(|found| places[found.route]);
            assert_eq!(found, *expected, "{line} {fields:?} {turned}");
        }
    }
}

#[test]
fn half_a_match_is_none() {
    check(
        json!([
            {"hosts": ["one.test"], "paths": ["/v1/path"]},
            {"hosts": ["other.test"], "paths": ["/"]},
        ]),
        &[
            goes("GET one.test /v1/path", 0),
            goes("GET other.test /v1/path", 1),
            lost("GET one.test /"),
        ],
    );
    check(
        json!([
            {"hosts": ["a.*"], "methods": ["GET"]},
            {"hosts": ["a.*"], "methods": ["POST"]},
        ]),
        &[
            goes("GET a.test /", 0),
            goes("POST a.test /", 1),
            lost("PUT a.test /"),
        ],
    );
    check(
        json!([
            {"methods": ["GET"], "paths": [r"~/users/\d+/profile"]},
            {"methods": ["POST"], "paths": [r"~/users/\d*/profile"]},
        ]),
        &[
            goes("GET a.test /users/123/profile", 0),
            goes("POST a.test /users/123/profile", 1),
        ],
    );
    check(
        json!([
            {"hosts": ["*.a.test"], "paths": ["/one"]},
            {"hosts": ["x.a.test"], "paths": ["/two"]},
        ]),
        &[
            goes("GET x.a.test /one", 0),
            goes("GET x.a.test /two", 1),
            lost("GET y.a.test /two"),
        ],
    );
}

#[test]
fn the_path_that_matched_counts_and_no_other_one() {
    check(
        json!([
            {"paths": ["/a", "/bbbbbbb"]},
            {"paths": ["/a/bb"]},
        ]),
        &[
            goes("GET a.test /a/bb/c", 1),
            goes("GET a.test /a/c", 0),
            goes("GET a.test /bbbbbbb", 0),
        ],
    );
    check(
        json!([
            {"hosts": ["a.test"], "paths": ["/my-route"]},
            {"hosts": ["a.test"], "paths": ["/my-route/hello"]},
            {"hosts": ["b.test"], "paths": ["/my-route/hello/world"]},
        ]),
        &[
            goes("GET a.test /my-route/hello/world", 1),
            goes("GET a.test /my-route/hello/world/and/goodnight", 1),
            goes("GET a.test /my-route/world", 0),
        ],
    );
    // A path is the beginning of another, not somewhere in it.
    check(
        json!([
            {"paths": ["/something/my-route"]},
            {"hosts": ["a.test"], "paths": ["/my-route"]},
        ]),
        &[goes("GET a.test /something/my-route", 0)],
    );
}

#[test]
fn an_expression_is_above_a_path_that_is_the_same() {
    check(
        json!([
            {"hosts": ["a.test"], "paths": ["/pat"]},
            {"hosts": ["a.test"], "paths": ["/path"], "methods": ["POST"]},
            {"hosts": ["a.test"], "paths": ["~/(path)"]},
        ]),
        &[goes("GET a.test /path", 2), goes("POST a.test /path", 1)],
    );
    check(
        json!([
            {"hosts": ["*.a.test"], "paths": [r"~/users/\d+/profile"]},
            {"hosts": ["*.a.test"], "paths": ["/users"]},
        ]),
        &[
            goes("GET x.a.test /users/123/profile", 0),
            goes("GET x.a.test /users", 1),
        ],
    );
}

#[test]
fn hosts_and_paths_are_above_methods() {
    check(
        json!([
            {"hosts": ["a.test"]},
            {"methods": ["TRACE"]},
            {"paths": ["/my-route"]},
        ]),
        &[
            goes("TRACE a.test /", 0),
            goes("TRACE b.test /my-route", 2),
            goes("TRACE b.test /", 1),
        ],
    );
}

#[test]
fn more_headers_are_above_a_longer_path() {
    check(
        json!([
            {"headers": {"version": ["v1"]}, "paths": ["/my-route/hello"]},
            {"headers": {"version": ["v1"], "location": ["us-east"]}, "paths": ["/my-route"]},
        ]),
        &[
            with(&[("version", "v1"), ("location", "us-east")], Some(1)),
            with(&[("version", "v1")], Some(0)),
            with(&[("location", "us-east")], None),
        ],
    );
}

#[test]
fn one_of_a_headers_values_is_enough_and_each_name_is_needed() {
    let one = json!({"headers": {"location": ["one", "two"]}});
    let both = json!({"headers": {"location": ["one"], "version": ["v1", "v2"]}});
    let list = routes(vec![one, both]);
    let router = compile(&list);
    let check = |values: &[(&'static str, &'static str)], expected: Option<usize>| {
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let asked = Asked {
            method: &Method::GET,
            path: "/",
            readable: None,
            authority: "",
            headers: View::Map(&headers),
            server_name: None,
            https: false,
        };
        let found = router.find(&asked).map(|found| found.route);
        assert_eq!(found, expected, "{values:?}");
    };
    check(&[("location", "three"), ("location", "two")], Some(0));
    check(&[("location", "three"), ("location", "four")], None);
    check(
        &[
            ("location", "three"),
            ("location", "one"),
            ("version", "v2"),
        ],
        Some(1),
    );
    check(
        &[
            ("location", "three"),
            ("location", "two"),
            ("version", "v2"),
        ],
        Some(0),
    );
}

#[test]
fn a_wildcard_with_the_port_that_https_has_is_met_without_one() {
    let list = routes(vec![
        json!({"hosts": ["a.*"], "protocols": ["http", "https"]}),
        json!({"hosts": ["a.*:443"], "protocols": ["http", "https"]}),
    ]);
    let router = compile(&list);
    let headers = HeaderMap::new();
    for (authority, https, expected) in [
        ("a.test", true, 1),
        ("a.test:443", true, 1),
        ("a.test:443", false, 1),
        ("a.test", false, 0),
        ("a.test:123", true, 0),
    ] {
        let asked = Asked {
            method: &Method::GET,
            path: "/",
            readable: None,
            authority,
            headers: View::Map(&headers),
            server_name: None,
            https,
        };
        let found = router.find(&asked).map(|found| found.route);
        assert_eq!(found, Some(expected), "{authority} {https}");
    }
}
