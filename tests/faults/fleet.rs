//! A thousand data planes on one control plane: simulated ones, with real certificates, TLS and streams,
//! that prove what they get and compile nothing. `FLEET` and `RECORDS` choose other numbers. What one of them has
//! proven the others need not prove again, nor keep: each stands for a machine that is not there.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::{Cluster, Relay, eventually, run, within};
use http::Method;
use proto::features::{BESIDE, BUCKETS, CHAIN_KEPT, DELTA, MILESTONES};
use proto::v1::chunk::Packing;
use proto::v1::config_sync_client::ConfigSyncClient;
use proto::v1::control_message::Kind;
use proto::v1::{Ack, Begin, Chunk, Hello, Milestone, NodeMessage, Reached, node_message};
use serde_json::json;
use shared::clock::monotonic;
use shared::snapshot::Snapshot;
use shared::tls::{self, Identity};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use crate::number;

/// The longest that the next of them is waited for: a cold start over a link takes a while.
const PATIENCE: Duration = Duration::from_mins(5);

/// That a node runs a revision.
struct Served {
    revision: u64,
    at: Instant,
    bytes: usize,
    full: bool,
}

/// What the nodes have proven lately, newest last.
type Proven = Arc<Mutex<Vec<Arc<Snapshot>>>>;

/// What `root` names: from the nodes' memory, or made and put there. One at a time, as they would all make the same.
fn prove(
    proven: &Proven,
    root: shared::snapshot::Hash,
    make: impl FnOnce() -> Option<Snapshot>,
) -> Option<Arc<Snapshot>> {
    let mut known = proven.lock().unwrap();
    if let Some(snapshot) = known.iter().find(|known| known.position.root == root) {
        return Some(Arc::clone(snapshot));
    }
    let snapshot = Arc::new(make()?);
    assert_eq!(snapshot.position.root, root, "a node was led astray");
    if known.len() == 4 {
        known.remove(0);
    }
    known.push(Arc::clone(&snapshot));
    Some(snapshot)
}

/// One node: connects, takes what it is sent, proves it, acknowledges it. Comes back when told to wait.
async fn node(
    connector: TlsConnector,
    address: String,
    name: String,
    proven: Proven,
    served: mpsc::UnboundedSender<Served>,
) {
    let mut snapshot: Option<Arc<Snapshot>> = None;
    loop {
        let pause = follow(&connector, &address, &name, &mut snapshot, &proven, &served).await;
        // As real nodes do, which do not fall upon a control plane that has just come back.
        tokio::time::sleep(pause.unwrap_or(Duration::from_millis(500))).await;
    }
}

/// Follows until the stream ends; for how long to wait then, if that was said.
async fn follow(
    connector: &TlsConnector,
    address: &str,
    name: &str,
    snapshot: &mut Option<Arc<Snapshot>>,
    proven: &Proven,
    served: &mpsc::UnboundedSender<Served>,
) -> Option<Duration> {
    let endpoint = harness::endpoint()
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(1024 * 1024);
    let channel = harness::channel(endpoint, connector, address).await.ok()?;
    let (outgoing, messages) = mpsc::channel(8);
    let hello = Hello {
        node_id: name.to_owned(),
        version: "simulated".to_owned(),
        features: [
            DELTA,
            BUCKETS,
            CHAIN_KEPT,
            BESIDE,
            MILESTONES,
            "kind/services",
            "kind/routes",
            "kind/session_keys",
        ]
        .map(str::to_owned)
        .to_vec(),
        running: snapshot
            .as_ref()
            .map(|snapshot| (&snapshot.position).into()),
        boot_id: name.to_owned(),
        ..Hello::default()
    };
    let say = async |kind| outgoing.send(NodeMessage { kind: Some(kind) }).await.ok();
    say(node_message::Kind::Hello(hello)).await?;
    let mut incoming = ConfigSyncClient::new(channel)
        .subscribe(ReceiverStream::new(messages))
        .await
        .ok()?
        .into_inner();
    let (mut open, mut chunks, mut bytes) = (Begin::default(), Vec::new(), 0);
    let mut parts = Vec::new();
    loop {
        match incoming.message().await.ok()??.kind? {
            Kind::Hold(hold) => return Some(Duration::from_millis(hold.retry_after_ms.into())),
            Kind::Begin(begin) => {
                bytes = prost::Message::encoded_len(&begin);
                (open, chunks) = (begin, Vec::new());
            }
            Kind::Chunk(chunk) => {
                bytes += prost::Message::encoded_len(&chunk);
                chunks.push(chunk);
            }
            Kind::Part(part) => {
                bytes += prost::Message::encoded_len(&part);
                parts.extend_from_slice(&part.data);
                if part.last {
                    let whole = bytes::Bytes::from(std::mem::take(&mut parts));
                    chunks.push(prost::Message::decode(whole).ok()?);
                }
            }
            Kind::Milestone(Milestone { at }) => {
                say(node_message::Kind::Reached(Reached { at })).await?;
            }
            Kind::Commit(commit) => {
                bytes += prost::Message::encoded_len(&commit);
                let target: shared::snapshot::Position = open.target.clone()?.try_into().ok()?;
                let (generation, revision) = (target.generation, target.revision);
                let (base, chunks) = (snapshot.take(), std::mem::take(&mut chunks));
                let next = prove(proven, target.root, || {
                    let changes = proto::decode_changes(unpack(&chunks)?).ok()?;
                    match base {
                        Some(base) if !open.full => Snapshot::clone(&base)
                            .patched(generation, revision, changes.puts, &changes.removes)
                            .ok(),
                        _ => Some(Snapshot::new(generation, revision, changes.puts)),
                    }
                })?;
                *snapshot = Some(next);
                // Not where the content was proven first, which all nodes share: another revision may have had the same.
                say(node_message::Kind::Ack(Ack {
                    nonce: commit.nonce,
                    running: open.target.clone(),
                    apply_ms: 0,
                }))
                .await?;
                let _ = served.send(Served {
                    revision: revision.0,
                    at: monotonic(),
                    bytes,
                    full: open.full,
                });
            }
            _ => {}
        }
    }
}

/// What chunks hold together.
fn unpack(chunks: &[Chunk]) -> Option<Vec<u8>> {
    let mut raw = Vec::new();
    for chunk in chunks {
        if chunk.packing() == Packing::Plain {
            raw.extend_from_slice(&chunk.data);
        } else {
            let size = usize::try_from(chunk.raw_size).ok()?;
            raw.extend(zstd::bulk::decompress(&chunk.data, size).ok()?);
        }
    }
    Some(raw)
}

/// The value below which `percent` of `sorted` lie.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted[(sorted.len() * percent / 100).min(last)]
}

/// A control plane with `records`, and certificates for `nodes`.
struct Fleet {
    cluster: Cluster,
    names: Vec<String>,
    proven: Proven,
    served: mpsc::UnboundedSender<Served>,
}

impl Fleet {
    async fn start(nodes: usize, records: usize) -> (Self, mpsc::UnboundedReceiver<Served>) {
        let (served, serving) = mpsc::unbounded_channel();
        let mut fleet = Self {
            cluster: Cluster::start(0).await,
            names: (0..nodes).map(|at| format!("sim-{at}")).collect(),
            proven: Proven::default(),
            served,
        };
        fleet.fill(records, "upstream.internal").await;
        let directory = fleet.cluster.directory().join("certificates");
        let directory = directory.display().to_string();
        for names in fleet.names.chunks(500) {
            let mut arguments = vec!["certificates", "--out", &directory];
            for name in names {
                arguments.extend(["--data-plane", name]);
            }
            run("wardgate-control-plane", &arguments);
        }
        // Its own certificate was renewed with theirs: it begins with that, rather than find it in the midst of changes.
        // Nor does what it took to fill it count.
        fleet.cluster.control_plane.take().unwrap().stop().await;
        fleet.cluster.start_control_plane().await;
        (fleet, serving)
    }

    /// All records at once, in the place of what there is; the revision.
    async fn fill(&self, records: usize, host: &str) -> u64 {
        let service = |at: usize| {
            let route = json!({ "name": format!("r{at}"), "paths": [format!("/path/{at}")] });
            json!({ "name": format!("s{at}"), "host": host, "routes": [route] })
        };
        let services: Vec<_> = (0..records / 2).map(service).collect();
        let whole = json!({ "_format_version": "3.0", "services": services });
        let reply = self.cluster.admin(Method::POST, "/config", &whole).await;
        assert!(reply.status < 300, "{}", reply.text());
        reply.header("x-wardgate-revision").parse().unwrap()
    }

    /// Has the node `name` follow the control plane by way of `address`, and tell what it serves.
    fn follow(&self, name: &str, address: &str, served: &mpsc::UnboundedSender<Served>) {
        let out = self.cluster.directory().join("certificates");
        let authorities = tls::read_authorities(&out.join("ca.pem")).unwrap();
        let (certificate, key) = (
            out.join(format!("{name}.pem")),
            out.join(format!("{name}.key")),
        );
        let identity = Identity::read(&certificate, &key).unwrap();
        let config = tls::cluster_client(&identity, authorities).unwrap();
        let (address, name) = (address.to_owned(), name.to_owned());
        let (proven, served) = (Arc::clone(&self.proven), served.clone());
        tokio::spawn(node(
            TlsConnector::from(config),
            address,
            name,
            proven,
            served,
        ));
    }

    /// What the control plane has in memory, and has had at most: in megabytes.
    fn memory(&self) -> String {
        let process = self.cluster.control_plane.as_ref().unwrap();
        let [now, most] =
            [process.memory_now(), process.most_memory()].map(|bytes| bytes / 1_000_000);
        format!("{now} ({most} at most)")
    }

    async fn newest(&self) -> u64 {
        let status = self.cluster.read("/status").await;
        status["configuration_revision"].as_u64().unwrap()
    }
}

/// Waits until so many nodes serve `wanted`; what they said.
async fn all_serve(
    nodes: usize,
    wanted: u64,
    serving: &mut mpsc::UnboundedReceiver<Served>,
) -> Vec<Served> {
    let mut there = Vec::new();
    while there.len() < nodes {
        let served = tokio::time::timeout(PATIENCE, serving.recv()).await;
        let served = served.unwrap_or_else(|_| panic!("{} of {nodes} serve it", there.len()));
        let served = served.unwrap();
        if served.revision >= wanted {
            there.push(served);
        }
    }
    there
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_proves_each_change_and_comes_back_without_a_transfer() {
    let _alone = crate::alone().await;
    let (nodes, records) = (number("FLEET", 50), number("RECORDS", 1_000));
    let (mut fleet, mut serving) = Fleet::start(nodes, records).await;
    let address = fleet.cluster.cluster_address().to_owned();
    let alone = fleet.memory();
    let started = monotonic();
    for name in &fleet.names {
        fleet.follow(name, &address, &fleet.served);
    }
    all_serve(nodes, fleet.newest().await, &mut serving).await;
    println!(
        "cold start: {nodes} nodes have {records} records after {:?}; the control plane has {alone} MB, then {} MB",
        started.elapsed(),
        fleet.memory()
    );

    let (mut latencies, mut largest, mut states) = (Vec::new(), 0, Vec::new());
    for round in 0..20 {
        let path = format!("/routes/r{round}");
        let paths = json!({ "paths": [format!("/other/{round}")] });
        let reply = fleet.cluster.admin(Method::PATCH, &path, &paths).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let answered = monotonic();
        let wanted = fleet.newest().await;
        for served in all_serve(nodes, wanted, &mut serving).await {
            assert!(!served.full, "everything was sent for one change");
            latencies.push(served.at.saturating_duration_since(answered));
            largest = largest.max(served.bytes);
        }
        states.push((wanted, fleet.hash_at(wanted).await));
    }
    latencies.sort_unstable();
    let (p50, p99) = (percentile(&latencies, 50), percentile(&latencies, 99));
    println!(
        "a change is proven by every node: p50 {p50:?}, p99 {p99:?}, at most {largest} bytes a node"
    );
    assert!(largest <= 1_024, "{largest} bytes for one change");
    let changed = fleet.memory();
    fleet.go_back(&states, &mut serving).await;
    println!(
        "the control plane has {changed} MB after the changes, {} MB after the rollbacks",
        fleet.memory()
    );

    all_come_back(&mut fleet.cluster, nodes, &mut serving).await;
}

impl Fleet {
    /// The hash of what all nodes run, once that is `revision`.
    async fn hash_at(&self, revision: u64) -> String {
        eventually("the control plane knows what all run", async || {
            let rows = self.cluster.list("/clustering/data-planes").await;
            let first = rows.first()?["config_hash"].as_str()?.to_owned();
            let is_there = |row: &serde_json::Value| {
                row["revision"].as_u64() == Some(revision) && row["config_hash"] == first.as_str()
            };
            rows.iter().all(is_there).then_some(first)
        })
        .await
    }

    /// Goes back to each of some `states` before the newest: the same content, by its hash, on every node.
    #[expect(clippy::print_stdout, reason = "it is run for its figures")]
    async fn go_back(
        &self,
        states: &[(u64, String)],
        serving: &mut mpsc::UnboundedReceiver<Served>,
    ) {
        let mut times = Vec::new();
        for (revision, hash) in states.iter().rev().skip(1).step_by(2) {
            let path = format!("/revisions/{revision}/rollback");
            let started = monotonic();
            let reply = self.cluster.admin(Method::POST, &path, &json!({})).await;
            assert!(reply.status < 300, "{}", reply.text());
            let wanted = self.newest().await;
            all_serve(self.names.len(), wanted, serving).await;
            times.push(started.elapsed());
            assert_eq!(
                self.hash_at(wanted).await,
                *hash,
                "revision {revision} again"
            );
        }
        times.sort_unstable();
        println!(
            "{} rollbacks, each served by every node with the hash of then: p50 {:?}, at most {:?}",
            times.len(),
            percentile(&times, 50),
            percentile(&times, 100)
        );
    }
}

/// A fleet behind one link of 100 Mbit/s (`LINK` says otherwise), and one node more behind one of 10 kB/s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn a_fleet_on_one_link_follows_and_a_slow_node_delays_nobody() {
    let nodes = number("FLEET", 200);
    let link = u32::try_from(number("LINK", 12_500_000)).unwrap();
    // One of them is the slow one.
    let (fleet, mut serving) = Fleet::start(nodes + 1, 1_000).await;
    let address = fleet.cluster.cluster_address();
    let (relay, slow) = (Relay::start(address).await, Relay::start(address).await);
    relay.narrow(link);
    slow.narrow(10_000);
    let (name, others) = fleet.names.split_last().unwrap();
    for name in others {
        fleet.follow(name, &relay.address(), &fleet.served);
    }
    let (served_slowly, mut serving_slowly) = mpsc::unbounded_channel();
    fleet.follow(name, &slow.address(), &served_slowly);
    let control_plane = fleet.cluster.control_plane.as_ref().unwrap();
    let started = monotonic();
    all_serve(nodes, fleet.newest().await, &mut serving).await;
    let (cold, memory) = (started.elapsed(), control_plane.memory_now());
    let (mut times, mut newest) = (Vec::new(), 0);
    for round in 0..8 {
        let started = monotonic();
        newest = fleet.fill(1_000, &format!("{round}.internal")).await;
        all_serve(nodes, newest, &mut serving).await;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    let grown = control_plane.memory_now().saturating_sub(memory);
    println!(
        "{nodes} nodes on a link of {link} bytes/s: cold start {cold:.1?}, each change of 500 records p50 {:.1?}, at most {:.1?}; {} MB more",
        percentile(&times, 50),
        percentile(&times, 100),
        grown / 1_000_000
    );
    let (started, mut steps) = (monotonic(), 0);
    loop {
        let served = serving_slowly.recv().await.unwrap();
        steps += 1;
        if served.revision >= newest {
            break;
        }
    }
    println!(
        "the one at 10 kB/s had the last {:.0?} later, by {steps} steps",
        started.elapsed()
    );
    assert!(steps < 8, "old ones are skipped: {steps} steps");
}

/// What answers pings, at either end, stands behind what was sent before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn a_node_that_begins_on_a_slow_link_comes_to_have_everything() {
    let mut cluster = Cluster::start(0).await;
    // Nothing packs them.
    let tags = || -> Vec<String> { (0..20).map(|_| Uuid::new_v4().to_string()).collect() };
    let consumers: Vec<_> = (0..6_000)
        .map(|number| json!({ "username": number.to_string(), "tags": tags() }))
        .collect();
    let whole = json!({ "_format_version": "3.0", "consumers": consumers });
    let reply = cluster.admin(Method::POST, "/config", &whole).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let relay = Relay::start(cluster.cluster_address()).await;
    relay.narrow(100_000);
    cluster.lead_through(&relay.address());
    let started = monotonic();
    cluster.add_data_plane("node-1").await;
    within(Duration::from_mins(3), "the node is ready", async || {
        cluster.data_planes[0].is_ready().await.then_some(())
    })
    .await;
    println!("over 100 kB/s it serves after {:.0?}", started.elapsed());
    let log = cluster.data_planes[0].process.log();
    assert_eq!(log.matches("following a control plane").count(), 1, "{log}");
}

#[expect(clippy::print_stdout, reason = "it is run for its figures")]
async fn all_come_back(
    cluster: &mut Cluster,
    nodes: usize,
    serving: &mut mpsc::UnboundedReceiver<Served>,
) {
    // The control plane restarts: everyone comes back, and nothing is sent.
    cluster.control_plane.take().unwrap().kill();
    while serving.try_recv().is_ok() {}
    let started = monotonic();
    cluster.start_control_plane().await;
    within(PATIENCE, "all are back", async || {
        // The list of so many is work for the control plane, whose return is what is timed.
        tokio::time::sleep(Duration::from_millis(80)).await;
        let rows = cluster.list("/clustering/data-planes").await;
        let back =
            |row: &&serde_json::Value| row["connected"] == true && row["progress"] == "current";
        (rows.iter().filter(back).count() == nodes).then_some(())
    })
    .await;
    println!(
        "after a restart all are back within {:?}",
        started.elapsed()
    );
    let mut sent = 0;
    while let Ok(served) = serving.try_recv() {
        sent = sent.max(served.bytes);
    }
    println!("and were sent at most {sent} bytes each");
    assert_eq!(sent, 0, "nothing had changed");
}
