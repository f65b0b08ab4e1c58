//! The control plane may be down, and nodes may come and go: traffic goes on.

use std::time::Duration;

use http::Method;
use serde_json::json;

use crate::guide::{Guide, gateway};
use harness::{Browser, eventually};

#[tokio::test]
async fn sessions_and_routes_go_on_without_a_control_plane() {
    let mut guide = Guide::start(2, "").await;
    let mut browser = guide.browser(0);
    assert_eq!(browser.sign_in(&gateway("/"), "alice").await.status, 200);
    guide.cluster.persisted().await;
    guide.cluster.control_plane.take().unwrap().kill();
    for at in [0, 1] {
        guide.turn(&mut browser, at);
        assert_eq!(browser.get(&gateway("/")).await.status, 200);
    }
    // New sign-ins too.
    assert_eq!(
        guide.browser(1).sign_in(&gateway("/"), "bob").await.status,
        200
    );
    // A node that restarts meanwhile serves what it had.
    let node = guide.cluster.data_planes.remove(0);
    node.process.kill();
    guide.cluster.start_data_plane(&node.name).await;
    guide.turn(&mut browser, 1);
    let reply = browser.get(&gateway("/")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(guide.cluster.data_planes[1].is_ready().await);
    // And when the control plane is back, both follow it again.
    guide.cluster.start_control_plane().await;
    guide
        .cluster
        .patch("/services/openid-connect-demo", json!({ "path": "/moved" }))
        .await;
    guide.cluster.settled().await;
    let reply = browser.get(&gateway("/x")).await;
    assert_eq!(reply.json()["path"], "/moved/x", "{}", reply.text());
}

#[tokio::test]
async fn a_reconnect_without_a_change_transfers_nothing() {
    let mut guide = Guide::start(1, "").await;
    let before = guide.cluster.read("/clustering/data-planes").await["data"][0].clone();
    let applied = |log: &str| log.matches("configuration applied").count();
    let follows = |log: &str| log.matches("following a control plane").count();
    // Lines come a moment after what they tell.
    let newest = format!("configuration applied revision={} ", before["revision"]);
    let log = eventually("what it runs is in its log", async || {
        let log = guide.cluster.data_planes[0].process.log();
        log.contains(&newest).then_some(log)
    })
    .await;
    guide.cluster.control_plane.take().unwrap().stop().await;
    guide.cluster.start_control_plane().await;
    let after = eventually("the node is back", async || {
        let row = guide.cluster.read("/clustering/data-planes").await["data"][0].clone();
        (row["connected"] == true && row["progress"] == "current").then_some(row)
    })
    .await;
    assert_eq!(after["config_hash"], before["config_hash"]);
    let log_after = eventually("that it is back is in its log", async || {
        let now = guide.cluster.data_planes[0].process.log();
        (follows(&now) > follows(&log)).then_some(now)
    })
    .await;
    assert_eq!(applied(&log), applied(&log_after), "{log_after}");
}

#[tokio::test]
async fn a_node_without_a_configuration_is_not_ready_and_says_503() {
    let mut cluster = harness::Cluster::start(1).await;
    let node = cluster.data_planes.remove(0);
    node.process.kill();
    cluster.control_plane.take().unwrap().kill();
    std::fs::remove_dir_all(cluster.directory().join("data/node-1")).unwrap();
    cluster.start_data_plane("node-1").await;
    assert!(!cluster.data_planes[0].is_ready().await);
    let reply = Browser::new().get(&format!("{}/x", cluster.url(0))).await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    cluster.start_control_plane().await;
    eventually("the node is ready", async || {
        cluster.data_planes[0].is_ready().await.then_some(())
    })
    .await;
    let reply = Browser::new().get(&format!("{}/x", cluster.url(0))).await;
    assert_eq!(reply.status, 404, "{}", reply.text());
}

#[tokio::test]
async fn acknowledged_writes_survive_a_killed_control_plane_and_reach_every_node() {
    let mut cluster = harness::Cluster::start(2).await;
    let demo = harness::Demo::start(&[]).await;
    let service = cluster
        .create("/services", json!({ "url": demo.upstream() }))
        .await;
    let mut paths = Vec::new();
    for round in 0..3 {
        for number in 0..5 {
            let path = format!("/{round}/{number}");
            let route = json!({ "paths": [path], "service": { "id": service["id"] } });
            cluster.create("/routes", route).await;
            paths.push(path);
        }
        cluster.control_plane.take().unwrap().kill();
        cluster.start_control_plane().await;
    }
    cluster.settled().await;
    for at in [0, 1] {
        for path in &paths {
            let reply = Browser::new()
                .get(&format!("{}{path}", cluster.url(at)))
                .await;
            assert_eq!(reply.status, 200, "{path} on {at}: {}", reply.text());
        }
    }
    let reply = cluster
        .admin(Method::DELETE, "/services/none", &json!({}))
        .await;
    assert_eq!(reply.status, 204);
}

#[tokio::test]
async fn a_restored_backup_takes_every_node_back() {
    let mut cluster = harness::Cluster::start(2).await;
    let demo = harness::Demo::start(&[]).await;
    cluster.route(&demo.upstream(), "/before").await;
    let made = cluster.create("/clustering/exports", json!({})).await;
    let revision = cluster.read("/status").await["configuration_revision"].clone();
    assert_eq!(made["revision"], revision, "{made}");
    let listed = cluster.read("/clustering/exports").await["data"].clone();
    assert!(listed.as_array().unwrap().contains(&made), "{listed}");
    // What is fetched is the file itself.
    let path = format!("/clustering/exports/{}", made["name"].as_str().unwrap());
    let fetched = Browser::new()
        .get(&format!("{}{path}", cluster.admin_url()))
        .await;
    assert_eq!(
        (fetched.status, &made["bytes"]),
        (200, &json!(fetched.body.len()))
    );
    assert_eq!(
        fetched.body,
        std::fs::read(made["path"].as_str().unwrap()).unwrap()
    );
    let data = cluster.directory().join("data/control-plane");
    let export = cluster.directory().join("fetched.export");
    std::fs::write(&export, &fetched.body).unwrap();
    cluster.route(&demo.upstream(), "/after").await;
    cluster.settled().await;
    for at in [0, 1] {
        let reply = Browser::new()
            .get(&format!("{}/after", cluster.url(at)))
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    // One node is away while the backup is restored.
    cluster.persisted().await;
    let away = cluster.data_planes.pop().unwrap();
    away.process.kill();
    cluster.control_plane.take().unwrap().stop().await;
    harness::run(
        "wardgate-control-plane",
        &[
            "restore",
            "--from",
            export.to_str().unwrap(),
            "--data-directory",
            data.to_str().unwrap(),
        ],
    );
    cluster.start_control_plane().await;
    cluster.start_data_plane(&away.name).await;
    for at in [0, 1] {
        eventually("the node is back at the backup", async || {
            let reply = Browser::new()
                .get(&format!("{}/after", cluster.url(at)))
                .await;
            (reply.status == 404).then_some(())
        })
        .await;
        let reply = Browser::new()
            .get(&format!("{}/before", cluster.url(at)))
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    // Then everything is lost, the key and the exports too: whoever begins anew takes nothing away, until he writes.
    cluster.control_plane.take().unwrap().stop().await;
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::remove_file(data.with_extension("key")).unwrap();
    // A generation is the second that its store was made in: not that in which the backup was restored.
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.start_control_plane().await;
    eventually("both nodes are back", async || {
        let nodes = cluster.read("/clustering/data-planes").await["data"].clone();
        let nodes = nodes.as_array()?.iter();
        let connected = nodes.filter(|node| node["connected"] == true).count();
        (connected == 2).then_some(())
    })
    .await;
    for at in [0, 1] {
        let kept = format!("{}/before", cluster.url(at));
        assert_eq!(Browser::new().get(&kept).await.status, 200);
    }
    cluster.route(&demo.upstream(), "/anew").await;
    cluster.settled().await;
    for (path, status) in [("anew", 200), ("before", 404)] {
        for at in [0, 1] {
            let url = format!("{}/{path}", cluster.url(at));
            assert_eq!(Browser::new().get(&url).await.status, status, "{path}");
        }
    }
}

#[tokio::test]
async fn who_refuses_what_a_restored_store_holds_hears_of_revoked_keys() {
    let mut guide = Guide::start(1, "").await;
    let browser = guide.browser(0);
    assert_eq!(browser.sign_in(&gateway("/"), "alice").await.status, 200);
    let cluster = &mut guide.cluster;
    // It refers to a secret that no node has.
    let missing = "{vault://env/wardgate-not-there}";
    let bad = json!({ "cert": missing, "key": missing });
    let created = cluster.admin(Method::POST, "/certificates?wait=60", &bad);
    assert_eq!(created.await.header("x-wardgate-refused"), "node-1");
    let made = cluster.create("/clustering/exports", json!({})).await;
    let data = cluster.directory().join("data/control-plane");
    let data = data.to_str().unwrap();
    let export = made["path"].as_str().unwrap();
    let restore = ["restore", "--from", export, "--data-directory", data];
    cluster.control_plane.take().unwrap().stop().await;
    harness::run("wardgate-control-plane", &restore);
    cluster.start_control_plane().await;
    eventually("it refuses that once more", async || {
        let row = &cluster.read("/clustering/data-planes").await["data"][0];
        (row["progress"] == "refused" && row["connected"] == true).then_some(())
    })
    .await;
    assert_eq!(browser.get(&gateway("/")).await.status, 200);
    let path = "/clustering/session-keys/revoke";
    let reply = guide.cluster.admin(Method::POST, path, &json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    eventually("the session is over", async || {
        let reply = browser.get(&gateway("/")).await;
        (reply.status == 302).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_node_that_stops_finishes_what_it_has_begun() {
    let mut guide = Guide::start(2, "").await;
    let node = guide.cluster.data_planes.remove(0);
    let status = node.process.stop().await;
    assert!(status.success(), "{status}");
    let gone = eventually("the control plane sees the node leave", async || {
        let rows = guide.cluster.read("/clustering/data-planes").await["data"].clone();
        let row = rows
            .as_array()?
            .iter()
            .find(|row| row["name"] == "node-1")?
            .clone();
        (row["connected"] == false).then_some(row)
    })
    .await;
    assert_eq!(gone["draining"], true, "it said so before it left: {gone}");
}

#[tokio::test]
async fn a_configuration_that_takes_a_node_down_twice_is_not_run_a_third_time() {
    let mut cluster = harness::Cluster::start(1).await;
    let demo = harness::Demo::start(&[]).await;
    let status = async |cluster: &harness::Cluster, path: &str| {
        let url = format!("{}{path}", cluster.url(0));
        Browser::new().get(&url).await.status
    };
    cluster.route(&demo.upstream(), "/good").await;
    cluster.settled().await;
    cluster.persisted().await;
    cluster.route(&demo.upstream(), "/poison").await;
    cluster.settled().await;
    cluster.persisted().await;
    assert_eq!(status(&cluster, "/poison").await, 200);
    for _ in 0..2 {
        let node = cluster.data_planes.pop().unwrap();
        node.process.kill();
        cluster.start_data_plane(&node.name).await;
    }
    assert_eq!(status(&cluster, "/good").await, 200);
    assert_eq!(status(&cluster, "/poison").await, 404);
    let row = eventually("the control plane knows", async || {
        let row = cluster.read("/clustering/data-planes").await["data"][0].clone();
        (row["progress"] == "quarantined").then_some(row)
    })
    .await;
    assert_eq!(row["crash_restarts"], 2, "{row}");
    // On an operator's order it is run once more.
    let name = row["name"].as_str().unwrap();
    let retry = format!("/clustering/data-planes/{name}/retry");
    let reply = cluster.admin(Method::POST, &retry, &json!({})).await;
    assert_eq!(reply.status / 100, 2, "{}", reply.text());
    eventually("it is served again", async || {
        (status(&cluster, "/poison").await == 200).then_some(())
    })
    .await;
    // It serves before it says so.
    eventually("the control plane knows that, too", async || {
        let row = cluster.read("/clustering/data-planes").await["data"][0].clone();
        (row["progress"] == "current" && row["quarantined"] == json!([])).then_some(())
    })
    .await;
    // The same while the node is being replaced.
    cluster.persisted().await;
    for _ in 0..2 {
        let node = cluster.data_planes.pop().unwrap();
        node.process.kill();
        cluster.start_data_plane(&node.name).await;
    }
    eventually("the control plane knows once more", async || {
        let row = &cluster.read("/clustering/data-planes").await["data"][0];
        (row["progress"] == "quarantined").then_some(())
    })
    .await;
    cluster.data_planes[0].process.start_successor("USR2").await;
    let reply = cluster.admin(Method::POST, &retry, &json!({})).await;
    assert_eq!(reply.status / 100, 2, "{}", reply.text());
    let process = &mut cluster.data_planes[0].process;
    let ended = eventually("the old process has ended", async || process.ended()).await;
    assert!(ended.success(), "{ended}");
    eventually("the new one serves it", async || {
        let row = &cluster.read("/clustering/data-planes").await["data"][0];
        let current = row["progress"] == "current" && row["quarantined"] == json!([]);
        (current && status(&cluster, "/poison").await == 200).then_some(())
    })
    .await;
    // What comes after it is tried again.
    cluster.route(&demo.upstream(), "/next").await;
    cluster.settled().await;
    assert_eq!(status(&cluster, "/next").await, 200);
    assert_eq!(status(&cluster, "/poison").await, 200);
}

#[tokio::test]
async fn a_node_with_nothing_before_what_took_it_down_serves_again() {
    let mut cluster = harness::Cluster::start(1).await;
    let demo = harness::Demo::start(&[]).await;
    cluster.route(&demo.upstream(), "/only").await;
    cluster.settled().await;
    cluster.persisted().await;
    for crash in 0..2 {
        let node = cluster.data_planes.pop().unwrap();
        node.process.kill();
        if crash == 1 {
            // The configuration stays the same.
            let revoke = "/clustering/session-keys/revoke";
            let reply = cluster.admin(Method::POST, revoke, &json!({})).await;
            assert_eq!(reply.status / 100, 2, "{}", reply.text());
        }
        cluster.start_data_plane(&node.name).await;
    }
    let isolated = "this configuration is not run again";
    eventually("it says that it does not run it", async || {
        let log = cluster.data_planes[0].process.log();
        log.contains(isolated).then_some(())
    })
    .await;
    eventually("it is served again", async || {
        let url = format!("{}/only", cluster.url(0));
        (Browser::new().get(&url).await.status == 200).then_some(())
    })
    .await;
    eventually("its own file knows no revocations since", async || {
        let log = cluster.data_planes[0].process.log();
        let (_, since) = log.rsplit_once(isolated)?;
        since.contains("configuration applied").then_some(())
    })
    .await;
    // It hears of what comes next.
    cluster.route(&demo.upstream(), "/next").await;
    cluster.settled().await;
    let row = cluster.read("/clustering/data-planes").await["data"][0].clone();
    assert_eq!(row["quarantined"], json!([]), "{row}");
}

#[tokio::test]
async fn renewed_certificates_are_used_without_a_restart() {
    let mut cluster = harness::Cluster::start(1).await;
    let directory = cluster.directory().join("certificates");
    let out = directory.display().to_string();
    // Another authority is believed beside the first, then certificates of it take over.
    let old = std::fs::read_to_string(directory.join("ca.pem")).unwrap();
    std::fs::remove_file(directory.join("ca.key")).unwrap();
    std::fs::remove_file(directory.join("ca.pem")).unwrap();
    let renew = ["certificates", "--out", &out, "--data-plane", "node-1"];
    harness::run("wardgate-control-plane", &renew);
    let new = std::fs::read_to_string(directory.join("ca.pem")).unwrap();
    assert_ne!(old, new);
    std::fs::write(directory.join("ca.pem"), format!("{old}{new}")).unwrap();
    eventually("the control plane has read them", async || {
        let log = cluster.control_plane.as_ref().unwrap().log();
        log.contains("certificates were renewed").then_some(())
    })
    .await;
    cluster.create("/services", json!({ "host": "h" })).await;
    cluster.settled().await;
    let node = cluster.data_planes.pop().unwrap();
    let streams = node
        .process
        .log()
        .matches("following a control plane")
        .count();
    assert_eq!(streams, 1, "a renewal is no reason to connect again");
    node.process.kill();
    cluster.start_data_plane(&node.name).await;
    cluster.create("/services", json!({ "host": "h" })).await;
    cluster.settled().await;
    // Who is vouched for by nobody any more is sent nothing more, and comes back once somebody does.
    let authorities = directory.join("ca.pem");
    std::fs::write(&authorities, &old).unwrap();
    eventually("its stream has ended", async || {
        let log = cluster.control_plane.as_ref().unwrap().log();
        log.contains("no authority of the cluster vouches any more")
            .then_some(())
    })
    .await;
    let node = &cluster.data_planes[0].process;
    eventually("it says why", async || {
        let said = "no authority in cluster_ca has issued it";
        node.log().contains(said).then_some(())
    })
    .await;
    std::fs::write(&authorities, &new).unwrap();
    cluster.create("/services", json!({ "host": "h" })).await;
    cluster.settled().await;
}

#[tokio::test]
async fn sessions_pause_on_a_node_that_has_heard_nobody_for_longer_than_allowed() {
    let settings = [("WARDGATE_SESSIONS_MAX_SILENCE", "15")];
    let cluster = harness::Cluster::start_with(1, &settings).await;
    let mut guide = Guide::set_up(cluster, "").await;
    let browser = guide.browser(0);
    let signed_in = browser.sign_in(&gateway("/"), "alice").await;
    assert_eq!(signed_in.status, 200, "{}", signed_in.text());
    guide.cluster.persisted().await;
    guide.cluster.control_plane.take().unwrap().kill();
    eventually("nobody can say which sessions are over", async || {
        (browser.get(&gateway("/")).await.status == 503).then_some(())
    })
    .await;
    // Nor once it has started again.
    let node = guide.cluster.data_planes.pop().unwrap();
    node.process.kill();
    guide.cluster.start_data_plane(&node.name).await;
    let mut browser = browser;
    guide.turn(&mut browser, 0);
    assert_eq!(browser.get(&gateway("/")).await.status, 503);
    // Nobody is signed out by it.
    guide.cluster.start_control_plane().await;
    eventually("the session goes on", async || {
        (browser.get(&gateway("/")).await.status == 200).then_some(())
    })
    .await;
}
