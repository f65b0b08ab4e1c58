//! This version and the one before it. `BEFORE` names the directory with the programs of that one.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use harness::{Browser, Cluster, DataPlane, Demo, Process, eventually};
use http::Method;
use serde_json::{Value, json};

use crate::load::Load;
use crate::number;
use crate::recorder::Recorder;
use crate::replicas::{HERE, Replicas};
use crate::sessions::{configure, demo, sign_in, targets};

/// The directory with the programs of the version before; where there is none, says so.
#[expect(clippy::print_stdout, reason = "what is left out is to be seen")]
fn before() -> Option<String> {
    let before = std::env::var("BEFORE").ok();
    if before.is_none() {
        println!("left out: BEFORE names no directory with the programs of the version before");
    }
    before
}

/// A configuration with a record of most kinds, in several revisions.
async fn fill(cluster: &Cluster, upstream: &str) {
    let create = async |path: &str, body: Value| cluster.create(path, body).await["id"].clone();
    let service = create("/services", json!({ "name": "s", "url": upstream })).await;
    let route = json!({
        "name": "r", "paths": ["/a"], "service": { "id": service }, "strip_path": false,
    });
    let route = create("/routes", route).await;
    let consumer = create("/consumers", json!({ "username": "ann" })).await;
    let of_consumer = |path: &str| format!("/consumers/ann/{path}");
    create(&of_consumer("key-auth"), json!({ "key": "key-of-ann" })).await;
    let basic = json!({ "username": "ann", "password": "p" });
    create(&of_consumer("basic-auth"), basic).await;
    create(&of_consumer("acls"), json!({ "group": "g" })).await;
    let group = create("/consumer_groups", json!({ "name": "gold" })).await;
    let member = json!({ "consumer": consumer });
    let path = format!("/consumer_groups/{}/consumers", group.as_str().unwrap());
    let reply = cluster.admin(Method::POST, &path, &member).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    create("/upstreams", json!({ "name": "u" })).await;
    create("/upstreams/u/targets", json!({ "target": "127.0.0.1:9" })).await;
    let keyed = json!({ "name": "key-auth", "route": { "id": route } });
    let keyed = create("/plugins", keyed).await;
    let signs = json!({
        "name": "openid-connect", "enabled": false,
        "config": { "issuer": "https://provider.example.com", "client_id": ["c"], "client_secret": ["s"] },
    });
    create("/plugins", signs).await;
    create("/workspaces", json!({ "name": "w" })).await;
    create("/w/services", json!({ "name": "s", "url": upstream })).await;
    let path = "/clustering/session-keys/revoke";
    let reply = cluster.admin(Method::POST, path, &Value::Null).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    cluster.settled().await;
    // One record goes, one changes.
    let path = format!("/plugins/{}", keyed.as_str().unwrap());
    cluster.admin(Method::DELETE, &path, &Value::Null).await;
    cluster
        .patch("/routes/r", json!({ "paths": ["/a", "/b"] }))
        .await;
    cluster.settled().await;
}

async fn answers(cluster: &Cluster, path: &str, expected: u16) {
    for node in &cluster.data_planes {
        let url = format!("{}{path}", node.url());
        eventually(&format!("{} answers {path}", node.name), async || {
            let reply = Browser::new().try_get(&url).await?;
            (reply.status == expected).then_some(())
        })
        .await;
    }
}

/// Test data for the versions to come: `RECORD` names the directory to write it to.
#[tokio::test]
#[ignore = "records test data: RECORD=DIRECTORY"]
async fn what_a_version_says_is_recorded() {
    let Ok(directory) = std::env::var("RECORD") else {
        println!("skipped: RECORD names no directory");
        return;
    };
    let directory = Path::new(&directory);
    std::fs::create_dir_all(directory).unwrap();
    let demo = Demo::start(&[]).await;
    let mut cluster = Cluster::start_of(std::env::var("BEFORE").ok().as_deref(), 0, &[]).await;
    let recorder = Recorder::default();
    let certificates = cluster.directory().join("certificates");
    cluster.certify("node-1");
    let address = cluster.cluster_address().to_owned();
    let between = recorder.start(&address, "node-1", &certificates).await;
    cluster.lead_through(&between);
    cluster.start_data_plane("node-1").await;
    fill(&cluster, &demo.upstream()).await;
    answers(&cluster, "/b", 200).await;
    cluster.persisted().await;
    recorder.write(directory);
    let kept = [
        ("data/node-1/last-good", "last-good"),
        ("certificates/ca.pem", "ca.pem"),
        ("certificates/node-1.pem", "node-1.pem"),
        ("certificates/node-1.key", "node-1.key"),
    ];
    for (from, to) in kept {
        std::fs::copy(cluster.directory().join(from), directory.join(to)).unwrap();
    }
}

const CONTROL_PLANE: &str = "wardgate-control-plane";
const DATA_PLANE: &str = "wardgate-data-plane";

/// A place that programs are installed to: reloads start what is there then.
struct Installed(tempfile::TempDir);

impl Installed {
    fn new(before: &str) -> Self {
        let installed = Self(tempfile::tempdir().unwrap());
        for name in [CONTROL_PLANE, DATA_PLANE] {
            symlink(Path::new(before).join(name), installed.program(name)).unwrap();
        }
        installed
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn program(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Puts a program of this version in the place of that of the version before.
    fn upgrade(&self, name: &str) {
        std::fs::remove_file(self.program(name)).unwrap();
        symlink(harness::path(name), self.program(name)).unwrap();
    }
}

/// The program that a process runs.
fn runs(process: &Process) -> PathBuf {
    let program = std::fs::read_link(format!("/proc/{}/exe", process.id()));
    program.expect("the process runs")
}

/// Traffic to the nodes whose addresses these are, a session among it.
fn traffic<'a>(nodes: impl IntoIterator<Item = &'a str>, cookie: &str) -> Load {
    Load::start(number("RATE", 100), targets(nodes, cookie))
}

/// Fails if a request has failed.
#[expect(clippy::print_stdout, reason = "these are run for their figures")]
async fn end(load: Load) {
    let figures = load.end().await;
    println!("{figures}");
    figures.none_failed();
    assert!(figures.count() > 0);
}

fn address(node: &DataPlane) -> String {
    node.process.address("proxy")
}

/// The order of the operator's guide, and the opposite: nodes of both versions follow control planes of both, which
/// take each other's store over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the programs of the version before: BEFORE=COMMIT tests/faults/run"]
async fn a_version_and_the_one_before_it_follow_each_other() {
    let Some(before) = before() else { return };
    let demo = demo().await;
    let mut cluster = Cluster::start_of(Some(&before), 1, &[]).await;
    configure(&cluster.admin_url(), &demo).await;
    fill(&cluster, &demo.upstream()).await;
    answers(&cluster, "/b", 200).await;
    let cookie = sign_in(&address(&cluster.data_planes[0])).await;
    // A node of this version follows the control plane of the one before.
    cluster.change_programs(None);
    cluster.add_data_plane("node-2").await;
    cluster.settled().await;
    answers(&cluster, "/b", 200).await;
    let nodes: Vec<_> = cluster.data_planes.iter().map(address).collect();
    let load = traffic(nodes.iter().map(String::as_str), &cookie);
    load.goes_on(50).await;
    cluster.patch("/routes/r", json!({ "paths": ["/c"] })).await;
    answers(&cluster, "/c", 200).await;
    // The control plane of this version takes the store over, nodes of both follow it; and that of the version before again.
    for (programs, path) in [(None, "/d"), (Some(&*before), "/e"), (None, "/f")] {
        cluster.control_plane.take().unwrap().stop().await;
        cluster.change_programs(programs);
        cluster.start_control_plane().await;
        cluster.settled().await;
        cluster.patch("/routes/r", json!({ "paths": [path] })).await;
        answers(&cluster, path, 200).await;
        let name = path.replace('/', "new-");
        let route =
            json!({ "name": name, "paths": [format!("/{name}")], "service": { "name": "s" } });
        cluster.create("/routes", route).await;
        cluster.settled().await;
        answers(&cluster, &format!("/{name}"), 200).await;
        load.goes_on(50).await;
    }
    // A node that is upgraded starts without a control plane with what it has. So does one that goes back, and the control plane above
    // reads the store that a newer one has written: the guide promises neither. A change of one of these formats ends it here.
    cluster.persisted().await;
    cluster.control_plane.take().unwrap().stop().await;
    for programs in [None, Some(&*before)] {
        cluster.change_programs(programs);
        let node = cluster.data_planes.remove(0);
        // Its balancer has taken it out.
        load.turn_to(targets([&*address(&cluster.data_planes[0])], &cookie));
        load.goes_on(50).await;
        node.process.stop().await;
        cluster.start_data_plane(&node.name).await;
        answers(&cluster, "/f", 200).await;
        let nodes: Vec<_> = cluster.data_planes.iter().map(address).collect();
        load.turn_to(targets(nodes.iter().map(String::as_str), &cookie));
        load.goes_on(50).await;
    }
    end(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the programs of the version before: BEFORE=COMMIT tests/faults/run"]
async fn reloads_that_bring_the_next_version_in_cost_no_request_and_no_session() {
    let Some(before) = before() else { return };
    let installed = Installed::new(&before);
    let demo = demo().await;
    let mut cluster = Cluster::start_of(Some(installed.path()), 1, &[]).await;
    configure(&cluster.admin_url(), &demo).await;
    cluster.settled().await;
    cluster.persisted().await;
    let node = address(&cluster.data_planes[0]);
    let cookie = sign_in(&node).await;
    let load = traffic([&*node], &cookie);
    load.goes_on(50).await;

    installed.upgrade(CONTROL_PLANE);
    let process = cluster.control_plane.as_ref().unwrap();
    let old = runs(process);
    process.signal("HUP");
    eventually("the control plane is of this version", async || {
        (runs(process) != old).then_some(())
    })
    .await;
    cluster.route(&demo.upstream(), "/first").await;
    cluster.settled().await;
    answers(&cluster, "/first", 200).await;

    installed.upgrade(DATA_PLANE);
    let process = &mut cluster.data_planes[0].process;
    let old = runs(process);
    process.succeed("HUP").await;
    assert_ne!(runs(process), old);
    cluster.route(&demo.upstream(), "/second").await;
    cluster.settled().await;
    answers(&cluster, "/second", 200).await;
    // This version lets itself take its place, too.
    cluster.data_planes[0].process.succeed("HUP").await;
    load.goes_on(50).await;
    sign_in(&node).await;
    end(load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the programs of the version before, and etcd: BEFORE=COMMIT tests/faults/run"]
async fn control_planes_over_etcd_are_upgraded_one_by_one_under_traffic() {
    let Some(before) = before() else { return };
    let installed = Installed::new(&before);
    let demo = demo().await;
    let of = Some(installed.path());
    let mut replicas = Replicas::start_of(of, [HERE; 3], vec![HERE; 3], &[]).await;
    for at in 0..3 {
        replicas.bind_node(&format!("node-{}", at + 2), at).await;
    }
    configure(&replicas.admin_url(0), &demo).await;
    replicas.agree().await;
    let nodes = |replicas: &Replicas| -> Vec<String> {
        let nodes = replicas.node.iter().chain(&replicas.bound);
        nodes.map(|node| node.address("proxy")).collect()
    };
    let nodes = nodes(&replicas);
    let serve = async |path: &str| {
        for node in &nodes {
            let url = format!("http://{node}{path}");
            eventually(&format!("{node} answers {path}"), async || {
                let reply = Browser::new().try_get(&url).await?;
                (reply.status == 200).then_some(())
            })
            .await;
        }
    };
    serve("/open").await;
    let cookie = sign_in(&nodes[0]).await;
    let load = traffic(nodes.iter().map(String::as_str), &cookie);
    installed.upgrade(CONTROL_PLANE);
    // Before the first one is upgraded, and after each: what any takes, all nodes serve.
    for upgraded in 0..=3 {
        if let Some(at) = usize::checked_sub(upgraded, 1) {
            replicas.control_planes[at].take().unwrap().stop().await;
            let other = (at + 1) % 3;
            write(&replicas, other, &format!("/without-{at}")).await;
            replicas.start_control_plane(at).await;
            serve(&format!("/without-{at}")).await;
        }
        for at in 0..3 {
            write(&replicas, at, &format!("/{upgraded}-{at}")).await;
            serve(&format!("/{upgraded}-{at}")).await;
        }
        replicas.agree().await;
        load.goes_on(50).await;
    }
    installed.upgrade(DATA_PLANE);
    for node in replicas.node.iter_mut().chain(&mut replicas.bound) {
        let old = runs(node);
        node.succeed("HUP").await;
        assert_ne!(runs(node), old);
    }
    write(&replicas, 0, "/last").await;
    serve("/last").await;
    load.goes_on(50).await;
    end(load).await;
}

/// A route of the service that [`configure`] makes.
async fn write(replicas: &Replicas, at: usize, path: &str) {
    let route = json!({ "paths": [path], "service": { "name": "echo" }, "strip_path": false });
    let reply = replicas.admin(at, Method::POST, "/routes", &route).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
}
