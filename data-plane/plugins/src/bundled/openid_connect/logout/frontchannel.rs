//! Logout that the provider asks for by way of the browser, in a frame of its own page (OpenID Connect
//! Front-Channel Logout 1.0). Browsers seldom send our cookies along: then the provider's name of the
//! session decides.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode};
use shared::entity::Revocation;
use url::Url;

use crate::bundled::openid_connect::cookie::Jar;
use crate::bundled::openid_connect::opened;
use crate::bundled::openid_connect::page;
use crate::bundled::openid_connect::rate::{self, Deed};
use crate::bundled::openid_connect::request;
use crate::bundled::openid_connect::rules::{Ends, Rules};
use crate::exchange::Exchange;
use crate::host::Host;
use crate::sessions::revocations::end_everywhere;

/// How often an address may name sessions in a minute.
const MOST: u32 = 60;

/// Answers a request to the front-channel logout URI. What does not match ends nothing, and is not
/// told so.
pub(super) async fn answer(
    rules: &Arc<Rules>,
    exchange: &mut Exchange<'_>,
    host: &impl Host,
    jar: &Jar,
) -> Response<Bytes> {
    if exchange.request.method != Method::GET {
        let mut response = page::framed("'none'");
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        let get = HeaderValue::from_static("GET");
        response.headers_mut().insert(http::header::ALLOW, get);
        return response;
    }
    let now = host.now();
    let sought = opened::find(rules, exchange, host, jar, now).await;
    let session = sought.ok().and_then(opened::Sought::found);
    let argument = |wanted: &str| {
        let mut found = request::query(exchange).filter(|(name, _)| name == wanted);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Some(value.into_owned()),
            _ => None,
        }
    };
    let named = match (argument("iss"), argument("sid")) {
        (Some(issuer), Some(sid)) if rules.accepts_issuer(&issuer) => {
            Some(Revocation::provider_session(&issuer, &sid))
        }
        _ => None,
    };
    let unnamed = !request::query(exchange).any(|(name, _)| name == "iss" || name == "sid");
    let ends = match (&session, named) {
        (Some(open), Some(named)) => open
            .tenure
            .names
            .contains(&named)
            .then(|| Revocation::session(&open.session.id)),
        (Some(open), None) if unnamed => Some(Revocation::session(&open.session.id)),
        (None, Some(named)) => {
            let address = exchange.client.address;
            let counted = rate::count(host, Deed::Logout, rules.compilation, address, MOST);
            counted.is_ok().then_some(named)
        }
        _ => None,
    };
    let (before, kind) = match &session {
        Some(_) => (Revocation::FOR_GOOD, Ends::Session),
        None => (host.latest(now).as_millis(), Ends::OnHearsay),
    };
    if let Some(id) = ends {
        if session.is_some() {
            opened::destroy(rules, exchange, host, jar);
        }
        let revocation = Revocation {
            id,
            before,
            expires_at: rules.forgotten_at(kind, &exchange.environment.session_keys, now),
        };
        end_everywhere(host, revocation).await;
    }
    let origin = Url::parse(&rules.issuer).map(|url| url.origin().ascii_serialization());
    page::framed(origin.as_deref().unwrap_or("'none'"))
}
