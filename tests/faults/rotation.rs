//! Certificates that change all the time: no request fails for it, and nobody connects again.

use std::path::Path;

use harness::{Cluster, Demo, Process, eventually, run};
use serde_json::json;

use crate::loops::Traffic;
use crate::number;

/// What a process says when it has read new certificates.
const RENEWED: &str = "certificates were renewed";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn certificates_rotate_under_load_and_nobody_connects_again() {
    let rotations = number("ROTATIONS", 50);
    let demo = Demo::start(&[]).await;
    let names = ["node-1", "node-2"];
    let mut cluster = Cluster::start(names.len()).await;
    cluster.route(&demo.upstream(), "/probe").await;
    cluster.settled().await;
    let traffic = Traffic::default();
    let urls = (0..names.len()).map(|at| format!("{}/probe", cluster.url(at)));
    *traffic.urls.lock().unwrap() = urls.collect();
    let running = tokio::spawn(traffic.clone().run());

    let directory = cluster.directory().join("certificates");
    let authority = directory.join("ca.pem");
    let renew = |out: &Path| {
        let out = out.display().to_string();
        let members = ["--data-plane", "node-1", "--data-plane", "node-2"];
        let arguments = [&["certificates", "--out", &out][..], &members].concat();
        run("wardgate-control-plane", &arguments);
    };
    for rotation in 1..=rotations {
        // Every fifth is one of the authority, too: the old one is believed beside the new one. Never is the new one
        // there alone: that would end every stream.
        if rotation % 5 == 0 {
            let staged = tempfile::tempdir().unwrap();
            renew(staged.path());
            let old = std::fs::read_to_string(&authority).unwrap();
            let new = std::fs::read_to_string(staged.path().join("ca.pem")).unwrap();
            let both = directory.join("ca.new");
            std::fs::write(&both, format!("{new}{old}")).unwrap();
            std::fs::rename(both, &authority).unwrap();
            for made in std::fs::read_dir(staged.path()).unwrap() {
                let made = made.unwrap();
                if made.file_name() != "ca.pem" {
                    std::fs::copy(made.path(), directory.join(made.file_name())).unwrap();
                }
            }
        } else {
            renew(&directory);
        }
        let processes = cluster.data_planes.iter().map(|node| &node.process);
        for process in processes.chain(cluster.control_plane.as_ref()) {
            eventually("the new certificates are read", async || {
                (process.log().matches(RENEWED).count() >= rotation).then_some(())
            })
            .await;
        }
        if rotation % 10 == 0 {
            cluster.create("/services", json!({ "host": "h" })).await;
            cluster.settled().await;
        }
    }
    let answered = traffic.end(running).await;
    println!("{rotations} rotations, {answered} requests answered");
    let streams = |process: &Process| process.log().matches("following a control plane").count();
    for node in &cluster.data_planes {
        assert_eq!(
            streams(&node.process),
            1,
            "{} has connected again",
            node.name
        );
    }
    // Who has to connect again can.
    let node = cluster.data_planes.pop().unwrap();
    node.process.kill();
    cluster.start_data_plane(&node.name).await;
    cluster.create("/services", json!({ "host": "h" })).await;
    cluster.settled().await;
}
