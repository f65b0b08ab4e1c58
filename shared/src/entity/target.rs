//! One address of an upstream.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Entity, Upstream};
use crate::schema::FieldErrors;
use crate::types::{Ref, Set, Tag, with_target_port};

/// One address of an upstream.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Target {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970, with milliseconds as its fraction.
    #[schemars(extend("x-auto" = true))]
    pub created_at: f64,
    /// Time of the last change, in seconds since 1970, with milliseconds as its fraction.
    #[schemars(extend("x-auto" = true))]
    pub updated_at: f64,
    /// The upstream that it belongs to.
    pub upstream: Ref<Upstream>,
    /// Host and port. Without a port it is 8000.
    #[schemars(extend("format" = "kong-target"))]
    pub target: String,
    /// Share of the requests among the upstream's targets; 0 for none.
    #[serde(default = "weight")]
    #[schemars(range(min = 0, max = 65535), extend("x-null-is-default" = true))]
    pub weight: u16,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
}

fn weight() -> u16 {
    100
}

impl Entity for Target {
    const KIND: &'static str = "targets";
    const UNIQUE: &'static [&'static [&'static str]] = &[&["upstream", "target"]];
    const NESTED: &'static [(&'static str, &'static str)] = &[("upstream", "targets")];
    const TOP_LEVEL: bool = false;

    /// An address is stored in one form only, so that the same one is never there twice.
    fn expand(record: &mut Map<String, Value>, _: &mut FieldErrors) {
        if let Some(Value::String(text)) = record.get_mut("target")
            && let Some(whole) = with_target_port(text)
        {
            *text = whole;
        }
    }
}
