//! The power goes while a control plane writes: all that was acknowledged is there, and it starts without help.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::{Browser, Cluster};
use http::Method;
use serde_json::json;
use shared::clock::monotonic;

use crate::kills::consumers;
use crate::mount::Image;
use crate::number;

/// What was acknowledged.
type Names = Arc<Mutex<BTreeSet<String>>>;

/// Writes consumers until nobody answers.
async fn write(url: String, writer: String, acknowledged: Names) {
    for number in 0.. {
        let name = format!("{writer}-{number}");
        // Some records are larger than what a disk writes at once.
        let tags: Vec<String> = (0..number % 40)
            .map(|tag| format!("tag-{tag}-{name}"))
            .collect();
        let body = json!({ "username": name, "tags": tags }).to_string();
        let headers = [("content-type", "application/json")];
        let path = format!("{url}/consumers");
        let browser = Browser::new();
        let reply = browser.try_send(Method::POST, &path, &headers, body);
        // Frozen, it does not answer any more, and what it would say counts for nothing.
        let Ok(Some(reply)) = tokio::time::timeout(Duration::from_secs(1), reply).await else {
            return;
        };
        assert_eq!(reply.status, 201, "{}", reply.text());
        acknowledged.lock().unwrap().insert(name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root: tests/faults/run"]
async fn power_cuts_lose_nothing_that_was_acknowledged() {
    let cuts = number("CUTS", 10);
    let place = tempfile::tempdir().unwrap();
    let mount = place.path().join("disk");
    let image = Image::make(&place.path().join("image"), &mount, 512);
    let data = mount.join("control-plane").display().to_string();
    let mut cluster = Cluster::start_with(0, &[("WARDGATE_DATA_DIRECTORY", &data)]).await;
    let acknowledged = Names::default();
    let mut slowest = Duration::ZERO;
    for cut in 0..cuts {
        let writers = (0..4).map(|writer| {
            let (url, writer) = (cluster.admin_url(), format!("{cut}-{writer}"));
            tokio::spawn(write(url, writer, Arc::clone(&acknowledged)))
        });
        let writers: Vec<_> = writers.collect();
        // In the midst of writes, each time elsewhere.
        let pause = 50 + cut * 7_919 % 550;
        tokio::time::sleep(Duration::from_millis(pause.try_into().unwrap())).await;
        let control_plane = cluster.control_plane.take().unwrap();
        control_plane.freeze();
        // Answers that it has given are on their way to the writers.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let known = acknowledged.lock().unwrap().clone();
        image.cut(|| control_plane.kill());
        for writer in writers {
            writer.await.unwrap();
        }
        let started = monotonic();
        cluster.start_control_plane().await;
        slowest = slowest.max(started.elapsed());
        let there = consumers(&cluster).await;
        let lost: Vec<&String> = known.difference(&there).collect();
        assert!(lost.is_empty(), "cut {cut}: {} lost: {lost:?}", lost.len());
        // What was not answered may be there all the same.
        *acknowledged.lock().unwrap() = there;
    }
    println!(
        "{cuts} power cuts, {} writes there, none lost, every start without help and within {slowest:.1?}",
        acknowledged.lock().unwrap().len()
    );
    drop(cluster);
}
