//! Which fields of a configuration lead to secrets that are read elsewhere.

use serde_json::Value;
use shared::schema::{Field, Kind};
use shared::types::is_reference;

/// Whether `value` of `field` has references where the schema allows them: elsewhere they are texts like any other.
pub(super) fn refers(field: &Field, value: &Value) -> bool {
    (field.referenceable && holds_reference(value)) || refers_inside(&field.kind, value)
}

fn refers_inside(kind: &Kind, value: &Value) -> bool {
    match (kind, value) {
        (Kind::Record(record), Value::Object(fields)) => record.fields.iter().any(|field| {
            let value = fields.get(&field.name);
            value.is_some_and(|value| refers(field, value))
        }),
        (Kind::Array(element, _) | Kind::Set(element, _), Value::Array(list)) => {
            list.iter().any(|value| refers_inside(element, value))
        }
        (Kind::Map(element, _), Value::Object(map)) => {
            map.values().any(|value| refers_inside(element, value))
        }
        _ => false,
    }
}

fn holds_reference(value: &Value) -> bool {
    match value {
        Value::String(text) => is_reference(text),
        Value::Array(list) => list.iter().any(holds_reference),
        Value::Object(map) => map.values().any(holds_reference),
        _ => false,
    }
}
