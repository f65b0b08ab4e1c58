//! Access tokens that the provider itself vouches for (RFC 7662): opaque ones, and JWTs whose
//! revocation is to be noticed.
//!
//! An answer serves for as long as it says that the token lives; that a token is not active is asked
//! anew each time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Map, Value};
use shared::clock::UnixTime;
use tracing::{debug, warn};

use super::config::AuthMethod;
use super::cookie::Jar;
use super::failure::Failure;
use super::jws::{self, Claims};
use super::login;
use super::opened;
use super::provider::{self, Document, ProviderError};
use super::request::{self, Found};
use super::rules::Rules;
use super::session::Session;
use super::sign_in;
use super::single_flight::Flights;
use super::token_endpoint::{self, Caller, Tokens};
use crate::exchange::Exchange;
use crate::filter::Flow;
use crate::host::Host;

/// Most answers that a node remembers.
const MOST: usize = 10_000;

/// Longest token that is sent to the provider, in bytes.
const LONGEST: usize = 16 * 1024;

type Outcome = Result<Arc<Answer>, Failure>;

/// What the provider said of a token that is active.
#[derive(Debug)]
struct Answer {
    claims: Claims,
    until: UnixTime,
}

/// The answers of a node.
#[derive(Debug, Default)]
struct Answers {
    flights: Arc<Flights<[u8; 32], Outcome>>,
    known: Mutex<HashMap<[u8; 32], Arc<Answer>>>,
}

/// A question to the provider.
struct Question {
    client: usize,
    token: String,
    form: Vec<(String, String)>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Lets the request go on if the provider says that its token is active.
///
/// # Errors
///
/// If it is not, or not enough, or if the provider cannot be asked.
pub(super) async fn authenticate(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    found: &Found,
    method: AuthMethod,
) -> Result<Flow, Failure> {
    if found.token.len() > LONGEST {
        return Err(Failure::refused("at_typ", "the token is too long"));
    }
    let client = request::client(rules, exchange).await;
    let question = Question::new(rules, exchange, client, &found.token).await;
    let answer = question.ask(rules, host, method).await?;
    // An answer from memory may have ended by its own terms.
    check_times(rules, &answer.claims, host.now())?;
    if rules.config.credentials.hide_credentials {
        request::hide(exchange, &found.place);
    }
    let tokens = tokens(&found.token, &answer.claims);
    let mut session = Session::begin(&tokens, method, client, host);
    session.introspection = Some(answer.claims.clone());
    opened::principal(rules, &session).admit(rules, exchange)?;
    if rules.keeps_session(method)
        && let Err(failure) = sign_in::keep(rules, exchange, host, jar, &session)
    {
        // The token itself serves for the next request too.
        debug!(error = %failure, "no session for an introspected token");
    }
    let answer = login::answer(rules, exchange, rules.client(client), method, None, &tokens);
    Ok(answer.map_or(Flow::Continue, Flow::Answer))
}

impl Question {
    async fn new(rules: &Rules, exchange: &mut Exchange<'_>, client: usize, token: &str) -> Self {
        let config = &rules.config.credentials;
        let mut form = vec![
            (
                config.introspection_token_param_name.clone(),
                token.to_owned(),
            ),
            (
                "token_type_hint".to_owned(),
                config.introspection_hint.clone(),
            ),
        ];
        let names = config.introspection_post_args_names.iter().flatten();
        let values = config.introspection_post_args_values.iter().flatten();
        form.extend(names.cloned().zip(values.cloned()));
        let wanted = config.introspection_post_args_client.as_deref();
        if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
            let mut given: Vec<_> = request::query(exchange).into_owned().collect();
            given.extend(request::body_arguments(exchange).await);
            let let_through = given.into_iter().filter(|(name, _)| wanted.contains(name));
            form.extend(let_through);
        }
        let sent = &exchange.request.headers;
        for name in config
            .introspection_post_args_client_headers
            .iter()
            .flatten()
        {
            if let Some(value) = sent.get(name).and_then(|value| value.to_str().ok()) {
                form.push((name.clone(), value.to_owned()));
            }
        }
        let mut headers = rules.introspection_headers.clone();
        for name in config.introspection_headers_client.iter().flatten() {
            if let Ok(name) = HeaderName::try_from(name)
                && let Some(value) = sent.get(&name)
            {
                headers.push((name, value.clone()));
            }
        }
        Self {
            client,
            token: token.to_owned(),
            form,
            headers,
        }
    }

    /// The answer: one that is known, the one that another request waits for, or a new one.
    async fn ask(self, rules: &Arc<Rules>, host: &impl Host, method: AuthMethod) -> Outcome {
        let document = provider::document(rules, host)
            .await
            .map_err(|error| error.failure())?;
        let Some(endpoint) = endpoint(rules, &document).map(str::to_owned) else {
            return Err(match method {
                // Nobody can say anything of an opaque token.
                AuthMethod::Introspection => {
                    Failure::refused("at_typ", "the token is not a signed JWT")
                }
                _ => ProviderError::Unusable("there is no introspection endpoint").failure(),
            });
        };
        if !rules.config.provider.cache_introspection {
            return self.run(rules, host, &document, &endpoint).await;
        }
        let answers = host.node_state::<Answers>();
        let key = self.key(rules, &endpoint);
        if let Some(answer) = answers.find(&key, host.now()) {
            return Ok(answer);
        }
        let (waiting, pilot) = answers.flights.board(&key);
        if let Some(pilot) = pilot {
            let (answers, rules, its_host) =
                (Arc::clone(&answers), Arc::clone(rules), host.clone());
            host.spawn(Box::pin(async move {
                let outcome = self.run(&rules, &its_host, &document, &endpoint).await;
                if let Ok(answer) = &outcome {
                    answers.remember(key, answer, its_host.now());
                }
                pilot.land(&outcome);
            }));
        }
        let given_up = || Failure::unavailable("idp_unreachable", "introspection was given up");
        waiting.await.unwrap_or_else(|_| Err(given_up()))
    }

    async fn run(
        &self,
        rules: &Rules,
        host: &impl Host,
        document: &Document,
        endpoint: &str,
    ) -> Outcome {
        let mut caller = Caller::configured(rules, self.client);
        let auth = rules.config.client.introspection_endpoint_auth_method;
        caller.auth = auth.or(caller.auth);
        let (form, headers) = (self.form.clone(), &self.headers);
        let answer = provider::guarded(rules, host, async {
            let response =
                token_endpoint::post(rules, document, caller, host, endpoint, form, headers)
                    .await?;
            if response.status() != StatusCode::OK {
                return Err(ProviderError::Status(response.status().as_u16()));
            }
            serde_json::from_slice::<Map<String, Value>>(response.body())
                .map_err(|_| ProviderError::Unusable("introspection is not a JSON object"))
        })
        .await
        .map_err(|error| {
            warn!(issuer = rules.issuer, error = %provider::chain(&error), "introspection failed");
            error.failure()
        })?;
        let active = answer.get("active") == Some(&Value::Bool(true));
        if !active && rules.config.credentials.introspection_check_active {
            return Err(Failure::refused(
                "introspect_inactive",
                "the provider says that the token is not active",
            ));
        }
        let now = host.now();
        check_issuer(rules, &answer)?;
        check_times(rules, &answer, now)?;
        Ok(Arc::new(Answer {
            until: until(rules, &answer, now),
            claims: answer,
        }))
    }

    /// Names the question by all that the answer may depend on.
    fn key(&self, rules: &Rules, endpoint: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&rules.token_cache_key);
        let mut add = |part: &[u8]| {
            hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hasher.update(part);
        };
        add(endpoint.as_bytes());
        add(rules.client(self.client).id.as_bytes());
        add(self.token.as_bytes());
        for (name, value) in &self.form {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        for (name, value) in &self.headers {
            add(name.as_str().as_bytes());
            add(value.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

impl Answers {
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Arc<Answer>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &[u8; 32], now: UnixTime) -> Option<Arc<Answer>> {
        let answer = Arc::clone(self.lock().get(key)?);
        (now < answer.until).then_some(answer)
    }

    fn remember(&self, key: [u8; 32], answer: &Arc<Answer>, now: UnixTime) {
        let mut all = self.lock();
        if all.len() >= MOST {
            all.retain(|_, answer| now < answer.until);
        }
        if now < answer.until && (all.len() < MOST || all.contains_key(&key)) {
            all.insert(key, Arc::clone(answer));
        }
    }
}

fn endpoint<'a>(rules: &'a Rules, document: &'a Document) -> Option<&'a str> {
    let configured = rules.config.client.introspection_endpoint.as_deref();
    configured.or(document.introspection_endpoint.as_deref())
}

fn check_issuer(rules: &Rules, claims: &Claims) -> Result<(), Failure> {
    let named = claims.get("iss").and_then(Value::as_str);
    if rules.config.credentials.verify_claims
        && named.is_some_and(|issuer| !rules.accepts_issuer(issuer))
    {
        return Err(Failure::refused(
            "at_iss",
            "the access token is of another issuer",
        ));
    }
    Ok(())
}

fn check_times(rules: &Rules, claims: &Claims, now: UnixTime) -> Result<(), Failure> {
    let credentials = &rules.config.credentials;
    if !credentials.verify_claims {
        return Ok(());
    }
    let leeway = credentials.leeway.seconds();
    if !jws::unexpired(claims, now, leeway) {
        return Err(Failure::refused("at_exp", "the access token has expired"));
    }
    if !jws::begun(claims, "nbf", now, leeway) {
        return Err(Failure::refused(
            "at_nbf",
            "the access token is not valid yet",
        ));
    }
    Ok(())
}

/// How long an answer serves: as long as the token lives, within the bounds of `cache_ttl_*`.
fn until(rules: &Rules, claims: &Claims, now: UnixTime) -> UnixTime {
    let provider = &rules.config.provider;
    let mut lifetime = match jws::time(claims, "exp").ok().flatten() {
        Some(end) => end.saturating_since(now),
        None => provider.cache_ttl.seconds(),
    };
    if let Some(least) = &provider.cache_ttl_min {
        lifetime = lifetime.max(least.seconds());
    }
    if let Some(most) = &provider.cache_ttl_max {
        lifetime = lifetime.min(most.seconds());
    }
    now.saturating_add(lifetime)
}

fn tokens(token: &str, claims: &Claims) -> Tokens {
    let mut answer = Map::new();
    answer.insert("access_token".to_owned(), token.into());
    Tokens {
        access_token: token.to_owned(),
        id_token: None,
        refresh_token: None,
        expires_at: jws::time(claims, "exp").ok().flatten(),
        answer,
    }
}
