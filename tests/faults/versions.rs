//! This version and the one before it. `BEFORE` names the directory with the programs of that one.

use std::path::Path;

use harness::{Browser, Cluster, Demo, eventually};
use http::Method;
use serde_json::{Value, json};

use crate::recorder::Recorder;

fn before() -> Option<String> {
    std::env::var("BEFORE").ok()
}

/// A configuration with a record of most kinds, in several revisions.
async fn fill(cluster: &Cluster, upstream: &str) {
    let create = async |path: &str, body: Value| cluster.create(path, body).await["id"].clone();
    let service = create("/services", json!({ "name": "s", "url": upstream })).await;
    let route = json!({
        "name": "r", "paths": ["/a"], "service": { "id": service }, "strip_path": false,
    });
    let route = create("/routes", route).await;
    let consumer = create("/consumers", json!({ "username": "ann" })).await;
    let of_consumer = |path: &str| format!("/consumers/ann/{path}");
    create(&of_consumer("key-auth"), json!({ "key": "key-of-ann" })).await;
    let basic = json!({ "username": "ann", "password": "p" });
    create(&of_consumer("basic-auth"), basic).await;
    create(&of_consumer("acls"), json!({ "group": "g" })).await;
    let group = create("/consumer_groups", json!({ "name": "gold" })).await;
    let member = json!({ "consumer": consumer });
    let path = format!("/consumer_groups/{}/consumers", group.as_str().unwrap());
    let reply = cluster.admin(Method::POST, &path, &member).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    create("/upstreams", json!({ "name": "u" })).await;
    create("/upstreams/u/targets", json!({ "target": "127.0.0.1:9" })).await;
    let keyed = json!({ "name": "key-auth", "route": { "id": route } });
    let keyed = create("/plugins", keyed).await;
    let signs = json!({
        "name": "openid-connect", "enabled": false,
        "config": { "issuer": "https://provider.example.com", "client_id": ["c"], "client_secret": ["s"] },
    });
    create("/plugins", signs).await;
    create("/workspaces", json!({ "name": "w" })).await;
    create("/w/services", json!({ "name": "s", "url": upstream })).await;
    let path = "/clustering/session-keys/revoke";
    let reply = cluster.admin(Method::POST, path, &Value::Null).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    cluster.settled().await;
    // One record goes, one changes.
    let path = format!("/plugins/{}", keyed.as_str().unwrap());
    cluster.admin(Method::DELETE, &path, &Value::Null).await;
    cluster
        .patch("/routes/r", json!({ "paths": ["/a", "/b"] }))
        .await;
    cluster.settled().await;
}

async fn answers(cluster: &Cluster, path: &str, expected: u16) {
    for node in &cluster.data_planes {
        let url = format!("{}{path}", node.url());
        eventually(&format!("{} answers {path}", node.name), async || {
            let reply = Browser::new().try_get(&url).await?;
            (reply.status == expected).then_some(())
        })
        .await;
    }
}

/// Test data for the versions to come: `RECORD` names the directory to write it to.
#[tokio::test]
#[ignore = "records test data: RECORD=DIRECTORY"]
async fn what_a_version_says_is_recorded() {
    let Ok(directory) = std::env::var("RECORD") else {
        println!("skipped: RECORD names no directory");
        return;
    };
    let directory = Path::new(&directory);
    std::fs::create_dir_all(directory).unwrap();
    let demo = Demo::start(&[]).await;
    let mut cluster = Cluster::start_of(before().as_deref(), 0, &[]).await;
    let recorder = Recorder::default();
    let certificates = cluster.directory().join("certificates");
    cluster.certify("node-1");
    let address = cluster.cluster_address().to_owned();
    let between = recorder.start(&address, "node-1", &certificates).await;
    cluster.lead_through(&between);
    cluster.start_data_plane("node-1").await;
    fill(&cluster, &demo.upstream()).await;
    answers(&cluster, "/b", 200).await;
    cluster.persisted().await;
    recorder.write(directory);
    let kept = [
        ("data/node-1/last-good", "last-good"),
        ("certificates/ca.pem", "ca.pem"),
        ("certificates/node-1.pem", "node-1.pem"),
        ("certificates/node-1.key", "node-1.key"),
    ];
    for (from, to) in kept {
        std::fs::copy(cluster.directory().join(from), directory.join(to)).unwrap();
    }
}

/// The order of the operator's guide, and the opposite: nodes of both versions follow control planes of both.
#[tokio::test]
#[ignore = "needs the programs of the version before: BEFORE=DIRECTORY tests/faults/run"]
async fn a_version_and_the_one_before_it_follow_each_other() {
    let Some(before) = before() else {
        println!("skipped: BEFORE names no directory with the programs of the version before");
        return;
    };
    let demo = Demo::start(&[]).await;
    let mut cluster = Cluster::start_of(Some(&before), 1, &[]).await;
    fill(&cluster, &demo.upstream()).await;
    answers(&cluster, "/b", 200).await;
    // A node of this version follows the control plane of the one before.
    cluster.change_programs(None);
    cluster.add_data_plane("node-2").await;
    cluster.settled().await;
    answers(&cluster, "/b", 200).await;
    cluster.patch("/routes/r", json!({ "paths": ["/c"] })).await;
    answers(&cluster, "/c", 200).await;
    // The control plane of this version takes the store over, and nodes of both follow it.
    cluster.control_plane.take().unwrap().stop().await;
    answers(&cluster, "/c", 200).await;
    cluster.start_control_plane().await;
    cluster.settled().await;
    cluster.patch("/routes/r", json!({ "paths": ["/d"] })).await;
    answers(&cluster, "/d", 200).await;
    let route = json!({ "name": "e", "paths": ["/e"], "service": { "name": "s" } });
    cluster.create("/routes", route).await;
    cluster.settled().await;
    answers(&cluster, "/e", 200).await;
    // A node that is upgraded starts without a control plane with what it has.
    cluster.persisted().await;
    cluster.control_plane.take().unwrap().stop().await;
    let node = cluster.data_planes.remove(0);
    node.process.stop().await;
    cluster.start_data_plane(&node.name).await;
    answers(&cluster, "/d", 200).await;
}
