//! From a Rust struct, by way of its JSON Schema, to the fields that everything else walks.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::{Field, Kind, Length, Range, Record, Text};

pub(super) fn record_of<T: JsonSchema>() -> Record {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut record = schema.as_object().map(record).unwrap_or_default();
    // A struct may say it of all its fields at once.
    if schema.get("x-null-is-default").is_some() {
        for field in &mut record.fields {
            if field.default.is_some() && field.required && !matches!(field.kind, Kind::Record(_)) {
                field.required = false;
                field.null_is_default = true;
            }
        }
    }
    record
}

fn record(schema: &Map<String, Value>) -> Record {
    let properties = schema.get("properties").and_then(Value::as_object);
    let mut fields: Vec<Field> = properties
        .into_iter()
        .flatten()
        .filter_map(|(name, schema)| Some(field(name, schema.as_object()?)))
        .collect();
    // Flattened structs arrive as alternatives of which all apply.
    for part in schema
        .get("allOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        fields.extend(
            part.as_object()
                .map(|part| record(part).fields)
                .unwrap_or_default(),
        );
    }
    Record { fields }
}

fn field(name: &str, schema: &Map<String, Value>) -> Field {
    let flag = |flag: &str| {
        schema
            .get(flag)
            .and_then(Value::as_bool)
            .unwrap_or_default()
    };
    let (inner, nullable) = without_null(schema);
    let default = schema
        .get("default")
        .filter(|default| !default.is_null())
        .cloned();
    Field {
        name: name.to_owned(),
        description: schema
            .get("description")
            .and_then(Value::as_str)
            .map(str::to_owned),
        kind: kind(&inner),
        required: !nullable && !flag("x-null-is-default"),
        null_is_default: flag("x-null-is-default"),
        default: default.map(whole),
        auto: flag("x-auto"),
        unique: flag("x-unique"),
        referenceable: flag("x-referenceable"),
        rules: flag("x-rules"),
        encrypted: flag("x-encrypted"),
        not_yet: flag("x-not-yet"),
    }
}

/// Whole numbers without their fraction: `3600.0` becomes `3600`, also inside records and lists.
pub(super) fn whole(value: Value) -> Value {
    let number = match &value {
        Value::Number(number) => number,
        Value::Array(_) | Value::Object(_) => return whole_inside(value),
        _ => return value,
    };
    match number.as_f64() {
        // Exact below 2^53, where the text of a whole float is that of the integer.
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => {
            format!("{float:.0}")
                .parse::<i64>()
                .map_or(value, Value::from)
        }
        _ => value,
    }
}

fn whole_inside(value: Value) -> Value {
    match value {
        Value::Array(list) => Value::Array(list.into_iter().map(whole).collect()),
        Value::Object(map) => {
            let parts = map.into_iter().map(|(name, value)| (name, whole(value)));
            Value::Object(parts.collect())
        }
        other => other,
    }
}

/// The schema of what is there when it is not `null`, and whether `null` is allowed.
fn without_null(schema: &Map<String, Value>) -> (Map<String, Value>, bool) {
    let mut inner = schema.clone();
    let mut nullable = false;
    if let Some(Value::Array(types)) = schema.get("type") {
        nullable = types.iter().any(|name| name == "null");
        if let Some(name) = types.iter().find(|name| *name != "null") {
            inner.insert("type".to_owned(), name.clone());
        }
    }
    if let Some(Value::Array(values)) = schema.get("enum") {
        let there: Vec<Value> = values
            .iter()
            .filter(|value| !value.is_null())
            .cloned()
            .collect();
        nullable |= there.len() < values.len();
        inner.insert("enum".to_owned(), Value::Array(there));
    }
    if let Some(Value::Array(choices)) = schema.get("anyOf") {
        let is_null = |choice: &Value| choice.get("type").is_some_and(|name| name == "null");
        nullable |= choices.iter().any(is_null);
        for choice in choices.iter().filter(|choice| !is_null(choice)) {
            for (key, value) in choice.as_object().into_iter().flatten() {
                inner.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
    (inner, nullable)
}

fn kind(schema: &Map<String, Value>) -> Kind {
    if let Some(kind) = schema.get("x-foreign").and_then(Value::as_str) {
        return foreign(kind);
    }
    if schema.contains_key("x-plugin-config") {
        return Kind::Config;
    }
    // A unit enum whose variants are documented.
    if let Some(Value::Array(variants)) = schema.get("oneOf") {
        let one_of = variants.iter().filter_map(|variant| variant.get("const"));
        let one_of = one_of
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        return Kind::String(Text {
            one_of,
            ..Text::default()
        });
    }
    let length = |min: &str, max: &str| Length {
        min: schema.get(min).and_then(Value::as_u64),
        max: schema.get(max).and_then(Value::as_u64),
    };
    match schema
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
    {
        "integer" => Kind::Integer(range(schema)),
        "number" => Kind::Number(range(schema)),
        "boolean" => Kind::Boolean,
        "array" => {
            let items = schema.get("items").and_then(Value::as_object);
            let element =
                Box::new(items.map_or(Kind::Config, |items| kind(&without_null(items).0)));
            let length = length("minItems", "maxItems");
            if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
                Kind::Set(element, length)
            } else {
                Kind::Array(element, length)
            }
        }
        "object" => match schema
            .get("additionalProperties")
            .and_then(Value::as_object)
        {
            Some(values) => {
                let values = Box::new(kind(&without_null(values).0));
                Kind::Map(values, length("minProperties", "maxProperties"))
            }
            None => Kind::Record(record(schema)),
        },
        _ => Kind::String(Text {
            one_of: texts(schema.get("enum").or_else(|| schema.get("const"))),
            format: schema
                .get("format")
                .and_then(Value::as_str)
                .map(str::to_owned),
            length: length("minLength", "maxLength"),
        }),
    }
}

/// The name of a collection lives as long as the program: it comes from an entity's constant.
fn foreign(kind: &str) -> Kind {
    crate::entity::definition(kind).map_or(Kind::Config, |entity| Kind::Foreign(entity.kind))
}

fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        Some(Value::String(text)) => vec![text.clone()],
        _ => Vec::new(),
    }
}

fn range(schema: &Map<String, Value>) -> Range {
    let bound = |name: &str| match schema.get(name).cloned().map(whole) {
        Some(Value::Number(bound)) => Some(bound),
        _ => None,
    };
    let one_of = schema
        .get("enum")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    Range {
        min: bound("minimum"),
        max: bound("maximum"),
        one_of: one_of.filter_map(Value::as_i64).collect(),
        holds: schema.get("format").and_then(Value::as_str).and_then(holds),
    }
}

/// The smallest and the largest integer of the type that a schema calls `format`.
fn holds(format: &str) -> Option<(i64, u64)> {
    let signed = |least: i64| (least, (least.unsigned_abs() - 1));
    Some(match format {
        "int8" => signed(i8::MIN.into()),
        "int16" => signed(i16::MIN.into()),
        "int32" => signed(i32::MIN.into()),
        "int" | "int64" => signed(i64::MIN),
        "uint8" => (0, u8::MAX.into()),
        "uint16" => (0, u16::MAX.into()),
        "uint32" => (0, u32::MAX.into()),
        "uint" | "uint64" => (0, u64::MAX),
        _ => return None,
    })
}
