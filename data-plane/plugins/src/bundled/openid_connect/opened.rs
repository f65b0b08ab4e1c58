//! Opened sessions, remembered per core: a request with a known cookie costs a comparison.

mod renewal;
mod tokens;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use http::header::SET_COOKIE;
use shared::clock::UnixTime;
use shared::entity::Revocation;
use tracing::debug;

pub(super) use self::renewal::Renewal;
use self::tokens::names;
pub(super) use self::tokens::{claims_of, principal, principal_with, sid, subject};
use super::cookie::{CHUNK, Family, Glimpse, Jar};
use super::failure::Failure;
use super::logout;
use super::memory::{self, Memory, Name};
use super::principal::Principal;
use super::rules::Rules;
use super::session::{self, Session};
use super::session_store::{self, SessionStore};
use crate::exchange::Exchange;
use crate::host::Host;
use crate::sessions::revocations::Revocations;
use crate::sessions::session_keys::KeyRing;
use crate::sessions::tenure::{Epoch, Tenure};

/// A session with all that follows from it.
pub(super) struct Opened {
    /// The sealed value that it was opened from.
    sealed: String,
    key_id: [u8; 8],
    pub(super) session: Session,
    pub(super) principal: Principal,
    /// What a revocation may call it by, and how long what it begins may last.
    pub(super) tenure: Rc<Tenure>,
    /// Whether the browser has no cookie of it yet.
    pub(super) restored: bool,
    /// When the session ends.
    end: Option<UnixTime>,
    /// When a use is to be noted.
    noted_from: Option<UnixTime>,
    /// What has noted its last use.
    renewal: RefCell<Option<Rc<Renewal>>>,
    /// When the access token is to be looked at.
    token_due: Option<UnixTime>,
    /// Up to which version of the revocations it is known not to be among them.
    unrevoked_at: Cell<Option<u64>>,
}

shared::unsaid!(Opened);

impl memory::Found for Opened {
    fn text(&self) -> &str {
        &self.sealed
    }
}

/// What became of the search for a session.
#[derive(Debug)]
pub(super) enum Sought {
    /// There is one, and it lives.
    Open(Rc<Opened>),
    /// The browser has a cookie of ours that is of no use, for this reason.
    Useless(&'static str),
    /// The browser has none.
    Nothing,
}

impl Sought {
    /// Whether there is something that this plugin may take away: it has opened, even if it is over. What does not open
    /// may be another plugin's, or the application's.
    pub(super) fn is_ours(&self) -> bool {
        match self {
            Self::Open(_) => true,
            Self::Useless(reason) => *reason != "session_bad",
            Self::Nothing => false,
        }
    }

    /// The session, if there is one.
    pub(super) fn found(self) -> Option<Rc<Opened>> {
        match self {
            Self::Open(open) => Some(open),
            Self::Useless(_) | Self::Nothing => None,
        }
    }
}

/// The session that the request's cookies hold or point to, if one opens and is alive.
///
/// # Errors
///
/// If it is stored where nobody answers.
pub(super) async fn find(
    rules: &Arc<Rules>,
    exchange: &Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    now: UnixTime,
) -> Result<Sought, Failure> {
    let sought = match &rules.storage {
        None => in_cookies(rules, exchange, host, jar, now),
        Some(store) => Box::pin(stored(store, rules, exchange, host, jar, now)).await?,
    };
    if let Sought::Useless(reason) = sought {
        debug!(
            request_id = &*exchange.request_id,
            reason, "the session cookie is of no use"
        );
        jar.found_useless(reason);
    }
    Ok(sought)
}

fn in_cookies(
    rules: &Arc<Rules>,
    exchange: &Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    now: UnixTime,
) -> Sought {
    let ring = &exchange.environment.session_keys;
    let bound_to = session::binding(rules, exchange);
    for first in jar.chunk_bytes(Family::Session, 1) {
        let chunk = |number| jar.chunk_bytes(Family::Session, number).next();
        if let Some(opened) = remembered(rules, host, first)
            && !opened.restored
            && opened.is_held_by(first, chunk)
            && opened.serves(ring, host, bound_to.as_ref(), now)
        {
            return Sought::Open(opened);
        }
    }
    let mut sought = Sought::Nothing;
    if jar.chunks(Family::Session).next().is_some() {
        sought = Sought::Useless("session_bad");
    }
    let sealed_as = rules.names.of(Family::Session);
    for sealed in session::sealed_values(jar, Family::Session) {
        match open(rules, ring, host, sealed_as, sealed, bound_to.as_ref(), now) {
            Ok(opened) => return Sought::Open(opened),
            Err(reason) => sought = Sought::Useless(reason),
        }
    }
    if rules.config.session.session_remember {
        let sealed_as = rules.names.of(Family::Remember);
        let remembered = session::sealed_values(jar, Family::Remember).find_map(|sealed| {
            restore(rules, ring, host, sealed_as, sealed, bound_to.as_ref(), now)
        });
        if let Some(remembered) = remembered {
            return Sought::Open(remembered);
        }
    }
    sought
}

/// The session that a ticket in the request's cookies leads to.
async fn stored(
    store: &SessionStore,
    rules: &Arc<Rules>,
    exchange: &Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    now: UnixTime,
) -> Result<Sought, Failure> {
    let ring = &exchange.environment.session_keys;
    let bound_to = session::binding(rules, exchange);
    let bound_to = bound_to.as_ref();
    let mut sought = Sought::Nothing;
    for family in [Family::Session, Family::Remember] {
        if family == Family::Remember && !rules.config.session.session_remember {
            break;
        }
        for sealed in session::sealed_values(jar, family) {
            if family == Family::Session {
                sought = Sought::Useless("session_bad");
            }
            let Some(id) = session_store::ticket(rules, ring, family, &sealed, now) else {
                continue;
            };
            let Some(value) = store.get(host, family, &id).await? else {
                if family == Family::Session {
                    sought = Sought::Useless("session_expired");
                }
                continue;
            };
            let sealed_as = session_store::stored_name(&id);
            if family == Family::Remember {
                if let Some(found) = restore(rules, ring, host, &sealed_as, value, bound_to, now)
                    && found.session.id == id
                {
                    return Ok(Sought::Open(found));
                }
                continue;
            }
            // What was opened before was opened as another's, if somebody has moved it there.
            if let Some(known) = known(rules, host, &value)
                && !known.restored
                && known.session.id == id
                && known.serves(ring, host, bound_to, now)
            {
                return Ok(Sought::Open(known));
            }
            match open(rules, ring, host, &sealed_as, value, bound_to, now) {
                Ok(opened) => return Ok(Sought::Open(opened)),
                Err(reason) => sought = Sought::Useless(reason),
            }
        }
    }
    Ok(sought)
}

/// The session that was opened before from just what `cookies` hold.
pub(super) fn at_hand(
    rules: &Rules,
    host: &impl Host,
    cookies: &Glimpse<'_>,
) -> Option<Rc<Opened>> {
    let first = cookies.chunk(1)?;
    let opened = remembered(rules, host, first)?;
    let is_same = opened.sealed.len() == cookies.length()
        && opened.is_held_by(first, |number| cookies.chunk(number));
    is_same.then_some(opened)
}

/// The session of a browser that lost it but was to be remembered: a new one, with the tokens of old. Once for all
/// requests that still bring no other cookie, those of a client that keeps none.
fn restore(
    rules: &Rules,
    ring: &KeyRing,
    host: &impl Host,
    sealed_as: &str,
    sealed: String,
    bound_to: Option<&String>,
    now: UnixTime,
) -> Option<Rc<Opened>> {
    if let Some(known) = known(rules, host, &sealed)
        && known.restored
        && known.serves(ring, host, bound_to, now)
    {
        return Some(known);
    }
    let (old, key_id) = session::open(sealed_as, rules, ring, &sealed, now)?;
    let renewable = old.refresh_token.is_some() && rules.config.credentials.refresh_tokens;
    let usable = renewable || old.expires_at.is_none_or(|end| now < end);
    let left = old.remembered_for(rules, now)?;
    if !usable || left.is_zero() {
        return None;
    }
    let token_end = old.expires_at.filter(|_| !renewable);
    let old = opened(rules, old, sealed, key_id);
    if old.is_revoked(host.revocations()) || !old.is_bound_to(bound_to) {
        return None;
    }
    let session = old.session.restored(host);
    let mut restored = opened(rules, session, old.sealed, key_id);
    restored.restored = true;
    // What it is restored from need not serve as long as what it is restored to.
    let ends = [restored.end, Some(now.saturating_add(left)), token_end];
    restored.end = ends.into_iter().flatten().min();
    let restored = Rc::new(restored);
    remember(rules, host, &restored);
    Some(restored)
}

fn opened(rules: &Rules, session: Session, sealed: String, key_id: [u8; 8]) -> Opened {
    Opened {
        principal: principal(rules, &session),
        tenure: Rc::new(tenure(rules, &session)),
        unrevoked_at: Cell::default(),
        restored: false,
        end: session.end(rules),
        noted_from: session.noted_from(rules),
        renewal: RefCell::default(),
        token_due: session.token_due(rules),
        sealed,
        key_id,
        session,
    }
}

impl Opened {
    /// Whether what was opened before still serves this request.
    fn serves(
        &self,
        ring: &KeyRing,
        host: &impl Host,
        bound_to: Option<&String>,
        now: UnixTime,
    ) -> bool {
        ring.opening(self.key_id, now.as_secs()).is_some()
            && self.end.is_none_or(|end| now < end)
            && self.is_bound_to(bound_to)
            && !self.is_revoked(host.revocations())
    }

    /// Whether it serves a request as it is, if it is bound to nothing: its token need not be looked at.
    pub(super) fn rests(&self, ring: &KeyRing, host: &impl Host, now: UnixTime) -> bool {
        !self.restored && !self.is_token_due(now) && self.serves(ring, host, None, now)
    }

    /// Whether the session may be used where it is used.
    fn is_bound_to(&self, here: Option<&String>) -> bool {
        here.is_none() || self.session.bound_to.as_ref() == here
    }

    /// Whether the session was ended before its time.
    pub(super) fn is_revoked(&self, revocations: &Revocations) -> bool {
        let version = revocations.version();
        if self.unrevoked_at.get() == Some(version) {
            return false;
        }
        if self.tenure.is_ended(revocations) {
            return true;
        }
        self.unrevoked_at.set(Some(version));
        false
    }

    /// Whether the provider ended it by itself, rather than a logout here or in a frame.
    pub(super) fn is_ended_by_provider(&self, revocations: &Revocations) -> bool {
        let own = [Revocation::session(&self.session.id)];
        let names = self.tenure.names.iter();
        let by_provider: Vec<_> = names.map(|name| Revocation::by_provider(*name)).collect();
        let began_at = self.tenure.began_at;
        !revocations.end(&own, began_at) && revocations.end(&by_provider, began_at)
    }

    /// Whether the access token is to be looked at.
    pub(super) fn is_token_due(&self, now: UnixTime) -> bool {
        self.token_due.is_some_and(|due| due <= now)
    }

    /// Whether a use is to be noted.
    pub(super) fn is_use_due(&self, now: UnixTime) -> bool {
        self.noted_from.is_some_and(|from| from <= now)
    }

    /// In how many cookies it is.
    pub(super) fn chunks(&self) -> usize {
        self.sealed.len().div_ceil(CHUNK)
    }

    /// Whether the browser still sends the very value that this was opened from: in chunks, `first` of all.
    fn is_held_by<'a>(&self, first: &[u8], chunk: impl Fn(u8) -> Option<&'a [u8]>) -> bool {
        let Some(mut rest) = self.sealed.as_bytes().strip_prefix(first) else {
            return false;
        };
        let mut number = 2;
        while !rest.is_empty() {
            let Some(after) = chunk(number).and_then(|chunk| rest.strip_prefix(chunk)) else {
                return false;
            };
            if after.len() == rest.len() {
                return false;
            }
            rest = after;
            number += 1;
        }
        true
    }
}

/// Opens what was sealed as `sealed_as` and remembers it, or tells the reason why not.
fn open(
    rules: &Arc<Rules>,
    ring: &KeyRing,
    host: &impl Host,
    sealed_as: &str,
    sealed: String,
    bound_to: Option<&String>,
    now: UnixTime,
) -> Result<Rc<Opened>, &'static str> {
    let (session, key_id) =
        session::open(sealed_as, rules, ring, &sealed, now).ok_or("session_bad")?;
    if session.end(rules).is_some_and(|end| end <= now) {
        return Err("session_expired");
    }
    let opened = opened(rules, session, sealed, key_id);
    if opened.is_revoked(host.revocations()) {
        logout::ended_elsewhere(rules, host, &opened);
        return Err("session_revoked");
    }
    if !opened.is_bound_to(bound_to) {
        return Err("session_wrong_binding");
    }
    let opened = Rc::new(opened);
    remember(rules, host, &opened);
    Ok(opened)
}

/// What is let through by the session.
pub(super) fn tenure(rules: &Rules, session: &Session) -> Tenure {
    Tenure {
        names: names(rules, session),
        began_at: session.began_at(),
        epoch: session.epoch.map(|number| Epoch {
            of: rules.issuer_name,
            number,
        }),
        end: session.tenure_end(rules),
    }
}

/// Tells the browser, and the store, to forget the session.
pub(super) fn destroy(rules: &Rules, exchange: &mut Exchange<'_>, host: &impl Host, jar: &Jar) {
    if let Some(store) = &rules.storage {
        store.delete(rules, exchange, host, jar);
    }
    for cookie in session::expired_cookies(rules, jar, exchange.client.https) {
        exchange.response_headers.push((SET_COOKIE, cookie));
    }
}

/// Names a sealed value: by its random start.
fn name(rules: &Rules, value: &[u8]) -> Option<Name> {
    let start = value.first_chunk()?;
    Some((rules.compilation, *start))
}

/// What was opened before from a value that began like `value`.
fn remembered(rules: &Rules, host: &impl Host, value: &[u8]) -> Option<Rc<Opened>> {
    let name = name(rules, value)?;
    host.core_state::<Memory<Opened>>().get(&name)
}

/// What was opened from this very value before.
fn known(rules: &Rules, host: &impl Host, value: &str) -> Option<Rc<Opened>> {
    remembered(rules, host, value.as_bytes()).filter(|known| known.sealed == value)
}

/// Remembers what was opened.
fn remember(rules: &Rules, host: &impl Host, opened: &Rc<Opened>) {
    if let Some(name) = name(rules, opened.sealed.as_bytes()) {
        let memory = host.core_state::<Memory<Opened>>();
        memory.insert(host, name, opened);
    }
}
