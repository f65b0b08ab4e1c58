//! What is wrong with a file, in the two shapes that Kong gives: nested as the file is, and one entry per record
//! as the ingress controller reads it.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{File, Place};
use crate::command::batch::{Item, ItemFault};
use crate::command::{Rejection, Selector};

/// One error of a record: the path of its field, or none if it is about the record as a whole.
type Complaint = (Option<String>, String);

/// The faults as the file is nested: lists hold `null` for what is fine.
pub fn nested(file: &File, faults: &[ItemFault]) -> Value {
    let mut root = Map::new();
    for fault in faults {
        let item = fault.item.and_then(|at| file.batch.items.get(at));
        let place = fault.item.and_then(|at| file.places.get(at));
        let Some((item, place)) = item.zip(place) else {
            merge(&mut root, errors("", &fault.rejection));
            continue;
        };
        let Some(element) = element(&mut root, place) else {
            continue;
        };
        match &fault.rejection {
            // A record that is there already is no record: what is wrong with it stands in its place.
            rejection @ (Rejection::Taken(_) | Rejection::IdTaken(_)) if element.is_null() => {
                let said = complaints(item.kind, rejection).into_iter().next();
                *element = said.map_or(Value::Null, |(_, message)| message.into());
            }
            rejection => {
                if let Some(target) = record(element) {
                    merge(target, errors(item.kind, rejection));
                }
            }
        }
    }
    for refused in &file.refused {
        let Some(element) = element(&mut root, &refused.place) else {
            continue;
        };
        match &refused.field {
            None => *element = refused.message.as_str().into(),
            Some(field) => {
                if let Some(target) = record(element) {
                    target.insert(field.clone(), refused.message.as_str().into());
                }
            }
        }
    }
    merge(&mut root, file.errors.by_field.clone());
    Value::Object(root)
}

/// What is wrong with the file itself rather than with one of its records.
pub fn general(file: &File) -> Value {
    let records = File {
        errors: file.errors.clone(),
        refused: file.refused.clone(),
        ..File::default()
    };
    nested(&records, &[])
}

/// Where what is wrong with a record is said.
fn element<'a>(root: &'a mut Map<String, Value>, place: &Place) -> Option<&'a mut Value> {
    let (last, outside) = place.split_last()?;
    let mut target = root;
    for step in outside {
        target = record(entry(target, step)?)?;
    }
    entry(target, last)
}

fn entry<'a>(
    target: &'a mut Map<String, Value>,
    (name, at): &(String, usize),
) -> Option<&'a mut Value> {
    let list = target.entry(name.clone()).or_insert_with(|| json!([]));
    let list = list.as_array_mut()?;
    if list.len() <= *at {
        list.resize(at + 1, Value::Null);
    }
    list.get_mut(*at)
}

/// The errors of a record by field, also if there was none yet or one about the whole.
fn record(element: &mut Value) -> Option<&mut Map<String, Value>> {
    if element.is_null() {
        *element = json!({});
    } else if element.is_string() {
        *element = json!({ "@entity": [element.take()] });
    }
    element.as_object_mut()
}

fn merge(target: &mut Map<String, Value>, errors: Map<String, Value>) {
    for (name, error) in errors {
        target.entry(name).or_insert(error);
    }
}

/// What is wrong with one record of the collection `kind`, by field.
pub fn errors(kind: &str, rejection: &Rejection) -> Map<String, Value> {
    if let Rejection::Invalid(errors) = rejection {
        return errors.shown();
    }
    let mut errors = Map::new();
    for (field, message) in complaints(kind, rejection) {
        if let Some(field) = field {
            errors.insert(field, message.into());
            continue;
        }
        let list = errors.entry("@entity").or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(message.into());
        }
    }
    errors
}

/// One entry per record with everything that is wrong with it.
pub fn flattened(file: &File, faults: &[ItemFault]) -> Vec<Value> {
    let mut entries = Vec::new();
    for fault in faults {
        let item = fault.item.and_then(|item| file.batch.items.get(item));
        let kind = item.map_or("", |item| item.kind);
        let errors: Vec<Value> = complaints(kind, &fault.rejection)
            .into_iter()
            .map(|(field, message)| match field {
                Some(field) => json!({ "type": "field", "field": field, "message": message }),
                None => json!({ "type": "entity", "message": message }),
            })
            .collect();
        let mut entry = item.map_or_else(Map::new, |item| about(file, item));
        entry.insert("errors".to_owned(), errors.into());
        entries.push(Value::Object(entry));
    }
    entries
}

/// What an entry tells of its record. Only what is well-formed is good to find it by.
fn about(file: &File, item: &Item) -> Map<String, Value> {
    let mut fields = item.fields.clone();
    let is_id = |id: &&Value| id.as_str().is_some_and(|id| Uuid::parse_str(id).is_ok());
    if let Some((field, parent)) = item.parent
        && let Some(parent) = file.batch.items.get(parent)
        && let Some(id) = parent.fields.get("id").filter(is_id)
    {
        fields.insert(field.to_owned(), json!({ "id": id }));
    }
    let is_name = |name: &&Value| name.as_str().is_some_and(|name| !name.is_empty());
    let are_tags = |tags: &&Value| {
        let tags = tags.as_array();
        tags.is_some_and(|tags| tags.iter().all(Value::is_string))
    };
    let singular = item.kind.strip_suffix('s').unwrap_or(item.kind);
    let mut entry = Map::new();
    entry.insert("entity_type".to_owned(), singular.into());
    for (shown, value) in [
        ("entity_name", fields.get("name").filter(is_name)),
        ("entity_id", fields.get("id").filter(is_id)),
        ("entity_tags", fields.get("tags").filter(are_tags)),
    ] {
        if let Some(value) = value {
            entry.insert(shown.to_owned(), value.clone());
        }
    }
    entry.insert("entity".to_owned(), Value::Object(fields));
    entry
}

fn complaints(kind: &str, rejection: &Rejection) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    match rejection {
        Rejection::Invalid(errors) => walk("", &errors.by_field, &mut complaints),
        Rejection::Unresolved(errors) => {
            for (field, error) in &errors.by_field {
                let named = error.as_object().and_then(|error| error.keys().next());
                let message = match named {
                    Some(name) => format!("invalid reference '{field}: {name}' (no such entry)"),
                    None => "invalid reference".to_owned(),
                };
                let said = error.as_object().and_then(|error| error.values().next());
                let said = said.and_then(Value::as_str).map_or(message, str::to_owned);
                complaints.push((Some(field.clone()), said));
            }
        }
        Rejection::NoParent { field, kind, id } => {
            let message = format!("invalid reference '{field}: {id}' (no such entry in '{kind}')");
            complaints.push((Some(field.clone()), message));
        }
        Rejection::Taken(values) => {
            let names: Vec<&str> = values.keys().map(String::as_str).collect();
            let shown: Vec<String> = values
                .values()
                .map(|value| value.as_str().map_or_else(|| table(value), str::to_owned))
                .collect();
            let message = format!(
                "uniqueness violation: '{kind}' entity with {} set to '{}' already declared",
                names.join(","),
                shown.join(",")
            );
            complaints.push((None, message));
        }
        Rejection::IdTaken(id) => {
            let message = format!(
                "uniqueness violation: '{kind}' entity with primary key set to '{id}' already declared"
            );
            complaints.push((None, message));
        }
        Rejection::InvalidUnique(field, message) => {
            complaints.push((Some((*field).to_owned()), message.clone()));
        }
        Rejection::StillUsed { key, by } => {
            let message = format!(
                "ca certificate {} is still referenced by {} (id = {})",
                key.id, by.kind, by.id
            );
            complaints.push((None, message));
        }
        Rejection::Collides => {
            let message = "API route collides with an existing API";
            complaints.push((None, message.to_owned()));
        }
        Rejection::NotEmpty => {
            complaints.push((None, "Workspace is not empty".to_owned()));
        }
        Rejection::InvalidId => {
            complaints.push((Some("id".to_owned()), "expected a valid UUID".to_owned()));
        }
        Rejection::Referenced { kind, by } => {
            let message = format!("an existing '{by}' entity references this '{kind}' entity");
            complaints.push((None, message));
        }
        Rejection::NotFound(selector, field) => {
            let shown = match selector {
                Selector::Id(id) => id.to_string(),
                Selector::Name(name) => name.clone(),
            };
            let message = format!("could not find the entity with '{{{field}=\"{shown}\"}}'");
            complaints.push((None, message));
        }
    }
    complaints
}

fn walk(path: &str, errors: &Map<String, Value>, complaints: &mut Vec<Complaint>) {
    for (name, error) in errors {
        let whole = match (path, name.as_str()) {
            (_, "@entity") => path.to_owned(),
            ("", name) => name.to_owned(),
            (path, name) => format!("{path}.{name}"),
        };
        match error {
            Value::Object(nested) => walk(&whole, nested, complaints),
            Value::Array(list) if name == "@entity" => {
                complaints.extend(
                    list.iter()
                        .filter_map(Value::as_str)
                        .map(|text| (None, text.to_owned())),
                );
            }
            Value::Array(list) => {
                for (at, text) in list.iter().enumerate() {
                    if let Some(text) = text.as_str() {
                        complaints.push((Some(format!("{whole}.{}", at + 1)), text.to_owned()));
                    }
                }
            }
            Value::String(text) => complaints.push((Some(whole), text.clone())),
            _ => {}
        }
    }
}

/// A value as Kong prints a table: `{services={[2]={host="required field missing"}}}`.
pub fn table(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut parts: Vec<String> = map
                .iter()
                .map(|(name, value)| {
                    let plain = !name.is_empty()
                        && name
                            .chars()
                            .all(|sign| sign.is_ascii_alphanumeric() || sign == '_')
                        && !name.starts_with(|sign: char| sign.is_ascii_digit());
                    let value = table(value);
                    if plain {
                        format!("{name}={value}")
                    } else {
                        format!("[\"{name}\"]={value}")
                    }
                })
                .collect();
            parts.sort();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(list) => {
            let holes = list.iter().any(Value::is_null);
            let parts: Vec<String> = (1..)
                .zip(list)
                .filter(|(_, value)| !value.is_null())
                .map(|(at, value): (usize, _)| {
                    if holes {
                        format!("[{at}]={}", table(value))
                    } else {
                        table(value)
                    }
                })
                .collect();
            format!("{{{}}}", parts.join(","))
        }
        other => other.to_string(),
    }
}
