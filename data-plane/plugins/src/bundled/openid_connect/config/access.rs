//! Who may pass, as whom, and what those who may not are told.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::default;
use super::values::{ConsumerBy, Number};

/// Required claims, consumers and error answers.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch that Kong defines"
)]
pub struct Access {
    /// Scopes that a token must have. Words of one element are all needed; one element
    /// suffices.
    #[serde(default)]
    pub scopes_required: Option<Vec<String>>,

    /// Path to the claim that holds the scopes.
    #[serde(default = "default::scope")]
    pub scopes_claim: Option<Vec<String>>,

    /// Audiences that a token must have. Words of one element are all needed; one element
    /// suffices.
    #[serde(default)]
    pub audience_required: Option<Vec<String>>,

    /// Path to the claim that holds the audience.
    #[serde(default = "default::aud")]
    pub audience_claim: Option<Vec<String>>,

    /// Groups that a token must have. Words of one element are all needed; one element
    /// suffices.
    #[serde(default)]
    pub groups_required: Option<Vec<String>>,

    /// Path to the claim that holds the groups.
    #[serde(default = "default::groups")]
    pub groups_claim: Option<Vec<String>>,

    /// Roles that a token must have. Words of one element are all needed; one element suffices.
    #[serde(default)]
    pub roles_required: Option<Vec<String>>,

    /// Path to the claim that holds the roles.
    #[serde(default = "default::roles")]
    pub roles_claim: Option<Vec<String>>,

    /// Claims that a token must not have.
    #[serde(default)]
    pub claims_forbidden: Option<Vec<String>>,

    /// Longest time in seconds for which what a provider said of somebody decides: older claims of a session are
    /// renewed first, by its refresh token if that brings an ID token, an access token that is a JWT or user info, else
    /// by a new sign-in; an older bearer token is refused.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub max_claim_age: Option<Number>,

    /// Time in seconds for which the claims of a session serve beyond `max_claim_age` while the provider fails.
    #[serde(default = "default::zero")]
    #[schemars(range(min = 0))]
    pub stale_if_error: Number,

    /// Accepted values of the `hd` claim of ID tokens.
    #[serde(default)]
    pub domains: Option<Vec<String>>,

    /// Path to the claim whose values become the request's authenticated groups, for the `acl`
    /// plugin.
    #[serde(default)]
    pub authenticated_groups_claim: Option<Vec<String>>,

    /// Path to the claim that names the consumer.
    #[serde(default)]
    pub consumer_claim: Option<Vec<String>>,

    /// Fields of consumers that the claim is compared with, in this order.
    #[serde(default = "default::consumer_by")]
    pub consumer_by: Option<Vec<ConsumerBy>>,

    /// Compares user names without regard to case.
    #[serde(default)]
    pub by_username_ignore_case: bool,

    /// Lets a request pass whose claim names no consumer.
    #[serde(default)]
    pub consumer_optional: bool,

    /// Path to the claim that names consumer groups: the request counts as of their members', beside those of its
    /// consumer, if it has one.
    #[serde(default)]
    pub consumer_groups_claim: Option<Vec<String>>,

    /// Lets a request pass whose claim names no consumer group that there is.
    #[serde(default)]
    pub consumer_groups_optional: bool,

    /// Path to the claim that stands for a credential when no consumer was found.
    #[serde(default = "default::sub")]
    pub credential_claim: Option<Vec<String>>,

    /// Id or user name of the consumer that stands in when authentication fails for want of a credential
    /// that is valid, or of any.
    #[serde(default)]
    pub anonymous: Option<String>,

    /// Lets a forged token, one with a bad signature, of another issuer or with a proof that is not its own, pass as the
    /// anonymous consumer, as Kong does. Otherwise only what is missing, has expired or is refused without being forged does: a
    /// wrong password, say, or a token that is none.
    #[serde(default)]
    pub anonymous_for_forged_tokens: bool,

    /// Message of answers with status 401.
    #[serde(default = "default::unauthorized")]
    pub unauthorized_error_message: String,

    /// Where a 401 redirects to instead, by position of the client.
    #[serde(default)]
    pub unauthorized_redirect_uri: Option<Vec<String>>,

    /// Ends the session on a 401.
    #[serde(default = "default::yes")]
    pub unauthorized_destroy_session: bool,

    /// Message of answers with status 403.
    #[serde(default = "default::forbidden")]
    pub forbidden_error_message: String,

    /// Where a 403 redirects to instead, by position of the client.
    #[serde(default)]
    pub forbidden_redirect_uri: Option<Vec<String>>,

    /// Ends the session on a 403; a sign-in that comes to one begins none then.
    #[serde(default = "default::yes")]
    pub forbidden_destroy_session: bool,

    /// Where a failure of the provider or the gateway redirects to instead, by position of the
    /// client.
    #[serde(default)]
    pub unexpected_redirect_uri: Option<Vec<String>>,

    /// Adds the reason to error messages.
    #[serde(default)]
    pub display_errors: bool,

    /// Adds the error code of RFC 6750 to `WWW-Authenticate`.
    #[serde(default = "default::yes")]
    pub expose_error_code: bool,
}
