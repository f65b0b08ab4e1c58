//! The lists of `name:value` that transformers are configured with (Kong 3.9).

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use shared::schema::FieldErrors;

/// Name and value of an entry: what stands before and after its first colons.
pub(crate) fn split(entry: &str) -> (&str, &str) {
    match entry.split_once(':') {
        Some((name, value)) => (name, value.trim_start_matches(':')),
        None => (entry, ""),
    }
}

/// What entries of a list must be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Entries {
    /// Names alone.
    Names,
    /// Names with values, or with nothing behind the colon.
    Pairs,
    /// Names with values.
    Valued,
    /// Names of header fields.
    Headers,
    /// Header fields with values.
    HeaderPairs,
    /// Header fields and what they are renamed to.
    HeaderNames,
}

/// Names each entry of `list` that is not one, under `path`.
pub(crate) fn check(path: &[&str], list: &[String], kind: Entries, errors: &mut FieldErrors) {
    let mut wrong = Map::new();
    for (place, entry) in list.iter().enumerate() {
        if let Some(message) = problem(entry, kind) {
            wrong.insert((place + 1).to_string(), json!(message));
        }
    }
    if !wrong.is_empty() {
        errors.put(path, Value::Object(wrong));
    }
}

fn problem(entry: &str, kind: Entries) -> Option<String> {
    let (name, value) = split(entry);
    if kind == Entries::Valued && value.is_empty() && !name.is_empty() {
        return Some(format!("key '{name}' has no value"));
    }
    let pair = matches!(
        kind,
        Entries::Pairs | Entries::Valued | Entries::HeaderPairs | Entries::HeaderNames
    );
    if pair && (name.is_empty() || !entry.contains(':')) {
        return Some(format!("invalid value: {entry}"));
    }
    let header = matches!(
        kind,
        Entries::Headers | Entries::HeaderPairs | Entries::HeaderNames
    );
    if header && HeaderName::try_from(name).is_err() {
        return Some(format!("'{name}' is not a valid header"));
    }
    let value_is_wrong = match kind {
        Entries::HeaderNames => HeaderName::try_from(value).is_err(),
        Entries::HeaderPairs => HeaderValue::from_str(value).is_err(),
        Entries::Names | Entries::Pairs | Entries::Valued | Entries::Headers => false,
    };
    value_is_wrong.then(|| format!("'{value}' is not a valid header"))
}
