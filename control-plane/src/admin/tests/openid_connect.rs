//! `/openid-connect/*`.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Barrier;

use super::{Api, Uuid, made};

/// A route of its own with the plugin.
async fn sign_in_on_a_route(api: &Api, config: Value) {
    let route = made(api, "/routes", json!({ "paths": ["/x"] })).await;
    let url = format!("/routes/{}/plugins", super::id(&route));
    let plugin = json!({ "name": "openid-connect", "config": config });
    made(api, &url, plugin).await;
}

#[tokio::test]
async fn every_provider_is_found_however_many_there_are() {
    let (api, _) = Api::revoking();
    let routes: Vec<_> = (0..=100)
        .map(|number| {
            json!({ "paths": [format!("/{number}")], "plugins": [{
                "id": Uuid::from_u128(1 + number), "name": "openid-connect",
                "config": { "issuer": format!("https://i{number}.example") },
            }] })
        })
        .collect();
    let file = json!({ "_format_version": "3.0", "routes": routes });
    assert_eq!(api.json("POST", "/config", file).await.0, 201);
    for number in [0, 100] {
        let issuer = format!("/openid-connect/issuers/https%3A%2F%2Fi{number}.example");
        assert_eq!(api.send("DELETE", &issuer, "", "").await.0, 204, "{number}");
    }
}

#[tokio::test]
async fn a_configuration_is_judged_before_its_provider_is_asked() {
    let api = Api::new();
    let check = "/openid-connect/check";
    let (status, body) = api.json("POST", check, json!({ "client_id": ["a"] })).await;
    assert_eq!(status, 400, "{body}");
    assert_eq!(body["fields"]["config"]["issuer"], "required field missing");
    // Nobody listens there.
    let config = json!({ "issuer": "http://127.0.0.1:1", "client_id": ["a"] });
    for body in [
        config.clone(),
        json!({ "name": "openid-connect", "config": config }),
    ] {
        let (status, report) = api.json("POST", check, body).await;
        assert_eq!((status, &report["ok"]), (200, &json!(false)), "{report}");
        let findings = report["findings"].as_array().unwrap();
        let failed = findings
            .iter()
            .find(|finding| finding["check"] == "discovery");
        let failed = failed.unwrap();
        assert_eq!(failed["result"], "fail");
        assert_eq!(failed["detail"], "the OpenID provider does not answer");
    }
    assert_eq!(api.get(check).await.0, 405);
}

#[tokio::test]
async fn providers_that_say_nothing_are_listed_with_the_reason() {
    let (api, _) = Api::revoking();
    let issuers = "/openid-connect/issuers";
    let nothing = json!({ "data": [], "next": null });
    assert_eq!(api.get(issuers).await, (200, nothing.clone()));
    // Nobody listens there.
    let silent = "http://127.0.0.1:1";
    let sign_in = json!({ "issuer": silent });
    sign_in_on_a_route(&api, sign_in).await;
    let (status, all) = api.get(issuers).await;
    let [entry] = all["data"].as_array().unwrap().as_slice() else {
        panic!("{status} {all}");
    };
    assert_eq!(entry["issuer"], silent);
    for unknown in ["created_at", "configuration", "keys"] {
        assert_eq!(entry.get(unknown), Some(&json!(null)), "{entry}");
    }
    let trouble = &entry["trouble"];
    assert_eq!(trouble["reason"], "the OpenID provider does not answer");
    assert!(trouble["since"].is_u64(), "{entry}");
    // A name that another one goes by, which is not asked for, and one that nobody is asked for at all.
    let pseudo = |issuer: &str| {
        json!({
            "issuer": issuer, "using_pseudo_issuer": true, "auth_methods": ["bearer"],
            "extra_jwks_uris": ["http://127.0.0.1:1/jwks"],
        })
    };
    for issuer in [silent, "https://name.example"] {
        sign_in_on_a_route(&api, pseudo(issuer)).await;
        assert_eq!(api.get(issuers).await, (200, all.clone()), "{issuer}");
    }
    let known = format!("{issuers}/http%3A%2F%2F127.0.0.1%3A1");
    let by_id = format!("{issuers}/{}", entry["id"].as_str().unwrap());
    let name = format!("{issuers}/https%3A%2F%2Fname.example");
    assert_eq!(api.get(&known).await, (200, entry.clone()));
    assert_eq!(api.get(&name).await.0, 404);
    // Each ends sessions all the same.
    for url in [&by_id, &name] {
        assert_eq!(api.send("DELETE", url, "", "").await.0, 204, "{url}");
    }
    assert_eq!(api.get(issuers).await, (200, nothing));
    let unknown = format!("{issuers}/https%3A%2F%2Fother.example");
    assert_eq!(api.send("DELETE", &unknown, "", "").await.0, 404);
}

#[tokio::test]
async fn a_plugin_is_taken_as_kong_2_8_shows_it() {
    let api = Api::new();
    let config = json!({
        "issuer": "https://idp.example", "session_storage": "cookie",
        "session_memcache_prefix": "sessions", "session_memcache_socket": null,
        "session_memcache_host": "127.0.0.1", "session_memcache_port": 11211,
    });
    let plugin = json!({ "name": "openid-connect", "config": config });
    let (status, answer) = api.json("POST", "/plugins", plugin).await;
    assert_eq!(status, 201, "{answer}");
}

/// A server on which every path is an issuer of its own. It answers each once `together` of them are asked.
async fn providers(together: usize) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let (base, all) = (origin.clone(), Arc::new(Barrier::new(together)));
    let tell = move |uri: http::Uri| async move {
        all.wait().await;
        let path = uri.path();
        let issuer = path.strip_suffix("/.well-known/openid-configuration");
        axum::Json(json!({ "issuer": format!("{base}{}", issuer.unwrap_or_default()) }))
    };
    let router = axum::Router::new().fallback(tell);
    tokio::spawn(async move { axum::serve(listener, router).await });
    origin
}

#[tokio::test]
async fn the_list_of_providers_is_paged() {
    let api = Api::new();
    let origin = providers(1).await;
    let issuers: Vec<String> = ["a", "b", "c"]
        .iter()
        .map(|name| format!("{origin}/{name}"))
        .collect();
    // One that says nothing is among them.
    for issuer in issuers
        .iter()
        .map(String::as_str)
        .chain(["http://127.0.0.1:1"])
    {
        sign_in_on_a_route(&api, json!({ "issuer": issuer })).await;
    }
    let list = "/openid-connect/issuers";
    let (status, all) = api.get(list).await;
    assert_eq!((status, &all["next"]), (200, &json!(null)));
    assert_eq!(all["data"].as_array().unwrap().len(), 4, "{all}");
    let mut found = Vec::new();
    let mut url = format!("{list}?size=2");
    loop {
        let (status, page) = api.get(&url).await;
        assert_eq!(status, 200, "{page}");
        let data = page["data"].as_array().unwrap();
        assert!(data.len() <= 2);
        found.extend(data.iter().map(|entry| entry["id"].clone()));
        let Some(next) = page["next"].as_str() else {
            assert!(page.get("offset").is_none(), "{page}");
            break;
        };
        let offset = page["offset"].as_str().unwrap();
        assert!(next.starts_with(&format!("{list}?offset=")) && next.ends_with("&size=2"));
        let by_offset = format!("{list}?size=2&offset={offset}");
        assert!(api.get(&by_offset).await.1["data"].is_array());
        next.clone_into(&mut url);
    }
    let in_order: Vec<_> = all["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["id"].clone())
        .collect();
    assert_eq!(found, in_order);
    for (query, message) in [
        ("size=x", "size must be a number"),
        ("size=0", "size must be an integer between 1 and 1000"),
        ("offset=x", "'x' is not a valid offset: bad base64 encoding"),
    ] {
        let (status, body) = api.get(&format!("{list}?{query}")).await;
        assert_eq!(status, 400, "{query} {body}");
        assert_eq!(body["message"], message, "{query}");
    }
}

#[tokio::test]
async fn providers_of_a_page_are_asked_together() {
    let origin = providers(3).await;
    let api = Api::new();
    for name in ["a", "b", "c"] {
        let config = json!({ "issuer": format!("{origin}/{name}") });
        sign_in_on_a_route(&api, config).await;
    }
    let (_, page) = api.get("/openid-connect/issuers").await;
    let entries = page["data"].as_array().unwrap();
    assert_eq!(entries.len(), 3, "{page}");
    for entry in entries {
        let said = &entry["configuration"]["issuer"];
        assert_eq!(*said, entry["issuer"], "{entry}");
    }
}

#[tokio::test]
async fn a_session_cookie_that_another_plugin_has_is_told() {
    let api = Api::new();
    let of = |name: &str, secret: &str| {
        json!({
            "issuer": "http://127.0.0.1:1", "client_id": ["a"], "session_cookie_name": name,
            "session_secret": secret,
        })
    };
    let plugin = json!({ "name": "openid-connect", "config": of("session", "one") });
    let stored = made(&api, "/plugins", plugin).await;
    let warned = async |body: Value| {
        let (status, report) = api.json("POST", "/openid-connect/check", body).await;
        assert_eq!(status, 200, "{report}");
        let findings = report["findings"].as_array().unwrap();
        findings.iter().any(|finding| finding["check"] == "cookies")
    };
    assert!(warned(of("session", "other")).await);
    assert!(!warned(of("session", "one")).await, "they share theirs");
    assert!(!warned(of("session-2", "other")).await);
    let changed = json!({ "id": stored["id"], "config": of("session", "other") });
    assert!(!warned(changed).await, "it takes its own place");
    let mut audience = of("session", "other");
    audience["session_audience"] = json!("a");
    assert!(!warned(audience.clone()).await, "it has a name of its own");
    audience["session_enforce_same_subject"] = json!(true);
    assert!(warned(audience).await);
    let mut bearer = of("session", "other");
    bearer["auth_methods"] = json!(["bearer"]);
    assert!(!warned(bearer).await);
}

#[tokio::test]
async fn a_certificate_that_is_not_stored_fails_the_check() {
    let api = Api::new();
    let pair = rcgen::generate_simple_self_signed(vec!["gateway.example".to_owned()]).unwrap();
    let body = json!({ "cert": pair.cert.pem(), "key": pair.signing_key.serialize_pem() });
    let stored = made(&api, "/certificates", body).await;
    let unknown = Uuid::from_u128(5).to_string();
    for (id, expected) in [(unknown.as_str(), true), (super::id(&stored), false)] {
        let config = json!({
            "issuer": "http://127.0.0.1:1", "client_id": ["a"], "client_auth": ["tls_client_auth"],
            "tls_client_auth_cert_id": id,
        });
        let (_, report) = api
            .json("POST", "/openid-connect/check", config.clone())
            .await;
        let mut findings = report["findings"].as_array().unwrap().iter();
        let told = findings.any(|finding| {
            finding["check"] == "tls_client_auth_cert_id" && finding["result"] == "fail"
        });
        assert_eq!(told, expected, "{report}");
        // It may be stored later, as in Kong.
        sign_in_on_a_route(&api, config).await;
    }
}
