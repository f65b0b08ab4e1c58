//! The tests of the OpenID Foundation for relying parties of FAPI 1.0 and 2.0, by the names of their modules
//! (`fapi1-advanced-final-client-test-*`, `fapi2-security-profile-final-client-test-*`).
//!
//! Two of FAPI 1.0 ask for what OpenID Connect does not know: an ID token without `s_hash` is accepted, and so is a scope
//! that was not asked for (RFC 6749 §3.3).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use shared::digest::sha256;

use super::authorization::client_key;
use super::conformance::{outcome, reason, unsigned};
use super::gateway::{Browser, Gateway, Reply};
use super::provider::{ISSUER, SigningKey};

/// What is done to an ID token.
enum Fault {
    /// Nothing.
    None,
    /// A claim is another, or not there.
    Claim(&'static str, Value),
    /// Somebody else has signed it.
    Forged,
    /// Nobody has.
    Unsigned,
    /// The key is not for the algorithm.
    Alternate,
}

use Fault::{Alternate, Claim, Forged, None as Nothing, Unsigned};

/// What a module does to the ID tokens of both profiles, and why such a token is refused; nothing if it is accepted.
fn id_tokens() -> Vec<(&'static str, Fault, &'static str)> {
    let now = crate::testing::START.as_secs();
    vec![
        ("happy-path", Nothing, ""),
        ("valid-aud-as-array", Claim("aud", json!(["client"])), ""),
        (
            "invalid-iss",
            Claim("iss", json!("https://evil.example")),
            "idt_iss",
        ),
        ("invalid-missing-iss", Claim("iss", Value::Null), "idt_iss"),
        ("invalid-aud", Claim("aud", json!("another")), "idt_aud"),
        ("invalid-missing-aud", Claim("aud", Value::Null), "idt_aud"),
        (
            "invalid-secondary-aud",
            Claim("aud", json!(["client", "another"])),
            "idt_azp",
        ),
        ("invalid-azp", Claim("azp", json!("another")), "idt_azp"),
        (
            "invalid-expired-exp",
            Claim("exp", json!(now - 300)),
            "idt_exp",
        ),
        ("invalid-missing-exp", Claim("exp", Value::Null), "idt_exp"),
        ("absurd-exp", Claim("exp", json!(1e300)), "idt_exp"),
        ("exp-as-text", Claim("exp", json!("1900000000")), "idt_exp"),
        ("nbf-to-come", Claim("nbf", json!(1_900_000_000)), "idt_nbf"),
        (
            "iat-is-week-in-past",
            Claim("iat", json!(now - 604_800)),
            "idt_iat",
        ),
        (
            "invalid-nonce",
            Claim("nonce", json!("another")),
            "idt_nonce",
        ),
        (
            "invalid-missing-nonce",
            Claim("nonce", Value::Null),
            "idt_nonce",
        ),
        (
            "invalid-shash",
            Claim("s_hash", json!("AAAAAAAAAAAAAAAAAAAAAA")),
            "idt_s_hash",
        ),
        (
            "shash-of-another-type",
            Claim("s_hash", json!(5)),
            "idt_s_hash",
        ),
        (
            "invalid-chash",
            Claim("c_hash", json!("AAAAAAAAAAAAAAAAAAAAAA")),
            "idt_c_hash",
        ),
        ("invalid-signature", Forged, "idt_sig"),
        ("invalid-null-alg", Unsigned, "idt_alg"),
        ("invalid-alternate-alg", Alternate, "idt_kid"),
    ]
}

/// Has the keys of the provider fit to `fault`.
fn prepare(gateway: &Gateway, fault: &Fault) {
    let provider = &gateway.provider;
    match fault {
        Forged => {
            let signer = SigningKey::es256("one");
            provider.script.borrow_mut().signs_with = Some(signer);
        }
        Alternate => {
            let mut key = SigningKey::rs256("one");
            key.jwk["alg"] = json!("PS256");
            *provider.keys.borrow_mut() = vec![key];
        }
        Nothing | Claim(..) | Unsigned => {}
    }
}

/// Begins a sign-in whose response comes as a form with an ID token in it.
fn hybrid() -> (Gateway, Browser, Reply) {
    let mut gateway = Gateway::new(json!({
        "response_type": ["code id_token"], "response_mode": "form_post",
    }));
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    (gateway, browser, start)
}

#[test]
fn fapi1_id_tokens_by_way_of_the_browser() {
    for (module, fault, expected) in id_tokens() {
        let (mut gateway, mut browser, start) = hybrid();
        prepare(&gateway, &fault);
        if let Claim(name, value) = &fault {
            gateway.provider.script.borrow_mut().front_claims = vec![(*name, value.clone())];
        }
        let mut form = gateway.provider.authorize(start.location());
        if matches!(fault, Unsigned) {
            let (before, _) = form.split_once("&id_token=").unwrap();
            let now = gateway.provider.now();
            let nonce = start.argument("nonce");
            let claims = json!({
                "iss": ISSUER, "sub": "user-1", "aud": "client", "exp": now + 300, "iat": now, "nonce": nonce,
            });
            form = format!("{before}&id_token={}", unsigned("none", &claims));
        }
        let reply = browser.post(&mut gateway, "/api", &form);
        assert_eq!(reason(&gateway), expected, "{module}");
        let accepted = expected.is_empty();
        let status = if accepted { 200 } else { 401 };
        assert_eq!(
            (reply.status, reply.sets_session()),
            (status, accepted),
            "{module}"
        );
        let asked = gateway.provider.called("/token");
        assert_eq!(asked, usize::from(accepted), "{module}");
    }
}

#[test]
fn fapi1_a_state_that_the_id_token_vouches_for() {
    let (mut gateway, mut browser, start) = hybrid();
    let hash = sha256(start.argument("state").unwrap().as_bytes());
    let hash = URL_SAFE_NO_PAD.encode(&hash[..16]);
    gateway.provider.script.borrow_mut().front_claims = vec![("s_hash", json!(hash))];
    let form = gateway.provider.authorize(start.location());
    assert_eq!(browser.post(&mut gateway, "/api", &form).status, 200);
}

#[test]
fn fapi2_id_tokens_of_the_token_endpoint() {
    for (module, fault, expected) in id_tokens() {
        let outcome = outcome(|gateway| {
            prepare(gateway, &fault);
            match &fault {
                Claim(name, value) => {
                    gateway.provider.script.borrow_mut().id_claims = vec![(*name, value.clone())];
                }
                Unsigned => {
                    let now = gateway.provider.now();
                    let claims = json!({
                        "iss": ISSUER, "sub": "user-1", "aud": "client", "exp": now + 300, "iat": now,
                    });
                    let answer = json!({
                        "access_token": "opaque", "token_type": "Bearer",
                        "id_token": unsigned("none", &claims),
                    });
                    gateway.provider.script.borrow_mut().token_answer = Some((200, answer));
                }
                Nothing | Forged | Alternate => {}
            }
        });
        let status = if expected.is_empty() { 200 } else { 401 };
        assert_eq!(outcome, (status, expected.to_owned()), "{module}");
    }
}

/// A sign-in at a provider that announces `iss`, whose response has been changed by `change`.
fn changed(change: impl Fn(&str) -> String) -> (u16, String, usize) {
    let mut gateway = Gateway::new(json!({}));
    let announced = "authorization_response_iss_parameter_supported";
    gateway.provider.script.borrow_mut().discovery = vec![(announced, json!(true))];
    let mut browser = Browser::default();
    let start = browser.get(&mut gateway, "/api");
    let query = gateway.provider.authorize(start.location());
    let query = change(&format!("{query}&iss=https%3A%2F%2Fidp.example"));
    let reply = browser.get(&mut gateway, &format!("/api?{query}"));
    assert_eq!(reply.sets_session(), reply.status == 200);
    let asked = gateway.provider.called("/token");
    (reply.status, reason(&gateway), asked)
}

#[test]
fn fapi2_authorization_responses() {
    let state = |query: &str| {
        let (before, rest) = query.split_once("&state=").unwrap();
        let (state, after) = rest.split_once('&').unwrap();
        (before.to_owned(), state.to_owned(), after.to_owned())
    };
    assert_eq!(
        changed(str::to_owned),
        (200, String::new(), 1),
        "happy-path"
    );
    let removed = changed(|query| query.split_once("&iss=").unwrap().0.to_owned());
    let expected = (401, "iss_missing".to_owned(), 0);
    assert_eq!(removed, expected, "remove-authorization-response-iss");
    let other = changed(|query| query.replace("idp.example", "evil.example"));
    let expected = (401, "iss_mismatch".to_owned(), 0);
    assert_eq!(other, expected, "invalid-authorization-response-iss");
    // No response of a sign-in under way: it begins anew, and the code goes nowhere.
    for module in [
        "with-invalid-state-fails",
        "with-invalid-missing-state-fails",
    ] {
        let (status, _, asked) = changed(|query| {
            let (before, mut known, after) = state(query);
            if module.contains("missing") {
                return format!("{before}&{after}");
            }
            let last = if known.pop() == Some('A') { 'B' } else { 'A' };
            format!("{before}&state={known}{last}&{after}")
        });
        assert!(status != 200 && asked == 0, "{module}: {status} {asked}");
    }
}

#[test]
fn rule_35_an_authentication_is_as_old_as_it_was_when_it_was_asked_for() {
    let cases = [
        (0, 0_i64, 200),
        (0, 1, 401),
        (5, 5, 200),
        (5, 6, 401),
        // Of a user who takes a minute for it; nobody has authenticated after that.
        (5, -60, 200),
        (5, -61, 401),
        (5, -600, 401),
    ];
    for (max_age, earlier, status) in cases {
        let mut gateway = Gateway::new(json!({ "max_age": max_age }));
        let mut browser = Browser::default();
        let start = browser.get(&mut gateway, "/api");
        let at = crate::testing::START
            .as_secs()
            .saturating_add_signed(-earlier);
        gateway.provider.script.borrow_mut().id_claims = vec![("auth_time", json!(at))];
        // Whoever reads the page of consent takes a while.
        gateway.advance(60);
        let query = gateway.provider.authorize(start.location());
        let reply = browser.get(&mut gateway, &format!("/api?{query}"));
        assert_eq!(reply.status, status, "{max_age} {earlier}");
        if status == 200 {
            // A refresh tells of the same authentication (Core §12.2).
            gateway.advance(301);
            assert_eq!(browser.get(&mut gateway, "/api").status, 200, "{max_age}");
            assert_eq!(gateway.provider.called("/token"), 2);
        }
    }
}

#[test]
fn fapi2_token_answers() {
    for (module, token_type, lifetime) in [
        ("token-type-case-insensitivity", "bEARER", json!(60)),
        (
            "token-endpoint-response-without-expires-in",
            "Bearer",
            Value::Null,
        ),
    ] {
        let mut gateway = Gateway::new(json!({ "scopes": ["email"] }));
        let mut answer = json!({ "access_token": "opaque", "token_type": token_type });
        if !lifetime.is_null() {
            answer["expires_in"] = lifetime;
        }
        gateway.provider.script.borrow_mut().token_answer = Some((200, answer));
        let reply = Browser::default().sign_in(&mut gateway, "/api");
        assert_eq!(reply.status, 200, "{module}");
    }
}

#[test]
fn fapi2_happy_path_of_message_signing() {
    let (private, _) = client_key();
    let mut gateway = Gateway::new(json!({
        "require_pushed_authorization_requests": true, "require_signed_request_object": true,
        "client_auth": ["private_key_jwt"], "client_jwk": [private], "client_alg": ["ES256"],
        "client_secret": null, "response_mode": "jwt",
    }));
    let reply = Browser::default().sign_in(&mut gateway, "/api");
    assert_eq!((reply.status, reply.sets_session()), (200, true));
    for path in ["/par", "/token"] {
        let forms = gateway.provider.forms.borrow();
        let form = forms.iter().find(|(posted, _)| posted == path);
        let (_, form) = form.unwrap();
        assert!(form.contains_key("client_assertion"), "{path}");
        assert!(!form.contains_key("client_secret"), "{path}");
    }
}

#[test]
fn fapi2_signed_authorization_responses() {
    let now = crate::testing::START.as_secs();
    for (module, fault) in [
        ("happy-path", Nothing),
        ("ensure-jarm-without-iss-fails", Claim("iss", Value::Null)),
        (
            "ensure-jarm-with-invalid-iss-fails",
            Claim("iss", json!("https://evil.example")),
        ),
        ("ensure-jarm-without-aud-fails", Claim("aud", Value::Null)),
        (
            "ensure-jarm-with-invalid-aud-fails",
            Claim("aud", json!("another")),
        ),
        ("ensure-jarm-without-exp-fails", Claim("exp", Value::Null)),
        (
            "ensure-jarm-with-expired-exp-fails",
            Claim("exp", json!(now - 60)),
        ),
        ("ensure-jarm-with-invalid-sig-fails", Forged),
        ("ensure-jarm-signature-algorithm-is-not-none", Unsigned),
    ] {
        let mut gateway = Gateway::new(json!({ "response_mode": "jwt" }));
        let mut browser = Browser::default();
        let start = browser.get(&mut gateway, "/api");
        prepare(&gateway, &fault);
        if let Claim(name, value) = &fault {
            gateway.provider.script.borrow_mut().response_claims = vec![(*name, value.clone())];
        }
        let mut query = gateway.provider.authorize(start.location());
        if matches!(fault, Unsigned) {
            let claims = json!({
                "iss": ISSUER, "aud": "client", "exp": now + 60, "code": "code-0",
                "state": start.argument("state"),
            });
            query = format!("response={}", unsigned("none", &claims));
        }
        gateway.provider.script.borrow_mut().signs_with = None;
        let reply = browser.get(&mut gateway, &format!("/api?{query}"));
        let accepted = matches!(fault, Nothing);
        let status = if accepted { 200 } else { 401 };
        assert_eq!(
            (reply.status, reply.sets_session()),
            (status, accepted),
            "{module}"
        );
        assert_eq!(
            gateway.provider.called("/token"),
            usize::from(accepted),
            "{module}"
        );
    }
}
