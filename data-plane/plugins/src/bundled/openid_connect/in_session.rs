//! A request that has a session: its access token renewed if that is due, its use noted.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::SET_COOKIE;
use shared::clock::UnixTime;
use tracing::{debug, warn};

use super::admission;
use super::config::AuthMethod;
use super::cookie::{Family, Jar};
use super::failure::{Class, Failure};
use super::login;
use super::logout;
use super::loops;
use super::opened::{self, Opened, Renewal};
use super::possession::Presented;
use super::provider::{self, Unaccepted};
use super::refresh;
use super::request;
use super::reverify::reverify;
use super::rules::Rules;
use super::session::{self, News, Session};
use super::sign_in;
use super::token_endpoint::{PassedOn, Tokens};
use crate::exchange::Exchange;
use crate::filter::Flow;
use crate::host::Host;

/// How long a request that can do without waits for a refresh while the provider fails.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often, and how long apart, it is looked whether another node has stored what it was given for a session.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// What there is to say of a session's access token.
#[derive(Debug)]
enum Token {
    /// It serves.
    Serves,
    /// A new one has taken its place in this session, and the request may go on.
    Renewed(Box<Session>),
    /// It has ended, but the request brings another.
    Other,
    /// A new one has come, but nobody has said for too long who its user is.
    Mute,
}

/// Lets the request go on with its session. `None`: it goes on without: its token has ended and the request brings
/// another, or what the session says is too old to decide.
///
/// # Errors
///
/// If the session is over, or its user may not pass.
pub(super) async fn go_on(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    open: &Rc<Opened>,
    now: UnixTime,
) -> Result<Option<Flow>, Failure> {
    if host.revocations().are_unknown() {
        return Err(Failure::paused(
            "revocations_unknown",
            "The gateway does not know now which sessions are over",
            "no control plane has been heard for long, so nobody knows here which sessions are over",
        ));
    }
    loops::arrived(rules, exchange, jar, now);
    exchange.tenure = Some(Rc::clone(&open.tenure));
    let session = &open.session;
    if open.is_token_due(now) {
        match Box::pin(renew(rules, exchange, host, jar, open, false)).await {
            Ok(Token::Serves) => {}
            Ok(token) => return conclude(rules, exchange, host, jar, token),
            Err(failure) => {
                let found = renewed_elsewhere(rules, exchange, host, jar, open, &failure);
                let Some(renewed) = Box::pin(found).await else {
                    return Err(failure);
                };
                let going_on = go_on(rules, exchange, host, jar, &renewed, host.now());
                return Box::pin(going_on).await;
            }
        }
    }
    if rules.config.credentials.reverify {
        match Box::pin(reverify(rules, exchange, host, session)).await {
            Ok(()) => {}
            // The key was retired, and there are tokens by a newer one, which may have taken over its name.
            Err(Unaccepted::Unsigned(_) | Unaccepted::OtherKey(_))
                if session.is_renewable(rules) =>
            {
                let token = Box::pin(renew(rules, exchange, host, jar, open, true)).await?;
                return conclude(rules, exchange, host, jar, token);
            }
            Err(unaccepted) => return Err(unaccepted.failure()),
        }
    }
    let ring = &exchange.environment.session_keys;
    let renewal = open.renewal(ring, exchange.client.https, now);
    // Further chunks of an older session have to go, which only a new look at them does.
    let chunks = if open.restored { 0 } else { open.chunks() };
    let renewal = renewal.filter(|_| jar.chunks(Family::Session).count() == chunks);
    let mut next = if renewal.is_none() && open.is_use_due(now) {
        session.used(rules, now)
    } else {
        None
    };
    let lost = open.restored && renewal.is_none();
    if lost {
        next.get_or_insert_with(|| session.clone());
    }
    if rules.lookups.wants(session) {
        let mut learnt = next.take().unwrap_or_else(|| session.clone());
        admission::admit(rules, exchange, host, jar, &mut learnt, Presented::Session).await?;
        let news = learnt.user_info.is_some() != session.user_info.is_some()
            || learnt.user_info_at != session.user_info_at
            || (learnt.sourced.is_some() && session.sourced.is_none());
        let changed = lost || learnt.used_at != session.used_at || (news && renewal.is_none());
        next = Some(learnt).filter(|_| changed);
    } else {
        admission::check_bindings(rules, exchange, host, jar, session, Presented::Session).await?;
        open.principal.admit(rules, exchange)?;
    }
    match (next, renewal) {
        (Some(next), _) => keep_on(rules, exchange, host, jar, open, next, now).await,
        (None, Some(renewal)) => give_again(rules, exchange, &renewal, now),
        (None, None) => session::tell(rules, exchange, session, now),
    }
    Ok(Some(follow(rules, exchange, session)))
}

/// The session as another node has renewed and stored it, where the provider takes the refresh token of `open` no more.
async fn renewed_elsewhere(
    rules: &Arc<Rules>,
    exchange: &Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    open: &Opened,
    failure: &Failure,
) -> Option<Rc<Opened>> {
    rules.storage.as_ref()?;
    let looks = match failure.code {
        // The other one may have to store it still.
        refresh::CONTESTED => LOOKS,
        refresh::REFUSED if failure.class == Class::Unauthorized => 1,
        _ => return None,
    };
    for look in 0..looks {
        if look > 0 {
            host.sleep(BETWEEN_LOOKS).await;
        }
        let now = host.now();
        let sought = opened::find(rules, exchange, host, jar, now).await.ok()?;
        let found = sought.found()?;
        let is_news = found.session.access_token != open.session.access_token;
        if is_news && found.session.id == open.session.id && !found.is_token_due(now) {
            return Some(found);
        }
    }
    None
}

/// What follows a request that is known by its `session` (Kong 3.9, `login_methods`).
fn follow(rules: &Rules, exchange: &Exchange<'_>, session: &Session) -> Flow {
    let (config, method) = (&rules.config.sign_in, AuthMethod::Session);
    if !config.login_methods.contains(&method) {
        return Flow::Continue;
    }
    let (tokens, client) = (Tokens::of(session), rules.client(session.client));
    let answer = login::answer(rules, exchange, client, method, None, &tokens);
    answer.map_or(Flow::Continue, Flow::Answer)
}

/// How the request goes on by what has become of its session's token, which had to be another.
///
/// # Errors
///
/// If it is still the same: nobody has let the request through by that.
fn conclude(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    token: Token,
) -> Result<Option<Flow>, Failure> {
    match token {
        Token::Serves => Err(Failure::refused(
            "session_expired",
            "the access token has not been renewed",
        )),
        Token::Renewed(session) => Ok(Some(follow(rules, exchange, &session))),
        Token::Other => Ok(None),
        Token::Mute => {
            // A browser signs in anew.
            exchange.tenure = None;
            opened::destroy(rules, exchange, host, jar);
            Ok(None)
        }
    }
}

/// Notes a use in the cookie. Should that fail, the cookie that the browser has still serves.
async fn keep_on(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    open: &Opened,
    next: Session,
    now: UnixTime,
) {
    let news = if next.used_at > next.renewed_at {
        News::Use
    } else {
        News::Renewal
    };
    match sign_in::keep(rules, exchange, host, jar, &next, news).await {
        Ok(cookies) => open.renewed(rules, exchange, next, cookies, now),
        Err(failure) => warn!(error = %failure, "a session could not be renewed"),
    }
}

/// Gives the client once more what another of its requests was given a moment ago.
fn give_again(rules: &Rules, exchange: &mut Exchange<'_>, renewal: &Renewal, now: UnixTime) {
    let cookies = renewal
        .cookies
        .iter()
        .map(|cookie| (SET_COOKIE, cookie.clone()));
    exchange.response_headers.extend(cookies);
    exchange.tenure.clone_from(&renewal.tenure);
    session::tell(rules, exchange, &renewal.session, now);
}

/// Renews the access token if it has ended, if what came with it is too old to decide, or if it `must` be.
async fn renew(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    open: &Opened,
    must: bool,
) -> Result<Token, Failure> {
    let now = host.now();
    let session = &open.session;
    let refresh_token = session.refresh_token.as_deref();
    let refresh_token = refresh_token.filter(|_| rules.config.credentials.refresh_tokens);
    let Some(refresh_token) = refresh_token else {
        return do_without(rules, exchange, jar, session, now).await;
    };
    if !open.is_token_due(now) && !must {
        return Ok(Token::Serves);
    }
    let spared_until = spared_until(rules, session).filter(|_| !must);
    let spared = spared_until.is_some_and(|until| now < until);
    let asked = refresh::Asked {
        client: session.client,
        refresh_token,
        id_token: session.id_token.as_deref(),
        held: Some((&session.access_token, session.expires_at)),
        spared_until,
        // A provider that is known to fail holds nobody up who can do without.
        passed_on: PassedOn::of(rules, exchange).await,
        session: Some(&session.id),
        steps: 0,
        patience: (spared && provider::fails(rules, host)).then_some(PATIENCE),
    };
    let ring = &exchange.environment.session_keys;
    let tokens = match Box::pin(refresh::refresh(rules, host, ring, asked)).await {
        Ok(tokens) => tokens,
        // The provider is away, or does not know its client any more, or new tokens could not be stored: what the session has
        // says that it may go on.
        Err(failure) if spared && matches!(failure.class, Class::Unavailable | Class::Faulty) => {
            debug!(issuer = rules.issuer, error = %failure, "a session goes on without a refresh");
            return Ok(Token::Serves);
        }
        Err(failure) => return Err(failure),
    };
    take_up(rules, exchange, host, jar, open, &tokens, now).await
}

/// What follows where there is no refresh token.
async fn do_without(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    jar: &Jar,
    session: &Session,
    now: UnixTime,
) -> Result<Token, Failure> {
    let leeway = rules.config.credentials.leeway.seconds();
    let end = session.expires_at;
    if end.is_none_or(|end| now < end.saturating_add(leeway)) {
        return Ok(Token::Serves);
    }
    let reads_tokens = rules.methods.tokens();
    if reads_tokens && request::bearer(rules, exchange, jar).await?.is_some() {
        return Ok(Token::Other);
    }
    Err(Failure::refused(
        "session_expired",
        "the access token has expired",
    ))
}

/// Until when `session` may go on although the provider gives no new tokens.
fn spared_until(rules: &Rules, session: &Session) -> Option<UnixTime> {
    let grace = rules.config.provider.refresh_grace.seconds();
    let patience = rules.config.access.stale_if_error.seconds();
    let ends = [
        session.expires_at.map(|end| end.saturating_add(grace)),
        session
            .claims_due(rules)
            .map(|due| due.saturating_add(patience)),
    ];
    ends.into_iter().flatten().min()
}

/// Goes on with the session as the new `tokens` have it, and has the browser keep it.
async fn take_up(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    open: &Opened,
    tokens: &Tokens,
    now: UnixTime,
) -> Result<Token, Failure> {
    let mut session = open.session.refreshed(rules, tokens, now);
    if open.is_revoked(host.revocations()) {
        logout::ended_meanwhile(rules, host, &session);
        return Err(Failure::refused(
            "session_revoked",
            "the session was ended while its tokens were refreshed",
        ));
    }
    if session.claims_due(rules).is_some_and(|due| due <= now) {
        return Ok(Token::Mute);
    }
    if rules.keeps_session(AuthMethod::Session) {
        session.renewed_at = now;
    }
    session.used_at = now;
    let admitted = admission::admit(rules, exchange, host, jar, &mut session, Presented::Session);
    let admitted = Box::pin(admitted).await;
    if let Err(failure) = &admitted
        && failure.destroys_session(rules)
    {
        return Err(failure.clone());
    }
    exchange
        .response_headers
        .extend(tokens.headers.iter().cloned());
    // The refresh token is spent, whatever becomes of this request.
    let kept = sign_in::keep(rules, exchange, host, jar, &session, News::Tokens).await;
    admitted?;
    kept?;
    Ok(Token::Renewed(Box::new(session)))
}
