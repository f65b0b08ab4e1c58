//! Where Redis is (Kong 3.9, shared Redis configuration).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::default;
use super::values::SecretText;

/// A Redis server, Sentinel group or cluster.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(
    missing_docs,
    reason = "Kong 3.9, shared Redis configuration: the names say it"
)]
pub struct Redis {
    #[serde(default = "default::loopback")]
    pub host: String,
    #[serde(default = "default::redis_port")]
    pub port: u16,
    #[serde(default = "default::redis_timeout")]
    pub connect_timeout: u32,
    #[serde(default = "default::redis_timeout")]
    pub send_timeout: u32,
    #[serde(default = "default::redis_timeout")]
    pub read_timeout: u32,
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true))]
    pub username: Option<String>,
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true, "x-encrypted" = true))]
    pub password: Option<SecretText>,
    #[serde(default)]
    pub database: u32,
    #[serde(default)]
    pub prefix: Option<String>,
    #[serde(default)]
    pub socket: Option<String>,
    #[serde(default)]
    pub ssl: bool,
    #[serde(default)]
    pub ssl_verify: bool,
    #[serde(default)]
    pub server_name: Option<String>,
    /// Most connections that are kept: an upper bound that the one connection of each core stays below.
    #[serde(default = "default::keepalive_pool_size")]
    pub keepalive_pool_size: u32,
    /// Most commands that wait for a connection: nothing waits, for connections are shared.
    #[serde(default)]
    pub keepalive_backlog: Option<u32>,
    #[serde(default)]
    pub sentinel_master: Option<String>,
    #[serde(default)]
    pub sentinel_role: Option<SentinelRole>,
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true))]
    pub sentinel_username: Option<String>,
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true, "x-encrypted" = true))]
    pub sentinel_password: Option<SecretText>,
    #[serde(default)]
    pub sentinel_nodes: Option<Vec<SentinelNode>>,
    #[serde(default)]
    pub cluster_nodes: Option<Vec<ClusterNode>>,
    #[serde(default = "default::max_redirections")]
    pub cluster_max_redirections: u32,
    #[serde(default)]
    pub connection_is_proxied: bool,
}

impl Default for Redis {
    fn default() -> Self {
        serde_json::from_str("{}").expect("every field has a default")
    }
}

/// The server of a Sentinel group to talk to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are Redis's")]
pub enum SentinelRole {
    Master,
    Slave,
    Any,
}

/// A Sentinel.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct SentinelNode {
    #[serde(default = "default::loopback")]
    pub host: String,
    #[serde(default = "default::redis_port")]
    pub port: u16,
}

/// A node of a Redis cluster.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ClusterNode {
    #[serde(default = "default::loopback")]
    pub ip: String,
    #[serde(default = "default::redis_port")]
    pub port: u16,
}
