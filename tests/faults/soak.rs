//! One fault after the other under traffic at half load, sessions among it: what each costs is printed beside what
//! the same traffic costs without one.

use std::time::Duration;

use harness::{Browser, CLIENT, Cluster, Demo, Relay, SECRET, eventually};
use http::Method;
use serde_json::json;

use crate::load::{Figures, Load, Target};
use crate::number;

const GATEWAY: &str = "gateway.test";

/// What the traffic is sent to: both nodes, one of five requests with a session.
fn targets(cluster: &Cluster, cookie: &str) -> Vec<Target> {
    let mut targets = Vec::new();
    for node in &cluster.data_planes {
        let open = Target::of(&node.url(), "/open");
        targets.extend(std::iter::repeat_n(open.clone(), 4));
        targets.push(Target {
            host: GATEWAY.to_owned(),
            path: "/".to_owned(),
            cookie: Some(cookie.to_owned()),
            ..open
        });
    }
    targets
}

/// How many times as long the slowest of a hundred took.
fn ratio(before: &Figures, during: &Figures) -> f64 {
    during.percentile(99).as_secs_f64() / before.percentile(99).as_secs_f64()
}

/// A cluster of two nodes behind a relay, with an open route and one that wants a sign-in; and the cookies of one.
async fn cluster(relay: &mut Option<Relay>, demo: &Demo) -> (Cluster, String) {
    let settings = [("WARDGATE_SESSION_KEY_ROTATION", "60")];
    let mut cluster = Cluster::start_with(0, &settings).await;
    let between = relay.insert(Relay::start(cluster.cluster_address()).await);
    cluster.lead_through(&between.address());
    for name in ["node-1", "node-2"] {
        cluster.add_data_plane(name).await;
    }
    cluster.route(&demo.upstream(), "/open").await;
    let route = cluster.route(&demo.upstream(), "/").await;
    let plugin = json!({ "name": "openid-connect", "config": {
        "issuer": demo.issuer(), "client_id": [CLIENT], "client_secret": [SECRET],
        "redirect_uri": [format!("http://{GATEWAY}/api")], "scopes": ["openid"],
    } });
    cluster
        .create(&format!("/routes/{route}/plugins"), plugin)
        .await;
    cluster.settled().await;
    cluster.persisted().await;
    let mut browser = Browser::new();
    browser.resolve(GATEWAY, cluster.url(0).trim_start_matches("http://"));
    let signed_in = browser
        .sign_in(&format!("http://{GATEWAY}/"), "alice")
        .await;
    assert_eq!(signed_in.status, 200, "{}", signed_in.text());
    let names = browser.cookie_names(GATEWAY).into_iter();
    let cookies = names.map(|name| format!("{name}={}", browser.cookie(GATEWAY, &name).unwrap()));
    (cluster, cookies.collect::<Vec<_>>().join("; "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn faults_one_after_the_other_cost_traffic_nothing() {
    let lasts = Duration::from_secs(number("SECONDS", 10).try_into().unwrap());
    let mut demo = Demo::start(&[format!("http://{GATEWAY}")]).await;
    let mut relay = None;
    let (mut cluster, cookie) = cluster(&mut relay, &demo).await;
    let relay = relay.unwrap();

    // What both nodes can do together, with the clients on the same cores: half of that is asked of them.
    Load::capacity(targets(&cluster, &cookie), 16, Duration::from_secs(1)).await;
    let capacity = Load::capacity(targets(&cluster, &cookie), 16, Duration::from_secs(3)).await;
    let rate = number("RATE", capacity / 2);
    println!("{capacity} requests a second are what the nodes can do; {rate} are sent");
    let load = Load::start(rate, targets(&cluster, &cookie));
    load.within(Duration::from_secs(3)).await;
    let calm = load.within(lasts).await;
    println!("without a fault: {calm}");
    calm.none_failed();
    let (mut most, mut requests) = (0.0_f64, 0);
    let mut judge = |what: &str, during: Figures| {
        let ratio = ratio(&calm, &during);
        println!("{what}: {during}; p99 {ratio:.2} of what it was");
        most = most.max(ratio);
        during.none_failed();
        requests += during.count();
    };

    cluster.control_plane.take().unwrap().kill();
    judge("the control plane is killed", load.within(lasts).await);
    cluster.start_control_plane().await;
    cluster.settled().await;
    judge("it is back", load.lap());

    let control_plane = cluster.control_plane.as_ref().unwrap();
    control_plane.freeze();
    judge("the control plane is frozen", load.within(lasts).await);
    control_plane.thaw();
    cluster.settled().await;
    judge("it goes on", load.lap());

    relay.silence();
    judge(
        "the network loses everything between the planes",
        load.within(lasts).await,
    );
    relay.heal();
    cluster.settled().await;
    judge("it carries it again", load.lap());

    demo.stop_provider().await;
    judge("the provider is away", load.within(lasts).await);
    demo.restart_provider().await;

    for number in 0..50 {
        let name = format!("/services/s-{}", number % 5);
        let body = json!({ "host": "h", "retries": number });
        let reply = cluster.admin(Method::PUT, &name, &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    judge("fifty changes", load.lap());

    let back = cluster.read("/revisions").await["data"][20]["revision"].clone();
    let path = format!("/revisions/{back}/rollback");
    let reply = cluster.admin(Method::POST, &path, &json!({})).await;
    assert!(reply.status < 300, "{}", reply.text());
    cluster.settled().await;
    judge("a rollback", load.within(Duration::from_secs(2)).await);

    for at in [0, 1] {
        cluster.data_planes[at].process.succeed("USR2").await;
    }
    judge(
        "each node is restarted and passes its sockets on",
        load.lap(),
    );

    for round in 0..2 {
        let node = cluster.data_planes.remove(0);
        // Its balancer has taken it out.
        load.turn_to(targets(&cluster, &cookie));
        tokio::time::sleep(Duration::from_secs(1)).await;
        if round == 0 {
            node.process.kill();
        } else {
            node.process.stop().await;
        }
        cluster.start_data_plane(&node.name).await;
        let url = format!("{}/open", cluster.url(1));
        eventually("the node serves", async || {
            let reply = Browser::new().try_get(&url).await?;
            (reply.status == 200).then_some(())
        })
        .await;
        load.turn_to(targets(&cluster, &cookie));
        judge("a node goes and comes", load.within(lasts / 2).await);
    }
    let last = load.end().await;
    last.none_failed();
    println!(
        "{requests} requests through all of it, none failed; p99 at most {most:.2} of what it was without a fault"
    );
}
