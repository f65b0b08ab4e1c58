//! Carries out the authorization code flow: the cookie of a sign-in, the calls that a step asks for,
//! and what follows a success.

use std::sync::Arc;

use tracing::debug;

use super::admission;
use super::callback::Lost;
use super::config::AuthMethod;
use super::cookie::{Family, Jar};
use super::failure::{Class, Failure};
use super::flow::{self, Action, Arrival, Callback, Context, Event, Pending, SignedIn, State};
use super::forms;
use super::login;
use super::loops;
use super::mark;
use super::page;
use super::possession::Presented;
use super::provider;
use super::rate::{self, Deed};
use super::request;
use super::rules::{Rules, sha256};
use super::seal::{self, Sizes};
use super::session::{self, Session, random_text};
use super::token_endpoint::{self, PassedOn};
use crate::answer;
use crate::exchange::Exchange;
use crate::filter::Flow;
use crate::host::Host;

/// Most sign-ins that one browser has under way; further ones make it forget the oldest.
pub(super) const MOST_SIGN_INS: usize = 20;

/// Most bytes of their cookies.
const MOST_BYTES: usize = 8 * 1024;

/// A sign-in's cookie is one chunk.
const SIZES: Sizes = Sizes {
    chunk: super::cookie::CHUNK,
    most: 1,
};

/// Sends the browser to the provider. `lost` is a sign-in of this browser that came to nothing and is
/// begun anew.
///
/// # Errors
///
/// If the provider cannot be used now, or if this browser does not get anywhere.
pub(super) async fn start(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    lost: Lost,
) -> Result<Flow, Failure> {
    check_navigation(rules, exchange)?;
    loops::check(rules, exchange, jar, host.now())?;
    let most = rules.config.sign_in.login_rate_limit;
    let address = exchange.client.address;
    if most > 0 && rate::count(host, Deed::SignIn, rules.compilation, address, most).is_err() {
        return Err(Failure::limited());
    }
    let document = provider::document(rules, host)
        .await
        .map_err(|error| error.failure())?;
    token_endpoint::verify_parameters(rules, &document).map_err(|error| error.failure())?;
    let arrival = arrive(rules, exchange, host, lost).await?;
    let keys = host.client_keys();
    let context = Context {
        rules,
        document: &document,
        signer: rules.client(arrival.client).request_signer(&keys),
    };
    let client = arrival.client;
    let (mut state, mut action) =
        flow::step(context, State::Idle, Event::Arrived(arrival), host.now());
    if let Action::Push(form) = action {
        let event = match token_endpoint::push(rules, &document, client, host, form).await {
            Ok(request_uri) => Event::Pushed(request_uri),
            Err(error) => Event::PushRefused(token_endpoint::push_failure(&error)),
        };
        (state, action) = flow::step(context, state, event, host.now());
    }
    match (state, action) {
        (State::Waiting(pending), Action::Redirect(location)) => {
            remember(rules, exchange, host, jar, &pending)?;
            Ok(Flow::Answer(answer::redirect(
                &location,
                &exchange.request_id,
            )))
        }
        (_, Action::Deny(failure)) => Err(failure),
        _ => Err(Failure::unexpected(
            "state_unknown",
            "a sign-in could not begin",
        )),
    }
}

/// A sign-in that nobody would see is not begun: of a look ahead never, and if that is configured of
/// any request that is no navigation.
fn check_navigation(rules: &Rules, exchange: &Exchange<'_>) -> Result<(), Failure> {
    let request = &exchange.request;
    let only = rules.config.sign_in.redirect_navigations_only;
    if request::is_prefetch(&request.headers) {
        return Err(Failure::unauthenticated("a sign-in needs its user"));
    }
    if only && !request::is_navigation(&request.method, &request.headers) {
        let mut failure = Failure::unauthenticated("a sign-in needs a navigation");
        failure.login_url = Some(own_url(exchange).into());
        return Err(failure);
    }
    Ok(())
}

async fn arrive(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    lost: Lost,
) -> Result<Arrival, Failure> {
    let position = match &lost.pending {
        Some(pending) => pending.client,
        None => request::client(rules, exchange).await,
    };
    let round = match lost.mark {
        Some(mark) => loops::next_round(mark, host.now())?,
        None => 0,
    };
    let ring = &exchange.environment.session_keys;
    let state = mark::make(rules, ring, host, round)
        .map_err(|error| Failure::unavailable("no_session_key", error.to_string()))?;
    let form = match &lost.pending {
        Some(pending) => pending.form.clone(),
        None => forms::keep(rules, exchange, host, &state).await,
    };
    let uri = &exchange.request.uri;
    let target = own_url(exchange);
    // A form is posted to the very URL that it was meant for.
    let preserved = rules.config.sign_in.preserve_query_args || form.is_some();
    let query = uri
        .query()
        .filter(|_| preserved)
        .map(|query| {
            request::kept_arguments(query, |name| {
                !matches!(
                    name,
                    "code" | "state" | "session_state" | "iss" | "error" | "error_description"
                )
            })
        })
        .filter(|query| !query.is_empty());
    let let_through = rules
        .config
        .sign_in
        .authorization_query_args_client
        .as_deref()
        .unwrap_or_default();
    let arguments = request::query(exchange)
        .filter(|(name, _)| let_through.iter().any(|known| known == name))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let configured = rules.client(position).redirect_uri.clone();
    let redirect_uri = configured.unwrap_or_else(|| target.clone());
    // Who was too slow at the provider's page still ends where they wanted to go.
    let (target, query) = match lost.pending {
        Some(pending) => (pending.target, pending.query),
        None => (target, query),
    };
    Ok(Arrival {
        state,
        // 160 bits: what RFC 6749 §10.10 asks of a value that must not be guessed.
        nonce: random_text::<20>(host),
        verifier: random_text::<32>(host),
        jti: random_text::<16>(host),
        client: position,
        redirect_uri,
        target,
        query,
        form,
        arguments,
    })
}

/// The URL that was asked for, without its query.
pub(super) fn own_url(exchange: &Exchange<'_>) -> String {
    let scheme = if exchange.client.https {
        "https"
    } else {
        "http"
    };
    let path = exchange.request.uri.path();
    format!("{scheme}://{}{path}", exchange.client.authority)
}

/// Seals the sign-in into a cookie of its own, and makes room for it.
fn remember(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    pending: &Pending,
) -> Result<(), Failure> {
    let name = rules.names.sign_in(&suffix(&pending.state));
    let json = serde_json::to_vec(pending).expect("a sign-in has only string keys");
    let mut nonce = [0; 12];
    host.random(&mut nonce);
    let now = host.now();
    let ring = &exchange.environment.session_keys;
    let value = seal::seal(
        ring,
        &rules.binding,
        &name,
        &json,
        SIZES,
        now.as_secs(),
        nonce,
    )
    .map_err(|error| match error {
        seal::SealError::NoKey => Failure::unavailable("no_session_key", error.to_string()),
        seal::SealError::TooLarge => {
            Failure::bad_request("target_too_large", "the URL is too long to return to")
        }
    })?;
    let https = exchange.client.https;
    let cookie = &rules.authorization_cookie;
    let mut dropped = Vec::new();
    for name in surplus(rules, exchange, jar, now) {
        dropped.push(cookie.expire(&name, https));
    }
    dropped.push(cookie.set(&name, &value, https));
    for header in dropped {
        exchange
            .response_headers
            .push((http::header::SET_COOKIE, header));
    }
    Ok(())
}

/// The names of the sign-ins to forget: of what does not open first, then the oldest.
fn surplus(
    rules: &Rules,
    exchange: &Exchange<'_>,
    jar: &Jar,
    now: shared::clock::UnixTime,
) -> Vec<String> {
    let held: Vec<_> = jar.sign_ins().collect();
    let bytes: usize = held
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if held.len() < MOST_SIGN_INS && bytes < MOST_BYTES {
        return Vec::new();
    }
    let ring = &exchange.environment.session_keys;
    let mut aged: Vec<_> = held
        .iter()
        .map(|(name, value)| {
            let pending = open(rules, ring, name, value, now);
            (
                pending.map(|pending| pending.started_at),
                *name,
                name.len() + value.len(),
            )
        })
        .collect();
    aged.sort_by_key(|(started_at, ..)| *started_at);
    let (mut count, mut left) = (held.len(), bytes);
    let mut names = Vec::new();
    for (_, name, size) in aged {
        if count < MOST_SIGN_INS && left < MOST_BYTES {
            break;
        }
        names.push(name.to_owned());
        count -= 1;
        left -= size;
    }
    names
}

pub(super) fn open(
    rules: &Rules,
    ring: &crate::session_keys::KeyRing,
    name: &str,
    value: &str,
    now: shared::clock::UnixTime,
) -> Option<Pending> {
    let opened = seal::open(ring, &rules.binding, name, value, now.as_secs())?;
    serde_json::from_slice(&opened.plaintext).ok()
}

/// The end of the name of a sign-in's cookie: half of SHA-256 of the state, in hexadecimal.
pub(super) fn suffix(state: &str) -> String {
    use std::fmt::Write;
    sha256(state.as_bytes())
        .iter()
        .take(8)
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string succeeds");
            text
        })
}

/// Finishes a sign-in: from the authorization response to verified tokens.
///
/// # Errors
///
/// If it failed.
pub(super) async fn finish(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    pending: Pending,
    callback: Callback,
) -> Result<SignedIn, Failure> {
    let passed_on = PassedOn::of(rules, exchange).await;
    let mut document = provider::document(rules, host)
        .await
        .map_err(|error| error.failure())?;
    let client = pending.client;
    let mut state = State::Waiting(pending);
    let mut event = Event::CalledBack(callback);
    loop {
        let context = Context {
            rules,
            document: &document,
            signer: None,
        };
        let (next, action) = flow::step(context, state, event, host.now());
        state = next;
        event = match action {
            Action::FetchTokens(form) => {
                let asked =
                    token_endpoint::request(rules, &document, client, host, form, &passed_on);
                match asked.await {
                    Ok(tokens) => Event::TokensReceived(Box::new(tokens)),
                    Err(error) => Event::TokensRefused(error.failure("token_http")),
                }
            }
            Action::FetchKeys => {
                document = provider::rediscover(rules, host, &document)
                    .await
                    .map_err(|error| error.failure())?;
                Event::KeysReceived
            }
            Action::Proceed(signed_in) => return Ok(*signed_in),
            Action::Deny(failure) => return Err(failure),
            Action::Redirect(_) | Action::Push(_) => {
                return Err(Failure::unexpected(
                    "state_unknown",
                    "a sign-in went backwards",
                ));
            }
        };
    }
}

/// Forgets the sign-in `pending`, unless the provider failed in the middle of it: then reloading the
/// page is worth a try.
pub(super) fn forget(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    state: &str,
    failure: Option<&Failure>,
) {
    if failure.is_some_and(|failure| failure.class == Class::Unavailable) {
        return;
    }
    let name = rules.names.sign_in(&suffix(state));
    let header = rules
        .authorization_cookie
        .expire(&name, exchange.client.https);
    exchange
        .response_headers
        .push((http::header::SET_COOKIE, header));
}

/// Begins the session of a user who signed in, and does what `login_action` says.
///
/// # Errors
///
/// If the user may not pass, or the session cannot be kept.
pub(super) async fn complete(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    signed_in: &SignedIn,
) -> Result<Flow, Failure> {
    let SignedIn { pending, tokens } = signed_in;
    let method = AuthMethod::AuthorizationCode;
    let mut session = Session::begin(tokens, method, pending.client, host);
    admission::admit(rules, exchange, host, jar, &mut session, Presented::Token).await?;
    exchange
        .response_headers
        .extend(tokens.headers.iter().cloned());
    if rules.keeps_session(method) {
        keep(rules, exchange, host, jar, &session).await?;
    }
    debug!(issuer = rules.issuer, "signed in");
    let client = rules.client(pending.client);
    if login::returns(rules, client, method)
        && let Some(form) = forms::take(pending, host)
    {
        loops::note(rules, exchange, host, jar);
        return Ok(Flow::Answer(page::form(&login::origin(pending), &form)));
    }
    if let Some(response) = login::answer(rules, exchange, client, method, Some(pending), tokens) {
        if response.status().is_redirection() {
            loops::note(rules, exchange, host, jar);
        }
        return Ok(Flow::Answer(response));
    }
    if exchange.request.uri.query().is_some() {
        let own = rules.config.sign_in.preserve_query_args;
        match pending.query.as_deref().filter(|_| own) {
            Some(query) => request::set_query(exchange, query),
            None => request::keep_arguments(exchange, |name| !request::added_by_provider(name)),
        }
    }
    Ok(Flow::Continue)
}

/// Hands the session to the browser, and what restores it if the browser is to be remembered.
///
/// # Errors
///
/// If it cannot be sealed or is too large.
pub(super) async fn keep(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    session: &Session,
) -> Result<(), Failure> {
    let mut session = session.clone();
    session.bound_to = session::binding(rules, exchange);
    let mut families = vec![Family::Session];
    // What only notes a use says nothing new to a browser that is remembered.
    let noted = session.used_at > session.renewed_at;
    if rules.config.session.session_remember && !noted {
        session.remembered_at.get_or_insert(session.started_at);
        families.push(Family::Remember);
    }
    let ring = &exchange.environment.session_keys;
    let https = exchange.client.https;
    for family in families {
        if let Some(store) = &rules.storage {
            store.put(rules, ring, host, family, &session).await?;
        }
        let cookies = session
            .cookies(family, rules, ring, host, jar, https)
            .map_err(session::failure)?;
        for cookie in cookies {
            exchange
                .response_headers
                .push((http::header::SET_COOKIE, cookie));
        }
    }
    session::tell(rules, exchange, &session, host.now());
    Ok(())
}
