//! What takes the place of a session's cookie, made once for all requests that still bring the old one: those of a client
//! that keeps none, or of a page that sends many at once.

use std::rc::Rc;
use std::time::Duration;

use http::HeaderValue;
use shared::clock::UnixTime;

use super::Opened;
use crate::bundled::openid_connect::rules::Rules;
use crate::bundled::openid_connect::session::Session;
use crate::exchange::Exchange;
use crate::sessions::session_keys::KeyRing;
use crate::sessions::tenure::Tenure;

/// Shortest and longest time for which a cookie that takes another's place is handed out again.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(1)];

/// What a browser is given in place of its cookie.
pub(in crate::bundled::openid_connect) struct Renewal {
    /// The session that it holds.
    pub(in crate::bundled::openid_connect) session: Session,
    pub(in crate::bundled::openid_connect) cookies: Vec<HeaderValue>,
    /// What requests go on by from now on.
    pub(in crate::bundled::openid_connect) tenure: Option<Rc<Tenure>>,
    /// Whether it was made for a request over TLS.
    https: bool,
    /// The key that sealed it.
    key_id: Option<[u8; 8]>,
    /// When the next one is due.
    until: UnixTime,
}

shared::unsaid!(Renewal);

impl Opened {
    /// What has taken the place of its cookie a moment ago, as long as the same key would seal it again.
    pub(in crate::bundled::openid_connect) fn renewal(
        &self,
        ring: &KeyRing,
        https: bool,
        now: UnixTime,
    ) -> Option<Rc<Renewal>> {
        let mut renewal = self.renewal.borrow_mut();
        // It holds a session of its own: no longer than it serves.
        renewal.take_if(|renewal| renewal.until <= now);
        let renewal = renewal.as_ref()?;
        let serves = renewal.https == https && renewal.key_id == sealing_key(ring, now);
        serves.then(|| Rc::clone(renewal))
    }

    /// Remembers what takes the place of its cookie: `session`, in `cookies`.
    pub(in crate::bundled::openid_connect) fn renewed(
        &self,
        rules: &Rules,
        exchange: &Exchange<'_>,
        session: Session,
        cookies: Vec<HeaderValue>,
        now: UnixTime,
    ) {
        let [shortest, longest] = AGAIN.map(|limit| now.saturating_add(limit));
        let due = session.noted_from(rules).unwrap_or(longest);
        *self.renewal.borrow_mut() = Some(Rc::new(Renewal {
            cookies,
            tenure: exchange.tenure.clone(),
            https: exchange.client.https,
            key_id: sealing_key(&exchange.environment.session_keys, now),
            until: due.clamp(shortest, longest),
            session,
        }));
    }
}

/// The key that seals now.
fn sealing_key(ring: &KeyRing, now: UnixTime) -> Option<[u8; 8]> {
    ring.sealing(now.as_secs()).map(|key| key.id)
}
