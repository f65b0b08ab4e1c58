//! The schema language, on the entities themselves.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::form::expand;
use crate::entity::{definition, definitions};

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

#[track_caller]
fn refused(kind: &str, input: Value, expected: &Value) {
    let schema = &definition(kind).unwrap().schema;
    assert_eq!(
        Value::Object(schema.complete(&map(input)).unwrap_err().by_field),
        *expected
    );
}

#[test]
fn defaults_are_filled_and_absent_fields_are_null() {
    let service = definition("services")
        .unwrap()
        .schema
        .complete(&map(json!({ "host": "x" })));
    assert_eq!(
        Value::Object(service.unwrap()),
        json!({
            "name": null, "retries": 5, "protocol": "http", "host": "x", "port": 80, "path": null,
            "connect_timeout": 60000, "write_timeout": 60000, "read_timeout": 60000,
            "client_certificate": null, "tls_verify": null, "tls_verify_depth": null,
            "ca_certificates": null, "enabled": true, "tags": null,
        })
    );
}

#[test]
fn every_bad_field_is_named_at_once() {
    refused(
        "services",
        json!({ "port": 70000, "protocol": "ftp", "retries": "5", "nope": 1, "tags": ["a", "b,c"] }),
        &json!({
            "retries": "expected an integer",
            "protocol": "expected one of: grpc, grpcs, http, https, tcp, tls, tls_passthrough, udp",
            "host": "required field missing",
            "port": "value should be between 0 and 65535",
            "tags": {
                "2": "invalid tag 'b,c': expected printable ascii (except `,` and `/`) or valid \
                      utf-8 sequences"
            },
            "nope": "unknown field",
        }),
    );
    refused(
        "services",
        json!({ "host": "" }),
        &json!({ "host": "length must be at least 1" }),
    );
    refused(
        "routes",
        json!({ "https_redirect_status_code": 303 }),
        &json!({ "https_redirect_status_code": "expected one of: 426, 301, 302, 307, 308" }),
    );
    for number in [
        json!(9_223_372_036_854_775_808_u64),
        json!(1e20),
        json!(-1e20),
    ] {
        refused(
            "routes",
            json!({ "regex_priority": number }),
            &json!({ "regex_priority": "expected an integer" }),
        );
    }
    refused(
        "routes",
        json!({ "service": { "id": "x" } }),
        &json!({ "service": { "id": "expected a valid UUID" } }),
    );
    refused(
        "routes",
        json!({ "paths": [5, "/a"] }),
        &json!({ "paths": { "1": "expected a string" } }),
    );
}

#[test]
fn sets_drop_duplicates_and_keep_order() {
    let input = map(json!({ "paths": ["/"], "methods": ["PUT", "GET", "PUT"] }));
    let route = definition("routes")
        .unwrap()
        .schema
        .complete(&input)
        .unwrap();
    assert_eq!(route["methods"], json!(["PUT", "GET"]));
    assert_eq!(route["protocols"], json!(["http", "https"]));
}

fn pairs(form: &[(&str, &str)]) -> Vec<(String, String)> {
    form.iter()
        .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()))
        .collect()
}

#[test]
fn form_keys_expand() {
    for (form, expected) in [
        (&[("a.b.c", "v")][..], json!({ "a": { "b": { "c": "v" } } })),
        (&[("k", "1"), ("k", "2")], json!({ "k": ["1", "2"] })),
        (&[("k[]", "1"), ("k[]", "2")], json!({ "k": ["1", "2"] })),
        (&[("k[1]", "1"), ("k[2]", "2")], json!({ "k": ["1", "2"] })),
        (&[("k[2]", "2"), ("k[1]", "1")], json!({ "k": ["1", "2"] })),
        (
            &[("s[2].ip", "2"), ("a", "x"), ("s[1].ip", "1")],
            json!({ "s": [{ "ip": "1" }, { "ip": "2" }], "a": "x" }),
        ),
        (
            &[("s[1].ip", "i"), ("s[1].port", "p")],
            json!({ "s": [{ "ip": "i", "port": "p" }] }),
        ),
        (&[("a.b[]", "200")], json!({ "a": { "b": ["200"] } })),
        (&[("k[1000][1000]", "v")], json!({ "k": [["v"]] })),
        (&[(".a", "v")], json!({ ".a": "v" })),
        // What contradicts itself is refused where it stands, not forgotten.
        (
            &[("a.b", "1"), ("a", "2")],
            json!({ "a": [{ "b": "1" }, "2"] }),
        ),
        (
            &[("a", "2"), ("a.b", "1"), ("a.c", "3")],
            json!({ "a": ["2", { "b": "1", "c": "3" }] }),
        ),
        (
            &[("a", "1"), ("a", "2"), ("a.b", "3")],
            json!({ "a": ["1", "2", { "b": "3" }] }),
        ),
        (&[("a.b", "1"), ("a", "")], json!({ "a": { "b": "1" } })),
        (&[("a", ""), ("a.b", "1")], json!({ "a": { "b": "1" } })),
    ] {
        assert_eq!(Value::Object(expand(pairs(form))), expected);
    }
    let deep = vec!["a"; 50].join(".");
    assert_eq!(
        Value::Object(expand(pairs(&[(deep.as_str(), "v")]))),
        json!({ deep: "v" })
    );
}

#[test]
fn no_field_takes_arguments_that_contradict_each_other() {
    let check = |kind: &str, form: &[(&str, &str)], field: &str| {
        let schema = &definition(kind).unwrap().schema;
        for form in [form.to_vec(), form.iter().rev().copied().collect()] {
            let mut expanded = expand(pairs(&form));
            schema.coerce(&mut expanded);
            let told = schema.complete(&expanded).unwrap_err().by_field;
            assert!(told.contains_key(field), "{form:?}: {told:?}");
        }
    };
    check("services", &[("host", "h"), ("host.x", "1")], "host");
    let port = [("host", "h"), ("port", "80"), ("port.x", "1")];
    check("services", &port, "port");
    let flag = [("host", "h"), ("enabled", "true"), ("enabled.x", "1")];
    check("services", &flag, "enabled");
    let tags = [("host", "h"), ("tags", "a"), ("tags.x", "1")];
    check("services", &tags, "tags");
    let service = [("paths", "/"), ("service", "a"), ("service.name", "a")];
    check("routes", &service, "service");
    let headers = [("headers.x-a", "1"), ("headers.x-a.b", "2")];
    check("routes", &headers, "headers");
    let sources = [("sources", "a"), ("sources.ip", "10.0.0.1")];
    check("routes", &sources, "sources");
    let config = [("name", "acl"), ("config", "x"), ("config.allow", "a")];
    check("plugins", &config, "config");
    let healthchecks = [
        ("healthchecks.threshold", "5"),
        ("healthchecks.threshold.x", "1"),
    ];
    check("upstreams", &healthchecks, "healthchecks");
}

#[test]
fn form_texts_become_typed_values() {
    let mut form = expand(pairs(&[
        ("hosts", "a.com"),
        ("strip_path", "false"),
        ("regex_priority", "7"),
        ("name", ""),
        ("headers.x-a", "v"),
        ("preserve_host", "maybe"),
    ]));
    definition("routes").unwrap().schema.coerce(&mut form);
    assert_eq!(
        Value::Object(form),
        json!({
            "hosts": ["a.com"], "strip_path": false, "regex_priority": 7, "name": null,
            "headers": { "x-a": ["v"] }, "preserve_host": "maybe",
        })
    );
}

#[test]
fn the_shown_schema_has_the_stored_defaults() {
    let shown = definition("routes").unwrap().schema.kong();
    let field = |name: &str| {
        let list = shown.as_array().unwrap();
        list.iter()
            .find_map(|field| field.get(name))
            .unwrap()
            .clone()
    };
    assert_eq!(field("service")["type"], "foreign");
    assert_eq!(field("service")["reference"], "services");
    assert_eq!(field("protocols")["default"], json!(["http", "https"]));
    assert_eq!(field("protocols")["type"], "set");
    assert_eq!(field("id")["auto"], true);
    assert_eq!(field("regex_priority")["default"], 0);
    assert_eq!(field("path_handling")["one_of"], json!(["v0", "v1"]));
    assert_eq!(field("headers")["values"]["type"], "array");
    assert_eq!(
        field("sources")["elements"]["fields"][1]["port"]["between"],
        json!([0, 65535])
    );
}

#[test]
fn what_is_set_by_itself_has_no_default() {
    for definition in definitions() {
        let shown = definition.schema.kong();
        for field in shown.as_array().unwrap() {
            let (name, shown) = field.as_object().unwrap().iter().next().unwrap();
            let both = shown.get("auto").and(shown.get("default"));
            assert_eq!(both, None, "{} {name}", definition.kind);
        }
    }
}

#[test]
fn a_completed_record_reads_into_its_struct() {
    let mut input = map(json!({ "paths": ["/"], "headers": { "x": ["~*a"] } }));
    let schema = &definition("routes").unwrap().schema;
    for (field, value) in [("id", json!(uuid::Uuid::nil())), ("created_at", json!(1))] {
        input.insert(field.to_owned(), value);
    }
    input.insert("updated_at".to_owned(), json!(1));
    let route: crate::entity::Route =
        serde_json::from_value(Value::Object(schema.complete(&input).unwrap())).unwrap();
    assert_eq!(route.paths.unwrap()[0].as_str(), "/");
    assert!(route.strip_path);
}

proptest! {
    #[test]
    fn no_form_breaks_the_expansion(form in prop::collection::vec(("[a-c.\\[\\]0-9]{0,12}", ".{0,4}"), 0..20)) {
        for definition in definitions() {
            let mut expanded = expand(form.clone());
            definition.schema.coerce(&mut expanded);
            drop(definition.schema.complete(&expanded));
        }
    }
}
