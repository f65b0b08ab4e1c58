//! Views of one workspace, and records as they are kept.

use serde_json::json;
use shared::entity::definition;
use shared::snapshot::{Key, Revision};
use uuid::Uuid;

use super::*;

fn record(kind: &'static str, id: u128, workspace: u128, fields: Value) -> (Key, Stored) {
    let Value::Object(mut fields) = fields else {
        panic!("no object")
    };
    put_into(&mut fields, Uuid::from_u128(workspace));
    let id = Uuid::from_u128(id);
    (Key { kind, id }, Stored::of(&fields))
}

/// A record of the default workspace with all of `fields` and its id.
pub(crate) fn with_id(kind: &'static str, id: u128, mut fields: Value) -> (Key, Stored) {
    let id = Uuid::from_u128(id);
    fields["id"] = json!(id);
    let fields = fields.as_object().unwrap().clone();
    (Key { kind, id }, Stored::of(&fields))
}

#[test]
fn a_workspace_sees_its_own_records_and_the_shared_ones() {
    let puts = vec![
        record("services", 1, 0, json!({ "name": "s" })),
        record("services", 2, 7, json!({ "name": "s" })),
        record(
            "routes",
            3,
            7,
            json!({ "service": { "id": Uuid::from_u128(2) } }),
        ),
        record("workspaces", 7, 0, json!({ "name": "w" })),
    ];
    let change = Change {
        puts,
        removes: Vec::new(),
    };
    let config = Config::default().evolve(&change, Revision(1));
    let (first, other) = (
        config.within(DEFAULT_WORKSPACE),
        config.within(Uuid::from_u128(7)),
    );
    let named = |config: &Config| config.find("services", "name", "s").map(|id| id.as_u128());
    assert_eq!((named(&first), named(&other)), (Some(1), Some(2)));
    let ids = |config: &Config| -> Vec<u128> {
        let keys = config.keys("services", Uuid::nil());
        keys.map(|key| key.id.as_u128()).collect()
    };
    assert_eq!(
        (ids(&first), ids(&other), ids(&config)),
        (vec![1], vec![2], vec![1, 2])
    );
    let second = Key {
        kind: "services",
        id: Uuid::from_u128(2),
    };
    assert!(!first.contains(second) && other.contains(second) && first.is_used(second));
    assert!(other.record(second).unwrap().get(WORKSPACE_FIELD).is_none());
    assert_eq!(first.records().count(), 2);
    assert_eq!(other.records().count(), 3);
    let services = definition("services").unwrap();
    let fields = json!({ "name": "s" });
    let taken = |config: &Config| config.taken(services, Uuid::nil(), fields.as_object().unwrap());
    assert!(taken(&first).is_some() && taken(&other).is_some());
    assert!(taken(&config.within(Uuid::from_u128(8))).is_none());
    assert_eq!(
        config
            .children(workspace_key(Uuid::from_u128(7)), "routes", Uuid::nil())
            .count(),
        1
    );
}

#[test]
fn the_default_workspace_is_there_from_the_start() {
    let config = Config::default().founded();
    assert_eq!(
        config.find("workspaces", "name", "default"),
        Some(DEFAULT_WORKSPACE)
    );
    assert_eq!(config.clone().founded().len(), config.len());
}

#[test]
fn what_is_kept_is_what_came() {
    let fields = json!({ "id": "x", "a\"b": [1, { "c": null }], "tags": ["t"], "name": "ü" });
    let kept = Stored::of(fields.as_object().unwrap());
    assert_eq!(Value::Object(kept.fields()), fields);
    assert_eq!(kept, Stored::parse(kept.json()).unwrap());
    let picked = kept.pick(|name| name.contains('"'));
    assert_eq!(Value::Object(picked), json!({ "a\"b": [1, { "c": null }] }));
    for bad in ["[]", "{", "{} {}", ""] {
        assert!(Stored::parse(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(!format!("{kept:?}").contains("tags"));
}

#[test]
fn an_index_follows_each_change_of_what_it_is_of() {
    let name = |config: &Config, name: &str| {
        let id = config
            .within(DEFAULT_WORKSPACE)
            .find("services", "name", name);
        id.map(|id| id.as_u128())
    };
    let service = |id, name: &str, retries: u64| {
        record(
            "services",
            id,
            0,
            json!({ "name": name, "retries": retries }),
        )
    };
    let route = |to: u128| {
        let to = json!({ "service": { "id": Uuid::from_u128(to) } });
        record("routes", 9, 0, to)
    };
    let routes = |config: &Config, id: u128| {
        let (kind, id) = ("services", Uuid::from_u128(id));
        let routes = config.children(Key { kind, id }, "routes", Uuid::nil());
        routes.count()
    };
    let put = |config: &Config, puts| {
        let change = Change {
            puts,
            removes: Vec::new(),
        };
        config.evolve(&change, config.revision().next())
    };
    let first = vec![service(1, "a", 1), service(2, "b", 1), route(1)];
    let config = put(&Config::default(), first);
    // Another field, then the names swapped, then one name given up and the route moved.
    let config = put(&config, vec![service(1, "a", 2), route(1)]);
    assert_eq!((name(&config, "a"), name(&config, "b")), (Some(1), Some(2)));
    let config = put(&config, vec![service(1, "b", 2), service(2, "a", 1)]);
    assert_eq!((name(&config, "a"), name(&config, "b")), (Some(2), Some(1)));
    assert_eq!((routes(&config, 1), routes(&config, 2)), (1, 0));
    let config = put(&config, vec![service(1, "c", 2), route(2)]);
    assert_eq!((name(&config, "b"), name(&config, "c")), (None, Some(1)));
    assert_eq!((routes(&config, 1), routes(&config, 2)), (0, 1));
    // A record that moves to another workspace is found there only.
    let moved = record("services", 1, 7, json!({ "name": "c", "retries": 2 }));
    let config = put(&config, vec![moved]);
    assert_eq!(name(&config, "c"), None);
    let there = config.within(Uuid::from_u128(7));
    let found = there.find("services", "name", "c");
    assert_eq!(found.map(|id| id.as_u128()), Some(1));
}
