//! Carries out the authorization code flow: the cookie of a sign-in, the calls that a step asks for,
//! and what follows a success.

use std::rc::Rc;
use std::sync::Arc;

use http::header::{REFERRER_POLICY, SET_COOKIE};
use http::{HeaderValue, Method};
use shared::clock::UnixTime;
use shared::entity::Revocation;
use tracing::debug;
use url::Url;

use super::admission;
use super::authorization_request::is_signed;
use super::callback::{self, Lost};
use super::config::AuthMethod;
use super::cookie::{Family, Jar};
use super::failure::{Class, Failure};
use super::flow::{self, Action, Arrival, Context, Event, Pending, SignedIn, State};
use super::forms;
use super::login;
use super::loops;
use super::mark;
use super::opened;
use super::own_address;
use super::page;
use super::possession::Presented;
use super::provider;
use super::rate::{self, Deed};
use super::request;
use super::rules::{Rules, is_ours_in_authorization};
use super::session::{self, News, Session, random_text};
use super::token_endpoint;
use super::under_way::{self, noted};
use crate::answer;
use crate::client_keys;
use crate::exchange::Exchange;
use crate::filter::Flow;
use crate::host::Host;
use crate::sessions::tenure::Renewals;

/// Why a sign-in begins.
#[derive(Debug)]
pub(super) enum Cause {
    /// A request needs one.
    Needed,
    /// One of this browser came to nothing.
    Lost(Lost),
    /// The provider could not do without its user.
    Interaction(Pending),
    /// Another site asks for one.
    Asked(Wish),
}

/// Where the browser is to end.
pub(super) struct Wish {
    /// A URL of this host, without its query.
    pub(super) target: String,
    pub(super) query: Option<String>,
    /// What the provider is told of the user.
    pub(super) arguments: Vec<(String, String)>,
}

shared::unsaid!(Wish);

impl Cause {
    /// The sign-in whose place the new one takes.
    fn before(&self) -> Option<&Pending> {
        match self {
            Self::Lost(lost) => lost.pending.as_ref(),
            Self::Interaction(pending) => Some(pending),
            Self::Needed | Self::Asked(_) => None,
        }
    }
}

/// Sends the browser to the provider.
///
/// # Errors
///
/// If the provider cannot be used now, or if this browser does not get anywhere.
pub(super) async fn start(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    cause: Cause,
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
    let arrival = arrive(rules, exchange, host, jar, cause).await?;
    let mut keys = host.client_keys();
    if is_signed(rules, &document) && rules.client(arrival.client).request_signer(&keys).is_none() {
        keys = client_keys::made(host).await;
    }
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
        // If it was taken where that endpoint is now, the browser goes where the others are now.
        let newest = provider::document(rules, host).await;
        let newest = newest.unwrap_or_else(|_| Arc::clone(&document));
        let context = Context {
            document: &newest,
            ..context
        };
        (state, action) = flow::step(context, state, event, host.now());
    }
    match (state, action) {
        (State::Waiting(pending), Action::Redirect(location)) => {
            under_way::remember(rules, exchange, host, jar, &pending)?;
            Ok(Flow::Answer(answer::redirect(
                &location,
                &exchange.request_id,
            )))
        }
        (State::Waiting(pending), Action::Post(endpoint, form)) => {
            under_way::remember(rules, exchange, host, jar, &pending)?;
            let answer = if page::wanted(&exchange.request.headers) {
                page::form(page::beside(&endpoint, &form).as_str(), &form)
            } else {
                // Who shows no pages takes what there is.
                answer::redirect(&page::url(&endpoint, &form), &exchange.request_id)
            };
            Ok(Flow::Answer(answer))
        }
        (_, Action::Deny(failure)) => Err(failure),
        _ => Err(Failure::unexpected(
            "state_unknown",
            "a sign-in could not begin",
        )),
    }
}

/// A sign-in that nobody would see is not begun: of a look ahead and a call of gRPC never, and if that is configured of any
/// request that is no navigation.
fn check_navigation(rules: &Rules, exchange: &Exchange<'_>) -> Result<(), Failure> {
    let request = &exchange.request;
    let only = rules.config.sign_in.redirect_navigations_only;
    if request::is_prefetch(&request.headers) || request::is_grpc(&request.headers) {
        return Err(Failure::unauthenticated("a sign-in needs its user"));
    }
    if only && !request::is_navigation(&request.method, &request.headers) {
        let mut failure = Failure::unauthenticated("a sign-in needs a navigation");
        failure.login_url = Some(own_url(exchange).into());
        return Err(failure);
    }
    Ok(())
}

/// How many sign-ins right before this one have come to nothing.
///
/// # Errors
///
/// If they were too many.
async fn round(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    jar: &Jar,
    cause: &Cause,
    now: UnixTime,
) -> Result<u8, Failure> {
    match cause {
        Cause::Lost(Lost {
            mark: Some(mark), ..
        }) => loops::next_round(rules, *mark, false, now),
        Cause::Needed => match callback::in_vain(rules, exchange, jar, now).await {
            Some(mark) => loops::next_round(rules, mark, true, now),
            None => Ok(0),
        },
        _ => Ok(0),
    }
}

async fn arrive(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    cause: Cause,
) -> Result<Arrival, Failure> {
    let position = match cause.before() {
        Some(pending) => pending.client,
        None => request::client(rules, exchange).await,
    };
    let round = round(rules, exchange, jar, &cause, host.now()).await?;
    let form = match &cause {
        Cause::Needed | Cause::Lost(Lost { pending: None, .. }) => {
            forms::keep(rules, exchange, host).await
        }
        _ => cause.before().and_then(forms::carried),
    };
    let interactive = matches!(cause, Cause::Interaction(_));
    let wished = match &cause {
        Cause::Asked(_) => true,
        _ => cause.before().is_some_and(|before| before.wished),
    };
    let Wish {
        target,
        query,
        arguments,
    } = wish(rules, exchange, cause, position, form.is_some());
    let configured = rules.client(position).redirect_uri.clone();
    let redirect_uri = match configured {
        Some(configured) => configured,
        None => own_address::redirect_uri(exchange, &target)?,
    };
    let addresses = (redirect_uri, target, query);
    let packed = under_way::packed(&addresses)?;
    let (redirect_uri, target, query) = addresses;
    let ring = &exchange.environment.session_keys;
    let state = mark::make(rules, ring, host, round, &packed).map_err(session::failure)?;
    let mut seed = [0; 32];
    host.random(&mut seed);
    Ok(Arrival {
        nonce: noted::nonce(&seed, &state),
        verifier: noted::verifier(&seed, &state),
        seed,
        state,
        jti: random_text::<16>(host),
        client: position,
        redirect_uri,
        target,
        query,
        form,
        arguments,
        interactive,
        wished,
        epoch: rules.epoch(host),
    })
}

fn wish(
    rules: &Rules,
    exchange: &Exchange<'_>,
    cause: Cause,
    client: usize,
    is_form: bool,
) -> Wish {
    let is_lost = matches!(cause, Cause::Lost(_));
    let pending = match cause {
        Cause::Asked(wish) => return wish,
        Cause::Interaction(pending) => Some(pending),
        Cause::Lost(lost) => lost.pending,
        Cause::Needed => None,
    };
    let arguments = let_through(rules, exchange);
    // Who was too slow at the provider's page still ends where they wanted to go.
    if let Some(pending) = pending {
        return Wish {
            target: pending.target,
            query: pending.query,
            arguments,
        };
    }
    // Whose the arguments of an answer are that it has.
    let is_answered = is_lost || is_answer(rules, exchange);
    let query = preserved_query(rules, exchange, is_answered, is_form);
    // With what a provider says of a sign-in, the request is for nobody's page.
    let came_back = is_lost
        || exchange.request.uri.query().is_some_and(|query| {
            !request::kept_arguments(query, |name| matches!(name, "state" | "error")).is_empty()
        });
    // A form is posted to the very URL that it was meant for.
    let target = if came_back && !is_form {
        destination(rules, exchange, client)
    } else {
        own_url(exchange)
    };
    let query = query.filter(|_| target == own_url(exchange));
    Wish {
        target,
        query,
        arguments,
    }
}

/// The query of the request that is kept over the sign-in; if by it a sign-in `is_answered`, without what a provider adds.
/// Applications have arguments of these names, too.
fn preserved_query(
    rules: &Rules,
    exchange: &Exchange<'_>,
    is_answered: bool,
    is_form: bool,
) -> Option<String> {
    let query = exchange.request.uri.query()?;
    if !rules.config.sign_in.preserve_query_args && !is_form {
        return None;
    }
    let kept = |name: &str| !is_answered || !request::added_by_provider(name);
    Some(request::kept_arguments(query, kept)).filter(|query| !query.is_empty())
}

/// Whether the query is an answer to a sign-in, or may be: with a state of a gateway, or with any at a URL that providers are
/// configured to lead to.
fn is_answer(rules: &Rules, exchange: &Exchange<'_>) -> bool {
    let has = |wanted: &str| request::query(exchange).any(|(name, _)| name == wanted);
    let looks = has("state") && (has("code") || has("error"));
    callback::is_in_query(rules, exchange) || (looks && leads_here(rules, exchange))
}

/// Whether a `redirect_uri` has the path of the request. What host providers are told is seen here only as proxies tell it.
fn leads_here(rules: &Rules, exchange: &Exchange<'_>) -> bool {
    let here = own_address::encoded(exchange.request.uri.path()).to_string();
    let leads = |uri: &str| Url::parse(uri).map_or(true, |uri| uri.path() == here);
    let mut clients = rules.clients.iter();
    clients.any(|client| client.redirect_uri.as_deref().is_some_and(leads))
}

/// Arguments of the request that the configuration lets through to the provider.
fn let_through(rules: &Rules, exchange: &Exchange<'_>) -> Vec<(String, String)> {
    let wanted = rules
        .config
        .sign_in
        .authorization_query_args_client
        .as_deref();
    let wanted = wanted.unwrap_or_default();
    request::query(exchange)
        .filter(|(name, _)| wanted.iter().any(|known| known == name))
        .filter(|(name, _)| !is_ours_in_authorization(name))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect()
}

/// The URL that was asked for, without its query: what no URL can have (RFC 3986 §2) is written as its octets.
pub(super) fn own_url(exchange: &Exchange<'_>) -> String {
    let path = own_address::encoded(exchange.request.uri.path());
    format!("{}{path}", own_origin(exchange))
}

fn own_origin(exchange: &Exchange<'_>) -> String {
    let scheme = if exchange.client.https {
        "https"
    } else {
        "http"
    };
    format!("{scheme}://{}", exchange.client.authority)
}

/// Where a sign-in ends that this request of a `client` begins: at its own URL, without the query. Where sign-ins end
/// elsewhere, the one that the provider leads back to is nobody's page: there, where the host begins.
pub(super) fn destination(rules: &Rules, exchange: &Exchange<'_>, client: usize) -> String {
    if login::redirects(rules) && callback::is_way_back(rules, exchange, client) {
        return format!("{}/", own_origin(exchange));
    }
    own_url(exchange)
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
    let mut session = Session::begin(rules, tokens, method, pending.client, host);
    session.id = pending.session_id();
    // The node where it began may be another, with another clock: that it did not begin after now is certain.
    let asked_at = pending.started_at.min(host.now());
    session.asked_at = Some(host.earliest(asked_at));
    session.epoch = pending.epoch;
    if opened::tenure(rules, &session).is_ended(host.revocations()) {
        let again = again(rules, exchange, host, &session, pending);
        let detail = "the session was ended before its browser came back from the provider";
        let again = again.ok_or_else(|| Failure::refused("session_revoked", detail))?;
        return Box::pin(start(rules, exchange, host, jar, Cause::Lost(again))).await;
    }
    let admitted =
        admission::admit(rules, exchange, host, jar, &mut session, Presented::Token).await;
    // Who may not pass is not sent to the provider again, where that leaves sessions alone.
    let stays =
        |failure: &Failure| failure.class == Class::Forbidden && !failure.destroys_session(rules);
    let kept = if rules.keeps_session(method) && admitted.as_ref().err().is_none_or(stays) {
        keep(rules, exchange, host, jar, &session, News::Tokens).await
    } else {
        Ok(Vec::new())
    };
    admitted?;
    kept?;
    exchange
        .response_headers
        .extend(tokens.headers.iter().cloned());
    debug!(issuer = rules.issuer, "signed in");
    let client = rules.client(pending.client);
    if login::returns(rules, client, method)
        && let Some(form) = forms::take(rules, exchange, host, pending).await
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
        // The page has the code in its address, which is nobody's to see in a `Referer` (RFC 9700 §4.2).
        let told = (REFERRER_POLICY, HeaderValue::from_static("strict-origin"));
        exchange.response_headers.push(told);
    }
    if exchange.request.method == Method::POST {
        request::remove_answer(exchange).await;
    }
    match pending.query.as_deref() {
        Some(query) => request::set_query(exchange, query),
        None => request::keep_arguments(exchange, |name| !request::added_by_provider(name)),
    }
    // The query of then may have held what this request's was already rid of.
    rules.withheld.strip_query(exchange);
    Ok(Flow::Continue)
}

/// What another sign-in takes the place of, where `session` was ended by what ends those of others too: its user, or its
/// provider. That was of earlier ones, and the clock that says so may be ahead, but for no more rounds than for others.
fn again(
    rules: &Rules,
    exchange: &Exchange<'_>,
    host: &impl Host,
    session: &Session,
    pending: &Pending,
) -> Option<Lost> {
    let now = host.now();
    let own = [Revocation::session(&session.id)];
    let mark = mark::read(
        rules,
        &exchange.environment.session_keys,
        &pending.state,
        now,
    )?;
    let may = !host.revocations().end(&own, session.began_at())
        && loops::next_round(rules, mark, false, now).is_ok();
    may.then(|| Lost {
        mark: Some(mark),
        pending: Some(pending.clone()),
    })
}

/// Hands the session to the browser, and what restores it if the browser is to be remembered. Says in which cookies.
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
    news: News,
) -> Result<Vec<HeaderValue>, Failure> {
    let mut session = session.clone();
    session.bound_to = session::binding(rules, exchange);
    let mut families = vec![Family::Session];
    if rules.config.session.session_remember && news != News::Use {
        session.remembered_at.get_or_insert(session.started_at);
        families.push(Family::Remember);
    }
    let ring = &exchange.environment.session_keys;
    let https = exchange.client.https;
    let mut cookies = Vec::new();
    for family in families {
        if let Some(store) = &rules.storage {
            store.put(rules, ring, host, family, &session).await?;
        }
        let own = session.cookies(family, rules, ring, host, jar, https);
        cookies.extend(own.map_err(session::failure)?);
    }
    let told = cookies.iter().map(|cookie| (SET_COOKIE, cookie.clone()));
    exchange.response_headers.extend(told);
    session::tell(rules, exchange, &session, host.now());
    go_on_with(rules, exchange, host, &session);
    Ok(cookies)
}

/// Streams that were begun with the session go on, and so does what the request begins, unless it was let
/// through by a token of its own.
fn go_on_with(rules: &Rules, exchange: &mut Exchange<'_>, host: &impl Host, session: &Session) {
    let tenure = opened::tenure(rules, session);
    if let Some(name) = tenure.names.first() {
        host.node_state::<Renewals>().note(*name, tenure.end);
    }
    let by_token = exchange.tenure.as_ref();
    let by_token = by_token.is_some_and(|tenure| tenure.names.is_empty());
    if !by_token || session.method == AuthMethod::AuthorizationCode {
        exchange.tenure = Some(Rc::new(tenure));
    }
}
