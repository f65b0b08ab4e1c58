//! A consumer's membership in a group, for the `acl` plugin.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Consumer, Entity};
use crate::types::{Ref, Set, Tag};

/// A consumer's membership in a group.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Acl {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// The member.
    pub consumer: Ref<Consumer>,
    /// Name of the group.
    #[schemars(length(min = 1))]
    pub group: String,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
}

impl Entity for Acl {
    const KIND: &'static str = "acls";
    const UNIQUE: &'static [&'static [&'static str]] = &[&["consumer", "group"]];
    const NESTED: &'static [(&'static str, &'static str)] = &[("consumer", "acls")];
}
