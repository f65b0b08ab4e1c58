//! A tag and the record that has it: what lists of tags show.

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use crate::schema::Record;

/// A tag and the record that has it. It is no entity: nothing is stored but the record.
#[derive(Clone, Debug, JsonSchema, PartialEq, Serialize)]
pub struct Tagging {
    /// The tag.
    #[schemars(extend("format" = "kong-tag"))]
    pub tag: String,
    /// The record's collection.
    pub entity_name: String,
    /// The record's id.
    pub entity_id: Uuid,
}

impl Tagging {
    /// The fields.
    pub fn schema() -> Record {
        Record::of::<Self>()
    }
}
