//! Authorization responses: which sign-in one belongs to, and what becomes of one that belongs to none
//! any more (reloaded, late, or brought back by another browser).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::ALLOW;
use http::{HeaderValue, Method, StatusCode};
use shared::clock::UnixTime;

use super::authorization_response::registered;
use super::config::{AuthMethod, LoginAction, ResponseMode};
use super::cookie::Jar;
use super::failure::Failure;
use super::flow::{self, Callback, Pending};
use super::jws::Jws;
use super::mark::{self, Mark};
use super::request;
use super::rules::{Rules, sha256};
use super::sign_in;
use super::single_flight::{Flights, Pilot};
use super::under_way;
use crate::answer;
use crate::exchange::Exchange;
use crate::filter::Flow;
use crate::host::{Claim, Host};

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
    let under_way = || jar.sign_ins().next().is_some();
    let form = exchange.request.method == Method::POST
        && request::is_form(&exchange.request.headers)
        && (by_post || under_way());
    if !looks && form {
        let arguments = request::body_arguments(exchange).await;
        if let Some(mut callback) = response(mode, arguments) {
            // An error is heard by whatever way it comes.
            callback.wrong_way = !by_post && callback.code.is_some();
            return Some(callback);
        }
    }
    if !in_query || !(looks || under_way()) {
        return None;
    }
    let mut callback = response(mode, request::query(exchange).into_owned().collect())?;
    callback.wrong_way = !looks || (mode.is_posted() && callback.code.is_some());
    let state = callback.state.as_deref().unwrap_or_default();
    let ours = |(name, _): (&str, &str)| name == rules.names.sign_in(&under_way::suffix(state));
    (looks || jar.sign_ins().any(ours)).then_some(callback)
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
            _ => continue,
        };
        callback.ambiguous |= field.replace(value).is_some();
    }
    callback
}

/// The answer to a response that came by another way than was asked for, from the provider's page or from somebody
/// else: it says what that way is, and uses nothing up.
pub(super) fn wrong_way(rules: &Rules, exchange: &Exchange<'_>) -> Flow {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let mut answer = answer::message(status, "Method not allowed", &exchange.request_id);
    let posted = rules.config.sign_in.response_mode.is_posted();
    let allowed = HeaderValue::from_static(if posted { "POST" } else { "GET" });
    answer.headers_mut().insert(ALLOW, allowed);
    Flow::Answer(answer)
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
/// If it belongs to none, but this browser has others under way.
pub(super) fn find(
    rules: &Rules,
    exchange: &Exchange<'_>,
    jar: &Jar,
    callback: &Callback,
    now: UnixTime,
) -> Result<Found, Failure> {
    let ring = &exchange.environment.session_keys;
    let state = callback.state.as_deref().unwrap_or_default();
    let name = rules.names.sign_in(&under_way::suffix(state));
    let mut other = false;
    for (held, pending) in under_way::all(rules, ring, jar, now) {
        let expired = flow::expired(rules, &pending, now);
        if held == name {
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
    }
    if other {
        return Err(Failure::refused(
            "state_unknown",
            "the state is not the one that was sent",
        ));
    }
    Ok(match mark::read(rules, ring, state, now) {
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
    jar.sign_ins().next()?;
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
        sign_in::own_url(exchange),
    );
    let mut under_way = under_way::all(rules, ring, jar, now);
    if !under_way.any(|(_, pending)| pending.redirect_uri == here) {
        return None;
    }
    let refused = |code, detail: &'static str| Some(Failure::refused(code, detail));
    let response = arguments.iter().find(|(name, _)| name == "response");
    if let Some((_, response)) = response.filter(|_| mode.is_signed()) {
        return match Jws::parse(response, LONGEST_RESPONSE) {
            Ok(_) => refused("state_missing", "the authorization response has no state"),
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

/// The newest sign-in of a browser that begins another by a request that looks like the provider's answer to one: at the URL
/// that the provider was told. A state alone is an application's argument; one of ours is [`broken`].
pub(super) fn in_vain(
    rules: &Rules,
    exchange: &Exchange<'_>,
    jar: &Jar,
    now: UnixTime,
) -> Option<Mark> {
    let is_signed = rules.config.sign_in.response_mode.is_signed();
    let is_answer = |name: &str| match name {
        "code" | "error" => true,
        "response" => is_signed,
        _ => false,
    };
    if is_from_here(exchange) || !request::query(exchange).any(|(name, _)| is_answer(&name)) {
        return None;
    }
    let (ring, here) = (
        &exchange.environment.session_keys,
        sign_in::own_url(exchange),
    );
    let under_way = under_way::all(rules, ring, jar, now);
    let answered = under_way.filter(|(_, pending)| pending.redirect_uri == here);
    let marks = answered.filter_map(|(_, pending)| mark::read(rules, ring, &pending.state, now));
    marks.max_by_key(|mark| (mark.made_at, mark.round))
}

/// Whether the browser says that no other site has led it here (Fetch Metadata): then no provider has.
fn is_from_here(exchange: &Exchange<'_>) -> bool {
    let site = exchange.request.headers.get("sec-fetch-site");
    site.is_some_and(|site| site == "none" || site == "same-origin")
}

/// The state of a sign-in whose code is being redeemed.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Redeemed([u8; 32]);

/// What is told of a code that is spent: nothing but that.
const SPENT: &[u8] = b"spent";

/// How long a node remembers that a code is, for whoever reloads the page or has lost its answer.
const REMEMBERED: Duration = Duration::from_mins(1);

/// Most codes that a node remembers.
const MOST_REMEMBERED: usize = 10_000;

/// The codes that this node has spent of late.
#[derive(Debug, Default)]
struct Spent(Mutex<HashMap<Redeemed, UnixTime>>);

impl Spent {
    fn lock(&self) -> MutexGuard<'_, HashMap<Redeemed, UnixTime>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, code: &Redeemed, now: UnixTime) -> bool {
        self.lock().get(code).is_some_and(|until| now < *until)
    }

    fn note(&self, code: Redeemed, now: UnixTime) {
        let mut spent = self.lock();
        if spent.len() >= MOST_REMEMBERED {
            spent.retain(|_, until| now < *until);
        }
        if spent.len() < MOST_REMEMBERED {
            spent.insert(code, now.saturating_add(REMEMBERED));
        }
    }
}

/// A code that is this request's to redeem, in the whole cluster where a control plane can say so.
pub(super) struct Redeeming<H: Host> {
    host: H,
    code: Redeemed,
    key: [u8; 32],
    /// Whether other nodes wait to hear of it.
    claimed: bool,
    /// Whether it may still be good: the provider has not looked at it.
    unspent: bool,
    _pilot: Pilot<Redeemed, ()>,
}

impl<H: Host> Redeeming<H> {
    /// Leaves the code to the next request that brings it.
    pub(super) fn leave_unspent(&mut self) {
        self.unspent = true;
    }
}

impl<H: Host> Drop for Redeeming<H> {
    /// A request that went away in the middle of it may have spent the code.
    fn drop(&mut self) {
        if !self.unspent {
            let spent = self.host.node_state::<Spent>();
            spent.note(self.code.clone(), self.host.now());
        }
        if self.claimed {
            let told = (!self.unspent).then(|| SPENT.to_vec());
            self.host.publish(self.key, told);
        }
    }
}

/// Takes the code of the sign-in with this `state` for as long as what is returned lives. `None`: another request, of this
/// node or of another, had it and is done with it.
pub(super) async fn redeem<H: Host>(host: &H, state: &str) -> Option<Redeeming<H>> {
    let code = Redeemed(sha256(state.as_bytes()));
    let flights = host.node_state::<Flights<Redeemed, ()>>();
    let (landed, pilot) = flights.board(&code);
    let Some(pilot) = pilot else {
        _ = landed.await;
        return None;
    };
    if host.node_state::<Spent>().has(&code, host.now()) {
        return None;
    }
    let key = sha256(format!("code of {state}").as_bytes());
    let claimed = match host.claim(key).await {
        Claim::Theirs(_) => return None,
        Claim::Ours => true,
        Claim::Alone => false,
    };
    Some(Redeeming {
        host: host.clone(),
        code,
        key,
        claimed,
        unspent: false,
        _pilot: pilot,
    })
}

/// Whether the request is an authorization response of ours, and the browser may be led away from it:
/// to its URL without what the provider added, or to where a sign-in leads. A code that is reloaded
/// never goes upstream.
pub(super) fn leave(
    rules: &Rules,
    exchange: &Exchange<'_>,
    callback: &Callback,
    now: UnixTime,
) -> Option<Flow> {
    let ring = &exchange.environment.session_keys;
    mark::read(rules, ring, callback.state.as_deref()?, now)?;
    let config = &rules.config.sign_in;
    let redirects = config.login_action == LoginAction::Redirect
        && config
            .login_methods
            .contains(&AuthMethod::AuthorizationCode);
    let configured = rules.clients.first().and_then(|client| {
        let target = client.login_redirect_uri.clone();
        target.filter(|_| redirects)
    });
    let target = configured.unwrap_or_else(|| {
        let query = exchange.request.uri.query().unwrap_or_default();
        let kept = request::kept_arguments(query, |name| !request::added_by_provider(name));
        let url = sign_in::own_url(exchange);
        if kept.is_empty() {
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
