//! The logout tests of the OpenID Foundation for relying parties, by their names.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::gateway::{Browser, Gateway, Reply};
use super::logout::{back_channel, log_out, logout_claims, post_token};
use super::provider::{ISSUER, SigningKey};

/// A logout token that is refused, and ends nothing.
fn refused(make: impl FnOnce(&Gateway) -> String) {
    let (mut gateway, mut browser) = back_channel();
    let token = make(&gateway);
    let reply = post_token(&mut gateway, &token);
    assert_eq!(
        (reply.status, &reply.json()["error"]),
        (400, &json!("invalid_request"))
    );
    assert_eq!(browser.get(&mut gateway, "/api").status, 200);
}

fn refused_with(changes: &Value) {
    refused(|gateway| {
        let claims = logout_claims(gateway, changes);
        gateway.provider.keys.borrow()[0].sign(&claims)
    });
}

#[test]
fn oidcc_client_test_rp_backchannel_rpinitlogout() {
    let (mut gateway, mut browser) = back_channel();
    let reply = log_out(&mut gateway, &json!({}));
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    assert_eq!(reply.headers["cache-control"], "no-store");
    assert_eq!(browser.get(&mut gateway, "/api").status, 302);
}

#[test]
fn oidcc_client_test_rp_backchannel_rpinitlogout_alg_none() {
    refused(|gateway| {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = logout_claims(gateway, &json!({}));
        format!(
            "{}.{}.",
            part(&json!({ "alg": "none", "kid": "one" })),
            part(&claims)
        )
    });
}

#[test]
fn oidcc_client_test_rp_backchannel_rpinitlogout_wrong_alg() {
    refused(|gateway| {
        let mut signer = SigningKey::es256("one");
        signer.algorithm = jsonwebtoken::Algorithm::HS256;
        signer.key = jsonwebtoken::EncodingKey::from_secret(b"secret");
        signer.sign(&logout_claims(gateway, &json!({})))
    });
}

#[test]
fn oidcc_client_test_rp_backchannel_rpinitlogout_wrong_iss() {
    refused_with(&json!({ "iss": "https://evil.example" }));
}

#[test]
fn oidcc_client_test_rp_backchannel_rpinitlogout_wrong_aud() {
    refused_with(&json!({ "aud": "another" }));
}

#[test]
fn oidcc_client_test_rp_backchannel_rpinitlogout_no_event() {
    refused_with(&json!({ "events": null }));
}

#[test]
fn oidcc_client_test_rp_backchannel_rpinitlogout_wrong_event() {
    refused_with(&json!({ "events": { "http://schemas.openid.net/event/backchannel": {} } }));
}

#[test]
fn oidcc_client_test_rp_backchannel_rpinitlogout_with_nonce() {
    refused_with(&json!({ "nonce": "n" }));
}

fn framed(gateway: &mut Gateway) -> Reply {
    let uri = format!("/frontchannel?iss={ISSUER}&sid=s1");
    let reply = Browser::default().get(gateway, &uri);
    assert_eq!(reply.status, 200);
    let policy = reply.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.contains("frame-ancestors https://idp.example"),
        "{policy}"
    );
    reply
}

#[test]
fn oidcc_client_test_rp_frontchannel_rpinitlogout_and_opinitlogout() {
    for begins_here in [true, false] {
        let (mut gateway, mut browser) = back_channel();
        let copy = browser.clone();
        if begins_here {
            assert_eq!(browser.post(&mut gateway, "/logout", "").status, 302);
        }
        framed(&mut gateway);
        assert_eq!(copy.clone().get(&mut gateway, "/api").status, 302);
    }
}

#[test]
fn rule_99_oidcc_client_test_rp_init_logout_no_state_and_other_state() {
    let (mut gateway, mut browser) = back_channel();
    let start = browser.post(&mut gateway, "/logout", "");
    assert!(start.argument("id_token_hint").unwrap().starts_with("ey"));
    let after = start.argument("post_logout_redirect_uri");
    assert_eq!(after.as_deref(), Some("http://gateway.example/bye"));
    let state = start.argument("state").unwrap();
    let both = "here and at the OpenID provider";
    let mut said = |uri: &str| {
        let page = browser.get(&mut gateway, uri);
        (
            page.status,
            String::from_utf8_lossy(&page.body).contains(both),
        )
    };
    // With another state nothing is believed; afterwards it is a visit like any other.
    assert_eq!(said("/bye?state=other"), (200, false));
    assert_eq!(said(&format!("/bye?state={state}")), (200, true));
    assert_eq!(said("/bye"), (302, false));

    // A provider may leave the state out: it brings this browser back once.
    let (mut gateway, mut browser) = back_channel();
    browser.post(&mut gateway, "/logout", "");
    for (name, value) in [
        ("sec-purpose", "prefetch"),
        ("sec-fetch-mode", "no-cors"),
        ("accept", "application/json"),
        ("authorization", "Bearer stale"),
    ] {
        let reply = browser.get_with(&mut gateway, "/bye", name, value);
        assert_ne!(reply.status, 200, "{name} is not the way back");
    }
    for (uri, status) in [("/api", 302), ("/bye?x=1", 200), ("/bye", 302)] {
        let page = browser.get(&mut gateway, uri);
        assert_eq!(page.status, status, "{uri}");
        assert!(!String::from_utf8_lossy(&page.body).contains(both), "{uri}");
    }
}
