//! What is asked of the configuration, and the pure decision what becomes of it.
//!
//! ```text
//!  Command ─► record.rs     the record that would be stored: merged, resolved, completed, checked
//!          ─► uniqueness    (config.rs knows the claims)
//!          ─► cascade.rs    what a deletion takes along, or what prevents it
//!          ─► Decision | Rejection
//! ```

pub mod batch;
mod cascade;
mod collision;
mod expiry;
mod link;
mod local;
pub mod recheck;
mod record;
mod several;
mod snis;
#[cfg(test)]
mod tests;

pub(crate) use expiry::{has_expired, seconds_left};
pub(crate) use local::{find_local, local_name};
pub(crate) use record::forbids;
pub(crate) use snis::names as certificate_names;

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use shared::clock::UnixTime;
use shared::entity::{Certificate, Definition, Entity, Route, Workspace};
use shared::schema::FieldErrors;
use shared::snapshot::Key;
use uuid::Uuid;

use crate::config::{Change, Config, Fields, Stored, put_into};

/// Which record a command means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Selector {
    /// By id.
    Id(Uuid),
    /// By the entity's name field, or by the one that it goes by below a parent.
    Name(String),
}

impl Selector {
    /// Reads a part of a URL: an id if it looks like one, else a name.
    pub fn parse(text: &str) -> Self {
        let id = Some(text)
            .filter(|text| text.len() == 36)
            .and_then(|text| text.parse().ok());
        id.map_or_else(|| Self::Name(text.to_owned()), Self::Id)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A body as it came.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// JSON: taken literally.
    Json(Fields),
    /// A form with expanded keys: its texts take the types of their fields.
    Form(Fields),
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// The collection.
    pub entity: &'static str,
    /// What to do.
    pub action: Action,
    /// Foreign keys that the URL dictates.
    pub parents: Vec<(&'static str, Uuid)>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// POST: a new record.
    Create(Body),
    /// PUT: this record and nothing of what was there before.
    Upsert(Selector, Body),
    /// PATCH: the stored record with some fields changed.
    Patch(Selector, Body),
    /// PUT on an empty foreign key: a new record, and the one that then points to it, by which field.
    Link(Key, &'static str, Body),
    /// DELETE: no such record, nor those that depend on it.
    Delete(Selector),
    /// All of these or none, each on what the ones before it leave.
    Several(Vec<Command>),
}

/// What a command comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What to commit. Empty: nothing changes.
    pub change: Change,
    /// The record that the caller is shown.
    pub record: Option<(Key, Arc<Fields>)>,
}

/// What a decision depends on besides the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The time.
    pub now: UnixTime,
    /// The id for a record that brings none.
    pub id: Uuid,
    /// Randomness for secrets that a record leaves to us.
    pub seed: [Uuid; 2],
}

impl Context {
    /// Draws what a decision at `now` may need.
    pub fn draw(now: UnixTime) -> Self {
        Self {
            now,
            id: Uuid::new_v4(),
            seed: [Uuid::new_v4(), Uuid::new_v4()],
        }
    }

    /// The context of one of several decisions that are made together.
    fn child(&self, at: usize) -> Self {
        let [one, other] = self.seed;
        let label = at.to_be_bytes();
        Self {
            now: self.now,
            id: Uuid::new_v5(&one, &label),
            seed: [Uuid::new_v5(&other, &label), one],
        }
    }

    /// A secret for `field`: 32 letters and digits, of more than 180 bits.
    fn secret(&self, field: &str) -> String {
        const SIGNS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut hasher = blake3::Hasher::new();
        for part in self.seed {
            hasher.update(part.as_bytes());
        }
        let mut stream = hasher.update(field.as_bytes()).finalize_xof();
        let mut text = String::with_capacity(32);
        while text.len() < 32 {
            let mut byte = [0];
            stream.fill(&mut byte);
            // What lies beyond the last whole round of signs would favour the first ones.
            if let Some(sign) = SIGNS.get(usize::from(byte[0] & 63)) {
                text.push(char::from(*sign));
            }
        }
        text
    }
}

/// Why a command is not carried out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// Fields are wrong.
    #[error("schema violation")]
    Invalid(FieldErrors),
    /// An id is needed and this is none.
    #[error("invalid primary key")]
    InvalidId,
    /// A name that a URL gives could not be one: the field, and why.
    #[error("invalid unique {0}")]
    InvalidUnique(&'static str, String),
    /// A list of another record names this one.
    #[error("referenced by others")]
    StillUsed {
        /// The record.
        key: Key,
        /// The one that names it.
        by: Key,
    },
    /// The record does not exist.
    #[error("not found")]
    NotFound(Selector, &'static str),
    /// Another record has these unique values.
    #[error("unique constraint violation")]
    Taken(Map<String, Value>),
    /// A new record brings an id that is in use.
    #[error("primary key violation")]
    IdTaken(Uuid),
    /// A foreign key points nowhere.
    #[error("foreign key violation")]
    NoParent {
        /// The foreign key's field.
        field: String,
        /// The collection that it points to.
        kind: &'static str,
        /// The id that is not there.
        id: Uuid,
    },
    /// Foreign keys are given by a field that leads to no record: the errors, by field.
    #[error("foreign keys unresolved")]
    Unresolved(FieldErrors),
    /// A route of another workspace answers what this one would.
    #[error("route collides")]
    Collides,
    /// A workspace still has records.
    #[error("workspace is not empty")]
    NotEmpty,
    /// Others depend on the record.
    #[error("referenced by others")]
    Referenced {
        /// The record's collection.
        kind: &'static str,
        /// The collection of those that depend on it.
        by: &'static str,
    },
}

/// Holds `command` against `config`.
pub fn decide(
    config: &Config,
    command: &Command,
    context: &Context,
) -> Result<Decision, Rejection> {
    let decision = decide_alone(config, command, context)?;
    // Of what consists of several commands each has been judged.
    let single = !matches!(command.action, Action::Several(_) | Action::Link(..));
    let of_route = single && command.entity == Route::KIND;
    if of_route && !collision::colliding(config, config, &decision.change).is_empty() {
        return Err(Rejection::Collides);
    }
    Ok(decision)
}

/// The same, without a look at the routes of other workspaces.
fn decide_alone(
    config: &Config,
    command: &Command,
    context: &Context,
) -> Result<Decision, Rejection> {
    let Some(entity) = shared::entity::definition(command.entity) else {
        return Err(Rejection::NotFound(
            Selector::Name(command.entity.to_owned()),
            "entities",
        ));
    };
    if entity.kind == Certificate::KIND {
        return snis::decide_with_names(config, entity, command, context);
    }
    if let Some(resolved) = local::resolve(config, entity, command) {
        return decide_record(config, entity, &resolved, context);
    }
    decide_record(config, entity, command, context)
}

fn decide_record(
    config: &Config,
    entity: &'static Definition,
    command: &Command,
    context: &Context,
) -> Result<Decision, Rejection> {
    match &command.action {
        Action::Several(commands) => several::decide_all(config, commands, context),
        Action::Create(body) => {
            let draft = record::Draft::new(entity, body, command);
            let fields = draft.complete(config, context)?;
            let key = key_of(entity, &fields)?;
            if config.contains(key) {
                return Err(Rejection::IdTaken(key.id));
            }
            store(config, entity, key, fields, context)
        }
        Action::Upsert(selector, body) => {
            let found = find(config, entity, selector)?;
            let mut draft = record::Draft::new(entity, body, command);
            match (selector, found) {
                (Selector::Id(id), _) => draft.set("id", id.to_string().into()),
                (Selector::Name(name), found) => {
                    if let Some(key) = found {
                        draft.set("id", key.id.to_string().into());
                    }
                    let field = entity.name_field.ok_or(Rejection::InvalidId)?;
                    draft.set(field, name.as_str().into());
                }
            }
            let fields = draft.complete(config, context)?;
            let key = key_of(entity, &fields)?;
            // What nobody had by this name is new, and so has its id to be: another record is not renamed by that.
            if found.is_none() && matches!(selector, Selector::Name(_)) && config.contains(key) {
                return Err(Rejection::IdTaken(key.id));
            }
            store(config, entity, key, fields, context)
        }
        Action::Patch(selector, body) => {
            let key = existing(config, entity, selector, &command.parents)?;
            let stored = config.record(key);
            let draft = record::Draft::patch(entity, body, command, stored.as_deref());
            let mut fields = draft.complete(config, context)?;
            fields.insert("id".to_owned(), key.id.to_string().into());
            store(config, entity, key, fields, context)
        }
        Action::Link(owner, field, body) => {
            link::link(config, entity, *owner, field, body, context)
        }
        Action::Delete(selector) => {
            let key = if command.parents.is_empty() {
                find(config, entity, selector)?
            } else {
                Some(existing(config, entity, selector, &command.parents)?)
            };
            // What is not there is gone.
            let removes = key.map(|key| cascade::removal(config, key)).transpose()?;
            Ok(Decision {
                change: Change {
                    puts: Vec::new(),
                    removes: removes.unwrap_or_default(),
                },
                record: None,
            })
        }
    }
}

/// Holds a new record against its schema alone: nothing is looked up, nothing can be taken.
pub fn check(entity: &'static Definition, body: &Body, context: &Context) -> Result<(), Rejection> {
    complete(entity, body, context).map(drop)
}

/// The record that a body alone would make.
pub fn complete(
    entity: &'static Definition,
    body: &Body,
    context: &Context,
) -> Result<Fields, Rejection> {
    let command = Command {
        entity: entity.kind,
        action: Action::Create(body.clone()),
        parents: Vec::new(),
    };
    let draft = record::Draft::new(entity, body, &command);
    draft.complete_alone(context)
}

/// The record that a selector means, if it exists.
pub fn find(
    config: &Config,
    entity: &'static Definition,
    selector: &Selector,
) -> Result<Option<Key>, Rejection> {
    let id = match selector {
        Selector::Id(id) => Some(*id),
        Selector::Name(name) if entity.kind == Certificate::KIND => {
            snis::certificate_of(config, name).map(|key| key.id)
        }
        Selector::Name(name) => {
            let field = entity.name_field.ok_or(Rejection::InvalidId)?;
            if let Some(message) = record::unique_error(entity, field, name) {
                return Err(Rejection::InvalidUnique(field, message));
            }
            config.find(entity.kind, field, name)
        }
    };
    let key = id.map(|id| Key {
        kind: entity.kind,
        id,
    });
    Ok(key.filter(|key| config.contains(*key)))
}

/// The record that a selector means, below the parents that the URL names.
fn existing(
    config: &Config,
    entity: &'static Definition,
    selector: &Selector,
    parents: &[(&'static str, Uuid)],
) -> Result<Key, Rejection> {
    let missing = || Rejection::NotFound(selector.clone(), entity.name_field.unwrap_or("id"));
    let key = find(config, entity, selector)?.ok_or_else(missing)?;
    let fields = config.record(key).ok_or_else(missing)?;
    let is_below =
        |(field, id): &(&'static str, Uuid)| crate::config::foreign_id(&fields, field) == Some(*id);
    if parents.iter().all(is_below) {
        Ok(key)
    } else {
        Err(missing())
    }
}

fn key_of(entity: &'static Definition, fields: &Fields) -> Result<Key, Rejection> {
    let id = fields
        .get("id")
        .and_then(Value::as_str)
        .and_then(|id| id.parse().ok());
    Ok(Key {
        kind: entity.kind,
        id: id.ok_or(Rejection::InvalidId)?,
    })
}

fn store(
    config: &Config,
    entity: &'static Definition,
    key: Key,
    mut fields: Fields,
    context: &Context,
) -> Result<Decision, Rejection> {
    if config.is_used(key) && !config.contains(key) {
        return Err(Rejection::IdTaken(key.id));
    }
    if entity.kind == Workspace::KIND
        && let Some(old) = config.record(key)
        && old.get("name") != fields.get("name")
    {
        let errors = FieldErrors::at(&["name"], "immutable field cannot be updated");
        return Err(Rejection::Invalid(errors));
    }
    let mut removes = Vec::new();
    if let Some(set) = config.taken(entity, key.id, &fields) {
        let gone = expiry::expired_holder(config, entity, set, &fields, context.now);
        removes.push(gone.ok_or_else(|| taken(set, &fields))?);
    }
    let shown = Arc::new(fields.clone());
    if entity.workspaced {
        put_into(&mut fields, config.workspace());
    }
    let change = Change {
        puts: vec![(key, Stored::of(&fields))],
        removes,
    };
    Ok(Decision {
        change,
        record: Some((key, shown)),
    })
}

fn taken(set: &[&str], fields: &Fields) -> Rejection {
    let values = set.iter().map(|field| {
        let value = fields.get(*field).cloned().unwrap_or_default();
        ((*field).to_owned(), value)
    });
    // Kong without groups does not know of this part of the key.
    let shown = |(field, value): &(String, Value)| field != "consumer_group" || !value.is_null();
    Rejection::Taken(values.filter(shown).collect())
}
