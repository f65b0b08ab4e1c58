//! What the cookie of a session holds, and how long it is good for.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::entity::{Consumer, Revocation};
use uuid::Uuid;

use crate::credentials::identity_headers;
use crate::host::Host;
use crate::sessions::facts::SessionHeader;

/// Longest time between two notes of a session's use. Each one is a `Set-Cookie`.
const TOUCH: Duration = Duration::from_mins(1);

/// How long a session without any limit may be ended for.
const FOREVER: Duration = Duration::from_hours(10 * 365 * 24);

/// How long sessions last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Without a use.
    pub(super) idling: Option<Duration>,
    /// Without being renewed.
    pub(super) rolling: Option<Duration>,
    /// In all.
    pub(super) absolute: Option<Duration>,
}

/// An authenticated client, as its cookie holds it. New fields get a default, so that older cookies stay
/// readable.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Kept {
    /// Names the session; random.
    pub(super) id: String,
    /// The consumer's id.
    pub(super) consumer: Uuid,
    /// What the upstream is told of the credential.
    pub(super) credential: String,
    /// The groups that the authentication has asserted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) groups: Option<Vec<String>>,
    /// When the client was authenticated.
    pub(super) signed_in_at: UnixTime,
    /// When this session began: later, if the client was remembered.
    pub(super) started_at: UnixTime,
    /// When it was renewed last.
    pub(super) renewed_at: UnixTime,
    /// When its last use was noted.
    pub(super) used_at: UnixTime,
}

impl Kept {
    /// Begins a session now.
    pub(super) fn begin(
        consumer: Uuid,
        credential: String,
        groups: Option<Vec<String>>,
        host: &impl Host,
    ) -> Self {
        let now = host.now();
        let mut id = [0; 16];
        host.random(&mut id);
        Self {
            id: URL_SAFE_NO_PAD.encode(id),
            consumer,
            credential,
            groups,
            signed_in_at: now,
            started_at: now,
            renewed_at: now,
            used_at: now,
        }
    }

    /// Begins the session of a remembered client anew. It keeps its name, so that ending it ends what it
    /// is remembered by.
    pub(super) fn restart(&mut self, now: UnixTime) {
        self.started_at = now;
        self.renewed_at = now;
        self.used_at = now;
    }

    /// Whether it lasts until `now`. A clock that went back extends nothing beyond the limit itself.
    pub(super) fn is_alive(&self, limits: &Limits, now: UnixTime) -> bool {
        self.left(limits, now).is_none_or(|left| !left.is_zero())
    }

    /// How long it lasts from `now` on if nobody uses it. `None`: without a limit.
    pub(super) fn left(&self, limits: &Limits, now: UnixTime) -> Option<Duration> {
        let [idling, rolling, absolute] = self.all_left(limits, now);
        [idling, rolling, absolute].into_iter().flatten().min()
    }

    fn all_left(&self, limits: &Limits, now: UnixTime) -> [Option<Duration>; 3] {
        let left = |since: UnixTime, limit: Option<Duration>| {
            Some(since.saturating_add(limit?).saturating_since(now))
        };
        [
            left(self.used_at, limits.idling),
            left(self.renewed_at, limits.rolling),
            left(self.started_at, limits.absolute),
        ]
    }

    /// Notes a use at `now`, if that is worth a new cookie: answers whether it is.
    pub(super) fn renew(&mut self, limits: &Limits, now: UnixTime) -> bool {
        let [_, rolling_left, _] = self.all_left(limits, now);
        let unused = now.saturating_since(self.used_at);
        let touched = limits
            .idling
            .is_some_and(|idling| unused >= TOUCH.min(idling / 4));
        let renewed = limits
            .rolling
            .zip(rolling_left)
            .is_some_and(|(rolling, left)| left < rolling / 4);
        if touched || renewed {
            self.used_at = now;
        }
        if renewed {
            self.renewed_at = now;
        }
        touched || renewed
    }

    /// Ends all that bears this session's name, for as long as any of it could last.
    pub(super) fn revocation(&self, limits: [Option<&Limits>; 2], now: UnixTime) -> Revocation {
        let lasts = |limits: &Limits| limits.absolute.unwrap_or(FOREVER);
        let longest = limits.into_iter().flatten().map(lasts).max();
        Revocation {
            id: Revocation::session(&self.id),
            before: Revocation::FOR_GOOD,
            expires_at: now.saturating_add(longest.unwrap_or(FOREVER)).as_secs() + 1,
        }
    }

    /// A fact of the session as a header's value; none where it has none.
    pub(super) fn fact(
        &self,
        fact: SessionHeader,
        audience: &str,
        consumer: &Consumer,
        limits: &Limits,
        now: UnixTime,
    ) -> Option<HeaderValue> {
        let [idling, rolling, absolute] = self.all_left(limits, now);
        let time =
            |left: Option<Duration>| Some(HeaderValue::from(left.unwrap_or_default().as_secs()));
        match fact {
            SessionHeader::Id => identity_headers::text(&self.id),
            SessionHeader::Audience => identity_headers::text(audience),
            SessionHeader::Subject => {
                let named = consumer.username.as_ref().or(consumer.custom_id.as_ref());
                let subject = named.map_or_else(|| consumer.id.to_string(), ToString::to_string);
                identity_headers::text(&subject)
            }
            SessionHeader::Timeout => time(self.left(limits, now)),
            SessionHeader::IdlingTimeout => time(idling),
            SessionHeader::RollingTimeout => time(rolling),
            SessionHeader::AbsoluteTimeout => time(absolute),
        }
    }
}
