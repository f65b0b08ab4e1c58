//! What forged, hidden and half-known credentials come to.

use http::{HeaderValue, Method};
use serde_json::{Value, json};

use super::gateway::{Browser, Gateway};
use super::provider::{ISSUER, SigningKey};
use crate::testing::{Request, consumer};

/// A gateway with `config` and the consumer `guest` for those whom nobody knows.
fn with_guest(mut config: Value) -> Gateway {
    let guest = consumer("guest", None);
    config["anonymous"] = json!(guest.id.to_string());
    let mut gateway = Gateway::new(config);
    gateway.add_consumer(&guest);
    gateway
}

#[test]
fn rule_92_nobody_passes_as_anonymous_with_a_forged_token() {
    for (loose, status) in [(false, 401), (true, 200)] {
        let mut gateway = with_guest(json!({
            "auth_methods": ["bearer"], "anonymous_for_forged_tokens": loose,
        }));
        let claims = json!({ "iss": ISSUER, "sub": "user-1", "scope": "openid" });
        let forged = SigningKey::es256("one").sign(&claims);
        let of_nobody = SigningKey::es256("other").sign(&claims);
        let foreign = gateway
            .provider
            .access_token(&[("iss", json!("https://evil.example"))]);
        for token in [forged, of_nobody, foreign] {
            assert_eq!(gateway.call(&token).status, status, "{loose}");
        }
        // Who brings nothing, or what was good once, is nobody in particular.
        let expired = gateway
            .provider
            .access_token(&[("exp", json!(1_700_000_000))]);
        for reply in [gateway.call(&expired), gateway.send(Request::get("/api"))] {
            assert_eq!(reply.status, 200);
            assert_eq!(
                reply.identity.consumer.unwrap().username.as_deref(),
                Some("guest")
            );
        }
    }
}

#[test]
fn a_hidden_credential_leaves_the_body() {
    let check = |hides: bool, kind: &'static str, body: &'static str, expected: Option<&str>| {
        let mut gateway = Gateway::new(json!({
            "auth_methods": ["password"], "hide_credentials": hides,
        }));
        let mut request = Request::get("/api");
        request.method = Method::POST;
        request
            .headers
            .push((http::header::CONTENT_TYPE, HeaderValue::from_static(kind)));
        request.body = bytes::Bytes::from_static(body.as_bytes());
        let reply = gateway.send(request);
        assert_eq!(reply.status, 200, "{body}");
        let sent = reply
            .sent
            .map(|body| String::from_utf8(body.into()).unwrap());
        assert_eq!(sent.as_deref(), expected);
    };
    let form = "application/x-www-form-urlencoded";
    let fields = "a=1&username=john&password=p%3Ass&b=2";
    check(true, form, fields, Some("a=1&b=2"));
    check(false, form, fields, None);
    let object = r#"{"a":1,"username":"john","password":"p:ss","b":[2]}"#;
    check(true, "application/json", object, Some(r#"{"a":1,"b":[2]}"#));
    check(false, "application/json", object, None);
}

#[test]
fn a_token_inside_an_introspection_answer_counts_if_the_provider_signed_it() {
    for (forged, status) in [(false, 200), (true, 401)] {
        let mut gateway = Gateway::new(json!({
            "auth_methods": ["introspection"], "scopes_required": ["deep"],
            "upstream_introspection_jwt_header": "x-jwt", "upstream_headers_claims": ["tenant", "sub"],
            "upstream_headers_names": ["x-tenant", "x-sub"],
        }));
        let claims = json!({ "iss": ISSUER, "sub": "inner", "scope": "deep", "tenant": "t7" });
        let key = if forged {
            SigningKey::es256("one")
        } else {
            gateway.provider.keys.borrow()[0].clone()
        };
        let jwt = key.sign(&claims);
        let answer = json!({ "active": true, "sub": "outer", "jwt": jwt });
        gateway.provider.script.borrow_mut().introspection = Some((200, answer));
        let reply = gateway.call("opaque");
        assert_eq!(reply.status, status);
        if status == 200 {
            assert_eq!(reply.seen("x-jwt"), Some(jwt.as_str()));
            assert_eq!(reply.seen("x-tenant"), Some("t7"));
            assert_eq!(
                reply.seen("x-sub"),
                Some("outer"),
                "the answer itself counts first"
            );
        }
    }
    // A text of that name is no token.
    let mut gateway = Gateway::new(json!({ "auth_methods": ["introspection"] }));
    let answer = json!({ "active": true, "jwt": "yes" });
    gateway.provider.script.borrow_mut().introspection = Some((200, answer));
    assert_eq!(gateway.call("opaque").status, 200);
}

#[test]
fn keys_on_ed448_are_refused_by_name() {
    let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"], "display_errors": true }));
    let mut key = SigningKey::es256("one");
    key.jwk = json!({ "kty": "OKP", "crv": "Ed448", "kid": "one", "x": "AAAA" });
    *gateway.provider.keys.borrow_mut() = vec![key];
    // {"alg":"EdDSA","kid":"one"} with the claims {"sub":"x"}
    let reply = gateway.call("eyJhbGciOiJFZERTQSIsImtpZCI6Im9uZSJ9.eyJzdWIiOiJ4In0.AAAA");
    assert_eq!(reply.status, 401);
    let message = reply.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("Ed448"), "{message}");
    let config = json!({
        "issuer": ISSUER, "client_auth": ["private_key_jwt"], "client_id": ["client"],
        "client_jwk": [{ "kty": "OKP", "crv": "Ed448", "x": "AAAA", "d": "AAAA" }],
    });
    let refused = crate::registry::check("openid-connect", &config).unwrap_err();
    assert!(
        format!("{refused:?}").contains("Ed448 is not supported"),
        "{refused:?}"
    );
}

#[test]
fn a_provider_that_answers_nonsense_is_not_said_to_be_silent() {
    let mut gateway = Gateway::new(json!({ "display_errors": true }));
    gateway.provider.script.borrow_mut().discovery_text = Some(b"<html>".to_vec());
    // The second answer comes while the provider is left alone.
    for _ in 0..2 {
        let reply = Browser::default().get(&mut gateway, "/api");
        let message = reply.json()["message"].as_str().unwrap().to_owned();
        assert_eq!(reply.status, 503);
        assert!(
            message.contains("an answer that cannot be used"),
            "{message}"
        );
    }
    assert_eq!(
        gateway.provider.called("/.well-known/openid-configuration"),
        1
    );
}

#[test]
fn keys_that_cannot_be_had_end_no_session() {
    let mut gateway = Gateway::new(json!({ "reverify": true }));
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    // The document is fetched anew and knows the session's key no more; then it cannot be fetched at all.
    *gateway.provider.keys.borrow_mut() = vec![SigningKey::es256("two")];
    let strange = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&strange).status, 200);
    gateway.provider.script.borrow_mut().down = true;
    gateway.advance(60);
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.ends_session()), (503, false));
}

#[test]
fn rule_103_tokens_of_a_session_that_the_provider_ended_are_revoked_when_it_is_shown() {
    let revoked = |config: Value, by: &[&str]| {
        let mut gateway = Gateway::new(config);
        gateway.provider.script.borrow_mut().id_claims = vec![("sid", json!("s1"))];
        let mut browser = Browser::default();
        browser.sign_in(&mut gateway, "/api");
        gateway.advance(1);
        let stale = browser.clone();
        if by.contains(&"frame") {
            let frame = format!("/frontchannel?iss={ISSUER}&sid=s1");
            assert_eq!(Browser::default().get(&mut gateway, &frame).status, 200);
        }
        if by.contains(&"provider") {
            let claims = json!({
                "iss": ISSUER, "aud": "client", "iat": gateway.provider.now(), "jti": "j1",
                "sid": "s1",
                "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
            });
            let token = gateway.provider.keys.borrow()[0].sign(&claims);
            let form = format!("logout_token={token}");
            let reply = Browser::default().post(&mut gateway, "/backchannel", &form);
            assert_eq!(reply.status, 200);
        }
        if by.contains(&"browser") {
            browser.post(&mut gateway, "/logout", "");
        }
        let before = gateway.provider.called("/revoke");
        for _ in 0..3 {
            assert_eq!(stale.clone().get(&mut gateway, "/api").status, 302);
        }
        gateway.provider.called("/revoke") - before
    };
    let config = |revokes: bool| {
        json!({
            "backchannel_logout_uri_suffix": "/backchannel", "logout_uri_suffix": "/logout",
            "frontchannel_logout_uri_suffix": "/frontchannel", "logout_revoke": revokes,
        })
    };
    assert_eq!(
        revoked(config(true), &["provider"]),
        2,
        "the refresh and the access token, once"
    );
    assert_eq!(revoked(config(false), &["provider"]), 0);
    assert_eq!(
        revoked(config(true), &["browser"]),
        0,
        "the logout itself has done it"
    );
    // Anybody may have asked for the frame; that the provider asks, too, is as good as ever.
    assert_eq!(revoked(config(true), &["frame"]), 0);
    assert_eq!(revoked(config(true), &["frame", "provider"]), 2);
}

#[test]
fn rule_102_a_subject_is_known_by_introspection_as_well() {
    let mut gateway = Gateway::new(json!({
        "auth_methods": ["session", "introspection"],
        "backchannel_logout_uri_suffix": "/backchannel",
    }));
    let reply = gateway.call("opaque");
    let cookie = reply.set_cookies()[0].split(';').next().unwrap().to_owned();
    let mut browser = Browser::default();
    let (name, value) = cookie.split_once('=').unwrap();
    browser.cookies.insert(name.to_owned(), value.to_owned());
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    let claims = json!({
        "iss": ISSUER, "aud": "client", "iat": gateway.provider.now(), "jti": "j1", "sub": "user-1",
        "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
    });
    let token = gateway.provider.keys.borrow()[0].sign(&claims);
    let form = format!("logout_token={token}");
    assert_eq!(
        Browser::default()
            .post(&mut gateway, "/backchannel", &form)
            .status,
        200
    );
    assert_eq!(browser.get(&mut gateway, "/api").status, 401);
}
