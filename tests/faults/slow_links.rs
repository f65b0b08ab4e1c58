//! What does not wait for a large update that a slow link takes a minute to carry.

use std::time::Duration;

use harness::{Browser, Cluster, eventually};
use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::namespace::Namespace;
use crate::replicas::timed;

/// Whoever has neither a key nor a session.
const NOBODY: &str = "7f5b5b3e-0000-4000-8000-000000000000";

/// A link of 512 kbit/s.
const SLOW: u32 = 512;

/// A configuration with `consumers`, in which a key begins a session.
fn config(mut consumers: Vec<Value>) -> Value {
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
    let done = async {
        loop {
            let row = row().await;
            if row["revision"].as_u64().unwrap() >= newest && row["progress"] == "current" {
                return;
            }
            assert!(started.elapsed() < Duration::from_mins(3), "{row}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    done.await;
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
