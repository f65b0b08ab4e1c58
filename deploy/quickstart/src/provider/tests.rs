//! The provider from outside, without sockets.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;
use url::Url;

use super::{Client, Provider, ProviderSettings};

const ISSUER: &str = "http://provider.example";
const BACK: &str = "http://app.example/back";

fn provider() -> Provider {
    let client = |id: &str| Client {
        id: id.to_owned(),
        secret: format!("{id}-secret"),
        redirect_uris: vec![BACK.to_owned()],
        post_logout_redirect_uris: Vec::new(),
    };
    Provider::new(ProviderSettings {
        clients: vec![client("app"), client("other")],
        ..ProviderSettings::new(ISSUER)
    })
}

struct Reply {
    status: StatusCode,
    location: Option<Url>,
    cookie: Option<String>,
    body: String,
}

impl Reply {
    fn argument(&self, name: &str) -> Option<String> {
        let location = self.location.as_ref()?;
        let mut pairs = location.query_pairs();
        Some(pairs.find(|(found, _)| found == name)?.1.into_owned())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

async fn send(provider: &Provider, request: Request<Body>) -> Reply {
    let response = provider.router().oneshot(request).await.unwrap();
    let text = |name| {
        let value = response.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let (location, cookie) = (text(header::LOCATION), text(header::SET_COOKIE));
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Reply {
        status,
        location: location.map(|location| location.parse().unwrap()),
        cookie: cookie.and_then(|cookie| Some(cookie.split_once(';')?.0.to_owned())),
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

/// An authorization request with `more` arguments, by a browser with `cookie`.
async fn authorize(provider: &Provider, more: &str, cookie: Option<&str>) -> Reply {
    let uri = format!(
        "/authorize?client_id=app&redirect_uri={BACK}&response_type=code&scope=openid&state=s&{more}"
    );
    let request = Request::get(uri).header(header::COOKIE, cookie.unwrap_or_default());
    send(provider, request.body(Body::empty()).unwrap()).await
}

async fn post(provider: &Provider, path: &str, form: &[(&str, &str)]) -> Reply {
    let mut body = form_urlencoded::Serializer::new(String::new());
    let body = body.extend_pairs(form).finish();
    let request =
        Request::post(path).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    send(provider, request.body(Body::from(body)).unwrap()).await
}

/// Types into the login page that `page` is.
async fn login(provider: &Provider, page: &Reply, username: &str) -> Reply {
    assert_eq!(page.status, StatusCode::OK, "{}", page.body);
    let start = page.body.find("name=\"sign_in\" value=\"").unwrap() + 22;
    let id = page.body[start..].split('"').next().unwrap();
    let password = format!("{username}-password");
    let form = [
        ("sign_in", id),
        ("username", username),
        ("password", &password),
    ];
    post(provider, "/login", &form).await
}

/// A browser's cookie and the tokens of its user.
async fn signed_in(provider: &Provider, username: &str) -> (String, Value) {
    let page = authorize(provider, "", None).await;
    let back = login(provider, &page, username).await;
    let code = back.argument("code").unwrap();
    let tokens = token(
        provider,
        "app",
        &[
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", BACK),
        ],
    )
    .await;
    (back.cookie.unwrap(), tokens.json())
}

async fn token(provider: &Provider, client: &str, form: &[(&str, &str)]) -> Reply {
    let secret = format!("{client}-secret");
    let mut form = form.to_vec();
    form.extend([("client_id", client), ("client_secret", &secret)]);
    post(provider, "/token", &form).await
}

async fn refresh(provider: &Provider, client: &str, token_text: &Value) -> Reply {
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", token_text.as_str().unwrap()),
    ];
    token(provider, client, &form).await
}

#[tokio::test]
async fn another_client_cannot_use_up_a_refresh_token() {
    let provider = provider();
    provider.configure(|settings| settings.refresh_reuse_leeway = Duration::ZERO);
    let (_, tokens) = signed_in(&provider, "alice").await;
    let stolen = refresh(&provider, "other", &tokens["refresh_token"]).await;
    assert_eq!(stolen.json()["error"], "invalid_grant");
    tokio::time::sleep(Duration::from_millis(5)).await;
    let own = refresh(&provider, "app", &tokens["refresh_token"]).await;
    assert_eq!(own.status, StatusCode::OK, "{}", own.body);
    // Used twice, it ends the whole grant.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let twice = refresh(&provider, "app", &tokens["refresh_token"]).await;
    assert_eq!(twice.json()["error"], "invalid_grant");
    let newest = refresh(&provider, "app", &own.json()["refresh_token"]).await;
    assert_eq!(newest.json()["error"], "invalid_grant");
}

#[tokio::test]
async fn prompt_says_whether_the_login_page_is_shown() {
    let provider = provider();
    let (cookie, _) = signed_in(&provider, "alice").await;
    let check = async |more: &str, cookie: Option<&str>, outcome: &str| {
        let reply = authorize(&provider, more, cookie).await;
        let found = match (reply.argument("error"), reply.argument("code")) {
            (Some(error), None) => error,
            (None, Some(_)) => "code".to_owned(),
            _ => "page".to_owned(),
        };
        assert_eq!(found, outcome, "{more}");
        if reply.location.is_some() {
            assert_eq!(reply.argument("state").as_deref(), Some("s"));
            assert_eq!(reply.argument("iss").as_deref(), Some(ISSUER));
        }
    };
    let session = Some(cookie.as_str());
    check("", None, "page").await;
    check("", session, "code").await;
    check("prompt=consent", session, "code").await;
    check("prompt=none", session, "code").await;
    check("prompt=none", None, "login_required").await;
    check("prompt=login", session, "page").await;
    check("prompt=select_account", session, "page").await;
    check("prompt=none%20login", session, "invalid_request").await;
    check("prompt=dance", session, "invalid_request").await;
    check("max_age=600", session, "code").await;
    check("max_age=0", session, "page").await;
    check("max_age=0&prompt=none", session, "login_required").await;
    check("max_age=-1", session, "invalid_request").await;
}

#[tokio::test]
async fn what_is_not_supported_is_refused_by_its_own_error() {
    let provider = provider();
    let check = async |more: &str, error: &str| {
        let reply = authorize(&provider, more, None).await;
        assert_eq!(reply.argument("error").as_deref(), Some(error), "{more}");
    };
    check("response_mode=form_post", "invalid_request").await;
    check("response_mode=fragment", "invalid_request").await;
    check("request=x", "request_not_supported").await;
    check(
        "request_uri=https://a.example/",
        "request_uri_not_supported",
    )
    .await;
    check("registration=x", "registration_not_supported").await;
    check(
        "code_challenge=x&code_challenge_method=plain",
        "invalid_request",
    )
    .await;
    check("id_token_hint=nonsense", "invalid_request").await;
}

#[tokio::test]
async fn a_login_hint_fills_in_the_user_name() {
    let provider = provider();
    let page = authorize(&provider, "login_hint=bob", None).await;
    assert!(page.body.contains("value=\"bob\""), "{}", page.body);
    let page = authorize(&provider, "login_hint=%22%3E%3Cscript%3E", None).await;
    assert!(!page.body.contains("<script>"), "{}", page.body);
}

#[tokio::test]
async fn an_id_token_hint_names_the_only_user_who_passes() {
    let provider = provider();
    let (alice, tokens) = signed_in(&provider, "alice").await;
    let (bob, _) = signed_in(&provider, "bob").await;
    let hint = format!("id_token_hint={}", tokens["id_token"].as_str().unwrap());
    let reply = authorize(&provider, &hint, Some(&alice)).await;
    assert!(reply.argument("code").is_some());
    let silent = format!("{hint}&prompt=none");
    let reply = authorize(&provider, &silent, Some(&bob)).await;
    assert_eq!(reply.argument("error").as_deref(), Some("login_required"));
    let page = authorize(&provider, &hint, Some(&bob)).await;
    let reply = login(&provider, &page, "bob").await;
    assert_eq!(reply.argument("error").as_deref(), Some("login_required"));
    let page = authorize(&provider, &hint, Some(&bob)).await;
    let reply = login(&provider, &page, "alice").await;
    assert!(reply.argument("code").is_some());
    // An access token is no hint.
    let wrong = format!("id_token_hint={}", tokens["access_token"].as_str().unwrap());
    let reply = authorize(&provider, &wrong, Some(&alice)).await;
    assert_eq!(reply.argument("error").as_deref(), Some("invalid_request"));
}

#[tokio::test]
async fn an_authorization_request_may_be_posted() {
    let provider = provider();
    let form = [
        ("client_id", "app"),
        ("redirect_uri", BACK),
        ("response_type", "code"),
        ("scope", "openid"),
    ];
    let page = post(&provider, "/authorize", &form).await;
    let back = login(&provider, &page, "alice").await;
    assert!(back.argument("code").is_some());
}

#[tokio::test]
async fn auth_time_is_when_the_password_was_typed() {
    let provider = provider();
    let (_, tokens) = signed_in(&provider, "alice").await;
    let payload = tokens["id_token"].as_str().unwrap().split('.').nth(1);
    let claims = URL_SAFE_NO_PAD.decode(payload.unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let refreshed = refresh(&provider, "app", &tokens["refresh_token"]).await;
    let answer = refreshed.json();
    let payload = answer["id_token"].as_str().unwrap().split('.').nth(1);
    let later = URL_SAFE_NO_PAD.decode(payload.unwrap()).unwrap();
    let later: Value = serde_json::from_slice(&later).unwrap();
    assert!(claims["auth_time"].is_u64());
    assert_eq!(claims["auth_time"], later["auth_time"]);
}

#[tokio::test]
async fn every_endpoint_of_the_discovery_document_answers() {
    let provider = provider();
    let request = Request::get("/.well-known/openid-configuration");
    let document = send(&provider, request.body(Body::empty()).unwrap()).await;
    let document = document.json();
    assert_eq!(document["issuer"], ISSUER);
    let members = document.as_object().unwrap();
    let endpoints = members
        .iter()
        .filter(|(name, _)| name.ends_with("_endpoint") || *name == "jwks_uri");
    for (name, url) in endpoints {
        let path = url.as_str().unwrap().strip_prefix(ISSUER).unwrap();
        let request = Request::get(path).body(Body::empty()).unwrap();
        let reply = send(&provider, request).await;
        assert_ne!(reply.status, StatusCode::NOT_FOUND, "{name}");
    }
}
