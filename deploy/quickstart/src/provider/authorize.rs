//! The authorization endpoint and the login page behind it (OpenID Connect Core §3.1.2).
//!
//! A request whose client or redirect URI is not registered is answered with a page and never with a
//! redirect; every other fault goes back to the relying party (RFC 6749 §4.1.2.1). What it may ask for
//! is in `request`.

use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use shared::clock::UnixTime;
use url::Url;

use super::request::{AuthorizationError, AuthorizationRequest, Prompt};
use super::state::{Code, Session, SignIn};
use super::{Provider, ProviderSettings, page};

/// The cookie of a browser that is signed in at the provider.
const SESSION_COOKIE: &str = "demo_provider";

/// The login form as it comes back.
#[derive(Deserialize)]
pub(super) struct LoginForm {
    sign_in: String,
    username: String,
    password: String,
}

pub(super) async fn authorize_get(
    State(provider): State<Provider>,
    headers: HeaderMap,
    Query(request): Query<AuthorizationRequest>,
) -> Response {
    authorize(&provider, &headers, request)
}

pub(super) async fn authorize_post(
    State(provider): State<Provider>,
    headers: HeaderMap,
    Form(request): Form<AuthorizationRequest>,
) -> Response {
    authorize(&provider, &headers, request)
}

fn authorize(provider: &Provider, headers: &HeaderMap, request: AuthorizationRequest) -> Response {
    let settings = provider.settings();
    let Some(client) = request
        .client_id
        .as_deref()
        .and_then(|id| settings.client(id))
    else {
        return page::fault("This application is not registered here.");
    };
    let redirect_uri = match request.redirect_uri.as_deref() {
        Some(uri) if client.allows_redirect_to(uri) => uri.to_owned(),
        Some(_) | None => {
            return page::fault("This application may not send people back to that address.");
        }
    };
    let state = request.state.clone();
    let refuse = |error: &AuthorizationError| {
        back_with_error(&settings, &redirect_uri, state.as_deref(), error)
    };
    let (sign_in, demands) = match request.check(provider, redirect_uri.clone()) {
        Ok(checked) => checked,
        Err(error) => return refuse(&error),
    };

    let now = UnixTime::now();
    let session = session_id(headers)
        .and_then(|id| provider.state().session(now, &id))
        .filter(|session| demands.allow(session, now));
    match (session, demands.prompt) {
        (Some(session), Prompt::Never | Prompt::IfNeeded) => {
            back_with_code(provider, now, sign_in, session)
        }
        (None, Prompt::Never) => refuse(&AuthorizationError {
            error: "login_required",
            description: "nobody is signed in at the provider as the request demands",
        }),
        (_, Prompt::IfNeeded | Prompt::Always) => {
            let hint = sign_in.login_hint.clone();
            let id = provider.state().add_sign_in(now, sign_in);
            page::login(&settings, &id, hint.as_deref(), None)
        }
    }
}

pub(super) async fn login(
    State(provider): State<Provider>,
    Form(form): Form<LoginForm>,
) -> Response {
    let settings = provider.settings();
    let now = UnixTime::now();
    if provider.state().sign_in(now, &form.sign_in).is_none() {
        return page::fault(
            "This sign-in took too long. Go back to the application and try again.",
        );
    }
    let user = settings
        .user(form.username.trim())
        .filter(|user| user.has_password(&form.password));
    let Some(user) = user else {
        return page::login(
            &settings,
            &form.sign_in,
            Some(&form.username),
            Some("The user name or the password is wrong."),
        );
    };
    let session = Session {
        subject: user.subject.clone(),
        authenticated_at: now,
    };
    let (sign_in, session_id) = {
        let mut state = provider.state();
        let Some(sign_in) = state.take_sign_in(now, &form.sign_in) else {
            return page::fault("This sign-in was already completed.");
        };
        if sign_in
            .subject
            .as_ref()
            .is_some_and(|subject| *subject != user.subject)
        {
            drop(state);
            let error = AuthorizationError {
                error: "login_required",
                description: "somebody else signed in than id_token_hint names",
            };
            let state = sign_in.state.as_deref();
            return back_with_error(&settings, &sign_in.redirect_uri, state, &error);
        }
        (sign_in, state.add_session(now, session.clone()))
    };
    let cookie = format!("{SESSION_COOKIE}={session_id}; Path=/; HttpOnly; SameSite=Lax");
    let mut response = back_with_code(&provider, now, sign_in, session);
    if let Ok(cookie) = cookie.parse() {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// The provider's session cookie of a request.
pub(super) fn session_id(headers: &HeaderMap) -> Option<String> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == SESSION_COOKIE)
        .map(|(_, value)| value.to_owned())
}

/// The `Set-Cookie` that signs a browser out here.
pub(super) fn expired_session_cookie() -> String {
    format!("{SESSION_COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax")
}

fn back_with_code(
    provider: &Provider,
    now: UnixTime,
    sign_in: SignIn,
    session: Session,
) -> Response {
    let settings = provider.settings();
    let redirect_uri = sign_in.redirect_uri.clone();
    let state = sign_in.state.clone();
    let code = provider.state().add_code(
        now,
        Code {
            sign_in,
            subject: session.subject,
            authenticated_at: session.authenticated_at,
            grant: None,
        },
    );
    back(
        &settings,
        &redirect_uri,
        state.as_deref(),
        &[("code", &code)],
    )
}

fn back_with_error(
    settings: &ProviderSettings,
    redirect_uri: &str,
    state: Option<&str>,
    error: &AuthorizationError,
) -> Response {
    back(
        settings,
        redirect_uri,
        state,
        &[
            ("error", error.error),
            ("error_description", error.description),
        ],
    )
}

/// Sends the browser back, with `iss` against mix-up (RFC 9207).
fn back(
    settings: &ProviderSettings,
    redirect_uri: &str,
    state: Option<&str>,
    parameters: &[(&str, &str)],
) -> Response {
    let Ok(mut url) = Url::parse(redirect_uri) else {
        return page::fault("This application may not send people back to that address.");
    };
    {
        let mut query = url.query_pairs_mut();
        query.extend_pairs(parameters);
        if let Some(state) = state {
            query.append_pair("state", state);
        }
        query.append_pair("iss", &settings.issuer);
    }
    (
        StatusCode::SEE_OTHER,
        [
            (header::LOCATION, url.to_string()),
            (header::CACHE_CONTROL, "no-store".to_owned()),
            (header::REFERRER_POLICY, "no-referrer".to_owned()),
        ],
    )
        .into_response()
}
