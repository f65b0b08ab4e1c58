//! Forms: dotted keys become records, repeated keys become lists, texts become typed values.

use serde_json::{Map, Value};

use super::{Kind, Record};
use crate::entity::definition;

/// Deepest nesting that a key may spell, so that no form builds a value that cannot be walked.
const DEPTH: usize = 16;

/// Largest index that a key may spell.
const INDEX: usize = 1000;

/// Expands the keys of a form: `a.b=v`, `k=v&k=w`, `k[]=v`, `k[1]=v`, `k[1].a=v`.
///
/// All values are texts afterwards; [`Record::coerce`] gives them their types. No argument is lost: a value and a record of one
/// name become a list that no field takes, and what spells too much stays a name that no field has. A name below a list of
/// records, as in `k[].a=v&k.b=w`, is the last record's.
pub fn expand(pairs: impl IntoIterator<Item = (String, String)>) -> Map<String, Value> {
    let texts = pairs.into_iter();
    expand_values(texts.map(|(key, text)| (key, Value::String(text))))
}

/// The same with values of which some have their type already, such as a part of a form that is JSON.
pub fn expand_values(pairs: impl IntoIterator<Item = (String, Value)>) -> Map<String, Value> {
    let mut root = Value::Object(Map::new());
    let read = |(key, value): (String, Value)| {
        let steps = steps(&key);
        if steps.len() > DEPTH {
            (vec![Step::Name(key)], value)
        } else {
            (steps, value)
        }
    };
    let mut read: Vec<_> = pairs.into_iter().map(read).collect();
    // Indices say where an element stands, whatever the order of the arguments.
    let is_index = |step: &Step| matches!(step, Step::Index(_));
    if read.iter().any(|(steps, _)| steps.iter().any(is_index)) {
        read.sort_by(|(one, _), (other, _)| one.cmp(other));
    }
    for (steps, value) in read {
        insert(&mut root, &steps, value);
    }
    match root {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// One part of a key.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Step {
    /// A name between dots.
    Name(String),
    /// `[n]`, counted from 1.
    Index(usize),
    /// `[]`.
    Push,
}

fn steps(key: &str) -> Vec<Step> {
    // A dot at either end is part of the name.
    if key.starts_with('.') || key.ends_with('.') {
        return vec![Step::Name(key.to_owned())];
    }
    let mut steps = Vec::new();
    for part in key.split('.') {
        let (name, mut rest) = part.split_at(part.find('[').unwrap_or(part.len()));
        let mut indices = Vec::new();
        while let Some((index, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            match index.parse::<usize>() {
                _ if index.is_empty() => indices.push(Step::Push),
                Ok(index) if (1..=INDEX).contains(&index) => indices.push(Step::Index(index)),
                _ => return vec![Step::Name(key.to_owned())],
            }
            rest = after;
        }
        if name.is_empty() || !rest.is_empty() {
            return vec![Step::Name(key.to_owned())];
        }
        steps.push(Step::Name(name.to_owned()));
        steps.extend(indices);
    }
    steps
}

fn insert(target: &mut Value, steps: &[Step], text: Value) {
    let Some((step, rest)) = steps.split_first() else {
        match target {
            Value::Null => *target = text,
            // A key given twice is a list.
            Value::Array(list) => list.push(text),
            Value::Object(_) if text == "" => {}
            first => *first = Value::Array(vec![first.take(), text]),
        }
        return;
    };
    match step {
        Step::Name(name) => {
            if let Some(map) = record(target) {
                insert(map.entry(name.clone()).or_insert(Value::Null), rest, text);
            }
        }
        Step::Push | Step::Index(_) => {
            if !target.is_array() {
                let first = std::mem::take(target);
                *target = Value::Array(if first.is_null() {
                    Vec::new()
                } else {
                    vec![first]
                });
            }
            let Value::Array(list) = target else { return };
            let at = if let Step::Index(index) = step {
                index - 1
            } else {
                list.len()
            };
            // Indices are consecutive: one that leaves a gap counts as the next, so that no key makes
            // a list longer than the form.
            let at = at.min(list.len());
            if list.len() == at {
                list.push(Value::Null);
            }
            if let Some(element) = list.get_mut(at) {
                insert(element, rest, text);
            }
        }
    }
}

/// The record at `target`. A name cannot be a record and a value: where there is a value, both are in a list, whose elements
/// are of one type wherever a list is due.
fn record(target: &mut Value) -> Option<&mut Map<String, Value>> {
    if target.is_null() || *target == "" {
        *target = Value::Object(Map::new());
    }
    if target.is_object() {
        return target.as_object_mut();
    }
    if !target.is_array() {
        *target = Value::Array(vec![target.take()]);
    }
    let list = target.as_array_mut()?;
    if !list.last().is_some_and(Value::is_object) {
        list.push(Value::Object(Map::new()));
    }
    list.last_mut()?.as_object_mut()
}

pub(super) fn coerce(record: &Record, input: &mut Map<String, Value>) {
    for (name, value) in input.iter_mut() {
        if let Some(field) = record.field(name) {
            coerce_value(&field.kind, value);
        }
    }
}

fn coerce_value(kind: &Kind, value: &mut Value) {
    if value.as_str().is_some_and(str::is_empty) {
        *value = Value::Null;
        return;
    }
    match kind {
        Kind::Integer(_) | Kind::Number(_) => {
            let number = value
                .as_str()
                .and_then(|text| text.trim().parse::<serde_json::Number>().ok());
            if let Some(number) = number {
                *value = Value::Number(number);
            }
        }
        Kind::Boolean => match value.as_str() {
            Some("true") => *value = Value::Bool(true),
            Some("false") => *value = Value::Bool(false),
            _ => {}
        },
        Kind::Array(element, _) | Kind::Set(element, _) => {
            if !value.is_array() && !value.is_null() {
                *value = Value::Array(vec![value.take()]);
            }
            for element_value in value.as_array_mut().into_iter().flatten() {
                coerce_value(element, element_value);
            }
        }
        Kind::Map(values, _) => {
            for (_, inner) in value.as_object_mut().into_iter().flatten() {
                coerce_value(values, inner);
            }
        }
        Kind::Record(record) => {
            if let Value::Object(map) = value {
                coerce(record, map);
            }
        }
        Kind::Foreign(kind) => {
            if let (Value::Object(key), Some(target)) = (value, definition(kind)) {
                coerce(&target.schema, key);
            }
        }
        Kind::String(_) | Kind::Config => {}
    }
}
