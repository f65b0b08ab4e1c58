//! Where Redis is (Kong 3.9, shared Redis configuration).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared::authority::bare;
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
    #[schemars(extend("format" = "kong-host"))]
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

/// Rewrites what Kong 3.9 accepts in place of the fields of a record: one `timeout` for all three, and addresses for nodes.
pub(in crate::bundled::openid_connect) fn modernize(record: &mut Map<String, Value>) {
    let mut take = |name: &str| record.remove(name).filter(|value| !value.is_null());
    let timeout = take("timeout");
    let nodes = [
        ("cluster_nodes", "ip", take("cluster_addresses")),
        ("sentinel_nodes", "host", take("sentinel_addresses")),
    ];
    for field in ["connect_timeout", "send_timeout", "read_timeout"] {
        if let Some(timeout) = &timeout {
            record.entry(field).or_insert_with(|| timeout.clone());
        }
    }
    for (field, host, addresses) in nodes {
        let Some(addresses) = addresses else { continue };
        let addresses = match addresses {
            Value::Array(addresses) => addresses,
            address => vec![address],
        };
        let nodes = addresses.into_iter().map(|address| node(host, address));
        let nodes: Vec<Value> = nodes.collect();
        record.entry(field).or_insert(nodes.into());
    }
}

/// The node at `address`, `HOST:PORT` or a host alone. What is neither is left for the checks of the node's fields.
fn node(host: &str, address: Value) -> Value {
    let mut node = Map::new();
    let text = address.as_str().unwrap_or_default();
    let split = text.rsplit_once(':');
    let split = split.filter(|(name, _)| !name.contains(':') || name.ends_with(']'));
    if let Some((name, port)) = split {
        let name = bare(name);
        node.insert(host.to_owned(), name.into());
        let port = port
            .parse::<u16>()
            .map_or_else(|_| port.into(), Value::from);
        node.insert("port".to_owned(), port);
    } else {
        node.insert(host.to_owned(), address);
    }
    node.into()
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
    #[schemars(extend("format" = "kong-host"))]
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
    #[schemars(extend("format" = "kong-host"))]
    pub ip: String,
    #[serde(default = "default::redis_port")]
    #[schemars(range(min = 0, max = 65_535))]
    pub port: u16,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    fn check(redis: &Value) -> Result<Value, Value> {
        let config = json!({ "issuer": "https://idp.example", "redis": redis });
        let checked = crate::registry::check("openid-connect", &config);
        let checked = checked.map(|config| config["redis"].clone());
        checked.map_err(|errors| json!(errors.by_field))
    }

    #[test]
    fn addresses_stand_for_nodes_and_one_timeout_for_all() {
        let redis = check(&json!({
            "cluster_addresses": ["a.example:7000", "[::1]:7001", "b"], "timeout": 500, "read_timeout": 700,
        }));
        let redis = redis.unwrap();
        assert_eq!(
            redis["cluster_nodes"],
            json!([
                { "ip": "a.example", "port": 7000 }, { "ip": "::1", "port": 7001 }, { "ip": "b", "port": 6379 },
            ])
        );
        for (field, value) in [
            ("connect_timeout", 500),
            ("send_timeout", 500),
            ("read_timeout", 700),
        ] {
            assert_eq!(redis[field], value, "{field}");
        }
        let redis = check(&json!({ "sentinel_addresses": "s:26379", "sentinel_master": "m" }));
        let nodes = json!([{ "host": "s", "port": 26379 }]);
        assert_eq!(redis.unwrap()["sentinel_nodes"], nodes);
        for wrong in [json!(["a:b"]), json!([5]), json!([]), json!(["a b:7000"])] {
            let refused = check(&json!({ "cluster_addresses": wrong }));
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("cluster_nodes"), "{wrong} {refused}");
        }
    }

    #[test]
    fn hosts_are_judged_wherever_they_stand() {
        let told = "invalid value: a b";
        for (redis, expected) in [
            (json!({ "host": "a b" }), json!({ "host": told })),
            (
                json!({ "cluster_nodes": [{ "ip": "x" }, { "ip": "a b" }] }),
                json!({ "cluster_nodes": { "2": { "ip": told } } }),
            ),
            (
                json!({ "sentinel_master": "m", "sentinel_nodes": [{ "host": "a b" }] }),
                json!({ "sentinel_nodes": { "1": { "host": told } } }),
            ),
        ] {
            let refused = check(&redis).unwrap_err();
            assert_eq!(refused["redis"], expected, "{redis}");
        }
        for host in ["redis.internal", "10.0.0.1", "::1", "[::1]"] {
            let nodes = json!([{ "host": host }]);
            let redis = json!({ "host": host, "sentinel_master": "m", "sentinel_nodes": nodes });
            assert!(check(&redis).is_ok(), "{host}");
            assert!(
                check(&json!({ "cluster_nodes": [{ "ip": host }] })).is_ok(),
                "{host}"
            );
        }
    }
}
