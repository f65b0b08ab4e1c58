//! Which routes of other workspaces a route collides with, and what that costs.

use serde_json::json;
use shared::snapshot::Revision;

use super::*;
use crate::config::tests::with_id as record;

fn put(record: (Key, Stored)) -> Change {
    Change {
        puts: vec![record],
        removes: Vec::new(),
    }
}

const OURS: u128 = 7;
const THEIRS: u128 = 9;

/// A configuration with `routes` in workspaces of these numbers, each by its number.
fn with(routes: &[(u128, u128, Value)]) -> Config {
    let mut puts = vec![
        record("workspaces", THEIRS, json!({ "name": "theirs" })),
        record("workspaces", OURS, json!({ "name": "ours" })),
    ];
    puts.extend(routes.iter().map(|(workspace, id, fields)| {
        let mut fields = fields.clone();
        fields["ws_id"] = json!(Uuid::from_u128(*workspace));
        record("routes", *id, fields)
    }));
    let change = Change {
        puts,
        removes: Vec::new(),
    };
    Config::default().founded().evolve(&change, Revision(1))
}

/// Whether a new route would be refused in the workspace of this number.
fn is_refused(config: &Config, workspace: u128, fields: &Value) -> bool {
    let config = config.within(Uuid::from_u128(workspace));
    let change = put(record("routes", 99, fields.clone()));
    !colliding(&config, &config, &change).is_empty()
}

#[test]
fn only_what_another_workspace_answers_collides() {
    let theirs = json!({ "hosts": ["A.test", "*.b.test"], "paths": ["/x", "/a-b_c/d", "~/r[0-9]$"],
        "methods": ["GET"] });
    let config = with(&[(THEIRS, 1, theirs)]);
    for (path, expected) in [
        ("/x", true),
        ("/x/y", true),
        ("/r1", true),
        ("~/r[0-9]$", true),
        ("~/x.*", true),
        ("/y", false),
        ("/", false),
        ("/r1/x", false),
        ("~/r[0-9]", false),
        // An expression comes before a prefix.
        ("~/x?", true),
        ("~/(x|y)", true),
        ("~/[xy]", true),
        ("~/[a-c]-b_*c/d$", true),
        ("~/a-b_c?/d{1}", true),
        ("~/y?z", false),
        ("~", true),
        ("~/(", false),
    ] {
        let fields = json!({ "hosts": ["a.test"], "paths": ["/free", path] });
        assert_eq!(is_refused(&config, OURS, &fields), expected, "{path}");
        assert!(!is_refused(&config, THEIRS, &fields), "it is their own");
    }
    for (fields, expected) in [
        (json!({ "hosts": ["a.test"] }), false),
        (json!({ "hosts": ["other.test"], "paths": ["/x"] }), false),
        (json!({ "hosts": ["c.b.test"], "paths": ["/x"] }), false),
        (json!({ "paths": ["/x"] }), false),
        (
            json!({ "hosts": ["b.test", "A.test"], "paths": ["/x/y"], "methods": ["GET", "PUT"] }),
            true,
        ),
        (
            json!({ "hosts": ["a.test"], "paths": ["/x"], "methods": ["PUT"] }),
            false,
        ),
    ] {
        assert_eq!(is_refused(&config, OURS, &fields), expected, "{fields}");
    }
    let config = with(&[(THEIRS, 1, json!({ "hosts": ["a.test"] }))]);
    for path in ["/", "/x", "~/x+"] {
        let fields = json!({ "hosts": ["a.test"], "paths": [path] });
        assert!(is_refused(&config, OURS, &fields), "{path}");
    }
}

#[test]
fn headers_and_server_names_meet_however_they_are_written() {
    let route = |path: &str, field: &str, value: Value| json!({ "hosts": ["a.test"], "paths": [path], field: value });
    let config = with(&[
        (
            THEIRS,
            1,
            route("/t", "headers", json!({ "X-Tenant": ["a", "B"] })),
        ),
        (
            THEIRS,
            2,
            route("/e", "headers", json!({ "x-e": ["~*^a+$"] })),
        ),
        (THEIRS, 3, route("/s", "snis", json!(["a.test"]))),
    ]);
    for (path, field, value, expected) in [
        ("/t", "headers", json!({ "x-tenant": ["A"] }), true),
        ("/t/x", "headers", json!({ "x-tenant": ["c", "b"] }), true),
        (
            "/t",
            "headers",
            json!({ "a": ["b"], "X-TENANT": ["a"] }),
            true,
        ),
        ("/t", "headers", json!({ "x-tenant": ["c"] }), false),
        ("/t", "headers", json!({ "x-other": ["a"] }), false),
        ("/t", "headers", json!(null), false),
        ("/e", "headers", json!({ "X-E": ["~*^a+$"] }), true),
        ("/e", "headers", json!({ "X-E": ["~*^b+$"] }), false),
        ("/s", "snis", json!(["b.test", "A.test."]), true),
        ("/s", "snis", json!(["b.test"]), false),
        ("/s", "snis", json!(null), false),
    ] {
        let fields = route(path, field, value);
        assert_eq!(is_refused(&config, OURS, &fields), expected, "{fields}");
    }
}

#[test]
fn a_file_of_routes_costs_so_much_and_no_more() {
    let route = |path: String| json!({ "hosts": ["a.test", "b.test"], "paths": [path] });
    let theirs = (0..30).map(|at| (THEIRS, 1000 + at, route(format!("~/[a-z]?{at}/x+$"))));
    let plain = (0..30).map(|at| (THEIRS, 2000 + at, route(format!("/v{at}/theirs"))));
    let config = with(&theirs.chain(plain).collect::<Vec<_>>());
    let config = config.within(Uuid::from_u128(OURS));
    let mut new: Vec<_> = (2..32)
        .map(|id| record("routes", id, route(format!("/v{id}/ours"))))
        .collect();
    new.extend((32..62).map(|id| record("routes", id, route(format!("~/v[0-9]+/{id}")))));
    new.push(record(
        "routes",
        62,
        json!({ "hosts": ["c.test"], "paths": ["/v1/theirs"] }),
    ));
    let change = Change {
        puts: new,
        removes: Vec::new(),
    };
    // Each expression of both sides is made ready once for each host, and each pair looked at.
    let enough = 2 * (60 * COMPILED + 2 * 30 * 30 + 2000);
    let found = |looks| colliding_within(&config, &config, &change, looks).len();
    assert_eq!(found(enough), 0);
    for few in [1, 100, enough / 3] {
        assert_eq!(found(few), 60, "what nobody has looked at is refused");
    }
}

#[test]
fn what_is_stored_can_be_narrowed_beside_a_broader_route_that_came_later() {
    let old =
        json!({ "hosts": ["a.test"], "paths": ["/shop/basket", "/shop"], "methods": ["GET"] });
    let config = with(&[
        (OURS, 2, old.clone()),
        (
            THEIRS,
            3,
            json!({ "hosts": ["a.test"], "paths": ["/shop", "/shop/basket/theirs", "~/shop/basket/[0-9]"] }),
        ),
    ]);
    let config = config.within(Uuid::from_u128(OURS));
    for (field, value, expected) in [
        ("paths", json!(["/shop/basket/items"]), false),
        (
            "paths",
            json!(["/shop/basket/items", "/shop/basket"]),
            false,
        ),
        ("paths", json!(["/shop/basket", "/shop", "/free"]), false),
        // It had those that others have, too, but not alone.
        ("paths", json!(["/shop/other"]), true),
        ("paths", json!(["/shop/basket/theirs/x"]), true),
        ("paths", json!(["/shop/basket/1"]), true),
        ("paths", json!(["~/shop/basket/items"]), true),
        // More attributes come before a longer path.
        ("headers", json!({ "x": ["y"] }), true),
        ("methods", json!(["GET", "PUT"]), true),
    ] {
        let mut new = old.clone();
        new[field] = value.clone();
        let change = put(record("routes", 2, new));
        let refused = !colliding(&config, &config, &change).is_empty();
        assert_eq!(refused, expected, "{field} {value}");
    }
}

#[test]
fn what_comes_back_together_does_not_collide_with_each_other() {
    use super::super::{Context, recheck::recheck};
    let context = Context::draw(shared::clock::UnixTime::from_secs(1));
    let route = |path: &str| json!({ "hosts": ["a.test"], "paths": [path] });
    let broad = (THEIRS, 2, route("/shop"));
    let both = with(&[(OURS, 1, route("/shop/basket")), broad.clone()]);
    let empty = with(&[]);
    // `since` gives what leads from its argument to it.
    let back = both.since(&empty);
    assert_eq!(recheck(&empty, &back, &context), Ok(Vec::new()));
    // What somebody has by now stays theirs.
    let theirs = with(&[broad]);
    assert!(recheck(&theirs, &both.since(&theirs), &context).is_err());
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
    let theirs = json!({ "ws_id": Uuid::from_u128(9), "hosts": ["a.test"], "paths": ["/x", "/z"] });
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
            fields: json!({ "name": name, "hosts": ["a.test"], "paths": paths, "tags": ["new"] })
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
