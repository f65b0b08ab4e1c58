//! Where the OpenID provider is, and how the gateway talks to it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::types::Set;

use super::default;
use super::preset::Preset;
use super::redis::Redis;
use super::values::{Number, SecretText, Switch};

/// The OpenID provider and the connection to it.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch that Kong defines"
)]
pub struct Provider {
    /// Issuer identifier of the OpenID provider, or the URL of its discovery document. `https`;
    /// `http` is accepted for a loopback host, or elsewhere with `allow_insecure_http`.
    pub issuer: String,

    /// Accepts `http` URLs of the provider on hosts that are not loopback. Tokens and secrets
    /// then cross the network in clear: for test networks only.
    #[serde(default)]
    pub allow_insecure_http: bool,

    /// Treats `issuer` as a mere name: nothing is discovered, endpoints and `extra_jwks_uris`
    /// must be configured.
    #[serde(default)]
    pub using_pseudo_issuer: bool,

    /// Accepted `iss` values of tokens. Replaces the discovered issuer.
    #[serde(default)]
    pub issuers_allowed: Option<Vec<String>>,

    /// Names of extra headers sent with discovery and JWKS requests.
    #[serde(default)]
    pub discovery_headers_names: Option<Vec<String>>,

    /// Values of `discovery_headers_names`, by position.
    #[serde(default)]
    pub discovery_headers_values: Option<Vec<String>>,

    /// URLs of further JWKS documents whose keys are trusted too.
    #[serde(default)]
    pub extra_jwks_uris: Option<Set<String>>,

    /// Shortest time in seconds between two re-discoveries that unknown keys of clients' tokens ask for, those of logout
    /// tokens for each address that sends some, and endpoints that are not where they were. For keys of what the provider
    /// itself has just answered it is a second at most.
    #[serde(default = "default::thirty")]
    #[schemars(range(min = 0))]
    pub rediscovery_lifetime: Number,

    /// HTTP version spoken to the provider.
    #[serde(default = "default::http_1_1")]
    pub http_version: Number,

    /// Proxy for `http` URLs of the provider.
    #[serde(default)]
    pub http_proxy: Option<String>,

    /// `Proxy-Authorization` header for `http_proxy`.
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true, "x-encrypted" = true))]
    pub http_proxy_authorization: Option<SecretText>,

    /// Proxy for `https` URLs of the provider.
    #[serde(default)]
    pub https_proxy: Option<String>,

    /// `Proxy-Authorization` header for `https_proxy`.
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true, "x-encrypted" = true))]
    pub https_proxy_authorization: Option<SecretText>,

    /// Hosts, separated by commas, that are reached without the proxy.
    #[serde(default)]
    pub no_proxy: Option<String>,

    /// Keeps connections to the provider open for reuse. What may reach it only once, such as a code or a refresh token, goes
    /// over a new one all the same.
    #[serde(default = "default::yes")]
    pub keepalive: bool,

    /// Verifies the provider's certificate. Switching it off lets anyone on the path read
    /// tokens and secrets.
    #[serde(default = "default::yes")]
    pub ssl_verify: bool,

    /// Longest wait for an answer of the provider, in milliseconds. A connection to one of its addresses has to come about within
    /// two seconds; then the next address is tried.
    #[serde(default = "default::ten_thousand")]
    #[schemars(range(min = 0, max = 2_147_483_646))]
    pub timeout: Number,

    /// Time in seconds for which discovery documents and keys are used before they are fetched
    /// anew (while that fails they serve for a day longer), and for which a verified token that names no expiry is remembered.
    #[serde(default = "default::one_hour")]
    #[schemars(range(min = 0))]
    pub cache_ttl: Number,

    /// Upper bound in seconds for every cache time.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub cache_ttl_max: Option<Number>,

    /// Lower bound in seconds for every cache time, except that no token outlives its expiry.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub cache_ttl_min: Option<Number>,

    /// Time in seconds for which failures are remembered.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub cache_ttl_neg: Option<Number>,

    /// Time in seconds for which an expired entry may still be used while the provider fails.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub cache_ttl_resurrect: Option<Number>,

    /// Remembers the answers of the token endpoint to the password and client credentials grants, and to
    /// refresh tokens that clients bring, for as long as their access tokens live.
    #[serde(default = "default::yes")]
    pub cache_tokens: bool,

    /// Part of the key of the token cache; equal salts share the cache. Made anew for each plugin that names none.
    #[serde(default)]
    #[schemars(extend("x-auto" = true))]
    pub cache_tokens_salt: Option<String>,

    /// Remembers introspection results.
    #[serde(default = "default::yes")]
    pub cache_introspection: bool,

    /// Remembers exchanged tokens.
    #[serde(default = "default::yes")]
    pub cache_token_exchange: bool,

    /// Remembers user info.
    #[serde(default = "default::yes")]
    pub cache_user_info: bool,

    /// Adds the requested scopes to the key of the token cache.
    #[serde(default)]
    pub token_cache_key_include_scope: bool,

    /// Shares the introspection cache between nodes.
    #[serde(default)]
    pub cluster_cache_strategy: Switch,

    /// Where the shared cache lives.
    #[serde(default)]
    pub cluster_cache_redis: Redis,

    /// Time in seconds for which a session whose access token has ended goes on while the provider is
    /// down or fails, or has not published the key of its new tokens yet, so that the token cannot be refreshed.
    #[serde(default = "default::five_minutes")]
    #[schemars(range(min = 0, max = 3600))]
    pub refresh_grace: Number,

    /// A provider whose ways are known: sets what it needs wherever a parameter is at its default.
    #[serde(default)]
    pub preset: Option<Preset>,
}
