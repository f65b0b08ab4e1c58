//! Values that parameters of several plugins take.

use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;

pub use shared::types::SecretText;

/// A number as Kong writes them: whole where it is whole.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Number(pub serde_json::Number);

impl Number {
    /// `N`, as the default of a field.
    pub(crate) fn of<const N: i64>() -> Self {
        Self(N.into())
    }

    /// The number.
    pub fn value(&self) -> f64 {
        self.0.as_f64().unwrap_or_default()
    }

    /// This many seconds; nothing negative, and no more than can be added up.
    pub fn seconds(&self) -> Duration {
        const MOST: f64 = 1e10;
        Duration::try_from_secs_f64(self.value().min(MOST)).unwrap_or_default()
    }

    /// This many milliseconds; nothing negative.
    pub fn milliseconds(&self) -> Duration {
        Duration::try_from_secs_f64(self.value() / 1000.0).unwrap_or_default()
    }

    /// This many seconds, or `None` for the zero that switches a limit off.
    pub fn limit(&self) -> Option<Duration> {
        Some(self.seconds()).filter(|duration| !duration.is_zero())
    }

    /// Whether it is above zero, in Kong's words for `gt`.
    pub(crate) fn check_positive(&self, field: &str) -> Result<(), FieldErrors> {
        if self.value() > 0.0 {
            return Ok(());
        }
        Err(FieldErrors::at(&[field], "value must be greater than 0"))
    }
}

impl JsonSchema for Number {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Number".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number" })
    }
}

/// A switch that is on unless it is switched off.
pub(crate) const fn yes() -> bool {
    true
}

/// An error that concerns a configuration as such, said only where none of its fields has one of its own.
pub(crate) fn whole_error(errors: &mut FieldErrors, message: impl Into<String>) {
    if errors.is_empty() {
        errors.add(&["@entity"], message);
    }
}

/// A URL that may hold a user name and a password: never in `Debug`.
#[derive(Clone, Deserialize, PartialEq, Serialize)]
#[serde(transparent)]
pub struct SecretUrl(pub String);

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl JsonSchema for SecretUrl {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SecretUrl".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "kong-url" })
    }
}
