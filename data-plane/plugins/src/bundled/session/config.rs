//! The configuration of `session`.

use std::time::Duration;

use http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;
use shared::types::Set;

use crate::config::values::{Number, SecretText, yes};
use crate::sessions::cookie::SameSite;
use crate::sessions::facts::SessionHeader;
use crate::sessions::session_keys::first_of;

/// Configuration of `session`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of Kong's")]
pub struct Session {
    /// Secret that sessions are sealed with, beside the keys of the cluster. Plugins with the same one,
    /// the same `audience` and the same `cookie_name` share their sessions; without one a plugin's
    /// sessions are its own.
    #[serde(default)]
    #[schemars(extend("x-encrypted" = true, "x-referenceable" = true))]
    pub secret: Option<SecretText>,

    /// Where sessions are kept: `cookie`. Data planes have no database for `kong`.
    #[serde(default)]
    pub storage: SessionStorage,

    /// What the session is for: a cookie for something else is not one for this.
    #[serde(default = "audience")]
    pub audience: String,

    /// How long a session lasts that nobody uses, in seconds; 0: as long as it is renewed.
    #[serde(default = "Number::of::<900>")]
    pub idling_timeout: Number,

    /// How long a session lasts without being renewed, in seconds; 0: until `absolute_timeout`. One that
    /// is used is renewed in the last quarter of this time.
    #[serde(default = "Number::of::<3600>")]
    pub rolling_timeout: Number,

    /// How long a session lasts in all, in seconds; 0: as long as it is renewed.
    #[serde(default = "Number::of::<86_400>")]
    pub absolute_timeout: Number,

    /// How long a replaced cookie is good for, in seconds. Of no effect, as nothing is kept that could be
    /// replaced: a cookie is good until its session ends.
    #[serde(default = "Number::of::<10>")]
    pub stale_ttl: Number,

    /// Name of the cookie.
    #[serde(default = "cookie_name")]
    #[schemars(extend("format" = "kong-cookie-name"))]
    pub cookie_name: String,

    /// Path of the cookie.
    #[serde(default = "cookie_path")]
    pub cookie_path: String,

    /// Domain of the cookie; the request's host if absent.
    #[serde(default)]
    pub cookie_domain: Option<String>,

    /// With which requests of other sites browsers send the cookie.
    #[serde(default = "strict")]
    pub cookie_same_site: SameSite,

    /// Keeps the cookie from scripts.
    #[serde(default = "yes")]
    pub cookie_http_only: bool,

    /// Keeps the cookie to TLS.
    #[serde(default = "yes")]
    pub cookie_secure: bool,

    /// Remembers a client beyond its session and the browser's end, by a second cookie.
    #[serde(default)]
    pub remember: bool,

    /// Name of that cookie.
    #[serde(default = "remember_name")]
    #[schemars(extend("format" = "kong-cookie-name"))]
    pub remember_cookie_name: String,

    /// How long a client is remembered that does not come back, in seconds; 0: until
    /// `remember_absolute_timeout`.
    #[serde(default = "Number::of::<604_800>")]
    pub remember_rolling_timeout: Number,

    /// How long a client is remembered in all, in seconds; 0: as long as it comes back.
    #[serde(default = "Number::of::<2_592_000>")]
    pub remember_absolute_timeout: Number,

    /// Facts of the session that the client is told as headers.
    #[serde(default)]
    pub response_headers: Option<Set<SessionHeader>>,

    /// Facts of the session that the upstream is told as headers.
    #[serde(default)]
    pub request_headers: Option<Set<SessionHeader>>,

    /// Looks for `logout_post_arg` in the bodies of requests.
    #[serde(default)]
    pub read_body_for_logout: bool,

    /// Methods of requests that end the session.
    #[serde(default = "logout_methods")]
    pub logout_methods: Option<Set<LogoutMethod>>,

    /// Query argument of such requests.
    #[serde(default = "logout")]
    pub logout_query_arg: Option<String>,

    /// Field in the body of such requests.
    #[serde(default = "logout")]
    pub logout_post_arg: Option<String>,
}

/// Where sessions are kept.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionStorage {
    /// In the cookie itself.
    #[default]
    Cookie,
    /// In Kong's database.
    Kong,
}

/// A method that may end a session.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names are those of RFC 9110 §9.3")]
pub enum LogoutMethod {
    Get,
    Post,
    Delete,
}

impl LogoutMethod {
    /// Whether a request has it.
    pub(super) fn is(self, method: &Method) -> bool {
        *method
            == match self {
                Self::Get => Method::GET,
                Self::Post => Method::POST,
                Self::Delete => Method::DELETE,
            }
    }
}

fn audience() -> String {
    "default".to_owned()
}

fn cookie_name() -> String {
    "session".to_owned()
}

fn cookie_path() -> String {
    "/".to_owned()
}

const fn strict() -> SameSite {
    SameSite::Strict
}

fn remember_name() -> String {
    "remember".to_owned()
}

#[allow(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
fn logout_methods() -> Option<Set<LogoutMethod>> {
    let methods = [LogoutMethod::Post, LogoutMethod::Delete];
    Some(methods.into_iter().collect())
}

#[allow(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
fn logout() -> Option<String> {
    Some("session_logout".to_owned())
}

impl Session {
    /// How long a session that was sealed once, or what restores it, may be good.
    pub(crate) fn sealed_for(&self) -> Duration {
        let session = first_of(&[
            &self.idling_timeout,
            &self.rolling_timeout,
            &self.absolute_timeout,
        ]);
        if !self.remember {
            return session;
        }
        session.max(first_of(&[
            &self.remember_rolling_timeout,
            &self.remember_absolute_timeout,
        ]))
    }

    /// The rules that one field's type does not say.
    pub(super) fn check(&self) -> FieldErrors {
        let mut errors = FieldErrors::default();
        if self.storage == SessionStorage::Kong {
            errors.add(
                &["storage"],
                "kong is not served: data planes have no database; use cookie",
            );
        }
        let plain = |text: &str| {
            text.chars()
                .all(|c| c.is_ascii() && !c.is_ascii_control() && c != ';')
        };
        if !self.cookie_path.starts_with('/') || !plain(&self.cookie_path) {
            errors.add(&["cookie_path"], "should start with: / and have no ;");
        }
        if let Some(domain) = &self.cookie_domain
            && !domain
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
        {
            errors.add(&["cookie_domain"], format!("invalid value: {domain}"));
        }
        if self.remember && self.cookie_name == self.remember_cookie_name {
            errors.add(&["remember_cookie_name"], "must differ from cookie_name");
        }
        for (field, number) in [
            ("idling_timeout", &self.idling_timeout),
            ("rolling_timeout", &self.rolling_timeout),
            ("absolute_timeout", &self.absolute_timeout),
            ("remember_rolling_timeout", &self.remember_rolling_timeout),
            ("remember_absolute_timeout", &self.remember_absolute_timeout),
        ] {
            if number.value() < 0.0 {
                errors.add(&[field], "value must not be less than 0");
            }
        }
        errors
    }
}
