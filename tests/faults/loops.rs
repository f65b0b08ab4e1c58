//! Whatever comes and goes: no request fails, no acknowledged write is lost, and all end at the newest.
//!
//! `SEED` and `ROUNDS` choose which faults, and how many.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use harness::{Browser, Cluster, Demo, Relay, eventually};
use http::Method;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::number;
use crate::replicas::timed;

/// Pseudo-random numbers: the same for the same seed.
struct Dice(u64);

impl Dice {
    /// The next number below `most`.
    fn roll(&mut self, most: u64) -> u64 {
        // SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most
    }
}

/// Requests that go on all the time, to the nodes that are there.
#[derive(Clone, Default)]
pub(crate) struct Traffic {
    pub(crate) urls: Arc<Mutex<Vec<String>>>,
    answered: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
}

impl Traffic {
    pub(crate) async fn run(self) {
        let browser = Browser::new();
        let mut turn = 0;
        while !self.ended.load(Ordering::Relaxed) {
            let url = {
                let urls = self.urls.lock().unwrap();
                urls.get(turn % urls.len().max(1)).cloned()
            };
            turn += 1;
            let Some(url) = url else { continue };
            let reply = browser.try_get(&url).await;
            let status = reply.as_ref().map(|reply| reply.status);
            let still_there = self.urls.lock().unwrap().contains(&url);
            match status {
                Some(200) => _ = self.answered.fetch_add(1, Ordering::Relaxed),
                _ if !still_there => {}
                status => self
                    .failed
                    .lock()
                    .unwrap()
                    .push(format!("{url}: {status:?}")),
            }
        }
    }

    /// Waits until `count` more requests have been answered, or one has failed.
    pub(crate) async fn goes_on(&self, count: u64) {
        let until = self.answered.load(Ordering::Relaxed) + count;
        eventually("requests are answered", async || {
            let answered = self.answered.load(Ordering::Relaxed) >= until;
            (answered || !self.failed.lock().unwrap().is_empty()).then_some(())
        })
        .await;
    }

    /// Ends the requests; how many there were. None may have failed.
    pub(crate) async fn end(&self, running: JoinHandle<()>) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        running.await.unwrap();
        let failed = self.failed.lock().unwrap().clone();
        assert!(failed.is_empty(), "{failed:?}");
        self.answered.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn nothing_that_comes_and_goes_costs_a_request_or_a_write() {
    let seed = u64::try_from(number("SEED", 1)).unwrap();
    let rounds = number("ROUNDS", 20);
    let mut dice = Dice(seed);
    let demo = Demo::start(&[]).await;
    let mut cluster = Cluster::start(0).await;
    let relay = Relay::start(cluster.cluster_address()).await;
    cluster.lead_through(&relay.address());
    for name in ["node-1", "node-2"] {
        cluster.add_data_plane(name).await;
    }
    cluster.route(&demo.upstream(), "/probe").await;
    cluster.settled().await;
    cluster.persisted().await;
    let traffic = Traffic::default();
    let probe = |cluster: &Cluster, at: usize| format!("{}/probe", cluster.url(at));
    *traffic.urls.lock().unwrap() = vec![probe(&cluster, 0), probe(&cluster, 1)];
    let running = tokio::spawn(traffic.clone().run());

    let mut acknowledged = Vec::new();
    for round in 0..rounds {
        let fault = dice.roll(5);
        match fault {
            0 => {
                cluster.control_plane.take().unwrap().kill();
                traffic.goes_on(50).await;
                cluster.start_control_plane().await;
            }
            1 => {
                cluster.control_plane.as_ref().unwrap().freeze();
                traffic.goes_on(50).await;
                cluster.control_plane.as_ref().unwrap().thaw();
            }
            2 => relay.silence(),
            3 => relay.break_all(),
            _ => {
                let url = traffic.urls.lock().unwrap().remove(0);
                let node = cluster.data_planes.remove(0);
                assert!(url.starts_with(&node.url()));
                node.process.kill();
                cluster.start_data_plane(&node.name).await;
                let at = cluster.data_planes.len() - 1;
                let url = probe(&cluster, at);
                eventually("the node serves its last good configuration", async || {
                    let reply = Browser::new().try_get(&url).await?;
                    (reply.status == 200).then_some(())
                })
                .await;
                traffic.urls.lock().unwrap().push(url);
            }
        }
        for number in 0..dice.roll(4) {
            let name = format!("w-{round}-{number}");
            let body = json!({ "username": name });
            let reply = cluster.admin(Method::POST, "/consumers", &body).await;
            assert_eq!(reply.status, 201, "{}", reply.text());
            acknowledged.push(name);
        }
        traffic.goes_on(20).await;
        relay.heal();
        let ((), took) = timed(cluster.settled()).await;
        println!("seed {seed}, round {round}: fault {fault}, all at the newest after {took:?}");
    }
    let answered = traffic.end(running).await;
    for name in &acknowledged {
        let found = cluster.read(&format!("/consumers/{name}")).await;
        assert_eq!(found["username"], json!(name), "seed {seed}");
    }
    println!(
        "{rounds} faults, {answered} requests answered, {} writes kept",
        acknowledged.len()
    );
}
