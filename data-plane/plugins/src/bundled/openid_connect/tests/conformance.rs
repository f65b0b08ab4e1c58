//! The tests of the OpenID Foundation for relying parties, by their names (`oidcc-client-test-*`): what is
//! refused begins no session and says why.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::authorization::client_key;
use super::gateway::{Browser, Gateway};
use super::provider::{ISSUER, SigningKey};
use crate::bundled::openid_connect::explain::Explanations;
use crate::host::Host;

/// What an explanation says of the last request that was refused.
pub(super) fn reason(gateway: &Gateway) -> String {
    let explanations = gateway.host.node_state::<Explanations>();
    let id = "0123456789abcdef0123456789abcdef";
    let told = explanations.find(id, gateway.host.now());
    told.map_or_else(String::new, |told| {
        told["reason"].as_str().unwrap().to_owned()
    })
}

/// A sign-in at a provider that was prepared: its status, and why it failed.
pub(super) fn outcome(prepare: impl FnOnce(&mut Gateway)) -> (u16, String) {
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

/// A sign-in with an ID token whose `claim` is `value`, or not there, is refused for `expected`.
fn refused(claim: &'static str, value: Value, expected: &str) {
    let outcome = outcome(|gateway| {
        gateway.provider.script.borrow_mut().id_claims = vec![(claim, value)];
    });
    assert_eq!(outcome, (401, expected.to_owned()));
}

/// A hybrid sign-in, whose front-channel ID token was changed: its status and why it failed.
fn hybrid(claim: &'static str, value: Value) -> (u16, String) {
    let mut gateway = Gateway::new(json!({
        "response_type": ["code id_token"], "response_mode": "form_post",
    }));
    gateway.provider.script.borrow_mut().front_claims = vec![(claim, value)];
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let form = gateway.provider.authorize(start.location());
    let reply = browser.post(&mut gateway, "/api", &form);
    assert_eq!(reply.sets_session(), reply.status == 200);
    if reply.status != 200 {
        assert_eq!(gateway.provider.called("/token"), 0);
    }
    (reply.status, reason(&gateway))
}

/// A token that is signed by nobody, and says so by `alg`.
pub(super) fn unsigned(alg: &str, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(&json!({ "alg": alg })), part(claims))
}

#[test]
fn oidcc_client_test() {
    let mut gateway = Gateway::new(json!({ "scopes": ["openid", "email"] }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    // nonce-unless-code-flow, scope-userinfo-claims: both are sent, always.
    assert!(start.argument("nonce").unwrap().len() >= 22);
    assert_eq!(start.argument("scope").as_deref(), Some("openid email"));
    let query = gateway.provider.authorize(start.location());
    let reply = browser.get(&mut gateway, &format!("/api?{query}"));
    assert_eq!((reply.status, reply.sets_session()), (200, true));
    // discovery-openid-config, discovery-jwks-uri-keys
    for path in ["/.well-known/openid-configuration", "/jwks", "/token"] {
        assert_eq!(gateway.provider.called(path), 1, "{path}");
    }
}

#[test]
fn oidcc_client_test_client_secret_basic() {
    let mut gateway = Gateway::new(json!({
        "client_auth": ["client_secret_basic"], "client_id": ["a b:c"], "client_secret": ["p+&%"],
    }));
    gateway.provider.script.borrow_mut().id_claims = vec![("aud", json!("a b:c"))];
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
    let asked = gateway.provider.last("/token");
    let expected = super::provider::basic("a+b%3Ac:p%2B%26%25");
    assert_eq!(asked.headers()["authorization"], expected);
}

#[test]
fn oidcc_client_test_invalid_iss() {
    refused("iss", json!("https://evil.example"), "idt_iss");
    refused("iss", Value::Null, "idt_iss");
    refused("iss", json!(5), "idt_iss");
    // Which need not be a URL.
    for other in [
        "",
        "idp.example",
        "accounts.google.com",
        "http://[",
        "urn:a:b",
    ] {
        refused("iss", json!(other), "idt_iss");
    }
}

#[test]
fn oidcc_client_test_missing_sub() {
    refused("sub", Value::Null, "idt_sub");
    refused("sub", json!(""), "idt_sub");
    refused("sub", json!("x".repeat(256)), "idt_sub");
    refused("sub", json!(5), "idt_sub");
}

#[test]
fn oidcc_client_test_invalid_aud() {
    refused("aud", json!("another"), "idt_aud");
    refused("aud", json!(["another"]), "idt_aud");
    refused("aud", json!(5), "idt_aud");
    refused("aud", json!(["client", 5]), "idt_aud");
    refused("nonce", json!(5), "idt_nonce");
    for (name, code) in [
        ("exp", "idt_exp"),
        ("iat", "idt_iat"),
        ("nbf", "idt_nbf"),
        ("auth_time", "idt_auth_time"),
    ] {
        refused(name, json!("soon"), code);
    }
}

#[test]
fn oidcc_client_test_missing_aud() {
    refused("aud", Value::Null, "idt_aud");
}

#[test]
fn oidcc_client_test_missing_iat() {
    refused("iat", Value::Null, "idt_iat");
}

#[test]
fn rule_32i_an_id_token_is_made_for_the_sign_in() {
    let now = crate::testing::START.as_secs();
    refused("iat", json!(now - 601), "idt_iat");
    refused("iat", json!(now + 60), "idt_iat");
    let recent = outcome(|gateway| {
        gateway.provider.script.borrow_mut().id_claims = vec![("iat", json!(now - 599))];
    });
    assert_eq!(recent.0, 200);
}

#[test]
fn oidcc_client_test_kid_absent_single_jwks() {
    let accepted = outcome(|gateway| {
        let mut signer = gateway.provider.keys.borrow()[0].clone();
        signer.jwk.as_object_mut().unwrap().remove("kid");
        gateway.provider.script.borrow_mut().signs_with = Some(signer);
    });
    assert_eq!(accepted.0, 200);
}

#[test]
fn oidcc_client_test_kid_absent_multiple_jwks() {
    let accepted = outcome(|gateway| {
        let mut signer = gateway.provider.keys.borrow()[0].clone();
        signer.jwk.as_object_mut().unwrap().remove("kid");
        let other = SigningKey::es256("two");
        gateway.provider.keys.borrow_mut().insert(0, other);
        gateway.provider.script.borrow_mut().signs_with = Some(signer);
    });
    assert_eq!(accepted.0, 200);
}

#[test]
fn oidcc_client_test_idtoken_sig_rs256() {
    let accepted = outcome(|gateway| {
        gateway.provider.keys.borrow_mut()[0] = SigningKey::rs256("one");
    });
    assert_eq!(accepted.0, 200);
}

#[test]
fn oidcc_client_test_idtoken_sig_none() {
    for alg in ["none", "None", "NONE", "nOnE"] {
        let none = outcome(|gateway| {
            let now = gateway.provider.now();
            let claims = json!({
                "iss": ISSUER, "sub": "user-1", "aud": "client", "exp": now + 300, "iat": now,
            });
            let answer = json!({
                "access_token": "opaque", "token_type": "Bearer",
                "id_token": unsigned(alg, &claims),
            });
            gateway.provider.script.borrow_mut().token_answer = Some((200, answer));
        });
        assert_eq!(none, (401, "idt_alg".to_owned()), "{alg}");
    }
}

#[test]
fn oidcc_client_test_invalid_sig_rs256() {
    let forged = outcome(|gateway| {
        gateway.provider.keys.borrow_mut()[0] = SigningKey::rs256("one");
        let signer = SigningKey::rs256("one");
        gateway.provider.script.borrow_mut().signs_with = Some(signer);
    });
    assert_eq!(forged, (401, "idt_sig".to_owned()));
}

#[test]
fn oidcc_client_test_invalid_sig_es256() {
    let forged = outcome(|gateway| {
        let signer = SigningKey::es256("one");
        gateway.provider.script.borrow_mut().signs_with = Some(signer);
    });
    assert_eq!(forged, (401, "idt_sig".to_owned()));
}

#[test]
fn oidcc_client_test_invalid_sig_hs256() {
    // The public key as the secret is the oldest trick.
    for secret in [&b"another"[..], b"secret"] {
        let hs256 = outcome(|gateway| {
            let mut signer = SigningKey::es256("one");
            signer.algorithm = jsonwebtoken::Algorithm::HS256;
            signer.key = jsonwebtoken::EncodingKey::from_secret(secret);
            gateway.provider.script.borrow_mut().signs_with = Some(signer);
        });
        assert_eq!(hs256, (401, "idt_alg".to_owned()));
    }
}

#[test]
fn rule_33_oidcc_client_test_nonce_invalid() {
    refused("nonce", json!("another"), "idt_nonce");
    refused("nonce", Value::Null, "idt_nonce");
}

#[test]
fn oidcc_client_test_invalid_athash() {
    refused("at_hash", json!("AAAAAAAAAAAAAAAAAAAAAA"), "idt_at_hash");
}

#[test]
fn oidcc_client_test_missing_athash() {
    let mut gateway = Gateway::new(json!({
        "response_type": ["code id_token token"], "response_mode": "form_post",
    }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let form = gateway.provider.authorize(start.location());
    let form = format!("{form}&access_token=by-way-of-the-browser");
    let reply = browser.post(&mut gateway, "/api", &form);
    assert_eq!(
        (reply.status, reason(&gateway).as_str()),
        (401, "idt_at_hash")
    );
    assert_eq!(gateway.provider.called("/token"), 0);
}

#[test]
fn oidcc_client_test_invalid_chash() {
    let (status, reason) = hybrid("c_hash", json!("AAAAAAAAAAAAAAAAAAAAAA"));
    assert_eq!((status, reason.as_str()), (401, "idt_c_hash"));
}

#[test]
fn oidcc_client_test_missing_chash() {
    let (status, reason) = hybrid("c_hash", Value::Null);
    assert_eq!((status, reason.as_str()), (401, "idt_c_hash"));
    assert_eq!(hybrid("extra", json!(1)).0, 200);
}

#[test]
fn oidcc_client_test_userinfo_bearer_header() {
    let mut gateway = Gateway::new(json!({ "upstream_user_info_header": "x-user" }));
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
    let asked = gateway.provider.last("/userinfo");
    assert!(
        asked.headers()["authorization"]
            .to_str()
            .unwrap()
            .starts_with("Bearer ey")
    );
    assert!(asked.uri().query().is_none() && asked.body().is_empty());
}

#[test]
fn oidcc_client_test_userinfo_invalid_sub() {
    for answer in [json!({ "sub": "another" }), json!({ "email": "x" })] {
        let mut gateway = Gateway::new(json!({ "search_user_info": true }));
        gateway.provider.script.borrow_mut().user_info = Some((200, answer));
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!((reply.status, reply.sets_session()), (401, false));
        assert_eq!(reason(&gateway), "userinfo_sub");
    }
}

#[test]
fn oidcc_client_test_userinfo_signed() {
    for (forged, status) in [(false, 200), (true, 401)] {
        let mut gateway = Gateway::new(json!({
            "auth_methods": ["userinfo"], "userinfo_accept": "application/jwt",
        }));
        {
            let mut script = gateway.provider.script.borrow_mut();
            script.signed_answers = Some(("application/jwt", None));
            script.signs_with = forged.then(|| SigningKey::es256("one"));
        }
        assert_eq!(gateway.call("opaque").status, status);
    }
}

#[test]
fn oidcc_client_test_discovery_issuer_mismatch() {
    let mut gateway = Gateway::new(json!({}));
    gateway.provider.script.borrow_mut().discovery =
        vec![("issuer", json!("https://evil.example"))];
    let reply = Browser::default().get(&mut gateway, "/api");
    assert_eq!(
        (reply.status, reason(&gateway).as_str()),
        (503, "idp_error")
    );
}

#[test]
fn oidcc_client_test_signing_key_rotation() {
    let mut gateway = Gateway::new(json!({}));
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
    gateway.advance(60);
    let new = SigningKey::es256("new");
    gateway.provider.keys.borrow_mut().insert(0, new);
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
}

#[test]
fn oidcc_client_test_signing_key_rotation_just_before_signing() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let query = gateway.provider.authorize(start.location());
    *gateway.provider.keys.borrow_mut() = vec![SigningKey::rs256("new")];
    let reply = browser.get(&mut gateway, &format!("/api?{query}"));
    assert_eq!(reply.status, 200);
    assert_eq!(gateway.provider.called("/jwks"), 2);
}

#[test]
fn oidcc_client_test_request_uri_signed_rs256() {
    let (private, _) = client_key();
    let mut gateway = Gateway::new(json!({
        "require_signed_request_object": true, "require_pushed_authorization_requests": true,
        "client_jwk": [private],
    }));
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 200);
    assert_eq!(gateway.provider.called("/par"), 1);
}

#[test]
fn oidcc_client_test_form_post_error() {
    let mut gateway = Gateway::new(json!({ "response_mode": "form_post" }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let state = start.argument("state").unwrap();
    let form = format!("error=access_denied&state={state}");
    let reply = browser.post(&mut gateway, "/api", &form);
    assert_eq!((reply.status, reply.sets_session()), (401, false));
    assert_eq!(reason(&gateway), "idp_error");
}

#[test]
fn oidcc_client_test_refresh_token() {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    gateway.advance(350);
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
    let form = gateway.provider.forms.borrow().last().unwrap().1.clone();
    assert_eq!(form["grant_type"], "refresh_token");
}

/// A refresh whose ID token has `claim` as `value` ends the session.
fn refresh_refused(claim: &'static str, value: Value) {
    let mut gateway = Gateway::new(json!({}));
    let mut browser = Browser::default();
    browser.sign_in(&mut gateway, "/api");
    gateway.provider.script.borrow_mut().id_claims = vec![(claim, value)];
    gateway.advance(350);
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.ends_session()), (401, true), "{claim}");
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

#[test]
fn oidcc_client_test_refresh_token_invalid_issuer() {
    refresh_refused("iss", json!("https://evil.example"));
}

#[test]
fn oidcc_client_test_refresh_token_invalid_sub() {
    refresh_refused("sub", json!("user-2"));
}

#[test]
fn rule_40_a_refreshed_id_token_is_for_the_client_and_not_older_than_the_first() {
    refresh_refused("aud", json!("another"));
    refresh_refused("iat", json!(crate::testing::START.as_secs() - 1));
    refresh_refused("nonce", json!("another"));
}

#[test]
fn rule_40_a_refreshed_id_token_is_of_the_same_authentication() {
    let began = crate::testing::START.as_secs();
    for (time, status) in [
        (json!(began), 200),
        (Value::Null, 200),
        (json!(began + 1), 401),
        (json!(began - 1), 401),
    ] {
        let mut gateway = Gateway::new(json!({}));
        let claims = |time: &Value| vec![("auth_time", time.clone())];
        gateway.provider.script.borrow_mut().id_claims = claims(&json!(began));
        let mut browser = Browser::default();
        browser.sign_in(&mut gateway, "/api");
        gateway.provider.script.borrow_mut().id_claims = claims(&time);
        gateway.advance(350);
        let reply = browser.get(&mut gateway, "/api");
        let outcome = (reply.status, reply.ends_session());
        assert_eq!(outcome, (status, status == 401), "{time}");
    }
}
