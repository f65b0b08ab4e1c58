//! Decisions, and the properties that no sequence of them breaks.

use proptest::prelude::*;
use serde_json::{Value, json};
use shared::entity::{definition, definitions};
use shared::snapshot::{Key, Revision};
use uuid::Uuid;

use super::*;
use crate::config::foreign_id;

fn fields(value: Value) -> Fields {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

/// A configuration that commands are applied to one after the other.
struct Session {
    config: Config,
    ids: u128,
}

impl Session {
    fn new() -> Self {
        Self {
            config: Config::default(),
            ids: 0,
        }
    }

    fn run(&mut self, entity: &'static str, action: Action) -> Result<Value, Rejection> {
        self.ids += 1;
        let context = Context {
            now: UnixTime::from_secs(1000),
            id: Uuid::from_u128(self.ids),
            seed: [Uuid::from_u128(self.ids); 2],
        };
        let command = Command {
            entity,
            action,
            parents: Vec::new(),
        };
        let decision = decide(&self.config, &command, &context)?;
        let revision = self.config.revision().next();
        self.config = self.config.evolve(&decision.change, revision);
        Ok(decision
            .record
            .map_or(Value::Null, |(_, fields)| Value::Object((*fields).clone())))
    }

    fn create(&mut self, entity: &'static str, body: Value) -> Result<Value, Rejection> {
        self.run(entity, Action::Create(Body::Json(fields(body))))
    }
}

fn by_name(name: &str) -> Selector {
    Selector::Name(name.to_owned())
}

#[test]
fn a_service_by_url_stores_its_parts() {
    let mut session = Session::new();
    for (url, expected) in [
        ("http://a.com", json!(["http", "a.com", 80, null])),
        ("https://a.com/v1", json!(["https", "a.com", 443, "/v1"])),
        ("http://a.com:8080/", json!(["http", "a.com", 8080, "/"])),
    ] {
        let service = session.create("services", json!({ "url": url })).unwrap();
        let parts = ["protocol", "host", "port", "path"].map(|field| service[field].clone());
        assert_eq!(json!(parts), expected);
        assert!(service.get("url").is_none());
    }
}

#[test]
fn put_replaces_and_patch_merges() {
    let mut session = Session::new();
    session
        .create("services", json!({ "name": "s", "host": "a", "port": 81 }))
        .unwrap();
    let patch = Body::Json(fields(json!({ "retries": 1 })));
    let patched = session
        .run("services", Action::Patch(by_name("s"), patch))
        .unwrap();
    assert_eq!(
        (&patched["port"], &patched["retries"]),
        (&json!(81), &json!(1))
    );
    let put = Body::Json(fields(json!({ "host": "b" })));
    let replaced = session
        .run("services", Action::Upsert(by_name("s"), put))
        .unwrap();
    assert_eq!(replaced["id"], patched["id"]);
    assert_eq!(
        (&replaced["port"], &replaced["retries"]),
        (&json!(80), &json!(5))
    );
    let missing = session.run(
        "services",
        Action::Patch(by_name("x"), Body::Json(Fields::new())),
    );
    assert_eq!(missing, Err(Rejection::NotFound(by_name("x"), "name")));
}

#[test]
fn a_put_by_a_new_name_takes_no_other_record_s_id() {
    let mut session = Session::new();
    let mut create = |name: &str| {
        let made = session.create("consumers", json!({ "username": name }));
        made.unwrap()["id"].clone()
    };
    let (one, other) = (create("one"), create("other"));
    let before = session.config.len();
    let mut put = |name: &str, id: &Value| {
        let body = Body::Json(fields(json!({ "id": id })));
        session.run("consumers", Action::Upsert(by_name(name), body))
    };
    let taken = Uuid::parse_str(one.as_str().unwrap()).unwrap();
    assert_eq!(put("new", &one), Err(Rejection::IdTaken(taken)));
    // What is there has its id, whatever the body says.
    assert_eq!(put("other", &one).unwrap()["id"], other);
    let free = json!(Uuid::from_u128(99));
    assert_eq!(put("new", &free).unwrap()["id"], free);
    assert_eq!(session.config.len(), before + 1);
    let kept = session.config.find("consumers", "username", "one");
    assert_eq!(kept, Some(taken));
}

#[test]
fn a_deleted_service_is_refused_while_it_has_routes_and_a_route_takes_its_plugins_along() {
    let mut session = Session::new();
    session
        .create("services", json!({ "name": "s", "host": "a" }))
        .unwrap();
    let route = json!({ "name": "r", "paths": ["/"], "service": { "name": "s" } });
    session.create("routes", route).unwrap();
    let plugin = json!({ "name": "openid-connect", "route": { "name": "r" }, "config": { "issuer": "https://op.test" } });
    session.create("plugins", plugin).unwrap();
    let refused = session.run("services", Action::Delete(by_name("s")));
    assert_eq!(
        refused,
        Err(Rejection::Referenced {
            kind: "services",
            by: "routes"
        })
    );
    session.run("routes", Action::Delete(by_name("r"))).unwrap();
    assert_eq!(session.config.len(), 1);
    session.run("routes", Action::Delete(by_name("r"))).unwrap();
    session
        .run("services", Action::Delete(by_name("s")))
        .unwrap();
    assert!(session.config.is_empty());
}

#[test]
fn a_plugins_form_patch_takes_types_from_the_stored_name() {
    let mut session = Session::new();
    let plugin = json!({ "name": "openid-connect", "config": { "issuer": "https://op.test", "auth_method": ["session"] } });
    let stored = session.create("plugins", plugin).unwrap();
    assert_eq!(stored["config"]["auth_methods"], json!(["session"]));
    assert_eq!(stored["config"].get("auth_method"), None);
    let selector = Selector::parse(stored["id"].as_str().unwrap());
    let form =
        shared::schema::form::expand([("config.consumer_by".to_owned(), "custom_id".to_owned())]);
    let patched = session
        .run("plugins", Action::Patch(selector, Body::Form(form)))
        .unwrap();
    let mut expected = stored["config"].clone();
    expected["consumer_by"] = json!(["custom_id"]);
    assert_eq!(patched["config"], expected);
}

#[test]
fn a_patch_leaves_behind_what_is_no_field_any_more() {
    let mut session = Session::new();
    let plugin = session
        .create("plugins", json!({ "name": "prometheus" }))
        .unwrap();
    let mut old = plugin.clone();
    old["config"]["wasm_metrics"] = false.into();
    let mut old = fields(old);
    put_into(&mut old, session.config.workspace());
    let id: Uuid = plugin["id"].as_str().unwrap().parse().unwrap();
    let kind = "plugins";
    let change = Change {
        puts: vec![(Key { kind, id }, Stored::of(&old))],
        removes: Vec::new(),
    };
    session.config = session.config.evolve(&change, Revision(9));
    let patch = Body::Json(fields(json!({ "enabled": false })));
    let patched = session
        .run(kind, Action::Patch(Selector::Id(id), patch))
        .unwrap();
    assert_eq!(
        (&patched["config"], &patched["enabled"]),
        (&plugin["config"], &json!(false))
    );
}

#[test]
fn what_a_plugin_may_leave_to_us_is_made_once() {
    let mut session = Session::new();
    let salt = |plugin: &Value| plugin["config"]["cache_tokens_salt"].clone();
    let body = json!({ "name": "openid-connect", "config": { "issuer": "https://a.test" } });
    let first = session.create("plugins", body).unwrap();
    let made = salt(&first).as_str().unwrap().to_owned();
    assert!(made.len() == 32 && made.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let id = Selector::Id(first["id"].as_str().unwrap().parse().unwrap());
    let patch = Body::Json(fields(json!({ "config": { "timeout": 5 } })));
    let patched = session.run("plugins", Action::Patch(id, patch)).unwrap();
    assert_eq!(salt(&patched), made);
    let remove = Action::Delete(Selector::Id(first["id"].as_str().unwrap().parse().unwrap()));
    session.run("plugins", remove).unwrap();
    for given in [json!("mine"), Value::Null] {
        let config = json!({ "issuer": "https://a.test", "cache_tokens_salt": given });
        let body = json!({ "name": "openid-connect", "config": config });
        let plugin = session.create("plugins", body).unwrap();
        assert_eq!(salt(&plugin), given);
        let id = Selector::Id(plugin["id"].as_str().unwrap().parse().unwrap());
        session.run("plugins", Action::Delete(id)).unwrap();
    }
}

#[test]
fn rejections_name_what_is_wrong() {
    let mut session = Session::new();
    session
        .create("consumers", json!({ "username": "yoda" }))
        .unwrap();
    let invalid = |path: &[&str], message: &str| Rejection::Invalid(FieldErrors::at(path, message));
    let mut entity = FieldErrors::default();
    entity.by_field.insert("@entity".to_owned(), {
        json!(["at least one of these fields must be non-empty: 'custom_id', 'username'"])
    });
    let id = Uuid::from_u128(99);
    for (kind, body, expected) in [
        ("consumers", json!({ "username": "yoda" }), {
            Rejection::Taken(fields(json!({ "username": "yoda" })))
        }),
        ("consumers", json!({}), Rejection::Invalid(entity)),
        ("plugins", json!({ "name": "openid-connect" }), {
            invalid(&["config", "issuer"], "required field missing")
        }),
        ("plugins", json!({ "name": "no" }), {
            let text = "plugin 'no' not enabled; add it to the 'plugins' configuration property";
            invalid(&["name"], text)
        }),
        (
            "plugins",
            json!({ "name": "openid-connect", "config": { "issuer": "https://op.test" }, "consumer": { "username": "yoda" } }),
            { invalid(&["consumer"], "value must be null") },
        ),
        (
            "routes",
            json!({ "paths": ["/"], "service": { "id": id } }),
            {
                Rejection::NoParent {
                    field: "service".to_owned(),
                    kind: "services",
                    id,
                }
            },
        ),
        (
            "routes",
            json!({ "paths": ["/"], "service": { "name": "x" } }),
            {
                let text = "the foreign key cannot be resolved with '{name=\"x\"}' for an existing 'services' entity";
                Rejection::Unresolved(FieldErrors::at(&["service", "name"], text))
            },
        ),
    ] {
        assert_eq!(session.create(kind, body), Err(expected));
    }
}

#[test]
fn a_plugin_is_unique_by_name_and_scope() {
    let mut session = Session::new();
    let plugin = json!({ "name": "openid-connect", "config": { "issuer": "https://op.test" } });
    session.create("plugins", plugin.clone()).unwrap();
    let scope =
        json!({ "name": "openid-connect", "route": null, "service": null, "consumer": null });
    assert_eq!(
        session.create("plugins", plugin),
        Err(Rejection::Taken(fields(scope)))
    );
}

#[test]
fn a_key_is_there_for_all_of_its_time() {
    let key = fields(json!({ "created_at": 100, "ttl": 10 }));
    let entity = definition("keyauth_credentials").unwrap();
    for (now, left, gone) in [
        (100_000, 9, false),
        (100_001, 9, false),
        (101_000, 8, false),
        (109_999, 0, false),
        (110_000, 0, true),
    ] {
        let now = UnixTime::from_millis(now);
        assert_eq!(seconds_left(&key, now), Some(left), "{now:?}");
        assert_eq!(has_expired(entity, &key, now), gone, "{now:?}");
    }
}

#[test]
fn a_key_that_has_expired_is_free_again() {
    let mut session = Session::new();
    session
        .create("consumers", json!({ "username": "a" }))
        .unwrap();
    let key = |created_at: u64, ttl: u64| json!({ "consumer": { "username": "a" }, "key": "k", "created_at": created_at, "ttl": ttl });
    // It is second 1000 in a session.
    session
        .create("keyauth_credentials", key(900, 200))
        .unwrap();
    let refused = session.create("keyauth_credentials", key(1000, 1));
    assert_eq!(
        refused,
        Err(Rejection::Taken(fields(json!({ "key": "k" }))))
    );
    let delete = Action::Delete(by_name("k"));
    session.run("keyauth_credentials", delete).unwrap();
    session.create("keyauth_credentials", key(900, 50)).unwrap();
    session
        .create("keyauth_credentials", key(1000, 50))
        .unwrap();
    let first = Uuid::nil();
    assert_eq!(session.config.keys("keyauth_credentials", first).count(), 1);
}

/// A body for a record of `kind` called `own`, which points to records called `other`.
fn body_of(kind: &str, own: &str, other: &str) -> Value {
    let consumer = json!({ "username": other });
    match kind {
        "services" => json!({ "name": own, "host": "h", "protocol": "https" }),
        "routes" => json!({ "name": own, "paths": ["/"], "service": { "name": other } }),
        "consumers" => json!({ "username": own, "custom_id": other }),
        "consumer_groups" | "key_sets" | "upstreams" => json!({ "name": own }),
        "consumer_group_consumers" => {
            json!({ "consumer": consumer, "consumer_group": { "name": own } })
        }
        "targets" => json!({ "upstream": { "name": own }, "target": format!("{other}.test") }),
        "certificates" => json!({
            "cert": "{vault://env/cert}", "key": "{vault://env/key}",
            "snis": [format!("{own}.test"), format!("x{other}.test")],
        }),
        "snis" => json!({ "name": format!("{own}.test"), "certificate": { "id": id_of(other) } }),
        "vaults" => json!({ "prefix": format!("my-{own}"), "name": "env" }),
        "keys" => {
            json!({ "name": own, "kid": other, "jwk": "{vault://env/jwk}", "set": { "name": other } })
        }
        "acls" => json!({ "consumer": consumer, "group": own }),
        "keyauth_credentials" | "jwt_secrets" => json!({ "consumer": consumer, "key": own }),
        "basicauth_credentials" => {
            json!({ "consumer": consumer, "username": own, "password": "p" })
        }
        "hmacauth_credentials" => json!({ "consumer": consumer, "username": own }),
        "oauth2_credentials" => json!({ "consumer": consumer, "name": "n", "client_id": own }),
        _ => {
            json!({ "name": "openid-connect", "config": { "issuer": "https://op.test" }, "route": { "name": own } })
        }
    }
}

fn id_of(name: &str) -> Uuid {
    Uuid::from_u128(u128::from(name.as_bytes()[0] % 8))
}

/// One random command over few names and few ids, so that they meet.
fn any_command() -> impl Strategy<Value = (&'static str, Action)> {
    let kinds: Vec<&'static str> = definitions()
        .iter()
        .filter(|entity| entity.workspaced && entity.kind != "session_keys")
        .map(|entity| entity.kind)
        .collect();
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let selected = (
        prop::sample::select(kinds),
        name.clone(),
        name,
        0..4,
        any::<bool>(),
    );
    selected.prop_map(|(kind, name, other, action, by_id)| {
        let body = Body::Json(fields(body_of(kind, other, name)));
        let named = definition(kind).unwrap().name_field.is_some();
        let selector = match kind {
            "certificates" | "snis" if !by_id => by_name(&format!("{name}.test")),
            "vaults" if !by_id => by_name(&format!("my-{name}")),
            _ if by_id || !named => Selector::Id(id_of(name)),
            _ => by_name(name),
        };
        let action = match action {
            0 => Action::Create(body),
            1 => Action::Upsert(selector, body),
            2 => Action::Patch(selector, body),
            _ => Action::Delete(selector),
        };
        (kind, action)
    })
}

/// Random commands, and some of them carried out together.
fn any_action() -> impl Strategy<Value = (&'static str, Action)> {
    let several = prop::collection::vec(any_command(), 1..4).prop_map(|commands| {
        let commands = commands.into_iter().map(|(entity, action)| Command {
            entity,
            action,
            parents: Vec::new(),
        });
        ("services", Action::Several(commands.collect()))
    });
    prop_oneof![5 => any_command(), 1 => several]
}

proptest! {
    #[test]
    fn no_sequence_of_commands_breaks_a_reference_or_a_claim(
        commands in prop::collection::vec(any_action(), 1..60)
    ) {
        let mut session = Session::new();
        for (kind, action) in commands {
            let _ = session.run(kind, action);
        }
        let config = &session.config;
        for (key, record) in config.records() {
            let (entity, record) = (definition(key.kind).unwrap(), &record.fields());
            for (field, kind) in entity.foreign_keys() {
                if let Some(id) = foreign_id(record, field) {
                    prop_assert!(config.record(Key { kind, id }).is_some(), "dangling {field}");
                }
            }
            prop_assert!(config.taken(entity, key.id, record).is_none(), "claim not held");
        }
        for entity in definitions() {
            for set in entity.unique.iter().filter(|set| set.len() == 1) {
                let mut seen: Vec<Value> = config
                    .collection(entity.kind, Uuid::nil())
                    .filter_map(|(_, record)| record.get(set[0]).filter(|value| !value.is_null()).cloned())
                    .collect();
                let all = seen.len();
                seen.sort_by_key(ToString::to_string);
                seen.dedup();
                prop_assert_eq!(seen.len(), all, "two records share a {}", set[0]);
            }
        }
        // Evolving step by step equals rebuilding.
        let puts = config.records().map(|(key, record)| (*key, record.clone())).collect();
        let rebuilt = Config::default().evolve(&Change { puts, removes: Vec::new() }, Revision(1));
        prop_assert!(rebuilt.records().eq(config.records()));
        for (key, _) in config.records() {
            prop_assert!(rebuilt.referrers(*key).eq(config.referrers(*key)));
        }
    }
}
