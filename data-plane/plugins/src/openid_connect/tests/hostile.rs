//! Providers that do not keep to the rules, by the names of the OpenID Foundation's tests for relying
//! parties (`oidcc-client-test-*`): what is refused begins no session and says why.

use serde_json::{Value, json};

use super::gateway::{Browser, Gateway};
use super::provider::{ISSUER, SigningKey};
use crate::host::Host;
use crate::openid_connect::explain::Explanations;

/// What an explanation says of the last request that was refused.
fn reason(gateway: &Gateway) -> String {
    let explanations = gateway.host.node_state::<Explanations>();
    let id = "0123456789abcdef0123456789abcdef";
    let told = explanations.find(id, gateway.host.now());
    told.map_or_else(String::new, |told| {
        told["reason"].as_str().unwrap().to_owned()
    })
}

/// A sign-in at a provider that was prepared: its status, and why it failed.
fn outcome(prepare: impl FnOnce(&mut Gateway)) -> (u16, String) {
    let mut gateway = Gateway::new(json!({}));
    prepare(&mut gateway);
    let mut browser = Browser::default();
    let reply = browser.sign_in(&mut gateway, "/api");
    assert_eq!(reply.sets_session(), reply.status == 200);
    let reason = reason(&gateway);
    if reply.status != 200 {
        assert_eq!(browser.get(&mut gateway, "/api").status, 302);
    }
    (reply.status, reason)
}

#[test]
fn claims_that_are_wrong_or_missing_are_refused() {
    for (test, claim, value, expected) in [
        (
            "invalid-iss",
            "iss",
            json!("https://evil.example"),
            "idt_iss",
        ),
        ("missing-iss", "iss", Value::Null, "idt_iss"),
        ("missing-sub", "sub", Value::Null, "idt_sub"),
        ("empty-sub", "sub", json!(""), "idt_sub"),
        ("invalid-aud", "aud", json!("another"), "idt_aud"),
        ("missing-aud", "aud", Value::Null, "idt_aud"),
        (
            "secondary-aud",
            "aud",
            json!(["client", "another"]),
            "idt_azp",
        ),
        ("invalid-azp", "azp", json!("another"), "idt_azp"),
        ("missing-iat", "iat", Value::Null, "idt_iat"),
        ("missing-exp", "exp", Value::Null, "idt_exp"),
        ("expired-exp", "exp", json!(1_700_000_000), "idt_exp"),
        ("absurd-exp", "exp", json!(1e300), "idt_exp"),
        ("future-nbf", "nbf", json!(1_900_000_000), "idt_nbf"),
        ("nonce-invalid", "nonce", json!("another"), "idt_nonce"),
        ("missing-nonce", "nonce", Value::Null, "idt_nonce"),
        (
            "invalid-athash",
            "at_hash",
            json!("AAAAAAAAAAAAAAAAAAAAAA"),
            "idt_at_hash",
        ),
    ] {
        let outcome = outcome(|gateway| {
            gateway.provider.script.borrow_mut().id_claims = vec![(claim, value)];
        });
        assert_eq!(outcome, (401, expected.to_owned()), "{test}");
    }
    let one = outcome(|gateway| {
        gateway.provider.script.borrow_mut().id_claims = vec![("aud", json!(["client"]))];
    });
    assert_eq!(one.0, 200, "valid-aud-as-array");
}

#[test]
fn signatures_of_nobody_are_refused() {
    let forged = outcome(|gateway| {
        let signer = SigningKey::es256("one");
        gateway.provider.script.borrow_mut().signs_with = Some(signer);
    });
    assert_eq!(forged, (401, "idt_sig".to_owned()), "invalid-sig-es256");
    let forged = outcome(|gateway| {
        gateway.provider.keys.borrow_mut()[0] = SigningKey::rs256("one");
        let signer = SigningKey::rs256("one");
        gateway.provider.script.borrow_mut().signs_with = Some(signer);
    });
    assert_eq!(forged, (401, "idt_sig".to_owned()), "invalid-sig-rs256");
    let hs256 = outcome(|gateway| {
        let mut signer = SigningKey::es256("one");
        signer.algorithm = jsonwebtoken::Algorithm::HS256;
        signer.key = jsonwebtoken::EncodingKey::from_secret(b"another");
        gateway.provider.script.borrow_mut().signs_with = Some(signer);
    });
    assert_eq!(hs256, (401, "idt_alg".to_owned()), "invalid-sig-hs256");
    for alg in ["none", "None", "NONE", "nOnE"] {
        let none = outcome(|gateway| {
            use base64::Engine;
            let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
            let part = |value: Value| engine.encode(value.to_string());
            let now = gateway.provider.now();
            let claims = json!({
                "iss": ISSUER, "sub": "user-1", "aud": "client", "exp": now + 300, "iat": now,
            });
            let token = format!("{}.{}.", part(json!({ "alg": alg })), part(claims));
            let answer = json!({
                "access_token": "opaque", "token_type": "Bearer", "id_token": token,
            });
            gateway.provider.script.borrow_mut().token_answer = Some((200, answer));
        });
        assert_eq!(none, (401, "idt_alg".to_owned()), "idtoken-sig-none: {alg}");
    }
}

#[test]
fn a_token_without_a_key_id_is_tried_with_the_keys_that_fit() {
    for further in [false, true] {
        let accepted = outcome(|gateway| {
            let mut signer = gateway.provider.keys.borrow()[0].clone();
            signer.jwk.as_object_mut().unwrap().remove("kid");
            if further {
                let other = SigningKey::es256("two");
                gateway.provider.keys.borrow_mut().insert(0, other);
            }
            gateway.provider.script.borrow_mut().signs_with = Some(signer);
        });
        assert_eq!(accepted.0, 200, "kid-absent: {further}");
    }
}

#[test]
fn keys_that_change_between_sign_ins_are_found() {
    let mut gateway = Gateway::new(json!({}));
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
    gateway.advance(60);
    *gateway.provider.keys.borrow_mut() = vec![SigningKey::rs256("new")];
    let reply = Browser::default().sign_in(&mut gateway, "/api");
    assert_eq!(
        reply.status, 200,
        "signing-key-rotation-just-before-signing"
    );
}

#[test]
fn refreshed_tokens_of_another_issuer_or_user_end_the_session() {
    for (test, claim, value) in [
        (
            "refresh-token-invalid-issuer",
            "iss",
            json!("https://evil.example"),
        ),
        ("refresh-token-invalid-sub", "sub", json!("user-2")),
        ("refresh-token-invalid-aud", "aud", json!("another")),
    ] {
        let mut gateway = Gateway::new(json!({}));
        let mut browser = Browser::default();
        browser.sign_in(&mut gateway, "/api");
        gateway.provider.script.borrow_mut().id_claims = vec![(claim, value)];
        gateway.advance(350);
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!((reply.status, reply.ends_session()), (401, true), "{test}");
        assert_eq!(browser.get(&mut gateway, "/api").status, 302);
    }
}

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
        let outcome = outcome(|gateway| {
            gateway.provider.script.borrow_mut().token_answer = Some((200, answer.clone()));
        });
        assert_eq!(outcome.0, 503, "{answer}");
    }
    for (status, error, expected) in [
        (400, "invalid_grant", 401),
        (401, "invalid_client", 401),
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
