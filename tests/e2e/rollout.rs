//! Staged roll-outs: a change that goes wrong reaches one node, and is taken back without anyone.

use harness::{Browser, Cluster, eventually};
use http::Method;
use serde_json::{Value, json};

/// A cluster of three nodes whose changes are staged.
async fn staged() -> Cluster {
    Cluster::start_with(
        3,
        &[
            ("WARDGATE_ROLLOUT", "staged"),
            ("WARDGATE_ROLLOUT_CANARY_TIME", "1"),
        ],
    )
    .await
}

/// The newest roll-out, once it is as `wanted`.
async fn rollout(cluster: &Cluster, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        let newest = cluster.read("/rollouts").await["data"][0].clone();
        wanted(&newest).then_some(newest)
    })
    .await
}

/// The statuses that the nodes answer `path` with.
async fn answers(cluster: &Cluster, path: &str) -> Vec<u16> {
    let mut statuses = Vec::new();
    for node in &cluster.data_planes {
        let url = format!("{}{path}", node.url());
        statuses.push(Browser::new().get(&url).await.status);
    }
    statuses
}

/// A certificate that every node refuses: it refers to a secret that none of them has, which the control
/// plane cannot know.
fn unrunnable() -> Value {
    json!({ "cert": "{vault://env/wardgate-not-there}", "key": "{vault://env/wardgate-not-there}" })
}

#[tokio::test]
async fn a_change_that_a_node_refuses_reaches_no_other_and_is_rolled_back() {
    let cluster = staged().await;
    let terminate = json!({ "name": "request-termination", "config": { "status_code": 207 } });
    cluster.create("/plugins", terminate).await;
    cluster.create("/routes", json!({ "paths": ["/a"] })).await;
    let before = cluster.read("/status").await["configuration_revision"].clone();
    let done = rollout(&cluster, "the first changes are rolled out", |rollout| {
        rollout["state"] == "completed" && rollout["to"] == before
    })
    .await;
    cluster.settled().await;
    assert_eq!(answers(&cluster, "/a").await, [207, 207, 207]);

    let path = "/certificates?wait=60";
    let created = cluster.admin(Method::POST, path, &unrunnable()).await;
    // It was taken back: who serves what came after it does not serve it.
    assert_eq!(created.status, 202, "{}", created.text());
    assert_eq!(created.header("x-wardgate-serving"), "");
    assert!(created.header("x-wardgate-refused").starts_with("node-"));
    let bad = rollout(&cluster, "the change is rolled back", |rollout| {
        rollout["id"] != done["id"] && rollout["state"] == "rolled_back"
    })
    .await;
    assert_eq!(bad["from"], before);
    assert_eq!(bad["revisions"], json!([bad["to"]]));
    let reason = bad["reason"].as_str().unwrap();
    assert!(reason.contains("refused it"), "{reason}");
    let rows = cluster.read("/clustering/data-planes").await["data"].clone();
    let refused = rows.as_array().unwrap().iter();
    let refused = refused.filter(|row| !row["last_refusal"].is_null()).count();
    assert_eq!(refused, 1, "{rows}");
    // It is a new revision with the content of the one before it, and every node runs that.
    cluster.settled().await;
    assert_eq!(answers(&cluster, "/a").await, [207, 207, 207]);
    let listed = cluster.read("/certificates").await;
    assert_eq!(listed["data"], json!([]));
}

#[tokio::test]
async fn revocations_reach_the_nodes_that_a_change_is_held_back_from() {
    let cluster = Cluster::start_with(
        4,
        &[
            ("WARDGATE_ROLLOUT", "staged"),
            ("WARDGATE_ROLLOUT_CANARY_TIME", "3600"),
        ],
    )
    .await;
    let before = cluster.read("/rollouts").await["data"][0].clone();
    cluster.create("/routes", json!({ "paths": ["/a"] })).await;
    let waiting = rollout(&cluster, "one node has the change", |rollout| {
        rollout["id"] != before["id"]
            && rollout["progress"]["serving"].as_array().map(Vec::len) == Some(1)
    })
    .await;
    assert_eq!(waiting["stage"], "canary");
    let path = "/clustering/session-keys/revoke";
    let revoked = cluster.admin(Method::POST, path, &Value::Null).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    let audited = cluster.read("/audit/requests?size=1").await["data"][0].clone();
    assert_eq!(
        (&audited["path"], &audited["status"]),
        (&json!(path), &json!(200))
    );
    // Three nodes stay without the route, and have the keys of now.
    let rows = eventually("the nodes that are held have the new key", async || {
        let rows = cluster.read("/clustering/data-planes").await["data"].clone();
        let held = |row: &&Value| {
            row["revision"] == waiting["from"]
                && row["urgent"].as_u64() > waiting["to"].as_u64()
                && row["progress"] == "current"
        };
        let count = rows.as_array()?.iter().filter(held).count();
        (count == 3).then_some(rows)
    })
    .await;
    assert_eq!(rows.as_array().unwrap().len(), 4);
    // An operator who has seen enough has everyone given it.
    let path = format!("/rollouts/{}/release", waiting["id"]);
    let released = cluster.admin(Method::POST, &path, &Value::Null).await;
    assert_eq!(released.status, 200, "{}", released.text());
    assert_eq!(released.json()["state"], "completed");
    cluster.settled().await;
    let again = cluster.admin(Method::POST, &path, &Value::Null).await;
    assert_eq!(again.status, 400, "{}", again.text());
    let unknown = cluster
        .admin(Method::POST, "/rollouts/999999/halt", &Value::Null)
        .await;
    assert_eq!(unknown.status, 404);
}
