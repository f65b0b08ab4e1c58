//! A whole configuration in the place of what a workspace holds: one change, decided record by record.
//!
//! What the file stands for is taken away first, then every item is created by the same decision that a single
//! write goes through; what comes out as it was before is no change. So the order of items, a name that moves
//! from one record to another and a record that is gone need no rules of their own.

use std::collections::HashSet;

use plugins::registry;
use serde_json::Value;
use shared::entity::{
    DEFAULT_WORKSPACE, Definition, Entity as _, Workspace, definition, definitions,
};
use shared::schema::{FieldErrors, Kind};
use shared::snapshot::Key;
use uuid::Uuid;

use super::record::resolve_foreign_keys;
use super::{Action, Body, Command, Context, Rejection, collision, decide_alone};
use crate::config::{Change, Config, Fields, Stored};

/// What a workspace is to hold.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Every record, in any order.
    pub items: Vec<Item>,
    /// Only records with all of these tags are replaced, and each item gets them.
    pub tags: Vec<String>,
}

/// One record of a batch.
#[derive(Clone, Debug)]
pub struct Item {
    /// The collection.
    pub kind: &'static str,
    /// The fields as they came, without those of records inside.
    pub fields: Fields,
    /// The item that it was written inside of, and by which field it points there.
    pub parent: Option<(&'static str, usize)>,
}

/// Why an item cannot be.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemFault {
    /// Which one; none if it is about a record that would go.
    pub item: Option<usize>,
    /// Why not.
    pub rejection: Rejection,
}

/// Whether records of this entity are configuration that a file may replace in `workspace`. What all
/// workspaces share is the default one's; the workspaces themselves are no file's.
pub fn is_replaced(entity: &Definition, workspace: Uuid) -> bool {
    let shared = entity.public && entity.distributed && entity.kind != Workspace::KIND;
    entity.workspaced || (shared && workspace == DEFAULT_WORKSPACE)
}

/// Holds `batch` against the workspace that `config` is narrowed to. Every item that cannot be is named.
pub fn replace(
    config: &Config,
    batch: &Batch,
    context: &Context,
) -> Result<Change, Vec<ItemFault>> {
    let scope = scope(config, &batch.tags);
    let mut work = Work {
        config,
        scope: &scope,
        tags: &batch.tags,
        context,
        next: config.clone(),
        kinds: batch.items.iter().map(|item| item.kind).collect(),
        ids: vec![None; batch.items.len()],
        touched: Vec::with_capacity(batch.items.len()),
        faults: Vec::new(),
    };
    let removes = scope.iter().copied().collect();
    let emptied = Change {
        puts: Vec::new(),
        removes,
    };
    work.next.apply(&emptied, config.revision());
    let mut order: Vec<usize> = (0..batch.items.len()).collect();
    let rank = |item: &Item| {
        definitions()
            .iter()
            .position(|entity| entity.kind == item.kind)
    };
    order.sort_by_cached_key(|at| batch.items.get(*at).map(rank));
    for at in order {
        if let Some(item) = batch.items.get(at) {
            work.add(at, item);
        }
    }
    work.finish()
}

/// The records that the batch stands for.
fn scope(config: &Config, tags: &[String]) -> HashSet<Key> {
    let mut scope = HashSet::new();
    for entity in definitions()
        .iter()
        .filter(|entity| is_replaced(entity, config.workspace()))
    {
        if tags.is_empty() {
            scope.extend(config.keys(entity.kind, Uuid::nil()));
            continue;
        }
        let tagged = entity.schema.field("tags").is_some();
        for key in config.keys(entity.kind, Uuid::nil()) {
            let Some(record) = config.record(key) else {
                continue;
            };
            let own = record.get("tags").and_then(Value::as_array);
            let has = |tag: &String| own.is_some_and(|own| own.iter().any(|own| own == tag));
            let belongs = || {
                entity.foreign_keys().any(|(field, kind)| {
                    let id = crate::config::foreign_id(&record, field);
                    id.is_some_and(|id| scope.contains(&Key { kind, id }))
                })
            };
            // What has no tags of its own goes with what it points to.
            if (tagged && tags.iter().all(has)) || (!tagged && belongs()) {
                scope.insert(key);
            }
        }
    }
    scope
}

/// A batch under way.
struct Work<'a> {
    config: &'a Config,
    scope: &'a HashSet<Key>,
    tags: &'a [String],
    context: &'a Context,
    /// The configuration with the items so far, and without the rest of the scope.
    next: Config,
    /// The collections of the items.
    kinds: Vec<&'static str>,
    /// Their ids so far; none of those that cannot be.
    ids: Vec<Option<Uuid>>,
    touched: Vec<Key>,
    faults: Vec<ItemFault>,
}

/// Stands for the id of an item that cannot be.
const NOWHERE: Uuid = Uuid::max();

impl Work<'_> {
    fn add(&mut self, at: usize, item: &Item) {
        match self.decide(at, item) {
            Ok(id) => {
                if let Some(slot) = self.ids.get_mut(at) {
                    *slot = Some(id);
                }
            }
            // What is wrong with the item that it is inside of is said there.
            Err(Rejection::NoParent { id: NOWHERE, .. }) => {}
            Err(rejection) => self.faults.push(ItemFault {
                item: Some(at),
                rejection,
            }),
        }
    }

    fn decide(&mut self, at: usize, item: &Item) -> Result<Uuid, Rejection> {
        let entity = definition(item.kind).ok_or(Rejection::InvalidId)?;
        let mut fields = item.fields.clone();
        if let Some((field, parent)) = item.parent {
            let id = self.ids.get(parent).copied().flatten().unwrap_or(NOWHERE);
            let mut key = Fields::new();
            key.insert("id".to_owned(), id.to_string().into());
            fields.insert(field.to_owned(), Value::Object(key));
        }
        let mut invalid = FieldErrors::default();
        let unresolved = resolve_foreign_keys(entity, &mut fields, &self.next, &mut invalid);
        if !invalid.is_empty() {
            return Err(Rejection::Invalid(invalid));
        }
        if !unresolved.is_empty() {
            return Err(Rejection::Unresolved(unresolved));
        }
        add_tags(entity, &mut fields, self.tags);
        let id = match fields.get("id") {
            Some(Value::String(text)) => text.parse().ok(),
            Some(Value::Null) | None => {
                let id = self.id_for(entity, &fields);
                fields.insert("id".to_owned(), id.to_string().into());
                Some(id)
            }
            Some(_) => None,
        };
        let key = Key {
            kind: entity.kind,
            id: id.unwrap_or(NOWHERE),
        };
        let old = self
            .config
            .stored(key)
            .filter(|_| self.scope.contains(&key));
        if let Some(old) = old
            && !self.next.is_used(key)
        {
            let stored = old.fields();
            if is_as_before(entity, &fields, &stored) {
                self.put(key, old.clone());
                return Ok(key.id);
            }
            if let Some(created_at) = stored.get("created_at")
                && fields.get("created_at").is_none_or(Value::is_null)
            {
                fields.insert("created_at".to_owned(), created_at.clone());
            }
            keep_automatic(&mut fields, &stored);
        }
        let command = Command {
            entity: entity.kind,
            action: Action::Create(Body::Json(fields)),
            parents: Vec::new(),
        };
        let context = self.context.child(at);
        let decision = decide_alone(&self.next, &command, &context)?;
        self.next.apply(
            &Change {
                puts: Vec::new(),
                removes: decision.change.removes,
            },
            self.config.revision(),
        );
        let made = decision.record.map_or(key.id, |(key, _)| key.id);
        for (key, record) in decision.change.puts {
            let old = self.config.stored(key);
            let kept = old.filter(|old| is_same(old, &record)).cloned();
            self.put(key, kept.unwrap_or(record));
        }
        Ok(made)
    }

    fn put(&mut self, key: Key, record: Stored) {
        let change = Change {
            puts: vec![(key, record)],
            removes: Vec::new(),
        };
        self.next.apply(&change, self.config.revision());
        self.touched.push(key);
    }

    /// The id of an item that brings none: that of the record with its unique values, or one that follows from
    /// what it says, so that the same file means the same records.
    fn id_for(&self, entity: &'static Definition, fields: &Fields) -> Uuid {
        let held = self.config.holder(entity, fields).filter(|id| {
            let key = Key {
                kind: entity.kind,
                id: *id,
            };
            self.scope.contains(&key) && !self.next.is_used(key)
        });
        if let Some(id) = held {
            return id;
        }
        let mut content = self.config.workspace().as_bytes().to_vec();
        content.extend_from_slice(entity.kind.as_bytes());
        content.extend(serde_json::to_vec(fields).expect("fields that were read can be written"));
        // Two items that say the same are two records.
        (0..=u32::MAX)
            .map(|turn: u32| {
                let turned = [content.as_slice(), &turn.to_be_bytes()].concat();
                Uuid::new_v5(&Uuid::NAMESPACE_OID, &turned)
            })
            .find(|id| {
                !self.next.is_used(Key {
                    kind: entity.kind,
                    id: *id,
                })
            })
            .unwrap_or(self.context.id)
    }

    fn finish(mut self) -> Result<Change, Vec<ItemFault>> {
        let mut gone: Vec<Key> = self
            .scope
            .iter()
            .filter(|key| !self.next.is_used(**key))
            .copied()
            .collect();
        gone.sort();
        // What is not replaced may still point to what goes.
        let mut removes = gone.clone();
        for key in gone {
            match super::cascade::removal(&self.next, key) {
                Ok(taken) => removes.extend(taken),
                Err(rejection) => self.faults.push(ItemFault {
                    item: None,
                    rejection,
                }),
            }
        }
        removes.sort();
        removes.dedup();
        let going: HashSet<&Key> = removes.iter().collect();
        self.touched.sort();
        self.touched.dedup();
        let puts = self.touched.iter().filter(|key| !going.contains(key));
        let puts = puts
            .filter_map(|key| Some((*key, self.next.stored(*key)?.clone())))
            .filter(|(key, record)| self.config.stored(*key) != Some(record))
            .collect();
        let change = Change { puts, removes };
        let colliding = collision::colliding(self.config, &self.next, &change);
        if !colliding.is_empty() {
            let items = self.kinds.iter().zip(&self.ids).enumerate();
            self.faults.extend(items.filter_map(|(at, (kind, id))| {
                let key = Key { kind, id: (*id)? };
                colliding.contains(&key).then_some(ItemFault {
                    item: Some(at),
                    rejection: Rejection::Collides,
                })
            }));
        }
        if self.faults.is_empty() {
            return Ok(change);
        }
        self.faults.sort_by_key(|fault| fault.item);
        Err(self.faults)
    }
}

/// Takes over what was once made for a configuration, where the file says nothing of it.
fn keep_automatic(fields: &mut Fields, stored: &Fields) {
    let name = stored.get("name").and_then(Value::as_str);
    let same = fields.get("name").and_then(Value::as_str) == name;
    let (Some(Value::Object(config)), Some(Value::Object(old))) =
        (fields.get_mut("config"), stored.get("config"))
    else {
        return;
    };
    let Some(plugin) = name.filter(|_| same).and_then(registry::definition) else {
        return;
    };
    for field in plugin.fields.fields.iter().filter(|field| field.auto) {
        if let Some(made) = old.get(&field.name)
            && !config.contains_key(&field.name)
        {
            config.insert(field.name.clone(), made.clone());
        }
    }
}

/// Adds the tags that select the batch's records.
fn add_tags(entity: &Definition, fields: &mut Fields, tags: &[String]) {
    if tags.is_empty() || entity.schema.field("tags").is_none() {
        return;
    }
    let own = fields.entry("tags").or_insert(Value::Null);
    if own.is_null() {
        *own = Value::Array(Vec::new());
    }
    if let Value::Array(own) = own {
        for tag in tags {
            if !own.iter().any(|own| own == tag) {
                own.push(tag.as_str().into());
            }
        }
    }
}

/// Whether an item says of every field what is stored, as an export does. Nothing is left to decide then, and
/// a stored hash is not taken for a new password.
fn is_as_before(entity: &Definition, fields: &Fields, stored: &Fields) -> bool {
    let said = |(name, old): (&String, &Value)| match fields.get(name) {
        Some(new) => new == old,
        None if matches!(name.as_str(), "created_at" | "updated_at") => true,
        None => {
            old.is_null()
                && entity
                    .schema
                    .field(name)
                    .is_some_and(|field| field.default.is_none() && !field.auto)
        }
    };
    let known =
        |name: &String| stored.contains_key(name) || entity.write_only.contains(&name.as_str());
    fields.keys().all(known) && stored.iter().all(said)
}

/// Whether two records differ in nothing but the time of their last change.
fn is_same(old: &Stored, new: &Stored) -> bool {
    if old == new {
        return true;
    }
    let (mut old, mut new) = (old.fields(), new.fields());
    old.shift_remove("updated_at");
    new.shift_remove("updated_at");
    old == new
}

/// Which field of `child` points to records of `parent`, if one does.
pub fn pointer(child: &'static Definition, parent: &str) -> Option<&'static str> {
    let field = child
        .schema
        .fields
        .iter()
        .find(|field| matches!(field.kind, Kind::Foreign(kind) if kind == parent))?;
    Some(field.name.as_str())
}
