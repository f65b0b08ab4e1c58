//! Names that fields of a configuration had in earlier versions: `(old, new)`, where a dot leads into a record
//! and an empty new name means that there is nothing like it any more.

use serde_json::{Map, Value};
use shared::schema::FieldErrors;

type Fields = Map<String, Value>;

/// Moves values from old names to new ones. A value under the new name wins.
pub(crate) fn rename(fields: &mut Fields, names: &[(&str, &str)]) {
    for (old, new) in names {
        let Some(value) = fields.remove(*old) else {
            continue;
        };
        if value.is_null() || new.is_empty() {
            continue;
        }
        match new.split_once('.') {
            None => _ = fields.entry(*new).or_insert(value),
            Some((record, field)) => {
                let record = fields
                    .entry(record)
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Some(record) = record.as_object_mut() {
                    record.entry(field).or_insert(value);
                }
            }
        }
    }
}

/// Adds the values under their old names.
pub(crate) fn show(fields: &mut Fields, names: &[(&str, &str)]) {
    for (old, new) in names {
        if let Some(value) = find(fields, new).cloned() {
            fields.insert((*old).to_owned(), value);
        }
    }
}

/// Old names with another value than the new ones.
pub(crate) fn contradictions(fields: &Fields, names: &[(&str, &str)]) -> FieldErrors {
    let mut errors = FieldErrors::default();
    for (old, new) in names {
        let given = |name| find(fields, name).filter(|value| !value.is_null());
        let (Some(before), Some(now)) = (given(old), given(new)) else {
            continue;
        };
        if before == now {
            continue;
        }
        // Secrets are not for logs, and URLs may hold some.
        let secret = new.ends_with("password") || new.ends_with("endpoint");
        let shown = |value: &Value| match value {
            Value::String(text) if !secret => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            _ => "[redacted]".to_owned(),
        };
        let (before, now) = (shown(before), shown(now));
        errors.add(
            &[old],
            format!(
                "both deprecated and new field are used but their values mismatch: {old} = {before} vs {new} = {now}"
            ),
        );
    }
    errors
}

/// What stands under a name.
fn find<'a>(fields: &'a Fields, name: &str) -> Option<&'a Value> {
    let mut names = name.split('.');
    let first = fields.get(names.next()?)?;
    names.try_fold(first, |value, name| value.get(name))
}
