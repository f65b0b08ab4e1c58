//! Several control planes without a leader: any takes writes, none loses any, and traffic needs none.

use std::collections::BTreeSet;
use std::time::Duration;

use harness::{Browser, CLIENT, Demo, SECRET, eventually, outlive};
use http::Method;
use serde_json::json;

use crate::replicas::{HERE, Replicas, revive, timed};

#[tokio::test]
#[ignore = "needs etcd: tests/faults/run"]
async fn any_control_plane_takes_writes_and_none_is_lost() {
    let mut replicas = Replicas::start(2).await;
    let demo = Demo::start(&[]).await;
    // What one takes, the other and the node have soon.
    let service = json!({ "name": "s", "url": demo.upstream() });
    let reply = replicas.admin(0, Method::POST, "/services", &service).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let id = reply.json()["id"].clone();
    replicas.agree().await;
    let route = json!({ "paths": ["/a"], "service": { "id": id } });
    let reply = replicas.admin(1, Method::POST, "/routes", &route).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let ((), took) = timed(eventually("the node serves it", async || {
        (replicas.proxied("/a").await == 200).then_some(())
    }))
    .await;
    println!("a write at one control plane is served after {took:?} by a node of either");

    // Eight writers at both, some after the same names: one wins, and all see the same.
    let write = async |writer: usize, number: usize| {
        let name = format!("n{}", (writer / 2) * 100 + number);
        let body = json!({ "username": name });
        let reply = replicas
            .admin(writer % 2, Method::POST, "/consumers", &body)
            .await;
        assert!([201, 409, 503].contains(&reply.status), "{}", reply.text());
        (reply.status == 201).then_some(name)
    };
    let writers = (0..8).map(async |writer| {
        let mut acknowledged = Vec::new();
        for number in 0..10 {
            acknowledged.extend(write(writer, number).await);
        }
        acknowledged
    });
    let (acknowledged, took) = timed(futures::future::join_all(writers)).await;
    let acknowledged: Vec<String> = acknowledged.into_iter().flatten().collect();
    let names: BTreeSet<&String> = acknowledged.iter().collect();
    assert_eq!(names.len(), acknowledged.len(), "a name was given twice");
    println!(
        "8 writers, 80 requests, {} acknowledged in {took:?}",
        names.len()
    );
    replicas.agree().await;
    for at in [0, 1] {
        let listed = replicas.read(at, "/consumers?size=1000").await;
        let listed: BTreeSet<String> = listed["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|consumer| consumer["username"].as_str().unwrap().to_owned())
            .collect();
        assert!(acknowledged.iter().all(|name| listed.contains(name)));
        assert_eq!(listed.len(), acknowledged.len());
    }

    // A member of etcd after the other dies and comes back: writes pause, and none is lost.
    for at in 0..3 {
        replicas.members[at].kill();
        let name = format!("after-{at}");
        let ((), pause) = timed(eventually("writes go on", async || {
            let body = json!({ "username": name });
            let reply = replicas.admin(0, Method::POST, "/consumers", &body).await;
            // After a lost answer the name may be taken: by us.
            [201, 409].contains(&reply.status).then_some(())
        }))
        .await;
        println!("member {at} killed: the next write was taken after {pause:?}");
        assert!(pause < Duration::from_secs(8), "{pause:?}");
        revive(&mut replicas.members[at]);
        replicas.agree().await;
    }

    // Without a majority writes are refused soon, reads and traffic go on, and later all is as before.
    replicas.members[0].kill();
    replicas.members[1].kill();
    let body = json!({ "username": "minority" });
    let (reply, took) = timed(replicas.admin(1, Method::POST, "/consumers", &body)).await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(took < Duration::from_secs(5), "{took:?}");
    println!("without a majority a write is refused after {took:?}");
    assert_eq!(replicas.read(1, "/services/s").await["name"], "s");
    assert_eq!(replicas.proxied("/a").await, 200);
    revive(&mut replicas.members[0]);
    revive(&mut replicas.members[1]);
    eventually("writes go on", async || {
        let body = json!({ "username": "majority" });
        let reply = replicas.admin(1, Method::POST, "/consumers", &body).await;
        [201, 409].contains(&reply.status).then_some(())
    })
    .await;

    // A control plane that dies hands its node to the other.
    replicas.control_planes[0].take().unwrap().kill();
    let route = json!({ "paths": ["/b"], "service": { "id": id } });
    let reply = replicas.admin(1, Method::POST, "/routes", &route).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    eventually("the node follows the other", async || {
        (replicas.proxied("/b").await == 200).then_some(())
    })
    .await;
    // It starts again with everything that happened meanwhile.
    replicas.start_control_plane(0).await;
    replicas.agree().await;
    let routes = replicas.read(0, "/routes").await;
    assert_eq!(routes["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
#[ignore = "needs etcd: tests/faults/run"]
async fn the_nodes_of_all_control_planes_are_one_fleet() {
    let settings = [
        ("WARDGATE_ROLLOUT", "staged"),
        ("WARDGATE_ROLLOUT_CANARY_TIME", "1"),
    ];
    let mut replicas = Replicas::start_at([HERE; 3], vec![HERE; 2], &settings).await;
    replicas.bind_node("node-2", 0).await;
    replicas.bind_node("node-3", 1).await;
    let rows = async |at: usize| replicas.read(at, "/clustering/data-planes").await["data"].clone();
    for at in [0, 1] {
        eventually("each control plane shows the nodes of both", async || {
            let rows = rows(at).await;
            let mut rows = rows.as_array()?.iter();
            let count = rows.clone().count();
            let current = rows.all(|row| row["connected"] == true && row["progress"] == "current");
            (count == 3 && current).then_some(())
        })
        .await;
    }
    // A change goes to one node first, wherever that is, then to all, and the answer waits for all.
    let route = json!({ "name": "r", "paths": ["/a"] });
    let (reply, took) = timed(replicas.admin(0, Method::POST, "/routes?wait=60", &route)).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(reply.header("x-wardgate-serving"), "node-1, node-2, node-3");
    println!("a staged change is served by the nodes of both control planes after {took:?}");

    // One that no node can run reaches one node, and is taken back.
    let cert = "{vault://env/wardgate-not-there}";
    let body = json!({ "cert": cert, "key": cert });
    let reply = replicas
        .admin(1, Method::POST, "/certificates", &body)
        .await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let id = reply.header("x-wardgate-revision").to_owned();
    for at in [0, 1] {
        eventually("both show that it was rolled back", async || {
            let rollout = replicas.read(at, &format!("/rollouts/{id}")).await;
            (rollout["state"] == "rolled_back").then_some(())
        })
        .await;
        let refused = async || {
            let rows = rows(at).await;
            let rows = rows.as_array()?.iter();
            let refused = rows.filter(|row| !row["last_refusal"].is_null());
            let names: Vec<_> = refused.map(|row| row["name"].clone()).collect();
            (names.len() == 1).then(|| names[0].as_str().unwrap().to_owned())
        };
        let refused = eventually("both name the one that refused it", refused).await;
        // An order reaches it through either.
        let path = format!("/clustering/data-planes/{refused}/retry");
        let reply = replicas.admin(at, Method::POST, &path, &json!({})).await;
        assert_eq!(reply.status, 204, "{}", reply.text());
    }
    // One that ends takes its nodes off the list of the connected.
    replicas.control_planes[1].take().unwrap().stop().await;
    eventually("the node of the other is gone", async || {
        let rows = replicas.read(0, "/clustering/data-planes").await["data"].clone();
        let mut rows = rows.as_array()?.iter();
        let row = rows.find(|row| row["name"] == "node-3")?;
        (row["connected"] == false).then_some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs etcd: tests/faults/run"]
async fn nodes_of_two_control_planes_refresh_a_session_once() {
    const GATEWAY: &str = "gateway.test";
    let mut replicas = Replicas::start(2).await;
    replicas.bind_node("node-2", 0).await;
    replicas.bind_node("node-3", 1).await;
    // Nobody is waited for of whom the other control plane has not told yet.
    eventually("all nodes are known here", async || {
        let rows = replicas.read(0, "/clustering/data-planes").await["data"].clone();
        let rows = rows.as_array()?.iter();
        let connected = rows.filter(|row| row["connected"] == true).count();
        (connected == 3).then_some(())
    })
    .await;
    let demo = Demo::start(&[format!("http://{GATEWAY}")]).await;
    let create = async |path: &str, body: serde_json::Value| {
        let reply = replicas.admin(0, Method::POST, path, &body).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        reply
    };
    let service = json!({ "name": "s", "url": demo.upstream() });
    create("/services", service).await;
    create("/services/s/routes", json!({ "paths": ["/"] })).await;
    let config = json!({
        "issuer": format!("{}/.well-known/openid-configuration", demo.issuer()),
        "client_id": [CLIENT], "client_secret": [SECRET], "leeway": 0,
        "redirect_uri": [format!("http://{GATEWAY}/api")],
        "scopes": ["openid", "offline_access"],
    });
    let plugin = json!({ "name": "openid-connect", "config": config });
    let reply = create("/services/s/plugins?wait=30", plugin).await;
    assert_eq!(reply.header("x-wardgate-serving"), "node-1, node-2, node-3");

    let lifetime = Duration::from_secs(3);
    demo.set_access_token_lifetime(lifetime);
    // A token that comes twice ends the session at this provider.
    demo.provider
        .configure(|settings| settings.refresh_reuse_leeway = Duration::ZERO);
    let page = format!("http://{GATEWAY}/");
    let browser = |at: usize| {
        let mut browser = Browser::new();
        browser.resolve(GATEWAY, replicas.bound[at].address("proxy").as_str());
        browser
    };
    let signed_in = browser(0);
    assert_eq!(signed_in.sign_in(&page, "alice").await.status, 200);
    let mut session = signed_in.cookie(GATEWAY, "session").unwrap();
    let visit = async |at: usize, session: &str| {
        let tab = browser(at);
        tab.set_cookie(GATEWAY, "session", session);
        let reply = tab.get(&page).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let token = reply.upstream_header("authorization").unwrap();
        (token, tab.cookie(GATEWAY, "session").unwrap())
    };
    for round in 0..3 {
        outlive(lifetime).await;
        let tabs = (0..16).map(|tab| visit((tab + round) % 2, &session));
        let (visits, took) = timed(futures::future::join_all(tabs)).await;
        println!("16 requests at the nodes of two control planes met an expired session: {took:?}");
        assert!(visits.iter().all(|(token, _)| *token == visits[0].0));
        // Who comes late is served by the same refresh, also by the other's node.
        for at in [0, 1] {
            assert_eq!(visit(at, &session).await.0, visits[0].0);
        }
        session.clone_from(&visits[round].1);
    }
    // Without a majority of etcd each control plane decides alone, and refreshes go on.
    replicas.members[0].kill();
    replicas.members[1].kill();
    outlive(lifetime).await;
    let ((token, next), took) = timed(visit(1, &session)).await;
    println!("without a majority of etcd a session is refreshed after {took:?}");
    outlive(lifetime).await;
    assert_ne!(visit(1, &next).await.0, token);
}

#[tokio::test]
#[ignore = "needs etcd: tests/faults/run"]
async fn a_store_moves_to_etcd_and_back() {
    let mut cluster = harness::Cluster::start(1).await;
    cluster
        .create("/services", json!({ "name": "moved", "host": "h" }))
        .await;
    cluster.control_plane.take().unwrap().stop().await;
    cluster.start_control_plane().await;
    let data = cluster.directory().join("data/control-plane");
    let export = |directory: &std::path::Path| {
        let exports = std::fs::read_dir(directory.join("exports")).ok()?;
        let paths = exports.flatten().map(|entry| entry.path());
        paths
            .filter(|path| path.extension().is_some_and(|end| end == "export"))
            .max()
    };
    let newest = eventually("the store is exported", async || export(&data)).await;
    cluster.control_plane.take().unwrap().stop().await;
    let key = cluster.directory().join("data/control-plane.key");
    let mut replicas = Replicas::start(1).await;
    replicas.control_planes[0].take().unwrap().stop().await;
    std::fs::copy(&key, replicas.directory.path().join("secrets.key")).unwrap();
    let other = replicas.directory.path().join("data/moved");
    let endpoint = replicas.members[0].client.clone();
    let prefix = ["--etcd-prefix", "/moved", "--etcd-endpoints", &endpoint];
    let path = |path: &std::path::Path| path.display().to_string();
    let (from, directory, key) = (path(&newest), path(&other), path(&key));
    let restore = [
        "restore",
        "--from",
        &from,
        "--data-directory",
        &directory,
        "--secrets-key-file",
        &key,
    ];
    harness::run(
        "wardgate-control-plane",
        &[&restore[..], &prefix[..]].concat(),
    );
    // And back: what a control plane over etcd exports is an export like any other. Read it as such.
    let back = [
        "restore",
        "--from",
        &from,
        "--data-directory",
        &directory,
        "--secrets-key-file",
        &key,
    ];
    harness::run("wardgate-control-plane", &back);
}
