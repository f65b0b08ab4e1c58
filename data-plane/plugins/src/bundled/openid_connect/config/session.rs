//! Session cookies and session storage.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::types::Set;

use super::default;
use super::redis::Redis;
use super::values::{Bind, Number, SameSite, SecretText, SessionHeader, Storage};
use crate::sessions::session_keys::first_of;

/// The session: how long it lives and where.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch that Kong defines"
)]
pub struct Session {
    /// Key material of the cookies. Plugins with an equal secret, issuer, `client_id`, `session_audience` and cookie
    /// name share sessions: a session of one client is none of another's. A change of any of them ends the sessions.
    /// Without it: keys that the control plane makes, rotates and distributes.
    #[serde(default)]
    #[schemars(extend("x-referenceable" = true, "x-encrypted" = true))]
    pub session_secret: Option<SecretText>,

    /// Separates sessions that share everything else. A browser holds one of each audience: the cookies of another one than
    /// `default` are called `session_cookie_name` and `session_remember_cookie_name` with a dash and 16 digits.
    #[serde(default = "default::default")]
    pub session_audience: String,

    /// Name of the session cookie, of the audience `default`. Large sessions add `session2`, `session3` and so on.
    #[serde(default = "default::session")]
    pub session_cookie_name: String,

    /// Time in seconds after which a session ends unless it was renewed; 0 sets no limit.
    #[serde(default = "default::one_hour")]
    #[schemars(range(min = 0))]
    pub session_rolling_timeout: Number,

    /// Renews a session on use when less than this many seconds of `session_rolling_timeout`
    /// are left. Without it: a quarter of that timeout.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub session_cookie_renew: Option<Number>,

    /// Time in seconds without a request after which a session ends; 0 sets no limit.
    #[serde(default = "default::fifteen_minutes")]
    #[schemars(range(min = 0))]
    pub session_idling_timeout: Number,

    /// Time in seconds after sign-in at which a session ends for good; 0 sets no limit.
    #[serde(default = "default::one_day")]
    #[schemars(range(min = 0))]
    pub session_absolute_timeout: Number,

    /// `Path` of the session cookie.
    #[serde(default = "default::root")]
    pub session_cookie_path: String,

    /// `Domain` of the session cookie.
    #[serde(default)]
    pub session_cookie_domain: Option<String>,

    /// `SameSite` of the session cookie. `Default` leaves it out. Browsers send a `Strict` one with nothing that another site
    /// leads to: nobody gets in by a sign-in at a provider's page there with `login_action=redirect`.
    #[serde(default = "default::lax")]
    pub session_cookie_same_site: SameSite,

    /// Hides the session cookie from scripts.
    #[serde(default = "default::yes")]
    pub session_cookie_http_only: bool,

    /// Sends the session cookie over TLS only. Without it: if the request came over TLS.
    #[serde(default)]
    pub session_cookie_secure: Option<bool>,

    /// Over TLS, puts `__Host-` before the names of the session and authorization cookies wherever
    /// their path, domain and security allow it, so that no other host can set them.
    #[serde(default = "default::yes")]
    pub cookie_host_prefix: bool,

    /// Binds a session to what began it: elsewhere its cookie is of no use.
    #[serde(default)]
    pub session_bind: Option<Vec<Bind>>,

    /// Adds a cookie that restores the session after the browser was closed.
    #[serde(default)]
    pub session_remember: bool,

    /// Name of that cookie.
    #[serde(default = "default::remember")]
    pub session_remember_cookie_name: String,

    /// Time in seconds after which that cookie must have been renewed.
    #[serde(default = "default::one_week")]
    #[schemars(range(min = 0))]
    pub session_remember_rolling_timeout: Number,

    /// Time in seconds after which that cookie ends for good.
    #[serde(default = "default::thirty_days")]
    #[schemars(range(min = 0))]
    pub session_remember_absolute_timeout: Number,

    /// Facts of the session sent upstream as headers.
    #[serde(default)]
    pub session_request_headers: Option<Set<SessionHeader>>,

    /// Facts of the session sent to the client as headers.
    #[serde(default)]
    pub session_response_headers: Option<Set<SessionHeader>>,

    /// Keeps a list of sessions by audience and subject in Redis.
    #[serde(default)]
    pub session_store_metadata: bool,

    /// All audiences of a browser have one subject: whoever signs in takes the place of the session of another audience,
    /// for the cookies of all have one name.
    #[serde(default)]
    pub session_enforce_same_subject: bool,

    /// Hashes the subject in the storage's metadata.
    #[serde(default)]
    pub session_hash_subject: bool,

    /// Hashes the key of the session in the storage.
    #[serde(default)]
    pub session_hash_storage_key: bool,

    /// Where sessions live: in cookies or in Redis.
    #[serde(default)]
    pub session_storage: Storage,

    /// Prefix of keys in memcached, in which no sessions are kept here: without effect.
    #[serde(default)]
    pub session_memcached_prefix: Option<String>,

    /// Unix socket of memcached, in which no sessions are kept here: without effect.
    #[serde(default)]
    pub session_memcached_socket: Option<String>,

    /// Host of memcached, in which no sessions are kept here: without effect.
    #[serde(default = "default::loopback")]
    pub session_memcached_host: String,

    /// Port of memcached, in which no sessions are kept here: without effect.
    #[serde(default = "default::memcached_port")]
    pub session_memcached_port: u16,

    /// Redis server for sessions.
    #[serde(default)]
    pub redis: Redis,
}

impl Session {
    /// How long a session that was sealed once, or what restores it, may be good.
    pub(crate) fn sealed_for(&self) -> Duration {
        let session = first_of(&[
            &self.session_idling_timeout,
            &self.session_rolling_timeout,
            &self.session_absolute_timeout,
        ]);
        if !self.session_remember {
            return session;
        }
        session.max(first_of(&[
            &self.session_remember_rolling_timeout,
            &self.session_remember_absolute_timeout,
        ]))
    }
}
