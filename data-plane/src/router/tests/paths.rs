//! Regular expressions of paths: what they match, and what they take out of a path.

use plugins::exchange::Captures;

use super::*;

#[test]
fn a_regex_path_says_how_much_it_matched() {
    let list = routes(vec![
        json!({"paths": [r"~/v\d+"]}),
        json!({"headers": {"x-v": ["~*^ab+$"]}}),
    ]);
    let router = compile(&list);
    let found = find(&router, "GET h /v12/x", &[]).unwrap();
    assert_eq!((found.route, found.matched), (0, Some(4)));
    assert_eq!(find(&router, "GET h /a/v12", &[]), None);
    assert_eq!(
        find(&router, "GET h /", &[("x-v", "ABB")]).map(|found| found.route),
        Some(1)
    );
    assert_eq!(find(&router, "GET h /", &[("x-v", "abc")]), None);
}

#[test]
fn captures_are_known_by_number_and_by_name() {
    let list = routes(vec![
        json!({"paths": [r"~/users/(?<id>\d+)/(a)?(.*)$", "/plain"]}),
    ]);
    let router = compile(&list);
    let captures = |path: &str| {
        let line = format!("GET h {path}");
        let found = find(&router, &line, &[]).unwrap();
        router.captures(found, path, readable(path).as_deref())
    };
    let found = captures("/users/42/rest");
    assert_eq!(found.numbered, ["42", "", "rest"]);
    assert_eq!(found.named, [("id".to_owned(), "42".to_owned())]);
    assert_eq!(captures("/users/7/a%20b%2fc").numbered[2], " b%2Fc");
    assert_eq!(captures("/users/7/%C3%A9%2520").numbered[2], "\u{e9}%2520");
    assert_eq!(captures("/users/7/%FF").numbered[2], "%FF", "no text");
    assert_eq!(captures("/plain/1"), Captures::default());
}

#[test]
fn characters_in_a_regex_are_met_by_what_stands_for_them_in_a_path() {
    for (pattern, path, matched) in [
        (r#"~/\d+""#, "/123%22/x", Some(7)),
        ("~/a b", "/a%20bc", Some(6)),
        ("~/caf\u{e9}", "/caf%C3%A9/x", Some(10)),
        (r"~/\{id\}$", "/%7Bid%7D", Some(9)),
        (r"~/x\|y", "/x%7Cy", Some(6)),
        (r"~/\S+\s\S", "/a%20bc", Some(6)),
        // Delimiters are none of the characters around them.
        ("~/[^/]+$", "/a%2Fb", Some(6)),
        ("~/a/b", "/a%2Fb", None),
        ("~/a%20b", "/a%20b", Some(6)),
        ("~/a.b$", "/a%25b", None),
        ("~/%ff", "/%FF", Some(4)),
    ] {
        let list = routes(vec![json!({"paths": [pattern]})]);
        let found = find(&compile(&list), &format!("GET h {path}"), &[]);
        let found = found.map(|found| found.matched.unwrap());
        assert_eq!(found, matched, "{pattern} {path}");
    }
}

#[test]
fn a_triplet_in_a_regex_is_read_as_in_a_path() {
    let list = routes(vec![json!({"paths": [r"~/%61%2e%2fb$"]})]);
    let router = compile(&list);
    assert!(find(&router, "GET h /a.%2Fb", &[]).is_some());
    assert!(find(&router, "GET h /ax%2Fb", &[]).is_none());
}
