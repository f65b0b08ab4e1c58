//! `openid-connect`: signs users in at an OpenID provider and verifies the tokens that clients bring.
//!
//! ```text
//!                 ┌─ authorization response ─► sign_in: token endpoint, verify, begin a session
//! request ─► jar ─┼─ session cookie ─────────► opened: lifetimes, refresh if due
//!                 ├─ bearer token ───────────► bearer: verified once, remembered; or introspection
//!                 ├─ refresh token ──────────► refresh
//!                 ├─ user or client secret ──► grants: token endpoint, verify, remember
//!                 └─ nothing ────────────────► sign_in: 302 to the provider, or 401
//! ```
//!
//! What follows from tokens is a `principal`; decisions of the sign-in are in `flow`, which knows no
//! network. Kong 3.9's order of credentials and answers.

mod admission;
mod answers;
mod asked_claims;
mod assertion;
mod authorization_request;
mod authorization_response;
mod bearer;
mod callback;
pub mod check;
mod claims;
pub mod config;
pub(crate) mod cookie;
mod distributed;
pub mod explain;
mod failure;
mod flow;
pub mod forms;
mod glance;
mod grants;
mod headers;
mod in_session;
mod initiation;
mod introspection;
mod jws;
mod key;
mod login;
mod logout;
mod loops;
mod mark;
mod memory;
mod opened;
mod own_address;
mod packed;
mod page;
mod possession;
mod principal;
mod provider;
mod rate;
mod redemption;
mod refresh;
mod request;
mod reverify;
mod rules;
mod session;
mod session_store;
mod shared_answers;
mod sign_in;
mod single_flight;
mod strict_json;
#[cfg(test)]
mod tests;
mod token_endpoint;
mod token_exchange;
mod told;
mod turn;
mod under_way;
pub(crate) mod used_proofs;
mod user_info;
mod verify;
mod withheld;

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderName, Method};
use serde_json::{Map, Value};
use shared::clock::UnixTime;
use shared::schema::FieldErrors;
use tracing::{debug, info, warn};

pub use config::OpenidConnect;

use crate::answer;
use crate::credentials::secret_names::SecretNames;
use crate::exchange::Exchange;
use crate::filter::{Filter, Flow, Instance, Plugin, Scope, Trouble};
use crate::glance::{Glance, Looks, Pass};
use crate::host::Host;
use crate::state::NodeStates;
use callback::Found;
use config::AuthMethod;
use cookie::Jar;
use explain::{Explanation, Explanations};
use failure::{Class, Failure};
use flow::Callback;
use opened::{Opened, Sought};
use possession::Presented;
use rules::Rules;
use session::{News, Session};
use sign_in::Cause;
use token_endpoint::PassedOn;

impl Plugin for OpenidConnect {
    const NAME: &'static str = "openid-connect";
    const PRIORITY: u32 = 1050;
    const FORBIDDEN_SCOPES: &'static [Scope] = &[Scope::Consumer];
    const SHORTHANDS: &'static [(&'static str, &'static str)] = config::SHORTHANDS;
    type Filter = OpenidConnectFilter;

    fn modernize(config: &mut Map<String, Value>) {
        for field in ["session_cookie_same_site", "authorization_cookie_same_site"] {
            if let Some(value) = config.get_mut(field)
                && value == "off"
            {
                *value = Value::from("Default");
            }
        }
        for field in ["redis", "cluster_cache_redis"] {
            if let Some(record) = config.get_mut(field).and_then(Value::as_object_mut) {
                config::modernize_redis(record);
            }
        }
    }

    fn refuse(&self, errors: &mut FieldErrors) {
        rules::find_contradictions(self, errors);
    }

    fn compile(self, instance: &Instance) -> Result<OpenidConnectFilter, FieldErrors> {
        Ok(OpenidConnectFilter(Arc::new(Rules::new(
            self,
            instance.id,
        )?)))
    }
}

/// What runs. Cheap to share with work that outlives a request.
#[derive(Debug)]
pub struct OpenidConnectFilter(Arc<Rules>);

impl Filter for OpenidConnectFilter {
    fn looks(&self) -> Looks {
        if self.0.glances.any() {
            Looks::Sometimes
        } else {
            Looks::Never
        }
    }

    fn on_glance(&self, request: &Glance<'_>, pass: &mut Pass, host: &impl Host) -> Option<()> {
        glance::look(&self.0, request, pass, host)
    }

    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        let rules = &self.0;
        let jar = Jar::read(
            &exchange.request.headers,
            &rules.names,
            exchange.client.https,
        );
        let mut known = Known::default();
        let flow = if self.steps_aside(exchange) {
            rules.headers.withhold(&mut exchange.request.headers);
            rules.withheld.strip_beside(exchange);
            Flow::Continue
        } else {
            match authenticate(rules, exchange, host, &jar, &mut known).await {
                Ok(flow) => {
                    note_method(rules, exchange, host, &jar, &flow);
                    flow
                }
                Err(failure) => refuse(rules, exchange, host, &jar, known, &failure).await,
            }
        };
        if matches!(flow, Flow::Continue) {
            rules.withheld.strip_form(exchange).await;
            let credentials = &rules.config.credentials;
            let token = credentials.bearer_token_cookie_name.as_deref();
            jar.strip(
                &mut exchange.request.headers,
                token.filter(|_| credentials.hide_credentials),
            );
        }
        flow
    }

    fn owned_headers(&self) -> &[HeaderName] {
        &self.0.headers.owned
    }

    fn owned_response_headers(&self) -> &[HeaderName] {
        &self.0.headers.owned_downstream
    }

    fn secret_names(&self) -> SecretNames {
        let credentials = &self.0.config.credentials;
        let named = [
            &credentials.id_token_param_name,
            &credentials.refresh_token_param_name,
        ];
        let arguments: Vec<String> = named.into_iter().flatten().cloned().collect();
        let fields = arguments.iter().flat_map(|name| headers::spellings(name));
        let fields = fields.chain(self.0.headers.secrets().cloned()).collect();
        SecretNames { arguments, fields }
    }

    fn wants_certificates(&self) -> bool {
        self.0.possession.certificate()
    }

    fn trusts_any_server(&self) -> bool {
        !self.0.config.provider.ssl_verify
    }

    fn trouble(&self, states: &NodeStates, now: UnixTime) -> Option<Trouble> {
        provider::trouble(&self.0, states, now)
    }

    fn provider(&self) -> Option<[u8; 32]> {
        Some(self.0.provider_key)
    }

    fn owns_cookie(&self, name: &str) -> bool {
        self.0.names.own(name)
    }
}

impl OpenidConnectFilter {
    /// Whether this filter has nothing to say: to preflights, and where another authentication has
    /// already succeeded and `anonymous` makes the two alternatives (Kong 3.9).
    fn steps_aside(&self, exchange: &Exchange<'_>) -> bool {
        let config = &self.0.config;
        if exchange.request.method == Method::OPTIONS && !config.credentials.run_on_preflight {
            return true;
        }
        let identity = &exchange.identity;
        let known = identity.consumer.is_some() || identity.credential.is_some();
        config.access.anonymous.is_some() && known && !identity.anonymous
    }
}

/// What has become known of a request on the way: a refusal depends on it.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Position of the client that its session or sign-in belongs to.
    client: Option<usize>,
    /// Whether the session in its cookies is this plugin's to end. Others have cookies of that name too.
    session: bool,
}

impl Known {
    /// The session that the request may go on with, of what was found in its cookies.
    fn session_of(&mut self, rules: &Rules, sought: Sought) -> Option<Rc<Opened>> {
        self.session = sought.is_ours();
        let open = sought.found()?;
        // What was begun without a proof is none where each request has to bring one; it stays what it is elsewhere.
        self.session = possession::is_enough(rules, &open.session);
        if !self.session {
            return None;
        }
        self.client = Some(open.session.client);
        Some(open)
    }
}

/// Tries the credentials in Kong's order.
async fn authenticate(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    known: &mut Known,
) -> Result<Flow, Failure> {
    if let Some(flow) = logout::from_provider(rules, exchange, host, jar).await {
        return Ok(flow);
    }
    if rules.methods.authorization_code && initiation::is_asked_for(rules, exchange) {
        let asked = Box::pin(initiation::run(rules, exchange, host, jar)).await;
        return asked.map_err(Failure::concluded);
    }
    let now = host.now();
    let sought = if rules.methods.session {
        opened::find(rules, exchange, host, jar, now).await
    } else {
        Ok(Sought::Nothing)
    };
    if logout::asked_for(rules, exchange).await {
        return Box::pin(logout::run(rules, exchange, host, jar, &sought)).await;
    }
    let open = known.session_of(rules, sought?);
    if open.is_none()
        && let Some(flow) = logout::returned(rules, exchange, host, jar)
    {
        return Ok(flow);
    }
    if rules.methods.authorization_code
        && let Some(response) = callback::read(rules, exchange, jar).await
    {
        let coming_back = come_back(rules, exchange, host, jar, known, open.is_some(), response);
        if let Some(flow) = Box::pin(coming_back).await? {
            return Ok(flow);
        }
    }
    if let Some(open) = open
        && let Some(flow) = in_session::go_on(rules, exchange, host, jar, &open, now).await?
    {
        return Ok(flow);
    }
    known.client = None;
    if rules.methods.tokens()
        && let Some(found) = request::bearer(rules, exchange, jar).await?
    {
        return bearer::authenticate(rules, exchange, host, jar, &found).await;
    }
    if rules.methods.refresh_token
        && let Some(found) = request::refresh_token(rules, exchange).await
    {
        return Box::pin(use_refresh_token(rules, exchange, host, jar, &found)).await;
    }
    if let Some(flow) = Box::pin(grants::authenticate(rules, exchange, host, jar)).await? {
        return Ok(flow);
    }
    if rules.methods.authorization_code {
        if let Some(failure) = callback::broken(rules, exchange, jar, now).await {
            return Err(failure.concluded());
        }
        let starting = sign_in::start(rules, exchange, host, jar, Cause::Needed);
        return Box::pin(starting).await.map_err(Failure::concluded);
    }
    Err(Failure::unauthenticated("no credential was found"))
}

/// Takes a sign-in further whose `response` the request is. A browser that comes back from the provider is signed in anew, even
/// if another of its tabs has been faster, so that it `has_session`. `None`: it is of none of ours.
async fn come_back(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    known: &mut Known,
    has_session: bool,
    response: Callback,
) -> Result<Option<Flow>, Failure> {
    let now = host.now();
    let client = known.client.unwrap_or_default();
    let found = callback::find(rules, exchange, jar, &response, host);
    if let Ok(Found::UnderWay(pending)) = &found
        && let Some(flow) = callback::wrong_way(rules, exchange, &response, pending)
    {
        return Ok(Some(flow));
    }
    if (has_session || exchange.request.method == Method::HEAD)
        && !matches!(found, Ok(Found::UnderWay(_)))
        && let Some(flow) = callback::leave(rules, exchange, &response, client, now)
    {
        return Ok(Some(flow));
    }
    let ended = match found {
        Ok(Found::UnderWay(pending)) => {
            known.client = Some(pending.client);
            let silent = rules.asks_silently() && !pending.interactive;
            let before = pending.clone();
            let result = redemption::redeem(rules, exchange, host, pending, &response).await;
            let failure = result.as_ref().and_then(|result| result.as_ref().err());
            under_way::forget(rules, exchange, host, jar, &before.state, failure);
            let Some(result) = result else {
                let left = callback::leave(rules, exchange, &response, before.client, now);
                let over = || Failure::refused("state_reused", "the sign-in is over").concluded();
                return left.map(Some).ok_or_else(over);
            };
            match result {
                Err(failure) if silent && failure.wants_user() => {
                    let cause = Cause::Interaction(before);
                    sign_in::start(rules, exchange, host, jar, cause).await
                }
                Err(failure) => Err(failure),
                Ok(signed_in) => sign_in::complete(rules, exchange, host, jar, &signed_in).await,
            }
        }
        Ok(Found::Lost(lost)) if !has_session => {
            if let Some(pending) = &lost.pending {
                known.client = Some(pending.client);
                under_way::forget(rules, exchange, host, jar, &pending.state, None);
            }
            sign_in::start(rules, exchange, host, jar, Cause::Lost(lost)).await
        }
        Err(failure) if !has_session => Err(failure),
        Ok(Found::Lost(_) | Found::Nothing) | Err(_) => return Ok(None),
    };
    ended.map(Some).map_err(Failure::concluded)
}

/// Trades a refresh token that the client brought for an access token.
async fn use_refresh_token(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    found: &request::Found,
) -> Result<Flow, Failure> {
    let client = request::client(rules, exchange).await;
    let asked = refresh::Asked {
        client,
        refresh_token: &found.token,
        id_token: None,
        held: None,
        session: None,
        steps: 0,
        spared_until: None,
        patience: None,
        passed_on: PassedOn::of(rules, exchange).await,
    };
    let ring = &exchange.environment.session_keys;
    let tokens = refresh::refresh(rules, host, ring, asked).await?;
    let mut session = Session::begin(rules, &tokens, AuthMethod::RefreshToken, client, host);
    request::hide(rules, exchange, &found.place).await;
    admission::admit(rules, exchange, host, jar, &mut session, Presented::Token).await?;
    exchange
        .response_headers
        .extend(tokens.headers.iter().cloned());
    let method = AuthMethod::RefreshToken;
    if rules.keeps_session(method) {
        // It serves on if none came in its place (RFC 6749 §6).
        let kept = || found.token.clone();
        session.refresh_token.get_or_insert_with(kept);
        let kept = sign_in::keep(rules, exchange, host, jar, &session, News::Tokens).await;
        if let Err(failure) = kept {
            // Who comes again with one that is spent is given the same, for as long as that is remembered.
            let is_lost = tokens.in_place_of(&found.token).is_some()
                && !login::tells_refresh_token(rules, method);
            if is_lost || failure.class != Class::Unavailable {
                return Err(failure);
            }
            debug!(error = %failure, "no session for a refresh token");
        }
    }
    let client = rules.client(client);
    let answer = login::answer(rules, exchange, client, method, None, &tokens);
    Ok(answer.map_or(Flow::Continue, Flow::Answer))
}

/// Answers a failure, or lets the request go on as the anonymous consumer.
async fn refuse(
    rules: &Rules,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    known: Known,
    failure: &Failure,
) -> Flow {
    let mut failure = failure.clone();
    match failure.class {
        Class::Unavailable | Class::Oversized | Class::Faulty | Class::Unexpected => {
            warn!(request_id = &*exchange.request_id, reason = failure.code, detail = %failure.detail, "authentication is not possible");
        }
        Class::BadRequest | Class::Unauthorized | Class::Forbidden | Class::Limited => {
            info!(request_id = &*exchange.request_id, reason = failure.code, detail = %failure.detail, "request refused");
        }
    }
    if known.session && failure.destroys_session(rules) {
        opened::destroy(rules, exchange, host, jar);
    }
    if failure.leaves_anonymous(rules) {
        match principal::admit_anonymous(rules, exchange) {
            Ok(()) => return Flow::Continue,
            Err(missing) => failure = missing,
        }
    }
    let client = match known.client {
        Some(client) => client,
        None => request::client(rules, exchange).await,
    };
    let page = page::wanted(&exchange.request.headers);
    let mut answer = failure.answer(rules, client, &exchange.request_id, page);
    answer::for_callers(&mut answer, exchange);
    note(rules, exchange, host, jar, &failure, answer.status());
    Flow::Answer(answer)
}

/// Keeps that the request came by a method that its URL does not take, if that is what `flow` answers.
fn note_method(rules: &Rules, exchange: &Exchange<'_>, host: &impl Host, jar: &Jar, flow: &Flow) {
    if let Flow::Answer(answer) = flow
        && answer.status() == http::StatusCode::METHOD_NOT_ALLOWED
    {
        let failure = Failure::bad_request("method", "the URL takes other methods");
        note(rules, exchange, host, jar, &failure, answer.status());
    }
}

/// Keeps why the request is refused for those who have to help.
fn note(
    rules: &Rules,
    exchange: &Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    failure: &Failure,
    status: http::StatusCode,
) {
    host.node_state::<Explanations>().note(Explanation {
        request_id: exchange.request_id.to_string(),
        at: host.now(),
        method: exchange.request.method.to_string(),
        path: exchange.path.clone(),
        plugin: rules.plugin,
        issuer: rules.issuer.clone(),
        status: status.as_u16(),
        reason: failure.code,
        detail: failure.detail.to_string(),
        session: jar.useless(),
        facts: failure.facts.clone(),
    });
}
