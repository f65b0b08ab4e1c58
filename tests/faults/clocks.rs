//! Wall clocks that are wrong, and that jump while processes run: the configuration flows all the same, no timer
//! fires early, and sessions end by the clock of their node and not otherwise.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::{Browser, CLIENT, Cluster, Demo, SECRET, eventually};
use serde_json::json;

use crate::load::{Load, Target};
use crate::replicas::timed;

/// A wall clock for one process, told by a file; the monotonic clock goes on as it is.
struct Clock {
    file: PathBuf,
}

impl Clock {
    fn new(directory: &Path, name: &str) -> Self {
        let clock = Self {
            file: directory.join(format!("{name}.clock")),
        };
        clock.set(0);
        clock
    }

    /// Puts it so many seconds ahead of the true one.
    fn set(&self, ahead: i64) {
        let unfinished = self.file.with_extension("new");
        std::fs::write(&unfinished, format!("{ahead:+}")).unwrap();
        std::fs::rename(unfinished, &self.file).unwrap();
    }

    /// What runs a program by this clock.
    fn command(&self) -> Vec<String> {
        let library = library().expect("libfaketime is installed: tests/faults/run does that");
        vec![
            "env".to_owned(),
            format!("LD_PRELOAD={library}"),
            format!("FAKETIME_TIMESTAMP_FILE={}", self.file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ]
    }
}

/// Where libfaketime is, if it is installed.
fn library() -> Option<String> {
    let files = Command::new("dpkg").args(["-L", "libfaketime"]).output();
    let text = String::from_utf8(files.ok()?.stdout).ok()?;
    let mut paths = text.lines();
    let library = paths.find(|path| path.ends_with("/libfaketime.so.1"))?;
    Some(library.to_owned())
}

const GATEWAY: &str = "gateway.test";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_wrong_and_that_jump_stop_neither_traffic_nor_changes() {
    let _alone = crate::alone().await;
    if library().is_none() {
        eprintln!("left out: it takes libfaketime");
        return;
    }
    let settings = [
        ("WARDGATE_MAX_STALENESS", "60"),
        ("WARDGATE_SESSIONS_MAX_SILENCE", "60"),
    ];
    let mut cluster = Cluster::start_with(0, &settings).await;
    let controls = Clock::new(cluster.directory(), "control-plane");
    let nodes = Clock::new(cluster.directory(), "node-1");
    cluster.control_plane.take().unwrap().stop().await;
    cluster.run_under(&controls.command());
    cluster.start_control_plane().await;
    cluster.certify("node-1");
    cluster.run_under(&nodes.command());
    cluster.start_data_plane("node-1").await;
    let demo = Demo::start(&[format!("http://{GATEWAY}")]).await;
    cluster.route(&demo.upstream(), "/open").await;
    let route = cluster.route(&demo.upstream(), "/").await;
    let plugin = json!({ "name": "openid-connect", "config": {
        "issuer": demo.issuer(), "client_id": [CLIENT], "client_secret": [SECRET],
        "redirect_uri": [format!("http://{GATEWAY}/api")], "scopes": ["openid"],
        "session_rolling_timeout": 3_600, "session_idling_timeout": 3_600,
    } });
    cluster
        .create(&format!("/routes/{route}/plugins"), plugin)
        .await;
    cluster.settled().await;
    let mut browser = Browser::new();
    browser.resolve(GATEWAY, cluster.url(0).trim_start_matches("http://"));
    let url = format!("http://{GATEWAY}/");
    assert_eq!(browser.sign_in(&url, "alice").await.status, 200);
    let load = Load::start(50, vec![Target::of(&cluster.url(0), "/open")]);
    let status = async || browser.get(&url).await.status;
    // (control plane, node, what a session that was begun at the true time is answered)
    for (control, node, session) in [
        (0, -300, Some(200)),
        (0, 50, Some(200)),
        (0, -50, Some(200)),
        (3_600, 0, Some(200)),
        (-3_600, 0, Some(200)),
        (-86_400, 0, Some(200)),
        (86_400, 0, Some(200)),
        // Its hour is over by this clock, so the user signs in again; nothing is taken back for when it is right.
        (0, 3_700, Some(302)),
        (0, 86_400, Some(302)),
        (0, -86_400, None),
        (0, 0, Some(200)),
    ] {
        controls.set(control);
        nodes.set(node);
        let case = format!("control plane {control:+} s, node {node:+} s");
        // At the moment of the jump nothing ends: there was a word a moment ago, whatever the clock says.
        assert!(cluster.data_planes[0].is_ready().await, "{case}");
        let answered = status().await;
        if let Some(expected) = session {
            assert_eq!(answered, expected, "{case}");
        }
        assert!(answered < 500, "{case}: {answered}");
        cluster.create("/services", json!({ "host": "h" })).await;
        let ((), took) = timed(cluster.settled()).await;
        let told = eventually("the offset of the clocks is told", async || {
            let row = cluster.read("/clustering/data-planes").await["data"][0].clone();
            let offset = row["clock_offset_ms"].as_i64()?;
            ((offset - (node - control) * 1_000).abs() < 5_000).then_some(offset)
        });
        let (offset, told) = timed(told).await;
        println!(
            "{case}: session {answered}, a change after {took:.1?}, offset {offset} ms told after {told:.1?}"
        );
    }
    // A node that starts while its clock is wrong.
    for ahead in [-3_600, 3_600, 86_400 * 20] {
        nodes.set(ahead);
        load.turn_to(Vec::new());
        cluster.data_planes.remove(0).process.stop().await;
        cluster.start_data_plane("node-1").await;
        load.turn_to(vec![Target::of(&cluster.url(0), "/open")]);
        cluster.create("/services", json!({ "host": "h" })).await;
        cluster.settled().await;
    }
    let figures = load.end().await;
    figures.none_failed();
    println!("meanwhile {figures}");
}

/// Silence of an hour to a month, by the clock of the node: what it has holds as long, also over restarts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a while: tests/faults/run"]
async fn a_store_that_is_begun_anew_by_a_slow_clock_leads_the_nodes_that_are_there() {
    let mut cluster = Cluster::start(1).await;
    let demo = Demo::start(&[]).await;
    cluster.route(&demo.upstream(), "/before").await;
    cluster.settled().await;
    let clock = Clock::new(cluster.directory(), "control-plane");
    clock.set(-3_000);
    cluster.control_plane.take().unwrap().stop().await;
    std::fs::remove_dir_all(cluster.directory().join("data/control-plane")).unwrap();
    cluster.run_under(&clock.command());
    cluster.start_control_plane().await;
    eventually("the node waits for a configuration", async || {
        let rows = cluster.read("/clustering/data-planes").await;
        (rows["data"][0]["connected"] == true).then_some(())
    })
    .await;
    let status = async |path: &str| {
        let url = format!("{}{path}", cluster.url(0));
        Browser::new().get(&url).await.status
    };
    assert_eq!(status("/before").await, 200);
    cluster.route(&demo.upstream(), "/anew").await;
    cluster.settled().await;
    assert_eq!((status("/before").await, status("/anew").await), (404, 200));
    let rows = cluster.read("/clustering/data-planes").await;
    assert_eq!(rows["data"][0]["progress"], "current", "{rows}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn a_node_that_hears_nobody_for_a_month_serves_and_starts_again() {
    const HOUR: i64 = 3_600;
    let mut cluster = Cluster::start(0).await;
    let clock = Clock::new(cluster.directory(), "node-1");
    cluster.certify("node-1");
    cluster.run_under(&clock.command());
    cluster.start_data_plane("node-1").await;
    let demo = Demo::start(&[]).await;
    cluster.route(&demo.upstream(), "/open").await;
    let route = cluster.route(&demo.upstream(), "/keyed").await;
    let plugin = json!({ "name": "key-auth" });
    cluster
        .create(&format!("/routes/{route}/plugins"), plugin)
        .await;
    cluster
        .create("/consumers", json!({ "username": "ann" }))
        .await;
    cluster
        .create("/consumers/ann/key-auth", json!({ "key": "key-of-ann" }))
        .await;
    cluster.settled().await;
    cluster.persisted().await;
    cluster.control_plane.take().unwrap().kill();
    let load = Load::start(50, vec![Target::of(&cluster.url(0), "/open")]);
    for hours in [1, 6, 24, 24 * 7, 24 * 30] {
        clock.set(hours * HOUR);
        load.within(Duration::from_secs(1)).await.none_failed();
        load.turn_to(Vec::new());
        cluster.data_planes.remove(0).process.stop().await;
        let ((), took) = timed(cluster.start_data_plane("node-1")).await;
        load.turn_to(vec![Target::of(&cluster.url(0), "/open")]);
        let keyed = format!("{}/keyed", cluster.url(0));
        for (key, expected) in [("key-of-ann", 200), ("another", 401)] {
            let reply = Browser::new().get_with(&keyed, &[("apikey", key)]).await;
            assert_eq!(reply.status, expected, "{hours} h: {}", reply.text());
        }
        println!("alone for {hours} h: it serves, and did so {took:.1?} after a start");
    }
    cluster.run_under::<&str>(&[]);
    cluster.start_control_plane().await;
    cluster.create("/services", json!({ "host": "h" })).await;
    let ((), took) = timed(cluster.settled()).await;
    let figures = load.end().await;
    figures.none_failed();
    println!("a change {took:.1?} after the control plane is back; meanwhile {figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn a_certificate_that_ends_while_all_runs_stops_no_traffic_and_is_told() {
    const YEARS: i64 = 86_400 * 365;
    let mut cluster = Cluster::start(0).await;
    let demo = Demo::start(&[]).await;
    cluster.route(&demo.upstream(), "/open").await;
    let clock = Clock::new(cluster.directory(), "all");
    cluster.control_plane.take().unwrap().stop().await;
    cluster.run_under(&clock.command());
    cluster.start_control_plane().await;
    cluster.certify("node-1");
    cluster.start_data_plane("node-1").await;
    cluster.settled().await;
    cluster.persisted().await;
    let load = Load::start(50, vec![Target::of(&cluster.url(0), "/open")]);
    // Ten days before the members' certificates end, which is after three years.
    clock.set(3 * YEARS - 10 * 86_400);
    let row = eventually("the end is announced", async || {
        let row = cluster.read("/clustering/data-planes").await["data"][0].clone();
        (!row["expiring"].as_array()?.is_empty()).then_some(row)
    })
    .await;
    println!("announced: {}", row["expiring"]);
    let node = &cluster.data_planes[0].process;
    let says = async |words: &str| {
        for process in [cluster.control_plane.as_ref().unwrap(), node] {
            eventually(words, async || process.log().contains(words).then_some(())).await;
        }
    };
    says("a certificate ends soon").await;
    // They have ended. The stream that is there stays; what the control plane signs now, no node believes, and says so.
    clock.set(3 * YEARS + 86_400);
    says("a certificate has ended").await;
    cluster.create("/services", json!({ "host": "h" })).await;
    let refusal = eventually("the node says that it does not believe it", async || {
        let row = cluster.read("/clustering/data-planes").await["data"][0].clone();
        assert_eq!(row["connected"], true, "{row}");
        (!row["last_refusal"].is_null()).then(|| row["last_refusal"].clone())
    })
    .await;
    println!("refused: {}", refusal["faults"][0]["message"]);
    assert!(refusal.to_string().contains("certificate"), "{refusal}");
    // Who has to connect anew cannot, and both sides say why; what runs goes on.
    cluster.control_plane.take().unwrap().kill();
    cluster.start_control_plane().await;
    let node = &cluster.data_planes[0];
    eventually("the node says why it is alone", async || {
        let log = node.process.log().to_lowercase();
        log.contains("expired").then_some(())
    })
    .await;
    assert!(node.is_ready().await);
    load.within(Duration::from_secs(3)).await.none_failed();
    // Renewed, they are used without a restart. The command takes the true time, so the clocks go back for it.
    clock.set(0);
    cluster.certify("node-1");
    cluster.settled().await;
    let figures = load.end().await;
    figures.none_failed();
    println!("meanwhile {figures}");
}
