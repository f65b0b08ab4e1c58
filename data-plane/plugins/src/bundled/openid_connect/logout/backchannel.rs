//! Logout that the provider asks for, server to server (OpenID Connect Back-Channel Logout 1.0).
//!
//! ```text
//! POST logout_token ─► form ─► signature, claims ─► revocation stored by the control plane ─► 200
//!                        └─ 400 ──────┘                              └─ not stored: 503, asked again
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, RETRY_AFTER};
use http::{HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};
use shared::clock::{Ahead, UnixTime};
use shared::digest::sha256;
use shared::entity::Revocation;
use tracing::{info, warn};

use crate::answer;
use crate::bundled::openid_connect::cookie::Jar;
use crate::bundled::openid_connect::failure::{Class, Failure};
use crate::bundled::openid_connect::jws::{self, Claims, Jws};
use crate::bundled::openid_connect::note;
use crate::bundled::openid_connect::provider::{self, Reason, Unaccepted};
use crate::bundled::openid_connect::request;
use crate::bundled::openid_connect::rules::{Ends, Rules};
use crate::bundled::openid_connect::single_flight::Flights;
use crate::bundled::openid_connect::verify::{Refusal, Verifier};
use crate::exchange::{Exchange, Parsing};
use crate::host::{Claim, Host, RevokeError, Work};
use crate::sessions::session_keys::KeyRing;

/// Longest request body, in bytes.
const LONGEST: usize = 16 * 1024;

/// How old a logout token may be.
const RECENT: Duration = Duration::from_mins(2);

/// How far the provider's clock may be ahead, whatever `leeway` says: a logout that is refused is a session too many.
const SKEW: Duration = Duration::from_mins(1);

/// The claim that makes a token a logout token.
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// What other nodes are told of a logout token: that it is used.
const USED: &[u8] = b"used";

/// The logout tokens that a node hears now.
#[derive(Debug, Default)]
struct Heard(Arc<Flights<[u8; 32], Result<(), Failure>>>);

/// What a logout token asks for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    ends: Revocation,
    /// The name of the token itself.
    token: uuid::Uuid,
}

/// Answers a request to the back-channel logout URI.
pub(super) async fn answer(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
) -> Response<Bytes> {
    if exchange.request.method != Method::POST {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
        let post = HeaderValue::from_static("POST");
        response.headers_mut().insert(ALLOW, post);
        return response;
    }
    let is_form = request::is_form(&exchange.request.headers);
    let ended = if is_form {
        end(rules, exchange, host).await
    } else {
        Err(refused("what was posted is no form"))
    };
    let Err(failure) = ended else {
        return plain(StatusCode::OK);
    };
    let code = failure.code;
    let detail = &failure.detail;
    warn!(request_id = &*exchange.request_id, reason = code, %detail, "back-channel logout refused");
    let response = if !is_form {
        plain(StatusCode::UNSUPPORTED_MEDIA_TYPE)
    } else if failure.class == Class::Unavailable {
        let mut response = plain(StatusCode::SERVICE_UNAVAILABLE);
        let soon = HeaderValue::from_static("5");
        response.headers_mut().insert(RETRY_AFTER, soon);
        response
    } else {
        let error = json!({ "error": "invalid_request", "error_description": failure.detail });
        answer::json(StatusCode::BAD_REQUEST, &error)
    };
    // A provider shows nobody what it was answered.
    note(rules, exchange, host, jar, &failure, response.status());
    response
}

async fn end(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
) -> Result<(), Failure> {
    let body = exchange.body.read(LONGEST, Parsing::Nothing).await;
    let body = body.map_err(|_| refused("the form is too long or broken"))?;
    let mut tokens = form_urlencoded::parse(&body).filter(|(name, _)| name == "logout_token");
    let (Some((_, token)), None) = (tokens.next(), tokens.next()) else {
        return Err(refused("the form has no logout_token, or several"));
    };
    let ring = &exchange.environment.session_keys;
    let asked = check(rules, ring, host, exchange.client.address, &token).await?;
    let is_used = || host.revocations().epoch(asked.token) > 0;
    if is_used() {
        return Err(used());
    }
    // Of those that bring one token at once, one is heard; the others, once it is known whether that was to any effect.
    let heard = host.node_state::<Heard>();
    let key = sha256(format!("logout token {}", asked.token).as_bytes());
    let (waiting, pilot) = heard.0.board(&key);
    let is_first = pilot.is_some();
    if let Some(pilot) = pilot {
        if is_used() {
            pilot.land(&Err(used()));
        } else {
            // Also if the provider does not wait for it.
            let (rules, its_host) = (Arc::clone(rules), host.clone());
            host.spawn(Box::pin(async move {
                let outcome = hear_once(&rules, &its_host, key, asked).await;
                pilot.land(&outcome);
            }));
        }
    }
    let given_up = || Failure::unavailable("logout_token", "the logout was given up");
    match waiting.await.unwrap_or_else(|_| Err(given_up())) {
        Ok(()) if !is_first => Err(used()),
        outcome => outcome,
    }
}

/// Does what is `asked` by the logout token that is called `key`, unless another node does.
async fn hear_once(
    rules: &Rules,
    host: &impl Host,
    key: [u8; 32],
    asked: Asked,
) -> Result<(), Failure> {
    let claim = host.claim(key, Work::Code).await;
    let begun = match claim {
        Claim::Theirs(_) => return Err(used()),
        Claim::Ours(begun) => Some(begun),
        Claim::Alone => Some(host.undertake(key)),
        Claim::Taken => None,
    };
    let outcome = hear(rules, host, asked).await;
    if let Some(begun) = begun {
        host.publish(key, begun, outcome.is_ok().then(|| USED.to_vec()));
    }
    outcome
}

async fn hear(rules: &Rules, host: &impl Host, asked: Asked) -> Result<(), Failure> {
    let unstored = |error: RevokeError| Failure::unavailable("logout_token", error.to_string());
    // Whose tokens are revoked for it when they are shown: not those of sessions that only a frame has named.
    let revokes = rules.config.logout.logout_revoke.then(|| Revocation {
        id: Revocation::by_provider(asked.ends.id),
        ..asked.ends
    });
    let ends = revokes.into_iter().chain([asked.ends]).collect();
    host.revoke(ends).await.map_err(unstored)?;
    info!(issuer = rules.issuer, "the provider ended sessions");
    // Only now is it used: the provider asks again with the same token after a failure.
    let used = Revocation {
        id: asked.token,
        before: host.now().as_millis(),
        expires_at: host.now().saturating_add(2 * (RECENT + SKEW)).as_secs(),
    };
    match host.revoke(vec![used]).await {
        Ok(()) => Ok(()),
        // It is noted here, and told to the others later.
        Err(error @ RevokeError::NotStored) => {
            warn!(%error, "a used logout token is noted on this node only, so far");
            Ok(())
        }
        // Anybody who has it could bring it again: it is to come until that is noted.
        Err(error @ RevokeError::Full) => Err(unstored(error)),
    }
}

/// Verifies `token`, which `address` has sent, with the keys that are known, and once more with new ones if none fits.
async fn check(
    rules: &Arc<Rules>,
    ring: &KeyRing,
    host: &impl Host,
    address: IpAddr,
    token: &str,
) -> Result<Asked, Failure> {
    let document = provider::document(rules, host)
        .await
        .map_err(|error| error.failure())?;
    let ahead = host.ahead();
    let verify = |verifier: &Verifier<'_>| read(verifier, ring, ahead, token);
    let reason = Reason::LogoutToken(address);
    let judged = provider::judged(rules, 0, host, document, reason, verify).await;
    judged.map(|(asked, _)| asked).map_err(Unaccepted::failure)
}

/// The checks of Back-Channel Logout 1.0 §2.6. The signature comes last: no newer keys are looked for on behalf of what
/// could not be right whoever had signed it.
fn read(
    verifier: &Verifier<'_>,
    ring: &KeyRing,
    ahead: Ahead,
    token: &str,
) -> Result<Asked, Refusal> {
    let parsed = Jws::parse(token, LONGEST)
        .map_err(|error| Refusal::Bad(Failure::refused("logout_token", error.to_string())))?;
    if !matches!(
        parsed.header.kind().as_deref(),
        None | Some("jwt" | "logout+jwt")
    ) {
        return Err(bad("the token is of another type"));
    }
    let claims = &parsed.claims;
    let issuer = verifier.accepted_issuer(claims).ok_or_else(|| {
        let failure = refused("the token is of another issuer").with("iss", shown(claims, "iss"));
        Refusal::Bad(failure.with("expected iss", verifier.rules.issuer.clone()))
    })?;
    let clients = addressed(verifier, claims)?;
    let made_at = made_at(verifier, claims)?;
    let event = claims.get("events").and_then(|events| events.get(EVENT));
    if !event.is_some_and(Value::is_object) {
        return Err(bad("the token has no logout event"));
    }
    if claims.contains_key("nonce") {
        return Err(bad("the token has a nonce"));
    }
    let id = claims.get("jti").and_then(Value::as_str);
    let id = id.filter(|id| !id.is_empty() && id.len() <= 255);
    let id = id.ok_or_else(|| bad("the token has no id"))?;
    let ends = ends(verifier, ring, ahead, claims, &issuer, made_at)?;
    // By the secret of any of these, if by one: the provider's keys are the same for all.
    let secrets = if parsed.header.algorithm.is_symmetric() {
        clients.len()
    } else {
        1
    };
    let mut checked = Ok(());
    for client in clients.into_iter().take(secrets) {
        let verifier = Verifier {
            client,
            ..*verifier
        };
        checked = verifier.check_signature(&parsed, "logout_token");
        if checked.is_ok() {
            break;
        }
    }
    checked?;
    Ok(Asked {
        ends,
        token: Revocation::logout_token(&issuer, id),
    })
}

/// The clients that the token is for: at least one.
fn addressed(verifier: &Verifier<'_>, claims: &Claims) -> Result<Vec<usize>, Refusal> {
    let is_called = |audience: &Value, id: &str| !id.is_empty() && audience.as_str() == Some(id);
    let is_for = |id: &str| match claims.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(|audience| is_called(audience, id)),
        Some(audience) => is_called(audience, id),
        None => false,
    };
    let clients = verifier.rules.clients.iter().enumerate();
    let clients = clients.filter(|(_, client)| is_for(&client.id));
    let clients: Vec<usize> = clients.map(|(client, _)| client).collect();
    if clients.is_empty() {
        let failure = refused("the token is for another client");
        return Err(Refusal::Bad(failure.with("aud", shown(claims, "aud"))));
    }
    Ok(clients)
}

/// When the token was made: just now, and it holds.
fn made_at(verifier: &Verifier<'_>, claims: &Claims) -> Result<UnixTime, Refusal> {
    let now = verifier.now;
    let leeway = verifier.leeway();
    let made_at = jws::time(claims, "iat").ok().flatten();
    let made_at = made_at.ok_or_else(|| bad("the token does not say when it was made"))?;
    let early = now.saturating_add(leeway.max(SKEW));
    if made_at > early || now.saturating_since(made_at) > RECENT.saturating_add(leeway) {
        let failure = refused("the token was not made just now").with("iat", shown(claims, "iat"));
        let now = now.as_secs().to_string();
        return Err(Refusal::Bad(failure.with("now", now)));
    }
    if !jws::unexpired(claims, now, leeway) {
        return Err(bad("the token has expired"));
    }
    if !jws::begun(claims, "nbf", now, leeway.max(SKEW)) {
        return Err(bad("the token is not valid yet"));
    }
    Ok(made_at)
}

/// What a token of `issuer` ends.
fn ends(
    verifier: &Verifier<'_>,
    ring: &KeyRing,
    ahead: Ahead,
    claims: &Claims,
    issuer: &str,
    made_at: UnixTime,
) -> Result<Revocation, Refusal> {
    let now = ahead.behind(verifier.now);
    // Either of our clocks may be wrong, but hardly so that the provider's agrees. It names whole seconds.
    let stated = made_at.saturating_add(Duration::from_millis(999));
    let latest = verifier.now.max(now).max(made_at);
    let named = |name| match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(_) => Err(bad("the token's subject or session is no text")),
    };
    let (sid, subject) = (named("sid")?, named("sub")?);
    let expires_at = verifier.rules.forgotten_at(Ends::AtProvider, ring, now);
    match (sid, subject) {
        // That session is over, also for a code of it that is being redeemed. A sign-in that begins later is another,
        // whatever the provider calls it.
        (Some(sid), _) => Ok(Revocation {
            id: Revocation::provider_session(issuer, sid),
            before: now.max(stated.min(latest)).as_millis(),
            expires_at,
        }),
        // A sign-in after the logout stays. That was within the second that the token names, by the provider's clock.
        (None, Some(subject)) => Ok(Revocation {
            id: Revocation::subject(issuer, subject),
            before: ahead
                .behind(stated.saturating_add(verifier.document.behind))
                .max(stated)
                .min(latest)
                .as_millis(),
            expires_at,
        }),
        (None, None) => Err(bad("the token names neither a subject nor a session")),
    }
}

/// A claim as what is said of a refusal shows it.
fn shown(claims: &Claims, name: &str) -> String {
    claims.get(name).map(Value::to_string).unwrap_or_default()
}

fn bad(detail: &'static str) -> Refusal {
    Refusal::Bad(refused(detail))
}

fn used() -> Failure {
    refused("the logout token was used before")
}

fn refused(detail: &'static str) -> Failure {
    Failure::refused("logout_token", detail)
}

/// An empty answer that no cache keeps.
pub(super) fn plain(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    let kept = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, kept);
    response
}
