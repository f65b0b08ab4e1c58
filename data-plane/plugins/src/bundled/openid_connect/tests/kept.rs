//! What a provider said last serves on while it says nothing usable: for how long, and who hears of it.

use std::rc::Rc;

use serde_json::{Value, json};

use super::check::drop_provider;
use super::gateway::{Browser, Gateway};
use super::provider::{ISSUER, SigningKey};
use crate::filter::Filter as _;
use crate::host::Host as _;

const HOUR: u64 = 3_600;

/// A gateway that looks each minute, and the key of its provider.
fn gateway() -> (Gateway, SigningKey) {
    let mut gateway = Gateway::new(json!({ "auth_methods": ["bearer"], "cache_ttl": 60 }));
    let key = gateway.provider.keys.borrow()[0].clone();
    assert_eq!(call(&mut gateway, &key), 200);
    gateway.advance(61);
    (gateway, key)
}

/// What becomes of a new token that is signed with `key`.
fn call(gateway: &mut Gateway, key: &SigningKey) -> u16 {
    gateway.provider.script.borrow_mut().signs_with = Some(key.clone());
    let token = gateway.provider.access_token(&[]);
    gateway.call(&token).status
}

/// The same twice: the first has the provider looked at, if it is time to, and a second later that is known.
fn calls(gateway: &mut Gateway, key: &SigningKey) -> [u16; 2] {
    let first = call(gateway, key);
    gateway.advance(1);
    [first, call(gateway, key)]
}

/// Why discovery fails, as operators are told.
fn trouble(gateway: &Gateway) -> Option<String> {
    let states = gateway.host.node_states();
    let trouble = gateway.filter.trouble(&states, gateway.host.now())?;
    assert!(trouble.serves_from.is_some() && trouble.since <= gateway.host.now());
    Some(trouble.reason)
}

#[test]
fn rule_77_keys_that_all_vanish_serve_for_an_hour_and_operators_hear_of_it() {
    let useless = {
        let mut key = SigningKey::es256("enc");
        key.jwk["use"] = json!("enc");
        key
    };
    for keys in [vec![], vec![useless]] {
        let (mut gateway, key) = gateway();
        *gateway.provider.keys.borrow_mut() = keys.clone();
        assert_eq!(calls(&mut gateway, &key), [200; 2]);
        assert!(trouble(&gateway).unwrap().contains("no key"));
        for _ in 0..5 {
            gateway.advance(HOUR / 6);
            assert_eq!(calls(&mut gateway, &key), [200; 2]);
        }
        // What it has said for an hour it means.
        gateway.advance(HOUR / 6);
        assert_eq!(calls(&mut gateway, &key), [200, 401]);
        assert_eq!(trouble(&gateway), None);
    }
}

#[test]
fn keys_that_vanish_are_believed_at_once_where_those_of_before_are_too_old_to_serve() {
    let (mut gateway, key) = gateway();
    gateway.provider.script.borrow_mut().down = true;
    gateway.advance(24 * HOUR);
    assert_eq!(call(&mut gateway, &key), 503);
    gateway.provider.script.borrow_mut().down = false;
    gateway.provider.keys.borrow_mut().clear();
    gateway.advance(6);
    assert_eq!(call(&mut gateway, &key), 401);
    assert_eq!(trouble(&gateway), None);
}

#[test]
fn operators_hear_no_more_of_a_provider_that_nobody_has_asked_for_long() {
    let (mut gateway, key) = gateway();
    gateway.provider.script.borrow_mut().down = true;
    assert_eq!(calls(&mut gateway, &key), [200; 2]);
    gateway.advance(590);
    assert!(trouble(&gateway).is_some());
    gateway.advance(10);
    assert_eq!(trouble(&gateway), None);
    // Whoever asks finds out how it is.
    assert_eq!(calls(&mut gateway, &key), [200; 2]);
    assert!(trouble(&gateway).is_some());
}

#[test]
fn rule_77_endpoints_that_vanish_stay_for_an_hour() {
    for name in ["token_endpoint", "authorization_endpoint"] {
        let mut gateway = Gateway::new(json!({ "cache_ttl": 60 }));
        let start = |gateway: &mut Gateway| {
            _ = Browser::default().get(gateway, "/api");
            gateway.advance(1);
            let mut browser = Browser::default();
            let start = browser.get(gateway, "/api");
            if start.status != 302 {
                return start.status;
            }
            let back = gateway.provider.authorize(start.location());
            browser.get(gateway, &format!("/api?{back}")).status
        };
        assert_eq!(start(&mut gateway), 200);
        gateway.advance(61);
        gateway.provider.script.borrow_mut().discovery = vec![(name, json!(null))];
        assert_eq!(start(&mut gateway), 200);
        assert!(trouble(&gateway).unwrap().contains(name));
        gateway.advance(HOUR - 10);
        assert_eq!(start(&mut gateway), 200);
        gateway.advance(10);
        assert_eq!(start(&mut gateway), 503, "{name}");
    }
}

#[test]
fn rule_79_a_key_that_is_withdrawn_is_gone_as_soon_as_another_is_there() {
    let (mut gateway, stolen) = gateway();
    let new = SigningKey::es256("new");
    *gateway.provider.keys.borrow_mut() = vec![new.clone()];
    assert_eq!(calls(&mut gateway, &stolen), [200, 401]);
    assert_eq!(call(&mut gateway, &new), 200);
    assert_eq!(trouble(&gateway), None);
}

#[test]
fn rule_79_a_new_key_after_an_empty_set_counts_at_once() {
    let (mut gateway, key) = gateway();
    gateway.provider.keys.borrow_mut().clear();
    assert_eq!(calls(&mut gateway, &key), [200; 2]);
    let new = SigningKey::es256("new");
    *gateway.provider.keys.borrow_mut() = vec![new.clone()];
    gateway.advance(6);
    assert_eq!(call(&mut gateway, &new), 200);
    assert_eq!((call(&mut gateway, &key), trouble(&gateway)), (401, None));
}

#[test]
fn an_operator_makes_an_empty_key_set_count_at_once() {
    let (mut gateway, stolen) = gateway();
    gateway.provider.keys.borrow_mut().clear();
    assert_eq!(calls(&mut gateway, &stolen), [200; 2]);
    gateway.advance(6);
    drop_provider(&gateway, gateway.provider.now() * 1_000);
    assert_eq!(call(&mut gateway, &stolen), 401);
}

#[test]
fn rule_79_what_an_operator_has_dropped_serves_nobody_while_the_provider_is_away() {
    let (mut gateway, stolen) = gateway();
    gateway.provider.script.borrow_mut().down = true;
    assert_eq!(calls(&mut gateway, &stolen), [200; 2]);
    drop_provider(&gateway, gateway.provider.now() * 1_000);
    for _ in 0..3 {
        assert_eq!(calls(&mut gateway, &stolen), [503; 2]);
        gateway.advance(HOUR);
    }
    gateway.provider.script.borrow_mut().down = false;
    *gateway.provider.keys.borrow_mut() = vec![SigningKey::es256("new")];
    assert_eq!(call(&mut gateway, &stolen), 401);
}

#[test]
fn rule_70_what_cannot_be_of_the_provider_takes_nothing_away() {
    let check = |change: &dyn Fn(&Gateway)| {
        let (mut gateway, key) = gateway();
        change(&gateway);
        assert_eq!(calls(&mut gateway, &key), [200; 2]);
        assert!(trouble(&gateway).is_some());
        gateway.advance(20 * HOUR);
        assert_eq!(calls(&mut gateway, &key), [200; 2]);
    };
    let change = |name: &'static str, value: Value| {
        move |gateway: &Gateway| {
            let change = vec![(name, value.clone())];
            gateway.provider.script.borrow_mut().discovery = change;
        }
    };
    check(&|gateway| {
        gateway.provider.script.borrow_mut().discovery_text = Some(b"{}".to_vec());
    });
    check(&|gateway| gateway.provider.script.borrow_mut().gone = vec![("/jwks", 200)]);
    check(&change("issuer", json!("https://evil.example")));
    check(&change("jwks_uri", json!(null)));
    check(&change("jwks_uri", json!(format!("{ISSUER}/nowhere"))));
}

#[test]
fn rule_77_a_node_that_starts_while_its_provider_is_away_goes_on_with_what_it_knew() {
    let disk = Rc::default();
    let config = json!({ "auth_methods": ["bearer"], "cache_ttl": 60 });
    let mut before = Gateway::new(config.clone());
    before.host.keep_on(&disk);
    let provider = Rc::clone(&before.provider);
    let key = provider.keys.borrow()[0].clone();
    assert_eq!(call(&mut before, &key), 200);
    let start = |config: &Value, seconds: u64| {
        let node = Gateway::with_provider(config, Rc::clone(&provider), 2);
        node.host.keep_on(&disk);
        node.host
            .advance(f64::from(u32::try_from(seconds).unwrap()));
        *provider.clock.borrow_mut() = seconds;
        node
    };
    provider.script.borrow_mut().down = true;
    for seconds in [1, 3_600, 24 * HOUR + 59] {
        let mut node = start(&config, seconds);
        assert_eq!(call(&mut node, &key), 200, "{seconds}");
        assert_eq!(call(&mut node, &SigningKey::es256("another")), 401);
    }
    assert_eq!(call(&mut start(&config, 24 * HOUR + 60), &key), 503);
    // Another way to the provider is another provider.
    let other = json!({ "auth_methods": ["bearer"], "issuers_allowed": [ISSUER] });
    assert_eq!(call(&mut start(&other, 1), &key), 503);
    // A key that was withdrawn meanwhile goes as it does without a restart.
    provider.script.borrow_mut().down = false;
    *provider.keys.borrow_mut() = vec![SigningKey::es256("two")];
    let mut node = start(&config, 61);
    assert_eq!(calls(&mut node, &key), [200, 401]);
    // What is damaged is passed over.
    for kept in disk.borrow_mut().values_mut() {
        *kept = b"{".to_vec();
    }
    assert_eq!(call(&mut start(&config, 62), &key), 401);
}

#[test]
fn rule_77_what_was_discovered_serves_for_a_day_longer_and_then_no_more() {
    let (mut gateway, key) = gateway();
    gateway.provider.script.borrow_mut().down = true;
    gateway.advance(24 * HOUR - 61);
    assert_eq!(call(&mut gateway, &key), 200);
    gateway.advance(59);
    assert_eq!(call(&mut gateway, &key), 200);
    gateway.advance(1);
    assert_eq!(call(&mut gateway, &key), 503);
    gateway.provider.script.borrow_mut().down = false;
    gateway.advance(6);
    assert_eq!(call(&mut gateway, &key), 200);
}
