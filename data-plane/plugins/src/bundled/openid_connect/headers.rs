//! The headers that tell upstream and client of tokens and claims, their names prepared.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use shared::schema::FieldErrors;
use tracing::warn;

use super::claims;
use super::config::OpenidConnect;
use super::jws::Claims;
use crate::config::reserved_headers::Message;
use crate::credentials::identity_headers;

/// Most bytes of all values of one side.
const MOST: usize = 32 * 1024;

/// Which header carries what.
#[derive(Debug, Default)]
pub(super) struct HeaderRules {
    pub(super) upstream: Side,
    pub(super) downstream: Side,
    /// What only this filter may set: not those that may carry a client's credential.
    pub(super) owned: Vec<HeaderName>,
    /// What only this filter may set, too, and reads first: the client's own leaves before the request goes upstream.
    read: Vec<HeaderName>,
    /// What only this filter may tell the client.
    pub(super) owned_downstream: Vec<HeaderName>,
}

/// The headers of one side.
#[derive(Debug, Default)]
pub(super) struct Side {
    tokens: Vec<(HeaderName, Prefix, Token)>,
    claims: Vec<(HeaderName, String)>,
}

#[derive(Clone, Copy, Debug)]
enum Prefix {
    None,
    Bearer,
}

#[derive(Clone, Copy, Debug)]
enum Token {
    Access,
    Id,
    Refresh,
    Session,
    AccessKey,
    IdKey,
    UserInfo,
    UserInfoJwt,
    Introspection,
    IntrospectionJwt,
}

impl Token {
    const ALL: [Self; 10] = [
        Self::Access,
        Self::Id,
        Self::Refresh,
        Self::Session,
        Self::AccessKey,
        Self::IdKey,
        Self::UserInfo,
        Self::UserInfoJwt,
        Self::Introspection,
        Self::IntrospectionJwt,
    ];

    /// Whether it is a token, which whoever reads it could use.
    const fn is_secret(self) -> bool {
        match self {
            Self::Access
            | Self::Id
            | Self::Refresh
            | Self::UserInfoJwt
            | Self::IntrospectionJwt => true,
            Self::Session
            | Self::AccessKey
            | Self::IdKey
            | Self::UserInfo
            | Self::Introspection => false,
        }
    }
}

/// What headers are made of.
#[derive(Clone, Copy, Default)]
pub(super) struct Facts<'a> {
    pub(super) access_token: &'a str,
    pub(super) id_token: Option<&'a str>,
    pub(super) refresh_token: Option<&'a str>,
    pub(super) session_id: Option<&'a str>,
    pub(super) access: Option<&'a Claims>,
    pub(super) id: Option<&'a Claims>,
    /// What the introspection endpoint said.
    pub(super) introspection: Option<&'a Claims>,
    /// The same, as the JWT that came.
    pub(super) introspection_jwt: Option<&'a str>,
    /// What the user info endpoint said.
    pub(super) user_info: Option<&'a Claims>,
    /// The same, as the JWT that came.
    pub(super) user_info_jwt: Option<&'a str>,
    /// The keys that signed access and ID token, as headers show them.
    pub(super) keys: [Option<&'a str>; 2],
    /// Whether claims are looked for in the user info too.
    pub(super) searches_user_info: bool,
}

impl<'a> Facts<'a> {
    /// Where the claims of headers are looked for, in this order.
    fn of_headers(self) -> impl Iterator<Item = &'a Claims> {
        let user_info = self.user_info.filter(|_| self.searches_user_info);
        [self.introspection, self.access, self.id, user_info]
            .into_iter()
            .flatten()
    }

    /// Where the claims that say who somebody is are looked for, in this order.
    pub(super) fn of_identity(self) -> impl Iterator<Item = &'a Claims> {
        let user_info = self.user_info.filter(|_| self.searches_user_info);
        [self.access, self.introspection, self.id, user_info]
            .into_iter()
            .flatten()
    }
}

/// The fields of one side, in the order of [`Token::ALL`], with their names.
macro_rules! tokens {
    ($config:ident: $($field:ident),*) => {
        [$((stringify!($field), &$config.$field)),*]
    };
}

impl HeaderRules {
    /// Prepares the names, or says which are none.
    pub(super) fn new(all: &OpenidConnect, errors: &mut FieldErrors) -> Self {
        let config = &all.headers;
        let upstream = Side::new(
            Message::Request,
            &tokens!(config: upstream_access_token_header, upstream_id_token_header,
                upstream_refresh_token_header, upstream_session_id_header,
                upstream_access_token_jwk_header, upstream_id_token_jwk_header,
                upstream_user_info_header, upstream_user_info_jwt_header,
                upstream_introspection_header, upstream_introspection_jwt_header),
            (
                "upstream_headers_names",
                &config.upstream_headers_names,
                &config.upstream_headers_claims,
            ),
            errors,
        );
        let downstream = Side::new(
            Message::Answer,
            &tokens!(config: downstream_access_token_header, downstream_id_token_header,
                downstream_refresh_token_header, downstream_session_id_header,
                downstream_access_token_jwk_header, downstream_id_token_jwk_header,
                downstream_user_info_header, downstream_user_info_jwt_header,
                downstream_introspection_header, downstream_introspection_jwt_header),
            (
                "downstream_headers_names",
                &config.downstream_headers_names,
                &config.downstream_headers_claims,
            ),
            errors,
        );
        let mut owned = identity_headers::ALL.to_vec();
        let wanted = read(all);
        let mut read = Vec::new();
        for name in upstream.names().filter(|name| **name != AUTHORIZATION) {
            let list = if wanted.contains(name) {
                &mut read
            } else {
                &mut owned
            };
            list.push(name.clone());
        }
        let owned_downstream = downstream.names().cloned().collect();
        Self {
            upstream,
            downstream,
            owned,
            read,
            owned_downstream,
        }
    }

    /// Takes away the client's own copies of what this filter alone may set, where it sets nothing.
    pub(super) fn withhold(&self, headers: &mut HeaderMap) {
        for name in &self.read {
            headers.remove(name);
        }
    }

    /// The fields of both sides that carry secrets.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &HeaderName> {
        let all = self.upstream.tokens.iter().chain(&self.downstream.tokens);
        let secrets = all.filter(|(_, _, token)| token.is_secret());
        secrets.map(|(name, ..)| name)
    }
}

/// The headers that a client's credentials and arguments are read from, beside `Authorization`.
fn read(config: &OpenidConnect) -> Vec<HeaderName> {
    let (credentials, client) = (&config.credentials, &config.client);
    let names = [
        &credentials.refresh_token_param_name,
        &credentials.id_token_param_name,
    ];
    let lists = [
        &client.token_headers_client,
        &client.token_post_args_client,
        &credentials.introspection_headers_client,
        &credentials.introspection_post_args_client_headers,
        &credentials.userinfo_headers_client,
    ];
    let argument = &client.client_arg;
    let always = ["access-token", "x-access-token", "dpop"].map(str::to_owned);
    let all = always.into_iter();
    let all = all.chain([argument.clone(), format!("x-{argument}")]);
    let all = all.chain(names.into_iter().flatten().cloned());
    let all = all.chain(lists.into_iter().flatten().flatten().cloned());
    all.filter_map(|name| header_name(&name)).collect()
}

impl Side {
    fn new(
        message: Message,
        tokens: &[(&str, &Option<String>); 10],
        (field, names, sources): (&str, &Option<Vec<String>>, &Option<Vec<String>>),
        errors: &mut FieldErrors,
    ) -> Self {
        let mut side = Self::default();
        let mut judged = |field: &str, text: &str, name: &str| {
            let Some(name) = header_name(name) else {
                errors.add(&[field], format!("invalid header name: {text}"));
                return None;
            };
            if let Some(refusal) = message.refusal(&name) {
                errors.add(&[field], refusal);
                return None;
            }
            Some(name)
        };
        for ((field, value), token) in tokens.iter().zip(Token::ALL) {
            let Some(value) = value.as_deref().filter(|value| !value.is_empty()) else {
                continue;
            };
            let (name, prefix) = match value.rsplit_once(':') {
                Some((name, "bearer")) => (name, Prefix::Bearer),
                _ => (value, Prefix::None),
            };
            if let Some(name) = judged(field, value, name) {
                side.tokens.push((name, prefix, token));
            }
        }
        let names = names.as_deref().unwrap_or_default();
        let sources = sources.as_deref().unwrap_or_default();
        for (name, claim) in names.iter().zip(sources) {
            if let Some(name) = judged(field, name, name) {
                side.claims.push((name, claim.clone()));
            }
        }
        side
    }

    fn names(&self) -> impl Iterator<Item = &HeaderName> {
        let tokens = self.tokens.iter().map(|(name, ..)| name);
        tokens.chain(self.claims.iter().map(|(name, _)| name))
    }

    /// Each header with its value. `None`: there is nothing to say, and nobody else may say it.
    pub(super) fn values(&self, facts: Facts<'_>) -> Vec<(HeaderName, Option<HeaderValue>)> {
        let mut values = Vec::new();
        for (name, claim) in &self.claims {
            let found = facts
                .of_headers()
                .find_map(|claims| claims.get(claim).filter(|value| !value.is_null()));
            values.push((name.clone(), found.and_then(claim_value)));
        }
        for (name, prefix, token) in &self.tokens {
            let object;
            let text = match token {
                Token::Introspection => {
                    object = facts.introspection.and_then(encoded);
                    object.as_deref()
                }
                Token::UserInfo => {
                    object = facts.user_info.and_then(encoded);
                    object.as_deref()
                }
                Token::IntrospectionJwt => facts.introspection_jwt,
                Token::UserInfoJwt => facts.user_info_jwt,
                Token::AccessKey => facts.keys.first().copied().flatten(),
                Token::IdKey => facts.keys.last().copied().flatten(),
                Token::Access => Some(facts.access_token),
                Token::Id => facts.id_token,
                Token::Refresh => facts.refresh_token,
                Token::Session => facts.session_id,
            };
            let value = text.and_then(|text| {
                let mut value = match prefix {
                    Prefix::None => identity_headers::text(text),
                    Prefix::Bearer => identity_headers::text(&format!("Bearer {text}")),
                }?;
                value.set_sensitive(true);
                Some(value)
            });
            values.push((name.clone(), value));
        }
        let (claims, tokens) = values.split_at_mut(self.claims.len());
        bound(tokens.iter_mut().chain(claims));
        values
    }
}

/// Leaves out the values that would make all of them longer than [`MOST`].
fn bound<'a>(values: impl Iterator<Item = &'a mut (HeaderName, Option<HeaderValue>)>) {
    let mut left = MOST;
    for (name, value) in values {
        let length = value.as_ref().map_or(0, HeaderValue::len);
        if let Some(rest) = left.checked_sub(length) {
            left = rest;
        } else {
            warn!(header = %name, length, "a header is left out: the head would be too long");
            *value = None;
        }
    }
}

/// Base64 of a JSON object, if it is not too long for a header.
fn encoded(claims: &Claims) -> Option<String> {
    let text = STANDARD.encode(serde_json::to_vec(claims).ok()?);
    (text.len() <= identity_headers::LONGEST).then_some(text)
}

/// `_` stands for `-` (Kong 3.9).
pub(super) fn header_name(name: &str) -> Option<HeaderName> {
    HeaderName::try_from(name.replace('_', "-")).ok()
}

/// The fields in which a client may bring what a configuration calls `name`: that, and the one with `-` for each `_`.
pub(super) fn spellings(name: &str) -> impl Iterator<Item = HeaderName> {
    let literal = HeaderName::try_from(name).ok();
    let dashed = header_name(name).filter(|dashed| literal.as_ref() != Some(dashed));
    literal.into_iter().chain(dashed)
}

/// Single values as text, lists and objects as base64 of their JSON.
fn claim_value(value: &Value) -> Option<HeaderValue> {
    let text = match value {
        Value::Array(_) | Value::Object(_) => STANDARD.encode(value.to_string()).into(),
        Value::String(text) => text.as_str().into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => claims::text(value)?,
    };
    if text.len() > identity_headers::LONGEST {
        return None;
    }
    identity_headers::text(&text)
}
