//! What ends a session, and what happens then.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::default;
use super::values::LogoutMethod;

/// Logout.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Logout {
    /// Query argument whose presence means logout.
    #[serde(default)]
    pub logout_query_arg: Option<String>,

    /// Form argument whose presence means logout.
    #[serde(default)]
    pub logout_post_arg: Option<String>,

    /// End of the path that means logout.
    #[serde(default)]
    pub logout_uri_suffix: Option<String>,

    /// Request methods that may log out.
    #[serde(default = "default::logout_methods")]
    pub logout_methods: Option<Vec<LogoutMethod>>,

    /// Where the browser goes after logout, by position of the client; also sent to the
    /// provider.
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true))]
    pub logout_redirect_uri: Option<Vec<String>>,

    /// Revokes tokens at logout; those of a session that the provider ended by a logout token once its
    /// browser shows it again, for its cookie holds them.
    #[serde(default)]
    pub logout_revoke: bool,

    /// Revokes the access token, if `logout_revoke` is on.
    #[serde(default = "default::yes")]
    pub logout_revoke_access_token: bool,

    /// Revokes the refresh token, if `logout_revoke` is on.
    #[serde(default = "default::yes")]
    pub logout_revoke_refresh_token: bool,

    /// End of the path that the provider posts logout tokens to (OpenID Connect Back-Channel Logout).
    #[serde(default)]
    pub backchannel_logout_uri_suffix: Option<String>,

    /// End of the path that the provider's pages frame to log a browser out (OpenID Connect
    /// Front-Channel Logout).
    #[serde(default)]
    pub frontchannel_logout_uri_suffix: Option<String>,
}
