//! How the gateway presents itself to the provider, and the endpoints that it presents itself to.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::default;
use super::values::{ClientAuth, Grant, Jwk, SecretText, SigningAlgorithm};

/// The relying party and the endpoints that it calls.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Client {
    /// Client ids registered at the provider. Several select each other's settings by position,
    /// see `client_arg`.
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true, "x-encrypted" = true))]
    pub client_id: Option<Vec<String>>,

    /// Client secrets, by position of the client.
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true, "x-encrypted" = true))]
    pub client_secret: Option<Vec<SecretText>>,

    /// Other client secrets, by position of the client, while one takes the other's place at the provider: tried
    /// when it does not accept the client by `client_secret`.
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true, "x-encrypted" = true))]
    pub client_secret_alternate: Option<Vec<SecretText>>,

    /// How the client authenticates at the provider's endpoints, by position of the client.
    /// Without it: what discovery offers of what the client has, preferring `client_secret_basic`; keys of the cluster
    /// where it takes neither secrets nor clients without one.
    #[serde(default)]
    pub client_auth: Option<Vec<ClientAuth>>,

    /// Private keys for `private_key_jwt`, by position of the client. Without it: those that the cluster makes and
    /// publishes at `/openid-connect/jwks`.
    #[serde(default)]
    #[schemars(extend("x-encrypted" = true))]
    pub client_jwk: Option<Vec<Jwk>>,

    /// Algorithms of client assertions, by position of the client.
    #[serde(default)]
    pub client_alg: Option<Vec<SigningAlgorithm>>,

    /// Header or argument of the query or the body that selects the client: by its position from 1, or by its id.
    #[serde(default = "default::client_id")]
    pub client_arg: String,

    /// Certificate that the gateway presents to the provider for `tls_client_auth`. A client without secret and key proves itself by
    /// it also where no method is configured.
    #[serde(default)]
    pub tls_client_auth_cert_id: Option<String>,

    /// Verifies the provider's certificate when the gateway presents its own.
    #[serde(default = "default::yes")]
    pub tls_client_auth_ssl_verify: bool,

    /// Authorization endpoint, in place of the discovered one.
    #[serde(default)]
    pub authorization_endpoint: Option<String>,

    /// Token endpoint, in place of the discovered one.
    #[serde(default)]
    pub token_endpoint: Option<String>,

    /// Client authentication at the token endpoint, in place of `client_auth`.
    #[serde(default)]
    pub token_endpoint_auth_method: Option<ClientAuth>,

    /// Introspection endpoint, in place of the discovered one.
    #[serde(default)]
    pub introspection_endpoint: Option<String>,

    /// Client authentication at the introspection endpoint.
    #[serde(default)]
    pub introspection_endpoint_auth_method: Option<ClientAuth>,

    /// Revocation endpoint, in place of the discovered one.
    #[serde(default)]
    pub revocation_endpoint: Option<String>,

    /// Client authentication at the revocation endpoint, in place of `client_auth`.
    #[serde(default)]
    pub revocation_endpoint_auth_method: Option<ClientAuth>,

    /// Name of the argument that carries the token to the revocation endpoint.
    #[serde(default = "default::token")]
    pub revocation_token_param_name: String,

    /// End-session endpoint, in place of the discovered one.
    #[serde(default)]
    pub end_session_endpoint: Option<String>,

    /// User info endpoint, in place of the discovered one.
    #[serde(default)]
    pub userinfo_endpoint: Option<String>,

    /// Endpoint that exchanges access tokens.
    #[serde(default)]
    pub token_exchange_endpoint: Option<String>,

    /// Token endpoint for mutual TLS.
    #[serde(default)]
    pub mtls_token_endpoint: Option<String>,

    /// Introspection endpoint for mutual TLS.
    #[serde(default)]
    pub mtls_introspection_endpoint: Option<String>,

    /// Revocation endpoint for mutual TLS.
    #[serde(default)]
    pub mtls_revocation_endpoint: Option<String>,

    /// Names of extra headers sent to the token endpoint.
    #[serde(default)]
    pub token_headers_names: Option<Vec<String>>,

    /// Values of `token_headers_names`, by position.
    #[serde(default)]
    pub token_headers_values: Option<Vec<String>>,

    /// Headers of the client passed to the token endpoint.
    #[serde(default)]
    pub token_headers_client: Option<Vec<String>>,

    /// Headers of the token endpoint's answer passed to the client.
    #[serde(default)]
    pub token_headers_replay: Option<Vec<String>>,

    /// Prefix of replayed headers.
    #[serde(default)]
    pub token_headers_prefix: Option<String>,

    /// Grants for which headers are replayed.
    #[serde(default)]
    pub token_headers_grants: Option<Vec<Grant>>,

    /// Names of extra form arguments sent to the token endpoint.
    #[serde(default)]
    pub token_post_args_names: Option<Vec<String>>,

    /// Values of `token_post_args_names`, by position.
    #[serde(default)]
    pub token_post_args_values: Option<Vec<String>>,

    /// Query arguments of the client passed to the token endpoint.
    #[serde(default)]
    pub token_post_args_client: Option<Vec<String>>,
}
