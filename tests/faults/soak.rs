//! One fault after the other under traffic at half load, sessions among it. What each costs is measured in pairs: the
//! same traffic right before it and while it lasts, several times; the machine does not do the same all the time.

use std::time::Duration;

use harness::{Cluster, Demo, Relay, eventually};
use http::Method;
use serde_json::json;

use crate::load::{Figures, Load, Target};
use crate::number;
use crate::sessions::{configure, demo, sign_in, targets};

/// What happens, and is over again.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// What two pairs of the same differ by.
    Nothing,
    ControlPlaneKilled,
    ControlPlaneFrozen,
    LinkSilent,
    ProviderAway,
    FiftyChanges,
    Rollback,
    NodesSucceeded,
    NodeKilled,
    NodeStopped,
}

const FAULTS: [Fault; 10] = [
    Fault::Nothing,
    Fault::ControlPlaneKilled,
    Fault::ControlPlaneFrozen,
    Fault::LinkSilent,
    Fault::ProviderAway,
    Fault::FiftyChanges,
    Fault::Rollback,
    Fault::NodesSucceeded,
    Fault::NodeKilled,
    Fault::NodeStopped,
];

/// Two nodes behind a relay, an open route and one that wants a sign-in, and who has signed in there.
struct Scene {
    cluster: Cluster,
    relay: Relay,
    demo: Demo,
    cookie: String,
    /// How long a fault lasts.
    lasts: Duration,
}

impl Scene {
    async fn new() -> Self {
        let demo = demo().await;
        let settings = [("WARDGATE_SESSION_KEY_ROTATION", "60")];
        let mut cluster = Cluster::start_with(0, &settings).await;
        let relay = Relay::start(cluster.cluster_address()).await;
        cluster.lead_through(&relay.address());
        for name in ["node-1", "node-2"] {
            cluster.add_data_plane(name).await;
        }
        configure(&cluster.admin_url(), &demo).await;
        cluster.settled().await;
        cluster.persisted().await;
        let cookie = sign_in(&cluster.data_planes[0].process.address("proxy")).await;
        let seconds = number("SECONDS", 5).try_into().unwrap();
        Self {
            cluster,
            relay,
            demo,
            cookie,
            lasts: Duration::from_secs(seconds),
        }
    }

    fn targets(&self) -> Vec<Target> {
        let nodes = self.cluster.data_planes.iter();
        let nodes: Vec<_> = nodes.map(|node| node.process.address("proxy")).collect();
        targets(nodes.iter().map(String::as_str), &self.cookie)
    }

    async fn lasts(&self) {
        tokio::time::sleep(self.lasts).await;
    }

    /// Has it happen, last and be over.
    async fn happen(&mut self, fault: Fault, load: &Load) {
        match fault {
            Fault::Nothing => self.lasts().await,
            Fault::ControlPlaneKilled => {
                self.cluster.control_plane.take().unwrap().kill();
                self.lasts().await;
                self.cluster.start_control_plane().await;
            }
            Fault::ControlPlaneFrozen => {
                let control_plane = self.cluster.control_plane.as_ref().unwrap();
                control_plane.freeze();
                self.lasts().await;
                control_plane.thaw();
            }
            Fault::LinkSilent => {
                self.relay.silence();
                self.lasts().await;
                self.relay.heal();
            }
            Fault::ProviderAway => {
                self.demo.stop_provider().await;
                self.lasts().await;
                self.demo.restart_provider().await;
            }
            Fault::FiftyChanges => {
                for number in 0..50 {
                    let name = format!("/services/s-{}", number % 5);
                    let body = json!({ "host": "h", "retries": number });
                    let reply = self.cluster.admin(Method::PUT, &name, &body).await;
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    tokio::time::sleep(self.lasts / 50).await;
                }
            }
            Fault::Rollback => {
                let revisions = self.cluster.read("/revisions").await;
                let back = revisions["data"][20]["revision"].clone();
                let path = format!("/revisions/{back}/rollback");
                let reply = self.cluster.admin(Method::POST, &path, &json!({})).await;
                assert!(reply.status < 300, "{}", reply.text());
                self.lasts().await;
            }
            Fault::NodesSucceeded => {
                for node in &mut self.cluster.data_planes {
                    node.process.succeed("USR2").await;
                }
                self.lasts().await;
            }
            Fault::NodeKilled | Fault::NodeStopped => {
                let node = self.cluster.data_planes.remove(0);
                // Its balancer has taken it out.
                load.turn_to(self.targets());
                tokio::time::sleep(Duration::from_secs(1)).await;
                if matches!(fault, Fault::NodeKilled) {
                    node.process.kill();
                } else {
                    node.process.stop().await;
                }
                self.cluster.start_data_plane(&node.name).await;
                let node = &self.cluster.data_planes[1];
                eventually("the node serves", async || {
                    node.is_ready().await.then_some(())
                })
                .await;
                load.turn_to(self.targets());
                self.lasts().await;
            }
        }
        self.cluster.settled().await;
    }
}

/// How many times as long the slowest of a hundred took.
fn ratio(before: &Figures, during: &Figures) -> f64 {
    during.percentile(99).as_secs_f64() / before.percentile(99).as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn faults_one_after_the_other_cost_traffic_nothing() {
    let pairs = number("PAIRS", 5).max(1);
    let mut scene = Scene::new().await;
    // What both nodes can do together, with the clients on the same cores: half of that is asked of them.
    Load::capacity(scene.targets(), 16, Duration::from_secs(1)).await;
    let capacity = Load::capacity(scene.targets(), 16, Duration::from_secs(3)).await;
    let rate = number("RATE", capacity / 2);
    println!("{capacity} requests a second are what the nodes can do; {rate} are sent");
    let load = Load::start(rate, scene.targets());
    let mut ratios = FAULTS.map(|_| Vec::new());
    let mut requests = 0;
    let mut lap = || {
        let figures = load.lap();
        figures.none_failed();
        requests += figures.count();
        figures
    };
    // Each round begins with another fault, so that none always follows the same one.
    for turn in 0..pairs * FAULTS.len() {
        let at = (turn + turn / FAULTS.len()) % FAULTS.len();
        let fault = FAULTS[at];
        // What was before has an end.
        tokio::time::sleep(Duration::from_secs(1)).await;
        lap();
        scene.lasts().await;
        let before = lap();
        scene.happen(fault, &load).await;
        let during = lap();
        let ratio = ratio(&before, &during);
        println!("{fault:?}: {during}; p99 {ratio:.2} of what it was before");
        ratios[at].push(ratio);
    }
    println!(
        "{requests} requests through all of it, none failed; p99 beside what it was right before, the median of {pairs} pairs:"
    );
    for (fault, mut ratios) in FAULTS.into_iter().zip(ratios) {
        ratios.sort_unstable_by(f64::total_cmp);
        let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
        let median = ratios[ratios.len() / 2];
        println!("{fault:?}: {median:.2} ({least:.2} to {most:.2})");
    }
    load.end().await.none_failed();
}
