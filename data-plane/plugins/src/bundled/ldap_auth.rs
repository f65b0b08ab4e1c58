//! `ldap-auth`: lets a request through if an LDAP server knows its user name and password (RFC 4513 §5.1.3;
//! Kong 3.9, ldap-auth).

#[cfg(test)]
mod tests;

use std::cell::RefCell;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderName, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;
use shared::secret::Secret;

use crate::answer;
use crate::config::values::Number;
use crate::credentials::authentication::{Refusal, challenge, identify, is_settled, settle};
use crate::exchange::{Exchange, Identity};
use crate::expiring::Expiring;
use crate::filter::{Filter, Flow, Instance, Plugin, Scope};
use crate::host::Host;
use crate::host::ldap::{LdapError, LdapSecurity, LdapServer};

/// Most answers that a core remembers.
const MOST: usize = 10_000;

/// Configuration of `ldap-auth`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of Kong's")]
pub struct LdapAuth {
    /// Name or address of the server.
    #[schemars(extend("format" = "kong-host"))]
    pub ldap_host: String,

    /// Its port.
    #[serde(default = "port")]
    #[schemars(range(min = 0, max = 65_535))]
    pub ldap_port: u16,

    /// Speaks TLS from the start.
    #[serde(default)]
    pub ldaps: bool,

    /// Begins TLS on a connection without it.
    #[serde(default)]
    pub start_tls: bool,

    /// Whether the server's certificate must be valid for its name.
    #[serde(default)]
    pub verify_ldap_host: bool,

    /// Where users are, such as `ou=people,dc=example,dc=com`.
    pub base_dn: String,

    /// Attribute that names a user below, such as `uid`.
    pub attribute: String,

    /// How long an answer of the server is remembered, in seconds.
    #[serde(default = "Number::of::<60>")]
    pub cache_ttl: Number,

    /// Keeps name and password from the upstream.
    #[serde(default)]
    pub hide_credentials: bool,

    /// Longest wait for the server, in milliseconds.
    #[serde(default = "Number::of::<10_000>")]
    pub timeout: Number,

    /// How long Kong keeps an idle connection. Here each question has one of its own, and its answer is
    /// remembered.
    #[serde(default = "Number::of::<60_000>")]
    pub keepalive: Number,

    /// Consumer, by id or username, that requests without valid credentials count as. Without one they
    /// are refused.
    #[serde(default)]
    pub anonymous: Option<String>,

    /// What stands before the credentials in the header.
    #[serde(default = "ldap")]
    pub header_type: String,

    /// Realm of the challenge to clients without credentials.
    #[serde(default)]
    pub realm: Option<String>,
}

const fn port() -> u16 {
    389
}

fn ldap() -> String {
    "ldap".to_owned()
}

impl Plugin for LdapAuth {
    const NAME: &'static str = "ldap-auth";
    const PRIORITY: u32 = 1200;
    const FORBIDDEN_SCOPES: &'static [Scope] = &[Scope::Consumer];
    type Filter = LdapAuthFilter;

    fn compile(self, instance: &Instance) -> Result<LdapAuthFilter, FieldErrors> {
        let security = match (self.ldaps, self.start_tls) {
            (true, true) => {
                let mut errors = FieldErrors::at(&["start_tls"], "value must be false");
                errors.add_rule("'ldaps' and 'start_tls' cannot be enabled simultaneously");
                return Err(errors);
            }
            (true, false) => LdapSecurity::Tls,
            (false, true) => LdapSecurity::StartTls,
            (false, false) => LdapSecurity::None,
        };
        // What Kong wrote in the challenge before schemes could be chosen.
        let scheme = match self.header_type.as_str() {
            "ldap" => "LDAP",
            other => other,
        };
        Ok(LdapAuthFilter {
            instance: *instance,
            challenge: challenge(scheme, self.realm.as_deref()),
            server: LdapServer {
                host: self.ldap_host,
                port: self.ldap_port,
                security,
                verify: self.verify_ldap_host,
                timeout: self.timeout.milliseconds(),
            },
            base: self.base_dn,
            attribute: self.attribute,
            remembered: self.cache_ttl,
            hides: self.hide_credentials,
            anonymous: self.anonymous,
            scheme: self.header_type,
        })
    }
}

/// Asks an LDAP server.
#[derive(Debug)]
pub struct LdapAuthFilter {
    instance: Instance,
    server: LdapServer,
    base: String,
    attribute: String,
    remembered: Number,
    hides: bool,
    anonymous: Option<String>,
    scheme: String,
    challenge: String,
}

/// What servers have answered, by a hash of what they were asked, each for as long as it holds.
#[derive(Default)]
struct Answers(RefCell<Expiring<[u8; 32], bool, MOST>>);

impl Filter for LdapAuthFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        let anonymous = self.anonymous.as_deref();
        if is_settled(exchange, anonymous) {
            return Flow::Continue;
        }
        let user = match self.authenticate(exchange, host).await {
            Ok(user) => user,
            Err(error) => {
                let request_id = &*exchange.request_id;
                tracing::error!(request_id, %error, "a password cannot be checked");
                return Flow::Answer(answer::message(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "An unexpected error occurred",
                    request_id,
                ));
            }
        };
        let Some(user) = user else {
            let refusal = Refusal::new("Unauthorized", self.challenge.clone());
            return settle(exchange, Err(refusal), anonymous);
        };
        if self.hides {
            for header in [AUTHORIZATION, PROXY_AUTHORIZATION] {
                exchange.request.headers.remove(header);
            }
        }
        let identity = Identity {
            credential: Some(user),
            ..Identity::default()
        };
        identify(exchange, identity);
        Flow::Continue
    }
}

impl LdapAuthFilter {
    /// The user whose password the request carries.
    async fn authenticate(
        &self,
        exchange: &Exchange<'_>,
        host: &impl Host,
    ) -> Result<Option<String>, LdapError> {
        for header in [PROXY_AUTHORIZATION, AUTHORIZATION] {
            let Some((user, password)) = self.credentials(exchange, &header) else {
                continue;
            };
            if self.is_right(&user, &password, host).await? {
                return Ok(Some(user));
            }
        }
        Ok(None)
    }

    /// Name and password in `header`. Neither is empty: a bind without a password proves nothing (RFC 4513
    /// §5.1.2), and servers take it.
    fn credentials(
        &self,
        exchange: &Exchange<'_>,
        header: &HeaderName,
    ) -> Option<(String, Secret<String>)> {
        let text = exchange.request.headers.get(header)?.to_str().ok()?;
        let text = text.trim_start();
        let (scheme, rest) = text.split_at_checked(self.scheme.len())?;
        if !scheme.eq_ignore_ascii_case(&self.scheme) || !rest.starts_with([' ', '\t']) {
            return None;
        }
        let decoded = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        if user.is_empty() || password.is_empty() {
            return None;
        }
        Some((user.to_owned(), Secret::new(password.to_owned())))
    }

    /// Whether this is the user's password, by the server's word of now or a while ago.
    async fn is_right(
        &self,
        user: &str,
        password: &Secret<String>,
        host: &impl Host,
    ) -> Result<bool, LdapError> {
        let answers = host.core_state::<Answers>();
        let key = self.key(user, password);
        let known = answers.0.borrow().get(&key, host.now()).copied();
        if let Some(right) = known {
            return Ok(right);
        }
        let name = format!("{}={},{}", self.attribute, escape(user), self.base);
        let right = host.bind(&self.server, &name, password).await?;
        let now = host.now();
        let until = now.saturating_add(self.remembered.seconds());
        answers.0.borrow_mut().keep(key, right, until, now);
        Ok(right)
    }

    /// What an answer is remembered under: nobody's password, and of one configuration.
    fn key(&self, user: &str, password: &Secret<String>) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut part = |bytes: &[u8]| {
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            hasher.update(&length.to_be_bytes()).update(bytes);
        };
        part(self.instance.id.as_bytes());
        part(format!("{:?}", self.server).as_bytes());
        part(self.attribute.as_bytes());
        part(self.base.as_bytes());
        part(user.as_bytes());
        part(password.expose().as_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// A value inside a distinguished name (RFC 4514 §2.4): no name leads out of where users are.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (place, character) in value.chars().enumerate() {
        match character {
            '\0' => escaped.push_str("\\00"),
            '"' | '+' | ',' | ';' | '<' | '=' | '>' | '\\' => escaped.extend(['\\', character]),
            ' ' if place == 0 || place == last => escaped.push_str("\\ "),
            '#' if place == 0 => escaped.push_str("\\#"),
            _ => escaped.push(character),
        }
    }
    escaped
}
