//! A plugin at work: its name, where it is attached, and its configuration.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Consumer, ConsumerGroup, Entity, Protocol, Route, Service};
use crate::types::{Name, Ref, Set, Tag};

/// A plugin at work. Global when it is attached to nothing.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Plugin {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Time of the last change, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub updated_at: u64,
    /// Which plugin.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Unique name of this configuration.
    #[schemars(extend("x-unique" = true))]
    pub instance_name: Option<Name>,
    /// The route whose requests it sees.
    pub route: Option<Ref<Route>>,
    /// The service whose requests it sees.
    pub service: Option<Ref<Service>>,
    /// The consumer whose requests it sees.
    pub consumer: Option<Ref<Consumer>>,
    /// The group whose members' requests it sees.
    pub consumer_group: Option<Ref<ConsumerGroup>>,
    /// The plugin's own configuration.
    #[serde(default)]
    #[schemars(extend("x-plugin-config" = true))]
    pub config: Map<String, Value>,
    /// Protocols of the requests and streams that it sees.
    #[serde(default = "all")]
    pub protocols: Set<Protocol>,
    /// Whether it runs.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
}

fn all() -> Set<Protocol> {
    use Protocol::{Grpc, Grpcs, Http, Https};
    [Grpc, Grpcs, Http, Https].into_iter().collect()
}

fn enabled() -> bool {
    true
}

impl Entity for Plugin {
    const KIND: &'static str = "plugins";
    const NAME_FIELD: Option<&'static str> = Some("instance_name");
    const UNIQUE: &'static [&'static [&'static str]] = &[
        &["instance_name"],
        &["name", "route", "service", "consumer", "consumer_group"],
    ];
    const NESTED: &'static [(&'static str, &'static str)] = &[
        ("route", "plugins"),
        ("service", "plugins"),
        ("consumer", "plugins"),
        ("consumer_group", "plugins"),
    ];
}
