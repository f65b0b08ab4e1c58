//! Peers that stand still: their connections stay, and they say nothing. Whoever talks to one notices in bounded
//! time, and nobody else is kept waiting.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use harness::{Browser, Cluster, DataPlane, Demo, eventually};
use http::Method;
use serde_json::json;

use crate::load::{Load, Target};
use crate::replicas::{Replicas, timed};

/// Whether the node hears its control plane.
async fn hears(node: &DataPlane) -> Option<bool> {
    node.status().await?["control_plane"]["connected"].as_bool()
}

async fn until(node: &DataPlane, heard: bool) {
    eventually("the node notices", async || {
        (hears(node).await? == heard).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_control_plane_is_noticed_and_caught_up_with() {
    let _alone = crate::alone().await;
    let demo = Demo::start(&[]).await;
    let cluster = Cluster::start(1).await;
    cluster.route(&demo.upstream(), "/p").await;
    cluster.settled().await;
    let load = Load::start(50, vec![Target::of(&cluster.url(0), "/p")]);
    let node = &cluster.data_planes[0];
    let control_plane = cluster.control_plane.as_ref().unwrap();
    control_plane.freeze();
    let ((), noticed) = timed(until(node, false)).await;
    // It comes back to connections that the node has given up, and to one that waits.
    control_plane.thaw();
    let ((), back) = timed(until(node, true)).await;
    let change = cluster.create("/services", json!({ "host": "h" }));
    change.await;
    let ((), current) = timed(cluster.settled()).await;
    println!(
        "a frozen control plane: noticed after {noticed:.1?}, heard again after {back:.1?}, a change served after {current:.1?}"
    );
    let figures = load.end().await;
    figures.none_failed();
    println!("meanwhile {figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn a_frozen_node_is_noticed_and_catches_up() {
    let cluster = Cluster::start(2).await;
    let connected = async |name: &str| {
        let rows = cluster.read("/clustering/data-planes").await["data"].clone();
        let mut rows = rows.as_array()?.iter();
        rows.find(|row| row["name"] == name)?["connected"].as_bool()
    };
    let node = &cluster.data_planes[0].process;
    node.freeze();
    let noticing = eventually("the control plane notices", async || {
        (!connected("node-1").await?).then_some(())
    });
    let ((), noticed) = timed(noticing).await;
    // Others do not wait for it.
    let waited = cluster.create("/services?wait=10", json!({ "host": "h" }));
    let (_, others) = timed(waited).await;
    node.thaw();
    let ((), back) = timed(cluster.settled()).await;
    println!(
        "a frozen node: noticed after {noticed:.1?}, a change served by the other after {others:.1?}, by all {back:.1?} after it was back"
    );
}

/// A Redis of its own; killed when dropped.
struct Redis {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Redis {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--save",
                "",
                "--bind",
                "127.0.0.1",
            ])
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("Redis is installed: tests/faults/run does that");
        eventually("Redis answers", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .ok()
        })
        .await;
        Self {
            child,
            port,
            _directory: directory,
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &id])
            .status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Redis: tests/faults/run"]
async fn a_frozen_redis_costs_its_own_timeout_and_lets_requests_pass_or_not_as_configured() {
    let redis = Redis::start().await;
    let demo = Demo::start(&[]).await;
    let cluster = Cluster::start(1).await;
    for (path, tolerant) in [("/tolerant", true), ("/strict", false)] {
        let route = cluster.route(&demo.upstream(), path).await;
        let limit = json!({ "name": "rate-limiting", "config": {
            "minute": 1_000_000, "policy": "redis", "fault_tolerant": tolerant,
            "redis": { "host": "127.0.0.1", "port": redis.port, "timeout": 500 },
        } });
        cluster
            .create(&format!("/routes/{route}/plugins"), limit)
            .await;
    }
    cluster.route(&demo.upstream(), "/other").await;
    cluster.settled().await;
    let get = async |path: &str| {
        let url = format!("{}{path}", cluster.url(0));
        let (reply, took) = timed(Browser::new().get(&url)).await;
        (reply.status, took)
    };
    for path in ["/tolerant", "/strict", "/other"] {
        assert_eq!(get(path).await.0, 200, "{path}");
    }
    let load = Load::start(50, vec![Target::of(&cluster.url(0), "/other")]);
    redis.signal("STOP");
    for _ in 0..3 {
        let (tolerant, strict) = tokio::join!(get("/tolerant"), get("/strict"));
        println!(
            "a frozen Redis: {tolerant:.1?} where faults are tolerated, {strict:.1?} where not"
        );
        assert_eq!((tolerant.0, strict.0), (200, 500));
        assert!(
            tolerant.1.max(strict.1) < Duration::from_secs(3),
            "the timeout is 500 ms"
        );
    }
    redis.signal("CONT");
    eventually("Redis is asked again", async || {
        (get("/strict").await.0 == 200).then_some(())
    })
    .await;
    let figures = load.end().await;
    figures.none_failed();
    println!("meanwhile others: {figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: tests/faults/run"]
async fn members_of_etcd_that_die_or_freeze_one_after_the_other_cost_no_write() {
    let rounds = crate::number("MEMBERS", 6);
    let mut replicas = Replicas::start(2).await;
    let mut acknowledged = Vec::new();
    let (mut killed, mut frozen) = (Duration::ZERO, Duration::ZERO);
    for round in 0..rounds {
        let at = round % 3;
        let freezes = round % 2 == 1;
        if freezes {
            replicas.members[at].signal("STOP");
        } else {
            replicas.members[at].kill();
        }
        let name = format!("during-{round}");
        let body = json!({ "username": name });
        let writing = eventually("writes go on", async || {
            let reply = replicas
                .admin(round % 2, Method::POST, "/consumers", &body)
                .await;
            // After a lost answer the name may be taken: by us.
            [201, 409].contains(&reply.status).then_some(())
        });
        let ((), pause) = timed(writing).await;
        acknowledged.push(name);
        if freezes {
            frozen = frozen.max(pause);
            replicas.members[at].signal("CONT");
        } else {
            killed = killed.max(pause);
            crate::replicas::revive(&mut replicas.members[at]);
        }
        let member = replicas.members[at].client.clone();
        eventually("the member is back", async || {
            let reply = Browser::new().try_get(&format!("{member}/health")).await?;
            reply.text().contains("true").then_some(())
        })
        .await;
    }
    replicas.agree().await;
    for name in &acknowledged {
        for at in [0, 1] {
            let found = replicas.read(at, &format!("/consumers/{name}")).await;
            assert_eq!(found["username"], json!(name), "{name} is lost at {at}");
        }
    }
    println!(
        "{rounds} members lost: writes paused for {killed:.1?} at most after a kill, {frozen:.1?} after a freeze; none lost"
    );
}
