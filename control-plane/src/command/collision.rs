//! Routes of two workspaces for the same requests: who may write in one takes no traffic of the other (Kong Enterprise,
//! `route_validation_strategy=smart`).
//!
//! A route is refused whose host one of another workspace names, and whose path, method, headers and server names that one would
//! match. Hosts with wildcards, and routes without hosts, are everybody's. A route that is stored already is judged again only when
//! it is to be for other requests, also where a file puts another record in its place.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use shared::entity::{Entity as _, Route};
use shared::snapshot::Key;
use shared::types::patterns;
use uuid::Uuid;

use crate::config::{Change, Config, Fields, exact_hosts, host_key};

/// What says which requests a route is for.
const MATCHED: &[&str] = &["hosts", "paths", "methods", "headers", "snis"];

/// The routes that `change` puts into the workspace of `config` and that collide with one of another workspace. Not
/// those for the same requests as one in `before` whose place they take.
pub(super) fn colliding(before: &Config, config: &Config, change: &Change) -> BTreeSet<Key> {
    colliding_by(before, config, change, &expression)
}

/// The same. Paths of others that are expressions are compiled by `compile`, into what tells whether a path matches.
fn colliding_by<M: Fn(&str) -> bool>(
    before: &Config,
    config: &Config,
    change: &Change,
    compile: &impl Fn(&str) -> M,
) -> BTreeSet<Key> {
    let routes = change
        .puts
        .iter()
        .filter(|(key, _)| key.kind == Route::KIND);
    let new: BTreeMap<Key, Fields> = routes
        .map(|(key, record)| (*key, record.fields()))
        .filter(|(key, new)| !before.record(*key).is_some_and(|old| are_alike(&old, new)))
        .collect();
    let (here, everywhere) = (config.workspace(), config.everywhere());
    // Each route of others once, whatever is held against it: its expressions are dear.
    let mut held: BTreeMap<Key, Vec<(Key, &Fields)>> = BTreeMap::new();
    for (key, new) in &new {
        let of_host = |host: String| everywhere.children(host_key(&host), Route::KIND, Uuid::nil());
        let others: BTreeSet<Key> = exact_hosts(new).flat_map(of_host).collect();
        for other in others {
            held.entry(other).or_default().push((*key, new));
        }
    }
    let mut colliding = BTreeSet::new();
    for (other, mut new) in held {
        let Some(other) = everywhere.stored(other) else {
            continue;
        };
        if other.workspace() == here {
            continue;
        }
        new.retain(|(key, _)| !colliding.contains(key));
        answered(&other.fields(), &new, compile, &mut colliding);
    }
    colliding.retain(|key| {
        !new.get(key)
            .is_some_and(|new| replaces(before, config, new))
    });
    colliding
}

/// Whether a route for the same requests as `new` was in the workspace before and is to be there no more.
fn replaces(before: &Config, config: &Config, new: &Fields) -> bool {
    let (here, everywhere) = (before.workspace(), before.everywhere());
    let host = exact_hosts(new).next().map(|host| host_key(&host));
    let mut routes = host
        .into_iter()
        .flat_map(|host| everywhere.children(host, Route::KIND, Uuid::nil()));
    routes.any(|key| {
        let old = everywhere.stored(key);
        old.is_some_and(|old| old.workspace() == here && are_alike(&old.fields(), new))
            && !config.is_used(key)
    })
}

/// Adds to `colliding` those routes of `new`, which are for one of the hosts of `route`, whose requests that would
/// answer. What is dear to find out comes last.
fn answered<M: Fn(&str) -> bool>(
    route: &Fields,
    new: &[(Key, &Fields)],
    compile: &impl Fn(&str) -> M,
    colliding: &mut BTreeSet<Key>,
) {
    let fits = |new: &Fields| {
        let shares = |field: &str, as_compared: fn(&str) -> Cow<'_, str>| {
            share(texts(route, field), texts(new, field), as_compared)
        };
        let method = is_empty(new, "methods")
            || is_empty(route, "methods")
            || shares("methods", |method| method.into());
        let name = is_empty(route, "snis") || shares("snis", server_name);
        method && name && headers_fit(route, new)
    };
    let mut open: Vec<(Key, Vec<&str>)> = new
        .iter()
        .filter(|(_, new)| fits(new))
        .map(|(key, new)| {
            let paths: Vec<&str> = texts(new, "paths").collect();
            (*key, if paths.is_empty() { vec!["/"] } else { paths })
        })
        .collect();
    if is_empty(route, "paths") {
        colliding.extend(open.iter().map(|(key, _)| *key));
        return;
    }
    for own in texts(route, "paths") {
        let pattern = own.strip_prefix('~');
        let is_plain = |path: &&str| !path.starts_with('~');
        // Once for all of them: whoever has many paths must not make everybody else wait.
        let is_match = pattern
            .filter(|_| open.iter().any(|(_, wanted)| wanted.iter().any(is_plain)))
            .map(compile);
        open.retain(|(key, wanted)| {
            // The other's expression may match more than what begins so; it does where it says so.
            let begins = |path: &str| path.trim_start_matches('~').starts_with(own);
            let answers = |path: &str| {
                path == own
                    || match &is_match {
                        Some(is_match) => is_plain(&path) && is_match(path),
                        None => pattern.is_none() && begins(path),
                    }
            };
            let collides = wanted.iter().any(|path| answers(path));
            if collides {
                colliding.insert(*key);
            }
            !collides
        });
    }
}

/// What tells whether a path matches `pattern`. An expression that is none matches nothing.
fn expression(pattern: &str) -> impl Fn(&str) -> bool + use<> {
    let compiled = patterns::of_path(pattern).ok().map(|(_, regex)| regex);
    move |path: &str| compiled.as_ref().is_some_and(|regex| regex.is_match(path))
}

/// Whether two routes are for the same requests.
fn are_alike(one: &Fields, other: &Fields) -> bool {
    MATCHED.iter().all(|field| is_same(one, other, field))
}

/// Whether a field says the same in two routes. One that is not there is null.
fn is_same(one: &Fields, other: &Fields, field: &str) -> bool {
    let value = |fields: &Fields| fields.get(field).cloned().unwrap_or_default();
    value(one) == value(other)
}

/// Whether some request that has the headers which `new` is for has those that `route` is for: of each a value that both list.
fn headers_fit(route: &Fields, new: &Fields) -> bool {
    let [of_route, of_new] = [route, new].map(|of| of.get("headers").and_then(Value::as_object));
    of_route.into_iter().flatten().all(|(name, values)| {
        let mut all = of_new.into_iter().flatten();
        all.any(|(new, listed)| {
            let (values, listed) = (items(Some(values)), items(Some(listed)));
            new.eq_ignore_ascii_case(name) && share(values, listed, header_value)
        })
    })
}

/// Whether both list a value, in the form that values are compared in.
fn share<'a>(
    one: impl Iterator<Item = &'a str>,
    other: impl Iterator<Item = &'a str>,
    as_compared: fn(&str) -> Cow<'_, str>,
) -> bool {
    let other: BTreeSet<Cow<'_, str>> = other.map(as_compared).collect();
    one.map(as_compared).any(|value| other.contains(&value))
}

/// A header's value as the router compares it: without case, unless it is an expression.
fn header_value(value: &str) -> Cow<'_, str> {
    if value.starts_with("~*") {
        value.into()
    } else {
        value.to_ascii_lowercase().into()
    }
}

/// A server name as the router compares it: without case, and without the dot of the root (RFC 1034, section 3.1).
fn server_name(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.to_ascii_lowercase().into()
}

fn texts<'a>(fields: &'a Fields, field: &str) -> impl Iterator<Item = &'a str> {
    items(fields.get(field))
}

fn items(list: Option<&Value>) -> impl Iterator<Item = &str> {
    let list = list.and_then(Value::as_array);
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
            let collides = |config: &Config| !colliding(config, config, &change).is_empty();
            assert_eq!(collides(&ours), expected, "{fields}");
            assert!(!collides(&theirs), "it is their own");
        }
    }

    #[test]
    fn a_header_or_a_server_name_that_both_list_is_enough() {
        let host = json!({ "hosts": ["a.test"], "paths": ["/"] });
        let with = |more: &Value| {
            let mut fields = host.clone();
            let more = more.as_object().unwrap().clone();
            fields.as_object_mut().unwrap().extend(more);
            fields
        };
        let headers = |headers: Value| json!({ "headers": headers });
        let two = headers(json!({ "x-v": ["1", "2"] }));
        let more = headers(json!({ "x-v": ["1"], "x-w": ["a"] }));
        let gold = headers(json!({ "x-v": ["Gold"] }));
        let expression = headers(json!({ "x-v": ["~*^[12]$"] }));
        let snis = json!({ "snis": ["a.test", "b.test"] });
        for (theirs, ours, expected) in [
            (&two, headers(json!({ "X-V": ["2", "1"] })), true),
            (&two, headers(json!({ "x-v": ["0", "2"] })), true),
            (&two, headers(json!({ "x-v": ["3"] })), false),
            (&gold, headers(json!({ "x-v": ["gOLD"] })), true),
            (&gold, headers(json!({ "x-v": ["gold."] })), false),
            (&two, headers(json!({ "x-w": ["1"] })), false),
            (&two, json!({}), false),
            // Where both fit, the one that asks for more is asked.
            (&two, more.clone(), true),
            (&more, two.clone(), false),
            (&json!({}), two.clone(), true),
            (&expression, expression.clone(), true),
            (&expression, two.clone(), false),
            (
                &headers(json!({ "x-v": ["~*^\\S$"] })),
                headers(json!({ "x-v": ["~*^\\s$"] })),
                false,
            ),
            (&snis, json!({ "snis": ["b.test"] }), true),
            (&snis, json!({ "snis": ["B.Test."] }), true),
            (&snis, json!({ "snis": ["c.test"] }), false),
            (&snis, json!({}), false),
        ] {
            let mut stored = with(theirs);
            stored["ws_id"] = json!(Uuid::from_u128(9));
            let config = Config::default().founded();
            let config = config.evolve(&put(record("routes", 1, stored)), Revision(1));
            let config = config.within(Uuid::from_u128(7));
            let change = put(record("routes", 2, with(&ours)));
            let collides = !colliding(&config, &config, &change).is_empty();
            assert_eq!(collides, expected, "{ours} beside {theirs}");
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
            let fields = json!({ "hosts": hosts, "paths": paths, "methods": methods });
            let new = (2..30).map(|id| record("routes", id, fields.clone()));
            let change = Change {
                puts: new.collect(),
                removes: Vec::new(),
            };
            let compiled = Cell::new(0);
            let compile = |pattern: &str| {
                compiled.set(compiled.get() + 1);
                expression(pattern)
            };
            let found = colliding_by(&config, &config, &change, &compile);
            assert!(found.is_empty());
            assert_eq!(compiled.get(), expected, "{fields}");
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
        // A file need not name the record: what it puts in its place is for the same requests.
        for (paths, expected) in [
            (json!(["/x/y"]), None),
            (json!(["/x/z"]), Some(Rejection::Collides)),
            (json!(["/free"]), None),
        ] {
            let item = |name: &str, paths: &Value| Item {
                kind: Route::KIND,
                fields:
                    json!({ "name": name, "hosts": ["a.test"], "paths": paths, "tags": ["new"] })
                        .as_object()
                        .unwrap()
                        .clone(),
                parent: None,
            };
            let batch = Batch {
                items: vec![item("first", &json!(["/free"])), item("one", &paths)],
                tags: Vec::new(),
            };
            let replaced = replace(&ours(&config), &batch, &context);
            let faults = replaced.err().unwrap_or_default();
            let refused = faults
                .into_iter()
                .map(|fault| (fault.item, fault.rejection));
            let expected = expected.map(|rejection| (Some(1), rejection));
            assert_eq!(
                refused.collect::<Vec<_>>(),
                Vec::from_iter(expected),
                "{paths}"
            );
        }
        let another = run(
            &config,
            Action::Create(body(&json!({ "hosts": ["a.test"], "paths": ["/x"] }))),
        );
        assert_eq!(another, Err(Rejection::Collides));
    }
}
