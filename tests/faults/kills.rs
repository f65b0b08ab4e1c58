//! Processes that are killed at one system call after the other, wherever they touch a file: what was acknowledged
//! is kept, what was not is whole or absent, and the next start needs no help.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Browser, Cluster, eventually};
use http::Method;
use serde_json::{Value, json};

use crate::injection::{inject, is_possible};
use crate::numbered::Numbered;

/// What a program does to files.
const CALLS: [&str; 10] = [
    "openat",
    "mkdir",
    "write",
    "pwrite64",
    "ftruncate",
    "sync_file_range",
    "fdatasync",
    "fsync",
    "rename",
    "unlink",
];

/// More calls of one kind a thread does not make here; it is asked about no further.
const MOST: usize = 60;

fn kill_at(call: &str, number: usize, paths: &[&Path]) -> Vec<String> {
    inject(&format!("{call}:signal=KILL:when={number}"), paths)
}

/// The consumers that the control plane has.
pub(crate) async fn consumers(cluster: &Cluster) -> BTreeSet<String> {
    let all = cluster.list("/consumers").await;
    let names = all.iter().map(|one| one["username"].as_str().unwrap());
    names.map(str::to_owned).collect()
}

/// Writes to a control plane until it is gone, or has taken four; whether it is gone.
async fn write(cluster: &Cluster, round: &str, acknowledged: &mut BTreeSet<String>) -> bool {
    for number in 0..4 {
        let name = format!("{round}-{number}");
        let body = json!({ "username": name });
        let reply = cluster.try_admin(Method::POST, "/consumers", &body).await;
        match reply.map(|reply| reply.status) {
            Some(201) => _ = acknowledged.insert(name),
            Some(status) => panic!("{round}: {status}"),
            None => return true,
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn killed_at_any_system_call_a_control_plane_keeps_what_it_acknowledged() {
    let mut cluster = Cluster::start(0).await;
    let mut acknowledged = BTreeSet::new();
    let mut kills = 0;
    for call in CALLS {
        let mut number = 0;
        loop {
            number += 1;
            cluster.control_plane.take().unwrap().kill();
            cluster.run_under(&kill_at(call, number, &[]));
            let round = format!("{call}-{number}");
            let killed = match cluster.try_start_control_plane().await {
                Ok(()) => write(&cluster, &round, &mut acknowledged).await,
                Err(_) => true,
            };
            if let Some(process) = cluster.control_plane.take() {
                process.kill();
            }
            cluster.run_under::<&str>(&[]);
            cluster.start_control_plane().await;
            let found = consumers(&cluster).await;
            let lost: Vec<_> = acknowledged.difference(&found).collect();
            assert!(lost.is_empty(), "{round}: {lost:?} were acknowledged");
            // One more may be there: that whose answer was cut off.
            let more = found.difference(&acknowledged).cloned().collect::<Vec<_>>();
            assert!(more.len() <= 1, "{round}: nobody has acknowledged {more:?}");
            acknowledged.extend(more);
            kills += usize::from(killed);
            if !killed || number == MOST {
                break;
            }
        }
        println!("{call}: killed at up to {} calls of a thread", number - 1);
    }
    println!(
        "{kills} kills, {} writes acknowledged, none lost",
        acknowledged.len()
    );
}

/// The newest export below `data`.
fn newest_export(data: &Path) -> Option<PathBuf> {
    let exports = std::fs::read_dir(data.join("exports")).ok()?.flatten();
    let paths = exports.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "export"))
        .max()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn killed_at_any_system_call_a_restore_is_only_to_be_run_again() {
    let mut cluster = Cluster::start(0).await;
    cluster
        .create("/consumers", json!({ "username": "exported" }))
        .await;
    cluster.control_plane.take().unwrap().stop().await;
    let data = cluster.directory().join("data/control-plane");
    // The first start may have exported what was there before.
    if let Some(empty) = newest_export(&data) {
        std::fs::remove_file(empty).unwrap();
    }
    cluster.start_control_plane().await;
    let export = eventually("the store is exported", async || newest_export(&data)).await;
    cluster.control_plane.take().unwrap().stop().await;
    // Each start exports what it finds, and three are kept.
    let kept = cluster.directory().join("kept.export");
    std::fs::copy(export, &kept).unwrap();
    let (from, directory) = (kept.display().to_string(), data.display().to_string());
    let restore = ["restore", "--from", &from, "--data-directory", &directory];
    let program = harness::path("wardgate-control-plane");
    let mut kills = 0;
    for call in CALLS {
        for number in 1.. {
            let under = kill_at(call, number, &[]);
            let ran = Command::new(&under[0])
                .args(&under[1..])
                .arg(&program)
                .args(restore)
                .output()
                .unwrap();
            if ran.status.success() || number > MOST {
                break;
            }
            kills += 1;
            // As it is, the store is one of the two, or the start says what to do.
            if cluster.try_start_control_plane().await.is_ok() {
                assert!(consumers(&cluster).await.contains("exported"));
                cluster.control_plane.take().unwrap().stop().await;
            } else {
                let log = cluster.directory().join("control-plane.log");
                let log = std::fs::read_to_string(log).unwrap();
                let last = log.lines().last().unwrap_or_default();
                assert!(last.contains("restore --from"), "{call} {number}: {last}");
            }
            harness::run("wardgate-control-plane", &restore);
        }
    }
    cluster.start_control_plane().await;
    assert!(consumers(&cluster).await.contains("exported"));
    println!("{kills} kills of a restore, and each was mended by another");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_system_call_a_node_starts_with_the_newest_or_the_one_before() {
    let _alone = crate::alone().await;
    if !is_possible() {
        return;
    }
    let mut cluster = Cluster::start(0).await;
    cluster.certify("node-1");
    let numbered = Numbered::create(&cluster).await;
    cluster.start_data_plane("node-1").await;
    cluster.settled().await;
    cluster.persisted().await;
    cluster.data_planes.remove(0).process.stop().await;
    let data = cluster.directory().join("data/node-1");
    let files = [
        "",
        "last-good",
        "last-good.1",
        "last-good.2",
        "last-good.new",
        "trying",
        "trying.new",
    ];
    let files = files.map(|name| data.join(name));
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    // Nobody is there.
    let alone = ("WARDGATE_CONTROL_PLANES", "https://127.0.0.1:1".to_owned());
    let (mut newest, mut kills, mut before) = (0, 0, 0);
    for call in CALLS {
        for number in 1..=MOST {
            newest += 1;
            numbered.set(&cluster, newest).await;
            cluster.run_under(&kill_at(call, number, &files));
            let killed = match cluster.try_start_data_plane("node-1").await {
                Ok(()) => {
                    let mut node = cluster.data_planes.remove(0).process;
                    let status = format!("http://{}/status", node.address("status"));
                    let killed = eventually("it is killed, or has kept the newest", async || {
                        if node.ended().is_some() {
                            return Some(true);
                        }
                        let status = Browser::new().try_get(&status).await?.json();
                        let revision = status["configuration_revision"].as_u64();
                        let kept = status["configuration_persisted"] == true
                            && revision == status["control_plane"]["revision"].as_u64();
                        kept.then_some(false)
                    })
                    .await;
                    node.kill();
                    killed
                }
                Err(_) => true,
            };
            cluster.run_under::<&str>(&[]);
            cluster
                .start_data_plane_with("node-1", std::slice::from_ref(&alone))
                .await;
            let reply = Browser::new().get(&format!("{}/p", cluster.url(0))).await;
            let message = reply.json()["message"].clone();
            let expected: [Value; 2] = [newest, newest - 1].map(|number| number.to_string().into());
            assert!(
                reply.status == 200 && expected.contains(&message),
                "{call} {number}: {} {}, after {newest}",
                reply.status,
                reply.text()
            );
            // What comes next is after this.
            if message == expected[1] {
                before += 1;
            }
            cluster.data_planes.remove(0).process.stop().await;
            cluster.start_data_plane("node-1").await;
            cluster.settled().await;
            cluster.persisted().await;
            cluster.data_planes.remove(0).process.stop().await;
            if !killed {
                break;
            }
            kills += 1;
        }
    }
    println!(
        "{kills} kills of a node: {before} starts with the one before, all others with the newest"
    );
}
