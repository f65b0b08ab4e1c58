//! Logout.

use http::{HeaderValue, Method};
use serde_json::{Value, json};
use shared::entity::Revocation;

use super::gateway::{Browser, Gateway, Reply};
use super::provider::ISSUER;
use crate::host::Host;
use crate::sessions::revocations::Revocations;
use crate::testing::{Request, START};

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

pub(super) fn back_channel() -> (Gateway, Browser) {
    let mut gateway = Gateway::new(json!({
        "backchannel_logout_uri_suffix": "/backchannel",
        "frontchannel_logout_uri_suffix": "/frontchannel", "logout_uri_suffix": "/logout",
        "logout_redirect_uri": ["http://gateway.example/bye"],
    }));
    gateway.provider.script.borrow_mut().id_claims = vec![("sid", json!("s1"))];
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    gateway.advance(1);
    (gateway, browser)
}

/// Claims of a logout token, changed; `null` removes one.
pub(super) fn logout_claims(gateway: &Gateway, changes: &Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "aud": "client", "iat": gateway.provider.now(), "jti": "j1", "sid": "s1",
        "sub": "user-1", "events": { EVENT: {} },
    });
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name.as_str()] = value.clone();
        }
    }
    claims
}

pub(super) fn post_token(gateway: &mut Gateway, token: &str) -> Reply {
    Browser::default().post(gateway, "/backchannel", &format!("logout_token={token}"))
}

pub(super) fn log_out(gateway: &mut Gateway, changes: &Value) -> Reply {
    let claims = logout_claims(gateway, changes);
    let token = gateway.provider.keys.borrow()[0].sign(&claims);
    post_token(gateway, &token)
}

fn signed_in(config: &Value) -> (Gateway, Browser) {
    let mut gateway = Gateway::new(config.clone());
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    (gateway, browser)
}

#[test]
fn case_56_only_the_listed_methods_log_out() {
    let (mut gateway, mut browser) =
        signed_in(&json!({ "logout_uri_suffix": "/logout", "logout_methods": ["POST"] }));
    assert_eq!(browser.get(&mut gateway, "/logout").status, 200);
    let reply = browser.post(&mut gateway, "/logout?x=1", "");
    assert_eq!((reply.status, reply.ends_session()), (302, true));
    assert!(reply.location().starts_with("https://idp.example/logout?"));
    assert!(reply.argument("id_token_hint").unwrap().starts_with("ey"));
    assert_eq!(reply.argument("client_id").as_deref(), Some("client"));
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

#[test]
fn case_57_tokens_are_revoked_as_configured() {
    let check = |config: Value, expected: &[&str]| {
        let (mut gateway, mut browser) = signed_in(&config);
        let mut request = Request::get("/logout");
        request.method = Method::DELETE;
        assert_eq!(browser.send(&mut gateway, request).status, 302);
        let forms = gateway.provider.forms.borrow();
        let revoked: Vec<_> = forms
            .iter()
            .filter(|(path, _)| path == "/revoke")
            .map(|(_, form)| form["token_type_hint"].as_str())
            .collect();
        assert_eq!(revoked, expected, "{config}");
    };
    check(json!({ "logout_uri_suffix": "/logout" }), &[]);
    check(
        json!({ "logout_uri_suffix": "/logout", "logout_revoke": true }),
        &["refresh_token", "access_token"],
    );
    check(
        json!({ "logout_uri_suffix": "/logout", "logout_revoke": true, "logout_revoke_access_token": false }),
        &["refresh_token"],
    );
}

#[test]
fn case_58_the_browser_goes_where_the_configuration_says() {
    let config = json!({
        "logout_query_arg": "logout", "logout_methods": ["GET"],
        "logout_redirect_uri": ["https://a/bye"],
    });
    let (mut gateway, mut browser) = signed_in(&config);
    let reply = browser.get(&mut gateway, "/api?logout");
    assert_eq!(
        reply.argument("post_logout_redirect_uri").as_deref(),
        Some("https://a/bye")
    );
    let mut gateway = Gateway::new(config);
    gateway.provider.script.borrow_mut().discovery = vec![("end_session_endpoint", json!(null))];
    let reply = Browser::default().get(&mut gateway, "/api?logout");
    assert_eq!((reply.status, reply.location()), (302, "https://a/bye"));
}

#[test]
fn a_form_argument_may_mean_logout() {
    for method in [Method::POST, Method::DELETE] {
        let (mut gateway, mut browser) = signed_in(&json!({ "logout_post_arg": "logout" }));
        let mut request = Request::get("/api");
        request.method = method;
        request.body = bytes::Bytes::from_static(b"logout=1");
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers.push((http::header::CONTENT_TYPE, kind));
        let reply = browser.send(&mut gateway, request);
        assert_eq!((reply.status, reply.ends_session()), (302, true));
    }
}

#[test]
fn a_member_of_a_json_body_means_logout_whatever_it_says() {
    for (body, status) in [
        (r#"{"bye":null}"#, 302),
        (r#"{"bye":{}}"#, 302),
        (r#"{"bye":false}"#, 302),
        (r#"{"bye":""}"#, 302),
        (r#"{"by":1}"#, 200),
        (r#"["bye"]"#, 200),
    ] {
        let (mut gateway, mut browser) = signed_in(&json!({ "logout_post_arg": "bye" }));
        let mut request = Request::get("/api");
        request.method = Method::POST;
        request.body = bytes::Bytes::from_static(body.as_bytes());
        let kind = HeaderValue::from_static("application/json");
        request.headers.push((http::header::CONTENT_TYPE, kind));
        let reply = browser.send(&mut gateway, request);
        let outcome = (reply.status, reply.ends_session());
        assert_eq!(outcome, (status, status == 302), "{body}");
    }
}

#[test]
fn logout_works_while_the_provider_is_down() {
    let (mut gateway, mut browser) = signed_in(&json!({ "logout_uri_suffix": "/logout" }));
    gateway.provider.script.borrow_mut().down = true;
    gateway.host.advance(3600.0 * 24.0);
    let reply = browser.post(&mut gateway, "/logout", "");
    assert!(reply.ends_session());
    let mut fresh = Gateway::new(json!({ "logout_uri_suffix": "/logout" }));
    fresh.provider.script.borrow_mut().down = true;
    assert_eq!(
        Browser::default().post(&mut fresh, "/logout", "").status,
        200
    );
}

#[test]
fn rule_96_another_site_cannot_log_a_user_out() {
    let (mut gateway, mut browser) = signed_in(&json!({
        "logout_uri_suffix": "/logout", "logout_methods": ["GET", "POST"],
    }));
    let foreign = [
        ("sec-fetch-site", "cross-site"),
        ("origin", "https://evil.example"),
    ];
    for (name, value) in foreign {
        let reply = browser.get_with(&mut gateway, "/logout", name, value);
        assert_eq!((reply.status, reply.ends_session()), (403, false), "{name}");
        assert_eq!(browser.get(&mut gateway, "/api").status, 200, "{name}");
    }
}

#[test]
fn the_cookie_of_a_session_that_was_logged_out_is_refused() {
    let (mut gateway, mut browser) = signed_in(&json!({ "logout_uri_suffix": "/logout" }));
    let mut thief = browser.clone();
    assert_eq!(thief.get(&mut gateway, "/api").status, 200);
    browser.post(&mut gateway, "/logout", "");
    assert_eq!(thief.get(&mut gateway, "/api").status, 302);
    // Who signs in again is not affected.
    gateway.advance(1);
    browser.sign_in(&mut gateway, "/api");
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
}

#[test]
fn rule_102_a_logout_token_ends_the_provider_s_session() {
    let (mut gateway, mut browser) = back_channel();
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    let reply = log_out(&mut gateway, &json!({}));
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    assert_eq!(reply.headers["cache-control"], "no-store");
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
    // The same token serves once.
    assert_eq!(log_out(&mut gateway, &json!({})).status, 400);
}

#[test]
fn rule_102_every_other_token_is_refused() {
    let (mut gateway, mut browser) = back_channel();
    let now = gateway.provider.now();
    for changes in [
        json!({ "iss": "https://evil.example" }),
        json!({ "iss": null }),
        json!({ "aud": "another" }),
        json!({ "aud": null }),
        json!({ "events": null }),
        json!({ "events": [EVENT] }),
        json!({ "events": { EVENT: "yes" } }),
        json!({ "events": { "http://schemas.openid.net/event/other": {} } }),
        json!({ "nonce": "n" }),
        json!({ "jti": null }),
        json!({ "jti": "" }),
        json!({ "iat": null }),
        json!({ "iat": now - 400 }),
        json!({ "iat": now + 400 }),
        json!({ "iat": now - 125 }),
        json!({ "exp": now - 400 }),
        json!({ "exp": now - 1 }),
        json!({ "nbf": now + 61 }),
        json!({ "nbf": "now" }),
        json!({ "sid": null, "sub": null }),
        json!({ "sid": 7 }),
    ] {
        let reply = log_out(&mut gateway, &changes);
        assert_eq!(reply.status, 400, "{changes}");
        assert_eq!(reply.json()["error"], "invalid_request");
        assert_eq!(reply.headers["cache-control"], "no-store");
    }
    let claims = logout_claims(&gateway, &json!({}));
    let unknown = super::provider::SigningKey::es256("other").sign(&claims);
    assert_eq!(post_token(&mut gateway, &unknown).status, 400);
    let none = {
        use base64::Engine;
        let part = |value: &Value| {
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string())
        };
        format!("{}.{}.", part(&json!({ "alg": "none" })), part(&claims))
    };
    assert_eq!(post_token(&mut gateway, &none).status, 400);
    let token = gateway.provider.keys.borrow()[0].sign(&claims);
    let twice = format!("{token}&logout_token={token}");
    assert_eq!(post_token(&mut gateway, &twice).status, 400);
    assert_eq!(browser.get(&mut gateway, "/backchannel").status, 405);
    let mut request = Request::get("/backchannel");
    request.method = Method::POST;
    assert_eq!(gateway.send(request).status, 415);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
}

#[test]
fn rule_103_a_subject_s_sessions_end_and_later_ones_do_not() {
    let (mut gateway, mut browser) = back_channel();
    let issued = gateway.provider.now();
    gateway.advance(2);
    let mut later = Browser::default();
    later.sign_in(&mut gateway, "/api");
    let changes = json!({ "sid": null, "iat": issued });
    assert_eq!(log_out(&mut gateway, &changes).status, 200);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
    assert_eq!(later.get(&mut gateway, "/api").status, 200);
}

#[test]
fn rule_103_a_session_ends_by_the_name_that_it_began_with() {
    for (named, ends) in [(None, "s1"), (Some("s2"), "s1"), (Some("s2"), "s2")] {
        let (mut gateway, mut browser) = back_channel();
        let sid = named.map_or(Value::Null, |sid| json!(sid));
        gateway.provider.script.borrow_mut().id_claims = vec![("sid", sid)];
        gateway.advance(301);
        assert_eq!(browser.get(&mut gateway, "/api").status, 200);
        assert_eq!(gateway.provider.called("/token"), 2);
        assert_eq!(log_out(&mut gateway, &json!({ "sid": ends })).status, 200);
        assert_eq!(
            browser.get(&mut gateway, "/api").status,
            302,
            "{named:?} {ends}"
        );
    }
}

#[test]
fn rule_103_a_logout_that_overtakes_its_code_holds() {
    let (mut gateway, _) = back_channel();
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    assert_eq!(log_out(&mut gateway, &json!({})).status, 200);
    gateway.advance(2);
    let back = format!("/api?{}", gateway.provider.authorize(start.location()));
    browser.get(&mut gateway, &back);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
    // What begins later is another, also where the provider calls it by the same name.
    for sid in ["s1", "s3"] {
        let mut later = Browser::default();
        gateway.provider.script.borrow_mut().id_claims = vec![("sid", json!(sid))];
        assert_eq!(later.sign_in(&mut gateway, "/api").status, 200, "{sid}");
        assert_eq!(later.get(&mut gateway, "/api").status, 200, "{sid}");
    }
}

#[test]
fn rule_102_a_logout_that_is_not_stored_is_asked_for_again() {
    let (mut gateway, mut browser) = back_channel();
    gateway.host.store(false);
    let reply = log_out(&mut gateway, &json!({}));
    assert_eq!(reply.status, 503);
    assert!(reply.headers.contains_key("retry-after"));
    // It holds here nonetheless.
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
    gateway.host.store(true);
    assert_eq!(log_out(&mut gateway, &json!({})).status, 200);
}

#[test]
fn rule_105_a_frame_ends_the_session_that_it_names() {
    let (mut gateway, mut browser) = back_channel();
    let uri = |issuer: &str, sid: &str| format!("/frontchannel?iss={issuer}&sid={sid}");
    for wrong in [
        uri("https://evil.example", "s1"),
        uri(ISSUER, "s2"),
        "/frontchannel?sid=s1".to_owned(),
    ] {
        let reply = browser.get(&mut gateway, &wrong);
        assert_eq!(
            (reply.status, reply.ends_session()),
            (200, false),
            "{wrong}"
        );
    }
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    let mut without_cookies = Browser::default();
    let reply = without_cookies.get(&mut gateway, &uri(ISSUER, "s1"));
    assert_eq!(reply.status, 200);
    // Whoever asks proves nothing: it is remembered no longer than this plugin's sessions could last.
    let now = gateway.host.now().as_secs();
    let remembered = gateway.host.last_stored().unwrap().expires_at - now;
    assert_eq!(remembered, 25 * 3_600);
    let policy = reply.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.contains("frame-ancestors https://idp.example"),
        "{policy}"
    );
    assert_eq!(reply.headers["cache-control"], "no-store");
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
    gateway.advance(1);
    browser.sign_in(&mut gateway, "/api");
    assert!(browser.get(&mut gateway, "/frontchannel").ends_session());
    assert!(gateway.provider.called("/revoke") == 0);
}

#[test]
fn rule_98_the_way_back_is_known_by_its_state() {
    let config = json!({
        "logout_uri_suffix": "/logout", "logout_redirect_uri": ["http://gateway.example/bye"],
    });
    let (mut gateway, mut browser) = signed_in(&config);
    let reply = browser.post(&mut gateway, "/logout", "");
    let state = reply.argument("state").unwrap();
    assert!(state.len() >= 22);
    let page = browser.get(&mut gateway, &format!("/bye?state={state}"));
    assert_eq!(page.status, 200);
    assert!(String::from_utf8_lossy(&page.body).contains("and at the OpenID provider"));
    for other in ["wrong", &state] {
        let page = browser.get(&mut gateway, &format!("/bye?state={other}"));
        let text = String::from_utf8_lossy(&page.body).into_owned();
        assert!(
            page.status == 200 && text.contains("signed out here."),
            "{text}"
        );
    }
    // Any other visit begins a sign-in.
    assert_eq!(browser.get(&mut gateway, "/bye").status, 302);
}

#[test]
fn rule_98_a_long_hint_is_posted() {
    let (mut gateway, mut browser) = {
        let mut gateway = Gateway::new(json!({ "logout_uri_suffix": "/logout" }));
        let long: Vec<String> = (0..900).map(|n| format!("g{:08}", n * 7_919)).collect();
        gateway.provider.script.borrow_mut().id_claims = vec![("groups", json!(long))];
        let mut browser = Browser::default();
        browser.sign_in(&mut gateway, "/api");
        (gateway, browser)
    };
    let mut request = Request::get("/logout");
    request.method = Method::POST;
    request
        .headers
        .push((http::header::ACCEPT, HeaderValue::from_static("text/html")));
    let reply = browser.send(&mut gateway, request);
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    assert_eq!(reply.status, 200);
    assert!(
        text.contains("action=\"https://idp.example/logout\""),
        "{text}"
    );
    assert!(text.contains("name=\"id_token_hint\""));
    assert!(reply.ends_session());
}

#[test]
fn rule_96_a_link_of_another_site_asks_first() {
    let (mut gateway, mut browser) = signed_in(&json!({
        "logout_uri_suffix": "/logout", "logout_methods": ["GET", "POST"],
        "forbidden_destroy_session": false,
    }));
    let mut request = Request::get("/logout");
    for (name, value) in [("sec-fetch-site", "cross-site"), ("sec-fetch-user", "?1")] {
        let name = http::HeaderName::from_static(name);
        request
            .headers
            .push((name, HeaderValue::from_static(value)));
    }
    let reply = browser.send(&mut gateway, request);
    assert_eq!((reply.status, reply.ends_session()), (200, false));
    let check = |origin: &str, status: u16| {
        let (mut gateway, mut browser) = signed_in(&json!({ "logout_uri_suffix": "/logout" }));
        let mut request = Request::get("/logout");
        request.method = Method::POST;
        let origin = HeaderValue::from_str(origin).unwrap();
        request.headers.push((http::header::ORIGIN, origin));
        assert_eq!(browser.send(&mut gateway, request).status, status);
    };
    check("https://evil.example", 403);
    check("null", 403);
    check("https://gateway.example", 302);
}

#[test]
fn rule_104_what_other_nodes_revoke_holds_here() {
    let (mut gateway, mut browser) = back_channel();
    let known: &Revocations = Host::revocations(&gateway.host);
    let revocation = Revocation {
        id: Revocation::subject(ISSUER, "user-1"),
        before: START.as_millis() + 500,
        expires_at: START.as_secs() + 86_400,
    };
    known.add([revocation], START);
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

#[test]
fn rule_19_an_address_begins_only_so_many_sign_ins() {
    let mut gateway = Gateway::new(json!({ "login_rate_limit": 3 }));
    for _ in 0..3 {
        assert_eq!(Browser::default().get(&mut gateway, "/api").status, 302);
    }
    let reply = Browser::default().get(&mut gateway, "/api");
    assert_eq!(reply.status, 429);
    assert!(reply.headers.contains_key("retry-after"));
    gateway.advance(60);
    assert_eq!(Browser::default().get(&mut gateway, "/api").status, 302);
}

#[test]
fn a_session_does_not_go_on_where_nobody_knows_whether_it_is_over() {
    let (mut gateway, mut browser) = signed_in(&json!({}));
    gateway.host.revocations().lose(true);
    assert_eq!(browser.get(&mut gateway, "/api").status, 503);
    gateway.host.revocations().lose(false);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
}
