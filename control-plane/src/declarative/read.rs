//! From a document to the records that it stands for: those written inside others become records of their own.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use shared::entity::{Definition, definition, definitions};
use shared::schema::FieldErrors;

use super::VERSIONS;
use crate::command::Selector;
use crate::command::batch::{Batch, Item, is_replaced, pointer};
use crate::config::Fields;

/// A configuration as a file has it.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// Its records.
    pub batch: Batch,
    /// Where in the file each of them is.
    pub places: Vec<Place>,
    /// The workspace that it names.
    pub workspace: Option<String>,
    /// What is wrong with the file itself.
    pub errors: FieldErrors,
    /// What stands in the place of records and is none.
    pub refused: Vec<Refused>,
}

impl File {
    /// Whether every part of the file was understood. Whether its records can be is decided later.
    pub fn is_sound(&self) -> bool {
        self.errors.is_empty() && self.refused.is_empty()
    }
}

/// Something that cannot be a record.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Where it is.
    pub place: Place,
    /// The field that is wrong, if not the whole is.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
}

/// Where in a file a record is: the lists that it is in, from outside, and its index in each.
pub type Place = Vec<(String, usize)>;

/// Most records of a file.
const ITEMS: usize = 1_000_000;

/// What to do about the keys that Kong proves itself with at providers.
pub(super) const OTHER_KEYS: &str = "keys of another gateway are not taken over: leave it out, and have providers take those of /openid-connect/jwks";

/// A consumer's membership in a group.
const MEMBERSHIP: &str = "consumer_group_consumers";

/// Reads a document, and what is wrong with it apart from its records.
pub fn read(document: Fields) -> File {
    let mut reader = Reader {
        file: File::default(),
        stored: false,
        old_paths: false,
        defaults: Map::new(),
        fragments: Map::new(),
    };
    let mut lists = Vec::new();
    match document.get("_format_version") {
        Some(version) => reader.check_version(version),
        None => reader
            .file
            .errors
            .add(&["_format_version"], "required field missing"),
    }
    for (name, value) in document {
        match name.as_str() {
            "_format_version" => {}
            "_comment" | "_ignore" => {
                if let Some(message) = remark_fault(&name, &value) {
                    reader.file.errors.add(&[&name], message);
                }
            }
            "_transform" if value.is_boolean() => reader.stored = value == false,
            "_transform" => reader
                .file
                .errors
                .add(&["_transform"], "expected a boolean"),
            "_workspace" => match value {
                Value::String(name) => reader.file.workspace = Some(name),
                _ => reader.file.errors.add(&["_workspace"], "expected a string"),
            },
            "_info" => reader.info(&value),
            "_plugin_configs" => match value {
                Value::Object(fragments) => reader.fragments = fragments,
                _ => reader
                    .file
                    .errors
                    .add(&["_plugin_configs"], "expected a map"),
            },
            // What Kong's own files tell of providers, data planes find out by themselves.
            "oic_issuers" if value.is_array() || value.is_null() => {}
            "oic_jwks" => reader.file.errors.add(&["oic_jwks"], OTHER_KEYS),
            _ => match (collection(&name), value) {
                (Some(_), Value::Null) => {}
                (Some(entity), Value::Array(list)) => lists.push((name, entity, list)),
                (Some(_), _) => reader.file.errors.add(&[&name], "expected an array"),
                (None, _) => reader.file.errors.add(&[&name], "unknown field"),
            },
        }
    }
    for (name, entity, list) in lists {
        reader.list(&name, entity, list, None, &Vec::new());
    }
    rename(&mut reader.file.batch.items);
    reader.file
}

/// A name may look like an id: what then points to no id in the file, but to a name, means the name.
fn rename(items: &mut [Item]) {
    let (mut names, mut ids) = (HashSet::new(), HashSet::new());
    for item in items.iter() {
        let field = definition(item.kind).and_then(|entity| entity.name_field);
        let name = field.and_then(|field| item.fields.get(field)?.as_str());
        if let Some(name) = name.filter(|name| matches!(Selector::parse(name), Selector::Id(_))) {
            names.insert((item.kind, name.to_owned()));
        }
    }
    if names.is_empty() {
        return;
    }
    for item in items.iter() {
        if let Some(id) = item.fields.get("id").and_then(Value::as_str) {
            ids.insert((item.kind, id.to_owned()));
        }
    }
    for item in items.iter_mut() {
        let Some(entity) = definition(item.kind) else {
            continue;
        };
        for (field, kind) in entity.foreign_keys() {
            let Some(Value::Object(key)) = item.fields.get_mut(field) else {
                continue;
            };
            let Some(id) = key.get("id").and_then(Value::as_str) else {
                continue;
            };
            let known = (kind, id.to_owned());
            if names.contains(&known) && !ids.contains(&known) {
                let value = foreign_by_name(kind, id);
                item.fields.insert(field.to_owned(), value);
            }
        }
    }
}

/// The entity whose records a list of this name holds.
fn collection(name: &str) -> Option<&'static Definition> {
    let name = if name == "key-sets" { "key_sets" } else { name };
    definition(name).filter(|entity| is_replaced(entity, shared::entity::DEFAULT_WORKSPACE))
}

struct Reader {
    file: File,
    /// Whether values are as they are stored: passwords are hashes.
    stored: bool,
    /// Whether paths of routes are as before 3.0: what looks like an expression is one, without a `~`.
    old_paths: bool,
    /// What records get that do not say otherwise, by collection.
    defaults: Map<String, Value>,
    /// Parts of plugin configurations, by name.
    fragments: Map<String, Value>,
}

impl Reader {
    fn check_version(&mut self, version: &Value) {
        // YAML reads an unquoted version as a number: `3.10` would be `3.1`.
        let Value::String(text) = version else {
            self.file
                .errors
                .add(&["_format_version"], "expected a string");
            return;
        };
        if !VERSIONS.contains(&text.as_str()) {
            let message = format!("expected one of: {}", VERSIONS.join(", "));
            self.file.errors.add(&["_format_version"], message);
        }
        self.old_paths = text != "3.0";
    }

    /// decK's remarks on the file: which records it stands for, and defaults for them.
    fn info(&mut self, info: &Value) {
        let Value::Object(info) = info else {
            self.file.errors.add(&["_info"], "expected a record");
            return;
        };
        if let Some(tags) = info.get("select_tags").filter(|tags| !tags.is_null()) {
            let read = tags.as_array().map(|tags| {
                let texts = tags.iter().map(|tag| tag.as_str().map(str::to_owned));
                texts.collect::<Option<Vec<String>>>()
            });
            match read.flatten() {
                Some(tags) => self.file.batch.tags = tags,
                None => self
                    .file
                    .errors
                    .add(&["_info", "select_tags"], "expected an array"),
            }
        }
        if let Some(Value::Object(defaults)) = info.get("defaults") {
            for (singular, fields) in defaults {
                self.defaults.insert(format!("{singular}s"), fields.clone());
            }
        }
    }

    /// Takes in the records of a list, which may be inside of another record.
    fn list(
        &mut self,
        name: &str,
        entity: &'static Definition,
        list: Vec<Value>,
        parent: Option<(&'static str, usize)>,
        outside: &Place,
    ) {
        for (at, value) in list.into_iter().enumerate() {
            let mut place = outside.clone();
            place.push((name.to_owned(), at));
            let fields = match (value, entity.name_field) {
                (Value::Object(fields), _) => fields,
                (Value::String(text), Some(field)) => {
                    Fields::from_iter([(field.to_owned(), text.into())])
                }
                _ => {
                    self.refuse(&place, None, "expected a record");
                    continue;
                }
            };
            if self.file.batch.items.len() >= ITEMS {
                self.refuse(&place, None, "more than 1000000 records");
                return;
            }
            self.item(entity, fields, parent, &place);
        }
    }

    fn refuse(&mut self, place: &Place, field: Option<String>, message: &str) {
        self.file.refused.push(Refused {
            place: place.clone(),
            field,
            message: message.to_owned(),
        });
    }

    fn item(
        &mut self,
        entity: &'static Definition,
        mut fields: Fields,
        parent: Option<(&'static str, usize)>,
        place: &Place,
    ) {
        let index = self.file.batch.items.len();
        for name in ["_comment", "_ignore"] {
            let remark = fields.shift_remove(name);
            if let Some(message) = remark.and_then(|value| remark_fault(name, &value)) {
                self.refuse(place, Some(name.to_owned()), message);
            }
        }
        if let Some((field, outer)) = parent
            && let Some(given) = fields.get(field)
            && !self.is_of(outer, given)
        {
            self.refuse(place, Some(field.to_owned()), "value must be null");
        }
        if self.old_paths && entity.kind == "routes" {
            mark_expressions(&mut fields);
        }
        let mut inside = Vec::new();
        let names: Vec<String> = fields.keys().cloned().collect();
        for name in names {
            let Some((child, field)) = child(entity, &name) else {
                continue;
            };
            match fields.shift_remove(&name) {
                Some(Value::Array(list)) => {
                    let list = list.into_iter().map(|value| member(entity, child, value));
                    inside.push((name, child, list.collect(), field));
                }
                None | Some(Value::Null) => {}
                Some(_) => self.refuse(place, Some(name), "expected an array"),
            }
        }
        for (field, kind) in entity.foreign_keys() {
            if let Some(Value::String(text)) = fields.get(field) {
                let key = foreign(kind, text);
                fields.insert(field.to_owned(), key);
            }
        }
        self.complete(entity, &mut fields);
        if self.stored && entity.write_only.contains(&"skip_hash") {
            fields.insert("skip_hash".to_owned(), true.into());
        }
        self.file.batch.items.push(Item {
            kind: entity.kind,
            fields,
            parent,
        });
        self.file.places.push(place.clone());
        for (name, child, list, field) in inside {
            self.list(&name, child, list, Some((field, index)), place);
        }
    }

    /// Whether a record's own word of the record that it stands in, `given`, says no other than that.
    fn is_of(&self, outer: usize, given: &Value) -> bool {
        let Some(outer) = self.file.batch.items.get(outer) else {
            return false;
        };
        let name = definition(outer.kind).and_then(|entity| entity.name_field);
        let is = |given: &Value| {
            let mut names = ["id"].into_iter().chain(name);
            names.any(|name| outer.fields.get(name) == Some(given))
        };
        match given {
            Value::Null => true,
            Value::Object(key) => key.values().all(is),
            given => is(given),
        }
    }

    /// Adds what the file says once for many records.
    fn complete(&self, entity: &Definition, fields: &mut Fields) {
        if let Some(Value::Object(defaults)) = self.defaults.get(entity.kind) {
            for (name, value) in defaults {
                fields.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        if entity.kind != "plugins" {
            return;
        }
        if let Some(Value::String(name)) = fields.shift_remove("_config")
            && let Some(Value::Object(fragment)) = self.fragments.get(&name)
        {
            let config = fields.entry("config").or_insert_with(|| json!({}));
            if let Value::Object(config) = config {
                for (name, value) in fragment {
                    config.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
        }
    }
}

/// What is wrong with a remark that a file or a record of it makes for its readers.
fn remark_fault(name: &str, value: &Value) -> Option<&'static str> {
    match (name, value) {
        (_, Value::Null) | ("_comment", Value::String(_)) | ("_ignore", Value::Array(_)) => None,
        ("_ignore", _) => Some("expected an array"),
        _ => Some("expected a string"),
    }
}

/// Puts a `~` before those paths of a route that Kong took for expressions before 3.0: all that hold more than a plain path does.
fn mark_expressions(route: &mut Fields) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~/%".contains(&byte);
    let Some(Value::Array(paths)) = route.get_mut("paths") else {
        return;
    };
    for path in paths {
        if let Value::String(path) = path
            && !path.starts_with('~')
            && !path.bytes().all(plain)
        {
            path.insert(0, '~');
        }
    }
}

/// The entity whose records a list inside of a record holds, and the field by which they point to that.
fn child(parent: &'static Definition, name: &str) -> Option<(&'static Definition, &'static str)> {
    let name = match (parent.kind, name) {
        // Groups and consumers name each other; what is between them is a membership.
        ("consumers", "groups" | "consumer_groups") | ("consumer_groups", "consumers") => {
            MEMBERSHIP
        }
        _ => name,
    };
    let child = collection(name)?;
    Some((child, pointer(child, parent.kind)?))
}

/// An element of a list inside of a record, as a record of its own.
fn member(parent: &Definition, child: &Definition, value: Value) -> Value {
    if child.kind != MEMBERSHIP {
        return value;
    }
    let other = if parent.kind == "consumers" {
        ("consumer_group", "consumer_groups")
    } else {
        ("consumer", "consumers")
    };
    let key = match value {
        Value::String(text) => foreign(other.1, &text),
        Value::Object(fields) => {
            let wanted = ["id", "name", "username"].into_iter();
            let named =
                wanted.filter_map(|name| Some((name.to_owned(), fields.get(name)?.clone())));
            Value::Object(named.take(1).collect())
        }
        value => value,
    };
    json!({ other.0: key })
}

/// A foreign key that is given by an id or a name.
fn foreign(kind: &str, text: &str) -> Value {
    match Selector::parse(text) {
        Selector::Name(text) => foreign_by_name(kind, &text),
        Selector::Id(_) => json!({ "id": text }),
    }
}

fn foreign_by_name(kind: &str, text: &str) -> Value {
    let found = definitions().iter().find(|entity| entity.kind == kind);
    match found.and_then(|entity| entity.name_field) {
        Some(field) => json!({ field: text }),
        None => json!({ "id": text }),
    }
}
