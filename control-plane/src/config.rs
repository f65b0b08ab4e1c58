//! All records at one revision, indexed. A value: changing it makes a new one that shares what stayed.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde_json::{Map, Value};
use shared::entity::{Definition, definition};
use shared::snapshot::{Key, Revision};
use uuid::Uuid;

/// A record's fields.
pub type Fields = Map<String, Value>;

/// What one commit does to the records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// Records that are new or replaced.
    pub puts: Vec<(Key, Arc<Fields>)>,
    /// Records that go.
    pub removes: Vec<Key>,
}

/// The values of a set of unique fields: collection, which of its sets, and the values as JSON.
type Claim = (&'static str, usize, String);

/// All records at one revision. Cloning is cheap, and so is a change, whatever the number of records.
#[derive(Clone, Debug, Default)]
pub struct Config {
    revision: Revision,
    records: OrdMap<Key, Arc<Fields>>,
    /// Who holds which unique values.
    claims: OrdMap<Claim, Uuid>,
    /// Pairs of a record and one that points to it.
    references: OrdSet<(Key, Key)>,
}

/// The largest id, as the end of a range.
const LAST: Uuid = Uuid::max();

impl Config {
    /// The revision that this configuration is.
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// One record.
    pub fn record(&self, key: Key) -> Option<&Arc<Fields>> {
        self.records.get(&key)
    }

    /// Every record, ordered by collection and id.
    pub fn records(&self) -> impl Iterator<Item = (&Key, &Arc<Fields>)> {
        self.records.iter()
    }

    /// The records of a collection with an id from `first` on, ordered by id.
    pub fn collection(
        &self,
        kind: &'static str,
        first: Uuid,
    ) -> impl Iterator<Item = (&Key, &Arc<Fields>)> {
        self.records
            .range(Key { kind, id: first }..=Key { kind, id: LAST })
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
        let at = definition(kind)?
            .unique
            .iter()
            .position(|set| *set == [field])?;
        self.claims
            .get(&(kind, at, claimed(&[Value::from(value)])))
            .copied()
    }

    /// The first set of unique fields in which `fields` collides with another record than `id`.
    pub fn taken(
        &self,
        definition: &'static Definition,
        id: Uuid,
        fields: &Fields,
    ) -> Option<&'static [&'static str]> {
        claims(definition, fields)
            .find(|(_, claim)| self.claims.get(claim).is_some_and(|holder| *holder != id))
            .map(|(set, _)| set)
    }

    /// This configuration after `change`, as `revision`.
    #[must_use]
    pub fn evolve(&self, change: &Change, revision: Revision) -> Self {
        let mut next = self.clone();
        next.revision = revision;
        for key in &change.removes {
            next.remove(*key);
        }
        // All old claims go before the first new one, so that two records may swap names.
        for (key, _) in &change.puts {
            next.remove(*key);
        }
        for (key, fields) in &change.puts {
            next.put(*key, fields);
        }
        next
    }

    fn put(&mut self, key: Key, fields: &Arc<Fields>) {
        let Some(definition) = definition(key.kind) else {
            return;
        };
        for (_, claim) in claims(definition, fields) {
            self.claims.insert(claim, key.id);
        }
        for parent in parents(definition, fields) {
            self.references.insert((parent, key));
        }
        self.records.insert(key, Arc::clone(fields));
    }

    fn remove(&mut self, key: Key) {
        let (Some(fields), Some(definition)) = (self.records.remove(&key), definition(key.kind))
        else {
            return;
        };
        for (_, claim) in claims(definition, &fields) {
            self.claims.remove(&claim);
        }
        for parent in parents(definition, &fields) {
            self.references.remove(&(parent, key));
        }
    }
}

/// The unique values that a record claims. `null` claims nothing, except as a part of several.
fn claims(
    definition: &'static Definition,
    fields: &Fields,
) -> impl Iterator<Item = (&'static [&'static str], Claim)> {
    definition
        .unique
        .iter()
        .enumerate()
        .filter_map(|(at, set)| {
            let values: Vec<Value> = set
                .iter()
                .map(|field| fields.get(*field).cloned().unwrap_or_default())
                .collect();
            let claims = set.len() > 1 || values.iter().any(|value| !value.is_null());
            claims.then(|| (*set, (definition.kind, at, claimed(&values))))
        })
}

fn claimed(values: &[Value]) -> String {
    serde_json::to_string(values).expect("values that were parsed from JSON can be written as JSON")
}

/// The records that a record points to.
fn parents(definition: &'static Definition, fields: &Fields) -> impl Iterator<Item = Key> {
    definition.foreign_keys().filter_map(|(field, kind)| {
        Some(Key {
            kind,
            id: foreign_id(fields, field)?,
        })
    })
}

/// The id that a foreign key holds.
pub fn foreign_id(fields: &Fields, field: &str) -> Option<Uuid> {
    fields.get(field)?.get("id")?.as_str()?.parse().ok()
}
