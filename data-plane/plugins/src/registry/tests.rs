//! What the registry knows of plugins, accepts and refuses.

use serde_json::json;
use shared::schema::Kind;

use super::*;

#[test]
fn openid_connect_runs_before_acl() {
    let priority = |name| definition(name).unwrap().priority;
    assert!(priority("openid-connect") > priority("acl"));
}

#[test]
fn an_issuer_is_all_that_openid_connect_needs() {
    let config = check("openid-connect", &json!({"issuer": "https://idp.example"})).unwrap();
    assert_eq!(config["scopes"], json!(["openid"]));
    assert_eq!(config["session_rolling_timeout"], json!(3600));
    assert_eq!(config["auth_methods"].as_array().unwrap().len(), 9);
    assert_eq!(
        config["upstream_access_token_header"],
        "authorization:bearer"
    );
    assert_eq!(check("openid-connect", &config).unwrap(), config);
}

#[test]
fn old_names_are_accepted_and_new_ones_stored() {
    let config = check(
        "openid-connect",
        &json!({
            "issuer": "https://idp.example",
            "auth_method": ["session", "bearer"],
            "session_cookie_lifetime": 60,
            "session_cookie_samesite": "off",
            "session_compressor": "zlib",
        }),
    )
    .unwrap();
    assert_eq!(config["auth_methods"], json!(["session", "bearer"]));
    assert_eq!(config["session_rolling_timeout"], json!(60));
    assert_eq!(config["session_cookie_same_site"], json!("Default"));
    assert!(config.get("session_compressor").is_none());
}

#[test]
fn rule_91_every_bad_field_is_named_at_once() {
    let check = |config: Value, expected: Value| {
        let errors = check("openid-connect", &config).unwrap_err();
        assert_eq!(Value::Object(errors.by_field), expected, "{config}");
    };
    check(json!({}), json!({"issuer": "required field missing"}));
    check(
        json!({"issuer": "https://idp.example", "sessionsecret": "x", "login_action": "none"}),
        json!({
            "sessionsecret": "unknown field",
            "login_action": "expected one of: upstream, response, redirect",
        }),
    );
    check(
        json!({"issuer": "http://idp.example", "redirect_uri": ["/callback"]}),
        json!({
            "issuer": "must be https: http is accepted for loopback hosts only, unless allow_insecure_http is true",
            "redirect_uri": "missing host in url",
        }),
    );
}

#[test]
fn what_is_not_served_is_refused_and_its_default_accepted() {
    let check = |field: &str, value: Value, accepted: bool| {
        let config = json!({"issuer": "https://idp.example", "client_id": ["x"], field: value});
        let result = check("openid-connect", &config);
        assert_eq!(result.is_ok(), accepted, "{field}: {result:?}");
    };
    check("session_storage", json!("redis"), true);
    check("session_storage", json!("memcached"), false);
    check("session_storage", json!("cookie"), true);
    check("session_redis_host", json!("redis.example"), true);
    // Kong 2.8 shows these with each plugin, and they say nothing of another storage.
    check("session_memcache_prefix", json!("sessions"), true);
    check("session_memcached_host", json!("memcached.example"), true);
    check("proof_of_possession_mtls", json!("strict"), false);
    check("proof_of_possession_mtls", json!("off"), true);
    check("introspect_jwt_tokens", json!(true), true);
    check("auth_methods", json!(["session", "userinfo"]), true);
    check("auth_methods", json!(["session", "kong_oauth2"]), false);
    check("auth_methods", json!(["session", "introspection"]), true);
    check("auth_methods", json!(["session", "password"]), true);
    check(
        "auth_methods",
        json!(["session", "authorization_code"]),
        true,
    );
    // Without a key of its own it signs with the cluster's.
    check("client_auth", json!(["private_key_jwt"]), true);
    // It needs a certificate.
    check("client_auth", json!(["tls_client_auth"]), false);
    check("response_mode", json!("fragment"), true);
}

#[test]
fn a_reference_stands_for_a_secret_and_excuses_nothing_else() {
    let config = |secret: &str, issuer: &str| json!({"issuer": issuer, "client_id": ["x"], "client_secret": [secret], "session_secret": secret});
    let reference = "{vault://env/oidc-secret}";
    let stored = check("openid-connect", &config(reference, "https://idp.example")).unwrap();
    assert_eq!(stored["client_secret"], json!([reference]));
    let errors = check("openid-connect", &config(reference, "http://idp.example")).unwrap_err();
    assert!(
        errors.by_field.contains_key("issuer") && errors.by_field.len() == 1,
        "{errors:?}"
    );
    // Beside a field that there is not, the rules count as they do without.
    for (config, wrong) in [
        (config(reference, "https://idp.example"), &["nosuch"][..]),
        (
            config(reference, "http://idp.example"),
            &["nosuch", "issuer"],
        ),
    ] {
        let mut config = config;
        config["nosuch"] = 1.into();
        let errors = check("openid-connect", &config).unwrap_err();
        let told: Vec<&String> = errors.by_field.keys().collect();
        assert_eq!(told, wrong, "{errors:?}");
    }
    let told = check(
        "http-log",
        &json!({ "http_endpoint": reference, "nosuch": 1 }),
    )
    .unwrap_err();
    assert_eq!(
        Value::Object(told.by_field),
        json!({ "nosuch": "unknown field" })
    );
    // Where none may stand it is a text like any other.
    for (plugin, config) in [
        ("ip-restriction", json!({ "deny": [reference] })),
        ("acl", json!({ "allow": ["a"], "deny": [reference] })),
        ("correlation-id", json!({ "header_name": reference })),
    ] {
        assert!(check(plugin, &config).is_err(), "{plugin}");
    }
}

#[test]
fn every_secret_of_a_plugin_may_be_a_reference() {
    fn look(fields: &Record, path: &str, missing: &mut Vec<String>) {
        for field in &fields.fields {
            let path = format!("{path}.{}", field.name);
            let mut kind = &field.kind;
            while let Kind::Array(inner, _) | Kind::Set(inner, _) | Kind::Map(inner, _) = kind {
                kind = inner;
            }
            match kind {
                Kind::Record(inside) => look(inside, &path, missing),
                _ if field.encrypted && !field.referenceable => missing.push(path),
                _ => {}
            }
        }
    }
    let mut missing = Vec::new();
    for plugin in definitions() {
        look(&plugin.fields, plugin.name, &mut missing);
    }
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn an_unknown_plugin_is_named() {
    let told = |name| check(name, &json!({})).unwrap_err().by_field["name"].clone();
    let unknown = "plugin 'oauth3' not enabled; add it to the 'plugins' configuration property";
    assert_eq!(told("oauth3"), unknown);
    for (name, instead) in [
        ("oauth2", "'openid-connect'"),
        ("pre-function", "'request-transformer'"),
        ("post-function", "no Lua runs here"),
        ("acme", "/certificates"),
        ("aws-lambda", "a service"),
        ("ai-proxy", "a service"),
    ] {
        let told = told(name).as_str().unwrap().to_owned();
        let start = format!("plugin '{name}' is not supported: ");
        assert!(told.starts_with(&start) && told.contains(instead), "{told}");
    }
}

#[test]
fn what_was_stored_before_it_was_refused_still_runs() {
    let before = json!({"http_endpoint": "http://a:b@x", "headers": {"authorization": "c"}});
    for (plugin, config) in [
        ("cors", json!({"origins": ["a**"]})),
        ("request-termination", json!({"status_code": 100})),
        ("file-log", json!({"path": "/tmp/a%b"})),
        (
            "redirect",
            json!({"status_code": 103, "location": "https://a.test"}),
        ),
        ("response-ratelimiting", json!({"limits": {}})),
        ("http-log", before),
        (
            "statsd",
            json!({"metrics": [{"name": "unique_users", "stat_type": "timer"}]}),
        ),
        ("request-transformer", json!({"http_method": "get"})),
        ("request-transformer", json!({"add": {"body": ["a:"]}})),
    ] {
        let instance = Instance { id: Uuid::nil() };
        let definition = definition(plugin).unwrap();
        // With its defaults, as it is stored.
        let mut stored = config.clone();
        if plugin == "response-ratelimiting" {
            stored = definition
                .check(&json!({"limits": {"a": {"second": 1}}}))
                .unwrap();
            stored["limits"] = json!({});
        }
        assert!(definition.check(&stored).is_err(), "{plugin} {config}");
        let compiled = compile(plugin, stored, &instance);
        assert!(compiled.is_ok(), "{plugin} {config}: {compiled:?}");
    }
}

#[test]
fn refusals_of_both_kinds_are_told_at_once() {
    let config = json!({"http_method": "get", "add": {"body": ["a:"], "headers": ["x"]}});
    let errors = check("request-transformer", &config).unwrap_err();
    let expected = json!({
        "http_method": "invalid value: get",
        "add": {
            "body": {"1": "key 'a' has no value"},
            "headers": {"1": "invalid value: x"},
        },
    });
    assert_eq!(Value::Object(errors.by_field), expected);
}

#[test]
fn an_integer_that_its_field_does_not_hold_is_refused_by_name() {
    let config = json!({"http_endpoint": "http://a", "retry_count": 9_223_372_036_854_775_808_u64});
    let errors = check("http-log", &config).unwrap_err();
    assert_eq!(errors.by_field["retry_count"], "expected an integer");
    for plugin in definitions() {
        for field in &plugin.fields.fields {
            for number in [json!(1_u64 << 63), json!(u64::MAX), json!(i64::MIN)] {
                if let Kind::Integer(_) = &field.kind
                    && let Err(errors) = plugin.check(&json!({ &field.name: number }))
                {
                    // Not in the words of whoever reads what was found good.
                    let (name, told) = (plugin.name, format!("{errors:?}"));
                    assert!(!told.contains("invalid value"), "{name}: {number}: {told}");
                }
            }
        }
    }
}
