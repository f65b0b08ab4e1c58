//! What authenticates a request, where it is looked for and how it is verified.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::default;
use super::values::{
    AuthMethod, IntrospectionAccept, Number, ParamPlace, ProofOfPossession, SecretText, TokenPlace,
    UnsignedMethod, UserinfoAccept,
};

/// Credentials: which, where, and how they are verified.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch that Kong defines"
)]
pub struct Credentials {
    /// Accepted credentials and grants. Of the full list, which is the default, this version
    /// serves `session`, `bearer`, `introspection`, `userinfo`, `refresh_token`, `password`,
    /// `client_credentials` and `authorization_code`.
    #[serde(default = "default::auth_methods")]
    pub auth_methods: Vec<AuthMethod>,

    /// Where a bearer token is looked for, in this order.
    #[serde(default = "default::token_places")]
    pub bearer_token_param_type: Option<Vec<TokenPlace>>,

    /// Name of the cookie that may carry a bearer token.
    #[serde(default)]
    pub bearer_token_cookie_name: Option<String>,

    /// Where a refresh token is looked for, in this order.
    #[serde(default = "default::param_places")]
    pub refresh_token_param_type: Option<Vec<ParamPlace>>,

    /// Name of the header or argument that carries a refresh token. Without it none is looked
    /// for.
    #[serde(default)]
    pub refresh_token_param_name: Option<String>,

    /// Where a client's id and secret are looked for, in this order: the `Authorization` header
    /// (Basic), the arguments `client_id` and `client_secret`.
    #[serde(default = "default::param_places")]
    pub client_credentials_param_type: Option<Vec<ParamPlace>>,

    /// Where user name and password are looked for, in this order: the `Authorization` header
    /// (Basic), the arguments `username` and `password`.
    #[serde(default = "default::param_places")]
    pub password_param_type: Option<Vec<ParamPlace>>,

    /// Where an ID token that accompanies an access token is looked for.
    #[serde(default = "default::param_places")]
    pub id_token_param_type: Option<Vec<ParamPlace>>,

    /// Name of the argument that carries an ID token.
    #[serde(default)]
    pub id_token_param_name: Option<String>,

    /// Refreshes an expired access token when the session holds a refresh token.
    #[serde(default = "default::yes")]
    pub refresh_tokens: bool,

    /// Removes the credential that authenticated a request before it goes upstream.
    #[serde(default)]
    pub hide_credentials: bool,

    /// Authenticates `OPTIONS` requests too.
    #[serde(default = "default::yes")]
    pub run_on_preflight: bool,

    /// Tolerated difference between the provider's clock and ours, in seconds. An access token is refreshed that long before its
    /// end, but not before half of its life is over.
    #[serde(default = "default::zero")]
    #[schemars(range(min = 0))]
    pub leeway: Number,

    /// Checks the configuration against the discovery document.
    #[serde(default)]
    pub verify_parameters: bool,

    /// Checks the nonce of ID tokens.
    #[serde(default = "default::yes")]
    pub verify_nonce: bool,

    /// Checks the standard claims of tokens. Required claims are checked in any case.
    #[serde(default = "default::yes")]
    pub verify_claims: bool,

    /// Checks signatures of tokens. Without it anyone can forge them.
    #[serde(default = "default::yes")]
    pub verify_signature: bool,

    /// Methods whose access tokens are accepted without a check of their signature.
    #[serde(default)]
    pub ignore_signature: Vec<UnsignedMethod>,

    /// Accepts a bearer token only if its header names the type `at+jwt` (RFC 9068 §4).
    #[serde(default)]
    pub require_at_jwt: bool,

    /// Accepts tokens signed with the client secret (HS256, HS384, HS512).
    #[serde(default)]
    pub enable_hs_signatures: bool,

    /// Verifies the tokens of a session at each use.
    #[serde(default)]
    pub reverify: bool,

    /// Methods that start no session; `session` stops renewals.
    #[serde(default)]
    pub disable_session: Option<Vec<AuthMethod>>,

    /// Claim of the access token that must equal `jwt_session_cookie`.
    #[serde(default = "default::sid")]
    pub jwt_session_claim: String,

    /// Cookie that must equal `jwt_session_claim`.
    #[serde(default)]
    pub jwt_session_cookie: Option<String>,

    /// `token_type_hint` of introspection requests.
    #[serde(default = "default::access_token")]
    pub introspection_hint: String,

    /// Demands that an introspected token is active.
    #[serde(default = "default::yes")]
    pub introspection_check_active: bool,

    /// `Accept` header of introspection requests.
    #[serde(default)]
    pub introspection_accept: IntrospectionAccept,

    /// Names of extra headers of introspection requests.
    #[serde(default)]
    pub introspection_headers_names: Option<Vec<String>>,

    /// Values of `introspection_headers_names`.
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true, "x-encrypted" = true))]
    pub introspection_headers_values: Option<Vec<SecretText>>,

    /// Headers of the client passed on in introspection requests.
    #[serde(default)]
    pub introspection_headers_client: Option<Vec<String>>,

    /// Names of extra form arguments of introspection requests.
    #[serde(default)]
    pub introspection_post_args_names: Option<Vec<String>>,

    /// Values of `introspection_post_args_names`.
    #[serde(default)]
    pub introspection_post_args_values: Option<Vec<String>>,

    /// Arguments of the client passed on in introspection requests.
    #[serde(default)]
    pub introspection_post_args_client: Option<Vec<String>>,

    /// Headers of the client passed on as form arguments of introspection requests.
    #[serde(default)]
    pub introspection_post_args_client_headers: Option<Vec<String>>,

    /// Name of the argument that carries the token to the introspection endpoint.
    #[serde(default = "default::token")]
    pub introspection_token_param_name: String,

    /// Introspects JWT access tokens too.
    #[serde(default)]
    pub introspect_jwt_tokens: bool,

    /// `Accept` header of user info requests.
    #[serde(default)]
    pub userinfo_accept: UserinfoAccept,

    /// Names of extra headers of user info requests.
    #[serde(default)]
    pub userinfo_headers_names: Option<Vec<String>>,

    /// Values of `userinfo_headers_names`.
    #[serde(default)]
    pub userinfo_headers_values: Option<Vec<String>>,

    /// Headers of the client passed on in user info requests.
    #[serde(default)]
    pub userinfo_headers_client: Option<Vec<String>>,

    /// Names of extra arguments of user info requests.
    #[serde(default)]
    pub userinfo_query_args_names: Option<Vec<String>>,

    /// Values of `userinfo_query_args_names`.
    #[serde(default)]
    pub userinfo_query_args_values: Option<Vec<String>>,

    /// Arguments of the client passed on in user info requests.
    #[serde(default)]
    pub userinfo_query_args_client: Option<Vec<String>>,

    /// Looks for claims in the user info too.
    #[serde(default)]
    pub search_user_info: bool,

    /// Takes in the claims that other sources vouch for, of user info and ID tokens.
    #[serde(default)]
    pub resolve_distributed_claims: bool,

    /// Demands that tokens are bound to the client's certificate.
    #[serde(default)]
    pub proof_of_possession_mtls: ProofOfPossession,

    /// Refuses methods that cannot prove possession.
    #[serde(default = "default::yes")]
    pub proof_of_possession_auth_methods_validation: bool,

    /// Demands that tokens are bound to a key of the client.
    #[serde(default)]
    pub proof_of_possession_dpop: ProofOfPossession,

    /// Challenges DPoP proofs with a nonce.
    #[serde(default)]
    pub dpop_use_nonce: bool,

    /// Time in seconds for which a DPoP proof is valid.
    #[serde(default = "default::five_minutes")]
    #[schemars(range(min = 0))]
    pub dpop_proof_lifetime: Number,
}
