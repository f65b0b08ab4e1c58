//! What is compiled on what was before behaves like what is compiled anew.

mod kinds;

use http::{HeaderMap, Method};
use proptest::prelude::*;
use serde_json::{Value, json};
use shared::properties::cases;
use shared::snapshot::{Key, Record, Revision};

use self::kinds::{is_unreferenced, other};
use super::*;
use crate::compile::{CompiledService, Destination, compile, compile_without, room};
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
        record("upstreams", 500, json!({ "name": "up" })),
        record("consumer_groups", 401, json!({ "name": "z" })),
        record("consumer_groups", 402, json!({ "name": "a" })),
        kinds::certificate(601, 0),
        kinds::certificate(602, 1),
        kinds::authority(2),
        // So that there is a second workspace.
        record(
            "consumers",
            399,
            json!({ "username": "there", "ws_id": Uuid::from_u128(9) }),
        ),
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

/// What a service leads to.
fn destination(compiled: &CompiledSnapshot, service: &CompiledService) -> Value {
    let to = match &service.destination {
        Destination::Origin { host, .. } => format!("{host:?}"),
        Destination::Upstream(place) => format!("{:?}", compiled.upstreams[*place]),
    };
    json!([service.id, to, service.path])
}

/// What filters find.
fn seen(environment: &Environment) -> Vec<String> {
    let (consumers, all) = (&environment.consumers, &environment.credentials);
    let names = ["ann", "Ann", "ANN", "bob"].iter().map(|name| {
        let found = consumers.by_username.get(*name).map(|found| found.id);
        let alike = consumers.named_alike(name).map(|found| found.id);
        let custom = consumers.by_custom_id.get(*name).map(|found| found.id);
        let basic = all.basic.get(*name).map(|found| found.consumer);
        format!("{name} {found:?} {alike:?} {custom:?} {basic:?}")
    });
    let ids = (301..305).map(Uuid::from_u128).map(|id| {
        let there = consumers.by_id.contains_key(&id);
        let groups = consumers.groups.get(&id);
        let memberships = consumers.memberships.get(&id);
        format!("{there} {groups:?} {memberships:?}")
    });
    let keys = environment.session_keys.keys.iter();
    let keys = keys.map(|key| format!("{:?} {} {:?}", key.id, key.activate_at, key.decrypt_until));
    let client = &environment.client_keys;
    let mut shown: Vec<String> = client
        .certificates
        .iter()
        .map(|(id, certificate)| format!("{id} {}", certificate.chain))
        .collect();
    shown.sort();
    let mut groups: Vec<String> = consumers
        .group_ids
        .iter()
        .map(|(name, id)| format!("{name} {id}"))
        .collect();
    groups.sort();
    let all = names.chain(ids).chain(keys).chain(shown);
    all.chain(groups).collect()
}

/// What a request comes to.
fn outcome(compiled: &CompiledSnapshot, host: &str, method: &Method, path: &str) -> Value {
    let asked = Asked {
        method,
        path,
        readable: None,
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
        let everybody = slot.choose(None, &[]);
        let chosen = [everybody, slot.choose(Some(Uuid::from_u128(301)), &[])];
        let chosen = chosen.map(|place| place.map(|place| compiled.filters.get(place).unwrap()));
        format!("{chosen:?} {:?}", slot.depends_on_consumer())
    });
    json!({
        "route": route.id,
        "service": route.service.as_ref().map(|service| destination(compiled, service)),
        "seen": format!("{:?}", seen(compiled.environment_of(route))),
        "matched": found.matched,
        "captures": format!("{:?}", compiled.router.captures(found, path, None)),
        "filters": chosen.collect::<Vec<_>>(),
        "labels": [route.account.labels.route, route.account.labels.service],
    })
}

/// Whether no two records claim what the control plane gives to one only.
fn is_unique(records: &BTreeMap<Key, Record>) -> bool {
    let mut claims = BTreeSet::new();
    records.values().all(|record| {
        let fields: Value = serde_json::from_slice(&record.json).unwrap();
        let claim = match record.key.kind {
            "plugins" => {
                let scope = ["name", "route", "service", "consumer", "ws_id"];
                json!(scope.map(|field| &fields[field]))
            }
            "snis" | "consumer_groups" | "upstreams" => json!([fields["name"], fields["ws_id"]]),
            "consumers" | "basicauth_credentials" => json!([fields["username"], fields["ws_id"]]),
            "acls" => json!([fields["group"], fields["consumer"]]),
            "consumer_group_consumers" => json!([fields["consumer_group"], fields["consumer"]]),
            _ => return true,
        };
        claims.insert(format!("{} {claim}", record.key.kind))
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
    // How services speak TLS is nothing that can be written.
    for id in (0..8).map(Uuid::from_u128) {
        let tls = |compiled: &CompiledSnapshot| {
            let routes = compiled.routes.iter().filter(|route| route.id == id);
            // Of those that stand beside the whole the last one counts.
            let service = routes.last()?.service.clone()?;
            Some(service.transport.tls.clone())
        };
        if let (Some(one), Some(other)) = (tls(one), tls(other)) {
            assert_eq!(one, other, "{id}");
        }
    }
    for name in ["a.test", "b.test", "x.test", "elsewhere"] {
        let shown = |compiled: &CompiledSnapshot| {
            let scheme = rustls::SignatureScheme::ECDSA_NISTP256_SHA256;
            let found = compiled.server_names.find(Some(name), &[scheme]);
            found.map(|key| key.cert.clone())
        };
        assert_eq!(shown(one), shown(other), "{name}");
    }
    let unrouted = |compiled: &CompiledSnapshot| {
        let places = compiled.unrouted.all.iter();
        let filters = places.map(|place| format!("{:?}", compiled.filters.get(*place).unwrap()));
        filters.collect::<Vec<_>>()
    };
    assert_eq!(unrouted(one), unrouted(other));
    let upstreams = |compiled: &CompiledSnapshot| {
        let all = compiled
            .upstreams
            .iter()
            .map(|one| (one.id, Arc::clone(one)));
        all.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(upstreams(one), upstreams(other));
}

fn next(before: &Snapshot, puts: Vec<Record>, removes: &[Key]) -> (Snapshot, Difference) {
    let revision = before.position.revision.next();
    let after = before.patched(1, revision, puts, removes).unwrap();
    let difference = after.inventory.since(&before.inventory);
    (after, difference)
}

/// What leads from `before` to the snapshot of `records`.
fn to(before: &Snapshot, records: &BTreeMap<Key, Record>) -> (Snapshot, Difference) {
    let revision = before.position.revision.next();
    let after = Snapshot::new(1, revision, records.values().cloned().collect());
    let difference = after.inventory.since(&before.inventory);
    (after, difference)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(32)))]

    #[test]
    fn changes_of_any_kind_lead_to_what_is_compiled_anew(
        changes in prop::collection::vec(
            prop::collection::vec((0u8..20, 0u8..6, 0u8..64, any::<bool>()), 1..4),
            1..12,
        ),
    ) {
        let records = surroundings(false).into_iter();
        let mut records: BTreeMap<Key, Record> =
            records.map(|record| (record.key, record)).collect();
        let mut snapshot = Snapshot::new(1, Revision(1), records.values().cloned().collect());
        let mut compiled = compile(&snapshot).unwrap();
        for batch in changes {
            let before = records.clone();
            for (kind, number, form, removes) in batch {
                let put = match kind {
                    17.. => route(u128::from(number), form),
                    kind => other(kind, number, form),
                };
                if removes && is_unreferenced(&put.key) {
                    records.remove(&put.key);
                } else {
                    records.insert(put.key, put);
                }
            }
            if !is_unique(&records) {
                records = before;
                continue;
            }
            let (after, difference) = to(&snapshot, &records);
            compiled = amend(&compiled, &snapshot, &after, &difference, &Room::default()).unwrap().unwrap();
            snapshot = after;
            let anew = compile(&snapshot).unwrap();
            assert_same(&compiled, &anew);
        }
    }

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
            compiled = amend(&compiled, &snapshot, &after, &difference, &Room::default()).unwrap().unwrap();
            snapshot = after;
            prop_assert_eq!(compiled.position(), snapshot.position);
            assert_same(&compiled, &compile(&snapshot).unwrap());
        }
    }
}

#[test]
fn what_streams_logs_and_counts_go_by_is_compiled_anew() {
    let mut records = surroundings(true);
    records.extend([route(1, 0), route(2, 32)]);
    let stream =
        json!({ "protocols": ["tcp"], "destinations": [{ "port": 9 }], "service": reference(101) });
    records.push(record("routes", 3, stream.clone()));
    let snapshot = Snapshot::new(1, Revision(1), records);
    let compiled = compile(&snapshot).unwrap();
    let amends = |puts: Vec<Record>, removes: &[Key]| {
        let (after, difference) = next(&snapshot, puts, removes);
        amend(&compiled, &snapshot, &after, &difference, &Room::default())
    };
    assert!(amends(vec![route(1, 1)], &[]).unwrap().is_ok());
    // Its service is disabled: it is not there, and takes nobody's place.
    let amended = amends(vec![route(2, 33)], &[]).unwrap().unwrap();
    assert!(amended.routes.get(1).is_none());
    let plugin = |fields: Value| vec![record("plugins", 203, fields)];
    // No route has its records at hand yet, which are logged then.
    let log =
        json!({ "name": "file-log", "config": { "path": "/dev/null" }, "protocols": ["http"] });
    assert!(amends(plugin(log), &[]).is_none());
    // It sees streams, too, and there is a route of those.
    let streams = json!({ "name": "ip-restriction", "config": { "deny": ["10.0.0.1"] },
        "protocols": ["http", "tcp"] });
    assert!(amends(plugin(streams), &[]).is_none());
    let cors = json!({ "name": "cors", "config": {}, "protocols": ["http"] });
    assert!(amends(plugin(cors), &[]).unwrap().is_ok());
    // The service has a route of byte streams.
    assert!(amends(vec![other(0, 0, 1)], &[]).is_none());
    let upstream = |name: &str| record("upstreams", 500, json!({ "name": name }));
    assert!(amends(vec![upstream("up")], &[]).unwrap().is_ok());
    // What counts is listed among all filters.
    let counts = json!({ "name": "prometheus", "config": {}, "route": reference(1) });
    let (with, difference) = next(&snapshot, vec![record("plugins", 205, counts)], &[]);
    let counting = amend(&compiled, &snapshot, &with, &difference, &Room::default())
        .unwrap()
        .unwrap();
    let gone = record("plugins", 205, json!({})).key;
    let (after, difference) = next(&with, Vec::new(), &[gone]);
    assert!(amend(&counting, &with, &after, &difference, &Room::default()).is_none());
    // One that takes the place of the host of a service, which has a route of byte streams.
    let upstream = |name: &str| record("upstreams", 501, json!({ "name": name }));
    assert!(amends(vec![upstream("new")], &[]).unwrap().is_ok());
    assert!(amends(vec![upstream("H")], &[]).is_none());
    let elsewhere = json!({ "username": "new", "ws_id": Uuid::from_u128(10) });
    assert!(amends(vec![record("consumers", 302, elsewhere)], &[]).is_none());
    // Nothing here goes by these.
    let vault = json!({ "name": "env", "prefix": "v", "config": {} });
    assert!(
        amends(vec![record("vaults", 601, vault)], &[])
            .unwrap()
            .is_ok()
    );
    assert!(amends(vec![record("routes", 4, stream)], &[]).is_none());
    assert!(amends(Vec::new(), &[route(3, 0).key]).is_none());
    let many = (1000..1257).map(|id| route(id, 0)).collect();
    assert!(amends(many, &[]).is_none());
}

#[test]
fn what_cannot_be_compiled_is_named() {
    let snapshot = Snapshot::new(1, Revision(1), surroundings(false));
    let compiled = compile(&snapshot).unwrap();
    let lost = json!({ "paths": ["/a"], "service": reference(999) });
    let strange = json!({ "name": "acl", "config": {}, "route": reference(4) });
    let puts = vec![
        record("routes", 4, lost),
        record("routes", 5, json!({ "paths": 7 })),
        record("plugins", 205, strange),
        record("consumers", 301, json!({ "username": 7 })),
        record(
            "targets",
            511,
            json!({ "target": "h:99999", "upstream": reference(500) }),
        ),
        record(
            "services",
            103,
            json!({ "protocol": "https", "host": "h", "client_certificate": reference(999) }),
        ),
    ];
    let count = puts.len();
    let (after, difference) = next(&snapshot, puts, &[]);
    let amended = amend(&compiled, &snapshot, &after, &difference, &Room::default()).unwrap();
    let faults = amended.unwrap_err();
    let anew = compile(&after).unwrap_err();
    assert_eq!(faults, anew);
    assert_eq!(faults.len(), count, "{faults:?}");
}

#[test]
fn what_there_is_no_room_for_is_refused_whole() {
    let snapshot = Snapshot::new(1, Revision(1), surroundings(false));
    let compiled = compile(&snapshot).unwrap();
    let plugin = json!({ "name": "acl", "config": { "allow": ["a"] }, "route": reference(4) });
    for (put, field) in [
        (record("routes", 4, json!({ "paths": ["/a"] })), "paths"),
        (record("plugins", 205, plugin), "config"),
    ] {
        let key = put.key;
        let (after, difference) = next(&snapshot, vec![put], &[]);
        let none = room::tests::none();
        let amended = amend(&compiled, &snapshot, &after, &difference, &none).unwrap();
        let faults = amended.unwrap_err();
        let named = |fault: &CompileFault| (fault.key(), fault.field.as_str()) == (key, field);
        assert!(faults.iter().any(named), "{faults:?}");
        let anew = compile_without(&after, &[], &Arc::default(), &none).unwrap_err();
        let first = &anew[0];
        assert_eq!(
            (first.kind, &*first.field),
            ("plugins", "config"),
            "{anew:?}"
        );
    }
}
