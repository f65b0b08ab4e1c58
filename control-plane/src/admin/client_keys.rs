//! `/openid-connect/jwks`: the public halves of the keys that sign for clients.

use axum::extract::Request;
use http::{Method, StatusCode};
use shared::clock::UnixTime;
use shared::entity::{ClientKey, Entity, definition};

use super::error::Refusal;
use super::{Admin, Answer, body};
use crate::client_keys;
use crate::history::Origin;

/// The methods of the page, sorted.
pub(super) const METHODS: &[Method] = &[Method::DELETE, Method::GET, Method::HEAD, Method::OPTIONS];

/// How long a provider may keep the set: it knows no newer key for as long, and refuses clients that sign with one.
const KEPT: &str = "max-age=60";

/// Shows the keys, which are made if there are none yet.
pub(super) async fn read(admin: &Admin, origin: Origin) -> Result<Answer, Refusal> {
    carry_out(admin, origin.answered(StatusCode::OK), client_keys::ensure).await?;
    let keys = client_keys::published(&admin.publisher.config());
    Ok(Answer {
        content_type: Some("application/jwk-set+json"),
        cache_control: Some(KEPT),
        ..Answer::ok(keys)
    })
}

/// Replaces the keys (Kong 3.9, `DELETE /openid-connect/jwks`).
pub(super) async fn rotate(
    admin: &Admin,
    origin: Origin,
    request: Request,
) -> Result<Answer, Refusal> {
    body::read(request).await?;
    let origin = origin.answered(StatusCode::NO_CONTENT);
    carry_out(admin, origin, client_keys::rotate).await?;
    Ok(Answer {
        revision: Some(admin.publisher.config().revision()),
        urgent: true,
        ..Answer::without_body(StatusCode::NO_CONTENT)
    })
}

type Deed = fn(
    &crate::publisher::Publisher,
    &Origin,
    UnixTime,
) -> Result<(), crate::publisher::ExecuteError>;

async fn carry_out(admin: &Admin, origin: Origin, deed: Deed) -> Result<(), Refusal> {
    let entity = definition(ClientKey::KIND).ok_or(Refusal::NotFound)?;
    let publisher = admin.publisher.clone();
    let work = move || deed(&publisher, &origin, UnixTime::now());
    admin
        .turns
        .take(work)
        .await?
        .map_err(|error| Refusal::of(error, entity))
}
