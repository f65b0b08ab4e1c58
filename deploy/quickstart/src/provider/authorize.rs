//! The authorization endpoint and the login page behind it (OpenID Connect Core §3.1.2).
//!
//! A request whose client or redirect URI is not registered is answered with a page and never with a
//! redirect; every other fault goes back to the relying party (RFC 6749 §4.1.2.1).

use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use shared::clock::UnixTime;
use url::Url;

use super::state::{Code, Session, SignIn};
use super::{Provider, ProviderSettings, page};

/// The cookie of a browser that is signed in at the provider.
const SESSION_COOKIE: &str = "demo_provider";

/// The parameters of an authorization request that we look at. A repeated one is refused.
#[derive(Debug, Deserialize)]
pub(super) struct AuthorizationRequest {
    client_id: Option<String>,
    redirect_uri: Option<String>,
    response_type: Option<String>,
    response_mode: Option<String>,
    scope: Option<String>,
    state: Option<String>,
    nonce: Option<String>,
    prompt: Option<String>,
    code_challenge: Option<String>,
    code_challenge_method: Option<String>,
}

/// The login form as it comes back.
#[derive(Deserialize)]
pub(super) struct LoginForm {
    sign_in: String,
    username: String,
    password: String,
}

/// Why the relying party is told that its request cannot be served.
struct AuthorizationError {
    error: &'static str,
    description: &'static str,
}

pub(super) async fn authorize(
    State(provider): State<Provider>,
    headers: HeaderMap,
    Query(request): Query<AuthorizationRequest>,
) -> Response {
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
    let prompt = request.prompt.clone();
    let state = request.state.clone();
    let sign_in = match check(request, redirect_uri.clone()) {
        Ok(sign_in) => sign_in,
        Err(error) => return back_with_error(&settings, &redirect_uri, state.as_deref(), &error),
    };

    let now = UnixTime::now();
    let session = session_id(&headers).and_then(|id| provider.state().session(now, &id));
    match (session, prompt.as_deref()) {
        (Some(session), None | Some("none" | "consent")) => {
            back_with_code(&provider, now, sign_in, session)
        }
        (None, Some("none")) => back_with_error(
            &settings,
            &redirect_uri,
            state.as_deref(),
            &AuthorizationError {
                error: "login_required",
                description: "nobody is signed in at the provider",
            },
        ),
        _ => {
            let id = provider.state().add_sign_in(now, sign_in);
            page::login(&settings, &id, None)
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

fn check(
    request: AuthorizationRequest,
    redirect_uri: String,
) -> Result<SignIn, AuthorizationError> {
    let refuse = |error, description| Err(AuthorizationError { error, description });
    if request.response_type.as_deref() != Some("code") {
        return refuse("unsupported_response_type", "use response_type=code");
    }
    if !matches!(request.response_mode.as_deref(), None | Some("query")) {
        return refuse("invalid_request", "use response_mode=query");
    }
    let scope = request.scope.unwrap_or_default();
    if !scope.split(' ').any(|word| word == "openid") {
        return refuse("invalid_scope", "the scope must contain openid");
    }
    match (
        request.code_challenge.as_deref(),
        request.code_challenge_method.as_deref(),
    ) {
        (None, None) | (Some(_), Some("S256")) => {}
        _ => {
            return refuse(
                "invalid_request",
                "use code_challenge with code_challenge_method=S256",
            );
        }
    }
    Ok(SignIn {
        client_id: request.client_id.unwrap_or_default(),
        redirect_uri,
        scope,
        state: request.state,
        nonce: request.nonce,
        code_challenge: request.code_challenge,
    })
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
