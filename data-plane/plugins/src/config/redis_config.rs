//! The record `redis` of plugins that keep something in a Redis server (Kong 3.9, redis schema).

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::secret::Secret;

use crate::config::values::{Number, SecretText};
use crate::host::redis::{Address, Endpoint, RedisServer, RedisTls};

/// Old names of its fields, accepted on write: `(old, new)`.
pub(crate) const OLD_NAMES: [(&str, &str); 9] = [
    ("redis_host", "redis.host"),
    ("redis_port", "redis.port"),
    ("redis_password", "redis.password"),
    ("redis_username", "redis.username"),
    ("redis_ssl", "redis.ssl"),
    ("redis_ssl_verify", "redis.ssl_verify"),
    ("redis_server_name", "redis.server_name"),
    ("redis_timeout", "redis.timeout"),
    ("redis_database", "redis.database"),
];

/// A Redis server.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct RedisConfig {
    /// Its name or address.
    #[serde(default)]
    #[schemars(extend("format" = "kong-host"))]
    pub host: Option<String>,

    /// Its port.
    #[serde(default = "port")]
    #[schemars(range(min = 0, max = 65_535))]
    pub port: u16,

    /// Longest wait for a connection, and for replies, in milliseconds.
    #[serde(default = "Number::of::<2000>")]
    #[schemars(range(min = 0, max = 2_147_483_646))]
    pub timeout: Number,

    /// The user to log in as.
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true))]
    pub username: Option<String>,

    /// The password to log in with.
    #[serde(default)]
    #[schemars(length(min = 0), extend("x-referenceable" = true, "x-encrypted" = true))]
    pub password: Option<SecretText>,

    /// Number of the database.
    #[serde(default)]
    pub database: i64,

    /// Speaks TLS.
    #[serde(default)]
    pub ssl: bool,

    /// Whether the server's certificate must be valid for its name.
    #[serde(default)]
    pub ssl_verify: bool,

    /// The name to ask for in TLS, if it is not the host.
    #[serde(default)]
    pub server_name: Option<String>,
}

const fn port() -> u16 {
    6379
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            host: None,
            port: port(),
            timeout: Number::of::<2000>(),
            username: None,
            password: None,
            database: 0,
            ssl: false,
            ssl_verify: false,
            server_name: None,
        }
    }
}

impl RedisConfig {
    /// The server; `None` without a host.
    pub(crate) fn server(&self) -> Option<Arc<RedisServer>> {
        let host = self.host.clone()?;
        let timeout = self.timeout.milliseconds();
        let given = |text: &String| !text.is_empty();
        Some(Arc::new(RedisServer {
            endpoint: Endpoint::Network(Address {
                host,
                port: self.port,
            }),
            username: self.username.clone().filter(given),
            password: self
                .password
                .as_ref()
                .filter(|password| !password.expose().is_empty())
                .map(|password| Secret::new(password.expose().to_owned())),
            database: self.database,
            tls: self.ssl.then(|| RedisTls {
                verify: self.ssl_verify,
                server_name: self.server_name.clone(),
            }),
            connect_timeout: timeout,
            read_timeout: timeout,
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::registry::check;

    #[test]
    fn where_and_how_long_is_judged_under_either_name() {
        let check = |config: Value| {
            let mut whole = json!({"minute": 1, "policy": "redis"});
            let fields = config.as_object().unwrap().clone();
            whole.as_object_mut().unwrap().extend(fields);
            check("rate-limiting", &whole).map_err(|errors| errors.by_field["redis"].clone())
        };
        let host = json!({"host": "invalid value: a b"});
        let timeout = json!({"timeout": "value should be between 0 and 2147483646"});
        let port = json!({"port": "value should be between 0 and 65535"});
        for (config, expected) in [
            (json!({"redis": {"host": "a b"}}), &host),
            (json!({"redis_host": "a b"}), &host),
            (json!({"redis": {"host": "x", "timeout": -1}}), &timeout),
            (
                json!({"redis": {"host": "x", "timeout": 2_147_483_647_u32}}),
                &timeout,
            ),
            (json!({"redis_host": "x", "redis_timeout": -1}), &timeout),
            (json!({"redis": {"host": "x", "port": 65_536}}), &port),
        ] {
            assert_eq!(check(config.clone()).as_ref(), Err(expected), "{config}");
        }
        for host in ["redis.internal", "10.0.0.1", "::1", "[::1]"] {
            let config = json!({"redis": {"host": host, "timeout": 0}});
            assert!(check(config).is_ok(), "{host}");
        }
    }
}
