//! Links that are worse than those of a data centre: what does not wait for a large update that a slow one takes a minute to
//! carry, and one that loses every tenth packet.

use std::time::Duration;

use harness::{Browser, Cluster, eventually, within};
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::load::{Load, Target, percentile};
use crate::namespace::Namespace;
use crate::replicas::timed;

/// Whoever has neither a key nor a session.
const NOBODY: &str = "7f5b5b3e-0000-4000-8000-000000000000";

/// A link of 512 kbit/s.
const SLOW: u32 = 512;

/// A configuration with `consumers`, in which a key begins a session.
pub(crate) fn config(mut consumers: Vec<Value>) -> Value {
    let known = json!({
        "username": "known", "keyauth_credentials": [{ "key": "kong" }],
    });
    let refused = json!({ "name": "request-termination", "config": { "status_code": 403 } });
    consumers.push(known);
    consumers.push(json!({ "id": NOBODY, "username": "nobody", "plugins": [refused] }));
    json!({
        "_format_version": "3.0",
        "routes": [{ "name": "r", "paths": ["/p"] }],
        "plugins": [
            { "name": "session" },
            { "name": "key-auth", "config": { "anonymous": NOBODY } },
            { "name": "request-termination", "config": { "status_code": 200 } },
        ],
        "consumers": consumers,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: tests/faults/run"]
async fn a_logout_passes_a_large_update_on_a_slow_link() {
    let namespace = Namespace::make("logout");
    let (control, clients) = (namespace.link(7), namespace.link(8));
    let listen = format!("{}:0", control.ours);
    let mut cluster = Cluster::start_with(0, &[("WARDGATE_CLUSTER_LISTEN", &listen)]).await;
    for name in ["node-1", "node-2"] {
        cluster.certify(name);
    }
    cluster.start_data_plane("node-2").await;
    let proxy = ("WARDGATE_PROXY_LISTEN", format!("{}:0", clients.theirs));
    cluster.run_under(&namespace.command());
    cluster.start_data_plane_with("node-1", &[proxy]).await;
    let declare = async |consumers| {
        let reply = cluster
            .admin(Method::POST, "/config", &config(consumers))
            .await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        reply.header("x-wardgate-revision").parse::<u64>().unwrap()
    };
    declare(Vec::new()).await;
    cluster.settled().await;
    let ask = async |at: usize, method: Method, path: &str, header: (&str, &str)| {
        let url = format!("{}{path}", cluster.url(at));
        Browser::new().send(method, &url, &[header], "").await
    };
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let reply = ask(0, Method::GET, "/p", ("apikey", "kong")).await;
        let line = reply.header("set-cookie");
        sessions.push(line.split(';').next().unwrap().to_owned());
    }
    let status = async |at: usize, session: &str| {
        ask(at, Method::GET, "/p", ("cookie", session)).await.status
    };
    for session in &sessions {
        assert_eq!(status(1, session).await, 200);
    }
    cluster.settled().await;
    control.slow(SLOW);
    // Nothing packs them.
    let tags = || -> Vec<String> { (0..20).map(|_| Uuid::new_v4().to_string()).collect() };
    let many = (0..3_000).map(|number| json!({ "username": number.to_string(), "tags": tags() }));
    let newest = declare(many.collect()).await;
    let started = shared::clock::monotonic();
    let row = async || {
        let rows = cluster.read("/clustering/data-planes").await["data"].clone();
        let mut rows = rows.as_array().unwrap().iter();
        rows.find(|row| row["name"] == "node-1").cloned().unwrap()
    };
    let mut slowest = Duration::ZERO;
    for session in &sessions[1..] {
        // Spread over the time that the update takes.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let logout = "/p?session_logout=true";
        let reply = ask(0, Method::POST, logout, ("cookie", session)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let over = eventually(
            "the session is over on the node on the slow link",
            async || (status(1, session).await == 403).then_some(()),
        );
        slowest = slowest.max(timed(over).await.1);
        let row = row().await;
        let behind = row["revision"].as_u64().unwrap() < newest;
        assert!(
            behind,
            "the update was not to have come before the logout: {row}"
        );
    }
    assert_eq!(status(1, &sessions[0]).await, 200, "the others go on");
    within(
        Duration::from_mins(3),
        "the node on the slow link has it",
        async || {
            let row = row().await;
            let newest = row["revision"].as_u64().unwrap() >= newest;
            (newest && row["progress"] == "current").then_some(())
        },
    )
    .await;
    println!(
        "at {SLOW} kbit/s a logout holds after {slowest:.1?} at most, beside an update that took {:.0?}",
        started.elapsed()
    );
    for session in &sessions[1..] {
        assert_eq!(status(1, session).await, 403);
    }
    assert_eq!(status(1, &sessions[0]).await, 200);
    let log = cluster.data_planes[1].process.log();
    assert_eq!(log.matches("following a control plane").count(), 1, "{log}");
}

/// Changes of a route that a node on a bad link follows.
const CHANGES: usize = 50;

/// Requests over a bad link.
const REQUESTS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: tests/faults/run"]
async fn a_link_that_loses_every_tenth_packet_costs_time_and_nothing_else() {
    let namespace = Namespace::make("lossy");
    let [control, clean, clients] = [9, 10, 11].map(|number| namespace.link(number));
    let listen = format!("{}:0", control.ours);
    let mut cluster = Cluster::start_with(0, &[("WARDGATE_CLUSTER_LISTEN", &listen)]).await;
    cluster.certify("node-1");
    // One listener, which clients reach over either link.
    let proxy = ("WARDGATE_PROXY_LISTEN", "0.0.0.0:0".to_owned());
    cluster.run_under(&namespace.command());
    cluster.start_data_plane_with("node-1", &[proxy]).await;
    let route = cluster.create("/routes", json!({ "paths": ["/p"] })).await;
    let config = |message: usize| json!({ "config": { "status_code": 200, "message": message.to_string() } });
    let mut plugin = config(0);
    plugin["name"] = json!("request-termination");
    plugin["route"] = json!({ "id": route["id"] });
    let plugin = cluster.create("/plugins", plugin).await;
    let plugin = format!("/plugins/{}", plugin["id"].as_str().unwrap());
    cluster.settled().await;
    let port = cluster.url(0).rsplit(':').next().unwrap().to_owned();
    let over = |link: &crate::namespace::Link| format!("http://{}:{port}", link.theirs);
    let load = Load::start(50, vec![Target::of(&over(&clean), "/p")]);
    let before = load.within(Duration::from_secs(3)).await;

    let _losses = [control.lose_some(10), clients.lose_some(10)];
    let mut changes = Vec::new();
    for number in 1..=CHANGES {
        cluster.patch(&plugin, config(number)).await;
        let url = format!("{}/p", over(&clean));
        let served = eventually("the node serves the change", async || {
            let reply = Browser::new().get(&url).await;
            (reply.json()["message"] == json!(number.to_string())).then_some(())
        });
        changes.push(timed(served).await.1);
    }
    let many = (0..2_000).map(|number| json!({ "username": number.to_string() }));
    let many = with_consumers(&many.collect::<Vec<_>>());
    let reply = cluster.admin(Method::POST, "/config", &many).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let ((), large) = timed(cluster.settled()).await;
    let mut requests = Vec::new();
    for _ in 0..REQUESTS {
        let url = format!("{}/p", over(&clients));
        let (reply, took) = timed(async { Browser::new().get(&url).await }).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        requests.push(took);
    }
    changes.sort_unstable();
    requests.sort_unstable();
    let figures = load.end().await;
    for (what, times) in [("changes", &changes), ("new connections", &requests)] {
        println!(
            "10 % lost: {} {what}: p50 {:.1?}, p99 {:.1?}",
            times.len(),
            percentile(times, 50),
            percentile(times, 99)
        );
    }
    println!(
        "10 % lost: 2,000 consumers after {large:.1?}; traffic before {before}, meanwhile {figures}"
    );
    figures.none_failed();
    // What is late is not gone: nobody takes the other for dead.
    let log = cluster.data_planes[0].process.log();
    assert_eq!(log.matches("following a control plane").count(), 1, "{log}");
}

/// The route that is asked for, with `consumers`.
fn with_consumers(consumers: &[Value]) -> Value {
    let ends = json!({ "name": "request-termination", "config": { "status_code": 200 } });
    json!({
        "_format_version": "3.0",
        "routes": [{ "name": "r", "paths": ["/p"], "plugins": [ends] }],
        "consumers": consumers,
    })
}
