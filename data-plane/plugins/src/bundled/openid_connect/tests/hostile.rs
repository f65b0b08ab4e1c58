//! Providers that do not keep to the rules beyond what `conformance` asks: documents and answers.

use std::rc::Rc;

use serde_json::{Value, json};

use super::conformance::{outcome, reason};
use super::gateway::{Browser, Gateway, request};
use super::provider::{basic, plain};
use crate::bundled::openid_connect::explain::Explanations;
use crate::host::Host as _;

#[test]
fn a_document_of_another_issuer_is_not_used() {
    for (name, value) in [
        ("issuer", json!("https://evil.example")),
        ("issuer", Value::Null),
        ("token_endpoint", json!("http://evil.example/token")),
        ("jwks_uri", Value::Null),
        ("jwks_uri", json!("file:///etc/passwd")),
    ] {
        let mut gateway = Gateway::new(json!({}));
        gateway.provider.script.borrow_mut().discovery = vec![(name, value.clone())];
        let reply = Browser::default().get(&mut gateway, "/api");
        assert_eq!(reply.status, 503, "{name}: {value}");
        assert_eq!(reason(&gateway), "idp_error");
    }
}

#[test]
fn token_answers_that_are_none_are_refused() {
    let token = json!("opaque");
    for answer in [
        json!([]),
        json!(null),
        json!("token"),
        json!({ "token_type": "Bearer" }),
        json!({ "access_token": token }),
        json!({ "access_token": { "a": 1 }, "token_type": "Bearer" }),
        json!({ "access_token": token, "token_type": "mac" }),
    ] {
        let mut gateway = Gateway::new(json!({}));
        let mut browser = Browser::default();
        gateway.provider.script.borrow_mut().token_answer = Some((200, answer.clone()));
        assert_eq!(
            browser.sign_in(&mut gateway, "/api").status,
            502,
            "{answer}"
        );
        let kind = answer.get("token_type");
        let of_type = answer["access_token"].is_string() && kind != Some(&json!("Bearer"));
        let expected = if of_type { "token_type" } else { "token_shape" };
        assert_eq!(reason(&gateway), expected, "{answer}");
        // The code is spent.
        assert!(browser.cookies.is_empty(), "{answer}");
    }
    for (status, error, expected) in [
        (400, "invalid_grant", 401),
        (401, "invalid_client", 502),
        (500, "server_error", 503),
        (429, "slow_down", 503),
    ] {
        let outcome = outcome(|gateway| {
            let answer = (status, json!({ "error": error }));
            gateway.provider.script.borrow_mut().token_answer = Some(answer);
        });
        assert_eq!(outcome.0, expected, "{status} {error}");
    }
}

/// What refuses a request, by how the token endpoint answers it, and what puts that right.
fn refused(config: Value, (status, error): (u16, &str), pair: Option<&str>) -> (u16, String) {
    let mut gateway = Gateway::new(config);
    let answer = (status, json!({ "error": error }));
    gateway.provider.script.borrow_mut().token_answer = Some(answer);
    let reply = match pair {
        Some(pair) => gateway.send(request("/api", &[("authorization", &basic(pair))])),
        None => Browser::default().sign_in(&mut gateway, "/api"),
    };
    let explanations = gateway.host.node_state::<Explanations>();
    let id = "0123456789abcdef0123456789abcdef";
    let told = explanations.find(id, gateway.host.now()).unwrap();
    assert_eq!(told["status"], reply.status);
    (reply.status, told["fix"].as_str().unwrap().to_owned())
}

#[test]
fn what_the_token_endpoint_refuses_with_is_told_with_what_puts_it_right() {
    for (answer, by_code, by_password, by_client, fix) in [
        ((400, "invalid_grant"), 401, 401, 401, ""),
        ((400, "invalid_request"), 401, 401, 401, "misses something"),
        ((401, "invalid_client"), 502, 502, 401, ""),
        (
            (400, "unauthorized_client"),
            502,
            502,
            401,
            "allow it there",
        ),
        ((400, "unsupported_grant_type"), 502, 502, 401, "offer this"),
        ((400, "invalid_scope"), 401, 401, 401, "each of scopes"),
        ((400, "invalid_target"), 401, 401, 401, "no such resource"),
        (
            (400, "invalid_dpop_proof"),
            502,
            502,
            401,
            "which shows none",
        ),
        ((401, "use_dpop_nonce"), 502, 502, 401, "which shows none"),
        ((400, "temporarily_unavailable"), 503, 503, 503, ""),
        ((400, "server_error"), 503, 503, 503, ""),
        ((400, "canary"), 401, 401, 401, ""),
    ] {
        let methods = |method: &str| json!({ "auth_methods": [method] });
        for (config, pair, expected, usual) in [
            (json!({}), None, by_code, "redirect_uri is registered"),
            (methods("password"), Some("a:b"), by_password, "is locked"),
            (
                methods("client_credentials"),
                Some("a:b"),
                by_client,
                "is locked",
            ),
        ] {
            let (status, told) = refused(config, answer, pair);
            assert_eq!(status, expected, "{answer:?} {pair:?}");
            let fix = match (fix, status) {
                ("", 401) => usual,
                ("", 502) => "compare client_id, client_secret",
                ("", _) => "",
                (fix, _) => fix,
            };
            assert!(told.contains(fix), "{answer:?} {pair:?}: {told}");
        }
    }
}

#[test]
fn what_only_informs_may_be_of_any_type() {
    let outcome = outcome(|gateway| {
        gateway.provider.script.borrow_mut().id_claims = vec![
            ("locale", json!({ "country": "US", "language": "en" })),
            ("amr", json!("pwd")),
            ("acr", json!(1)),
            ("address", json!({ "postal_code": 1234 })),
            ("birthdate", json!(1990)),
            ("name", json!(5)),
            ("email", json!(["a@b.example"])),
            ("email_verified", json!(1)),
            ("picture", json!({})),
            ("updated_at", json!("yesterday")),
        ];
    });
    assert_eq!(outcome.0, 200, "{outcome:?}");
}

#[test]
fn an_endpoint_that_nobody_can_ask_is_not_there() {
    for name in [
        "end_session_endpoint",
        "userinfo_endpoint",
        "introspection_endpoint",
        "revocation_endpoint",
    ] {
        for value in ["", "/relative"] {
            let outcome = outcome(|gateway| {
                gateway.provider.script.borrow_mut().discovery = vec![(name, json!(value))];
            });
            assert_eq!(outcome.0, 200, "{name} {value}");
        }
    }
}

#[test]
fn rule_31_a_pushed_request_with_two_names_has_none() {
    for (answer, status) in [
        (r#"{"request_uri":"urn:a","expires_in":60}"#, 302),
        (r#"{"request_uri":"urn:a","request_uri":"urn:b"}"#, 502),
        (r#"["urn:a"]"#, 502),
    ] {
        let mut gateway = Gateway::new(json!({ "require_pushed_authorization_requests": true }));
        let provider = Rc::clone(&gateway.provider);
        gateway.host.connect(Rc::new(move |request| {
            if request.uri().path() == "/par" {
                return Ok(plain(201, "application/json", answer.to_owned()));
            }
            provider.handle(request)
        }));
        let reply = Browser::default().get(&mut gateway, "/api");
        assert_eq!(reply.status, status, "{answer}");
    }
}
