//! What Kong writes of a plugin, in an answer or in a file of decK: every field, most of them at their defaults.

use serde_json::{Map, Value, json};

use super::super::config::SHORTHANDS;
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

#[test]
fn each_old_name_says_what_the_new_one_does() {
    let nodes = json!([{ "ip": "redis.example", "port": 7000 }]);
    let values = [
        ("auth_method", json!(["session", "password"])),
        ("authorization_cookie_lifetime", json!(60)),
        ("authorization_cookie_samesite", json!("Strict")),
        ("authorization_cookie_httponly", json!(false)),
        ("session_cookie_lifetime", json!(61)),
        ("session_cookie_idletime", json!(62)),
        ("session_cookie_samesite", json!("Strict")),
        ("session_cookie_httponly", json!(false)),
        ("session_cookie_maxsize", json!(4000)),
        ("session_strategy", json!("regenerate")),
        ("session_compressor", json!("zlib")),
        ("session_memcache_prefix", json!("p")),
        ("session_memcache_socket", json!("/run/memcached")),
        ("session_memcache_host", json!("memcached.example")),
        ("session_memcache_port", json!(1)),
        ("session_redis_prefix", json!("p")),
        ("session_redis_socket", json!("/run/redis")),
        ("session_redis_host", json!("redis.example")),
        ("session_redis_port", json!(1)),
        ("session_redis_username", json!("u")),
        ("session_redis_password", json!("p")),
        ("session_redis_auth", json!("p")),
        ("session_redis_connect_timeout", json!(1)),
        ("session_redis_read_timeout", json!(1)),
        ("session_redis_send_timeout", json!(1)),
        ("session_redis_ssl", json!(true)),
        ("session_redis_ssl_verify", json!(true)),
        ("session_redis_server_name", json!("redis.example")),
        ("session_redis_cluster_nodes", nodes),
        ("session_redis_cluster_maxredirections", json!(1)),
        ("session_redis_cluster_max_redirections", json!(1)),
    ];
    let known = SHORTHANDS.iter().map(|(old, _)| *old);
    assert!(known.eq(values.iter().map(|(old, _)| *old)));
    for ((old, value), &(_, new)) in values.into_iter().zip(SHORTHANDS) {
        let by_old = judged(&json!({ old: value })).unwrap();
        let by_new = match new.split_once('.') {
            None if new.is_empty() => json!({}),
            None => json!({ new: value }),
            Some((record, field)) => json!({ record: { field: value } }),
        };
        assert_eq!(by_old, judged(&by_new).unwrap(), "{old}");
        let nothing = judged(&json!({})).unwrap();
        assert_eq!(by_old == nothing, new.is_empty(), "{old}");
    }
}
