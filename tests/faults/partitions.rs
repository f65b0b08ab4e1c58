//! A network that loses everything: a node cut off from its control plane, and control planes cut off from
//! each other.

use std::time::Duration;

use harness::{Browser, Cluster, eventually, within};
use http::Method;
use serde_json::{Value, json};

use crate::load::{Load, Target};
use crate::loops::Traffic;
use crate::namespace::{Link, Namespace, Way};
use crate::numbered::Numbered;
use crate::replicas::{HERE, Place, Replicas, timed};

/// What the route answers, if it does.
async fn answer(url: &str) -> Option<Value> {
    let reply = Browser::new().try_get(url).await?;
    (reply.status == 200).then(|| reply.json()["message"].clone())
}

/// A node that hears its control plane and its clients by these links alone.
async fn apart(namespace: &Namespace, control: &Link, clients: &Link) -> Cluster {
    let listen = format!("{}:0", control.ours);
    let mut cluster = Cluster::start_with(0, &[("WARDGATE_CLUSTER_LISTEN", &listen)]).await;
    cluster.certify("node-1");
    let proxy = ("WARDGATE_PROXY_LISTEN", format!("{}:0", clients.theirs));
    cluster.run_under(&namespace.command());
    cluster.start_data_plane_with("node-1", &[proxy]).await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: tests/faults/run"]
async fn a_node_that_the_network_cuts_off_serves_and_catches_up() {
    let namespace = Namespace::make("node");
    let (control, clients) = (namespace.link(0), namespace.link(1));
    let cluster = apart(&namespace, &control, &clients).await;
    let numbered = Numbered::create(&cluster).await;
    cluster.settled().await;
    let url = format!("{}/p", cluster.url(0));
    let traffic = Traffic::default();
    traffic.urls.lock().unwrap().push(url.clone());
    let running = tokio::spawn(traffic.clone().run());

    // Shorter than anyone notices, and longer than both sides wait for a word.
    for (number, lasts) in [(1, 1), (2, 5), (3, 45), (4, 1)] {
        let before = answer(&url).await;
        control.cut();
        numbered.set(&cluster, number).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: tests/faults/run"]
async fn a_link_that_loses_one_direction_is_as_one_that_loses_both() {
    let namespace = Namespace::make("oneway");
    let (control, clients) = (namespace.link(4), namespace.link(5));
    let cluster = apart(&namespace, &control, &clients).await;
    Numbered::create(&cluster).await;
    cluster.settled().await;
    let load = Load::start(50, vec![Target::of(&cluster.url(0), "/p")]);
    for way in [Way::ToUs, Way::FromUs] {
        control.lose(way);
        let noticing = eventually("the control plane notices", async || {
            let row = cluster.read("/clustering/data-planes").await["data"][0].clone();
            (row["connected"] == json!(false)).then_some(())
        });
        let ((), noticed) = timed(noticing).await;
        cluster.create("/services", json!({ "host": "h" })).await;
        control.heal();
        let ((), back) = timed(cluster.settled()).await;
        println!("{way:?} lost: noticed after {noticed:.1?}, in sync {back:.1?} after it was back");
    }
    let figures = load.end().await;
    figures.none_failed();
    println!("meanwhile {figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: tests/faults/run"]
async fn a_node_on_a_slow_link_delays_nobody_and_skips_what_is_old() {
    let namespace = Namespace::make("slow");
    let control = namespace.link(6);
    let listen = format!("{}:0", control.ours);
    let mut cluster = Cluster::start_with(0, &[("WARDGATE_CLUSTER_LISTEN", &listen)]).await;
    for name in ["node-1", "node-2"] {
        cluster.certify(name);
    }
    cluster.start_data_plane("node-2").await;
    cluster.run_under(&namespace.command());
    cluster.start_data_plane("node-1").await;
    cluster.settled().await;
    // Some 10 kB a second.
    control.slow(80);
    let whole = |number: usize| {
        let services = (0..1_500).map(|at| {
            let id = format!(
                "{at:08x}-{number:04x}-4000-8000-{:012x}",
                at * 7_919 + number
            );
            json!({ "id": id, "name": format!("s-{at}"), "host": format!("{number}.internal") })
        });
        json!({ "_format_version": "3.0", "services": services.collect::<Vec<_>>() })
    };
    let row = async |name: &str| {
        let rows = cluster.read("/clustering/data-planes").await["data"].clone();
        let mut rows = rows.as_array()?.iter();
        rows.find(|row| row["name"] == name).cloned()
    };
    let mut slowest = Duration::ZERO;
    let mut newest = 0;
    for number in 0..8 {
        let reply = cluster.admin(Method::POST, "/config", &whole(number)).await;
        assert!(reply.status < 300, "{}", reply.text());
        newest = reply.header("x-wardgate-revision").parse().unwrap();
        let served = eventually("the other node has it", async || {
            (row("node-2").await?["revision"].as_u64()? >= newest).then_some(())
        });
        slowest = slowest.max(timed(served).await.1);
    }
    let control_plane = cluster.control_plane.as_ref().unwrap().memory_now();
    let mut met = std::collections::BTreeSet::new();
    let started = shared::clock::monotonic();
    within(
        Duration::from_mins(3),
        "the slow node has the last",
        async || {
            let row = row("node-1").await.unwrap();
            let revision = row["revision"].as_u64().unwrap();
            met.insert(revision);
            (revision >= newest && row["progress"] == "current").then_some(())
        },
    )
    .await;
    println!(
        "a node at 10 kB/s: the other had each of 8 changes after {slowest:.1?} at most; it had the last {:.0?} later, by {} steps; the control plane had {} MB",
        started.elapsed(),
        met.len(),
        control_plane / 1_000_000
    );
    assert!(met.len() < 8, "old ones are skipped: {met:?}");
}
