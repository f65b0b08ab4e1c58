//! Checks a JSON value against an entity: every bad field named at once, defaults filled.
//!
//! ```text
//!  Rust struct ─ schemars ─► JSON Schema ─ derive ─► Record ─┬─ complete   a body: checked, defaults filled
//!                                                            ├─ coerce     a form's texts become typed values
//!                                                            ├─ merge      PATCH
//!                                                            └─ kong       what /schemas/* shows
//! ```

mod complete;
mod derive;
pub mod form;
mod kong;
mod merge;
mod nearest;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

/// The fields of an entity, of a plugin's configuration or of a record inside one, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The fields.
    pub fields: Vec<Field>,
}

/// One field.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an attribute of Kong's schema language"
)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// What it is for, in an operator's words.
    pub description: Option<String>,
    /// What it may hold.
    pub kind: Kind,
    /// Whether it may not be `null`.
    pub required: bool,
    /// Whether `null` stands for the default where it is not kept.
    pub null_is_default: bool,
    /// Its value when it is not given.
    pub default: Option<Value>,
    /// Whether the control plane makes the value when it is not given.
    pub auto: bool,
    /// Whether no two records may share a value.
    pub unique: bool,
    /// Whether a `{vault://…}` reference may stand for the value.
    pub referenceable: bool,
    /// Whether a rule about the whole record depends on its value.
    pub rules: bool,
    /// Whether it is a secret, sealed at rest.
    pub encrypted: bool,
    /// Whether Wardgate knows it without acting on it: only its default is accepted.
    pub not_yet: bool,
}

impl Field {
    /// Whether it holds a time that the control plane keeps.
    fn is_timestamp(&self) -> bool {
        self.auto && self.name.ends_with("_at")
    }

    /// The collection that it points to, if it is a foreign key.
    pub fn foreign(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Foreign(kind) => Some(kind),
            _ => None,
        }
    }
}

/// What a value may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A text.
    String(Text),
    /// A whole number.
    Integer(Range),
    /// A number.
    Number(Range),
    /// `true` or `false`.
    Boolean,
    /// A list.
    Array(Box<Kind>, Length),
    /// A list without repetition.
    Set(Box<Kind>, Length),
    /// Names with values of one kind.
    Map(Box<Kind>, Length),
    /// Named fields.
    Record(Record),
    /// The id of a record of another collection.
    Foreign(&'static str),
    /// A plugin's configuration: its fields depend on the plugin's name.
    Config,
}

/// Limits of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Text {
    /// The only texts allowed.
    pub one_of: Vec<String>,
    /// Name of a check in [`crate::types`].
    pub format: Option<String>,
    /// Limits of its length, in bytes.
    pub length: Length,
}

/// Limits of a number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Range {
    /// Smallest value.
    pub min: Option<serde_json::Number>,
    /// Largest value.
    pub max: Option<serde_json::Number>,
    /// The only values allowed.
    pub one_of: Vec<i64>,
    /// The smallest and the largest integer that the field's type holds, where that is known.
    pub holds: Option<(i64, u64)>,
}

/// Limits of a length.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Length {
    /// Shortest length.
    pub min: Option<u64>,
    /// Longest length.
    pub max: Option<u64>,
}

impl Record {
    /// The fields of a Rust struct.
    pub fn of<T: JsonSchema>() -> Self {
        derive::record_of::<T>()
    }

    /// The field `name`.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Checks `input`, fills defaults and puts the fields in order; `null` stands for what is absent.
    /// Fields that the control plane makes stay absent when they are not given.
    pub fn complete(&self, input: &Map<String, Value>) -> Result<Map<String, Value>, FieldErrors> {
        let mut errors = FieldErrors::default();
        let output = complete::complete(self, input, &mut errors);
        if errors.is_empty() {
            Ok(output)
        } else {
            Err(errors)
        }
    }

    /// Like [`Self::complete`], but gives back what could be completed along with the errors, so that
    /// further checks may add theirs.
    pub fn complete_all(&self, input: &Map<String, Value>) -> (Map<String, Value>, FieldErrors) {
        let mut errors = FieldErrors::default();
        let output = complete::complete(self, input, &mut errors);
        (output, errors)
    }

    /// The fields for which `input` says `null` although they must hold something: this is no way to ask for a
    /// default.
    pub fn nulls<'a>(&'a self, input: &'a Map<String, Value>) -> impl Iterator<Item = &'a str> {
        let must_hold = |field: &&Field| {
            let nested = matches!(field.kind, Kind::Record(_) | Kind::Config);
            field.required && !field.auto && !nested
        };
        let given = |field: &&Field| input.get(&field.name).is_some_and(Value::is_null);
        let fields = self.fields.iter().filter(must_hold).filter(given);
        fields.map(|field| field.name.as_str())
    }

    /// Gives the texts of a form the types of their fields. What does not fit stays as it is, for
    /// [`Self::complete`] to name.
    pub fn coerce(&self, input: &mut Map<String, Value>) {
        form::coerce(self, input);
    }

    /// Applies a PATCH to a stored value: records merge field by field, everything else is replaced,
    /// `null` clears.
    pub fn merge(
        &self,
        stored: &Map<String, Value>,
        patch: Map<String, Value>,
    ) -> Map<String, Value> {
        merge::merge(self, stored, patch)
    }

    /// The fields in the form that Kong's `/schemas` has.
    pub fn kong(&self) -> Value {
        kong::fields(self)
    }
}

/// What is wrong with a body, field by field, in the shape of Kong's `fields`: a message or, for a
/// nested record, an object; cross-field errors are a list under `@entity`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldErrors {
    /// The errors.
    pub by_field: Map<String, Value>,
    /// Paths of unknown fields, each with the field that may have been meant.
    pub meant: Vec<(String, String)>,
}

impl FieldErrors {
    /// One error at a path such as `["config", "issuer"]`.
    pub fn at(path: &[&str], message: impl Into<String>) -> Self {
        let mut errors = Self::default();
        errors.add(path, message);
        errors
    }

    /// Adds an error at a path. An error that is already there stays.
    pub fn add(&mut self, path: &[&str], message: impl Into<String>) {
        self.put(path, Value::String(message.into()));
    }

    /// Puts an error in the place of what is there.
    pub fn replace(&mut self, field: &str, message: String) {
        self.by_field
            .insert(field.to_owned(), Value::String(message));
    }

    /// Adds an error that concerns several fields, in Kong's place for those: a list under `@entity`.
    pub fn add_rule(&mut self, message: impl Into<String>) {
        let rules = self.by_field.entry("@entity").or_insert_with(|| json!([]));
        if let Value::Array(rules) = rules {
            rules.push(Value::String(message.into()));
        }
    }

    /// Adds all errors of a nested configuration. Rules that concern several of its fields are rules of the
    /// whole record, whose `@entity` lists them; one that the configuration as such breaks is said of the
    /// field, and only once its own fields are right.
    pub fn nest(&mut self, field: &str, mut nested: Self) {
        for (name, meant) in nested.meant {
            self.meant.push((format!("{field}.{name}"), meant));
        }
        match nested.by_field.remove("@entity") {
            Some(Value::Array(rules)) => {
                let list = self.by_field.entry("@entity").or_insert_with(|| json!([]));
                if let Value::Array(list) = list {
                    list.extend(rules);
                }
            }
            Some(whole) if nested.by_field.is_empty() => {
                _ = self.by_field.entry(field).or_insert(whole);
            }
            Some(_) | None => {}
        }
        if !nested.by_field.is_empty() {
            self.by_field
                .entry(field.to_owned())
                .or_insert(Value::Object(nested.by_field));
        }
    }

    /// The errors as a reply shows them: those of a list's elements are a list, too, with `null` for what is fine.
    pub fn shown(&self) -> Map<String, Value> {
        let shown = self.by_field.clone().into_iter();
        shown.map(|(name, error)| (name, as_list(error))).collect()
    }

    /// Adds an error of any shape at `path`, unless there is one.
    pub fn put(&mut self, path: &[&str], message: Value) {
        let Some((last, parents)) = path.split_last() else {
            return;
        };
        let mut map = &mut self.by_field;
        for parent in parents {
            let entry = map
                .entry((*parent).to_owned())
                .or_insert_with(|| Value::Object(Map::new()));
            // A message about the parent as a whole already says it.
            let Value::Object(next) = entry else { return };
            map = next;
        }
        map.entry((*last).to_owned()).or_insert(message);
    }

    /// Adds the errors of `others`. An error that is already there stays.
    pub fn merge(&mut self, others: Self) {
        merge(&mut self.by_field, others.by_field);
        self.meant.extend(others.meant);
    }

    /// Whether there is nothing to complain about.
    pub fn is_empty(&self) -> bool {
        self.by_field.is_empty()
    }
}

fn merge(errors: &mut Map<String, Value>, others: Map<String, Value>) {
    for (name, error) in others {
        match (errors.get_mut(&name), error) {
            (None, error) => _ = errors.insert(name, error),
            (Some(Value::Object(inside)), Value::Object(other)) => merge(inside, other),
            (Some(Value::Array(rules)), Value::Array(other)) => rules.extend(other),
            (Some(_), _) => {}
        }
    }
}

/// `error`, as a list if it tells of places only.
fn as_list(error: Value) -> Value {
    let Value::Object(inside) = error else {
        return error;
    };
    let place = |name: &String| {
        let place = name.parse::<usize>().ok();
        place.filter(|place| (1..=1000).contains(place))
    };
    let places: Option<Vec<usize>> = inside.keys().map(place).collect();
    let places = places.filter(|places| !places.is_empty());
    let errors = inside.into_iter();
    let Some(places) = places else {
        return errors
            .map(|(name, error)| (name, as_list(error)))
            .collect::<Map<_, _>>()
            .into();
    };
    let last = places.iter().copied().max().unwrap_or_default();
    let mut elements = vec![Value::Null; last];
    for (place, (_, error)) in places.into_iter().zip(errors) {
        if let Some(entry) = elements.get_mut(place - 1) {
            *entry = as_list(error);
        }
    }
    elements.into()
}
