//! The fields as Kong's `/schemas/*` shows them: an array of one-key objects, in order.

use serde_json::{Map, Value, json};

use super::{Field, Kind, Length, Range, Record, Text};

pub(super) fn fields(record: &Record) -> Value {
    let one = |field: &Field| json!({ field.name.as_str(): attributes(field) });
    Value::Array(record.fields.iter().map(one).collect())
}

fn attributes(field: &Field) -> Value {
    let mut shown = kind(&field.kind);
    let mut set = |name: &str, value: Value| {
        shown.insert(name.to_owned(), value);
    };
    if let Some(description) = &field.description {
        set("description", description.as_str().into());
    }
    // What is set by itself has no default that a client should send.
    if let Some(default) = field.default.as_ref().filter(|_| !field.auto) {
        set("default", default.clone());
    }
    for (name, flag) in [
        ("required", field.required && !field.auto),
        ("auto", field.auto),
        ("unique", field.unique),
        ("encrypted", field.encrypted),
    ] {
        if flag {
            set(name, Value::Bool(true));
        }
    }
    if field.is_timestamp() {
        set("timestamp", Value::Bool(true));
    }
    if field.referenceable {
        // In a list or a map it is each of its values that may be one.
        let inside = ["elements", "values"]
            .into_iter()
            .find(|name| shown.contains_key(*name));
        let place = match inside.and_then(|name| shown.get_mut(name)) {
            Some(Value::Object(values)) => values,
            _ => &mut shown,
        };
        place.insert("referenceable".to_owned(), Value::Bool(true));
    }
    Value::Object(shown)
}

fn kind(kind: &Kind) -> Map<String, Value> {
    let mut shown = Map::new();
    let mut set = |name: &str, value: Value| {
        shown.insert(name.to_owned(), value);
    };
    match kind {
        Kind::String(text) => {
            set("type", "string".into());
            show_text(text, &mut set);
        }
        Kind::Integer(range) => {
            set("type", "integer".into());
            show_range(range, &mut set);
        }
        Kind::Number(range) => {
            set("type", "number".into());
            show_range(range, &mut set);
        }
        Kind::Boolean => set("type", "boolean".into()),
        Kind::Array(element, length) => {
            set("type", "array".into());
            set("elements", Value::Object(self::kind(element)));
            show_length(*length, &mut set);
        }
        Kind::Set(element, length) => {
            set("type", "set".into());
            set("elements", Value::Object(self::kind(element)));
            show_length(*length, &mut set);
        }
        Kind::Map(values, length) => {
            set("type", "map".into());
            set("keys", json!({ "type": "string" }));
            set("values", Value::Object(self::kind(values)));
            show_length(*length, &mut set);
        }
        Kind::Record(record) => {
            set("type", "record".into());
            set("fields", fields(record));
        }
        Kind::Foreign(reference) => {
            set("type", "foreign".into());
            set("reference", (*reference).into());
        }
        Kind::Config => {
            set("type", "record".into());
            set("abstract", Value::Bool(true));
        }
    }
    shown
}

fn show_text(text: &Text, set: &mut impl FnMut(&str, Value)) {
    if !text.one_of.is_empty() {
        set("one_of", json!(text.one_of));
    }
    if text.format.as_deref() == Some("uuid") {
        set("uuid", Value::Bool(true));
    }
    show_length(text.length, set);
}

fn show_range(range: &Range, set: &mut impl FnMut(&str, Value)) {
    if !range.one_of.is_empty() {
        set("one_of", json!(range.one_of));
    }
    if let (Some(min), Some(max)) = (&range.min, &range.max) {
        set("between", json!([min, max]));
    }
}

fn show_length(length: Length, set: &mut impl FnMut(&str, Value)) {
    if let Some(min) = length.min {
        set("len_min", min.into());
    }
    if let Some(max) = length.max {
        set("len_max", max.into());
    }
}
