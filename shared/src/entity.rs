//! The kinds of things that operators configure, one struct each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Who uses the services: a person, a program or a team.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Consumer {
    /// Unique identifier.
    pub id: Uuid,
    /// Unique name.
    pub username: Option<String>,
    /// Unique name of this consumer in another system, such as the `sub` of its ID token.
    pub custom_id: Option<String>,
}
