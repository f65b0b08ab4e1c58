//! Bearer tokens that clients bring: verified once, remembered per core (RFC 6750, RFC 9068).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::SET_COOKIE;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;
use serde_json::Map;
use shared::clock::UnixTime;

use super::config::AuthMethod;
use super::cookie::Jar;
use super::failure::Failure;
use super::headers::Facts;
use super::introspection;
use super::jws::{self, Claims};
use super::login;
use super::principal::Principal;
use super::provider;
use super::request::{self, Found};
use super::rules::Rules;
use super::session::Session;
use super::sign_in;
use super::token_endpoint::Tokens;
use super::verify::{Refusal, Verifier};
use crate::exchange::Exchange;
use crate::filter::Flow;
use crate::host::Host;

/// Most bytes of verified tokens that a core remembers.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// How long a session cookie made for a token is handed out before a new one is sealed.
const COOKIE_LIFETIME: Duration = Duration::from_secs(30);

/// Names a token: the configuration that verified it, and the end of its signature.
type Name = (u64, [u8; 32]);

/// A verified token with all that follows from it.
#[derive(Debug)]
struct Verified {
    token: String,
    claims: Claims,
    principal: Principal,
    /// The document whose keys verified it.
    version: u64,
    until: UnixTime,
    session: RefCell<Option<(UnixTime, Rc<[HeaderValue]>)>>,
}

#[derive(Debug)]
struct VerifiedTokens(RefCell<Cache<Name, Rc<Verified>, Weight>>);

impl Default for VerifiedTokens {
    fn default() -> Self {
        Self(RefCell::new(Cache::with_weighter(1024, MOST_BYTES, Weight)))
    }
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Name, Rc<Verified>> for Weight {
    fn weight(&self, _: &Name, verified: &Rc<Verified>) -> u64 {
        1024 + 6 * u64::try_from(verified.token.len()).unwrap_or(u64::MAX / 8)
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
    let position = request::client(rules, exchange).await;
    let methods = rules.methods;
    let local = methods.bearer && (!methods.introspection || jws::has_shape(&found.token));
    if !local {
        let method = AuthMethod::Introspection;
        return introspection::authenticate(rules, exchange, host, jar, found, method).await;
    }
    let verified = verify(rules, position, host, &found.token).await?;
    if methods.introspection && rules.config.credentials.introspect_jwt_tokens {
        let method = AuthMethod::Bearer;
        return introspection::authenticate(rules, exchange, host, jar, found, method).await;
    }
    if rules.config.credentials.hide_credentials {
        request::hide(exchange, &found.place);
    }
    verified.principal.admit(rules, exchange)?;
    keep_session(rules, exchange, host, jar, &verified, position);
    let client = rules.client(position);
    let tokens = tokens(&verified);
    let answer = login::answer(rules, exchange, client, AuthMethod::Bearer, None, &tokens);
    Ok(answer.map_or(Flow::Continue, Flow::Answer))
}

async fn verify(
    rules: &Arc<Rules>,
    client: usize,
    host: &impl Host,
    token: &str,
) -> Result<Rc<Verified>, Failure> {
    let mut document = provider::document(rules, host)
        .await
        .map_err(|error| error.failure())?;
    let now = host.now();
    let known = host.core_state::<VerifiedTokens>();
    let name = token
        .as_bytes()
        .last_chunk::<32>()
        .map(|end| (rules.compilation, *end));
    let leeway = rules.config.credentials.leeway.seconds();
    if let Some(name) = &name {
        let remembered = known.0.borrow().get(name).cloned();
        if let Some(verified) = remembered
            && verified.token == token
            && verified.version == document.version
            && now < verified.until
            && (!rules.config.credentials.verify_claims
                || jws::unexpired(&verified.claims, now, leeway))
        {
            return Ok(verified);
        }
    }
    let judge = |document: &provider::Document| {
        let verifier = Verifier {
            rules,
            document,
            client,
            now,
        };
        verifier.bearer(token)
    };
    let claims = match judge(&document) {
        Ok(claims) => claims,
        Err(Refusal::UnknownKey(failure)) => {
            document = provider::rediscover(rules, host, &document)
                .await
                .map_err(|_| failure)?;
            judge(&document).map_err(Refusal::into_failure)?
        }
        Err(Refusal::Bad(failure)) => return Err(failure),
    };
    let principal = Principal::new(
        rules,
        Facts {
            access_token: token,
            access: Some(&claims),
            ..Facts::default()
        },
    );
    let verified = Rc::new(Verified {
        token: token.to_owned(),
        until: now.saturating_add(remembered_for(rules, &claims)),
        claims,
        principal,
        version: document.version,
        session: RefCell::default(),
    });
    if let Some(name) = name {
        known.0.borrow_mut().insert(name, Rc::clone(&verified));
    }
    Ok(verified)
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
fn keep_session(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    verified: &Verified,
    client: usize,
) {
    if !rules.keeps_session(AuthMethod::Bearer) {
        return;
    }
    let now = host.now();
    let sealed = verified.session.borrow().clone();
    if let Some((sealed_at, cookies)) = sealed
        && jar.chunks().next().is_none()
        && now.saturating_since(sealed_at) < COOKIE_LIFETIME
    {
        let cookies = cookies.iter().map(|cookie| (SET_COOKIE, cookie.clone()));
        exchange.response_headers.extend(cookies);
        return;
    }
    let session = Session::begin(&tokens(verified), AuthMethod::Bearer, client, host);
    let before = exchange.response_headers.len();
    if let Err(failure) = sign_in::keep(rules, exchange, host, jar, &session) {
        // Without a session key, or with a token too large for a cookie, the token itself still
        // authenticates this request and the next.
        tracing::debug!(error = %failure, "no session for a bearer token");
        return;
    }
    let cookies = exchange.response_headers.get(before..).unwrap_or_default();
    let cookies = cookies.iter().map(|(_, cookie)| cookie.clone()).collect();
    *verified.session.borrow_mut() = Some((now, cookies));
}

fn tokens(verified: &Verified) -> Tokens {
    let mut answer = Map::new();
    answer.insert("access_token".to_owned(), verified.token.clone().into());
    Tokens {
        access_token: verified.token.clone(),
        id_token: None,
        refresh_token: None,
        expires_at: jws::time(&verified.claims, "exp").ok().flatten(),
        answer,
    }
}
