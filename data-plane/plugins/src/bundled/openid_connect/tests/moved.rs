//! Endpoints that the provider moves: requests follow them, and nobody makes that a matter of others.

use serde_json::{Value, json};

use super::conformance::reason;
use super::gateway::{Browser, Gateway};
use super::provider::{ISSUER, SigningKey};

const DISCOVERY: &str = "/.well-known/openid-configuration";

/// Moves the endpoint that discovery calls `name` from `path`, where `status` is answered from now on.
fn move_away(gateway: &Gateway, name: &'static str, path: &'static str, status: u16) {
    let mut script = gateway.provider.script.borrow_mut();
    script
        .discovery
        .push((name, json!(format!("{ISSUER}/v2{path}"))));
    script.gone.push((path, status));
}

fn introspecting(config: Value) -> Gateway {
    let mut all = json!({ "auth_methods": ["introspection"], "cache_introspection": false });
    let Value::Object(config) = config else {
        panic!("{config}")
    };
    all.as_object_mut().unwrap().extend(config);
    Gateway::new(all)
}

#[test]
fn a_code_goes_to_the_token_endpoint_of_now_if_nobody_has_taken_it() {
    for (status, expected) in [
        (404, 200),
        (405, 200),
        (410, 200),
        (0, 200),
        (302, 503),
        (500, 503),
    ] {
        let mut gateway = Gateway::new(json!({}));
        let mut browser = Browser::default();
        let start = browser.get(&mut gateway, "/api");
        let back = format!("/api?{}", gateway.provider.authorize(start.location()));
        move_away(&gateway, "token_endpoint", "/token", status);
        let reply = browser.get(&mut gateway, &back);
        assert_eq!(reply.status, expected, "{status}");
        let taken = usize::from(expected == 200);
        assert_eq!(gateway.provider.called("/v2/token"), taken, "{status}");
        assert_eq!(gateway.provider.called("/token"), 1, "{status}");
        // What says nothing of a move asks for no discovery; what does, for one, and a reload goes where it led.
        let moved = usize::from(status != 500);
        assert_eq!(gateway.provider.called(DISCOVERY), 1 + moved, "{status}");
        if status == 302 {
            assert_eq!(browser.get(&mut gateway, &back).status, 200);
        }
    }
}

#[test]
fn a_code_that_no_endpoint_has_taken_is_not_spent() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let back = format!("/api?{}", gateway.provider.authorize(start.location()));
    gateway.provider.script.borrow_mut().gone = vec![("/token", 404)];
    assert_eq!(browser.get(&mut gateway, &back).status, 503);
    gateway.provider.script.borrow_mut().gone.clear();
    assert_eq!(browser.get(&mut gateway, &back).status, 200);
}

#[test]
fn a_refusal_is_one_whatever_its_status() {
    let mut gateway = Gateway::new(json!({}));
    let refused = (404, json!({ "error": "invalid_grant" }));
    gateway.provider.script.borrow_mut().token_answer = Some(refused);
    let reply = Browser::default().sign_in(&mut gateway, "/api");
    assert_eq!(
        (reply.status, reason(&gateway)),
        (401, "token_http".to_owned())
    );
    assert_eq!(gateway.provider.called(DISCOVERY), 1);
}

#[test]
fn a_session_is_refreshed_where_the_token_endpoint_is_now() {
    let mut gateway = Gateway::new(json!({ "refresh_grace": 0 }));
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    gateway.advance(301);
    move_away(&gateway, "token_endpoint", "/token", 410);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    assert_eq!(gateway.provider.called("/v2/token"), 1);
}

#[test]
fn introspection_and_user_info_are_asked_where_they_are_now() {
    for status in [404, 405, 410, 301, 307, 0] {
        let mut gateway = introspecting(json!({}));
        assert_eq!(gateway.call("opaque").status, 200);
        move_away(&gateway, "introspection_endpoint", "/introspect", status);
        assert_eq!(gateway.call("opaque").status, 200, "{status}");
        assert_eq!(gateway.call("opaque").status, 200, "{status}");
        assert_eq!(gateway.provider.called("/introspect"), 2, "{status}");
        assert_eq!(gateway.provider.called(DISCOVERY), 2, "{status}");

        let mut gateway = Gateway::new(json!({ "auth_methods": ["userinfo"] }));
        assert_eq!(gateway.call("opaque").status, 200);
        move_away(&gateway, "userinfo_endpoint", "/userinfo", status);
        assert_eq!(gateway.call("opaque-2").status, 200, "{status}");
        assert_eq!(gateway.provider.called("/v2/userinfo"), 1, "{status}");
    }
}

#[test]
fn requests_are_pushed_and_tokens_revoked_where_that_is_possible_now() {
    let mut gateway = Gateway::new(json!({
        "require_pushed_authorization_requests": true, "logout_uri_suffix": "/logout",
        "logout_methods": ["GET"], "logout_revoke": true, "revocation_endpoint_auth_method": "client_secret_post",
    }));
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    move_away(
        &gateway,
        "pushed_authorization_request_endpoint",
        "/par",
        404,
    );
    move_away(&gateway, "revocation_endpoint", "/revoke", 404);
    assert_eq!(Browser::default().get(&mut gateway, "/api").status, 302);
    assert_eq!(gateway.provider.called("/v2/par"), 1);
    gateway.advance(30);
    assert!(browser.get(&mut gateway, "/logout").ends_session());
    assert!(gateway.provider.called("/v2/revoke") > 0);
}

#[test]
fn an_endpoint_that_is_nowhere_makes_one_discovery_and_rests_for_nobody() {
    let mut gateway = introspecting(json!({}));
    assert_eq!(gateway.call("opaque").status, 200);
    gateway.provider.script.borrow_mut().gone = vec![("/introspect", 404)];
    for _ in 0..6 {
        assert_eq!(gateway.call("opaque").status, 503);
    }
    assert_eq!(gateway.provider.called(DISCOVERY), 2);
    gateway.advance(29);
    assert_eq!(gateway.call("opaque").status, 503);
    assert_eq!(gateway.provider.called(DISCOVERY), 2);
    gateway.advance(1);
    assert_eq!(gateway.call("opaque").status, 503);
    assert_eq!(gateway.provider.called(DISCOVERY), 3);
    // It was asked each time, and so it is as soon as it is back.
    assert_eq!(gateway.provider.called("/introspect"), 9);
    gateway.provider.script.borrow_mut().gone.clear();
    assert_eq!(gateway.call("opaque").status, 200);
}

#[test]
fn an_endpoint_that_is_configured_is_looked_for_nowhere_else() {
    let own = format!("{ISSUER}/introspect");
    let mut gateway = introspecting(json!({ "introspection_endpoint": own }));
    assert_eq!(gateway.call("opaque").status, 200);
    let before = gateway.provider.called(DISCOVERY);
    move_away(&gateway, "introspection_endpoint", "/introspect", 404);
    assert_eq!(gateway.call("opaque").status, 503);
    assert_eq!(gateway.provider.called(DISCOVERY), before);
    assert_eq!(gateway.provider.called("/v2/introspect"), 0);
}

#[test]
fn rule_79_an_endpoint_that_is_gone_uses_up_no_search_for_a_key() {
    let mut gateway = introspecting(json!({ "auth_methods": ["bearer", "introspection"] }));
    assert_eq!(gateway.call("opaque").status, 200);
    gateway.provider.script.borrow_mut().gone = vec![("/introspect", 404)];
    assert_eq!(gateway.call("opaque").status, 503);
    *gateway.provider.keys.borrow_mut() = vec![SigningKey::es256("two")];
    let token = gateway.provider.access_token(&[]);
    assert_eq!(gateway.call(&token).status, 200);
}
