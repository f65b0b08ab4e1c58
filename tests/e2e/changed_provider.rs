//! A provider that moves its endpoints, loses its keys or goes away while nodes run and start: requests follow it, what it said
//! before serves on, and operators hear of it.

use std::sync::{Arc, Mutex};

use axum::Json;
use axum::response::{IntoResponse, Response};
use harness::{Browser, Cluster, Demo, eventually};
use http::StatusCode;
use serde_json::{Value, json};

/// What the provider is now.
#[derive(Clone, Debug)]
struct Now {
    /// Where its endpoints are.
    base: &'static str,
    keys: Value,
    /// Whether it answers nothing of use.
    is_away: bool,
    /// The requests to it, by path.
    asked: Vec<String>,
}

/// A provider, by its issuer.
async fn provider() -> (String, Arc<Mutex<Now>>) {
    let key = json!({
        "kty": "EC", "crv": "P-256", "kid": "one",
        // Of RFC 7517, appendix A.1.
        "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
        "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    });
    let now = Arc::new(Mutex::new(Now {
        base: "old",
        keys: json!([key]),
        is_away: false,
        asked: Vec::new(),
    }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let (own, state) = (issuer.clone(), Arc::clone(&now));
    let answer = move |uri: http::Uri| {
        let answer = answer(&own, &mut state.lock().unwrap(), uri.path());
        async move { answer }
    };
    let router = axum::Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (issuer, now)
}

fn answer(issuer: &str, now: &mut Now, path: &str) -> Response {
    now.asked.push(path.to_owned());
    if now.is_away {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let base = format!("{issuer}/{}", now.base);
    let place = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    let answer = match place {
        Some((".well-known", _)) => json!({
            "issuer": issuer, "authorization_endpoint": format!("{base}/authorize"),
            "token_endpoint": format!("{base}/token"), "jwks_uri": format!("{base}/jwks"),
            "introspection_endpoint": format!("{base}/introspect"),
        }),
        Some((at, "jwks")) if at == now.base => json!({ "keys": now.keys }),
        Some((at, "introspect")) if at == now.base => json!({ "active": true, "sub": "somebody" }),
        Some((at, "token")) if at == now.base => {
            json!({ "access_token": "opaque", "token_type": "Bearer", "expires_in": 60 })
        }
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    Json(answer).into_response()
}

#[tokio::test]
async fn requests_follow_endpoints_that_move_and_keys_that_vanish_are_told() {
    let demo = Demo::start(&[]).await;
    let (issuer, now) = provider().await;
    let cluster = Cluster::start(1).await;
    for (name, method) in [("introspection", "introspection"), ("grant", "password")] {
        let route = cluster.route(&demo.upstream(), &format!("/{name}")).await;
        let config = json!({
            "issuer": issuer, "client_id": ["c"], "client_secret": ["s"], "auth_methods": [method],
            "cache_introspection": false, "cache_tokens": false, "cache_ttl": 1,
            "rediscovery_lifetime": 1,
        });
        let plugin = json!({ "name": "openid-connect", "config": config });
        cluster
            .create(&format!("/routes/{route}/plugins"), plugin)
            .await;
    }
    cluster.settled().await;
    let call = async |path: &str, credential: &str| {
        let url = format!("{}/{path}", cluster.url(0));
        let headers = [("authorization", credential)];
        Browser::new().get_with(&url, &headers).await
    };
    let calls = async || {
        for (path, credential) in [
            ("introspection", "Bearer opaque"),
            ("grant", "Basic user:secret"),
        ] {
            let reply = call(path, credential).await;
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        }
    };
    calls().await;
    now.lock().unwrap().base = "new";
    calls().await;
    let asked = now.lock().unwrap().asked.clone();
    assert!(
        asked.iter().any(|path| path == "/new/introspect"),
        "{asked:?}"
    );
    assert!(asked.iter().any(|path| path == "/new/token"), "{asked:?}");

    let status = cluster.data_planes[0].process.address("status");
    let told = async |page: &str| Browser::new().get(&format!("http://{status}/{page}")).await;
    let failing = async || told("status").await.json()["openid_connect_failing"].clone();
    let metric = async |value: usize| {
        let text = told("metrics").await.text();
        text.contains(&format!("\nwardgate_openid_connect_failing {value}\n"))
    };
    assert_eq!(failing().await, json!([]));
    assert!(metric(0).await);
    let keys = std::mem::replace(&mut now.lock().unwrap().keys, json!([]));
    let trouble = eventually("the node misses the keys", async || {
        calls().await;
        failing().await.get(0).cloned()
    })
    .await;
    assert_eq!(trouble["issuer"], issuer.as_str());
    let reason = trouble["reason"].as_str().unwrap();
    assert!(reason.contains("no key"), "{trouble}");
    assert!(
        trouble["serves_from"].as_u64() <= trouble["since"].as_u64(),
        "{trouble}"
    );
    assert!(metric(1).await);
    now.lock().unwrap().keys = keys;
    eventually("it is over", async || {
        calls().await;
        (failing().await == json!([])).then_some(())
    })
    .await;
    assert!(metric(0).await);
}

#[tokio::test]
async fn a_node_that_starts_while_the_provider_is_away_goes_on_with_what_it_knew() {
    let demo = Demo::start(&[]).await;
    let (issuer, now) = provider().await;
    let mut cluster = Cluster::start(1).await;
    let route = cluster.route(&demo.upstream(), "/page").await;
    let config = json!({ "issuer": issuer, "client_id": ["c"], "client_secret": ["s"] });
    let plugin = json!({ "name": "openid-connect", "config": config });
    cluster
        .create(&format!("/routes/{route}/plugins"), plugin)
        .await;
    cluster.settled().await;
    cluster.persisted().await;
    let start = async |cluster: &Cluster| {
        let reply = Browser::new()
            .get(&format!("{}/page", cluster.url(0)))
            .await;
        assert_eq!(reply.status, 302, "{}", reply.text());
        assert!(reply.location().unwrap().as_str().starts_with(&issuer));
    };
    start(&cluster).await;
    let file = cluster.directory().join("data/node-1/providers");
    eventually("it is on disk", async || file.exists().then_some(())).await;
    now.lock().unwrap().is_away = true;
    let node = cluster.data_planes.remove(0);
    node.process.kill();
    cluster.start_data_plane(&node.name).await;
    start(&cluster).await;
}
