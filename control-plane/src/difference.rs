//! What differs between two states, record by record and field by field. Secrets are shown as such, not what
//! they are.

use std::collections::BTreeMap;

use plugins::registry;
use serde_json::{Map, Value, json};
use shared::entity::{Definition, definition};
use shared::schema::{Field, Kind, Record};
use shared::snapshot::Key;
use uuid::Uuid;

use crate::command::batch::is_replaced;
use crate::config::{Change, Config, Fields, Stored};
use crate::history::{Edit, Entry, History, HistoryFault};
use shared::entity::{DEFAULT_WORKSPACE, Entity, Workspace};
use shared::snapshot::Revision;

/// What stands in the place of a secret.
const SECRET: &str = "[redacted]";

/// Fields that a reference can stand for and that are no secrets.
const OPEN: [&str; 2] = ["client_id", "scopes"];

/// Fields of plugins that hold what they send along, by name.
const SENT: [&str; 3] = ["headers", "querystring", "body"];

/// A record before and after.
type Sides = (Option<Stored>, Option<Stored>);

/// Edits put together: each record as it was before the first and after the last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Difference(BTreeMap<Key, Sides>);

impl Difference {
    /// What `change` does to `config`.
    pub(crate) fn of_change(config: &Config, change: &Change) -> Self {
        let old = |key: &Key| config.stored(*key).cloned();
        let puts = change
            .puts
            .iter()
            .map(|(key, record)| (*key, (old(key), Some(record.clone()))));
        let removes = change.removes.iter().map(|key| (*key, (old(key), None)));
        Self(puts.chain(removes).collect())
    }

    /// What one commit did.
    pub(crate) fn of_entry(entry: &Entry) -> Self {
        let mut difference = Self::default();
        difference.add(entry);
        difference
    }

    /// What leads from the state at `from` to that at `to`, whichever is older. `None` if one of the commits in
    /// between is not kept.
    pub(crate) fn between(
        history: &dyn History,
        from: Revision,
        to: Revision,
    ) -> Result<Option<Self>, HistoryFault> {
        let (old, new) = (from.min(to), from.max(to));
        let mut difference = Self::default();
        for revision in old.0 + 1..=new.0 {
            let Some(entry) = history.entry(Revision(revision))? else {
                return Ok(None);
            };
            difference.add(&entry);
        }
        if from > to {
            for sides in difference.0.values_mut() {
                std::mem::swap(&mut sides.0, &mut sides.1);
            }
        }
        Ok(Some(difference))
    }

    /// What leads from `config` back to what the configuration was at `to`. `None` if one of the commits in
    /// between is not kept.
    pub(crate) fn back(
        history: &dyn History,
        config: &Config,
        to: Revision,
    ) -> Result<Option<Self>, HistoryFault> {
        let whole = Self::between(history, config.revision(), to)?;
        Ok(whole.map(Self::of_configuration))
    }

    fn add(&mut self, entry: &Entry) {
        for Edit { key, before, after } in &entry.edits {
            let sides = self.0.entry(*key).or_insert_with(|| (before.clone(), None));
            sides.1.clone_from(after);
        }
    }

    /// Only what concerns `workspace`, if it is given.
    #[must_use]
    pub(crate) fn within(mut self, workspace: Option<Uuid>) -> Self {
        if let Some(workspace) = workspace {
            self.0.retain(|key, (before, after)| {
                let side = after.as_ref().or(before.as_ref());
                definition(key.kind).is_some_and(|entity| entity.workspaced)
                    && side.is_some_and(|side| side.workspace() == workspace)
            });
        }
        self
    }

    /// Only what is configuration: neither the keys of sessions nor who may use the Admin API.
    #[must_use]
    pub(crate) fn of_configuration(mut self) -> Self {
        self.0.retain(|key, _| {
            definition(key.kind).is_some_and(|entity| {
                entity.kind == Workspace::KIND || is_replaced(entity, DEFAULT_WORKSPACE)
            })
        });
        self
    }

    /// The change that makes `config` what this leads to.
    pub(crate) fn change(&self, config: &Config) -> Change {
        let mut change = Change::default();
        for (key, (_, after)) in &self.0 {
            match after {
                Some(record) if config.stored(*key) != Some(record) => {
                    change.puts.push((*key, record.clone()));
                }
                None if config.is_used(*key) => change.removes.push(*key),
                _ => {}
            }
        }
        change
    }

    /// How many records are new, changed and gone.
    pub(crate) fn counts(&self) -> Value {
        let count = |wanted: &str| {
            let same = |(_, sides): &(&Key, &Sides)| action(sides) == Some(wanted);
            self.0.iter().filter(same).count()
        };
        json!({
            "created": count("created"),
            "updated": count("updated"),
            "deleted": count("deleted"),
        })
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.values().all(|sides| action(sides).is_none())
    }

    /// Each record that differs, with its fields. Records that the Admin API never shows are left out.
    pub(crate) fn show(&self) -> Vec<Value> {
        self.0
            .iter()
            .filter_map(|(key, sides)| {
                let entity = definition(key.kind)?;
                let action = action(sides)?;
                let shown = entity.public || entity.workspaced || entity.kind.starts_with("rbac_");
                shown.then(|| show(entity, *key, action, sides))
            })
            .collect()
    }
}

fn action((before, after): &Sides) -> Option<&'static str> {
    match (before, after) {
        (None, Some(_)) => Some("created"),
        (Some(_), None) => Some("deleted"),
        (Some(before), Some(after)) if before != after => Some("updated"),
        _ => None,
    }
}

fn show(entity: &Definition, key: Key, action: &str, (before, after): &Sides) -> Value {
    let fields = |side: &Option<Stored>| side.as_ref().map(Stored::fields).unwrap_or_default();
    let (old, new) = (fields(before), fields(after));
    let newest = if after.is_some() { &new } else { &old };
    let named = entity.name_field.filter(|name| {
        let field = entity.schema.field(name);
        !is_secret(name, field)
    });
    let name = named.and_then(|field| newest.get(field));
    let plugin = newest
        .get("name")
        .and_then(Value::as_str)
        .filter(|_| entity.kind == "plugins")
        .and_then(registry::definition);
    let mut differing = Map::new();
    compare(&entity.schema, plugin, "", &old, &new, &mut differing);
    json!({
        "action": action,
        "entity": key.kind,
        "id": key.id,
        "name": name,
        "fields": differing,
    })
}

/// Adds the fields that differ, records inside by dotted names.
fn compare(
    schema: &Record,
    plugin: Option<&registry::Definition>,
    path: &str,
    old: &Fields,
    new: &Fields,
    differing: &mut Map<String, Value>,
) {
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let nothing = Value::Null;
        let before = old.get(name).unwrap_or(&nothing);
        let after = new.get(name).unwrap_or(&nothing);
        if before == after {
            continue;
        }
        let whole = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let field = schema.field(name);
        let inside = match (field.map(|field| &field.kind), plugin) {
            (Some(Kind::Record(record)), _) => Some(record),
            (Some(Kind::Config), Some(plugin)) => Some(&plugin.fields),
            _ => None,
        };
        let record = |value: &Value| value.as_object().cloned().unwrap_or_default();
        if let Some(inside) = inside {
            compare(
                inside,
                plugin,
                &whole,
                &record(before),
                &record(after),
                differing,
            );
            continue;
        }
        let secret = is_secret(name, field);
        let sent = plugin.is_some() && SENT.contains(&name.as_str());
        let side = |value: &Value| match value {
            Value::Null => Value::Null,
            _ if secret => SECRET.into(),
            value if sent => only_names(value),
            value => hidden(field.map(|field| &field.kind), value),
        };
        differing.insert(
            whole,
            json!({ "before": side(before), "after": side(after) }),
        );
    }
}

/// Whether what the field `name` holds may be a secret: what is sealed, what a reference to a secret can stand for, what is
/// sent as the value of something, and what no schema speaks of.
fn is_secret(name: &str, field: Option<&Field>) -> bool {
    let kept = |field: &Field| {
        field.encrypted || field.referenceable || matches!(field.kind, Kind::Config)
    };
    !OPEN.contains(&name) && (field.is_none_or(kept) || name.ends_with("_values"))
}

/// What plugins send along: `name:value`, or values by name.
fn only_names(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .keys()
            .map(|name| (name.clone(), Value::from(SECRET)))
            .collect(),
        Value::Array(list) => list.iter().map(only_names).collect(),
        Value::String(text) => match text.split_once(':') {
            Some((name, _)) => format!("{name}:{SECRET}").into(),
            None => value.clone(),
        },
        other => other.clone(),
    }
}

/// A value with the secrets of records inside of lists hidden.
fn hidden(kind: Option<&Kind>, value: &Value) -> Value {
    match (kind, value) {
        (Some(Kind::Array(kind, _) | Kind::Set(kind, _)), Value::Array(list)) => {
            list.iter().map(|value| hidden(Some(kind), value)).collect()
        }
        (Some(Kind::Map(kind, _)), Value::Object(map)) => map
            .iter()
            .map(|(name, value)| (name.clone(), hidden(Some(kind), value)))
            .collect(),
        (Some(Kind::Record(record)), Value::Object(map)) => map
            .iter()
            .map(|(name, value)| {
                let shown = match record.field(name) {
                    Some(field) if !is_secret(name, Some(field)) => {
                        hidden(Some(&field.kind), value)
                    }
                    _ if value.is_null() => Value::Null,
                    _ => SECRET.into(),
                };
                (name.clone(), shown)
            })
            .collect(),
        (_, value) => value.clone(),
    }
}
