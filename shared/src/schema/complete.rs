//! Checks a value and fills its defaults, in one walk that collects every error.

use serde_json::{Map, Value};

use super::derive::whole;
use super::nearest::nearest;
use super::{Field, FieldErrors, Kind, Length, Range, Record, Text};
use crate::types::{Set, check_format, is_reference};

/// What one value is wrong with: a text, or an object for its parts.
type Complaint = Value;

pub(super) fn complete(
    record: &Record,
    input: &Map<String, Value>,
    errors: &mut FieldErrors,
) -> Map<String, Value> {
    let mut output = Map::new();
    for field in &record.fields {
        let given = input.get(&field.name);
        match complete_field(field, given) {
            Ok(Some(value)) => {
                output.insert(field.name.clone(), value);
            }
            Ok(None) => {}
            Err(complaint) => errors.put(&[&field.name], complaint),
        }
    }
    for name in input.keys().filter(|name| record.field(name).is_none()) {
        errors.add(&[name], "unknown field");
        let names = record.fields.iter().map(|field| field.name.as_str());
        if let Some(meant) = nearest(name, names) {
            errors.meant.push((name.clone(), meant.to_owned()));
        }
    }
    output
}

/// The value to store; `None` for one that the control plane makes later.
fn complete_field(field: &Field, given: Option<&Value>) -> Result<Option<Value>, Complaint> {
    let Some(given) = given.filter(|value| !value.is_null() || !field.required) else {
        return absent(field);
    };
    if given.is_null() {
        if field.null_is_default {
            return absent(field);
        }
        if field.not_yet && field.default.is_some() {
            return Err(not_yet(field));
        }
        return Ok(Some(Value::Null));
    }
    if field.is_timestamp() && given.as_f64().is_some_and(|time| time < 0.0) {
        return Err("expected a valid timestamp".into());
    }
    let value = complete_value(&field.kind, given, field.referenceable)?;
    if field.not_yet && Some(&value) != field.default.as_ref() && !is_blank(field, &value) {
        return Err(not_yet(field));
    }
    Ok(Some(value))
}

/// Whether a value says as much as leaving the field out.
fn is_blank(field: &Field, value: &Value) -> bool {
    match &field.kind {
        Kind::Record(record) => {
            let mut ignored = FieldErrors::default();
            *value == Value::Object(complete(record, &Map::new(), &mut ignored))
        }
        _ => field.default.is_none() && value.as_array().is_some_and(Vec::is_empty),
    }
}

fn not_yet(field: &Field) -> Complaint {
    let default = field.default.clone().unwrap_or(Value::Null);
    Value::String(format!(
        "not supported by this version of Wardgate: leave it out or at its default, {default}"
    ))
}

fn absent(field: &Field) -> Result<Option<Value>, Complaint> {
    if let Some(default) = &field.default {
        // A default that is itself a record is completed, so that nested defaults show.
        return complete_value(&field.kind, default, false).map(Some);
    }
    if field.auto {
        return Ok(None);
    }
    if !field.required {
        return Ok(Some(Value::Null));
    }
    match &field.kind {
        Kind::Record(_) => complete_value(&field.kind, &Value::Object(Map::new()), false).map(Some),
        // Kong's words where one of its entity checks could not be made.
        _ if field.rules => Err("field required for entity check".into()),
        _ => Err("required field missing".into()),
    }
}

/// The value to store. With `references`, a reference to a secret may stand for a text: what is behind it
/// is judged where it is read.
fn complete_value(kind: &Kind, given: &Value, references: bool) -> Result<Value, Complaint> {
    match kind {
        Kind::String(_) if references && given.as_str().is_some_and(is_reference) => {
            Ok(given.clone())
        }
        Kind::String(text) => match given.as_str() {
            Some(value) => check_text(text, value).map(|()| given.clone()),
            None => Err("expected a string".into()),
        },
        Kind::Integer(range) => match whole(given.clone()) {
            Value::Number(number) if number.is_i64() || number.is_u64() => {
                check_range(range, &number)?;
                if !is_held(range, &number) {
                    return Err("expected an integer".into());
                }
                Ok(Value::Number(number))
            }
            _ => Err("expected an integer".into()),
        },
        Kind::Number(range) => match whole(given.clone()) {
            Value::Number(number) => check_range(range, &number).map(|()| Value::Number(number)),
            _ => Err("expected a number".into()),
        },
        Kind::Boolean if given.is_boolean() => Ok(given.clone()),
        Kind::Boolean => Err("expected a boolean".into()),
        Kind::Array(element, length) => {
            let list = as_list(given).ok_or("expected an array")?;
            Ok(Value::Array(complete_list(
                element, *length, list, references,
            )?))
        }
        Kind::Set(element, length) => {
            let list = as_list(given).ok_or("expected a set")?;
            let list = complete_list(element, *length, list, references)?;
            let set: Set<Value> = list.into_iter().collect();
            Ok(Value::Array(set.into_vec()))
        }
        Kind::Map(values, length) => complete_map(values, *length, given, references),
        Kind::Record(record) => {
            let map = given.as_object().ok_or("expected a record")?;
            let mut errors = FieldErrors::default();
            let output = complete(record, map, &mut errors);
            if errors.is_empty() {
                Ok(Value::Object(output))
            } else {
                Err(Value::Object(errors.by_field))
            }
        }
        Kind::Foreign(_) => complete_foreign(given),
        Kind::Config if given.is_object() => Ok(given.clone()),
        Kind::Config => Err("expected a record".into()),
    }
}

/// The elements of a list. In Lua an empty object is one too, and so clients take it for one.
fn as_list(given: &Value) -> Option<&[Value]> {
    match given {
        Value::Array(list) => Some(list),
        Value::Object(map) if map.is_empty() => Some(&[]),
        _ => None,
    }
}

fn complete_list(
    element: &Kind,
    length: Length,
    list: &[Value],
    references: bool,
) -> Result<Vec<Value>, Complaint> {
    let mut output = Vec::with_capacity(list.len());
    let mut errors = Map::new();
    for (at, value) in list.iter().enumerate() {
        match complete_element(element, value, references) {
            Ok(value) => output.push(value),
            Err(complaint) => {
                errors.insert((at + 1).to_string(), complaint);
            }
        }
    }
    if !errors.is_empty() {
        return Err(Value::Object(errors));
    }
    check_length(length, list.len())?;
    Ok(output)
}

/// A value inside a list or a map, where nothing stands for one that is not there.
fn complete_element(kind: &Kind, given: &Value, references: bool) -> Result<Value, Complaint> {
    if given.is_null() {
        return Err("required field missing".into());
    }
    complete_value(kind, given, references)
}

fn complete_map(
    values: &Kind,
    length: Length,
    given: &Value,
    references: bool,
) -> Result<Value, Complaint> {
    let nothing = Map::new();
    let map = match given {
        Value::Object(map) => map,
        // In Lua a list is a map whose keys are numbers.
        Value::Array(list) if list.is_empty() => &nothing,
        Value::Array(_) => return Err("expected a string".into()),
        _ => return Err("expected a map".into()),
    };
    let mut output = Map::new();
    for (name, value) in map {
        // The first value that is wrong speaks for the map.
        let value = complete_element(values, value, references)?;
        output.insert(name.clone(), value);
    }
    check_length(length, map.len())?;
    Ok(Value::Object(output))
}

/// A foreign key is an id here: other unique fields were resolved before.
fn complete_foreign(given: &Value) -> Result<Value, Complaint> {
    let id = given.as_object().ok_or("expected a record")?.get("id");
    let Some(id) = id.and_then(Value::as_str) else {
        let mut errors = Map::new();
        errors.insert("id".to_owned(), "missing primary key".into());
        return Err(Value::Object(errors));
    };
    let mut output = Map::new();
    match check_format("uuid", id) {
        Ok(()) => output.insert("id".to_owned(), id.to_ascii_lowercase().into()),
        Err(message) => {
            output.insert("id".to_owned(), message.into());
            return Err(Value::Object(output));
        }
    };
    Ok(Value::Object(output))
}

fn check_text(text: &Text, value: &str) -> Result<(), Complaint> {
    if !text.one_of.is_empty() {
        if text.one_of.iter().any(|allowed| allowed == value) {
            return Ok(());
        }
        return Err(format!("expected one of: {}", text.one_of.join(", ")).into());
    }
    // Kong's strings are never empty.
    let min = text.length.min.or(Some(1));
    check_length(Length { min, ..text.length }, value.len())?;
    match &text.format {
        Some(format) => check_format(format, value).map_err(Value::String),
        None => Ok(()),
    }
}

fn check_range(range: &Range, number: &serde_json::Number) -> Result<(), Complaint> {
    if !range.one_of.is_empty() {
        if number
            .as_i64()
            .is_some_and(|value| range.one_of.contains(&value))
        {
            return Ok(());
        }
        let listed: Vec<String> = range.one_of.iter().map(ToString::to_string).collect();
        return Err(format!("expected one of: {}", listed.join(", ")).into());
    }
    let value = number.as_f64().unwrap_or(f64::NAN);
    let bound = |bound: &Option<serde_json::Number>| bound.as_ref()?.as_f64();
    let below = bound(&range.min).is_some_and(|min| value < min);
    let above = bound(&range.max).is_some_and(|max| value > max);
    match (&range.min, &range.max) {
        (Some(min), Some(max)) if below || above => {
            Err(format!("value should be between {min} and {max}").into())
        }
        (Some(min), None) if below => Err(format!("value must be at least {min}").into()),
        (None, Some(max)) if above => Err(format!("value must be at most {max}").into()),
        _ => Ok(()),
    }
}

/// Whether the field's type holds an integer.
fn is_held(range: &Range, number: &serde_json::Number) -> bool {
    let Some((least, most)) = range.holds else {
        return true;
    };
    match number.as_i64() {
        Some(value) if value < 0 => value >= least,
        _ => number.as_u64().is_some_and(|value| value <= most),
    }
}

fn check_length(length: Length, actual: usize) -> Result<(), Complaint> {
    let actual = u64::try_from(actual).unwrap_or(u64::MAX);
    match length {
        Length { min: Some(min), .. } if actual < min => {
            Err(format!("length must be at least {min}").into())
        }
        Length { max: Some(max), .. } if actual > max => {
            Err(format!("length must be at most {max}").into())
        }
        _ => Ok(()),
    }
}
