//! The values that parameters take.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use shared::entity::SigningAlgorithm;

pub use crate::config::values::{Number, SecretText};
pub use crate::sessions::cookie::SameSite;
pub use crate::sessions::facts::SessionHeader;

/// A credential or grant.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// Resource owner password credentials grant.
    Password,
    /// Client credentials grant.
    ClientCredentials,
    /// Authorization code flow.
    AuthorizationCode,
    /// JWT access token, verified locally.
    Bearer,
    /// Access token, verified by the introspection endpoint.
    Introspection,
    /// Access token, verified by the user info endpoint.
    Userinfo,
    /// Access token that the gateway's own OAuth 2.0 plugin issued.
    #[serde(rename = "kong_oauth2")]
    KongOauth2,
    /// Refresh token grant.
    RefreshToken,
    /// Session cookie.
    Session,
}

/// A grant whose token headers may be replayed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// Resource owner password credentials grant.
    Password,
    /// Client credentials grant.
    ClientCredentials,
    /// Authorization code grant.
    AuthorizationCode,
    /// Refresh token grant.
    RefreshToken,
}

impl Grant {
    /// Its name on the wire (RFC 6749).
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::ClientCredentials => "client_credentials",
            Self::AuthorizationCode => "authorization_code",
            Self::RefreshToken => "refresh_token",
        }
    }
}

/// A method whose access tokens may go unverified. `bearer` is deliberately not among them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UnsignedMethod {
    /// Resource owner password credentials grant.
    Password,
    /// Client credentials grant.
    ClientCredentials,
    /// Authorization code flow.
    AuthorizationCode,
    /// Refresh token grant.
    RefreshToken,
    /// Session cookie.
    Session,
    /// Introspection.
    Introspection,
    /// User info.
    Userinfo,
}

/// How a client authenticates at the provider (OpenID Connect Core §9, RFC 8705).
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// Id and secret in the `Authorization` header.
    ClientSecretBasic,
    /// Id and secret in the form.
    ClientSecretPost,
    /// Assertion signed with the secret.
    ClientSecretJwt,
    /// Assertion signed with a private key.
    PrivateKeyJwt,
    /// Certificate of an authority.
    TlsClientAuth,
    /// Self-signed certificate.
    SelfSignedTlsClientAuth,
    /// Id only.
    None,
}

impl ClientAuth {
    /// Whether the client presents a certificate.
    pub(crate) const fn is_mutual_tls(self) -> bool {
        matches!(self, Self::TlsClientAuth | Self::SelfSignedTlsClientAuth)
    }
}

/// How the provider returns the code.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ResponseMode {
    /// In the query.
    #[default]
    #[serde(rename = "query")]
    Query,
    /// As a form that the browser posts.
    #[serde(rename = "form_post")]
    FormPost,
    /// In the fragment, which a gateway cannot read.
    #[serde(rename = "fragment")]
    Fragment,
    /// As a signed JWT in the query.
    #[serde(rename = "query.jwt")]
    QueryJwt,
    /// As a signed JWT in a form.
    #[serde(rename = "form_post.jwt")]
    FormPostJwt,
    /// As a signed JWT in the fragment.
    #[serde(rename = "fragment.jwt")]
    FragmentJwt,
    /// As a signed JWT.
    #[serde(rename = "jwt")]
    Jwt,
}

impl ResponseMode {
    /// Its name on the wire.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::FormPost => "form_post",
            Self::Fragment => "fragment",
            Self::QueryJwt => "query.jwt",
            Self::FormPostJwt => "form_post.jwt",
            Self::FragmentJwt => "fragment.jwt",
            Self::Jwt => "jwt",
        }
    }

    /// Whether the response is one signed JWT (JARM).
    pub(crate) const fn is_signed(self) -> bool {
        matches!(
            self,
            Self::QueryJwt | Self::FormPostJwt | Self::FragmentJwt | Self::Jwt
        )
    }

    /// Whether the browser posts it as a form, from the provider's site to ours.
    pub(crate) const fn is_posted(self) -> bool {
        matches!(self, Self::FormPost | Self::FormPostJwt)
    }

    /// Whether it comes in a fragment: a page of the application has to hand it on, as a query or as
    /// a form.
    pub(crate) const fn is_in_fragment(self) -> bool {
        matches!(self, Self::Fragment | Self::FragmentJwt)
    }
}

/// Where a bearer token may be.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenPlace {
    /// A header.
    Header,
    /// A cookie.
    Cookie,
    /// The query.
    Query,
    /// The body, as a form or JSON.
    Body,
}

/// Where another credential may be.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ParamPlace {
    /// A header.
    Header,
    /// The query.
    Query,
    /// The body, as a form or JSON.
    Body,
}

/// What follows a sign-in.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LoginAction {
    /// The request goes upstream.
    #[default]
    Upstream,
    /// The tokens are the answer.
    Response,
    /// The browser is redirected.
    Redirect,
}

/// What `login_action` hands out.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginToken {
    /// The ID token.
    IdToken,
    /// The access token.
    AccessToken,
    /// The refresh token.
    RefreshToken,
    /// The whole answer of the token endpoint.
    Tokens,
    /// The introspection result.
    Introspection,
}

/// Where a redirect carries tokens.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RedirectMode {
    /// In the query.
    Query,
    /// In the fragment, which never reaches a server.
    #[default]
    Fragment,
}

/// A method that may log out.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogoutMethod {
    /// `POST`.
    Post,
    /// `GET`.
    Get,
    /// `DELETE`.
    Delete,
}

/// A field of consumers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumerBy {
    /// The id.
    Id,
    /// The user name.
    Username,
    /// The id in another system.
    CustomId,
}

/// Where sessions live.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// In the cookie.
    #[default]
    Cookie,
    /// In memcached, by its old name.
    Memcache,
    /// In memcached.
    Memcached,
    /// In Redis.
    Redis,
}

/// What a session may be bound to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bind {
    /// The client's address.
    Ip,
    /// `http` or `https`.
    Scheme,
    /// The header `User-Agent`.
    UserAgent,
}

/// Whether a token must be bound to a key of the client.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProofOfPossession {
    /// Not looked at.
    #[default]
    Off,
    /// It must be.
    Strict,
    /// If the token says so.
    Optional,
}

/// Whether and where nodes share a cache.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Not shared.
    #[default]
    Off,
    /// In Redis.
    Redis,
}

/// `Accept` header of introspection requests.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum IntrospectionAccept {
    /// JSON.
    #[default]
    #[serde(rename = "application/json")]
    Json,
    /// A JWT by RFC 9701.
    #[serde(rename = "application/token-introspection+jwt")]
    IntrospectionJwt,
    /// A JWT.
    #[serde(rename = "application/jwt")]
    Jwt,
}

/// `Accept` header of user info requests.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum UserinfoAccept {
    /// JSON.
    #[default]
    #[serde(rename = "application/json")]
    Json,
    /// A JWT.
    #[serde(rename = "application/jwt")]
    Jwt,
}

macro_rules! jwk {
    (public: $($(#[$attribute:meta])* $name:ident)*; private: $($private:ident)*) => {
        /// A JSON Web Key (RFC 7517).
        #[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
        #[expect(missing_docs, reason = "the names are those of RFC 7517 and RFC 7518")]
        pub struct Jwk {
            $($(#[$attribute])* #[serde(default)] pub $name: Option<String>,)*
            #[serde(default)]
            pub key_ops: Option<Vec<String>>,
            #[serde(default)]
            pub x5c: Option<Vec<String>>,
            $(
                #[serde(default)]
                #[schemars(extend("x-referenceable" = true, "x-encrypted" = true))]
                pub $private: Option<SecretText>,
            )*
        }
    };
}

jwk! {
    public:
        issuer kty
        #[serde(rename = "use")] use_
        alg kid x5u x5t x y crv n e
        #[serde(rename = "x5t#S256")] x5t_s256;
    private: k d p q dp dq qi oth r t
}
