//! `session`: keeps who a client is in a cookie, once another plugin has authenticated it (Kong 3.9,
//! session).
//!
//! ```text
//! request ─► cookie opens, alive, not revoked ─► identity of the session; other plugins are done
//!        └─► no such cookie ─► other plugins ─► authenticated? ─► response: Set-Cookie
//! ```

mod config;
mod kept;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use bytes::Bytes;
use http::header::{RETRY_AFTER, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};
use shared::clock::UnixTime;
use shared::entity::{Consumer, Revocation};
use shared::schema::FieldErrors;
use shared::types::Set;

pub use self::config::Session;
use self::kept::{Kept, Limits};
use crate::answer;
use crate::body;
use crate::credentials::arguments::Arguments;
use crate::credentials::authentication::identify;
use crate::credentials::cookies;
use crate::exchange::{Exchange, Identity, Reply};
use crate::filter::{Filter, Flow, Instance, Phases, Plugin, Scope};
use crate::host::Host;
use crate::sessions::cookie::{Attributes, CHUNK};
use crate::sessions::facts::SessionHeader;
use crate::sessions::seal::{self, Binding, Sizes};
use crate::sessions::session_keys::KeyRing;
use crate::sessions::tenure::{Renewals, Tenure};

/// A session is one cookie.
const SIZES: Sizes = Sizes {
    chunk: CHUNK,
    most: 1,
};

/// Most cookies of one name that are looked at.
const MOST: usize = 5;

impl Plugin for Session {
    const NAME: &'static str = "session";
    const PRIORITY: u32 = 1900;
    const FORBIDDEN_SCOPES: &'static [Scope] = &[Scope::Consumer];
    const SHORTHANDS: &'static [(&'static str, &'static str)] = &[
        ("cookie_lifetime", "rolling_timeout"),
        ("cookie_idletime", "idling_timeout"),
        ("cookie_renew", ""),
        ("cookie_discard", "stale_ttl"),
        ("cookie_samesite", "cookie_same_site"),
        ("cookie_httponly", "cookie_http_only"),
        ("cookie_persistent", "remember"),
    ];
    type Filter = SessionFilter;

    fn modernize(config: &mut Map<String, Value>) {
        if let Some(same_site) = config.get_mut("cookie_same_site")
            && same_site == "off"
        {
            *same_site = json!("Lax");
        }
    }

    fn compile(self, instance: &Instance) -> Result<SessionFilter, FieldErrors> {
        let errors = self.check();
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(SessionFilter {
            binding: Binding::of(
                &["session", &self.audience],
                self.secret.as_ref(),
                instance.id,
            ),
            cookie: Attributes {
                path: self.cookie_path.clone(),
                domain: self.cookie_domain.clone(),
                same_site: self.cookie_same_site,
                http_only: self.cookie_http_only,
                secure: Some(self.cookie_secure),
                cross_site_over_tls: false,
                host_prefix: false,
            },
            limits: Limits {
                idling: self.idling_timeout.limit(),
                rolling: self.rolling_timeout.limit(),
                absolute: self.absolute_timeout.limit(),
            },
            remembers: self.remember.then(|| Limits {
                idling: None,
                rolling: self.remember_rolling_timeout.limit(),
                absolute: self.remember_absolute_timeout.limit(),
            }),
            told: self
                .request_headers
                .iter()
                .flat_map(Set::as_slice)
                .map(|fact| fact.header())
                .collect(),
            config: self,
        })
    }
}

/// Opens and begins sessions.
#[derive(Debug)]
pub struct SessionFilter {
    config: Session,
    binding: Binding,
    cookie: Attributes,
    limits: Limits,
    /// How long a client is remembered, if it is.
    remembers: Option<Limits>,
    /// What the upstream is told.
    told: Vec<HeaderName>,
}

/// What the response is to know.
struct Note {
    /// The key that seals a new session.
    ring: KeyRing,
    /// The session that the request came with.
    kept: Option<Kept>,
}

impl Filter for SessionFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        let ring = &exchange.environment.session_keys;
        let now = host.now();
        let mut note = Note {
            ring: KeyRing {
                keys: ring.sealing(now.as_secs()).cloned().into_iter().collect(),
            },
            kept: None,
        };
        let headers = &exchange.request.headers;
        let found = self.session(headers, ring, host).map(|kept| (kept, false));
        let found = found.or_else(|| Some((self.remembered(headers, ring, host)?, true)));
        // The upstream gets nothing that it could sign in with.
        let ours = [
            self.config.cookie_name.as_str(),
            self.config.remember_cookie_name.as_str(),
        ];
        let ours = ours.get(..if self.config.remember { 2 } else { 1 });
        cookies::remove(&mut exchange.request.headers, ours.unwrap_or_default());
        let Some((mut kept, restored)) = found else {
            exchange.notes.put(note);
            return Flow::Continue;
        };
        if self.is_logout(exchange).await {
            return self.end(exchange, &kept, host).await;
        }
        if host.revocations().are_unknown() {
            return paused(exchange);
        }
        let consumers = &exchange.environment.consumers;
        let Some(consumer) = consumers.by_id.get(&kept.consumer).cloned() else {
            let gone = self.expired(exchange.client.https);
            exchange.response_headers.extend(gone);
            exchange.notes.put(note);
            return Flow::Continue;
        };
        let https = exchange.client.https;
        if restored {
            kept.restart(now);
        }
        let renewed = kept.renew(&self.limits, now) || restored;
        self.go_on_with(exchange, &kept, renewed.then_some(host), now);
        if renewed {
            let cookies = self.cookies(&kept, restored, &note.ring, host, https);
            exchange.response_headers.extend(cookies);
        }
        let told =
            |facts: &Option<Set<SessionHeader>>| self.facts(facts.as_ref(), &kept, &consumer, now);
        exchange
            .request
            .headers
            .extend(told(&self.config.request_headers));
        exchange
            .response_headers
            .extend(told(&self.config.response_headers));
        let identity = Identity {
            consumer: Some(consumer),
            credential: Some(kept.credential.clone()),
            authenticated_groups: kept.groups.clone(),
            ..Identity::default()
        };
        identify(exchange, identity);
        note.kept = Some(kept);
        exchange.notes.put(note);
        Flow::Continue
    }

    fn phases(&self) -> Phases {
        Phases::RESPONSE
    }

    fn on_response(&self, reply: &mut Reply<'_>, host: &impl Host) {
        let seen = &*reply.seen;
        let identity = &seen.identity;
        let (Some(note), Some(consumer), Some(credential), false) = (
            seen.notes.get::<Note>(),
            &identity.consumer,
            &identity.credential,
            identity.anonymous,
        ) else {
            return;
        };
        if let Some(kept) = &note.kept
            && kept.consumer == consumer.id
            && kept.credential == *credential
        {
            return;
        }
        let groups = identity.authenticated_groups.clone();
        let kept = Kept::begin(consumer.id, credential.clone(), groups, host);
        let remembers = self.config.remember;
        let cookies = self.cookies(&kept, remembers, &note.ring, host, seen.client.https);
        let told = self.facts(
            self.config.response_headers.as_ref(),
            &kept,
            consumer,
            host.now(),
        );
        for (name, value) in cookies.into_iter().chain(told) {
            reply.headers.append(name, value);
        }
    }

    fn owned_headers(&self) -> &[HeaderName] {
        &self.told
    }

    fn owns_cookie(&self, name: &str) -> bool {
        name == self.config.cookie_name
            || (self.config.remember && name == self.config.remember_cookie_name)
    }
}

/// Nobody knows here now whether the session of the request is over: it does not go on, nor does its user as somebody else
/// for want of it.
fn paused(exchange: &Exchange<'_>) -> Flow {
    let message = "The gateway does not know now which sessions are over";
    let mut response = answer::error(StatusCode::SERVICE_UNAVAILABLE, message, exchange);
    let soon = HeaderValue::from_static("5");
    response.headers_mut().insert(RETRY_AFTER, soon);
    Flow::Answer(response)
}

/// A header field.
type Field = (HeaderName, HeaderValue);

impl SessionFilter {
    /// The session of a request.
    fn session(&self, headers: &HeaderMap, ring: &KeyRing, host: &impl Host) -> Option<Kept> {
        self.open(headers, &self.config.cookie_name, &self.limits, ring, host)
    }

    /// The session of a client that was to be remembered.
    fn remembered(&self, headers: &HeaderMap, ring: &KeyRing, host: &impl Host) -> Option<Kept> {
        let limits = self.remembers.as_ref()?;
        self.open(
            headers,
            &self.config.remember_cookie_name,
            limits,
            ring,
            host,
        )
    }

    fn open(
        &self,
        headers: &HeaderMap,
        name: &str,
        limits: &Limits,
        ring: &KeyRing,
        host: &impl Host,
    ) -> Option<Kept> {
        let now = host.now();
        let ends = host.revocations();
        cookies::values(headers, name).take(MOST).find_map(|value| {
            let opened = seal::open(ring, &self.binding, name, value, now.as_secs())?;
            let kept: Kept = serde_json::from_slice(&opened.plaintext).ok()?;
            let over = ends.end(&[Revocation::session(&kept.id)], kept.signed_in_at);
            (!over && kept.is_alive(limits, now)).then_some(kept)
        })
    }

    /// What the request begins lasts no longer than its session. A session that is renewed at `host` keeps what was
    /// begun with it before.
    fn go_on_with(
        &self,
        exchange: &mut Exchange<'_>,
        kept: &Kept,
        renewed_at: Option<&impl Host>,
        now: UnixTime,
    ) {
        let left = kept.left(&self.limits, now);
        let (name, end) = (
            Revocation::session(&kept.id),
            left.map(|left| now.saturating_add(left)),
        );
        if let Some(host) = renewed_at {
            host.node_state::<Renewals>().note(name, end);
        }
        exchange.tenure = Some(Rc::new(Tenure {
            names: vec![name],
            began_at: kept.signed_in_at,
            epoch: None,
            end,
        }));
    }

    /// Whether the request is to end its session.
    async fn is_logout(&self, exchange: &mut Exchange<'_>) -> bool {
        let config = &self.config;
        let method = &exchange.request.method;
        let methods = config
            .logout_methods
            .as_ref()
            .map_or(&[][..], Set::as_slice);
        if !methods.iter().any(|one| one.is(method)) {
            return false;
        }
        if let Some(name) = &config.logout_query_arg
            && Arguments::of(&exchange.request.uri).contains(name)
        {
            return true;
        }
        match &config.logout_post_arg {
            Some(name) if config.read_body_for_logout => body::form(exchange).await.says(name),
            _ => false,
        }
    }

    /// Ends a session everywhere.
    async fn end(&self, exchange: &Exchange<'_>, kept: &Kept, host: &impl Host) -> Flow {
        let revocation = kept.revocation([Some(&self.limits), self.remembers.as_ref()], host.now());
        // What is not stored by then holds here, and the data plane sends it on.
        _ = host.revoke(vec![revocation]).await;
        let mut response = Response::new(Bytes::new());
        response
            .headers_mut()
            .extend(self.expired(exchange.client.https));
        Flow::Answer(response)
    }

    /// Makes the browser forget.
    fn expired(&self, https: bool) -> Vec<Field> {
        let names = [
            Some(&self.config.cookie_name),
            self.remembers.map(|_| &self.config.remember_cookie_name),
        ];
        let names = names.into_iter().flatten();
        names
            .map(|name| (SET_COOKIE, self.cookie.expire(name, https)))
            .collect()
    }

    /// Hands a session to the browser, and what it is remembered by.
    fn cookies(
        &self,
        kept: &Kept,
        remembered: bool,
        ring: &KeyRing,
        host: &impl Host,
        https: bool,
    ) -> Vec<Field> {
        let now = host.now();
        let config = &self.config;
        let mut cookies = Vec::new();
        if let Some(value) = self.sealed(&config.cookie_name, kept, ring, host) {
            let cookie = self.cookie.set(&config.cookie_name, &value, https);
            cookies.push((SET_COOKIE, cookie));
        }
        if let Some(limits) = self.remembers.as_ref().filter(|_| remembered) {
            let name = &config.remember_cookie_name;
            let mut kept = kept.clone();
            kept.started_at = kept.signed_in_at;
            let lifetime = kept.left(limits, now);
            let lifetime = lifetime.unwrap_or(std::time::Duration::MAX);
            if let Some(value) = self.sealed(name, &kept, ring, host) {
                let cookie = self.cookie.set_until(name, &value, now, lifetime, https);
                cookies.push((SET_COOKIE, cookie));
            }
        }
        cookies
    }

    fn sealed(&self, name: &str, kept: &Kept, ring: &KeyRing, host: &impl Host) -> Option<String> {
        let content = serde_json::to_vec(kept).ok()?;
        let mut nonce = [0; 12];
        host.random(&mut nonce);
        let now = host.now().as_secs();
        seal::seal(ring, &self.binding, name, &content, SIZES, now, nonce)
            .inspect_err(|error| tracing::error!(%error, "a session is not kept"))
            .ok()
    }

    /// Facts of a session as header fields. Times are in seconds from now.
    fn facts(
        &self,
        wanted: Option<&Set<SessionHeader>>,
        kept: &Kept,
        consumer: &Consumer,
        now: UnixTime,
    ) -> Vec<Field> {
        let wanted = wanted.map_or(&[][..], Set::as_slice);
        let facts = wanted.iter().filter_map(|fact| {
            let value = kept.fact(*fact, &self.config.audience, consumer, &self.limits, now)?;
            Some((fact.header(), value))
        });
        facts.collect()
    }
}
