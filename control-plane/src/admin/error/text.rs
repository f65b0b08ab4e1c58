//! Errors by field as Kong's messages and bodies have them.

use serde_json::{Map, Value};
use shared::schema::FieldErrors;

/// `schema violation (a: …)` or `2 schema violations (a: …; b.c: …)`: cross-field errors first, then
/// the fields by name.
pub(super) fn violations(errors: &FieldErrors) -> String {
    let listed = listed(&errors.by_field);
    let (plural, count) = plural(&listed);
    format!("{count}schema violation{plural} ({})", listed.join("; "))
}

/// The ending of a noun and the number before it.
pub(super) fn plural(listed: &[String]) -> (&'static str, String) {
    if listed.len() == 1 {
        ("", String::new())
    } else {
        ("s", format!("{} ", listed.len()))
    }
}

/// Every error as Kong's messages list it: a field's by its name, those inside it by both names, and what
/// lies deeper as a table.
pub(super) fn listed(errors: &Map<String, Value>) -> Vec<String> {
    let entity = errors
        .get("@entity")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let mut listed: Vec<String> = entity
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    for (name, error) in sorted(errors).filter(|(name, _)| *name != "@entity") {
        if let Value::Object(inside) = error {
            listed.extend(sorted(inside).map(|(inner, error)| {
                let text = error.as_str().map_or_else(|| pretty(error), str::to_owned);
                format!("{name}.{inner}: {text}")
            }));
        } else {
            listed.push(format!("{name}: {}", error.as_str().unwrap_or_default()));
        }
    }
    listed
}

/// The entries by name; the places of a list in their order.
fn sorted(errors: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    let mut entries: Vec<(&String, &Value)> = errors.iter().collect();
    entries.sort_by_key(|(name, _)| (name.parse::<usize>().unwrap_or_default(), *name));
    entries.into_iter()
}

/// A table over several lines, as Kong's messages show what lies deeper.
fn pretty(value: &Value) -> String {
    let mut text = String::new();
    write_pretty(value, 0, &mut text);
    text
}

fn write_pretty(value: &Value, depth: usize, text: &mut String) {
    let entries: Vec<(String, &Value)> = match value {
        Value::Object(map) => {
            let mut place = 0;
            sorted(map)
                .map(|(name, value)| {
                    // The places of a list from the first on go without their number.
                    let next = name.parse() == Ok(place + 1);
                    place += usize::from(next);
                    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                    let label = if next {
                        String::new()
                    } else if name.parse::<usize>().is_ok() {
                        format!("[{name}] = ")
                    } else if name.chars().all(is_word) {
                        format!("{name} = ")
                    } else {
                        format!("[\"{name}\"] = ")
                    };
                    (label, value)
                })
                .collect()
        }
        Value::Array(list) => list.iter().map(|value| (String::new(), value)).collect(),
        Value::String(inner) => {
            text.extend(["\"", inner, "\""]);
            return;
        }
        other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => {
            text.push_str(&other.to_string());
            return;
        }
    };
    text.push_str("{\n");
    let last = entries.len().saturating_sub(1);
    for (at, (label, value)) in entries.into_iter().enumerate() {
        text.push_str(&"  ".repeat(depth + 1));
        text.push_str(&label);
        write_pretty(value, depth + 1, text);
        text.push_str(if at == last { "\n" } else { ",\n" });
    }
    text.push_str(&"  ".repeat(depth));
    text.push('}');
}

/// Values as Kong prints a table: `{consumer=null,name="x",route={id="…"}}`, sorted by name.
pub(super) fn table(values: &Map<String, Value>) -> String {
    let mut parts: Vec<String> = values
        .iter()
        .map(|(name, value)| match value {
            Value::Object(nested) => format!("{name}={}", table(nested)),
            Value::String(text) => format!("{name}=\"{text}\""),
            other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) => {
                format!("{name}={other}")
            }
        })
        .collect();
    parts.sort();
    format!("{{{}}}", parts.join(","))
}
