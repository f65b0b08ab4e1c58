//! Routes of two workspaces for the same requests: who may write in one takes no traffic of the other (Kong Enterprise,
//! `route_validation_strategy=smart`).
//!
//! A route is refused whose host one of another workspace names, and whose path and method that one would match. Hosts
//! with wildcards, and routes without hosts, are everybody's. A route that is stored already is judged again only when
//! it is to be for other requests.

use std::collections::BTreeSet;

use serde_json::Value;
use shared::entity::{Entity as _, Route};
use shared::snapshot::Key;
use shared::types::patterns;
use uuid::Uuid;

use crate::config::{Change, Config, Fields, exact_hosts, host_key};

/// What says which requests a route is for.
const MATCHED: &[&str] = &["hosts", "paths", "methods", "headers", "snis"];

/// Whether a route that `change` puts into the workspace of `config` collides with one of another workspace. Not one
/// that is for the same requests in `before`.
pub(super) fn collides(before: &Config, config: &Config, change: &Change) -> bool {
    change.puts.iter().any(|(key, record)| {
        let new = record.fields();
        let old = before.record(*key);
        !old.is_some_and(|old| MATCHED.iter().all(|field| is_same(&old, &new, field)))
            && collides_with_another(config, &new, &expression)
    })
}

/// Whether the route `new` collides with one of another workspace. Their paths that are expressions are compiled by
/// `compile`, into what tells whether a path matches.
fn collides_with_another<M: Fn(&str) -> bool>(
    config: &Config,
    new: &Fields,
    compile: &impl Fn(&str) -> M,
) -> bool {
    let (here, everywhere) = (config.workspace(), config.everywhere());
    // One route may be for several of the hosts.
    let routes: BTreeSet<Key> = exact_hosts(new)
        .flat_map(|host| everywhere.children(host_key(&host), Route::KIND, Uuid::nil()))
        .collect();
    let mut others = routes
        .into_iter()
        .filter_map(|key| everywhere.stored(key))
        .filter(|route| route.workspace() != here);
    others.any(|route| answers(&route.fields(), new, compile))
}

/// Whether `route`, which is for one of the same hosts, would answer a request that `new` is for. What is dear to find
/// out comes last.
fn answers<M: Fn(&str) -> bool>(
    route: &Fields,
    new: &Fields,
    compile: &impl Fn(&str) -> M,
) -> bool {
    let same = |field: &str| is_empty(route, field) || is_same(route, new, field);
    let methods: Vec<&str> = texts(new, "methods").collect();
    let method = methods.is_empty()
        || is_empty(route, "methods")
        || texts(route, "methods").any(|method| methods.contains(&method));
    if !method || !same("headers") || !same("snis") {
        return false;
    }
    let mut wanted: Vec<&str> = texts(new, "paths").collect();
    if wanted.is_empty() {
        wanted.push("/");
    }
    is_empty(route, "paths") || texts(route, "paths").any(|own| matches(own, &wanted, compile))
}

/// Whether the path `own` of a route matches one of those `wanted`, which another is for.
fn matches<M: Fn(&str) -> bool>(own: &str, wanted: &[&str], compile: &impl Fn(&str) -> M) -> bool {
    if wanted.contains(&own) {
        return true;
    }
    let Some(pattern) = own.strip_prefix('~') else {
        // The other's expression may match more than what begins so; it does where it says so.
        let begins = |path: &&str| path.trim_start_matches('~').starts_with(own);
        return wanted.iter().any(begins);
    };
    let mut plain = wanted
        .iter()
        .filter(|path| !path.starts_with('~'))
        .peekable();
    if plain.peek().is_none() {
        return false;
    }
    // Once for all of them: whoever has many paths must not make everybody else wait.
    let is_match = compile(pattern);
    plain.any(|path| is_match(path))
}

/// What tells whether a path matches `pattern`. An expression that is none matches nothing.
fn expression(pattern: &str) -> impl Fn(&str) -> bool + use<> {
    let compiled = patterns::of_path(pattern).ok().map(|(_, regex)| regex);
    move |path: &str| compiled.as_ref().is_some_and(|regex| regex.is_match(path))
}

/// Whether a field says the same in two routes. One that is not there is null.
fn is_same(one: &Fields, other: &Fields, field: &str) -> bool {
    let value = |fields: &Fields| fields.get(field).cloned().unwrap_or_default();
    value(one) == value(other)
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
    use std::cell::Cell;

    use serde_json::json;
    use shared::snapshot::Revision;

    use super::*;
    use crate::config::Stored;
    use crate::config::tests::with_id as record;

    fn put(record: (Key, Stored)) -> Change {
        Change {
            puts: vec![record],
            removes: Vec::new(),
        }
    }

    #[test]
    fn only_what_another_workspace_answers_collides() {
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
            let change = put(record("routes", 2, fields.clone()));
            assert_eq!(collides(&ours, &ours, &change), expected, "{fields}");
            assert!(!collides(&theirs, &theirs, &change), "it is their own");
        }
    }

    #[test]
    fn an_expression_is_compiled_once_and_only_if_all_else_fits() {
        let hosts: Vec<String> = (0..5).map(|at| format!("{at}.test")).collect();
        let patterns: Vec<String> = (0..50).map(|at| format!("~/{at}x+$")).collect();
        let theirs = json!({ "ws_id": Uuid::from_u128(9), "hosts": hosts, "paths": patterns, "methods": ["GET"] });
        let config = Config::default().founded();
        let config = config.evolve(&put(record("routes", 1, theirs)), Revision(1));
        let paths: Vec<String> = (0..100).map(|at| format!("/y{at}")).collect();
        for (paths, methods, expected) in [
            (json!(paths), json!(null), 50),
            (json!(paths), json!(["PUT"]), 0),
            (json!(["~/y"]), json!(null), 0),
        ] {
            let new = json!({ "hosts": hosts, "paths": paths, "methods": methods });
            let new = new.as_object().unwrap();
            let compiled = Cell::new(0);
            let compile = |pattern: &str| {
                compiled.set(compiled.get() + 1);
                expression(pattern)
            };
            assert!(!collides_with_another(&config, new, &compile));
            assert_eq!(compiled.get(), expected, "{new:?}");
        }
    }

    #[test]
    fn what_collides_already_can_be_changed_in_all_else() {
        use super::super::batch::{Batch, Item, replace};
        use super::super::{Action, Body, Command, Context, Rejection, Selector, decide};
        let context = Context::draw(shared::clock::UnixTime::from_secs(1));
        let ours = |config: &Config| config.within(Uuid::from_u128(7));
        let id = Uuid::from_u128(2);
        let new = json!({ "id": id, "hosts": ["a.test"], "paths": ["/x/y"], "tags": ["old"] });
        let body = |fields: &Value| Body::Json(fields.as_object().unwrap().clone());
        let run = |config: &Config, action: Action| {
            let command = Command {
                entity: Route::KIND,
                action,
                parents: Vec::new(),
            };
            decide(&ours(config), &command, &context).map(|decision| decision.change)
        };
        let config = Config::default().founded();
        let made = run(&config, Action::Create(body(&new))).unwrap();
        let config = config.evolve(&made, Revision(1));
        // Of the time before such routes were refused.
        let theirs =
            json!({ "ws_id": Uuid::from_u128(9), "hosts": ["a.test"], "paths": ["/x", "/z"] });
        let config = config.evolve(&put(record("routes", 1, theirs)), Revision(2));
        for (field, value, allowed) in [
            ("tags", json!(["new"]), true),
            ("preserve_host", json!(true), true),
            ("hosts", json!(["a.test"]), true),
            ("hosts", json!(["b.test", "a.test"]), false),
            ("paths", json!(["/z"]), false),
            ("paths", json!(["/free"]), true),
            ("methods", json!(["GET"]), false),
        ] {
            let mut whole = new.clone();
            whole[field] = value.clone();
            let patch = run(
                &config,
                Action::Patch(Selector::Id(id), body(&json!({ field: value }))),
            );
            let upsert = run(&config, Action::Upsert(Selector::Id(id), body(&whole)));
            let item = Item {
                kind: Route::KIND,
                fields: whole.as_object().unwrap().clone(),
                parent: None,
            };
            let batch = Batch {
                items: vec![item],
                tags: Vec::new(),
            };
            let replaced = replace(&ours(&config), &batch, &context);
            let replaced = replaced.map_err(|mut faults| faults.remove(0).rejection);
            for decided in [patch, upsert, replaced] {
                let refused = decided.err();
                let expected = (!allowed).then_some(Rejection::Collides);
                assert_eq!(refused, expected, "{field} {value}");
            }
        }
        let another = run(
            &config,
            Action::Create(body(&json!({ "hosts": ["a.test"], "paths": ["/x"] }))),
        );
        assert_eq!(another, Err(Rejection::Collides));
    }
}
