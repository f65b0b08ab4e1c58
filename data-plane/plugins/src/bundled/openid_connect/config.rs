//! The configuration of `openid-connect`: every parameter of Kong 3.9, by subject.

mod default;
mod redis;
mod values;

pub mod access;
pub mod client;
pub mod credentials;
pub mod headers;
pub mod logout;
pub mod preset;
pub mod provider;
pub mod session;
pub mod sign_in;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use redis::modernize as modernize_redis;
pub use redis::{ClusterNode, Redis, SentinelNode, SentinelRole};
pub use values::*;

/// The default of `auth_methods`: all that Kong knows.
pub(super) fn default_auth_methods() -> Vec<AuthMethod> {
    default::auth_methods()
}

/// Whether nobody has chosen among methods: all are listed, in whatever order a client writes them, but perhaps `userinfo`,
/// which plugins lack that were made before Kong knew of it.
pub(super) fn lists_all(methods: &[AuthMethod]) -> bool {
    let mut all = default_auth_methods().into_iter();
    all.all(|method| method == AuthMethod::Userinfo || methods.contains(&method))
}

/// The default of `session_audience`.
pub(super) fn default_audience() -> String {
    default::default()
}

/// Configuration of `openid-connect`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-null-is-default" = true))]
pub struct OpenidConnect {
    /// The OpenID provider and the connection to it.
    #[serde(flatten)]
    pub provider: provider::Provider,
    /// The relying party and the endpoints that it calls.
    #[serde(flatten)]
    pub client: client::Client,
    /// The authorization code flow.
    #[serde(flatten)]
    pub sign_in: sign_in::SignIn,
    /// The session.
    #[serde(flatten)]
    pub session: session::Session,
    /// Credentials: which, where, and how they are verified.
    #[serde(flatten)]
    pub credentials: credentials::Credentials,
    /// Required claims, consumers and error answers.
    #[serde(flatten)]
    pub access: access::Access,
    /// Headers made of tokens and claims.
    #[serde(flatten)]
    pub headers: headers::Headers,
    /// Logout.
    #[serde(flatten)]
    pub logout: logout::Logout,
}

/// Old names of parameters, accepted on write: `(old, new)`. A dot leads into a record; nothing as the
/// new name means that the old one is accepted and ignored, as Kong 3.2 and later do.
pub const SHORTHANDS: &[(&str, &str)] = &[
    ("auth_method", "auth_methods"),
    (
        "authorization_cookie_lifetime",
        "authorization_rolling_timeout",
    ),
    (
        "authorization_cookie_samesite",
        "authorization_cookie_same_site",
    ),
    (
        "authorization_cookie_httponly",
        "authorization_cookie_http_only",
    ),
    ("session_cookie_lifetime", "session_rolling_timeout"),
    ("session_cookie_idletime", "session_idling_timeout"),
    ("session_cookie_samesite", "session_cookie_same_site"),
    ("session_cookie_httponly", "session_cookie_http_only"),
    ("session_cookie_maxsize", ""),
    ("session_strategy", ""),
    ("session_compressor", ""),
    ("session_memcache_prefix", "session_memcached_prefix"),
    ("session_memcache_socket", "session_memcached_socket"),
    ("session_memcache_host", "session_memcached_host"),
    ("session_memcache_port", "session_memcached_port"),
    ("session_redis_prefix", "redis.prefix"),
    ("session_redis_socket", "redis.socket"),
    ("session_redis_host", "redis.host"),
    ("session_redis_port", "redis.port"),
    ("session_redis_username", "redis.username"),
    ("session_redis_password", "redis.password"),
    ("session_redis_auth", "redis.password"),
    ("session_redis_connect_timeout", "redis.connect_timeout"),
    ("session_redis_read_timeout", "redis.read_timeout"),
    ("session_redis_send_timeout", "redis.send_timeout"),
    ("session_redis_ssl", "redis.ssl"),
    ("session_redis_ssl_verify", "redis.ssl_verify"),
    ("session_redis_server_name", "redis.server_name"),
    ("session_redis_cluster_nodes", "redis.cluster_nodes"),
    (
        "session_redis_cluster_maxredirections",
        "redis.cluster_max_redirections",
    ),
    (
        "session_redis_cluster_max_redirections",
        "redis.cluster_max_redirections",
    ),
];
