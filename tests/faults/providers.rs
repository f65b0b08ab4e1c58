//! Providers that rotate their keys under traffic, and clients whose tokens name keys that nobody has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::{Browser, CLIENT, Cluster, Demo, SECRET};
use serde_json::json;
use shared::clock::monotonic;

use crate::load::percentile;

/// A route that asks for the bearer tokens of `demo`.
async fn protected(demo: &Demo) -> (Cluster, String) {
    let cluster = Cluster::start(1).await;
    let route = cluster.route(&demo.upstream(), "/").await;
    let plugin = json!({ "name": "openid-connect", "config": {
        "issuer": demo.issuer(), "client_id": [CLIENT], "client_secret": [SECRET],
        "auth_methods": ["bearer"],
    } });
    cluster
        .create(&format!("/routes/{route}/plugins"), plugin)
        .await;
    cluster.settled().await;
    let url = format!("{}/", cluster.url(0));
    (cluster, url)
}

/// Asks with a token; the status and the time it took.
async fn ask(url: &str, token: &str) -> (u16, Duration) {
    let started = monotonic();
    let header = format!("Bearer {token}");
    let reply = Browser::new()
        .get_with(url, &[("authorization", &header)])
        .await;
    (reply.status, started.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_rotate_under_traffic_refuse_no_token_and_are_fetched_once() {
    let _alone = crate::alone().await;
    let demo = Demo::start(&[]).await;
    let (_cluster, url) = protected(&demo).await;
    let token = || {
        demo.provider
            .access_token("alice", CLIENT, "openid")
            .unwrap()
    };
    assert_eq!(ask(&url, &token()).await.0, 200);
    let before = demo.provider_requests();
    let (mut asked, mut failed) = (0, Vec::new());
    let mut tokens: Vec<String> = (0..20).map(|_| token()).collect();
    let started = monotonic();
    let mut rotated = false;
    while started.elapsed() < Duration::from_secs(10) {
        if !rotated && started.elapsed() > Duration::from_secs(2) {
            rotated = true;
            // The old key stays published for a while, as providers do it.
            demo.provider.rotate_keys(true);
            tokens.extend((0..20).map(|_| token()));
        }
        let asking = tokens.iter().map(|token| ask(&url, token));
        for (status, _) in futures::future::join_all(asking).await {
            asked += 1;
            if status != 200 {
                failed.push(status);
            }
        }
    }
    let fetches = demo.provider_requests() - before;
    println!(
        "{asked} requests with tokens of two keys: {} failed, {fetches} requests to the provider",
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:?}");
    assert!(fetches <= 2, "{fetches}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn tokens_of_keys_that_nobody_has_cost_the_provider_and_others_nothing() {
    let demo = Demo::start(&[]).await;
    let (_cluster, url) = protected(&demo).await;
    let token = demo
        .provider
        .access_token("alice", CLIENT, "openid")
        .unwrap();
    let good = async |seconds| {
        let (started, mut times) = (monotonic(), Vec::new());
        while started.elapsed() < Duration::from_secs(seconds) {
            let (status, took) = ask(&url, &token).await;
            assert_eq!(status, 200);
            times.push(took);
            // One client that asks now and then, not a load of its own.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        times.sort_unstable();
        percentile(&times, 99)
    };
    let alone = good(5).await;
    let before = demo.provider_requests();
    let (ends, forged) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (ending, counting, place) = (Arc::clone(&ends), Arc::clone(&forged), url.clone());
    let (_, rest) = token.split_once('.').unwrap();
    let rest = rest.to_owned();
    let flood = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        let mut number = 0_u64;
        while !ending.load(Ordering::Relaxed) {
            ticks.tick().await;
            number += 1;
            let head = json!({ "alg": "RS256", "typ": "JWT", "kid": format!("nobody-{number}") });
            let token = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(head.to_string()));
            let (place, counting) = (place.clone(), Arc::clone(&counting));
            tokio::spawn(async move {
                let (status, _) = ask(&place, &token).await;
                assert_eq!(status, 401);
                counting.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    let meanwhile = good(10).await;
    ends.store(true, Ordering::Relaxed);
    flood.await.unwrap();
    let (fetches, forged) = (
        demo.provider_requests() - before,
        forged.load(Ordering::Relaxed),
    );
    println!(
        "{forged} tokens of unknown keys: {fetches} requests to the provider; good ones p99 {alone:.1?} before, {meanwhile:.1?} meanwhile"
    );
    assert!(forged > 100, "{forged}");
    // One look at the discovery document, and one at the keys.
    assert!(fetches <= 2, "{fetches}");
}
