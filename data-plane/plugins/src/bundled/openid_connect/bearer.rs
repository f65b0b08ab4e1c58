//! Bearer tokens that clients bring: verified once, remembered per core (RFC 6750, RFC 9068), or
//! vouched for by the provider.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, SET_COOKIE};
use http::{HeaderName, HeaderValue};
use serde_json::Map;
use shared::clock::UnixTime;

use super::admission;
use super::config::AuthMethod;
use super::cookie::{Family, Jar};
use super::failure::{Class, Failure};
use super::headers::Facts;
use super::introspection::{self, Brought};
use super::jws::{self, Claims};
use super::login;
use super::memory::{self, Memory, Name};
use super::opened;
use super::possession::Presented;
use super::principal::Principal;
use super::provider::{self, CopiedAt, Reason, Unaccepted};
use super::request::{self, Found};
use super::rules::Rules;
use super::session::{News, Session};
use super::sign_in;
use super::token_endpoint::Tokens;
use super::user_info;
use super::verify::{Expected, Verifier, poses};
use crate::exchange::Exchange;
use crate::filter::Flow;
use crate::glance::{Glance, Pass, Usual};
use crate::host::Host;
use crate::sessions::tenure::Tenure;

/// How long a session cookie made for a token is handed out before a new one is sealed.
const COOKIE_LIFETIME: Duration = Duration::from_secs(30);

/// A verified token with all that follows from it.
struct Verified {
    token: String,
    /// When the token ends by its own word.
    end: Option<UnixTime>,
    principal: Principal,
    tenure: Rc<Tenure>,
    /// When its claims were made, if their age counts (`max_claim_age`): a session must not make them younger.
    claimed_at: Option<UnixTime>,
    /// The document whose keys verified it, and when that was seen last to be the one to verify by.
    version: u64,
    current_at: Cell<Option<CopiedAt>>,
    until: UnixTime,
    session: RefCell<Option<Sealed>>,
}

/// The cookies of a session that a token has begun.
struct Sealed {
    at: UnixTime,
    made_for: MadeFor,
    cookies: Vec<HeaderValue>,
}

/// Whether a connection is over TLS, and the position of the client at the provider.
type MadeFor = (bool, usize);

shared::unsaid!(Verified);

impl memory::Found for Verified {
    fn text(&self) -> &str {
        &self.token
    }
}

/// Lets the request go on as the token's principal.
///
/// # Errors
///
/// If the token is not accepted or not enough, or the provider's keys cannot be had.
pub(super) async fn authenticate(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    found: &Found,
) -> Result<Flow, Failure> {
    let client = request::client(rules, exchange).await;
    let id_token = match &rules.config.credentials.id_token_param_name {
        Some(_) => Box::pin(id_token(rules, exchange, host, client, &found.token)).await?,
        None => None,
    };
    let brought = Brought {
        found,
        id_token: id_token.as_deref(),
        client,
        method: AuthMethod::Bearer,
    };
    let methods = rules.methods;
    let asks = methods.introspection || methods.userinfo;
    if !methods.bearer || (asks && !jws::has_shape(&found.token)) {
        // What cannot be sent to the provider is not taken there.
        if !request::is_token(&found.token) {
            let detail = "the token is too long or has characters that no token has";
            return Err(Failure::refused("at_typ", detail));
        }
        return Box::pin(vouched_for(rules, exchange, host, jar, brought)).await;
    }
    let verified = verify(rules, client, host, &found.token).await?;
    if rules.config.credentials.introspect_jwt_tokens {
        let (token, method) = (&found.token, brought.method);
        let asked = introspection::ask(rules, exchange, host, token, client, method);
        let answer = Box::pin(asked).await?;
        let proceeding = introspection::proceed(rules, exchange, host, jar, &brought, &answer);
        return Box::pin(proceeding).await;
    }
    request::hide(rules, exchange, &found.place).await;
    if rules.tokens_say_all && id_token.is_none() {
        verified.principal.admit(rules, exchange)?;
        exchange.tenure = Some(Rc::clone(&verified.tenure));
        if rules.keeps_session(AuthMethod::Bearer) {
            keep_session(rules, exchange, host, jar, &verified, client).await;
        }
        return Ok(Flow::Continue);
    }
    let mut tokens = tokens(&verified);
    tokens.id_token = id_token;
    let mut session = Session::begin(rules, &tokens, AuthMethod::Bearer, client, host);
    session.claimed_at = verified.claimed_at;
    admission::admit(rules, exchange, host, jar, &mut session, Presented::Token).await?;
    hand_out(rules, exchange, host, jar, &session).await;
    let client = rules.client(client);
    let answer = login::answer(rules, exchange, client, AuthMethod::Bearer, None, &tokens);
    Ok(answer.map_or(Flow::Continue, Flow::Answer))
}

/// Lets the request go on with a token that nobody can read here, but that the introspection or the
/// user info endpoint accepts: the first that does decides.
async fn vouched_for(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    mut brought: Brought<'_>,
) -> Result<Flow, Failure> {
    let (token, client) = (&brought.found.token, brought.client);
    if poses(rules, token) {
        return Err(Failure::refused(
            "at_typ",
            "the token is not an access token",
        ));
    }
    let mut refusal = None;
    if rules.methods.introspection {
        brought.method = AuthMethod::Introspection;
        match introspection::ask(rules, exchange, host, token, client, brought.method).await {
            Ok(answer) => {
                return introspection::proceed(rules, exchange, host, jar, &brought, &answer).await;
            }
            Err(failure) => refusal = Some(failure),
        }
    }
    if !rules.methods.userinfo {
        let nobody = || Failure::refused("at_typ", "the token is not a signed JWT");
        return Err(refusal.unwrap_or_else(nobody));
    }
    let of = (client, AuthMethod::Userinfo);
    let question = user_info::Question::new(rules, exchange, of, token).await;
    let user_info = match question.ask(rules, host).await {
        Ok(user_info) => user_info,
        // That the provider fails says more than that it knows no such endpoint.
        Err(failure) => {
            let first = refusal.filter(|first| first.class == Class::Unavailable);
            return Err(first.unwrap_or(failure));
        }
    };
    request::hide(rules, exchange, &brought.found.place).await;
    let method = AuthMethod::Userinfo;
    let mut tokens = opaque(token);
    tokens.expires_at = jws::own_end(token);
    tokens.id_token = brought.id_token.map(str::to_owned);
    let mut session = Session::begin(rules, &tokens, method, client, host);
    let (_, id) = opened::claims_of(rules, &session);
    user_info::check_subject(&user_info.claims, id.as_ref())?;
    session.learn(&user_info);
    admission::admit(rules, exchange, host, jar, &mut session, Presented::Token).await?;
    hand_out(rules, exchange, host, jar, &session).await;
    let answer = login::answer(rules, exchange, rules.client(client), method, None, &tokens);
    Ok(answer.map_or(Flow::Continue, Flow::Answer))
}

/// The ID token that came along, verified (Kong 3.9, `id_token_param_name`).
async fn id_token(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    client: usize,
    access_token: &str,
) -> Result<Option<String>, Failure> {
    let Some(found) = request::id_token(rules, exchange).await else {
        return Ok(None);
    };
    let document = provider::document(rules, host)
        .await
        .map_err(|error| error.failure())?;
    let judge = |verifier: &Verifier<'_>| {
        let expected = Expected {
            access_token,
            ..Expected::default()
        };
        verifier.id_token(&found.token, expected).map(|_| ())
    };
    let judged = provider::judged(rules, client, host, document, Reason::ClientToken, judge).await;
    judged.map_err(Unaccepted::refusal)?;
    request::hide(rules, exchange, &found.place).await;
    Ok(Some(found.token))
}

async fn verify(
    rules: &Arc<Rules>,
    client: usize,
    host: &impl Host,
    token: &str,
) -> Result<Rc<Verified>, Failure> {
    let document = provider::document(rules, host)
        .await
        .map_err(|error| error.failure())?;
    let now = host.now();
    if let Some(verified) = remembered(rules, host, token.as_bytes())
        && verified.version == document.version
        && verified.lives(rules, now)
    {
        return Ok(verified);
    }
    let judge = |verifier: &Verifier<'_>| verifier.bearer(token);
    let judged = provider::judged(rules, client, host, document, Reason::ClientToken, judge).await;
    let (claims, document) = judged.map_err(Unaccepted::refusal)?;
    let principal = Principal::new(
        rules,
        Facts {
            access_token: token,
            access: Some(&claims),
            ..Facts::default()
        },
        None,
    );
    let end = jws::time(&claims, "exp").ok().flatten();
    let (until, claimed_at) = until(rules, &claims, now);
    let verified = Rc::new(Verified {
        token: token.to_owned(),
        until,
        claimed_at,
        end,
        tenure: Rc::new(admission::tenure_of_token(rules, end)),
        principal,
        version: document.version,
        current_at: Cell::default(),
        session: RefCell::default(),
    });
    if let Some(name) = name(rules, token.as_bytes()) {
        let memory = host.core_state::<Memory<Verified>>();
        memory.insert(host, name, &verified);
    }
    Ok(verified)
}

/// Until when a token need not be looked at again, and when it was made, if its age counts (`max_claim_age`).
fn until(rules: &Rules, claims: &Claims, now: UnixTime) -> (UnixTime, Option<UnixTime>) {
    let until = now.saturating_add(remembered_for(rules, claims));
    let Some(age) = &rules.config.access.max_claim_age else {
        return (until, None);
    };
    match jws::time(claims, "iat").ok().flatten() {
        Some(made_at) => {
            let old_at = made_at.saturating_add(age.seconds());
            (until.min(old_at), Some(made_at))
        }
        None => (now, None),
    }
}

/// Names a token: by the end of its signature.
fn name(rules: &Rules, token: &[u8]) -> Option<Name> {
    Some((rules.compilation, *token.last_chunk()?))
}

/// The very token as it was verified before.
fn remembered(rules: &Rules, host: &impl Host, token: &[u8]) -> Option<Rc<Verified>> {
    let name = name(rules, token)?;
    let verified = host.core_state::<Memory<Verified>>().get(&name)?;
    (verified.token.as_bytes() == token).then_some(verified)
}

/// Lets a request `pass` that brings `token` in its `Authorization`, and nothing else of ours, if the token was
/// verified before and a session that goes with it is at hand.
pub(super) fn at_hand(
    rules: &Rules,
    request: &Glance<'_>,
    host: &impl Host,
    token: &[u8],
    now: UnixTime,
    pass: &mut Pass,
) -> Option<()> {
    let serves = |verified: &Rc<Verified>| {
        verified.lives(rules, now) && verified.is_current(rules, host, now)
    };
    let made = request.fields.made(Usual::Authorization);
    let before = made.and_then(|made| made.find::<Weak<Verified>>(rules.compilation));
    let before = before.and_then(|before| before.upgrade()).filter(serves);
    let verified = if let Some(verified) = before {
        verified
    } else {
        let verified = remembered(rules, host, token).filter(serves)?;
        if let Some(made) = made {
            made.keep(rules.compilation, Rc::new(Rc::downgrade(&verified)));
        }
        verified
    };
    let hides = rules.config.credentials.hide_credentials;
    let hidden = hides.then_some(AUTHORIZATION);
    let consumers = &request.environment.consumers;
    pass.admit(verified.principal.known(rules, consumers, hidden)?)?;
    pass.response_headers.extend(verified.principal.told());
    if rules.keeps_session(AuthMethod::Bearer) {
        // Where there are several clients, a glance is not enough.
        let made_for = (request.client.https, 0);
        pass.response_headers
            .extend(verified.sealed(made_for, now)?);
    }
    pass.tenure = Some(Rc::clone(&verified.tenure));
    Some(())
}

impl Verified {
    /// Whether it is not over.
    fn lives(&self, rules: &Rules, now: UnixTime) -> bool {
        let credentials = &rules.config.credentials;
        let lives = |end: UnixTime| now < end.saturating_add(credentials.leeway.seconds());
        now < self.until && (!credentials.verify_claims || self.end.is_none_or(lives))
    }

    /// Whether what it was verified by is at hand, as what tokens are verified by.
    fn is_current(&self, rules: &Rules, host: &impl Host, now: UnixTime) -> bool {
        let is_fresh = |at: CopiedAt| at.is_fresh(host, now);
        if self.current_at.get().is_some_and(is_fresh) {
            return true;
        }
        let at_hand = provider::version_at_hand(rules, host, now);
        let same = at_hand.filter(|(version, _)| *version == self.version);
        self.current_at.set(same.map(|(_, at)| at));
        same.is_some()
    }

    /// The cookies of a session that was begun for the token a moment ago.
    fn sealed(&self, made_for: MadeFor, now: UnixTime) -> Option<Vec<(HeaderName, HeaderValue)>> {
        let sealed = self.session.borrow();
        let fresh = |sealed: &&Sealed| {
            sealed.made_for == made_for && now.saturating_since(sealed.at) < COOKIE_LIFETIME
        };
        let cookies = sealed.as_ref().filter(fresh)?.cookies.iter();
        Some(cookies.map(|cookie| (SET_COOKIE, cookie.clone())).collect())
    }
}

/// A token that names its end is checked against it each time; `cache_ttl_max` may end it sooner.
fn remembered_for(rules: &Rules, claims: &Claims) -> Duration {
    let provider = &rules.config.provider;
    let named = claims.contains_key("exp");
    let lifetime = if named {
        Duration::MAX
    } else {
        provider.cache_ttl.seconds()
    };
    match &provider.cache_ttl_max {
        Some(most) => lifetime.min(most.seconds()),
        None => lifetime,
    }
}

/// Starts a session for the token (Kong 3.9: every method does, unless it is disabled). The cookie is
/// sealed once for many requests: a client that ignores it costs little.
async fn keep_session(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    verified: &Verified,
    client: usize,
) {
    let (now, made_for) = (host.now(), (exchange.client.https, client));
    // One that is bound to its client serves no other.
    let serves_others = rules.config.session.session_bind.is_none();
    if jar.chunks(Family::Session).next().is_none()
        && let Some(sealed) = verified.sealed(made_for, now)
    {
        exchange.response_headers.extend(sealed);
        return;
    }
    let before = exchange.response_headers.len();
    let mut session = Session::begin(rules, &tokens(verified), AuthMethod::Bearer, client, host);
    session.claimed_at = verified.claimed_at;
    hand_out(rules, exchange, host, jar, &session).await;
    let cookies = exchange.response_headers.get(before..).unwrap_or_default();
    let cookies = cookies.iter().filter(|(name, _)| name == SET_COOKIE);
    let sealed = Sealed {
        at: now,
        made_for,
        cookies: cookies.map(|(_, cookie)| cookie.clone()).collect(),
    };
    *verified.session.borrow_mut() = Some(sealed).filter(|_| serves_others);
}

/// Hands a session to the client. Without a session key, or with a token too large for a cookie, the
/// token itself still authenticates this request and the next.
async fn hand_out(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    session: &Session,
) {
    if rules.keeps_session(session.method)
        && let Err(failure) = sign_in::keep(rules, exchange, host, jar, session, News::Tokens).await
    {
        tracing::debug!(error = %failure, "no session for a bearer token");
    }
}

fn tokens(verified: &Verified) -> Tokens {
    Tokens {
        expires_at: verified.end,
        ..opaque(&verified.token)
    }
}

/// A token of which nothing else is known.
pub(super) fn opaque(token: &str) -> Tokens {
    let mut answer = Map::new();
    answer.insert("access_token".to_owned(), token.into());
    Tokens {
        access_token: token.to_owned(),
        id_token: None,
        refresh_token: None,
        expires_at: None,
        answer,
        introspection: None,
        headers: Vec::new(),
    }
}
