//! Sessions in a real Redis server: what is stored, who may read it, and what ends it.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use http::Method;

use crate::guide::{GATEWAY, Guide, assert_sign_in_demanded, gateway};
use crate::redis::Redis;
use harness::eventually;

/// A cluster of two nodes whose sessions are in `redis`, with further `options` of the plugin.
async fn guide(redis: &Redis, options: &str) -> Guide {
    let (port, password) = (redis.port, &redis.password);
    let options = format!(
        "--data config.session_storage=redis --data config.session_redis_port={port} \
         --data config.session_redis_password={password} --data config.session_redis_prefix=here \
         --data config.upstream_session_id_header=x-session {options}"
    );
    Guide::start(2, &options).await
}

/// The lines that Redis answers to a command.
fn ask(redis: &Redis, command: &str) -> Vec<String> {
    let answer = redis.command(command);
    answer.lines().map(str::to_owned).collect()
}

/// What is stored of sessions: not who has redeemed a code, which is there for a minute.
fn keys(redis: &Redis) -> Vec<String> {
    let mut keys = ask(redis, "KEYS *");
    keys.retain(|line| !line.starts_with(['*', '$', '+']) && !line.contains(":code:"));
    keys.sort();
    keys
}

/// What a number answers, without the sign before it.
fn number(redis: &Redis, command: &str) -> i64 {
    let lines = ask(redis, command);
    let line = lines.iter().find_map(|line| line.strip_prefix(':'));
    line.and_then(|line| line.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn a_stored_session_serves_on_every_node_until_somebody_deletes_it() {
    let redis = Redis::start();
    let guide = guide(&redis, "--data config.logout_uri_suffix=/logout").await;
    let mut browser = guide.browser(0);
    let first = browser.sign_in(&gateway("/"), "alice").await;
    assert_eq!(first.status, 200, "{}", first.text());
    let id = first.upstream_header("x-session").unwrap();
    assert_eq!(keys(&redis), [format!("here:{id}")]);
    // The rolling timeout of an hour, less what has passed of it.
    let left = number(&redis, &format!("TTL here:{id}"));
    assert!((1..=3600).contains(&left), "{left}");
    // Whoever reads the store learns nothing of tokens, whoever reads the cookie neither.
    let token = first.upstream_header("authorization").unwrap();
    let token = token.trim_start_matches("Bearer ").to_owned();
    let stored = ask(&redis, &format!("GET here:{id}")).join("\n");
    let cookie = browser.cookie(GATEWAY, "session").unwrap();
    assert!(
        !stored.contains(&token) && !stored.contains("alice"),
        "{stored}"
    );
    assert!(cookie.len() < 300 && !cookie.contains(&id), "{cookie}");

    guide.turn(&mut browser, 1);
    assert_eq!(browser.get(&gateway("/")).await.status, 200);
    assert_eq!(number(&redis, &format!("DEL here:{id}")), 1);
    for node in [0, 1] {
        guide.turn(&mut browser, node);
        assert_sign_in_demanded(&browser.get(&gateway("/")).await, &guide.demo);
    }

    let mut browser = guide.browser(0);
    browser.sign_in(&gateway("/"), "alice").await;
    let kept = browser.cookie(GATEWAY, "session").unwrap();
    let reply = browser
        .send(Method::POST, &gateway("/logout"), &[], String::new())
        .await;
    assert_eq!(reply.status, 302, "{}", reply.text());
    eventually("the session is gone from the store", async || {
        keys(&redis).is_empty().then_some(())
    })
    .await;
    browser.set_cookie(GATEWAY, "session", &kept);
    guide.turn(&mut browser, 1);
    assert_sign_in_demanded(&browser.get(&gateway("/")).await, &guide.demo);
}

#[tokio::test]
async fn rule_25_a_code_is_redeemed_once_by_nodes_that_have_lost_their_control_plane() {
    let redis = Redis::start();
    let mut guide = guide(&redis, "").await;
    let first = guide.browser(0);
    let callback = first.log_in(&gateway("/"), "alice").await;
    let second = guide.browser(1);
    second.take_cookies(&first, GATEWAY);
    // The control plane knows what came of it, and goes away.
    assert_eq!(first.open(callback.as_str()).await.status, 200);
    assert_eq!(keys(&redis).len(), 1, "{:?}", keys(&redis));
    // It knows the provider.
    assert_eq!(guide.browser(1).get(&gateway("/")).await.status, 302);
    let before = guide.demo.provider_requests();
    guide.cluster.control_plane.take().unwrap().kill();
    let reply = second.open(callback.as_str()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(guide.demo.provider_requests(), before);
    // So it is with one that nobody has heard of.
    let third = guide.browser(0);
    let callback = third.log_in(&gateway("/"), "bob").await;
    let names = third.cookie_names(GATEWAY);
    let fourth = guide.browser(1);
    for name in names {
        let cookie = third.cookie(GATEWAY, &name).unwrap();
        fourth.set_cookie(GATEWAY, &name, &cookie);
    }
    let before = guide.demo.provider_requests();
    let (one, other) = tokio::join!(
        third.open(callback.as_str()),
        fourth.open(callback.as_str())
    );
    assert_eq!((one.status, other.status), (200, 200));
    assert_eq!(guide.demo.provider_requests(), before + 1);
}

#[tokio::test]
async fn a_store_that_is_away_is_said_so_and_nobody_is_sent_round_in_circles() {
    let redis = Redis::start();
    let guide = guide(&redis, "").await;
    let browser = guide.browser(0);
    assert_eq!(browser.sign_in(&gateway("/"), "alice").await.status, 200);
    redis.stop();
    let reply = browser.get(&gateway("/")).await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.text().contains("session storage"), "{}", reply.text());
    let late = guide.browser(1);
    let callback = late.log_in(&gateway("/"), "bob").await;
    assert_eq!(late.get(callback.as_str()).await.status, 503);
}

#[tokio::test]
async fn a_store_that_is_out_of_step_ends_no_session() {
    let redis = Redis::start();
    let guide = guide(&redis, "").await;
    let browser = guide.browser(0);
    assert_eq!(browser.sign_in(&gateway("/"), "alice").await.status, 200);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // It ends with the test.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    let asked = String::from_utf8_lossy(&buffer[..count]).into_owned();
                    let reply = if asked.contains("GET") {
                        "$-5\r\n"
                    } else {
                        "+OK\r\n"
                    };
                    if stream.write_all(reply.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    guide
        .patch(&format!("--data config.redis.port={port}"))
        .await;
    let reply = browser.get(&gateway("/")).await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    let data = format!("--data config.redis.port={}", redis.port);
    guide.patch(&data).await;
    assert_eq!(browser.get(&gateway("/")).await.status, 200);
}

#[tokio::test]
async fn the_store_is_reached_and_named_as_configured() {
    let redis = Redis::start();
    let guide = guide(&redis, "").await;
    let password = &redis.password;
    assert_eq!(
        ask(&redis, "ACL SETUSER gateway on >word ~elsewhere:* +@all")[1],
        "+OK"
    );
    let (socket, tls_port) = (redis.socket(), redis.tls_port());
    let tcp = format!("config.redis.port={}", redis.port);
    for (what, options) in [
        (
            "a database of its own",
            vec![tcp.as_str(), "config.redis.database=3"],
        ),
        (
            "a user of Redis",
            vec![
                "config.redis.username=gateway",
                "config.redis.password=word",
                "config.redis.prefix=elsewhere",
            ],
        ),
        ("a socket", vec![&format!("config.redis.socket={socket}")]),
        (
            "TLS",
            vec![
                "config.redis.socket=",
                &format!("config.redis.port={tls_port}"),
                "config.redis.ssl=true",
            ],
        ),
        (
            "names that tell nothing, and lists of them",
            vec![
                &tcp,
                "config.redis.ssl=false",
                "config.session_hash_storage_key=true",
                "config.session_store_metadata=true",
                "config.session_hash_subject=true",
                "config.session_audience=shop",
            ],
        ),
    ] {
        // Each case begins with the plain connection; a parameter that is given twice would be a list.
        let mut data = BTreeMap::from([
            ("config.redis.password", password.as_str()),
            ("config.redis.username", ""),
            ("config.redis.database", "0"),
            ("config.redis.prefix", "here"),
        ]);
        data.extend(options.iter().filter_map(|option| option.split_once('=')));
        let data: Vec<_> = data
            .iter()
            .map(|(name, value)| format!("--data {name}={value}"))
            .collect();
        guide.patch(&data.join(" ")).await;
        assert_eq!(ask(&redis, "FLUSHALL")[1], "+OK");
        let mut browser = guide.browser(0);
        let first = browser.sign_in(&gateway("/"), "alice").await;
        assert_eq!(first.status, 200, "{what}: {}", first.text());
        guide.turn(&mut browser, 1);
        assert_eq!(browser.get(&gateway("/")).await.status, 200, "{what}");
        let id = first.upstream_header("x-session").unwrap();
        let stored = keys(&redis);
        match what {
            "a database of its own" => {
                assert!(stored.is_empty(), "{stored:?}");
                let info = ask(&redis, "INFO keyspace").join("\n");
                assert!(info.contains("db3:keys=2"), "{info}");
            }
            "a user of Redis" => assert_eq!(stored, [format!("elsewhere:{id}")]),
            "names that tell nothing, and lists of them" => {
                assert_eq!(stored.len(), 2, "{stored:?}");
                assert!(
                    stored.iter().any(|key| key.starts_with("here:shop:")),
                    "{stored:?}"
                );
                let told = stored
                    .iter()
                    .any(|key| key.contains(&id) || key.contains("alice"));
                assert!(!told, "{stored:?}");
            }
            _ => assert_eq!(stored, [format!("here:{id}")], "{what}"),
        }
    }
}

#[tokio::test]
async fn sessions_live_in_clusters_and_in_groups_with_sentinels() {
    let starting = tokio::task::spawn_blocking(|| (Redis::cluster(), Redis::group()));
    let guide = Guide::start(2, "--data config.logout_uri_suffix=/logout").await;
    let (nodes, [master, replica, sentinel]) = starting.await.unwrap();
    let store = async |redis: serde_json::Value| {
        let config =
            serde_json::json!({ "config": { "session_storage": "redis", "redis": redis } });
        let path = format!("/plugins/{}", guide.plugin);
        let reply = guide.cluster.admin(Method::PATCH, &path, &config).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        guide.cluster.settled().await;
    };
    let signed_in = async || {
        let browser = guide.browser(0);
        let reply = browser.sign_in(&gateway("/"), "alice").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        browser
    };
    store(serde_json::json!({
        "password": nodes[0].password, "prefix": "here",
        "cluster_nodes": [{ "ip": "127.0.0.1", "port": nodes[2].port }],
    }))
    .await;
    // Enough of them that each node has some, whichever is asked first.
    let mut browsers = Vec::new();
    for _ in 0..6 {
        browsers.push(signed_in().await);
    }
    let stored = |node: &Redis| keys(node).len();
    assert_eq!(nodes.iter().map(stored).sum::<usize>(), 6);
    assert!(nodes.iter().filter(|node| stored(node) > 0).count() > 1);
    for browser in &mut browsers {
        guide.turn(browser, 1);
        assert_eq!(browser.get(&gateway("/")).await.status, 200);
        browser.post_form(&gateway("/logout"), &[]).await;
    }
    eventually("the sessions are gone from the cluster", async || {
        (nodes.iter().map(stored).sum::<usize>() == 0).then_some(())
    })
    .await;

    store(serde_json::json!({
        "password": master.password, "prefix": "here", "cluster_nodes": null,
        "sentinel_master": "app", "sentinel_role": "master",
        "sentinel_password": sentinel.password,
        "sentinel_nodes": [
            { "host": "127.0.0.1", "port": 1 }, { "host": "127.0.0.1", "port": sentinel.port },
        ],
    }))
    .await;
    let mut browser = signed_in().await;
    assert_eq!(keys(&master).len(), 1);
    for at in [0, 1] {
        guide.turn(&mut browser, at);
        assert_eq!(browser.get(&gateway("/")).await.status, 200);
    }
    // Both servers of the group have it, whichever is asked.
    let following = tokio::task::spawn_blocking(move || {
        replica.until("DBSIZE", ":2");
        replica
    });
    let replica = following.await.unwrap();
    // The one that follows takes the place of one that dies, and sessions go on there: those that were, and new ones.
    master.stop();
    let told = ask(&sentinel, "SENTINEL FAILOVER app");
    assert_eq!(told[1], "+OK", "{told:?}");
    for at in [0, 1] {
        guide.turn(&mut browser, at);
        eventually("the session goes on at the new master", async || {
            (browser.get(&gateway("/")).await.status == 200).then_some(())
        })
        .await;
    }
    signed_in().await;
    assert_eq!(keys(&replica).len(), 2);
}
