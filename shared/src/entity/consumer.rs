//! Consumers: the users of services.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Entity, is_empty};
use crate::clock::UnixTime;
use crate::schema::FieldErrors;
use crate::types::{Set, Tag};

/// Who uses the services: a person, a program or a team.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Consumer {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    #[serde(default)]
    pub created_at: u64,
    /// Time of the last change, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    #[serde(default)]
    pub updated_at: u64,
    /// Unique name.
    #[schemars(length(min = 1), extend("x-unique" = true))]
    pub username: Option<String>,
    /// Unique name of this consumer in another system, such as the `sub` of its ID token.
    #[schemars(length(min = 1), extend("x-unique" = true))]
    pub custom_id: Option<String>,
    /// Labels to select records by.
    #[serde(default)]
    pub tags: Option<Set<Tag>>,
}

impl Entity for Consumer {
    const KIND: &'static str = "consumers";
    const NAME_FIELD: Option<&'static str> = Some("username");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["username"], &["custom_id"]];

    fn check(record: &Map<String, Value>, _: UnixTime, errors: &mut FieldErrors) {
        if is_empty(record, "username") && is_empty(record, "custom_id") {
            errors.add_rule(
                "at least one of these fields must be non-empty: 'custom_id', 'username'",
            );
        }
    }
}
