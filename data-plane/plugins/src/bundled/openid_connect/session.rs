//! A session: what its cookie holds, how long it lives, how it is sealed and opened.

mod cookies;
mod freshness;

use std::io::{Read, Write};
use std::time::Duration;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::types::Set;

pub(super) use self::cookies::{expired_cookies, sealed_values};
use super::config::{AuthMethod, Bind, SessionHeader};
use super::cookie::Family;
use super::failure::Failure;
use super::jws::Claims;
use super::opened;
use super::packed;
use super::refresh;
use super::rules::Rules;
use super::token_endpoint::Tokens;
use super::user_info::UserInfo;
use crate::credentials::identity_headers;
use crate::exchange::Exchange;
use crate::host::Host;
use crate::sessions::seal::{self, SealError};
use crate::sessions::session_keys::{KeyRing, LONGEST as LONGEST_COOKIE};

/// Most bytes that a session may take before it is compressed and once it is decompressed.
const LONGEST: u64 = 64 * 1024;

/// Longest time between two notes of a session's use. Each one is a `Set-Cookie`.
const TOUCH: Duration = Duration::from_mins(1);

/// A signed-in browser, as its cookie holds it. New fields get a default, so that older cookies stay
/// readable.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Session {
    /// Names the session; random.
    pub(super) id: String,
    /// Position of the client.
    #[serde(default)]
    pub(super) client: usize,
    /// What began the session.
    pub(super) method: AuthMethod,
    /// When the user signed in.
    pub(super) started_at: UnixTime,
    /// When they began to, by the clock of the node or of its control plane, if one of these says that it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) asked_at: Option<UnixTime>,
    /// The provider's epoch that they did so in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) epoch: Option<u64>,
    /// When the session was last renewed.
    pub(super) renewed_at: UnixTime,
    /// When its last use was noted.
    pub(super) used_at: UnixTime,
    #[serde(with = "packed::token")]
    pub(super) access_token: String,
    #[serde(default, with = "packed::optional_token")]
    pub(super) id_token: Option<String>,
    #[serde(default, with = "packed::optional_token")]
    pub(super) refresh_token: Option<String>,
    /// When the access token ends, as far as is known.
    #[serde(default)]
    pub(super) expires_at: Option<UnixTime>,
    /// When the provider last said whose they are, if that was after the sign-in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) claimed_at: Option<UnixTime>,
    /// The provider's session that it began in, once an ID token came that may name none or another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sid: Option<String>,
    /// What the provider said of the access token, if it was asked (RFC 7662).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) introspection: Option<Claims>,
    /// The same as the JWT that came, if it came as one.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "packed::optional_token"
    )]
    pub(super) introspection_jwt: Option<String>,
    /// What the provider said of the user, if that is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) user_info: Option<Claims>,
    /// The same as the JWT that came, if it came as one.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "packed::optional_token"
    )]
    pub(super) user_info_jwt: Option<String>,
    /// When that was, if its tokens are newer: the provider is asked again, and this stands in while it cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) user_info_at: Option<UnixTime>,
    /// What other sources say of the user whom the ID token names, once they were asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sourced: Option<Claims>,
    /// When the user signed in whom this browser is to remember.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) remembered_at: Option<UnixTime>,
    /// What the session is bound to, hashed (`session_bind`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bound_to: Option<String>,
}

/// What a session has that its browser does not know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum News {
    /// Its tokens.
    Tokens,
    /// That it lives for longer.
    Renewal,
    /// That it was used: nothing for what restores it.
    Use,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("started_at", &self.started_at)
            .finish_non_exhaustive()
    }
}

/// When what begins `now` has begun at the earliest, if that is before.
fn begun(now: UnixTime, host: &impl Host) -> Option<UnixTime> {
    Some(host.earliest(now)).filter(|began| *began != now)
}

impl Session {
    /// Begins a session now, with a new id (OWASP, session fixation).
    pub(super) fn begin(
        rules: &Rules,
        tokens: &Tokens,
        method: AuthMethod,
        client: usize,
        host: &impl Host,
    ) -> Self {
        let now = host.now();
        Self {
            id: random_text::<16>(host),
            client,
            method,
            started_at: now,
            asked_at: begun(now, host),
            epoch: rules.epoch(host),
            renewed_at: now,
            used_at: now,
            access_token: tokens.access_token.clone(),
            id_token: tokens.id_token.clone(),
            refresh_token: tokens.refresh_token.clone(),
            expires_at: tokens.expires_at,
            claimed_at: None,
            sid: None,
            introspection: None,
            introspection_jwt: None,
            user_info: None,
            user_info_jwt: None,
            user_info_at: None,
            sourced: None,
            remembered_at: None,
            bound_to: None,
        }
    }

    /// The session that a browser begins anew which was to be remembered. It keeps its name, so that a logout ends
    /// every cookie that it was ever remembered by.
    pub(super) fn restored(&self, host: &impl Host) -> Self {
        let now = host.now();
        Self {
            started_at: now,
            asked_at: begun(now, host),
            renewed_at: now,
            used_at: now,
            claimed_at: Some(self.claimed_at.unwrap_or(self.started_at)),
            ..self.clone()
        }
    }

    /// How long a browser is still remembered by what its cookie holds. `None`: it was never to be.
    pub(super) fn remembered_for(&self, rules: &Rules, now: UnixTime) -> Option<Duration> {
        let since = self.remembered_at?;
        let session = &rules.config.session;
        let left = |since: UnixTime, limit: &super::config::Number| {
            let end = since.saturating_add(limit.limit()?);
            Some(end.saturating_since(now))
        };
        let rolling = left(self.renewed_at, &session.session_remember_rolling_timeout);
        let absolute = left(since, &session.session_remember_absolute_timeout);
        let both = rolling.into_iter().chain(absolute);
        Some(both.min().unwrap_or(LONGEST_COOKIE))
    }

    /// A fact of the session as a header's value.
    fn fact(&self, rules: &Rules, fact: SessionHeader, now: UnixTime) -> Option<HeaderValue> {
        let config = &rules.config.session;
        let left = |since: UnixTime, limit: &super::config::Number| {
            let end = since.saturating_add(limit.limit()?);
            Some(end.saturating_since(now).as_secs())
        };
        let idling = left(self.used_at, &config.session_idling_timeout);
        let rolling = left(self.renewed_at, &config.session_rolling_timeout);
        let absolute = left(self.started_at, &config.session_absolute_timeout);
        let time = |seconds: Option<u64>| Some(HeaderValue::from(seconds.unwrap_or_default()));
        match fact {
            SessionHeader::Id => identity_headers::text(&self.id),
            SessionHeader::Audience => identity_headers::text(&config.session_audience),
            SessionHeader::Subject => identity_headers::text(&self.subject()?),
            SessionHeader::IdlingTimeout => time(idling),
            SessionHeader::RollingTimeout => time(rolling),
            SessionHeader::AbsoluteTimeout => time(absolute),
            SessionHeader::Timeout => time([idling, rolling, absolute].into_iter().flatten().min()),
        }
    }

    /// The time that revocations are held against. A code that was given out before a logout may come back after it: it is
    /// of a sign-in that began before.
    pub(super) fn began_at(&self) -> UnixTime {
        self.asked_at.unwrap_or(self.started_at)
    }

    /// Takes over what the provider said of the user.
    pub(super) fn learn(&mut self, user_info: &UserInfo) {
        self.user_info = Some(user_info.claims.clone());
        self.user_info_jwt.clone_from(&user_info.jwt);
        self.user_info_at = None;
    }

    /// Forgets what the provider said of the user.
    pub(super) fn forget_user_info(&mut self) {
        (self.user_info, self.user_info_jwt, self.user_info_at) = (None, None, None);
    }

    /// Takes over the tokens of a refresh; those that did not come stay.
    pub(super) fn refreshed(&self, rules: &Rules, tokens: &Tokens, now: UnixTime) -> Self {
        let mut refreshed = Self {
            access_token: tokens.access_token.clone(),
            id_token: tokens.id_token.clone().or_else(|| self.id_token.clone()),
            refresh_token: tokens
                .refresh_token
                .clone()
                .or_else(|| self.refresh_token.clone()),
            expires_at: tokens.expires_at,
            claimed_at: Some(self.claimed_at.unwrap_or(self.started_at)),
            sid: self.sid.clone().or_else(|| opened::sid(self)),
            introspection: None,
            introspection_jwt: None,
            user_info_at: self.user_info.as_ref().map(|_| self.user_info_said()),
            sourced: self.sourced.clone().filter(|_| tokens.id_token.is_none()),
            ..self.clone()
        };
        if refreshed.is_said_anew(rules, tokens) {
            refreshed.claimed_at = Some(now);
        }
        refreshed
    }

    /// When it ends if nobody uses it: idle for too long, not renewed, or too old. A clock that went back
    /// extends nothing beyond the limit itself. `None`: never.
    pub(super) fn end(&self, rules: &Rules) -> Option<UnixTime> {
        let session = &rules.config.session;
        let end = |since: UnixTime, limit: Option<Duration>| Some(since.saturating_add(limit?));
        let ends = [
            end(self.used_at, session.session_idling_timeout.limit()),
            end(self.renewed_at, session.session_rolling_timeout.limit()),
            end(self.started_at, session.session_absolute_timeout.limit()),
            self.claims_due(rules).filter(|_| !self.is_renewable(rules)),
        ];
        ends.into_iter().flatten().min()
    }

    /// The time before which no use is noted. `None`: none ever is.
    pub(super) fn noted_from(&self, rules: &Rules) -> Option<UnixTime> {
        if !rules.keeps_session(AuthMethod::Session) {
            return None;
        }
        let session = &rules.config.session;
        let touched = session.session_idling_timeout.limit();
        let touched = touched.map(|idle| self.used_at.saturating_add(TOUCH.min(idle / 4)));
        let rolling = session.session_rolling_timeout.limit();
        let renewed = rolling.map(|rolling| {
            let kept = rolling.saturating_sub(renewal(rules, rolling));
            self.renewed_at.saturating_add(kept)
        });
        touched.into_iter().chain(renewed).min()
    }

    /// The time before which its access token serves without a further look. `None`: it does for ever.
    pub(super) fn token_due(&self, rules: &Rules) -> Option<UnixTime> {
        if !self.is_renewable(rules) {
            return self.expires_at;
        }
        // When it was issued, or the session renewed with it since. One that is not renewed notes no use but that of a refresh.
        let issued_at = if rules.keeps_session(AuthMethod::Session) {
            self.renewed_at
        } else {
            self.used_at
        };
        let leeway = rules.config.credentials.leeway.seconds();
        let due = self
            .expires_at
            .map(|end| refresh::due(issued_at, end, leeway));
        due.into_iter().chain(self.claims_due(rules)).min()
    }

    /// The session after a use at `now`, if that is to be noted in the cookie.
    pub(super) fn used(&self, rules: &Rules, now: UnixTime) -> Option<Self> {
        if !rules.keeps_session(AuthMethod::Session) {
            return None;
        }
        let session = &rules.config.session;
        let mut next = None;
        if let Some(idle) = session.session_idling_timeout.limit()
            && now.saturating_since(self.used_at) >= TOUCH.min(idle / 4)
        {
            next = Some(self.clone());
        }
        if let Some(rolling) = session.session_rolling_timeout.limit() {
            let left = self
                .renewed_at
                .saturating_add(rolling)
                .saturating_since(now);
            if left < renewal(rules, rolling) {
                next.get_or_insert_with(|| self.clone()).renewed_at = now;
            }
        }
        if let Some(next) = &mut next {
            next.used_at = now;
        }
        next
    }

    /// The session as it is sealed: compressed.
    pub(super) fn packed(&self) -> Result<Vec<u8>, SealError> {
        let json = serde_json::to_vec(self).expect("a session has only string keys");
        if u64::try_from(json.len()).is_ok_and(|length| length > LONGEST) {
            return Err(SealError::TooLarge);
        }
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        let compressed = encoder
            .write_all(&json)
            .and_then(|()| encoder.finish())
            .expect("writing to memory succeeds");
        Ok(compressed)
    }

    /// How long it, or what restores it, is of use if nobody uses it. `None`: without a limit.
    pub(super) fn left(&self, family: Family, rules: &Rules, now: UnixTime) -> Option<Duration> {
        if family == Family::Remember {
            return self.remembered_for(rules, now);
        }
        self.end(rules).map(|end| end.saturating_since(now))
    }

    /// Whom the provider calls the user.
    pub(super) fn subject(&self) -> Option<String> {
        opened::subject(self)
    }
}

/// How much of its time a session has left when a use renews it.
fn renewal(rules: &Rules, rolling: Duration) -> Duration {
    let configured = rules.config.session.session_cookie_renew.as_ref();
    configured.map_or(rolling / 4, super::config::Number::seconds)
}

/// Opens the session that was sealed as `name`. Also tells which key sealed it.
pub(super) fn open(
    name: &str,
    rules: &Rules,
    ring: &KeyRing,
    value: &str,
    now: UnixTime,
) -> Option<(Session, [u8; 8])> {
    let opened = seal::open(ring, &rules.binding, name, value, now.as_secs())?;
    let mut json = Vec::new();
    let read = DeflateDecoder::new(opened.plaintext.as_slice())
        .take(LONGEST + 1)
        .read_to_end(&mut json);
    if read.is_err() || u64::try_from(json.len()).is_ok_and(|length| length > LONGEST) {
        return None;
    }
    let session = serde_json::from_slice(&json).ok()?;
    Some((session, opened.key_id))
}

/// The failure of a request whose session cannot be sealed.
pub(super) fn failure(error: SealError) -> Failure {
    match error {
        SealError::NoKey => Failure::paused(
            "no_session_key",
            "The gateway has no key for sessions yet",
            error.to_string(),
        ),
        SealError::TooLarge => Failure::oversized(),
    }
}

/// Tells upstream and client of the session what the configuration says (Kong 3.9,
/// `session_request_headers` and `session_response_headers`). Times are in seconds from now.
pub(super) fn tell(rules: &Rules, exchange: &mut Exchange<'_>, session: &Session, now: UnixTime) {
    let config = &rules.config.session;
    let request = config.session_request_headers.as_ref();
    let response = config.session_response_headers.as_ref();
    let [request, response] = [request, response].map(|set| set.map_or(&[][..], Set::as_slice));
    if request.is_empty() && response.is_empty() {
        return;
    }
    for fact in request {
        let headers = &mut exchange.request.headers;
        match session.fact(rules, *fact, now) {
            Some(value) => _ = headers.insert(fact.header(), value),
            None => _ = headers.remove(fact.header()),
        }
    }
    for fact in response {
        let name = fact.header();
        exchange
            .response_headers
            .retain(|(found, _)| *found != name);
        if let Some(value) = session.fact(rules, *fact, now) {
            exchange.response_headers.push((name, value));
        }
    }
}

/// What the client is that `session_bind` binds a session to, hashed. `None`: sessions are not bound.
pub(super) fn binding(rules: &Rules, exchange: &Exchange<'_>) -> Option<String> {
    let bound = rules.config.session.session_bind.as_deref()?;
    let mut hasher = blake3::Hasher::new();
    let mut add = |part: &[u8]| {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        hasher.update(&length.to_be_bytes()).update(part);
    };
    for part in [Bind::Ip, Bind::Scheme, Bind::UserAgent] {
        match part {
            _ if !bound.contains(&part) => add(b""),
            Bind::Ip => add(exchange.client.address.to_string().as_bytes()),
            Bind::Scheme => add(if exchange.client.https {
                b"https"
            } else {
                b"http"
            }),
            Bind::UserAgent => {
                let agent = exchange.request.headers.get(http::header::USER_AGENT);
                add(agent.map_or(b"".as_slice(), HeaderValue::as_bytes));
            }
        }
    }
    Some(
        hasher
            .finalize()
            .to_hex()
            .as_str()
            .chars()
            .take(32)
            .collect(),
    )
}

/// `N` random bytes as base64url.
pub(super) fn random_text<const N: usize>(host: &impl Host) -> String {
    use base64::Engine;
    let mut bytes = [0; N];
    host.random(&mut bytes);
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}
