//! Groups of consumers, and who is in them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Consumer, Entity};
use crate::types::{Ref, Set, Tag};

/// A group of consumers that plugins may be attached to.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct ConsumerGroup {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Time of the last change, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub updated_at: u64,
    /// Unique name.
    #[schemars(length(min = 1), extend("x-unique" = true))]
    pub name: String,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
}

impl Entity for ConsumerGroup {
    const KIND: &'static str = "consumer_groups";
    const NAME_FIELD: Option<&'static str> = Some("name");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["name"]];
}

/// A consumer's membership in a group.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct ConsumerGroupConsumer {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Time of the last change, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub updated_at: u64,
    /// The group.
    pub consumer_group: Ref<ConsumerGroup>,
    /// The member.
    pub consumer: Ref<Consumer>,
}

impl Entity for ConsumerGroupConsumer {
    const KIND: &'static str = "consumer_group_consumers";
    const UNIQUE: &'static [&'static [&'static str]] = &[&["consumer_group", "consumer"]];
    // Reached through the group or the consumer, in shapes of their own.
    const PUBLIC: bool = false;
}
