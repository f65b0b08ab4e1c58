//! Tokens that the provider is asked about.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::gateway::{Browser, Gateway};
use super::provider::{ISSUER, SigningKey};
use crate::testing::Request;

fn gateway(more: Value) -> Gateway {
    let mut config = json!({ "auth_methods": ["introspection"] });
    if let Value::Object(more) = more {
        config.as_object_mut().unwrap().extend(more);
    }
    Gateway::new(config)
}

fn answers(gateway: &Gateway, status: u16, answer: Value) {
    gateway.provider.script.borrow_mut().introspection = Some((status, answer));
}

#[test]
fn case_37_an_opaque_token_is_asked_about_once() {
    let mut gateway = gateway(json!({}));
    for _ in 0..3 {
        assert_eq!(gateway.call("opaque-1").status, 200);
    }
    assert_eq!(gateway.provider.called("/introspect"), 1);
    let forms = gateway.provider.forms.borrow();
    let form = &forms[0].1;
    assert_eq!(form["token"], "opaque-1");
    assert_eq!(form["token_type_hint"], "access_token");
}

#[test]
fn case_37_an_inactive_token_is_refused_each_time() {
    let mut gateway = gateway(json!({}));
    for _ in 0..2 {
        let reply = gateway.call("unknown");
        assert_eq!(reply.status, 401);
        assert!(reply.challenge().contains("invalid_token"));
    }
    assert_eq!(gateway.provider.called("/introspect"), 2);
}

#[test]
fn rule_43_only_a_true_active_counts() {
    let check = |config: Value, answer: Value, status: u16| {
        let mut gateway = gateway(config);
        answers(&gateway, 200, answer.clone());
        assert_eq!(gateway.call("opaque").status, status, "{answer}");
    };
    check(json!({}), json!({ "active": true }), 200);
    check(json!({}), json!({ "active": "true" }), 401);
    check(json!({}), json!({ "active": 1 }), 401);
    check(json!({}), json!({}), 401);
    check(
        json!({ "introspection_check_active": false }),
        json!({ "sub": "x" }),
        200,
    );
    check(json!({}), json!([]), 503);
    check(
        json!({}),
        json!({ "active": true, "iss": "https://evil.example" }),
        401,
    );
    check(json!({}), json!({ "active": true, "exp": 1 }), 401);
    check(json!({}), json!({ "active": true, "exp": "soon" }), 401);
    check(
        json!({}),
        json!({ "active": true, "nbf": 4_000_000_000_u64 }),
        401,
    );
}

#[test]
fn an_endpoint_that_fails_lets_nobody_in() {
    for (status, expected) in [(500, 503), (302, 503), (401, 502), (400, 401)] {
        let mut gateway = gateway(json!({}));
        answers(&gateway, status, json!({ "active": true }));
        assert_eq!(gateway.call("opaque").status, expected, "{status}");
    }
    let mut gateway = gateway(json!({}));
    gateway.provider.script.borrow_mut().discovery = vec![("introspection_endpoint", json!(null))];
    assert_eq!(gateway.call("opaque").status, 401);
}

#[test]
fn rule_43_an_issuer_that_is_not_the_provider_is_none_whatever_its_type() {
    for (issuer, expected) in [
        (json!(ISSUER), 200),
        (json!(null), 200),
        (json!("https://evil.example"), 401),
        (json!(1), 401),
        (json!(true), 401),
        (json!([ISSUER]), 401),
        (json!({ "a": ISSUER }), 401),
    ] {
        let mut gateway = gateway(json!({}));
        answers(&gateway, 200, json!({ "active": true, "iss": issuer }));
        assert_eq!(gateway.call("opaque").status, expected, "{issuer}");
    }
}

#[test]
fn an_answer_ends_with_its_token_and_with_the_bounds_of_the_cache() {
    let check = |config: Value, seconds: u64, calls: usize| {
        let mut gateway = gateway(config.clone());
        assert_eq!(gateway.call("opaque").status, 200);
        gateway.advance(seconds);
        assert_eq!(gateway.call("opaque").status, 200);
        let called = gateway.provider.called("/introspect");
        assert_eq!(called, calls, "{config} {seconds}");
    };
    check(json!({}), 299, 1);
    check(json!({}), 300, 2);
    check(json!({ "cache_ttl_max": 10 }), 10, 2);
    check(json!({ "cache_introspection": false }), 0, 2);
    // However long answers are to be kept, none outlives what it says.
    check(json!({ "cache_ttl_min": 3000 }), 299, 1);
    check(json!({ "cache_ttl_min": 3000 }), 300, 2);
}

#[test]
fn case_38_a_revoked_jwt_is_noticed() {
    for methods in [json!(["bearer", "introspection"]), json!(["bearer"])] {
        let config = json!({
            "auth_methods": methods, "introspect_jwt_tokens": true, "cache_introspection": false,
        });
        let mut gateway = Gateway::new(config);
        let token = gateway.provider.access_token(&[]);
        assert_eq!(gateway.call(&token).status, 200);
        answers(&gateway, 200, json!({ "active": false }));
        assert_eq!(gateway.call(&token).status, 401, "{methods}");
        // The signature counts as well.
        gateway.provider.script.borrow_mut().introspection = None;
        gateway.provider.script.borrow_mut().signs_with = Some(SigningKey::es256("one"));
        let forged = gateway.provider.access_token(&[]);
        let asked = gateway.provider.called("/introspect");
        assert_eq!(gateway.call(&forged).status, 401);
        assert_eq!(gateway.provider.called("/introspect"), asked);
    }
}

#[test]
fn rule_48_what_says_that_it_is_no_access_token_is_not_asked_about() {
    let check = |more: Value, claims: &[(&'static str, Value)], status: u16| {
        for method in ["introspection", "userinfo"] {
            let mut config = json!({ "auth_methods": [method] });
            let all = config.as_object_mut().unwrap();
            all.extend(more.as_object().unwrap().clone());
            let mut gateway = Gateway::new(config);
            let token = gateway.provider.access_token(claims);
            assert_eq!(gateway.call(&token).status, status, "{method} {claims:?}");
            let asked = ["/introspect", "/userinfo"].map(|path| gateway.provider.called(path));
            assert_eq!(asked.iter().sum::<usize>(), usize::from(status == 200));
        }
    };
    check(json!({}), &[], 200);
    check(json!({}), &[("token_use", json!("id"))], 401);
    check(json!({}), &[("at_hash", json!("hash"))], 401);
    check(json!({ "require_at_jwt": true }), &[], 401);
}

#[test]
fn a_jwt_is_verified_here_if_it_can_be_and_asked_about_otherwise() {
    let check = |methods: Value, calls: usize| {
        let mut gateway = Gateway::new(json!({ "auth_methods": methods }));
        let token = gateway.provider.access_token(&[]);
        assert_eq!(gateway.call(&token).status, 200, "{methods}");
        assert_eq!(gateway.call("opaque").status, 200, "{methods}");
        assert_eq!(gateway.provider.called("/introspect"), calls, "{methods}");
    };
    check(json!(["bearer", "introspection"]), 1);
    check(json!(["introspection"]), 2);
}

#[test]
fn the_answer_decides_and_names_the_user() {
    let mut scoped = gateway(json!({ "scopes_required": ["email"] }));
    assert_eq!(scoped.call("opaque").status, 200);
    let mut admin = gateway(json!({ "scopes_required": ["admin"] }));
    assert_eq!(admin.call("opaque").status, 403);
    let config = json!({
        "upstream_introspection_header": "x_introspection",
        "upstream_headers_claims": ["username"], "upstream_headers_names": ["x_user"],
        "authenticated_groups_claim": ["scope"],
    });
    let mut gateway = gateway(config);
    let reply = gateway.call("opaque");
    assert_eq!(reply.identity.credential.as_deref(), Some("user-1"));
    assert_eq!(reply.seen("x-authenticated-groups"), Some("openid, email"));
    assert_eq!(reply.seen("x-user"), Some("john"));
    let told = STANDARD.decode(reply.seen("x-introspection").unwrap());
    let told: Value = serde_json::from_slice(&told.unwrap()).unwrap();
    assert_eq!(told["sub"], "user-1");
}

#[test]
fn an_unverified_jwt_says_nothing_beside_the_answer() {
    let config =
        json!({ "upstream_headers_claims": ["tenant"], "upstream_headers_names": ["x_tenant"] });
    let mut gateway = gateway(config);
    let token = gateway
        .provider
        .access_token(&[("tenant", json!("forged"))]);
    assert_eq!(gateway.call(&token).seen("x-tenant"), None);
}

#[test]
fn a_session_remembers_what_the_provider_said() {
    let config = json!({
        "auth_methods": ["session", "introspection"], "scopes_required": ["email"],
        "upstream_headers_claims": ["username"], "upstream_headers_names": ["x_user"],
    });
    let mut gateway = Gateway::new(config);
    let mut browser = Browser::default();
    let reply = browser.get_with(&mut gateway, "/api", "authorization", "Bearer opaque");
    assert!(reply.sets_session());
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.seen("x-user")), (200, Some("john")));
    assert_eq!(gateway.provider.called("/introspect"), 1);
    gateway.advance(301);
    assert_eq!(browser.get(&mut gateway, "/api").status, 401);
}

#[test]
fn what_a_question_says_by_name_is_said_once() {
    let mut gateway = gateway(json!({
        "introspection_token_param_name": "subject",
        "introspection_post_args_names": ["token_type_hint", "subject", "x", "x"],
        "introspection_post_args_values": ["refresh_token", "other", "1", "2"],
    }));
    answers(&gateway, 200, json!({ "active": true }));
    assert_eq!(gateway.call("opaque").status, 200);
    let asked = gateway.provider.last("/introspect");
    let mut form: Vec<_> = form_urlencoded::parse(asked.body()).into_owned().collect();
    form.retain(|(name, _)| !name.starts_with("client_"));
    let said = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let expected = [
        said("subject", "opaque"),
        said("token_type_hint", "refresh_token"),
        said("x", "1"),
        said("x", "2"),
    ];
    assert_eq!(form, expected);
}

#[test]
fn a_question_carries_what_the_configuration_adds() {
    let config = json!({
        "introspection_token_param_name": "subject", "introspection_hint": "opaque_token",
        "introspection_post_args_names": ["fixed"], "introspection_post_args_values": ["1"],
        "introspection_post_args_client": ["tenant"],
        "introspection_post_args_client_headers": ["x-region"],
        "introspection_headers_names": ["authorization"],
        "introspection_headers_values": ["Bearer own"],
        "client_auth": ["client_secret_post"],
    });
    let mut gateway = gateway(config);
    answers(&gateway, 200, json!({ "active": true }));
    let mut request = Request::get("/api?tenant=a&other=b");
    for (name, value) in [("authorization", "Bearer opaque"), ("x-region", "eu")] {
        let name = http::HeaderName::from_static(name);
        request.headers.push((name, value.parse().unwrap()));
    }
    assert_eq!(gateway.send(request).status, 200);
    let forms = gateway.provider.forms.borrow();
    let form = &forms.last().unwrap().1;
    let is = |name: &str, value: &str| assert_eq!(form[name], value, "{name}");
    is("subject", "opaque");
    is("token_type_hint", "opaque_token");
    is("fixed", "1");
    is("tenant", "a");
    is("x-region", "eu");
    is("client_id", "client");
    assert!(!form.contains_key("other") && !form.contains_key("token"));
}

#[test]
fn each_endpoint_has_the_client_prove_itself_as_it_says() {
    let mut gateway = gateway(json!({}));
    gateway.provider.script.borrow_mut().discovery = vec![
        (
            "token_endpoint_auth_methods_supported",
            json!(["client_secret_basic"]),
        ),
        (
            "introspection_endpoint_auth_methods_supported",
            json!(["client_secret_post"]),
        ),
    ];
    assert_eq!(gateway.call("opaque").status, 200);
    let asked = gateway.provider.last("/introspect");
    assert!(!asked.headers().contains_key("authorization"));
    let forms = gateway.provider.forms.borrow();
    assert_eq!(forms[0].1["client_secret"], "secret");
}

#[test]
fn who_asks_by_a_header_of_its_own_needs_no_client() {
    let mut gateway = gateway(json!({
        "client_id": null, "client_secret": null, "introspection_headers_names": ["Authorization"],
        "introspection_headers_values": ["Bearer own"], "introspection_headers_client": ["X_Tenant"],
        "introspection_post_args_client_headers": ["x_tenant"],
    }));
    let mut request = Request::get("/api");
    for (name, value) in [("authorization", "Bearer opaque"), ("x-tenant", "t1")] {
        let value = http::HeaderValue::from_static(value);
        request
            .headers
            .push((http::HeaderName::from_static(name), value));
    }
    assert_eq!(gateway.send(request).status, 200);
    let asked = gateway.provider.last("/introspect");
    assert_eq!(asked.headers()["authorization"], "Bearer own");
    assert_eq!(asked.headers()["x_tenant"], "t1");
    let forms = gateway.provider.forms.borrow();
    let form = &forms[0].1;
    assert_eq!(
        (form.get("client_id"), form["x_tenant"].as_str()),
        (None, "t1")
    );
}
