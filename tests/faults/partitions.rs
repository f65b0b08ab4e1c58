//! A network that loses everything: a node cut off from its control plane, and control planes cut off from
//! each other.

use std::time::Duration;

use harness::{Browser, Cluster, eventually};
use http::Method;
use serde_json::{Value, json};

use crate::loops::Traffic;
use crate::namespace::Namespace;
use crate::replicas::{HERE, Place, Replicas, timed};

/// What the route answers, if it does.
async fn answer(url: &str) -> Option<Value> {
    let reply = Browser::new().try_get(url).await?;
    (reply.status == 200).then(|| reply.json()["message"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: tests/faults/run"]
async fn a_node_that_the_network_cuts_off_serves_and_catches_up() {
    let namespace = Namespace::make("node");
    let (control, clients) = (namespace.link(0), namespace.link(1));
    let listen = format!("{}:0", control.ours);
    let mut cluster = Cluster::start_with(0, &[("WARDGATE_CLUSTER_LISTEN", &listen)]).await;
    cluster.certify("node-1");
    let proxy = ("WARDGATE_PROXY_LISTEN", format!("{}:0", clients.theirs));
    let name = namespace.name.clone();
    cluster.start_data_plane_in(&name, "node-1", &[proxy]).await;
    let route = cluster.create("/routes", json!({ "paths": ["/p"] })).await;
    let config = |number: u32| json!({ "status_code": 200, "message": number.to_string() });
    let plugin = json!({ "name": "request-termination", "route": { "id": route["id"] }, "config": config(0) });
    let plugin = cluster.create("/plugins", plugin).await;
    let plugin = format!("/plugins/{}", plugin["id"].as_str().unwrap());
    cluster.settled().await;
    let url = format!("{}/p", cluster.url(0));
    let traffic = Traffic::default();
    traffic.urls.lock().unwrap().push(url.clone());
    let running = tokio::spawn(traffic.clone().run());

    // Shorter than anyone notices, and longer than both sides wait for a word.
    for (number, lasts) in [(1, 1), (2, 5), (3, 45), (4, 1)] {
        let before = answer(&url).await;
        control.cut();
        cluster
            .patch(&plugin, json!({ "config": config(number) }))
            .await;
        tokio::time::sleep(Duration::from_secs(lasts)).await;
        assert_eq!(answer(&url).await, before, "nothing gets through");
        let row = cluster.read("/clustering/data-planes").await["data"][0].clone();
        if lasts > 40 {
            assert_eq!(row["connected"], json!(false), "{row}");
        }
        control.heal();
        let ((), took) = timed(eventually("the node catches up", async || {
            (answer(&url).await? == json!(number.to_string())).then_some(())
        }))
        .await;
        println!("cut off for {lasts} s: served {took:?} after the network was back");
    }
    cluster.settled().await;
    let answered = traffic.end(running).await;
    println!("{answered} requests answered meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root and etcd: tests/faults/run"]
async fn of_two_halves_only_one_takes_writes() {
    let namespace = Namespace::make("half");
    let (link, ours) = (namespace.link(2), namespace.link(3));
    let large = Place {
        cluster: link.ours,
        ..HERE
    };
    let small = Place {
        namespace: Some(namespace.name.clone()),
        cluster: link.theirs,
        admin: ours.theirs,
    };
    let members = [large.clone(), large.clone(), small.clone()];
    let replicas = Replicas::start_at(members, vec![large, small], &[]).await;
    let write = async |at: usize, name: &str| {
        let body = json!({ "username": name });
        let reply = replicas.admin(at, Method::POST, "/consumers", &body).await;
        reply.status
    };
    assert_eq!(write(0, "before-0").await, 201);
    assert_eq!(write(1, "before-1").await, 201);
    replicas.agree().await;
    for round in 0..3 {
        link.cut();
        let small = format!("small-{round}");
        let (status, took) = timed(write(1, &small)).await;
        assert_eq!(status, 503, "the smaller half cannot promise to keep it");
        println!("the smaller half refuses a write after {took:?}");
        let large = format!("large-{round}");
        let ((), pause) = timed(eventually("the larger half takes writes", async || {
            [201, 409].contains(&write(0, &large).await).then_some(())
        }))
        .await;
        println!("the larger half takes a write after {pause:?}");
        link.heal();
        let ((), took) = timed(replicas.agree()).await;
        println!("both have the same {took:?} after the network was back");
        for at in [0, 1] {
            assert_eq!(
                replicas.read(at, &format!("/consumers/{large}")).await["username"],
                json!(large)
            );
            let lost = replicas.read(at, &format!("/consumers/{small}")).await;
            assert_eq!(
                lost["message"],
                json!("Not found"),
                "what was refused is nowhere"
            );
        }
        eventually("the smaller half takes writes again", async || {
            let name = format!("again-{round}");
            [201, 409].contains(&write(1, &name).await).then_some(())
        })
        .await;
    }
}
