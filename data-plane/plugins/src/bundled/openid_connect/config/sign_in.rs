//! The authorization code flow: what is asked of the provider and where the browser goes afterwards.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::default;
use super::values::{
    AuthMethod, ClientAuth, LoginAction, LoginToken, Number, RedirectMode, ResponseMode, SameSite,
};

/// The authorization code flow.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch that Kong or an operator knows"
)]
pub struct SignIn {
    /// Redirect URIs registered at the provider, by position of the client. Without it: the URL
    /// of the request, without its query, with whatever host the route takes; the provider's list decides.
    /// It must lead to a route that runs this plugin.
    #[serde(default)]
    pub redirect_uri: Option<Vec<String>>,

    /// How the provider returns the code: in the query, as a form, or, with `jwt`, signed. From a
    /// fragment a page of the application has to hand it on.
    #[serde(default)]
    pub response_mode: ResponseMode,

    /// Response type asked of the provider.
    #[serde(default = "default::code")]
    pub response_type: Vec<String>,

    /// Answers 401 in place of a redirect to requests that are no navigation of a browser: scripts and
    /// programs, which cannot follow a sign-in. Without it every request without a credential is
    /// redirected.
    #[serde(default)]
    pub redirect_navigations_only: bool,

    /// Scopes asked for.
    #[serde(default = "default::openid")]
    #[schemars(extend("x-referenceable" = true))]
    pub scopes: Option<Vec<String>>,

    /// `audience` arguments of the authorization request.
    #[serde(default)]
    pub audience: Option<Vec<String>>,

    /// Longest time in seconds since the user's authentication at the provider.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub max_age: Option<Number>,

    /// Names of extra arguments of the authorization request.
    #[serde(default)]
    pub authorization_query_args_names: Option<Vec<String>>,

    /// Values of `authorization_query_args_names`, by position.
    #[serde(default)]
    pub authorization_query_args_values: Option<Vec<String>>,

    /// Query arguments of the client passed to the authorization endpoint, such as
    /// `login_hint`.
    #[serde(default)]
    pub authorization_query_args_client: Option<Vec<String>>,

    /// Name of the cookie that holds a sign-in under way. Each sign-in adds its own suffix.
    #[serde(default = "default::authorization")]
    pub authorization_cookie_name: String,

    /// Time in seconds that a sign-in may take; 0 sets no limit.
    #[serde(default = "default::ten_minutes")]
    #[schemars(range(min = 0))]
    pub authorization_rolling_timeout: Number,

    /// `Path` of the authorization cookie.
    #[serde(default = "default::root")]
    pub authorization_cookie_path: String,

    /// `Domain` of the authorization cookie.
    #[serde(default)]
    pub authorization_cookie_domain: Option<String>,

    /// `SameSite` of the authorization cookie. `Default` leaves it out. With `response_mode=form_post`
    /// it is `None` over TLS, and left out otherwise, whatever is set: the provider's form is sent
    /// across sites.
    #[serde(default)]
    pub authorization_cookie_same_site: SameSite,

    /// Hides the authorization cookie from scripts.
    #[serde(default = "default::yes")]
    pub authorization_cookie_http_only: bool,

    /// Sends the authorization cookie over TLS only. Without it: if the request came over TLS.
    #[serde(default)]
    pub authorization_cookie_secure: Option<bool>,

    /// Keeps the query arguments of the first request over the sign-in.
    #[serde(default)]
    pub preserve_query_args: bool,

    /// Methods whose success is followed by `login_action`.
    #[serde(default = "default::authorization_code")]
    pub login_methods: Vec<AuthMethod>,

    /// What follows a sign-in: the request goes upstream, the tokens are the answer, or the
    /// browser is redirected.
    #[serde(default)]
    pub login_action: LoginAction,

    /// Tokens that `login_action` hands out.
    #[serde(default = "default::id_token")]
    pub login_tokens: Option<Vec<LoginToken>>,

    /// Where a redirect carries the tokens.
    #[serde(default)]
    pub login_redirect_mode: RedirectMode,

    /// Where `login_action=redirect` leads to, by position of the client. Without it: the URL
    /// first asked for.
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true))]
    pub login_redirect_uri: Option<Vec<String>>,

    /// Proof Key for Code Exchange. Used unless this is `false`.
    #[serde(default)]
    pub require_proof_key_for_code_exchange: Option<bool>,

    /// Pushed authorization request endpoint, in place of the discovered one.
    #[serde(default)]
    pub pushed_authorization_request_endpoint: Option<String>,

    /// Client authentication at the pushed authorization request endpoint.
    #[serde(default)]
    pub pushed_authorization_request_endpoint_auth_method: Option<ClientAuth>,

    /// Pushes authorization requests.
    #[serde(default)]
    pub require_pushed_authorization_requests: Option<bool>,

    /// Signs authorization requests. Without it: if discovery demands that.
    #[serde(default)]
    pub require_signed_request_object: Option<bool>,

    /// End of the path at which another site may ask for a sign-in, with `iss`, `login_hint` and
    /// `target_link_uri` (OpenID Connect Core §4).
    #[serde(default)]
    pub login_initiation_uri_suffix: Option<String>,

    /// Most sign-ins that one client address may begin in a minute, and most passwords and clients' secrets of its that the
    /// provider may refuse or have before it, on each node; 0 sets no limit.
    #[serde(default = "default::sixty_thousand")]
    #[schemars(range(min = 0, max = 1_000_000_000))]
    pub login_rate_limit: u32,

    /// Keeps a form that is posted without a session over the sign-in and lets the browser post it
    /// again. A form of another site is not kept.
    #[serde(default = "default::yes")]
    pub preserve_post: bool,
}

impl SignIn {
    /// The words of `scopes`, each once, however they are configured.
    pub(crate) fn scope_words(&self) -> Vec<&str> {
        let mut words = Vec::new();
        let scopes = self.scopes.iter().flatten();
        for word in scopes.flat_map(|scope| scope.split(' ')) {
            if !word.is_empty() && !words.contains(&word) {
                words.push(word);
            }
        }
        words
    }
}
