//! What Kong writes of a plugin, in an answer or in a file of decK: every field, most of them at their defaults.

use serde_json::{Map, Value, json};

use super::gateway::{Browser, Gateway, judged};

/// The defaults of Kong's own schemas, by version. That of 3.10 is with the old names that its answers still show.
const DEFAULTS: [(&str, &str); 2] = [
    (
        "2.8",
        include_str!("../../../../testdata/openid-connect-defaults-2.8.json"),
    ),
    (
        "3.10",
        include_str!("../../../../testdata/openid-connect-defaults-3.10.json"),
    ),
];

/// What is said of the client beside defaults.
fn with_client(defaults: &Map<String, Value>) -> Value {
    let mut config = defaults.clone();
    for name in ["client_id", "client_secret"] {
        assert_eq!(config.remove(name), Some(Value::Null));
    }
    config.into()
}

#[test]
fn every_default_of_kong_is_taken_alone_and_beside_all_others() {
    for (version, text) in DEFAULTS {
        let defaults: Map<String, Value> = serde_json::from_str(text).unwrap();
        let refused = |(name, value): (&String, &Value)| {
            let error = judged(&json!({ name: value })).err()?;
            Some(format!("{name}={value}: {error:?}"))
        };
        let refused: Vec<String> = defaults.iter().filter_map(refused).collect();
        assert!(refused.is_empty(), "{version}: {refused:#?}");

        let config = with_client(&defaults);
        let mut gateway = Gateway::new(config.clone());
        let mut browser = Browser::default();
        let reply = browser.sign_in(&mut gateway, "/api");
        assert_eq!(reply.status, 200, "{version}");
        // What is answered is taken, too.
        let stored = judged(&config).unwrap();
        assert_eq!(judged(&stored).unwrap(), stored, "{version}");
    }
}

#[test]
fn the_methods_that_a_plugin_has_by_default_are_taken_whatever_their_order() {
    let all = json!([
        "password",
        "client_credentials",
        "authorization_code",
        "bearer",
        "introspection",
        "userinfo",
        "kong_oauth2",
        "refresh_token",
        "session"
    ]);
    let check = |methods: &[&Value], is_taken: bool| {
        let config = json!({ "auth_methods": methods });
        assert_eq!(judged(&config).is_ok(), is_taken, "{methods:?}");
    };
    let all: Vec<&Value> = all.as_array().unwrap().iter().collect();
    let without = |left_out: &str| -> Vec<&Value> {
        let kept = all.iter().filter(|method| **method != left_out);
        kept.copied().collect()
    };
    check(&all, true);
    let backwards: Vec<&Value> = all.iter().rev().copied().collect();
    check(&backwards, true);
    // A plugin that was made before Kong knew of user info.
    check(&without("userinfo"), true);
    check(&without("kong_oauth2"), true);
    // Whoever leaves something else out has chosen the rest.
    check(&without("session"), false);
    check(&without("bearer"), false);
}
