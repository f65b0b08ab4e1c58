//! PATCH: records merge field by field, everything else is replaced.

use serde_json::{Map, Value};

use super::{Kind, Record};

pub(super) fn merge(
    record: &Record,
    stored: &Map<String, Value>,
    patch: Map<String, Value>,
) -> Map<String, Value> {
    let mut merged = stored.clone();
    for (name, value) in patch {
        let kind = record.field(&name).map(|field| &field.kind);
        let value = match (kind, merged.get(&name), value) {
            (Some(Kind::Record(inner)), Some(Value::Object(old)), Value::Object(new)) => {
                Value::Object(merge(inner, old, new))
            }
            (_, _, value) => value,
        };
        merged.insert(name, value);
    }
    merged
}
