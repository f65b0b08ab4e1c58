//! Providers that do not keep to the rules beyond what `conformance` asks: documents and answers.

use serde_json::{Value, json};

use super::conformance::{outcome, reason};
use super::gateway::{Browser, Gateway};

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
        // The code is spent (security.md 25, 29).
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
