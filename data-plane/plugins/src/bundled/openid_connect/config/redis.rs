//! Where Redis is (Kong 3.9, shared Redis configuration).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;
use shared::secret::Secret;

use super::default;
use super::values::SecretText;
use crate::host::redis::{self, Address, Cluster, Endpoint, Sentinels};

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
    #[schemars(range(min = 0, max = 65_535))]
    pub port: u16,
    #[serde(default = "default::redis_timeout")]
    #[schemars(range(min = 0, max = 2_147_483_646))]
    pub connect_timeout: u32,
    #[serde(default = "default::redis_timeout")]
    #[schemars(range(min = 0, max = 2_147_483_646))]
    pub send_timeout: u32,
    #[serde(default = "default::redis_timeout")]
    #[schemars(range(min = 0, max = 2_147_483_646))]
    pub read_timeout: u32,
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true))]
    pub username: Option<String>,
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true, "x-encrypted" = true))]
    pub password: Option<SecretText>,
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true))]
    pub sentinel_username: Option<String>,
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true, "x-encrypted" = true))]
    pub sentinel_password: Option<SecretText>,
    #[serde(default)]
    pub database: u32,
    /// Most connections that are kept: an upper bound that the one connection of each core stays below.
    #[serde(default = "default::keepalive_pool_size")]
    #[schemars(range(min = 1, max = 2_147_483_646))]
    pub keepalive_pool_size: u32,
    /// Most commands that wait for a connection: nothing waits, for connections are shared.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2_147_483_646))]
    pub keepalive_backlog: Option<u32>,
    #[serde(default)]
    pub sentinel_master: Option<String>,
    #[serde(default)]
    pub sentinel_role: Option<SentinelRole>,
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub sentinel_nodes: Option<Vec<SentinelNode>>,
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub cluster_nodes: Option<Vec<ClusterNode>>,
    #[serde(default)]
    pub ssl: bool,
    #[serde(default)]
    pub ssl_verify: bool,
    #[serde(default)]
    pub server_name: Option<String>,
    #[serde(default = "default::max_redirections")]
    pub cluster_max_redirections: u32,
    #[serde(default)]
    pub connection_is_proxied: bool,
    #[serde(default)]
    pub prefix: Option<String>,
    #[serde(default)]
    pub socket: Option<String>,
}

impl Redis {
    /// Where it is. What contradicts itself is an error of the field in `record`.
    pub(in crate::bundled::openid_connect) fn endpoint(
        &self,
        record: &str,
        errors: &mut FieldErrors,
    ) -> Endpoint {
        let cluster = self.cluster_nodes.as_deref().unwrap_or_default();
        let sentinels = self.sentinel_nodes.as_deref().unwrap_or_default();
        let name = self.sentinel_master.as_deref().unwrap_or_default();
        let by_sentinel = !sentinels.is_empty() || !name.is_empty();
        for (field, lacks) in [
            ("sentinel_nodes", by_sentinel && sentinels.is_empty()),
            ("sentinel_master", by_sentinel && name.is_empty()),
        ] {
            if lacks {
                let problem = "sentinel_master and sentinel_nodes are needed together";
                errors.add(&[record, field], problem);
            }
        }
        if by_sentinel && !cluster.is_empty() {
            let problem =
                "is of no use beside sentinel_nodes: name a cluster or a group of Sentinels";
            errors.add(&[record, "cluster_nodes"], problem);
        }
        let elsewhere = by_sentinel || !cluster.is_empty();
        if self.connection_is_proxied && elsewhere {
            let problem = "must be false where cluster_nodes or sentinel_nodes are named: host and port are the proxy's";
            errors.add(&[record, "connection_is_proxied"], problem);
        }
        if self.database != 0 && (self.connection_is_proxied || !cluster.is_empty()) {
            let problem = "must be 0 in a cluster and behind a proxy";
            errors.add(&[record, "database"], problem);
        }
        if !cluster.is_empty() {
            let nodes = cluster.iter();
            return Endpoint::Cluster(Cluster {
                nodes: nodes
                    .map(|node| Address::new(&node.ip, node.port))
                    .collect(),
                max_redirections: self.cluster_max_redirections,
            });
        }
        if by_sentinel {
            let nodes = sentinels.iter();
            let password = self.sentinel_password.as_ref();
            return Endpoint::Sentinel(Sentinels {
                nodes: nodes
                    .map(|node| Address::new(&node.host, node.port))
                    .collect(),
                name: name.to_owned(),
                role: match self.sentinel_role {
                    None | Some(SentinelRole::Master) => redis::SentinelRole::Master,
                    Some(SentinelRole::Slave) => redis::SentinelRole::Replica,
                    Some(SentinelRole::Any) => redis::SentinelRole::Any,
                },
                username: self.sentinel_username.clone(),
                password: password.map(|password| Secret::new(password.expose().to_owned())),
            });
        }
        match &self.socket {
            Some(path) => Endpoint::Socket(path.into()),
            None => Endpoint::Network(Address::new(&self.host, self.port)),
        }
    }
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
    #[schemars(range(min = 0, max = 65_535))]
    pub port: u16,
}

/// A node of a Redis cluster.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ClusterNode {
    #[serde(default = "default::loopback")]
    pub ip: String,
    #[serde(default = "default::redis_port")]
    #[schemars(range(min = 0, max = 65_535))]
    pub port: u16,
}
