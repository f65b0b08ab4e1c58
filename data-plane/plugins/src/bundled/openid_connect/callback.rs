//! Authorization responses: which sign-in one belongs to, and what becomes of one that belongs to none
//! any more (reloaded, late, or brought back by another browser).

use http::header::ALLOW;
use http::{HeaderValue, Method, StatusCode};
use shared::clock::UnixTime;

use super::authorization_response::registered;
use super::config::ResponseMode;
use super::cookie::Jar;
use super::failure::Failure;
use super::flow::{self, Callback, Pending, Way};
use super::jws::{Jws, JwsError};
use super::login;
use super::logout;
use super::mark::{self, Mark};
use super::redemption;
use super::request;
use super::rules::Rules;
use super::sign_in;
use super::under_way::{self, noted::Noted};
use crate::answer;
use crate::exchange::Exchange;
use crate::filter::Flow;
use crate::host::Host;

/// Longest JWT-secured response, in bytes.
const LONGEST_RESPONSE: usize = 32 * 1024;

/// The authorization response that the request is, if it looks like one.
pub(super) async fn read(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    jar: &Jar,
) -> Option<Callback> {
    let mode = rules.config.sign_in.response_mode;
    let by_post = mode.is_posted() || mode.is_in_fragment();
    // Nearly no request is one: this look is all that the others cost.
    let mark = if mode.is_signed() {
        "response="
    } else {
        "state="
    };
    let query = exchange.request.uri.query();
    let in_query = query.is_some_and(|query| query.contains(mark));
    let looks = matches!(exchange.request.method, Method::GET | Method::HEAD);
    // Only a browser with sign-ins under way may bring one by the wrong way.
    let under_way = || jar.begun().next().is_some();
    let form = exchange.request.method == Method::POST
        && request::is_form(&exchange.request.headers)
        && (by_post || under_way());
    if !looks && form {
        let arguments = request::body_arguments(exchange).await;
        if let Some(mut callback) = response(mode, arguments) {
            callback.way = Way::Form;
            return Some(callback);
        }
    }
    if !in_query || !(looks || under_way()) {
        return None;
    }
    let mut callback = response(mode, request::query(exchange).into_owned().collect())?;
    if looks {
        return Some(callback);
    }
    callback.way = Way::Other;
    let state = callback.state.as_deref().unwrap_or_default();
    under_way::has(rules, jar, state).then_some(callback)
}

/// The authorization response that `arguments` are, if they are one.
fn response(mode: ResponseMode, arguments: Vec<(String, String)>) -> Option<Callback> {
    let callback = if mode.is_signed() {
        signed(arguments)?
    } else {
        gather(arguments)
    };
    let answered = callback.code.is_some() || callback.error.is_some();
    (callback.state.is_some() && answered).then_some(callback)
}

fn gather(arguments: Vec<(String, String)>) -> Callback {
    let mut callback = Callback::default();
    for (name, value) in arguments {
        let field = match name.as_str() {
            "state" => &mut callback.state,
            "code" => &mut callback.code,
            "iss" => &mut callback.iss,
            "error" => &mut callback.error,
            "id_token" => &mut callback.id_token,
            "access_token" => &mut callback.access_token,
            // Nothing where no signed one was asked for, but no more to be repeated than the others.
            "response" => &mut callback.response,
            _ => continue,
        };
        callback.ambiguous |= field.replace(value).is_some();
    }
    callback
}

/// Whether the query answers a sign-in, as far as its state shows, which need not open any more. Applications that are clients
/// of a provider themselves, be it the same one, get answers with states of their own.
pub(super) fn is_in_query(rules: &Rules, exchange: &Exchange<'_>) -> bool {
    let mode = rules.config.sign_in.response_mode;
    let arguments = request::query(exchange).into_owned().collect();
    let state = response(mode, arguments).and_then(|answer| answer.state);
    state.is_some_and(|state| mark::is_likely(&state))
}

/// The answer to a response that came by another way than was asked for when `pending` began, from the provider's page or
/// from somebody else: it says what that way is, and uses nothing up. An error is heard by whatever way it comes.
pub(super) fn wrong_way(
    rules: &Rules,
    exchange: &Exchange<'_>,
    response: &Callback,
    pending: &Pending,
) -> Option<Flow> {
    let mode = rules.config.sign_in.response_mode;
    let has_code = response.code.is_some();
    // Sign-ins that the version before has begun do not say.
    let may_be_posted = pending.posted || mode.is_posted() || mode.is_in_fragment();
    // Only a navigation takes a sign-in further: not a look ahead at where it would lead.
    let is_wrong = exchange.request.method == Method::HEAD
        || match response.way {
            Way::Query => has_code && pending.posted,
            Way::Form => has_code && !may_be_posted,
            Way::Other => true,
        };
    if !is_wrong {
        return None;
    }
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let mut answer = answer::message(status, "Method not allowed", &exchange.request_id);
    let allowed = HeaderValue::from_static(if pending.posted { "POST" } else { "GET" });
    answer.headers_mut().insert(ALLOW, allowed);
    Some(Flow::Answer(answer))
}

/// Takes a JWT-secured response apart. Who signed it is looked at when it is known which sign-in it
/// belongs to; nothing beside it counts (JARM §2.4).
fn signed(arguments: Vec<(String, String)>) -> Option<Callback> {
    let mut responses = arguments
        .into_iter()
        .filter_map(|(name, value)| (name == "response").then_some(value));
    let response = responses.next()?;
    let ambiguous = responses.next().is_some();
    let claims = Jws::parse(&response, LONGEST_RESPONSE).ok()?.claims;
    let members = claims
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_str()?.to_owned())));
    let mut callback = gather(members.collect());
    callback.response = Some(response);
    callback.ambiguous |= ambiguous;
    Some(callback)
}

/// What an authorization response belongs to.
#[derive(Debug)]
pub(super) enum Found {
    /// A sign-in of this browser.
    UnderWay(Pending),
    /// A sign-in of ours that is over, or another browser's; or one that took too long.
    Lost(Lost),
    /// Nothing of ours.
    Nothing,
}

/// What is left of a sign-in that cannot be finished.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// What its state says. None if this browser still has its cookie, or if nothing was lost.
    pub(super) mark: Option<Mark>,
    /// What its cookie says, if this browser has it.
    pub(super) pending: Option<Pending>,
}

/// Finds the sign-in that an authorization response belongs to.
///
/// # Errors
///
/// If it belongs to none, but this browser has others under way that lead here, or by its state it is of a gateway.
pub(super) fn find(
    rules: &Rules,
    exchange: &Exchange<'_>,
    jar: &Jar,
    callback: &Callback,
    host: &impl Host,
) -> Result<Found, Failure> {
    let now = host.now();
    let ring = &exchange.environment.session_keys;
    let state = callback.state.as_deref().unwrap_or_default();
    let name = rules.names.sign_in(&under_way::suffix(state));
    let here = Here::of(rules, exchange);
    let (mut other, mut leads_here) = (false, false);
    for (held, noted) in under_way::all(rules, ring, jar, now) {
        let expired = flow::expired(rules, noted.started_at(), now);
        if held == name {
            let Some(pending) = noted.pending(rules, ring, state, now) else {
                continue;
            };
            return Ok(if expired {
                Found::Lost(Lost {
                    mark: None,
                    pending: Some(pending),
                })
            } else {
                Found::UnderWay(pending)
            });
        }
        other |= !expired;
        leads_here |= !expired && here.is_led_to_by(&noted);
    }
    let mark = mark::read(rules, ring, state, now);
    // Where no provider leads to, an application has answers of its own.
    if other && (leads_here || mark::is_likely(state)) {
        return Err(match mark {
            None => Failure::refused("state_unknown", "the state is not the one that was sent"),
            Some(_) if redemption::knows(host, state) => {
                Failure::refused("state_reused", "the sign-in is over")
            }
            Some(_) => Failure::refused(
                "state_wrong_browser",
                "another browser has begun the sign-in, or this one no longer has its cookie",
            ),
        });
    }
    Ok(match mark {
        Some(mark) => Found::Lost(Lost {
            mark: Some(mark),
            pending: None,
        }),
        None => Found::Nothing,
    })
}

/// Why a request fails by which the provider has sent a browser back, to the very URL that it was told, without what would
/// say which sign-in it answers. `None`: it may be anything else.
pub(super) async fn broken(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    jar: &Jar,
    now: UnixTime,
) -> Option<Failure> {
    jar.begun().next()?;
    let mode = rules.config.sign_in.response_mode;
    let arguments = match exchange.request.method {
        Method::GET if exchange.request.uri.query().is_some() => {
            request::query(exchange).into_owned().collect()
        }
        Method::POST if mode.is_posted() && request::is_form(&exchange.request.headers) => {
            request::body_arguments(exchange).await
        }
        _ => return None,
    };
    let (ring, here) = (
        &exchange.environment.session_keys,
        Here::of(rules, exchange),
    );
    let mut under_way = under_way::all(rules, ring, jar, now);
    if !under_way.any(|(_, noted)| here.is_led_to_by(&noted)) {
        return None;
    }
    let refused = |code, detail: &'static str| Some(Failure::refused(code, detail));
    let response = arguments.iter().find(|(name, _)| name == "response");
    if let Some((_, response)) = response.filter(|_| mode.is_signed()) {
        return match Jws::parse(response, LONGEST_RESPONSE) {
            Ok(_) => refused("state_missing", "the authorization response has no state"),
            Err(JwsError::Encrypted) => refused(
                "jarm",
                "the authorization response is encrypted, which the gateway does not read: register the client without authorization_encrypted_response_alg",
            ),
            Err(_) => refused("idt_alg", "the authorization response is no signed JWT"),
        };
    }
    let answer = gather(arguments);
    if let Some(state) = &answer.state {
        let ours = mark::read(rules, ring, state, now).is_some();
        let bare = answer.code.is_none() && answer.error.is_none();
        return refused("code_missing", "the authorization response has no code")
            .filter(|_| ours && bare);
    }
    let error = registered(answer.error.as_deref()?)?;
    let detail = format!("the OpenID provider answered {error}, and not which sign-in");
    Some(Failure::refused("state_missing", detail).with("error", error))
}

/// The newest sign-in of a browser that begins another by a request that looks like the provider's answer to one, by whatever
/// way and of whatever kind: at the URL that the provider was told. A state alone is an application's argument; one of ours
/// is [`broken`]. Without anything of an answer it looks like one where sign-ins of this browser that were for other pages
/// lead to, unless its user has opened that page.
pub(super) async fn in_vain(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    jar: &Jar,
    now: UnixTime,
) -> Option<Mark> {
    let is_answer = |name: &str| {
        matches!(
            name,
            "code" | "error" | "response" | "iss" | "session_state"
        )
    };
    if led_by(exchange, "same-origin") || jar.begun().next().is_none() {
        return None;
    }
    let is_posted = rules.config.sign_in.response_mode.is_posted()
        && exchange.request.method == Method::POST
        && request::is_form(&exchange.request.headers);
    let mut has_answered = request::query(exchange).any(|(name, _)| is_answer(&name));
    if !has_answered && is_posted {
        let arguments = request::body_arguments(exchange).await;
        // No page of another site has an empty form for one of this.
        has_answered = arguments.iter().any(|(name, _)| is_answer(name))
            || (request::has_empty_body(exchange).await
                && logout::origin(exchange) == logout::Origin::Foreign);
    }
    let here = Here::of(rules, exchange);
    let (method, headers) = (&exchange.request.method, &exchange.request.headers);
    let may_be_led = request::may_be_navigation(method, headers) && !led_by(exchange, "none");
    let may_be_led = may_be_led && !here.configured.is_empty();
    if !has_answered && !may_be_led {
        return None;
    }
    let ring = &exchange.environment.session_keys;
    let under_way = under_way::all(rules, ring, jar, now);
    let answered: Vec<_> = under_way
        .filter_map(|(_, noted)| here.is_led_to_by(&noted).then_some(noted))
        .collect();
    if !has_answered && !answered.iter().any(Noted::ends_elsewhere) {
        return None;
    }
    let marks = answered
        .iter()
        .filter_map(|noted| noted.mark(rules, ring, now));
    marks.max_by_key(|mark| (mark.made_at, mark.round))
}

/// Whether the request is where sign-ins of `client` are led back to, as it is configured.
pub(super) fn is_way_back(rules: &Rules, exchange: &Exchange<'_>, client: usize) -> bool {
    let configured = rules.client(client).redirect_uri.as_deref();
    configured.is_some_and(|uri| Here::of(rules, exchange).configured.contains(&uri))
}

/// Where the request is, as a provider may have been told.
struct Here<'a> {
    /// Its own URL, without the query.
    own: String,
    /// Each configured `redirect_uri` that is this URL: if it has a query, the request has that, too.
    configured: Vec<&'a str>,
}

impl<'a> Here<'a> {
    fn of(rules: &'a Rules, exchange: &Exchange<'_>) -> Self {
        let own = sign_in::own_url(exchange);
        let is_here = |uri: &&str| {
            let (before, query) = uri.split_once('?').unwrap_or((uri, ""));
            before == own
                && form_urlencoded::parse(query.as_bytes())
                    .all(|argument| request::query(exchange).any(|asked| asked == argument))
        };
        let clients = rules.clients.iter();
        let configured = clients.filter_map(|client| client.redirect_uri.as_deref());
        Self {
            configured: configured.filter(is_here).collect(),
            own,
        }
    }

    fn is_led_to_by(&self, noted: &Noted) -> bool {
        noted.leads_to(&self.own) || self.configured.iter().any(|uri| noted.leads_to(uri))
    }
}

/// Whether the browser says that `site` has led it here (Fetch Metadata §2.4). `same-origin`: nothing but this host, so no
/// provider has. What a user began says `none` also where a provider sent it on: browsers end such a circle themselves.
fn led_by(exchange: &Exchange<'_>, site: &str) -> bool {
    let said = exchange.request.headers.get("sec-fetch-site");
    said.is_some_and(|said| said == site)
}

/// Whether the request is an authorization response of ours, and the browser may be led away from it:
/// to its URL without what the provider added, or to where a sign-in of `client` leads. A code that is reloaded
/// never goes upstream.
pub(super) fn leave(
    rules: &Rules,
    exchange: &Exchange<'_>,
    callback: &Callback,
    client: usize,
    now: UnixTime,
) -> Option<Flow> {
    let ring = &exchange.environment.session_keys;
    mark::read(rules, ring, callback.state.as_deref()?, now)?;
    let configured = rules.client(client).login_redirect_uri.clone();
    let configured = configured.filter(|_| login::redirects(rules));
    let target = configured.unwrap_or_else(|| {
        let query = exchange.request.uri.query().unwrap_or_default();
        let kept = request::kept_arguments(query, |name| !request::added_by_provider(name));
        let url = sign_in::destination(rules, exchange, client);
        if kept.is_empty() || url != sign_in::own_url(exchange) {
            url
        } else {
            format!("{url}?{kept}")
        }
    });
    Some(Flow::Answer(answer::redirect(
        &target,
        &exchange.request_id,
    )))
}
