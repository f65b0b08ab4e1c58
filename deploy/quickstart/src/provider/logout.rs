//! Signing out at the provider (RP-Initiated Logout 1.0) and giving tokens back (RFC 7009).

use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use shared::clock::UnixTime;
use url::Url;

use super::error::Refusal;
use super::token::{Parameters, client};
use super::{Provider, authorize, page};

/// The parameters of a logout request that we look at.
#[derive(Debug, Deserialize)]
pub(super) struct LogoutRequest {
    id_token_hint: Option<String>,
    client_id: Option<String>,
    post_logout_redirect_uri: Option<String>,
    state: Option<String>,
}

pub(super) async fn end_session_get(
    State(provider): State<Provider>,
    headers: HeaderMap,
    Query(request): Query<LogoutRequest>,
) -> Response {
    end_session(&provider, &headers, &request)
}

pub(super) async fn end_session_post(
    State(provider): State<Provider>,
    headers: HeaderMap,
    Form(request): Form<LogoutRequest>,
) -> Response {
    end_session(&provider, &headers, &request)
}

fn end_session(provider: &Provider, headers: &HeaderMap, request: &LogoutRequest) -> Response {
    if let Some(id) = authorize::session_id(headers) {
        provider.state().remove_session(&id);
    }
    let mut response = match target(provider, request) {
        Some(url) => (StatusCode::SEE_OTHER, [(header::LOCATION, url.to_string())]).into_response(),
        None => page::signed_out(),
    };
    if let Ok(cookie) = HeaderValue::from_str(&authorize::expired_session_cookie()) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// Where to go next: only to a URI that the named client has registered.
fn target(provider: &Provider, request: &LogoutRequest) -> Option<Url> {
    let settings = provider.settings();
    let hinted = request.id_token_hint.as_deref().and_then(audience_of);
    let id = hinted.or_else(|| request.client_id.clone())?;
    let uri = request.post_logout_redirect_uri.as_deref()?;
    if !settings.client(&id)?.allows_logout_to(uri) {
        return None;
    }
    let mut url = Url::parse(uri).ok()?;
    if let Some(state) = &request.state {
        url.query_pairs_mut().append_pair("state", state);
    }
    Some(url)
}

/// The client that an ID token was issued to. Its signature proves nothing that the redirect's own
/// registration does not, and an expired hint must be accepted.
fn audience_of(id_token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Hint {
        aud: String,
    }
    let token = jsonwebtoken::dangerous::insecure_decode::<Hint>(id_token).ok()?;
    Some(token.claims.aud)
}

pub(super) async fn revoke(
    State(provider): State<Provider>,
    headers: HeaderMap,
    body: String,
) -> Result<StatusCode, Refusal> {
    let parameters = Parameters::parse(&body)?;
    let client_id = client(&provider.settings(), &headers, &parameters)?;
    let token = parameters.require("token")?;
    let mut state = provider.state();
    let now = UnixTime::now();
    let grant = state
        .refresh_token(now, token)
        .map(|token| token.grant.clone());
    if let Some(id) = grant {
        let ours = state
            .grant(now, &id)
            .is_some_and(|grant| grant.client_id == client_id);
        if ours {
            state.revoke(&id);
        }
    }
    Ok(StatusCode::OK) // Also for a token that we do not know: RFC 7009 §2.2.
}
