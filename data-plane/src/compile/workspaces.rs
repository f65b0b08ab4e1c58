//! Which workspace a record is in. Routes see the consumers, credentials and plugins of their own only.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use memchr::memmem;
use plugins::exchange;
use serde::Deserialize;
use shared::entity::{DEFAULT_WORKSPACE, Entity, Workspace};
use shared::snapshot::{Key, Record, Snapshot};
use uuid::Uuid;

/// The workspaces of the records that are not in the default one. Two records of different kinds may have one id,
/// each in a workspace of its own.
#[derive(Debug, Default)]
pub(super) struct Workspaces {
    of: HashMap<Key, Uuid>,
    pub(super) names: Names,
}

/// What the workspaces are called that have records. They keep their names for as long as they are there.
#[derive(Clone, Debug, Default)]
pub(super) struct Names(Arc<HashMap<Uuid, exchange::Workspace>>);

impl Names {
    /// The workspace `id` with its name.
    pub(super) fn of(&self, id: Uuid) -> exchange::Workspace {
        let known = self.0.get(&id).cloned();
        known.unwrap_or_else(|| nameless(id))
    }
}

/// What the control plane adds to a record that is not in the default workspace.
#[derive(Deserialize)]
struct Stamp {
    ws_id: Option<Uuid>,
}

impl Workspaces {
    pub(super) fn in_snapshot(snapshot: &Snapshot) -> Self {
        let mark = memmem::Finder::new(br#""ws_id":"#);
        let stamped = snapshot.records().filter_map(|record| {
            // Most records are in the default workspace; looking costs less than reading.
            mark.find(&record.json)?;
            let stamp: Stamp = serde_json::from_slice(&record.json).ok()?;
            Some((record.key, stamp.ws_id?))
        });
        let of: HashMap<Key, Uuid> = stamped.collect();
        // Records are many, workspaces few.
        let ids: HashSet<Uuid> = of.values().copied().collect();
        let called = ids.into_iter().map(|id| (id, named(snapshot, id)));
        let names = Names(Arc::new(called.collect()));
        Self { of, names }
    }

    /// The workspace of `record`.
    pub(super) fn of_one(record: &Record) -> Uuid {
        let stamp = serde_json::from_slice::<Stamp>(&record.json);
        let workspace = stamp.ok().and_then(|stamp| stamp.ws_id);
        workspace.unwrap_or(DEFAULT_WORKSPACE)
    }

    /// The workspace of the record `id` of the kind `T`.
    pub(super) fn of_record<T: Entity>(&self, id: Uuid) -> Uuid {
        self.of(Key { kind: T::KIND, id })
    }

    /// The workspace of the record `key`.
    pub(super) fn of(&self, key: Key) -> Uuid {
        self.of.get(&key).copied().unwrap_or(DEFAULT_WORKSPACE)
    }

    /// Every workspace that has records here, and the default one.
    pub(super) fn all(&self) -> Vec<Uuid> {
        let mut all: Vec<Uuid> = self.of.values().copied().collect();
        all.push(DEFAULT_WORKSPACE);
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The workspace `id`, whose name nobody has told.
fn nameless(id: Uuid) -> exchange::Workspace {
    if id == DEFAULT_WORKSPACE {
        return exchange::Workspace::default();
    }
    let name = id.to_string().into();
    exchange::Workspace { id, name }
}

/// The workspace `id` with its name. A control plane that does not tell names yet leaves the id to call it by.
fn named(snapshot: &Snapshot, id: Uuid) -> exchange::Workspace {
    #[derive(Deserialize)]
    struct Told {
        name: Arc<str>,
    }
    let kind = Workspace::KIND;
    let record = snapshot.record(&Key { kind, id });
    let told = record.and_then(|record| serde_json::from_slice::<Told>(&record.json).ok());
    told.map_or_else(
        || nameless(id),
        |told| exchange::Workspace {
            id,
            name: told.name,
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shared::snapshot::Revision;

    use super::*;

    #[test]
    fn figures_and_upstreams_are_of_a_workspace_by_its_name() {
        let with = |known: &[Record]| {
            let mut records = vec![
                record("routes", 1, 0, json!({ "paths": ["/ours"] })),
                record("routes", 2, 7, json!({ "paths": ["/theirs"] })),
                record("upstreams", 3, 7, json!({ "name": "backend" })),
                record(
                    "plugins",
                    4,
                    7,
                    json!({ "name": "file-log", "config": { "path": "/dev/null" } }),
                ),
            ];
            records.extend_from_slice(known);
            let snapshot = Snapshot::new(1, Revision(1), records);
            let compiled = super::super::compile(&snapshot).unwrap();
            let mut labels: Vec<String> = compiled
                .routes
                .iter()
                .map(|route| route.account.labels.workspace.to_string())
                .collect();
            let logged = compiled.routes.iter().find_map(|route| {
                let records = route.account.matched.records.as_ref()?;
                Some(records.workspace.name.to_string())
            });
            labels.push(compiled.upstreams[0].workspace.name.to_string());
            labels.extend(logged);
            labels
        };
        let known = record("workspaces", 7, 0, json!({ "name": "team" }));
        assert_eq!(with(&[known]), ["default", "team", "team", "team"]);
        let id = Uuid::from_u128(7).to_string();
        assert_eq!(with(&[]), ["default", &id, &id, &id]);
    }

    fn record(kind: &'static str, id: u128, workspace: u128, mut fields: Value) -> Record {
        let id = Uuid::from_u128(id);
        fields["id"] = json!(id);
        fields["created_at"] = 1.into();
        fields["updated_at"] = 1.into();
        if workspace != 0 {
            fields["ws_id"] = json!(Uuid::from_u128(workspace));
        }
        let json = serde_json::to_vec(&fields).unwrap();
        let key = Key { kind, id };
        Record {
            key,
            json: json.into(),
        }
    }

    #[test]
    fn a_route_sees_what_is_in_its_workspace() {
        let acl = |group: &str| json!({ "name": "acl", "config": { "allow": [group] } });
        let records = vec![
            record("routes", 1, 0, json!({ "paths": ["/ours"] })),
            record("routes", 2, 7, json!({ "paths": ["/theirs"] })),
            record("plugins", 3, 7, acl("theirs")),
            record("consumers", 4, 7, json!({ "username": "yoda" })),
            record("consumers", 5, 0, json!({ "username": "luke" })),
            record(
                "acls",
                6,
                7,
                json!({ "group": "g", "consumer": { "id": Uuid::from_u128(4) } }),
            ),
            // A field of that name further inside says nothing.
            record(
                "consumers",
                8,
                0,
                json!({ "username": "leia", "x": { "ws_id": Uuid::from_u128(7) } }),
            ),
        ];
        let snapshot = Snapshot::new(1, Revision(1), records);
        let compiled = super::super::compile(&snapshot).unwrap();
        let route = |id: u128| {
            let id = Uuid::from_u128(id);
            compiled.routes.iter().find(|route| route.id == id).unwrap()
        };
        let names = |id: u128| {
            let consumers = &compiled.environment_of(route(id)).consumers;
            let mut names: Vec<&str> = consumers.by_username.keys().map(String::as_str).collect();
            names.sort_unstable();
            names
        };
        assert_eq!((names(1), names(2)), (vec!["leia", "luke"], vec!["yoda"]));
        assert_eq!(route(1).filters.all.len(), 0);
        assert_eq!(route(2).filters.all.len(), 1);
        assert_eq!(compiled.unrouted.all.len(), 0);
        let groups = |id: u128| compiled.environment_of(route(id)).consumers.groups.len();
        assert_eq!((groups(1), groups(2)), (0, 1));
    }

    #[test]
    fn a_record_of_another_kind_with_the_same_id_moves_nothing() {
        let with = |others: Vec<Record>| {
            let acl = json!({ "name": "acl", "config": { "allow": ["g"] } });
            let mut records = vec![
                record("routes", 1, 0, json!({ "paths": ["/guarded"] })),
                record("plugins", 2, 0, acl),
                record("services", 3, 0, json!({ "host": "backend" })),
                record("upstreams", 4, 0, json!({ "name": "backend" })),
            ];
            records.extend(others);
            super::super::compile(&Snapshot::new(1, Revision(1), records)).unwrap()
        };
        let stranger = |id: u128| {
            let name = format!("stranger-{id}");
            record("consumers", id, 7, json!({ "username": name }))
        };
        let compiled = with((1..=4).map(stranger).collect());
        let route = compiled.routes.get(0).unwrap();
        assert_eq!(route.filters.all.len(), 1);
        let consumers = &compiled.environment_of(route).consumers;
        assert!(consumers.by_username.is_empty());
        assert_eq!(compiled.unrouted.all.len(), 1);
    }
}
