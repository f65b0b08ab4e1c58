//! Keys that take the place of others under the same name, or that have none.

use serde_json::json;

use super::gateway::{Browser, Gateway, Reply};
use super::provider::SigningKey;
use super::rotated_keys::due;

#[test]
fn rule_40_a_refresh_that_another_key_of_the_same_name_has_signed_ends_the_session() {
    for opaque in [true, false] {
        let (mut gateway, mut browser) = due(300);
        let kid = gateway.provider.keys.borrow()[0].jwk["kid"].clone();
        gateway.provider.script.borrow_mut().opaque = opaque;
        let forger = SigningKey::es256(kid.as_str().unwrap());
        gateway.provider.script.borrow_mut().signs_with = Some(forger);
        let reply = browser.get(&mut gateway, "/api");
        assert_eq!((reply.status, reply.ends_session()), (401, true));
    }
    // Unless the provider has given another key that name.
    let (mut gateway, mut browser) = due(300);
    let kid = gateway.provider.keys.borrow()[0].jwk["kid"].clone();
    let other = SigningKey::es256(kid.as_str().unwrap());
    gateway.provider.script.borrow_mut().signs_with = Some(other.clone());
    *gateway.provider.keys.borrow_mut() = vec![other];
    let reply = browser.get(&mut gateway, "/api");
    assert_eq!((reply.status, reply.ends_session()), (200, false));
}

/// A key that neither says its name nor has its tokens name it.
fn nameless() -> SigningKey {
    let mut key = SigningKey::es256("");
    key.jwk.as_object_mut().unwrap().remove("kid");
    key
}

#[test]
fn rule_40_a_key_without_a_name_that_is_published_late_ends_no_session() {
    let mut gateway = Gateway::new(json!({ "refresh_grace": 0 }));
    *gateway.provider.keys.borrow_mut() = vec![nameless()];
    let mut browser = Browser::default();
    assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
    gateway.advance(301);
    let late = nameless();
    gateway.provider.script.borrow_mut().signs_with = Some(late.clone());
    let seen = |reply: &Reply| (reply.status, reply.ends_session());
    for _ in 0..2 {
        assert_eq!(seen(&browser.get(&mut gateway, "/api")), (503, false));
        gateway.advance(2);
    }
    *gateway.provider.keys.borrow_mut() = vec![late];
    assert_eq!(seen(&browser.get(&mut gateway, "/api")), (200, false));
    assert_eq!(gateway.provider.called("/token"), 2);
}

#[test]
fn rule_40_another_key_of_the_same_name_ends_no_session_before_the_provider_was_asked_for_it() {
    let (mut gateway, mut browser) = due(0);
    let kid = gateway.provider.keys.borrow()[0].jwk["kid"].clone();
    let other = SigningKey::es256(kid.as_str().unwrap());
    {
        // So that the sign-in of another one leaves the refresh token as it is.
        let mut script = gateway.provider.script.borrow_mut();
        script.no_refresh_token = true;
        script.signs_with = Some(SigningKey::es256("never"));
    }
    // Its unknown key has the keys fetched a moment before they change.
    assert_eq!(Browser::default().sign_in(&mut gateway, "/api").status, 401);
    gateway.provider.script.borrow_mut().signs_with = Some(other.clone());
    *gateway.provider.keys.borrow_mut() = vec![other];
    let seen = |reply: &Reply| (reply.status, reply.ends_session());
    assert_eq!(seen(&browser.get(&mut gateway, "/api")), (503, false));
    gateway.advance(2);
    assert_eq!(seen(&browser.get(&mut gateway, "/api")), (200, false));
}

#[test]
fn a_session_whose_key_was_replaced_under_its_name_or_without_one_is_renewed_where_it_is_reverified()
 {
    for named in [true, false] {
        let key = || {
            if named {
                SigningKey::es256("fixed")
            } else {
                nameless()
            }
        };
        let mut gateway = Gateway::new(json!({ "reverify": true, "cache_ttl": 10 }));
        *gateway.provider.keys.borrow_mut() = vec![key()];
        let mut browser = Browser::default();
        assert_eq!(browser.sign_in(&mut gateway, "/api").status, 200);
        *gateway.provider.keys.borrow_mut() = vec![key()];
        gateway.advance(100);
        for _ in 0..2 {
            // Keys that have aged are fetched anew in the background.
            let reply = browser.get(&mut gateway, "/api");
            assert_eq!(
                (reply.status, reply.ends_session()),
                (200, false),
                "{named}"
            );
            gateway.advance(2);
        }
        assert_eq!(gateway.provider.called("/token"), 2, "{named}");
    }
}
