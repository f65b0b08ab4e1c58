//! Files and what they come to.

use proptest::prelude::*;
use serde_json::json;
use shared::clock::UnixTime;
use shared::snapshot::Revision;

use super::*;

#[test]
fn a_short_file_does_not_become_a_long_one() {
    let mut file = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let before = vec![format!("*a{}", level - 1); 10].join(", ");
        file += format!("a{level}: &a{level} [{before}]\n").as_str();
    }
    let error = decode(&file).unwrap_err();
    assert!(error.contains("budget"), "{error}");
}
use crate::command::batch::replace;
use crate::command::{Action, Body, Command, Context, decide};
use crate::config::{Change, Config, Fields};

fn fields(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        other => panic!("not an object: {other}"),
    }
}

fn context() -> Context {
    Context::draw(UnixTime::from_secs(1_000))
}

/// `config` after the file `document`, and what that changed.
fn load(config: &Config, document: Value) -> (Config, Change) {
    let file = read(fields(document));
    assert!(file.is_sound());
    let change = replace(config, &file.batch, &context()).unwrap();
    let next = config.evolve(&change, config.revision().next());
    (next, change)
}

fn empty() -> Config {
    Config::default()
        .founded()
        .within(shared::entity::DEFAULT_WORKSPACE)
}

fn sample() -> Value {
    json!({
        "_format_version": "3.0",
        "services": [
            {
                "name": "a",
                "url": "http://a.test/x",
                "routes": [
                    { "name": "r", "paths": ["/r"], "plugins": [
                        { "name": "openid-connect", "config": { "issuer": "https://op.test", "client_secret": ["geheim"] } },
                    ] },
                    { "paths": ["/nameless"] },
                ],
            },
            { "host": "nameless.test" },
        ],
        "routes": [{ "name": "flat", "hosts": ["x.test"], "service": "a" }],
        "consumers": [{ "username": "yoda", "acls": [{ "group": "g" }] }],
        "plugins": [{ "name": "acl", "service": { "name": "a" }, "config": { "allow": ["g"] } }],
    })
}

#[test]
fn a_file_is_the_same_records_each_time() {
    let (config, change) = load(&empty(), sample());
    assert_eq!(change.puts.len(), 9);
    let service = config.find("services", "name", "a").unwrap();
    let route = config.find("routes", "name", "flat").unwrap();
    let route = config
        .record(shared::snapshot::Key {
            kind: "routes",
            id: route,
        })
        .unwrap();
    assert_eq!(route["service"], json!({ "id": service }));
    let (_, again) = load(&config, sample());
    assert_eq!(again, Change::default());
    // The same file makes the same ids on another control plane.
    let (other, _) = load(&empty(), sample());
    assert!(
        other
            .records()
            .map(|(key, _)| key)
            .eq(config.records().map(|(key, _)| key))
    );
}

#[test]
fn what_is_written_reads_back_as_the_same_configuration() {
    let (config, _) = load(&empty(), sample());
    let yaml = encode(&Value::Object(write(&config))).unwrap();
    let document = decode(&yaml).unwrap();
    let (_, change) = load(&config, document.clone());
    assert_eq!(change, Change::default(), "{yaml}");
    let (copy, _) = load(&empty(), document);
    assert_eq!(write(&copy), write(&config));
}

#[test]
fn a_password_is_hashed_once() {
    let consumers = json!([{ "username": "yoda", "basicauth_credentials": [{ "username": "y", "password": "p" }] }]);
    let (config, _) = load(
        &empty(),
        json!({ "_format_version": "3.0", "consumers": consumers }),
    );
    let written = write(&config);
    assert_eq!(written["_transform"], false);
    let hash = &written["basicauth_credentials"][0]["password"];
    assert_eq!(hash.as_str().map(str::len), Some(40), "{hash}");
    let (copy, _) = load(&empty(), Value::Object(written.clone()));
    assert_eq!(write(&copy), written);
    let (_, again) = load(&copy, Value::Object(written));
    assert_eq!(again, Change::default());
    let plain = json!({ "_format_version": "3.0", "_transform": false, "consumers": consumers });
    let file = read(fields(plain));
    let faults = replace(&empty(), &file.batch, &context()).unwrap_err();
    let nested = nested(&file, &faults);
    let said = &nested["consumers"][0]["basicauth_credentials"][0]["password"];
    assert!(said.is_string(), "{nested}");
}

#[test]
fn a_name_may_look_like_an_id() {
    let name = "774f8446-6427-43f9-9962-ce7ab8097fe4";
    let id = "68d5de9f-2211-5ed8-b827-22f57a492d0f";
    let (config, _) = load(
        &empty(),
        json!({
            "_format_version": "3.0",
            "consumers": [{ "id": id, "username": name }],
            "plugins": [{ "name": "rate-limiting", "consumer": name, "config": { "minute": 5 } }],
        }),
    );
    let written = write(&config);
    assert_eq!(written["plugins"][0]["consumer"], id);
}

#[test]
fn a_file_with_unknown_parts_names_what_is_wrong_with_its_records_too() {
    let file = read(fields(json!({
        "_format_version": "3.0",
        "surprise": 1,
        "services": [
            { "id": "0175e0e8-3de9-56b4-96f1-b12dcb4b6691", "name": "", "host": "h", "tags": ["a", 1], "routes": [{ "x": 1 }] },
            7,
            { "name": "ok", "host": "h", "routes": 1 },
        ],
    })));
    assert!(!file.is_sound());
    let faults = replace(&empty(), &file.batch, &context()).unwrap_err();
    let nested = nested(&file, &faults);
    assert_eq!(nested["surprise"], "unknown field");
    assert_eq!(nested["services"][0]["name"], "length must be at least 1");
    assert_eq!(nested["services"][1], "expected a record");
    assert_eq!(nested["services"][2]["routes"], "expected an array");
    assert_eq!(
        general(&file),
        json!({
            "surprise": "unknown field",
            "services": [null, "expected a record", { "routes": "expected an array" }],
        })
    );
    let flattened = flattened(&file, &faults);
    let service = &flattened[0];
    assert_eq!(service["entity_id"], service["entity"]["id"]);
    assert!(service.get("entity_name").is_none() && service.get("entity_tags").is_none());
}

#[test]
fn a_file_replaces_and_names_may_move() {
    let (config, _) = load(&empty(), sample());
    let a = config.find("services", "name", "a").unwrap();
    let swapped = json!({
        "_format_version": "3.0",
        "services": [
            { "id": a, "name": "b", "host": "h" },
            { "name": "a", "host": "h" },
        ],
    });
    let (next, change) = load(&config, swapped);
    assert_eq!(next.find("services", "name", "b"), Some(a));
    assert_ne!(next.find("services", "name", "a"), Some(a));
    assert_eq!((change.puts.len(), change.removes.len()), (2, 8));
    let (last, _) = load(&next, json!({ "_format_version": "3.0" }));
    assert_eq!(
        last.len(),
        empty().len(),
        "only what is always there is left"
    );
}

#[test]
fn selected_records_leave_the_others_alone() {
    let (config, _) = load(&empty(), sample());
    let tagged = json!({
        "_format_version": "1.1",
        "_info": { "select_tags": ["team"] },
        "services": [{ "name": "mine", "host": "h", "routes": [{ "name": "mine", "paths": ["/"] }] }],
    });
    let (next, change) = load(&config, tagged.clone());
    assert_eq!((change.puts.len(), change.removes.len()), (2, 0));
    let id = next.find("routes", "name", "mine").unwrap();
    let route = next
        .record(shared::snapshot::Key { kind: "routes", id })
        .unwrap();
    assert_eq!(route["tags"], json!(["team"]));
    let gone = json!({ "_format_version": "1.1", "_info": { "select_tags": ["team"] } });
    let (back, _) = load(&next, gone.clone());
    assert_eq!(write(&back), write(&config));
    // A record that stays may not be left pointing nowhere.
    let (next, _) = load(&config, tagged);
    let service = next.find("services", "name", "mine").unwrap();
    let body = fields(json!({ "paths": ["/other"], "service": { "id": service } }));
    let command = Command {
        entity: "routes",
        action: Action::Create(Body::Json(body)),
        parents: Vec::new(),
    };
    let decision = decide(&next, &command, &context()).unwrap();
    let next = next.evolve(&decision.change, next.revision().next());
    let file = read(fields(gone));
    let faults = replace(&next, &file.batch, &context()).unwrap_err();
    assert_eq!(
        nested(&file, &faults),
        json!({ "@entity": ["an existing 'routes' entity references this 'services' entity"] })
    );
}

#[test]
fn every_fault_is_named_at_once_in_both_shapes() {
    let file = read(fields(json!({
        "_format_version": "3.0",
        "services": [
            { "name": "fine", "host": "h" },
            { "name": "bad", "host": 1, "tags": ["k8s-name:x"], "routes": [
                { "name": "r", "paths": ["/"], "protocols": ["https", "tcp"] },
                { "name": "fine", "paths": ["/"] },
            ] },
            { "name": "fine", "host": "h" },
        ],
        "routes": [{ "name": "lost", "paths": ["/"], "service": "nowhere" }],
    })));
    let faults = replace(&empty(), &file.batch, &context()).unwrap_err();
    let nested = nested(&file, &faults);
    assert_eq!(nested["services"][1]["host"], "expected a string");
    assert!(
        nested["services"][1]["routes"][0]["protocols"].is_string(),
        "{nested}"
    );
    assert!(nested["services"][1]["routes"][1].is_null());
    assert_eq!(
        nested["services"][2],
        "uniqueness violation: 'services' entity with name set to 'fine' already declared"
    );
    assert!(nested["routes"][0]["service"].is_string());
    assert!(
        table(&nested).contains("[2]={host=\"expected a string\""),
        "{}",
        table(&nested)
    );
    let flattened = flattened(&file, &faults);
    let bad = flattened
        .iter()
        .find(|entry| entry["entity_name"] == "bad")
        .unwrap();
    assert_eq!(bad["entity_type"], "service");
    assert_eq!(bad["entity_tags"], json!(["k8s-name:x"]));
    assert_eq!(
        bad["errors"],
        json!([{ "type": "field", "field": "host", "message": "expected a string" }])
    );
    assert!(bad["entity"].get("routes").is_none());
}

#[test]
fn what_kong_knows_of_providers_may_stand_in_a_file() {
    for known in [
        json!([{ "issuer": "https://idp.example", "keys": [] }]),
        json!(null),
    ] {
        let document = json!({ "_format_version": "3.0", "oic_issuers": known });
        let file = read(fields(document));
        assert!(file.is_sound() && file.batch.items.is_empty());
    }
}

#[test]
fn a_bad_document_is_refused_as_a_whole() {
    for (document, path, message) in [
        (json!({}), "/_format_version", "required field missing"),
        (
            json!({ "_format_version": "4.0" }),
            "/_format_version",
            "expected one of: 1.1, 2.1, 3.0",
        ),
        (
            json!({ "_format_version": "3.0", "x": [] }),
            "/x",
            "unknown field",
        ),
        (
            json!({ "_format_version": "3.0", "oic_issuers": {} }),
            "/oic_issuers",
            "unknown field",
        ),
        (
            json!({ "_format_version": "3.0", "oic_issuers": [{ "issuer": "i" }], "oic_jwks": [] }),
            "/oic_jwks",
            read::OTHER_KEYS,
        ),
        (
            json!({ "_format_version": "3.0", "services": {} }),
            "/services",
            "expected an array",
        ),
        (
            json!({ "_format_version": "3.0", "plugins": [1] }),
            "/plugins/0",
            "expected a record",
        ),
        (
            json!({ "_format_version": 3.0 }),
            "/_format_version",
            "expected a string",
        ),
        (
            json!({ "_format_version": "3.0", "_comment": { "a": 1 } }),
            "/_comment",
            "expected a string",
        ),
        (
            json!({ "_format_version": "3.0", "_ignore": 1234 }),
            "/_ignore",
            "expected an array",
        ),
        (
            json!({ "_format_version": "3.0", "services": [{ "name": "s", "host": "h", "_comment": 1 }] }),
            "/services/0/_comment",
            "expected a string",
        ),
        (
            json!({ "_format_version": "3.0", "consumers": [{ "username": "yoda", "acls": [{ "group": "g", "consumer": "vader" }] }] }),
            "/consumers/0/acls/0/consumer",
            "value must be null",
        ),
    ] {
        let errors = nested(&read(fields(document)), &[]);
        assert_eq!(errors.pointer(path), Some(&json!(message)), "{errors}");
    }
    for bomb in ["a: &a [x, x]\nb: *c", &"[".repeat(100), "a: 1\na: 2", "{"] {
        assert!(decode(bomb).is_err(), "{bomb}");
    }
}

#[test]
fn remarks_are_for_readers_and_what_names_its_parent_is_of_it() {
    let remarks = json!({ "_comment": "why", "_ignore": [{ "a": 1 }, "b"] });
    let mut document = json!({
        "_format_version": "3.0",
        "consumers": [{ "username": "yoda", "acls": [
            { "group": "jedi", "consumer": "yoda" },
            { "group": "masters", "consumer": { "username": "yoda" }, "_comment": "inside" },
            { "group": "green", "consumer": null },
        ] }],
    });
    let fields_of = |value: &Value| value.as_object().unwrap().clone();
    document
        .as_object_mut()
        .unwrap()
        .extend(fields_of(&remarks));
    let consumer = document["consumers"][0].as_object_mut().unwrap();
    consumer.extend(fields_of(&remarks));
    let (config, change) = load(&empty(), document);
    assert_eq!(change.puts.len(), 4);
    assert!(config.find("consumers", "username", "yoda").is_some());
}

#[test]
fn paths_of_files_from_before_expressions_were_marked_are_marked() {
    let paths = json!(["/plain-%20.a_b~c/d", "/digits/\\d+$", "~/marked.*", "/a b"]);
    for (version, second, last) in [
        ("3.0", "/digits/\\d+$", "/a b"),
        ("2.1", "~/digits/\\d+$", "~/a b"),
        ("1.1", "~/digits/\\d+$", "~/a b"),
    ] {
        let file = read(fields(json!({
            "_format_version": version,
            "services": [{ "host": "h", "routes": [{ "paths": paths }] }],
        })));
        assert!(file.is_sound());
        assert_eq!(
            file.batch.items[1].fields["paths"],
            json!(["/plain-%20.a_b~c/d", second, "~/marked.*", last]),
            "{version}"
        );
    }
}

#[test]
fn old_is_not_taken_for_new() {
    let (config, _) = load(&empty(), sample());
    // A field that is not said goes back to its default.
    let mut document = sample();
    document["services"][0]["retries"] = 1.into();
    let (changed, change) = load(&config, document);
    assert_eq!(change.puts.len(), 1);
    let (back, change) = load(&changed, sample());
    assert_eq!((change.puts.len(), write(&back)), (1, write(&config)));
    assert_eq!(back.revision(), Revision(3));
}

proptest! {
    #[test]
    fn yaml_says_what_json_says(text in "\\PC{0,12}", number in any::<i64>(), truth in any::<bool>()) {
        let document = json!({
            "a": [text, { "b": number, "c": truth, "d": null, "e": [], "f": {} }],
            "yes": ["yes", "no", "~", "null", "1", "1.5", "0x1f", "- x", "a: b", "#", "", " x ", "a\nb\n", "{vault://env/x}"],
        });
        let yaml = encode(&document).unwrap();
        prop_assert_eq!(decode(&yaml).unwrap(), document, "{}", yaml);
    }

    #[test]
    fn a_file_comes_to_what_single_writes_come_to(
        services in prop::collection::vec((0..4_u8, any::<bool>()), 0..6),
        routes in prop::collection::vec((0..4_u8, 0..4_u8), 0..6),
    ) {
        let named = |name: u8| format!("n{name}");
        let mut bodies = Vec::new();
        for (name, tagged) in &services {
            let tags = if *tagged { json!(["t"]) } else { Value::Null };
            bodies.push(("services", json!({ "name": named(*name), "host": "h", "tags": tags })));
        }
        for (name, service) in &routes {
            let service = json!({ "name": named(*service) });
            bodies.push(("routes", json!({ "name": named(*name), "paths": ["/"], "service": service })));
        }
        let mut config = empty();
        let mut refused = false;
        for (entity, body) in &bodies {
            let command = Command {
                entity,
                action: Action::Create(Body::Json(fields(body.clone()))),
                parents: Vec::new(),
            };
            match decide(&config, &command, &context()) {
                Ok(decision) => config = config.evolve(&decision.change, config.revision()),
                Err(_) => refused = true,
            }
        }
        let list = |kind: &str| -> Value {
            bodies.iter().filter(|(own, _)| *own == kind).map(|(_, body)| body.clone()).collect()
        };
        let document = json!({ "_format_version": "3.0", "services": list("services"), "routes": list("routes") });
        let file = read(fields(document));
        let outcome = replace(&empty(), &file.batch, &context());
        prop_assert_eq!(outcome.is_err(), refused);
        if let Ok(change) = outcome {
            let loaded = empty().evolve(&change, Revision(0));
            let bare = |config: &Config| -> Vec<Value> {
                let mut all: Vec<Value> = ["services", "routes"].iter().flat_map(|kind| {
                    config.collection(kind, uuid::Uuid::nil()).map(|(_, record)| {
                        let mut record = (*record).clone();
                        record.shift_remove("id");
                        if let Some(id) = record.get("service").and_then(|key| key["id"].as_str()) {
                            let key = shared::snapshot::Key { kind: "services", id: id.parse().unwrap() };
                            let name = config.record(key).unwrap()["name"].clone();
                            record.insert("service".to_owned(), name);
                        }
                        Value::Object(record)
                    }).collect::<Vec<_>>()
                }).collect();
                all.sort_by_key(ToString::to_string);
                all
            };
            prop_assert_eq!(bare(&loaded), bare(&config));
        }
    }
}
