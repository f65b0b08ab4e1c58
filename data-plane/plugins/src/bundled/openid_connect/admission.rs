//! From verified tokens to a request that goes on: what the tokens must be bound to, what else has to
//! be asked before it is known who the request comes from, and the principal that follows.
//!
//! ```text
//! bound to this client? ─► required claims ─► exchange, user info, keys ─► principal ─► headers
//! ```

use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Map, Value};
use shared::clock::UnixTime;
use subtle::ConstantTimeEq;
use tracing::debug;

use super::claims::authorize;
use super::config::{AuthMethod, OpenidConnect};
use super::cookie::Jar;
use super::distributed;
use super::failure::Failure;
use super::jws::{self, Claims};
use super::opened;
use super::possession::{self, Presented};
use super::provider;
use super::rules::Rules;
use super::session::Session;
use super::token_exchange::{self, Exchanged};
use super::user_info;
use super::verify::Verifier;
use crate::exchange::Exchange;
use crate::host::Host;
use crate::sessions::tenure::Tenure;

/// What a configuration asks of others for each principal, besides tokens.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is asked for on its own"
)]
pub(super) struct Lookups {
    /// User info.
    user_info: bool,
    /// Whether a session that has it need not ask again.
    user_info_lasts: bool,
    /// The keys that signed the tokens.
    keys: bool,
    /// The token that goes upstream in place of the access token.
    exchange: bool,
    /// The sources of claims that an ID token names.
    sources: bool,
}

impl Lookups {
    pub(super) fn new(config: &OpenidConnect) -> Self {
        let headers = &config.headers;
        let shown = |fields: &[&Option<String>]| fields.iter().any(|field| field.is_some());
        Self {
            user_info: config.credentials.search_user_info
                || shown(&[
                    &headers.upstream_user_info_header,
                    &headers.upstream_user_info_jwt_header,
                    &headers.downstream_user_info_header,
                    &headers.downstream_user_info_jwt_header,
                ]),
            user_info_lasts: config.provider.cache_user_info,
            keys: shown(&[
                &headers.upstream_access_token_jwk_header,
                &headers.upstream_id_token_jwk_header,
                &headers.downstream_access_token_jwk_header,
                &headers.downstream_id_token_jwk_header,
            ]),
            exchange: config.client.token_exchange_endpoint.is_some(),
            sources: config.credentials.resolve_distributed_claims,
        }
    }

    /// Whether user info is asked for.
    pub(super) fn asks_user_info(self) -> bool {
        self.user_info
    }

    /// Whether something has to be asked of any token.
    pub(super) fn any(self) -> bool {
        self.user_info || self.keys || self.exchange || self.sources
    }

    /// Whether something has to be asked before the principal of `session` is known.
    pub(super) fn wants(self, session: &Session) -> bool {
        self.keys || self.exchange || self.wants_user_info(session) || self.wants_sources(session)
    }

    fn wants_sources(self, session: &Session) -> bool {
        self.sources && session.id_token.is_some() && session.sourced.is_none()
    }

    fn wants_user_info(self, session: &Session) -> bool {
        let known = session.user_info.is_some() && session.user_info_at.is_none();
        self.user_info && (!known || !self.user_info_lasts)
    }
}

/// Whether nothing but tokens that were verified decides on a request that is known by `method`, and nothing else
/// follows.
pub(super) fn say_all(config: &OpenidConnect, method: AuthMethod) -> bool {
    let wanted = possession::Wanted::new(config);
    !Lookups::new(config).any()
        && !wanted.certificate()
        && !wanted.key()
        && config.credentials.jwt_session_cookie.is_none()
        && !config.sign_in.login_methods.contains(&method)
        && (method == AuthMethod::Session || !tells_of_session(config))
}

/// Whether anybody is told of the session that a token begins, which is another each time.
fn tells_of_session(config: &OpenidConnect) -> bool {
    let (headers, session) = (&config.headers, &config.session);
    let facts = [
        &session.session_request_headers,
        &session.session_response_headers,
    ];
    let mut facts = facts.into_iter().flatten();
    headers.upstream_session_id_header.is_some()
        || headers.downstream_session_id_header.is_some()
        || facts.any(|told| !told.as_slice().is_empty())
}

/// What was found out about a session for this one request.
#[derive(Clone, Default)]
pub(super) struct Found {
    pub(super) exchanged: Option<Arc<Exchanged>>,
    /// The key that signed the access token, as headers show it.
    pub(super) access_key: Option<String>,
    /// That of the ID token.
    pub(super) id_key: Option<String>,
    /// Whether a source of the ID token's claims could not be asked: what the others add is for this request alone.
    sources_lack: bool,
    /// Whether one of the user info's could not, and what the session said before: it is asked again.
    user_info_lacks: bool,
    before: Option<Said>,
    /// Whether something that claims are searched in could not be asked.
    failed: bool,
    /// Why the provider, which has told of the user before, does not any more.
    refusal: Option<Failure>,
}

/// User info of a session, and when it was said.
#[derive(Clone)]
struct Said {
    claims: Claims,
    jwt: Option<String>,
    at: UnixTime,
}

shared::unsaid!(Said);

shared::unsaid!(Found);

/// Lets the request go on as the principal of `session`, which learns what is found out on the way.
///
/// # Errors
///
/// If its tokens are bound to another client or not enough, or if a provider that has to be asked
/// refuses.
pub(super) async fn admit(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    session: &mut Session,
    presented: Presented,
) -> Result<(), Failure> {
    check_bindings(rules, exchange, host, jar, session, presented).await?;
    if presented == Presented::Token {
        check_companion(rules, session)?;
        exchange.tenure = Some(Rc::new(tenure_of_token(rules, session.expires_at)));
    }
    let mut found = Found::default();
    if rules.lookups.wants(session) {
        let (access, id) = opened::claims_of(rules, session);
        // Who does not pass anyway is asked nothing about.
        let (said, token) = (session.introspection.as_ref(), &session.access_token);
        if authorize(rules, said, access.as_ref(), token).is_ok() {
            let looking = look_up(rules, exchange, host, session, id.as_ref());
            // Boxed, as all that few requests do: every request would carry the room for it.
            found = Box::pin(looking).await?;
        }
    }
    let principal = opened::principal_with(rules, session, &found);
    // A session that is kept, whatever becomes of this request, has it looked up again at the next.
    if found.sources_lack {
        session.sourced = None;
    }
    if found.user_info_lacks {
        session.forget_user_info();
        if let Some(before) = found.before {
            session.user_info = Some(before.claims);
            (session.user_info_jwt, session.user_info_at) = (before.jwt, Some(before.at));
        }
    }
    if found.failed && principal.lacks(rules) {
        let paused = || {
            Failure::paused(
                "idp_unreachable",
                "The OpenID provider cannot be asked now who you are",
                "what says more of the user could not be asked, and it decides",
            )
        };
        return Err(found.refusal.unwrap_or_else(paused));
    }
    principal.admit(rules, exchange)
}

/// What is let through by a token that ends at `end`.
pub(super) fn tenure_of_token(rules: &Rules, end: Option<UnixTime>) -> Tenure {
    let credentials = &rules.config.credentials;
    let end = end.filter(|_| credentials.verify_claims);
    Tenure::until(end.map(|end| end.saturating_add(credentials.leeway.seconds())))
}

async fn look_up(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    session: &mut Session,
    id: Option<&Claims>,
) -> Result<Found, Failure> {
    let mut found = Found::default();
    if let Some(endpoint) = &rules.config.client.token_exchange_endpoint {
        let token = &session.access_token;
        found.exchanged = Some(token_exchange::exchange(rules, host, endpoint, token).await?);
    }
    if rules.lookups.wants_user_info(session) {
        look_up_user_info(rules, exchange, host, session, id, &mut found).await?;
    }
    if rules.lookups.wants_sources(session)
        && let Some(id) = id
    {
        if let Ok(document) = provider::document(rules, host).await {
            let client = session.client;
            let added = distributed::resolve(rules, host, &document, client, id).await;
            found.sources_lack = !added.complete;
            found.failed |= found.sources_lack;
            session.sourced = Some(added.claims);
        } else {
            found.failed |= id.contains_key("_claim_sources");
        }
    }
    if rules.lookups.keys
        && let Ok(document) = provider::document(rules, host).await
    {
        let verifier = Verifier {
            rules,
            document: &document,
            client: session.client,
            now: host.now(),
        };
        found.access_key = verifier
            .key_of(&session.access_token)
            .and_then(provider::Key::shown);
        let id_token = session.id_token.as_deref();
        found.id_key = id_token
            .and_then(|token| verifier.key_of(token))
            .and_then(provider::Key::shown);
    }
    Ok(found)
}

/// Asks the provider of the user. While it cannot be asked, what it said before stands in, if it may.
async fn look_up_user_info(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    session: &mut Session,
    id: Option<&Claims>,
    found: &mut Found,
) -> Result<(), Failure> {
    let token = session.access_token.clone();
    let of = (session.client, session.method);
    let question = user_info::Question::new(rules, exchange, of, &token).await;
    let asked = question.ask(rules, host).await;
    let before = session.said(rules, host.now());
    let decides = rules.config.credentials.search_user_info;
    let signs_in = session.method == AuthMethod::AuthorizationCode;
    match asked {
        Ok(user_info) => {
            user_info::check_subject(&user_info.claims, id)?;
            found.user_info_lacks = user_info.lacks;
            session.learn(&user_info);
            if user_info.lacks {
                found.failed |= decides && !session.fill_up(before.as_ref());
                found.before = before;
            }
        }
        // Nobody knows who answers like that: it decides nothing, and signs nobody in.
        Err(failure)
            if failure.code == "userinfo_sig"
                || (failure.code == "userinfo_shape"
                    && before.is_none()
                    && (decides || signs_in)) =>
        {
            return Err(failure);
        }
        Err(failure) => {
            debug!(issuer = rules.issuer, %failure, "there is no user info");
            // To whom the provider tells nothing, of a token that is no user's, it has told that.
            if ["userinfo_refused", "at_typ"].contains(&failure.code) {
                // Of one that has been a user's it has not.
                if decides && session.user_info.is_some() {
                    found.failed = true;
                    found.refusal = Some(failure);
                }
                session.forget_user_info();
            } else if before.is_none() {
                found.failed |= decides;
                session.forget_user_info();
            }
        }
    }
    Ok(())
}

impl Session {
    /// The user info that it holds, if that may still decide.
    fn said(&self, rules: &Rules, now: UnixTime) -> Option<Said> {
        let claims = self.user_info.clone();
        let claims = claims.filter(|_| self.may_go_by_user_info(rules, now))?;
        Some(Said {
            claims,
            jwt: self.user_info_jwt.clone(),
            at: self.user_info_said(),
        })
    }

    /// Takes claims of sources that cannot be asked now from what they said `before`. Whether none is missing.
    fn fill_up(&mut self, before: Option<&Said>) -> bool {
        let Some(claims) = &mut self.user_info else {
            return false;
        };
        let named = claims.get("_claim_names").and_then(Value::as_object);
        let named: Vec<String> = named.into_iter().flat_map(Map::keys).cloned().collect();
        for name in &named {
            if !claims.contains_key(name)
                && let Some(value) = before.and_then(|before| before.claims.get(name))
            {
                claims.insert(name.clone(), value.clone());
            }
        }
        named.iter().all(|name| claims.contains_key(name))
    }
}

/// Checks what the tokens of `session` are bound to: a certificate or a key of the client, or a cookie
/// of another application (Kong 3.9, `jwt_session_cookie`).
///
/// # Errors
///
/// If they are not this client's.
pub(super) async fn check_bindings(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    session: &Session,
    presented: Presented,
) -> Result<(), Failure> {
    if rules.possession.any() {
        // Boxed, as all that few requests do.
        Box::pin(possession::check(rules, exchange, host, session, presented)).await?;
    }
    check_cookie(rules, jar, session)
}

/// The ID token that a client brings beside an access token says whose that one is: it names it by its hash, or the
/// same user. It is no secret, so that anybody may have it of anybody (OpenID Connect Core §3.1.3.8).
fn check_companion(rules: &Rules, session: &Session) -> Result<(), Failure> {
    let brought = matches!(
        session.method,
        AuthMethod::Bearer | AuthMethod::Introspection
    );
    if !brought || session.id_token.is_none() || !rules.config.credentials.verify_claims {
        return Ok(());
    }
    let (access, id) = opened::claims_of(rules, session);
    let id = id.unwrap_or_default();
    let mut said = session.introspection.iter().chain(&access);
    let subject = said.find_map(|claims| claims.get("sub"));
    let same = subject.is_some() && subject == id.get("sub");
    if same || id.contains_key("at_hash") {
        return Ok(());
    }
    Err(Failure::refused(
        "idt_sub",
        "nothing says that the ID token and the access token beside it are of one user",
    ))
}

fn check_cookie(rules: &Rules, jar: &Jar, session: &Session) -> Result<(), Failure> {
    let credentials = &rules.config.credentials;
    let Some(cookie) = &credentials.jwt_session_cookie else {
        return Ok(());
    };
    // Other tokens are of the provider's giving, and not of a client's.
    if !matches!(
        session.method,
        AuthMethod::Bearer | AuthMethod::Introspection | AuthMethod::Userinfo
    ) {
        return Ok(());
    }
    // The provider has vouched for what nobody has verified here.
    let access = jws::claims(&session.access_token);
    let mut said = access.iter().chain(&session.introspection);
    let claim = said.find_map(|claims| claims.get(&credentials.jwt_session_claim)?.as_str());
    let claim = claim.filter(|claim| !claim.is_empty());
    let held = jar.other(cookie);
    if let (Some(claim), Some(held)) = (claim, held)
        && bool::from(claim.as_bytes().ct_eq(held.as_bytes()))
    {
        return Ok(());
    }
    Err(Failure::refused(
        "session_wrong_binding",
        "the access token does not belong to the session cookie beside it",
    ))
}
