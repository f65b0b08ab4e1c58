//! Routes of two workspaces for the same requests: who may write in one takes no traffic of the other (Kong Enterprise,
//! `route_validation_strategy=smart`).
//!
//! A route is refused whose host one of another workspace names, and whose path and method that one would match. Hosts
//! with wildcards, and routes without hosts, are everybody's.

use serde_json::Value;
use shared::entity::{Entity as _, Route};
use shared::types::patterns;
use uuid::Uuid;

use crate::config::{Config, Fields, exact_hosts, host_key};

/// Whether the route `fields`, which is to be in the workspace of `config`, collides with one of another workspace.
pub(super) fn collides(config: &Config, fields: &Fields) -> bool {
    let hosts: Vec<String> = exact_hosts(fields).collect();
    let (here, everywhere) = (config.workspace(), config.everywhere());
    let routes = hosts
        .iter()
        .flat_map(|host| everywhere.children(host_key(host), Route::KIND, Uuid::nil()));
    let mut others = routes
        .filter_map(|key| everywhere.stored(key))
        .filter(|route| route.workspace() != here);
    others.any(|route| answers(&route.fields(), fields))
}

/// Whether `route`, which is for one of the same hosts, would answer a request that `new` is for.
fn answers(route: &Fields, new: &Fields) -> bool {
    let same = |field: &str| is_empty(route, field) || route.get(field) == new.get(field);
    let methods: Vec<&str> = texts(new, "methods").collect();
    let method = methods.is_empty()
        || is_empty(route, "methods")
        || texts(route, "methods").any(|method| methods.contains(&method));
    let mut wanted: Vec<&str> = texts(new, "paths").collect();
    if wanted.is_empty() {
        wanted.push("/");
    }
    let path = is_empty(route, "paths")
        || texts(route, "paths").any(|own| wanted.iter().any(|path| matches(own, path)));
    method && path && same("headers") && same("snis")
}

/// Whether the path `own` of a route matches `path`, which another is for.
fn matches(own: &str, path: &str) -> bool {
    match own.strip_prefix('~') {
        _ if own == path => true,
        Some(_) if path.starts_with('~') => false,
        Some(pattern) => patterns::of_path(pattern).is_ok_and(|(_, regex)| regex.is_match(path)),
        // The other's expression may match more than what begins so; it does where it says so.
        None => path.trim_start_matches('~').starts_with(own),
    }
}

fn texts<'a>(fields: &'a Fields, field: &str) -> impl Iterator<Item = &'a str> {
    let list = fields.get(field).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

fn is_empty(fields: &Fields, field: &str) -> bool {
    match fields.get(field) {
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        other => other.is_none_or(Value::is_null),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::snapshot::{Key, Revision};

    use super::*;
    use crate::config::{Change, Stored};

    #[test]
    fn only_what_another_workspace_answers_collides() {
        let record = |kind: &'static str, id: u128, mut fields: Value| {
            let id = Uuid::from_u128(id);
            fields["id"] = json!(id);
            let fields = fields.as_object().unwrap().clone();
            (Key { kind, id }, Stored::of(&fields))
        };
        let theirs = json!({ "ws_id": Uuid::from_u128(9), "hosts": ["A.test", "*.b.test"], "paths": ["/x", "~/r[0-9]$"],
            "methods": ["GET"] });
        let puts = vec![
            record("workspaces", 9, json!({ "name": "theirs" })),
            record("routes", 1, theirs),
        ];
        let change = Change {
            puts,
            removes: Vec::new(),
        };
        let config = Config::default().founded().evolve(&change, Revision(1));
        let (ours, theirs) = (
            config.within(Uuid::from_u128(7)),
            config.within(Uuid::from_u128(9)),
        );
        for (fields, expected) in [
            (json!({ "hosts": ["a.test"], "paths": ["/x"] }), true),
            (
                json!({ "hosts": ["a.test"], "paths": ["/x/y"], "methods": ["GET", "PUT"] }),
                true,
            ),
            (json!({ "hosts": ["a.test"], "paths": ["/r1"] }), true),
            (json!({ "hosts": ["a.test"], "paths": ["~/x.*"] }), true),
            (
                json!({ "hosts": ["a.test"], "paths": ["/x"], "methods": ["PUT"] }),
                false,
            ),
            (json!({ "hosts": ["a.test"], "paths": ["/y"] }), false),
            (json!({ "hosts": ["a.test"] }), false),
            (json!({ "hosts": ["other.test"], "paths": ["/x"] }), false),
            (json!({ "hosts": ["c.b.test"], "paths": ["/x"] }), false),
            (json!({ "paths": ["/x"] }), false),
        ] {
            let fields = fields.as_object().unwrap();
            assert_eq!(collides(&ours, fields), expected, "{fields:?}");
            assert!(!collides(&theirs, fields), "it is their own");
        }
    }
}
