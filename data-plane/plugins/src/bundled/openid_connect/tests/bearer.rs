//! Bearer tokens and refresh tokens that clients bring.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE};
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::gateway::{Browser, Gateway, request};
use super::provider::SigningKey;
use super::session::send_at_once;
use crate::testing::{Request, START};

fn bearer_only() -> Gateway {
    Gateway::new(json!({ "auth_methods": ["bearer"] }))
}

#[test]
fn case_3_without_credentials_the_answer_is_401_with_a_challenge() {
    let reply = bearer_only().send(Request::get("/api"));
    let whole = json!({ "message": "Unauthorized" });
    assert_eq!((reply.status, reply.json()), (401, whole));
    assert_eq!(reply.challenge(), "Bearer realm=\"idp.example\"");
}

#[test]
fn case_28_what_follows_a_sign_in_follows_no_bearer_token() {
    let mut gateway = Gateway::new(json!({ "login_action": "response" }));
    let token = gateway.provider.access_token(&[]);
    assert!(gateway.call(&token).upstream.is_some());
}

#[test]
fn case_33_a_token_must_be_right() {
    let check = |changes: &[(&'static str, Value)], leeway: u64, status: u16| {
        let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"], "leeway": leeway }));
        let token = gateway.provider.access_token(changes);
        assert_eq!(gateway.call(&token).status, status, "{changes:?}");
    };
    let now = START.as_secs();
    check(&[], 0, 200);
    check(&[("iss", json!("https://evil.example"))], 0, 401);
    check(&[("iss", json!("https://idp.example/"))], 0, 200);
    check(&[("exp", json!(now - 5))], 0, 401);
    check(&[("exp", json!(now - 5))], 10, 200);
    check(&[("nbf", json!(now + 5))], 0, 401);
    check(&[("exp", json!("tomorrow"))], 0, 401);
    let mut gateway = bearer_only();
    let token = gateway.provider.access_token(&[]);
    let (message, _) = token.rsplit_once('.').unwrap();
    let reply = gateway.call(&format!("{message}.AAAA"));
    assert_eq!(reply.status, 401);
    assert_eq!(
        reply.challenge(),
        "Bearer realm=\"idp.example\", error=\"invalid_token\""
    );
}

#[test]
fn case_33_an_rs256_token_is_accepted() {
    let mut gateway = bearer_only();
    *gateway.provider.keys.borrow_mut() = vec![SigningKey::rs256("rsa")];
    let token = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&token).status, 200);
    assert_eq!(gateway.call(&token).status, 200);
}

#[test]
fn case_34_the_token_is_found_in_every_place() {
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["bearer"], "bearer_token_param_type": ["header", "query", "body", "cookie"],
        "bearer_token_cookie_name": "token",
    }));
    let token = gateway.provider.access_token(&[]);
    let header = |name: &'static str, value: &str| {
        let mut request = Request::get("/api");
        request.headers.push((
            HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        ));
        request
    };
    let body = |kind: &'static str, body: String| {
        let mut request = Request::get("/api");
        request.method = Method::POST;
        request
            .headers
            .push((CONTENT_TYPE, HeaderValue::from_static(kind)));
        request.body = Bytes::from(body);
        request
    };
    for request in [
        header("authorization", &format!("bEaReR {token}")),
        header("access-token", &token),
        header("x-access-token", &token),
        Request::get(&format!("/api?access_token={token}")),
        body(
            "application/x-www-form-urlencoded",
            format!("access_token={token}"),
        ),
        body(
            "application/json; charset=utf-8",
            json!({ "access_token": token, "n": null }).to_string(),
        ),
        header("cookie", &format!("token={token}")),
    ] {
        assert_eq!(gateway.send(request).status, 200);
    }
    let mut gateway = bearer_only();
    let token = gateway.provider.access_token(&[]);
    let mut request = Request::get("/api");
    request.headers.push((
        COOKIE,
        HeaderValue::from_str(&format!("token={token}")).unwrap(),
    ));
    assert_eq!(
        gateway.send(request).status,
        401,
        "a cookie only if it is configured"
    );
}

#[test]
fn case_35_the_client_secret_signs_only_where_that_is_allowed() {
    for (enabled, status) in [(false, 401), (true, 200)] {
        let mut gateway =
            Gateway::new(json!({ "auth_methods": ["bearer"], "enable_hs_signatures": enabled }));
        let claims = json!({ "sub": "x", "iss": "https://idp.example", "scope": "a" });
        let token = jsonwebtoken::encode(
            &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256),
            &claims,
            &jsonwebtoken::EncodingKey::from_secret(b"secret"),
        )
        .unwrap();
        assert_eq!(gateway.call(&token).status, status);
    }
    // {"alg":"none"}.{"sub":"x"}.
    assert_eq!(
        bearer_only()
            .call("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.")
            .status,
        401
    );
}

#[test]
fn case_36_and_rule_78_an_unknown_key_is_looked_for_once_in_a_while() {
    let mut gateway = bearer_only();
    let token = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&token).status, 200);
    let new = SigningKey::es256("two");
    gateway.provider.keys.borrow_mut().insert(0, new);
    let token = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&token).status, 200);
    assert_eq!(gateway.provider.called("/jwks"), 2);
    let unknown = SigningKey::es256("three").sign(&json!({ "sub": "x", "scope": "a" }));
    for _ in 0..100 {
        assert_eq!(gateway.call(&unknown).status, 401);
    }
    assert_eq!(gateway.provider.called("/jwks"), 2);
    gateway.advance(30);
    assert_eq!(gateway.call(&unknown).status, 401);
    assert_eq!(gateway.provider.called("/jwks"), 3);
}

#[test]
fn whoever_comes_while_a_rotated_key_is_looked_for_waits_for_it() {
    let mut gateway = bearer_only();
    assert_eq!(
        gateway.call(&gateway.provider.access_token(&[])).status,
        200
    );
    let new = SigningKey::es256("two");
    gateway.provider.keys.borrow_mut().insert(0, new);
    let call = |_| {
        let token = gateway.provider.access_token(&[]);
        let head = http::Request::get("/api")
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .body(())
            .unwrap();
        send_at_once(&gateway, head.into_parts().0)
    };
    let passed = gateway
        .host
        .run(futures::future::join_all((0..5).map(call)));
    assert_eq!(passed, [true; 5]);
    assert_eq!(gateway.provider.called("/jwks"), 2);
}

#[test]
fn case_41_a_malformed_authorization_header_is_no_credential() {
    for (methods, status) in [
        (json!(["bearer"]), 401),
        (json!(["bearer", "authorization_code"]), 302),
    ] {
        let mut gateway = Gateway::new(json!({ "auth_methods": methods }));
        let token = gateway.provider.access_token(&[]);
        let reply = Browser::default().get_with(&mut gateway, "/api", "authorization", &token);
        assert_eq!(reply.status, status);
    }
}

#[test]
fn case_43_preflights_pass_if_they_shall() {
    for (run, status) in [(false, 200), (true, 401)] {
        let mut gateway =
            Gateway::new(json!({ "auth_methods": ["bearer"], "run_on_preflight": run }));
        let mut request = Request::get("/api");
        request.method = Method::OPTIONS;
        assert_eq!(gateway.send(request).status, status);
    }
}

#[test]
fn rule_48_tokens_of_other_kinds_do_not_pose_as_access_tokens() {
    let check = |changes: &[(&'static str, Value)]| {
        let mut gateway = bearer_only();
        let token = gateway.provider.access_token(changes);
        assert_eq!(gateway.call(&token).status, 401, "{changes:?}");
    };
    check(&[("token_use", json!("id"))]);
    check(&[("at_hash", json!("x"))]);
    check(&[("typ", json!("ID"))]);
    check(&[("typ", json!("Refresh"))]);
    check(&[("nonce", json!("x")), ("scope", json!(null))]);
    check(&[("events", json!({}))]);
    // An ID token that a refresh has brought has no nonce.
    let id = |more: &[(&'static str, Value)]| {
        let mut claims = vec![
            ("aud", json!("client")),
            ("scope", json!(null)),
            ("auth_time", json!(START.as_secs())),
        ];
        claims.extend(more.iter().cloned());
        claims
    };
    check(&id(&[]));
    check(&id(&[("aud", json!(["client"])), ("azp", json!("client"))]));
    // What says whose it is otherwise is none, and neither is what says nothing of a sign-in.
    for more in [
        ("aud", json!("api")),
        ("aud", json!(["client", "api"])),
        ("scope", json!("openid")),
        ("client_id", json!("other")),
        ("roles", json!([])),
        ("auth_time", json!(null)),
    ] {
        let mut gateway = bearer_only();
        let token = gateway
            .provider
            .access_token(&id(std::slice::from_ref(&more)));
        assert_eq!(gateway.call(&token).status, 200, "{more:?}");
    }
}

#[test]
fn rule_46_two_authorization_headers_are_a_bad_request() {
    let mut request = Request::get("/api");
    for token in ["Bearer a", "Bearer b"] {
        request
            .headers
            .push((AUTHORIZATION, HeaderValue::from_static(token)));
    }
    assert_eq!(bearer_only().send(request).status, 400);
}

#[test]
fn a_verified_token_ends_when_it_expires_and_when_keys_change() {
    let mut gateway = bearer_only();
    let token = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&token).status, 200);
    gateway.advance(299);
    assert_eq!(gateway.call(&token).status, 200);
    gateway.advance(1);
    assert_eq!(gateway.call(&token).status, 401);
}

#[test]
fn rule_54_a_token_accepted_on_one_route_is_judged_anew_on_another() {
    let mut gateway = bearer_only();
    let token = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&token).status, 200);
    let config = json!({ "auth_methods": ["bearer"], "scopes_required": ["admin"] });
    gateway.filter = super::gateway::compile(&config, 8);
    assert_eq!(gateway.call(&token).status, 403);
}

#[test]
fn case_63_and_5_1_a_bearer_token_starts_a_session_unless_that_is_disabled() {
    for (disabled, sets) in [(json!(null), true), (json!(["bearer"]), false)] {
        let mut gateway = Gateway::new(json!({ "disable_session": disabled }));
        let token = gateway.provider.access_token(&[]);
        let mut browser = Browser::default();
        let reply = browser.get_with(
            &mut gateway,
            "/api",
            "authorization",
            &format!("Bearer {token}"),
        );
        assert_eq!((reply.status, reply.sets_session()), (200, sets));
        if sets {
            let again = browser.get(&mut gateway, "/api");
            assert_eq!(again.status, 200);
            assert_eq!(again.identity.credential, reply.identity.credential);
        }
    }
}

#[test]
fn a_fresh_bearer_token_outlives_an_expired_session() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let old = gateway.provider.access_token(&[]);
    browser.get_with(
        &mut gateway,
        "/api",
        "authorization",
        &format!("Bearer {old}"),
    );
    gateway.advance(300);
    let new = gateway.provider.access_token(&[]);
    let reply = browser.get_with(
        &mut gateway,
        "/api",
        "authorization",
        &format!("Bearer {new}"),
    );
    assert_eq!(reply.status, 200);
}

#[test]
fn case_40_a_refresh_token_is_traded_unless_an_access_token_comes_along() {
    let config = json!({
        "auth_methods": ["bearer", "refresh_token"], "refresh_token_param_name": "refresh_token",
    });
    let mut gateway = Gateway::new(json!({}));
    Browser::default().sign_in(&mut gateway, "/api");
    gateway.filter = super::gateway::compile(&config, 8);
    let mut browser = Browser::default();
    let expired = gateway
        .provider
        .access_token(&[("exp", json!(START.as_secs() - 1))]);
    let mut request = Request::get("/api");
    request.headers.push((
        HeaderName::from_static("refresh-token"),
        HeaderValue::from_static("refresh-1"),
    ));
    request.headers.push((
        AUTHORIZATION,
        HeaderValue::from_str(&format!("Bearer {expired}")).unwrap(),
    ));
    assert_eq!(browser.send(&mut gateway, request).status, 401);
    let reply = browser.get_with(&mut gateway, "/api", "refresh-token", "refresh-1");
    assert_eq!(reply.status, 200);
    assert!(
        reply
            .seen("authorization")
            .unwrap()
            .starts_with("Bearer ey")
    );
    let reply = browser.get_with(&mut gateway, "/api", "refresh-token", "guessed");
    assert_eq!(reply.status, 401);
}

#[test]
fn what_a_refresh_token_was_traded_for_serves_while_it_lives() {
    let check = |more: Value, seconds: u64, status: u16| {
        let mut config = json!({
            "auth_methods": ["refresh_token"], "refresh_token_param_name": "refresh_token",
        });
        let more = more.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(more.clone());
        let mut gateway = Gateway::new(json!({}));
        Browser::default().sign_in(&mut gateway, "/api");
        gateway.filter = super::gateway::compile(&config, 8);
        for (wait, expected) in [(0, 200), (seconds, status)] {
            gateway.advance(wait);
            let mut browser = Browser::default();
            let reply = browser.get_with(&mut gateway, "/api", "refresh-token", "refresh-1");
            assert_eq!(reply.status, expected, "{more:?} {seconds}");
        }
    };
    // The provider takes each refresh token once.
    check(json!({}), 299, 200);
    check(json!({}), 300, 401);
    check(json!({ "leeway": 60 }), 239, 200);
    check(json!({ "leeway": 60 }), 240, 401);
    check(json!({ "cache_ttl_max": 100 }), 100, 401);
    check(json!({ "cache_tokens": false }), 29, 200);
    check(json!({ "cache_tokens": false }), 30, 401);
}

#[test]
fn what_a_refresh_token_was_traded_for_is_for_the_same_rules_and_request_only() {
    let check = |salt: Value, id: u128, uri: &str, status: u16| {
        let config = json!({
            "auth_methods": ["refresh_token"], "refresh_token_param_name": "refresh_token",
            "cache_tokens_salt": salt, "token_post_args_client": ["resource"],
        });
        let mut gateway = Gateway::new(json!({}));
        Browser::default().sign_in(&mut gateway, "/api");
        for (id, uri, expected) in [(8, "/api?resource=a", 200), (id, uri, status)] {
            gateway.filter = super::gateway::compile(&config, id);
            let mut browser = Browser::default();
            let reply = browser.get_with(&mut gateway, uri, "refresh-token", "refresh-1");
            assert_eq!(reply.status, expected, "{salt} {id} {uri}");
        }
    };
    // The provider takes each refresh token once.
    check(json!(null), 8, "/api?resource=a", 200);
    check(json!(null), 8, "/api?resource=b", 401);
    check(json!(null), 9, "/api?resource=a", 401);
    check(json!("shared"), 9, "/api?resource=a", 200);
}

#[test]
fn rule_44_a_token_in_header_and_query_is_a_bad_request() {
    let check = |config: Value, status: u16| {
        let mut gateway = Gateway::new(config);
        let token = gateway.provider.access_token(&[]);
        let mut request = Request::get(&format!("/api?access_token={token}"));
        let value = format!("Bearer {token}").parse().unwrap();
        request.headers.push((AUTHORIZATION, value));
        assert_eq!(gateway.send(request).status, status);
    };
    check(json!({ "auth_methods": ["bearer"] }), 400);
    // Where the query is not looked at, its arguments are somebody else's.
    let header = json!({ "auth_methods": ["bearer"], "bearer_token_param_type": ["header"] });
    check(header, 200);
}

#[test]
fn of_a_cookie_and_another_place_the_first_counts() {
    for (place, uri, header) in [
        ("header", "/api", Some("authorization")),
        ("header", "/api", Some("x-access-token")),
        ("query", "/api?access_token=", None),
    ] {
        for cookie_is_first in [true, false] {
            let mut places = ["cookie", place];
            if !cookie_is_first {
                places.reverse();
            }
            let mut gateway = Gateway::new(json!({
                "auth_methods": ["bearer"], "bearer_token_cookie_name": "tok",
                "bearer_token_param_type": places,
            }));
            let [held, beside] =
                ["held", "beside"].map(|name| gateway.provider.access_token(&[("n", json!(name))]));
            let cookie = format!("tok={held}");
            let token = format!("Bearer {beside}");
            let mut headers = vec![("cookie", &*cookie)];
            headers.extend(header.map(|name| (name, &*token)));
            let uri = if header.is_some() {
                uri.to_owned()
            } else {
                format!("{uri}{beside}")
            };
            let reply = gateway.send(request(&uri, &headers));
            assert_eq!(reply.status, 200, "{places:?}");
            let expected = if cookie_is_first { &held } else { &beside };
            let expected = format!("Bearer {expected}");
            assert_eq!(reply.seen("authorization"), Some(&*expected), "{places:?}");
        }
    }
}
