//! Changes under load, over streams that break, from control planes that were away: requests see one revision whole,
//! nobody goes back, and what is shown of a node is so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{Browser, Cluster, DataPlane, Demo, Relay, eventually};
use http::Method;
use serde_json::{Value, json};
use shared::clock::monotonic;

use crate::load::percentile;
use crate::number;
use crate::replicas::{Replicas, timed};

/// A whole configuration in which two kinds of records tell the same number.
fn whole(upstream: &str, number: usize) -> Value {
    json!({ "_format_version": "3.0", "services": [{
        "name": "s", "url": format!("{upstream}/at-{number}"),
        "routes": [{ "name": "r", "paths": ["/p"], "plugins": [{
            "name": "request-transformer", "config": { "add": { "headers": [format!("x-at:{number}")] } },
        }] }],
    }] })
}

/// The two numbers that a request has met.
fn numbers(answer: &Value) -> (String, String) {
    let path = answer["path"].as_str().unwrap_or_default();
    let path = path
        .trim_start_matches("/at-")
        .trim_end_matches('/')
        .to_owned();
    let header = answer["headers"]["x-at"].as_str().unwrap_or_default();
    (path, header.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_together_is_seen_together() {
    let _alone = crate::alone().await;
    let demo = Demo::start(&[]).await;
    let cluster = Cluster::start(2).await;
    let post = async |number: usize| {
        let body = whole(&demo.upstream(), number);
        let reply = cluster.admin(Method::POST, "/config", &body).await;
        assert!(reply.status < 300, "{}", reply.text());
    };
    post(0).await;
    cluster.settled().await;
    let ends = Arc::new(AtomicBool::new(false));
    let clients = [0, 1].map(|at| {
        let (url, ends) = (format!("{}/p", cluster.url(at)), Arc::clone(&ends));
        tokio::spawn(async move {
            let (mut seen, mut answers) = (0, 0);
            while !ends.load(Ordering::Relaxed) {
                let reply = Browser::new().get(&url).await;
                let (path, header) = numbers(&reply.json());
                assert_eq!(path, header, "{}", reply.text());
                let number: usize = path.parse().unwrap();
                assert!(number >= seen, "{seen}, then {number}");
                (seen, answers) = (number, answers + 1);
            }
            answers
        })
    });
    let lasts = Duration::from_secs(number("SECONDS", 10).try_into().unwrap());
    let (started, mut changes) = (monotonic(), 0);
    while started.elapsed() < lasts {
        changes += 1;
        post(changes).await;
    }
    ends.store(true, Ordering::Relaxed);
    let mut answers = 0;
    for client in clients {
        answers += client.await.unwrap();
    }
    println!(
        "{changes} changes in {lasts:?}, {answers} answers, each of one revision and none of an older one"
    );

    // Back to some of them: the same content, by its hash, on every node.
    cluster.settled().await;
    let shown = async || {
        let rows = cluster.read("/clustering/data-planes").await["data"].clone();
        let row = |at: usize| rows[at]["config_hash"].as_str().unwrap().to_owned();
        assert_eq!(row(0), row(1));
        (rows[0]["revision"].as_u64().unwrap(), row(0))
    };
    let mut states = Vec::new();
    for number in 0..10 {
        post(1_000_000 + number).await;
        cluster.settled().await;
        states.push(shown().await);
    }
    let mut times = Vec::new();
    for (revision, hash) in &states {
        let path = format!("/revisions/{revision}/rollback");
        let started = monotonic();
        let reply = cluster.admin(Method::POST, &path, &json!({})).await;
        assert!(reply.status < 300, "{}", reply.text());
        cluster.settled().await;
        times.push(started.elapsed());
        assert_eq!(&shown().await.1, hash, "revision {revision} again");
    }
    times.sort_unstable();
    println!(
        "{} rollbacks, each served by all with the hash of then: p50 {:.1?}, at most {:.1?}",
        times.len(),
        percentile(&times, 50),
        percentile(&times, 100)
    );
}

/// The revision that a node says it runs.
async fn runs(node: &DataPlane) -> Option<u64> {
    node.status().await?["configuration_revision"].as_u64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_break_around_a_change_leave_no_wrong_picture() {
    let _alone = crate::alone().await;
    let mut cluster = Cluster::start(0).await;
    let relay = Relay::start(cluster.cluster_address()).await;
    cluster.lead_through(&relay.address());
    cluster.add_data_plane("node-1").await;
    cluster.settled().await;
    let breaks = number("BREAKS", 30);
    let (mut looks, mut times) = (0, Vec::new());
    for at in 0..breaks {
        cluster.create("/services", json!({ "host": "h" })).await;
        // Somewhere between the offer and the acknowledgement.
        let pause = u64::try_from(at * 7 % 120).unwrap();
        tokio::time::sleep(Duration::from_millis(pause)).await;
        relay.break_all();
        let looking = eventually("the truth is shown", async || {
            let newest = cluster.read("/status").await["configuration_revision"].as_u64()?;
            let row = cluster.read("/clustering/data-planes").await["data"][0].clone();
            looks += 1;
            // A node only goes forward: it runs what it was shown with, or what came after.
            let (shown, running) = (
                row["revision"].as_u64()?,
                runs(&cluster.data_planes[0]).await?,
            );
            assert!(running >= shown, "shown with {shown}, runs {running}");
            let current = row["connected"] == true && row["progress"] == "current";
            assert!(
                !current || running >= newest || shown < newest,
                "{row} runs {running} of {newest}"
            );
            (current && shown >= newest).then_some(())
        });
        times.push(timed(looking).await.1);
    }
    times.sort_unstable();
    println!(
        "{breaks} breaks, {looks} looks, none wrong; the truth was shown after {:.1?} (p50), {:.1?} at most",
        percentile(&times, 50),
        percentile(&times, 100)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs etcd: tests/faults/run"]
async fn a_control_plane_that_thaws_takes_no_node_back() {
    let replicas = Replicas::start(2).await;
    let write = async |at: usize, name: &str| {
        let body = json!({ "username": name });
        let reply = replicas.admin(at, Method::POST, "/consumers", &body).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
    };
    write(0, "before").await;
    replicas.agree().await;
    let node = replicas.node.as_ref().unwrap();
    let url = format!("http://{}/status", node.address("status"));
    let runs = async || {
        let status = Browser::new().try_get(&url).await?.json();
        status["configuration_revision"].as_u64()
    };
    for frozen in [0, 1] {
        let other = 1 - frozen;
        replicas.control_planes[frozen].as_ref().unwrap().freeze();
        for number in 0..20 {
            write(other, &format!("meanwhile-{frozen}-{number}")).await;
        }
        let newest = replicas.read(other, "/status").await["configuration_revision"].as_u64();
        let moved = eventually("the node follows the one that goes on", async || {
            (runs().await == newest).then_some(())
        });
        let ((), took) = timed(moved).await;
        replicas.control_planes[frozen].as_ref().unwrap().thaw();
        // For longer than it takes the one that thaws to offer what it has.
        let mut last = newest;
        for _ in 0..50 {
            let now = runs().await;
            assert!(now >= last, "{last:?}, then {now:?}");
            last = now;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        replicas.agree().await;
        println!(
            "control plane {frozen} frozen: the node had what the other wrote after {took:.1?}, and kept it when it thawed"
        );
    }
}
