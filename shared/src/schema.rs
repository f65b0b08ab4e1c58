//! Checks a JSON value against an entity: every bad field named at once, defaults filled.

use serde_json::{Map, Value};

/// What is wrong with a body, field by field, in the shape of Kong's `fields`: a message or, for a
/// nested record, an object; cross-field errors are a list under `@entity`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldErrors(pub Map<String, Value>);

impl FieldErrors {
    /// One error at a path such as `["config", "issuer"]`.
    pub fn at(path: &[&str], message: impl Into<String>) -> Self {
        let mut errors = Self::default();
        errors.add(path, message);
        errors
    }

    /// Adds an error at a path. An error that is already there stays.
    pub fn add(&mut self, path: &[&str], message: impl Into<String>) {
        let Some((last, parents)) = path.split_last() else {
            return;
        };
        let mut map = &mut self.0;
        for parent in parents {
            let entry = map
                .entry((*parent).to_owned())
                .and_modify(|value| {
                    if !value.is_object() {
                        *value = Value::Object(Map::new());
                    }
                })
                .or_insert_with(|| Value::Object(Map::new()));
            let Value::Object(next) = entry else { return };
            map = next;
        }
        map.entry((*last).to_owned())
            .or_insert_with(|| Value::String(message.into()));
    }

    /// Whether there is nothing to complain about.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
