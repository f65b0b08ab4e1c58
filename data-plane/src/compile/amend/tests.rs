//! What is compiled on what was before behaves like what is compiled anew.

use http::{HeaderMap, Method};
use proptest::prelude::*;
use serde_json::{Value, json};
use shared::snapshot::{Key, Record, Revision};

use super::*;
use crate::compile::compile;
use crate::http1::headers::View;
use crate::router::Asked;

fn record(kind: &'static str, id: u128, mut fields: Value) -> Record {
    let id = Uuid::from_u128(id);
    fields["id"] = json!(id);
    fields["created_at"] = 1.into();
    fields["updated_at"] = 1.into();
    Record {
        key: Key { kind, id },
        json: serde_json::to_vec(&fields).unwrap().into(),
    }
}

fn reference(id: u128) -> Value {
    json!({ "id": Uuid::from_u128(id) })
}

/// Two services, one of them disabled on wish, and plugins of a route, a service, and of all.
fn surroundings(disabled: bool) -> Vec<Record> {
    let service = |enabled: bool| json!({ "name": "s", "host": "h", "enabled": enabled });
    let answers =
        |status: u16| json!({ "name": "request-termination", "config": { "status_code": status } });
    let with = |mut plugin: Value, scope: &str, id: u128| {
        plugin[scope] = reference(id);
        plugin
    };
    vec![
        record("services", 101, service(true)),
        record("services", 102, service(!disabled)),
        record("plugins", 201, with(answers(201), "route", 1)),
        record("plugins", 202, with(answers(202), "service", 101)),
        record("plugins", 203, answers(203)),
        record("plugins", 204, json!({ "name": "cors", "config": {} })),
    ]
}

/// A route of a few, in one of a few forms.
fn route(id: u128, form: u8) -> Record {
    let paths = ["/a", "/a/b", "/b", "~/a/[0-9]+"];
    let path = paths[usize::from(form) % paths.len()];
    let mut fields = json!({ "name": format!("r{id}-{form}"), "paths": [path] });
    match form / 4 % 4 {
        1 => fields["hosts"] = json!(["one.example.com", "*.example.com"]),
        2 => fields["methods"] = json!(["POST"]),
        3 => fields["hosts"] = json!(["one.example.com"]),
        _ => {}
    }
    match form / 16 % 4 {
        1 => fields["service"] = reference(101),
        2 => fields["service"] = reference(102),
        3 => fields["ws_id"] = json!(Uuid::from_u128(9)),
        _ => {}
    }
    record("routes", id, fields)
}

/// What a request comes to.
fn outcome(compiled: &CompiledSnapshot, host: &str, method: &Method, path: &str) -> Value {
    let asked = Asked {
        method,
        path,
        authority: host,
        headers: View::Map(&HeaderMap::new()),
        server_name: None,
        https: false,
    };
    let Some(found) = compiled.router.find(&asked) else {
        return Value::Null;
    };
    let route = compiled.routes.get(found.route).unwrap();
    let chosen = route.filters.slots.iter().map(|slot| {
        let place = slot.choose(None, &[]).unwrap();
        format!("{:?}", compiled.filters[place])
    });
    json!({
        "route": route.id,
        "service": route.service.as_ref().map(|service| service.id),
        "matched": found.matched,
        "captures": format!("{:?}", compiled.router.captures(found, path)),
        "filters": chosen.collect::<Vec<_>>(),
        "labels": [route.labels.route, route.labels.service],
    })
}

fn assert_same(one: &CompiledSnapshot, other: &CompiledSnapshot) {
    for host in ["one.example.com", "two.example.com", "elsewhere"] {
        for method in [Method::GET, Method::POST] {
            for path in ["/a", "/a/b/c", "/a/12", "/b", "/c"] {
                let outcome = |compiled| outcome(compiled, host, &method, path);
                assert_eq!(outcome(one), outcome(other), "{method} {host} {path}");
            }
        }
    }
}

fn next(before: &Snapshot, puts: Vec<Record>, removes: &[Key]) -> (Snapshot, Difference) {
    let revision = before.position.revision.next();
    let after = before.patched(1, revision, puts, removes).unwrap();
    let difference = after.inventory.since(&before.inventory);
    (after, difference)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn changes_of_routes_lead_to_what_is_compiled_anew(
        first in prop::collection::vec((1u128..8, 0u8..64), 0..6),
        changes in prop::collection::vec((1u128..8, prop::option::of(0u8..64), any::<bool>()), 1..20),
    ) {
        let mut records = surroundings(false);
        let mut routes: BTreeMap<u128, u8> = first.into_iter().collect();
        records.extend(routes.iter().map(|(id, form)| route(*id, *form)));
        let mut snapshot = Snapshot::new(1, Revision(1), records);
        let mut compiled = compile(&snapshot).unwrap();
        for (id, form, also) in changes {
            let (mut puts, mut removes) = (Vec::new(), Vec::new());
            match form {
                Some(form) => {
                    routes.insert(id, form);
                    puts.push(route(id, form));
                }
                None if routes.remove(&id).is_some() => removes.push(route(id, 0).key),
                None => continue,
            }
            if also && id != 7 && !routes.contains_key(&7) {
                routes.insert(7, 21);
                puts.push(route(7, 21));
            }
            let (after, difference) = next(&snapshot, puts, &removes);
            compiled = amend(&compiled, &after, &difference).unwrap().unwrap();
            snapshot = after;
            prop_assert_eq!(compiled.position(), snapshot.position);
            assert_same(&compiled, &compile(&snapshot).unwrap());
        }
    }
}

#[test]
fn what_is_more_than_routes_is_compiled_anew() {
    let mut records = surroundings(true);
    records.extend([route(1, 0), route(2, 32)]);
    let stream =
        json!({ "protocols": ["tcp"], "destinations": [{ "port": 9 }], "service": reference(101) });
    records.push(record("routes", 3, stream.clone()));
    let snapshot = Snapshot::new(1, Revision(1), records);
    let compiled = compile(&snapshot).unwrap();
    let amends = |puts: Vec<Record>, removes: &[Key]| {
        let (after, difference) = next(&snapshot, puts, removes);
        amend(&compiled, &after, &difference)
    };
    assert!(amends(vec![route(1, 1)], &[]).unwrap().is_ok());
    // Its service is disabled: it is not there, and takes nobody's place.
    let amended = amends(vec![route(2, 33)], &[]).unwrap().unwrap();
    assert!(amended.routes.get(1).is_none());
    let plugin = record("plugins", 203, json!({ "name": "cors", "config": {} }));
    assert!(amends(vec![plugin, route(1, 1)], &[]).is_none());
    assert!(amends(vec![record("routes", 4, stream)], &[]).is_none());
    assert!(amends(Vec::new(), &[route(3, 0).key]).is_none());
    let refers = json!({ "paths": ["/{vault://env/x}"] });
    assert!(amends(vec![record("routes", 4, refers)], &[]).is_none());
    let many = (1000..1257).map(|id| route(id, 0)).collect();
    assert!(amends(many, &[]).is_none());
    let mut outside = compile(&snapshot).unwrap();
    outside.holds_secrets();
    let (after, difference) = next(&snapshot, vec![route(1, 1)], &[]);
    assert!(outside.amended(&after, &difference).is_none());
}

#[test]
fn a_route_that_cannot_be_compiled_is_named() {
    let snapshot = Snapshot::new(1, Revision(1), surroundings(false));
    let compiled = compile(&snapshot).unwrap();
    let lost = json!({ "paths": ["/a"], "service": reference(999) });
    let broken = record("routes", 5, json!({ "paths": 7 }));
    let (after, difference) = next(&snapshot, vec![record("routes", 4, lost), broken], &[]);
    let faults = amend(&compiled, &after, &difference).unwrap().unwrap_err();
    let anew = compile(&after).unwrap_err();
    assert_eq!(faults, anew);
    assert_eq!(faults.len(), 2);
}
