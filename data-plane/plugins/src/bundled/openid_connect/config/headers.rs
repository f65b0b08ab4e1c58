//! What the upstream and the client learn of the user, by header.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::default;

/// Headers made of tokens and claims.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Headers {
    /// Claims sent upstream as headers.
    #[serde(default)]
    pub upstream_headers_claims: Option<Vec<String>>,

    /// Names of the headers of `upstream_headers_claims`, by position.
    #[serde(default)]
    pub upstream_headers_names: Option<Vec<String>>,

    /// Header that carries the access token upstream; `:bearer` adds the scheme. `null`: none.
    #[serde(default = "default::upstream_access_token_header")]
    pub upstream_access_token_header: Option<String>,

    /// Header that carries the key of the access token upstream.
    #[serde(default)]
    pub upstream_access_token_jwk_header: Option<String>,

    /// Header that carries the ID token upstream.
    #[serde(default)]
    pub upstream_id_token_header: Option<String>,

    /// Header that carries the key of the ID token upstream.
    #[serde(default)]
    pub upstream_id_token_jwk_header: Option<String>,

    /// Header that carries the refresh token upstream.
    #[serde(default)]
    pub upstream_refresh_token_header: Option<String>,

    /// Header that carries the user info upstream.
    #[serde(default)]
    pub upstream_user_info_header: Option<String>,

    /// Header that carries the user info upstream as the JWT that was received.
    #[serde(default)]
    pub upstream_user_info_jwt_header: Option<String>,

    /// Header that carries the introspection result upstream.
    #[serde(default)]
    pub upstream_introspection_header: Option<String>,

    /// Header that carries the introspection result upstream as the JWT that was received.
    #[serde(default)]
    pub upstream_introspection_jwt_header: Option<String>,

    /// Header that carries the session id upstream.
    #[serde(default)]
    pub upstream_session_id_header: Option<String>,

    /// Claims sent to the client as headers.
    #[serde(default)]
    pub downstream_headers_claims: Option<Vec<String>>,

    /// Names of the headers of `downstream_headers_claims`, by position.
    #[serde(default)]
    pub downstream_headers_names: Option<Vec<String>>,

    /// Header that carries the access token to the client.
    #[serde(default)]
    pub downstream_access_token_header: Option<String>,

    /// Header that carries the ID token to the client.
    #[serde(default)]
    pub downstream_id_token_header: Option<String>,

    /// Header that carries the refresh token to the client.
    #[serde(default)]
    pub downstream_refresh_token_header: Option<String>,

    /// Header that carries the session id to the client.
    #[serde(default)]
    pub downstream_session_id_header: Option<String>,

    /// Header that carries the key of the access token to the client.
    #[serde(default)]
    pub downstream_access_token_jwk_header: Option<String>,

    /// Header that carries the key of the ID token to the client.
    #[serde(default)]
    pub downstream_id_token_jwk_header: Option<String>,

    /// Header that carries the user info to the client.
    #[serde(default)]
    pub downstream_user_info_header: Option<String>,

    /// Header that carries the user info JWT to the client.
    #[serde(default)]
    pub downstream_user_info_jwt_header: Option<String>,

    /// Header that carries the introspection result to the client.
    #[serde(default)]
    pub downstream_introspection_header: Option<String>,

    /// Header that carries the introspection JWT to the client.
    #[serde(default)]
    pub downstream_introspection_jwt_header: Option<String>,
}
