//! Access tokens that the provider itself vouches for (RFC 7662): opaque ones, and JWTs whose
//! revocation is to be noticed.
//!
//! An answer serves for as long as it says that the token lives; that a token is not active is asked
//! anew each time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::Value;
use shared::clock::UnixTime;
use shared::telemetry::chain;
use tracing::{debug, warn};

use super::admission;
use super::answers::{Answers, Given, Namer, Outcome};
use super::bearer;
use super::config::{AuthMethod, ClientAuth, IntrospectionAccept, UnsignedMethod};
use super::cookie::Jar;
use super::failure::Failure;
use super::jws::{self, Claims};
use super::login;
use super::possession::Presented;
use super::provider::{self, Document, ProviderError, Reason, Unaccepted};
use super::request::{self, Found};
use super::rules::{Rules, is_ours};
use super::session::{News, Session};
use super::shared_answers::Stored;
use super::sign_in;
use super::strict_json;
use super::token_endpoint::{self, Caller, Endpoint, Post, TokenError, Tokens};
use super::user_info;
use super::verify::Verifier;
use crate::exchange::Exchange;
use crate::filter::Flow;
use crate::host::{Host, Repeatable};
use crate::sessions::session_keys::KeyRing;

const NOWHERE: ProviderError = ProviderError::Unusable("there is no introspection endpoint");

/// How far the provider's clock may be ahead, whatever `leeway` says.
const SKEW: Duration = Duration::from_mins(1);
/// How long ago an answer may have been made that was asked for just now, whatever `leeway` says: as far as the clock may be
/// behind, and as long as the answer may take.
const AGE: Duration = Duration::from_mins(5);

/// What the provider said of a token that is active.
pub(super) struct Answer {
    claims: Claims,
    /// The signed form, if that is what came.
    jwt: Option<String>,
}

shared::unsaid!(Answer);

/// A question to the provider.
struct Question {
    client: usize,
    token: String,
    form: Vec<(String, String)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What seals the answers that nodes share, where they do.
    ring: KeyRing,
}

/// Asks the provider about a token.
///
/// # Errors
///
/// If it is not active, or if the provider cannot be asked.
pub(super) async fn ask(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    token: &str,
    client: usize,
    method: AuthMethod,
) -> Outcome<Answer> {
    let question = Question::new(rules, exchange, client, token).await;
    let answer = question.ask(rules, host, method).await?;
    // An answer from memory may have ended by its own terms.
    check_times(rules, &answer.claims, host.now())?;
    Ok(answer)
}

/// Lets the request go on with a token of which the provider said `answer`.
///
/// # Errors
///
/// If it is not enough.
pub(super) async fn proceed(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
    brought: &Brought<'_>,
    answer: &Answer,
) -> Result<Flow, Failure> {
    let Brought {
        found,
        id_token,
        client,
        method,
    } = *brought;
    request::hide(rules, exchange, &found.place).await;
    let mut tokens = tokens(&found.token, &answer.claims);
    tokens.id_token = id_token.map(str::to_owned);
    let mut session = Session::begin(rules, &tokens, method, client, host);
    session.introspection = Some(answer.claims.clone());
    session.introspection_jwt.clone_from(&answer.jwt);
    admission::admit(rules, exchange, host, jar, &mut session, Presented::Token).await?;
    if rules.keeps_session(method)
        && let Err(failure) =
            sign_in::keep(rules, exchange, host, jar, &session, News::Tokens).await
    {
        // The token itself serves for the next request too.
        debug!(error = %failure, "no session for an introspected token");
    }
    let answer = login::answer(rules, exchange, rules.client(client), method, None, &tokens);
    Ok(answer.map_or(Flow::Continue, Flow::Answer))
}

/// A token that a client brought, and what goes with it.
#[derive(Clone, Copy)]
pub(super) struct Brought<'a> {
    pub(super) found: &'a Found,
    pub(super) id_token: Option<&'a str>,
    pub(super) client: usize,
    pub(super) method: AuthMethod,
}

impl Question {
    async fn new(rules: &Rules, exchange: &mut Exchange<'_>, client: usize, token: &str) -> Self {
        let config = &rules.config.credentials;
        let asked = &config.introspection_token_param_name;
        let mut form = vec![(asked.clone(), token.to_owned())];
        let names = config.introspection_post_args_names.iter().flatten();
        let values = config.introspection_post_args_values.iter().flatten();
        let configured = names.cloned().zip(values.cloned());
        // Nothing stands in the place of the token.
        form.extend(configured.filter(|(name, _)| name != asked));
        let hint = config.introspection_hint.clone();
        token_endpoint::add_missing(&mut form, vec![("token_type_hint".to_owned(), hint)]);
        let wanted = config.introspection_post_args_client.as_deref();
        let mut given = request::let_through(exchange, wanted, false).await;
        let sent = &exchange.request.headers;
        let wanted = config.introspection_post_args_client_headers.iter();
        given.extend(wanted.flatten().filter_map(|name| {
            let value = request::header_named(sent, name)?.to_str().ok()?;
            Some((name.clone(), value.to_owned()))
        }));
        given.retain(|(name, _)| !is_ours(name));
        token_endpoint::add_missing(&mut form, given);
        let mut headers = rules.configured_headers.introspection.clone();
        let wanted = config.introspection_headers_client.as_deref();
        headers.extend(request::headers_let_through(sent, wanted));
        Self {
            client,
            token: token.to_owned(),
            form,
            headers,
            ring: KeyRing {
                keys: match &rules.shared_answers {
                    Some(_) => exchange.environment.session_keys.keys.clone(),
                    None => Vec::new(),
                },
            },
        }
    }

    /// The answer: from memory, or from the provider.
    async fn ask(
        self,
        rules: &Arc<Rules>,
        host: &impl Host,
        method: AuthMethod,
    ) -> Outcome<Answer> {
        let configured = rules.config.client.introspection_endpoint.as_ref();
        let document = provider::document_for(rules, host, configured)
            .await
            .map_err(|error| error.failure())?;
        let Some(endpoint) = place(rules, self.client, &document) else {
            return Err(match method {
                // Nobody can say anything of an opaque token.
                AuthMethod::Introspection => {
                    Failure::refused("at_typ", "the token is not a signed JWT")
                }
                _ => NOWHERE.failure(),
            });
        };
        if !rules.config.provider.cache_introspection {
            let given = self.run(rules, host, document).await;
            return given.map(|(answer, _)| Arc::new(answer));
        }
        let key = self.key(rules, &endpoint);
        let answers = host.node_state::<Answers<Answer>>();
        let (its_rules, its_host) = (Arc::clone(rules), host.clone());
        let asking = async move {
            let Some(shared) = &its_rules.shared_answers else {
                return self.run(&its_rules, &its_host, document).await;
            };
            if let Some(stored) = shared.get(&its_rules, &its_host, &self.ring, &key).await {
                let (claims, jwt) = (stored.claims, stored.jwt);
                return Ok((Answer { claims, jwt }, stored.until));
            }
            let (answer, until) = self.run(&its_rules, &its_host, document).await?;
            let stored = Stored {
                claims: answer.claims.clone(),
                jwt: answer.jwt.clone(),
                until,
            };
            shared.put(&its_rules, &its_host, &self.ring, &key, &stored);
            Ok((answer, until))
        };
        answers.ask(rules, host, key, asking).await
    }

    async fn run(
        &self,
        rules: &Arc<Rules>,
        host: &impl Host,
        document: Arc<Document>,
    ) -> Given<Answer> {
        let config = &rules.config;
        let mut caller = Caller::configured(rules, self.client);
        let offered = document.introspection_auth_methods.as_deref();
        let offered = offered.map(|offered| token_endpoint::discovered(Some(offered), caller));
        caller.auth = auth(rules, self.client).or(offered);
        let accept = match config.credentials.introspection_accept {
            IntrospectionAccept::Json => "application/json",
            IntrospectionAccept::IntrospectionJwt => "application/token-introspection+jwt",
            IntrospectionAccept::Jwt => "application/jwt",
        };
        let ask = async |endpoint: &str| {
            let post = Post {
                endpoint,
                form: self.form.clone(),
                headers: &self.headers,
                accept,
                repeatable: Repeatable::Always,
            };
            token_endpoint::post_guarded(rules, &document, caller, host, post).await
        };
        let place = |document: &Document| place(rules, self.client, document);
        let again = provider::looks_moved;
        let answered = provider::call(rules, host, &document, place, again, ask).await;
        let answered = answered.ok_or(NOWHERE).and_then(|answered| answered);
        let response = answered.map_err(|error| failed(rules, &error))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => return Err(TokenError::Client.failure("")),
            status if status.is_success() => {
                return Err(failed(rules, &ProviderError::Status(status.as_u16())));
            }
            // What clients send must not pass for an outage of the provider.
            status => {
                debug!(issuer = rules.issuer, %status, "introspection refused");
                let detail = "the introspection endpoint does not take the token";
                let refused = Failure::refused("introspect_inactive", detail);
                return Err(refused.with("status", status.as_u16().to_string()));
            }
        }
        let answer = self.read(rules, host, document, &response).await?;
        let claims = &answer.claims;
        let active = claims.get("active") == Some(&Value::Bool(true));
        if !active && config.credentials.introspection_check_active {
            return Err(Failure::refused(
                "introspect_inactive",
                "the provider says that the token is not active",
            ));
        }
        let now = host.now();
        check_issuer(rules, claims)?;
        check_times(rules, claims, now)?;
        let until = rules.remembered_until(end(&self.token, claims), now);
        Ok((answer, until))
    }

    /// JSON, or a JWT that the provider signed (RFC 9701): the content type says which.
    async fn read(
        &self,
        rules: &Arc<Rules>,
        host: &impl Host,
        document: Arc<Document>,
        response: &Response<Bytes>,
    ) -> Result<Answer, Failure> {
        let unusable = |what| failed(rules, &ProviderError::Unusable(what));
        if !user_info::is_jwt(response.headers()) {
            let claims = strict_json::object(response.body())
                .ok_or_else(|| unusable("introspection is not a JSON object"))?;
            return self.look_inside(rules, host, document, claims).await;
        }
        let token = str::from_utf8(response.body())
            .map_err(|_| unusable("introspection is no text"))?
            .trim()
            .to_owned();
        let check = !rules.ignores_signature(UnsignedMethod::Introspection);
        let judge = |verifier: &Verifier<'_>| verifier.statement(&token, check, "introspect_sig");
        let (statement, _) = provider::judged(
            rules,
            self.client,
            host,
            document,
            Reason::ProviderToken,
            judge,
        )
        .await
        .map_err(Unaccepted::failure)?;
        // Another kind of token does not pose as an answer (RFC 9701 §8.1).
        let kind = response.headers().get(CONTENT_TYPE);
        let by_rfc = kind.is_some_and(|kind| {
            request::is_type(kind.as_bytes(), "application/token-introspection+jwt")
        });
        let fits = match statement.kind.as_deref() {
            Some("token-introspection+jwt") => true,
            None | Some("jwt") => !by_rfc,
            Some(_) => false,
        };
        let refused = |detail| Err(Failure::refused("introspect_sig", detail));
        if !fits {
            return refused("the introspection answer is a JWT of another kind");
        }
        if statement.kind.as_deref() == Some("token-introspection+jwt")
            && rules.config.credentials.verify_claims
            && let Some(fault) = fault(rules, &statement.claims, host.now())
        {
            return refused(fault);
        }
        let claims = match statement.claims.get("token_introspection") {
            Some(Value::Object(claims)) => claims.clone(),
            // As providers did before the RFC.
            _ => statement.claims,
        };
        Ok(Answer {
            claims,
            jwt: Some(token),
        })
    }

    /// Takes over the claims of an access token that the provider gives in place of the one that was asked
    /// about, as `jwt` (Kong 3.9; Keycloak does so for lightweight tokens). What the answer itself says
    /// counts before them.
    async fn look_inside(
        &self,
        rules: &Arc<Rules>,
        host: &impl Host,
        document: Arc<Document>,
        mut claims: Claims,
    ) -> Result<Answer, Failure> {
        let jwt = claims.get("jwt").and_then(Value::as_str);
        let Some(jwt) = jwt.filter(|jwt| jws::has_shape(jwt)).map(str::to_owned) else {
            return Ok(Answer { claims, jwt: None });
        };
        let check = !rules.ignores_signature(UnsignedMethod::Introspection);
        let judge = |verifier: &Verifier<'_>| verifier.issued(&jwt, check);
        let judged = provider::judged(
            rules,
            self.client,
            host,
            document,
            Reason::ProviderToken,
            judge,
        )
        .await;
        let (inside, _) = judged.map_err(Unaccepted::failure)?;
        for (name, value) in inside.into_iter().flatten() {
            claims.entry(name).or_insert(value);
        }
        Ok(Answer {
            claims,
            jwt: Some(jwt),
        })
    }

    /// Names the question by all that the answer may depend on.
    fn key(&self, rules: &Rules, endpoint: &str) -> [u8; 32] {
        let form = self.form.iter();
        let headers = self.headers.iter();
        Namer::new(rules, "introspection")
            .with(endpoint.as_bytes())
            .with(rules.client(self.client).id.as_bytes())
            .with(self.token.as_bytes())
            .with_pairs(form.map(|(name, value)| (name.as_bytes(), value.as_bytes())))
            .with_pairs(headers.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())))
            .finish()
    }
}

fn failed(rules: &Rules, error: &ProviderError) -> Failure {
    warn!(issuer = rules.issuer, error = %chain(error), "introspection failed");
    error.failure()
}

/// Where the client at `position` asks, by `document`.
fn place(rules: &Rules, position: usize, document: &Document) -> Option<String> {
    Endpoint::Introspection.of(rules, document, auth(rules, position))
}

/// How the client at `position` authenticates at the introspection endpoint.
fn auth(rules: &Rules, position: usize) -> Option<ClientAuth> {
    let own = rules.config.client.introspection_endpoint_auth_method;
    own.or(rules.client(position).auth)
}

/// What an answer of RFC 9701 lacks (§5): one that is for anybody may have been given to another client, and one of long ago
/// says nothing of now. Providers before the RFC said less.
fn fault(rules: &Rules, claims: &Claims, now: UnixTime) -> Option<&'static str> {
    let leeway = rules.config.credentials.leeway.seconds();
    let made_at = jws::time(claims, "iat").ok().flatten();
    let early = now.saturating_add(leeway.max(SKEW));
    let is_of_now =
        |made_at: UnixTime| made_at <= early && now.saturating_since(made_at) <= leeway.max(AGE);
    let inner = claims.get("token_introspection");
    [
        (
            !claims.contains_key("iss"),
            "the introspection answer does not say whose it is",
        ),
        (
            !claims.contains_key("aud"),
            "the introspection answer does not say which client it is for",
        ),
        (
            !made_at.is_some_and(is_of_now),
            "the introspection answer does not say when it was made, or is of another time",
        ),
        (
            !jws::unexpired(claims, now, leeway) || !jws::begun(claims, "nbf", now, leeway),
            "the introspection answer has expired, or is not valid yet",
        ),
        (
            !inner.is_some_and(Value::is_object),
            "the introspection answer has no token_introspection",
        ),
    ]
    .into_iter()
    .find_map(|(is_wrong, fault)| is_wrong.then_some(fault))
}

fn check_issuer(rules: &Rules, claims: &Claims) -> Result<(), Failure> {
    let named = claims.get("iss").filter(|issuer| !issuer.is_null());
    let is_ours = |issuer: &Value| {
        let issuer = issuer.as_str();
        issuer.is_some_and(|issuer| rules.accepts_issuer(issuer))
    };
    if rules.config.credentials.verify_claims && !named.is_none_or(is_ours) {
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

/// When `token` ends: as the provider said, or else by its own word.
fn end(token: &str, claims: &Claims) -> Option<UnixTime> {
    let said = jws::time(claims, "exp").ok().flatten();
    said.or_else(|| jws::own_end(token))
}

fn tokens(token: &str, claims: &Claims) -> Tokens {
    Tokens {
        expires_at: end(token, claims),
        introspection: Some(claims.clone()),
        ..bearer::opaque(token)
    }
}
