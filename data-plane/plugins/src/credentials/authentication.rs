//! What the plugins that authenticate consumers share: the consumer behind a credential, the anonymous
//! one, and refusals (Kong 3.9, key-auth and its siblings).

use std::sync::Arc;

use bytes::Bytes;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::Value;
use shared::entity::Consumer;
use uuid::Uuid;

use crate::answer;
use crate::credentials::identity_headers;
use crate::environment::Consumers;
use crate::exchange::{Exchange, Identity};
use crate::filter::Flow;

/// Why a request is not authenticated.
#[derive(Debug)]
pub(crate) struct Refusal {
    body: Body,
    challenge: Option<String>,
}

#[derive(Debug)]
enum Body {
    Message(String),
    Json(Value),
}

impl Refusal {
    /// A 401 with Kong's error body and a challenge (RFC 9110 §11.6.1).
    pub(crate) fn new(message: impl Into<String>, challenge: impl Into<String>) -> Self {
        Self {
            body: Body::Message(message.into()),
            challenge: Some(challenge.into()),
        }
    }

    /// A 401 with a body of its own, in JSON whatever the client takes.
    pub(crate) fn json(body: Value, challenge: impl Into<String>) -> Self {
        Self {
            body: Body::Json(body),
            challenge: Some(challenge.into()),
        }
    }

    fn answer(&self, exchange: &Exchange<'_>) -> Response<Bytes> {
        let mut response = match &self.body {
            Body::Message(text) => answer::error(StatusCode::UNAUTHORIZED, text, exchange),
            Body::Json(body) => answer::json(StatusCode::UNAUTHORIZED, body),
        };
        let challenge = self.challenge.as_deref();
        if let Some(challenge) = challenge.and_then(|text| HeaderValue::from_str(text).ok()) {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// A challenge of `scheme`, with the realm if there is one.
pub(crate) fn challenge(scheme: &str, realm: Option<&str>) -> String {
    match realm {
        Some(realm) => format!("{scheme} realm=\"{}\"", realm.replace(['"', '\\'], "")),
        None => scheme.to_owned(),
    }
}

/// Who a credential belongs to.
#[derive(Debug)]
pub(crate) struct Authenticated {
    pub(crate) consumer: Uuid,
    /// What the upstream is told of the credential.
    pub(crate) credential: String,
}

/// What `parse` reads in `header`, which goes away if `hide` says that it is not for the upstream.
pub(crate) fn take<T>(
    exchange: &mut Exchange<'_>,
    header: &HeaderName,
    hide: bool,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let headers = &mut exchange.request.headers;
    let found = headers
        .get(header)
        .and_then(|value| parse(value.to_str().ok()?));
    if hide {
        headers.remove(header);
    }
    found
}

/// Whether the request needs no authentication by this plugin: with `anonymous`, the first of several
/// plugins that succeeds is enough.
pub(crate) fn is_settled(exchange: &Exchange<'_>, anonymous: Option<&str>) -> bool {
    let identity = &exchange.identity;
    // `openid-connect` maps consumers without a credential.
    let known = identity.credential.is_some() || identity.consumer.is_some();
    anonymous.is_some() && known && !identity.anonymous
}

/// Lets the exchange go on as who it has proved to be, or as the anonymous consumer, or not at all.
pub(crate) fn settle(
    exchange: &mut Exchange<'_>,
    outcome: Result<Authenticated, Refusal>,
    anonymous: Option<&str>,
) -> Flow {
    let refusal = match outcome {
        Ok(found) => match exchange.environment.consumers.by_id.get(&found.consumer) {
            Some(consumer) => {
                let consumer = Arc::clone(consumer);
                identify(
                    exchange,
                    Identity {
                        consumer: Some(consumer),
                        credential: Some(found.credential),
                        ..Identity::default()
                    },
                );
                return Flow::Continue;
            }
            // A credential without its consumer does not outlive a snapshot.
            None => Refusal::new("Unauthorized", ""),
        },
        Err(refusal) => refusal,
    };
    let Some(name) = anonymous else {
        return Flow::Answer(refusal.answer(exchange));
    };
    let Some(consumer) = named(&exchange.environment.consumers, name) else {
        return Flow::Answer(answer::message(
            StatusCode::INTERNAL_SERVER_ERROR,
            &format!("anonymous consumer {name} is configured but doesn't exist"),
            &exchange.request_id,
        ));
    };
    let consumer = Arc::clone(consumer);
    identify(
        exchange,
        Identity {
            consumer: Some(consumer),
            anonymous: true,
            ..Identity::default()
        },
    );
    Flow::Continue
}

/// The consumer with this id or name.
fn named<'a>(consumers: &'a Consumers, name: &str) -> Option<&'a Arc<Consumer>> {
    let by_id = Uuid::parse_str(name)
        .ok()
        .and_then(|id| consumers.by_id.get(&id));
    by_id.or_else(|| consumers.by_username.get(name))
}

/// Lets the exchange go on as `identity`, and tells the upstream.
pub(crate) fn identify(exchange: &mut Exchange<'_>, identity: Identity) {
    exchange.identity = identity;
    identity_headers::write(&mut exchange.request.headers, &exchange.identity);
}
