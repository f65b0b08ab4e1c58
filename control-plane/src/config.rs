//! All records at one revision, indexed. A value: changing it makes a new one that shares what stayed.

mod hosts;
mod stored;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};
use serde_json::{Map, Value};
use shared::entity::{
    DEFAULT_WORKSPACE, Definition, Entity, Route, Workspace, built_in_roles, definition,
};
use shared::snapshot::{Key, Revision};
use uuid::Uuid;

pub use hosts::{exact_hosts, host_key};
pub use stored::Stored;

/// A record's fields.
pub type Fields = Map<String, Value>;

/// The field that says in which workspace a record is. Absent in the default one, never shown.
const WORKSPACE_FIELD: &str = "ws_id";

/// What one commit does to the records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// Records that are new or replaced.
    pub puts: Vec<(Key, Stored)>,
    /// Records that go.
    pub removes: Vec<Key>,
}

/// The hash of a collection, a workspace, one of the collection's sets of unique fields, and their values.
type Claim = [u8; 16];

/// All records at one revision. Cloning is cheap, and so is a change, whatever the number of records.
///
/// What looks records up sees those of one workspace and those that all share, or everything if it was not
/// narrowed by [`Config::within`]. Nor do they see what [`Config::without`] leaves out.
#[derive(Clone, Debug, Default)]
pub struct Config {
    revision: Revision,
    workspace: Option<Uuid>,
    veil: Option<Veil>,
    records: OrdMap<Key, Stored>,
    /// Bytes of the records, as JSON.
    bytes: u64,
    /// Who holds which unique values.
    claims: OrdMap<Claim, Uuid>,
    /// Pairs of a record and one that points to it; a workspace and what is in it are one, too.
    references: OrdSet<(Key, Key)>,
}

/// Tells which records a view leaves out.
#[derive(Clone)]
struct Veil(Arc<dyn Fn(Key) -> bool + Send + Sync>);

impl fmt::Debug for Veil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Veil").finish_non_exhaustive()
    }
}

/// The largest id, as the end of a range.
const LAST: Uuid = Uuid::max();

impl Config {
    /// The revision that this configuration is.
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// How many records there are, in all workspaces.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Bytes of all records as JSON, in all workspaces.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The same configuration as those see it who may know of one workspace only.
    #[must_use]
    pub fn within(&self, workspace: Uuid) -> Self {
        Self {
            workspace: Some(workspace),
            ..self.clone()
        }
    }

    /// The same configuration with all workspaces in view.
    #[must_use]
    pub fn everywhere(&self) -> Self {
        Self {
            workspace: None,
            ..self.clone()
        }
    }

    /// The same configuration as those see it who may not know of the records that are `hidden`. Only records are: how
    /// many there are, and who points to whom, is told as before.
    #[must_use]
    pub fn without(mut self, hidden: impl Fn(Key) -> bool + Send + Sync + 'static) -> Self {
        self.veil = Some(Veil(Arc::new(hidden)));
        self
    }

    /// The workspace that this view is narrowed to; the default one if to none.
    pub fn workspace(&self) -> Uuid {
        self.workspace.unwrap_or(DEFAULT_WORKSPACE)
    }

    /// This configuration with what exists also if nobody has ever changed it: the default workspace, and the
    /// roles that come with the program.
    #[must_use]
    pub fn founded(mut self) -> Self {
        for (key, record) in foundation() {
            if !self.records.contains_key(&key) {
                self.put(key, &record);
            }
        }
        self
    }

    /// This configuration without what [`Self::founded`] adds: a later version may add something else.
    #[must_use]
    pub fn unfounded(mut self) -> Self {
        for (key, record) in foundation() {
            if self.records.get(&key) == Some(&record) {
                self.remove(key);
            }
        }
        self
    }

    fn sees(&self, key: &Key, record: &Stored) -> bool {
        let within = self.workspace.is_none_or(|own| {
            own == record.workspace()
                || definition(key.kind).is_some_and(|entity| !entity.workspaced)
        });
        within && self.veil.as_ref().is_none_or(|Veil(hidden)| !hidden(*key))
    }

    /// One record, as it is kept.
    pub fn stored(&self, key: Key) -> Option<&Stored> {
        self.records
            .get(&key)
            .filter(|record| self.sees(&key, record))
    }

    /// One record.
    pub fn record(&self, key: Key) -> Option<Arc<Fields>> {
        self.stored(key).map(|record| Arc::new(record.fields()))
    }

    /// Whether there is such a record.
    pub fn contains(&self, key: Key) -> bool {
        self.stored(key).is_some()
    }

    /// Whether an id is in use, in whatever workspace.
    pub fn is_used(&self, key: Key) -> bool {
        self.records.contains_key(&key)
    }

    /// Every record, ordered by collection and id.
    pub fn records(&self) -> impl Iterator<Item = (&Key, &Stored)> {
        self.records_after(None)
    }

    /// The records after `last` in that order, or all.
    pub fn records_after(&self, last: Option<Key>) -> impl Iterator<Item = (&Key, &Stored)> {
        let first = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.records
            .range((first, Bound::Unbounded))
            .filter(|(key, record)| self.sees(key, record))
    }

    /// The records of a collection with an id from `first` on, ordered by id.
    pub fn collection(
        &self,
        kind: &'static str,
        first: Uuid,
    ) -> impl Iterator<Item = (Key, Arc<Fields>)> {
        self.keys(kind, first)
            .filter_map(|key| Some((key, self.record(key)?)))
    }

    /// The keys of a collection with an id from `first` on, ordered by id.
    pub fn keys(&self, kind: &'static str, first: Uuid) -> Box<dyn Iterator<Item = Key> + '_> {
        let narrowed = definition(kind).is_some_and(|entity| entity.workspaced);
        if let Some(workspace) = self.workspace.filter(|_| narrowed) {
            return Box::new(self.children(workspace_key(workspace), kind, first));
        }
        let range = Key { kind, id: first }..=Key { kind, id: LAST };
        Box::new(self.records.range(range).map(|(key, _)| *key))
    }

    /// The records of `kind` that point to `parent`, with an id from `first` on, ordered by id.
    pub fn children(
        &self,
        parent: Key,
        kind: &'static str,
        first: Uuid,
    ) -> impl Iterator<Item = Key> {
        self.references
            .range((parent, Key { kind, id: first })..=(parent, Key { kind, id: LAST }))
            .map(|(_, child)| *child)
    }

    /// All records that point to `parent`.
    pub fn referrers(&self, parent: Key) -> impl Iterator<Item = Key> {
        let first = Key {
            kind: "",
            id: Uuid::nil(),
        };
        self.references
            .range((parent, first)..)
            .take_while(move |(to, _)| *to == parent)
            .map(|(_, child)| *child)
    }

    /// The id of the record of `kind` whose unique `field` is `value`.
    pub fn find(&self, kind: &'static str, field: &str, value: &str) -> Option<Uuid> {
        let entity = definition(kind)?;
        let at = entity.unique.iter().position(|set| *set == [field])?;
        let claim = claim(entity, self.workspace(), at, &[Value::from(value)]);
        let id = self.claims.get(&claim).copied()?;
        self.contains(Key { kind, id }).then_some(id)
    }

    /// The first set of unique fields in which `fields` collides with another record than `id`.
    pub fn taken(
        &self,
        definition: &'static Definition,
        id: Uuid,
        fields: &Fields,
    ) -> Option<&'static [&'static str]> {
        claims(definition, self.workspace(), fields)
            .find(|(_, claim)| self.claims.get(claim).is_some_and(|holder| *holder != id))
            .map(|(set, _)| set)
    }

    /// The record that has unique values in common with `fields`.
    pub fn holder(&self, definition: &'static Definition, fields: &Fields) -> Option<Uuid> {
        claims(definition, self.workspace(), fields)
            .find_map(|(_, claim)| self.claims.get(&claim).copied())
    }

    /// This configuration after `change`, as `revision`.
    #[must_use]
    pub fn evolve(&self, change: &Change, revision: Revision) -> Self {
        let mut next = self.clone();
        next.apply(change, revision);
        next
    }

    /// Makes this the configuration after `change`, as `revision`.
    pub fn apply(&mut self, change: &Change, revision: Revision) {
        self.revision = revision;
        for key in &change.removes {
            self.remove(*key);
        }
        // All old claims go before the first new one, so that two records may swap names.
        for (key, record) in &change.puts {
            self.retire(*key, record);
        }
        for (key, record) in &change.puts {
            self.put(*key, record);
        }
    }

    /// What leads from `base` to this configuration. Costs as much as the difference.
    pub fn since(&self, base: &Self) -> Change {
        let mut change = Change::default();
        for item in base.records.diff(&self.records) {
            match item {
                DiffItem::Add(key, record)
                | DiffItem::Update {
                    new: (key, record), ..
                } => change.puts.push((*key, record.clone())),
                DiffItem::Remove(key, _) => change.removes.push(*key),
            }
        }
        change
    }

    /// Takes away what the record that `next` replaces claims and points to, and `next` does not. What stays is not
    /// touched: most changes are to other fields, and each entry of an index costs as much as the record's own.
    fn retire(&mut self, key: Key, next: &Stored) {
        let (Some(old), Some(definition)) = (self.records.get(&key), definition(key.kind)) else {
            return;
        };
        let (before, after) = (old.indexed(definition), next.indexed(definition));
        let (was, is) = (old.workspace(), next.workspace());
        if before == after && was == is {
            return;
        }
        let kept: Vec<Claim> = claims(definition, is, &after)
            .map(|(_, claim)| claim)
            .collect();
        for (_, claim) in claims(definition, was, &before) {
            if !kept.contains(&claim) {
                self.claims.remove(&claim);
            }
        }
        let kept: Vec<Key> = parents(definition, is, &after).collect();
        for parent in parents(definition, was, &before) {
            if !kept.contains(&parent) {
                self.references.remove(&(parent, key));
            }
        }
    }

    fn put(&mut self, key: Key, record: &Stored) {
        let Some(definition) = definition(key.kind) else {
            return;
        };
        let fields = record.indexed(definition);
        let old = self.records.insert(key, record.clone());
        let known = old.is_some();
        let before = old.map_or(0, |old| old.bytes());
        self.bytes = self
            .bytes
            .saturating_sub(before)
            .saturating_add(record.bytes());
        for (_, claim) in claims(definition, record.workspace(), &fields) {
            if !known || self.claims.get(&claim) != Some(&key.id) {
                self.claims.insert(claim, key.id);
            }
        }
        for parent in parents(definition, record.workspace(), &fields) {
            if !known || !self.references.contains(&(parent, key)) {
                self.references.insert((parent, key));
            }
        }
    }

    fn remove(&mut self, key: Key) {
        let (Some(record), Some(definition)) = (self.records.remove(&key), definition(key.kind))
        else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(record.bytes());
        let fields = record.indexed(definition);
        for (_, claim) in claims(definition, record.workspace(), &fields) {
            self.claims.remove(&claim);
        }
        for parent in parents(definition, record.workspace(), &fields) {
            self.references.remove(&(parent, key));
        }
    }
}

/// What exists also if nobody has ever changed it.
fn foundation() -> impl Iterator<Item = (Key, Stored)> {
    let workspace = (
        workspace_key(DEFAULT_WORKSPACE),
        Stored::of(&Workspace::first()),
    );
    let roles = built_in_roles()
        .into_iter()
        .map(|(kind, id, fields)| (Key { kind, id }, Stored::of(&fields)));
    std::iter::once(workspace).chain(roles)
}

/// The key of a workspace.
pub const fn workspace_key(id: Uuid) -> Key {
    Key {
        kind: Workspace::KIND,
        id,
    }
}

/// Says in `fields` that the record is in `workspace`.
pub fn put_into(fields: &mut Fields, workspace: Uuid) {
    if workspace != DEFAULT_WORKSPACE {
        fields.insert(WORKSPACE_FIELD.to_owned(), workspace.to_string().into());
    }
}

/// The workspace that a record is in.
fn workspace_of(fields: &Fields) -> Uuid {
    let id = fields.get(WORKSPACE_FIELD).and_then(Value::as_str);
    id.and_then(|id| id.parse().ok())
        .unwrap_or(DEFAULT_WORKSPACE)
}

/// The unique values that a record claims. `null` claims nothing, except as a part of several.
fn claims(
    definition: &'static Definition,
    workspace: Uuid,
    fields: &Fields,
) -> impl Iterator<Item = (&'static [&'static str], Claim)> {
    definition
        .unique
        .iter()
        .enumerate()
        .filter_map(move |(at, set)| {
            let values: Vec<Value> = set
                .iter()
                .map(|field| fields.get(*field).cloned().unwrap_or_default())
                .collect();
            let claims = set.len() > 1 || values.iter().any(|value| !value.is_null());
            claims.then(|| (*set, claim(definition, workspace, at, &values)))
        })
}

fn claim(definition: &Definition, workspace: Uuid, at: usize, values: &[Value]) -> Claim {
    let everywhere = definition.unique_everywhere || !definition.workspaced;
    let workspace = if everywhere {
        DEFAULT_WORKSPACE
    } else {
        workspace
    };
    let values = serde_json::to_vec(values).expect("values that were parsed can be written again");
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(definition.kind.as_bytes())
        .update(&[0])
        .update(workspace.as_bytes())
        .update(&u64::try_from(at).unwrap_or(u64::MAX).to_be_bytes())
        .update(&values);
    let mut claim = Claim::default();
    claim.copy_from_slice(hasher.finalize().as_bytes().split_at(16).0);
    claim
}

/// The records that a record points to, the workspace that it is in, and the hosts that a route is for.
fn parents(
    definition: &'static Definition,
    workspace: Uuid,
    fields: &Fields,
) -> impl Iterator<Item = Key> {
    let foreign = definition.foreign_keys().filter_map(|(field, kind)| {
        Some(Key {
            kind,
            id: foreign_id(fields, field)?,
        })
    });
    let within = definition.workspaced.then(|| workspace_key(workspace));
    let of_route = definition.kind == Route::KIND;
    let hosts = of_route.then(|| exact_hosts(fields)).into_iter().flatten();
    foreign
        .chain(within)
        .chain(hosts.map(|host| host_key(&host)))
}

/// The id that a foreign key holds.
pub fn foreign_id(fields: &Fields, field: &str) -> Option<Uuid> {
    fields.get(field)?.get("id")?.as_str()?.parse().ok()
}
