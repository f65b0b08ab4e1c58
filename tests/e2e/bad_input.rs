//! What attackers and accidents send: a clear answer, nothing lost, nothing let in.

use http::Method;
use serde_json::json;

use crate::guide::{GATEWAY, Guide, assert_sign_in_demanded, gateway};
use harness::{Browser, Cluster};

#[tokio::test]
async fn a_cookie_that_is_not_ours_counts_as_none() {
    let guide = Guide::start(1, "").await;
    let browser = guide.browser(0);
    browser.sign_in(&gateway("/"), "alice").await;
    let good = browser.cookie(GATEWAY, "session").unwrap();
    let upstream = guide.demo.upstream_requests();
    let mut bad = vec![
        String::new(),
        "x".to_owned(),
        "A".repeat(3_000),
        good[..good.len() / 2].to_owned(),
        format!("{good}A"),
        good.chars().rev().collect(),
    ];
    for at in [0, 5, good.len() / 3, good.len() / 2, good.len() - 1] {
        let mut forged = good.clone().into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        bad.push(String::from_utf8(forged).unwrap());
    }
    for value in bad {
        let thief = guide.browser(0);
        thief.set_cookie(GATEWAY, "session", &value);
        assert_sign_in_demanded(&thief.get(&gateway("/")).await, &guide.demo);
    }
    // The authorization cookie is no session, whatever it is called.
    let thief = guide.browser(0);
    thief.get(&gateway("/")).await;
    let name = thief.cookie_names(GATEWAY).remove(0);
    let authorization = thief.cookie(GATEWAY, &name).unwrap();
    thief.set_cookie(GATEWAY, "session", &authorization);
    assert_sign_in_demanded(&thief.get(&gateway("/")).await, &guide.demo);
    assert_eq!(guide.demo.upstream_requests(), upstream);
    assert_eq!(browser.get(&gateway("/")).await.status, 200);
}

#[tokio::test]
async fn a_callback_without_its_own_sign_in_lets_nobody_in() {
    let guide = Guide::start(1, "").await;
    let alice = guide.browser(0);
    let callback = alice.log_in(&gateway("/"), "alice").await;
    let upstream = guide.demo.upstream_requests();
    // A victim who is sent to alice's callback does not become alice.
    let victim = guide.browser(0);
    let reply = victim.get(callback.as_str()).await;
    assert!([302, 400, 401].contains(&reply.status), "{}", reply.text());
    assert_eq!(victim.cookie(GATEWAY, "session"), None);
    // Nor does a forged state.
    let mut forged = callback.clone();
    let pairs: Vec<(String, String)> = callback.query_pairs().into_owned().collect();
    forged
        .query_pairs_mut()
        .clear()
        .extend_pairs(pairs.iter().map(|(name, value)| {
            let value = if name == "state" { "forged" } else { value };
            (name, value)
        }));
    let reply = alice.get(forged.as_str()).await;
    assert!([302, 400, 401].contains(&reply.status), "{}", reply.text());
    assert_eq!(alice.cookie(GATEWAY, "session"), None);
    assert_eq!(guide.demo.upstream_requests(), upstream);
    // A second use of a code that was used finds a refusal at the provider and no way in.
    let bob = guide.browser(0);
    let callback = bob.log_in(&gateway("/"), "bob").await;
    assert_eq!(bob.get(callback.as_str()).await.status, 200);
    let replayed = guide.browser(0).get(callback.as_str()).await;
    assert!(
        [302, 400, 401].contains(&replayed.status),
        "{}",
        replayed.text()
    );
}

#[tokio::test]
async fn identity_headers_of_a_client_never_reach_the_upstream() {
    let guide = Guide::start(1, "--data config.upstream_headers_claims=name --data config.upstream_headers_names=x-user-name").await;
    let browser = guide.browser(0);
    browser.sign_in(&gateway("/"), "alice").await;
    let forged = [
        ("x-consumer-username", "admin"),
        ("x-consumer-id", "1"),
        ("x-consumer-custom-id", "1"),
        ("x-credential-identifier", "root"),
        ("x-anonymous-consumer", "false"),
        ("x-authenticated-groups", "admins"),
        ("x-authenticated-scope", "all"),
        ("x-user-name", "root"),
        ("X_Consumer_Username", "admin"),
    ];
    let reply = browser.get_with(&gateway("/"), &forged).await;
    assert_eq!(reply.status, 200);
    let headers = reply.json()["headers"].as_object().unwrap().clone();
    for (name, value) in forged {
        let arrived = headers.get(&name.to_ascii_lowercase()).cloned();
        assert_ne!(arrived, Some(json!(value)), "{name}");
    }
}

#[tokio::test]
async fn a_provider_that_is_down_is_said_so_and_sessions_go_on() {
    let mut guide = Guide::start(1, "").await;
    let browser = guide.browser(0);
    browser.sign_in(&gateway("/"), "alice").await;
    let late = guide.browser(0);
    let callback = late.log_in(&gateway("/"), "bob").await;
    guide.demo.stop_provider().await;
    assert_eq!(browser.get(&gateway("/")).await.status, 200);
    let reply = late.get(callback.as_str()).await;
    assert!(
        (500..=504).contains(&reply.status) && reply.status != 500,
        "{} {}",
        reply.status,
        reply.text()
    );
    assert!(reply.json()["message"].is_string(), "{}", reply.text());
    guide.demo.restart_provider().await;
    let recovered = guide.browser(0).sign_in(&gateway("/"), "bob").await;
    assert_eq!(recovered.status, 200, "{}", recovered.text());
}

#[tokio::test]
async fn a_refused_write_changes_nothing() {
    let cluster = Cluster::start(1).await;
    let service = cluster
        .create("/services", json!({ "name": "s", "host": "h" }))
        .await;
    let revision = cluster.read("/status").await["configuration_revision"].clone();
    let json_type = ("content-type", "application/json");
    let form_type = ("content-type", "application/x-www-form-urlencoded");
    let url = |path: &str| format!("{}{path}", cluster.admin_url());
    let huge = format!("{{\"name\":\"{}\"}}", "x".repeat(11 * 1024 * 1024));
    let deep = "[".repeat(100_000);
    for (method, path, kind, body, status) in [
        (Method::POST, "/services", json_type, "{", 400),
        (Method::POST, "/services", json_type, "[]", 400),
        (Method::POST, "/services", json_type, deep.as_str(), 400),
        (Method::POST, "/services", json_type, "\u{0}", 400),
        (Method::POST, "/services", json_type, r#"{"host":1}"#, 400),
        (
            Method::POST,
            "/services",
            json_type,
            r#"{"host":"h","prot":"x"}"#,
            400,
        ),
        (
            Method::POST,
            "/services",
            json_type,
            r#"{"name":"s","host":"h"}"#,
            409,
        ),
        (Method::POST, "/services", form_type, "host=%zz&port=x", 400),
        (
            Method::POST,
            "/services",
            ("content-type", "text/plain"),
            "x",
            415,
        ),
        (Method::POST, "/services", json_type, huge.as_str(), 413),
        (
            Method::PATCH,
            "/services/s",
            json_type,
            r#"{"port":70000}"#,
            400,
        ),
        (Method::PATCH, "/services/missing", json_type, "{}", 404),
        (Method::DELETE, "/services", json_type, "", 405),
        (
            Method::POST,
            "/routes",
            json_type,
            r#"{"paths":["/"],"service":{"id":"00000000-0000-4000-8000-000000000000"}}"#,
            400,
        ),
    ] {
        let shown: String = body.chars().take(60).collect();
        let reply = Browser::new()
            .send(method.clone(), &url(path), &[kind], body.to_owned())
            .await;
        assert_eq!(
            reply.status,
            status,
            "{method} {path} {shown}: {}",
            reply.text()
        );
        assert!(
            reply.json()["message"].is_string(),
            "{method} {path} {shown}: {}",
            reply.text()
        );
    }
    assert_eq!(
        cluster.read("/status").await["configuration_revision"],
        revision
    );
    assert_eq!(cluster.read("/services/s").await["id"], service["id"]);
}
