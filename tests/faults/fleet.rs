//! A thousand data planes on one control plane: simulated ones, with real certificates, TLS and streams,
//! that prove what they get and compile nothing. `FLEET` and `RECORDS` choose other numbers. What one of them has
//! proven the others need not prove again, nor keep: each stands for a machine that is not there.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::{Cluster, run};
use proto::features::{BUCKETS, CHAIN_KEPT, DELTA};
use proto::v1::chunk::Packing;
use proto::v1::config_sync_client::ConfigSyncClient;
use proto::v1::control_message::Kind;
use proto::v1::{Ack, Begin, Chunk, Hello, NodeMessage, Position, node_message};
use serde_json::json;
use shared::clock::monotonic;
use shared::snapshot::Snapshot;
use shared::tls::{self, Identity};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;

use crate::number;

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
                let running: Position = (&next.position).into();
                *snapshot = Some(next);
                say(node_message::Kind::Ack(Ack {
                    nonce: commit.nonce,
                    running: Some(running),
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn a_fleet_proves_each_change_and_comes_back_without_a_transfer() {
    let (nodes, records) = (number("FLEET", 200), number("RECORDS", 1_000));
    let mut cluster = Cluster::start(0).await;
    let out = cluster.directory().join("certificates");
    let names: Vec<String> = (0..nodes).map(|at| format!("sim-{at}")).collect();
    for names in names.chunks(500) {
        let directory = out.display().to_string();
        let mut arguments = vec!["certificates", "--out", &directory];
        for name in names {
            arguments.extend(["--data-plane", name]);
        }
        run("wardgate-control-plane", &arguments);
    }
    // Its own certificate was renewed with theirs: it begins with that, rather than find it in the midst of changes.
    cluster.control_plane.take().unwrap().stop().await;
    cluster.start_control_plane().await;
    // All at once where that is possible, else one by one.
    let services: Vec<_> = (0..records / 2)
        .map(|at| {
            let route = json!({ "name": format!("r{at}"), "paths": [format!("/path/{at}")] });
            json!({ "name": format!("s{at}"), "host": "upstream.internal", "routes": [route] })
        })
        .collect();
    let whole = json!({ "_format_version": "3.0", "services": services });
    let reply = cluster.admin(http::Method::POST, "/config", &whole).await;
    assert!(reply.status < 300, "{}", reply.text());

    let authorities = tls::read_authorities(&out.join("ca.pem")).unwrap();
    let (served, mut serving) = mpsc::unbounded_channel();
    let proven = Proven::default();
    let started = monotonic();
    let address = cluster.cluster_address().to_owned();
    for name in &names {
        let identity = Identity::read(
            &out.join(format!("{name}.pem")),
            &out.join(format!("{name}.key")),
        )
        .unwrap();
        let config = tls::cluster_client(&identity, Arc::clone(&authorities)).unwrap();
        let connector = TlsConnector::from(config);
        tokio::spawn(node(
            connector,
            address.clone(),
            name.clone(),
            Arc::clone(&proven),
            served.clone(),
        ));
    }
    let newest = async |cluster: &Cluster| {
        cluster.read("/status").await["configuration_revision"]
            .as_u64()
            .unwrap()
    };
    let wanted = newest(&cluster).await;
    let mut there = 0;
    while there < nodes {
        let served = serving.recv().await.unwrap();
        there += usize::from(served.revision >= wanted);
    }
    println!(
        "cold start: {nodes} nodes have {records} records after {:?}",
        started.elapsed()
    );

    let mut latencies = Vec::new();
    let mut largest = 0;
    for round in 0..20 {
        let path = format!("/routes/r{round}");
        let paths = json!({ "paths": [format!("/other/{round}")] });
        let reply = cluster.admin(http::Method::PATCH, &path, &paths).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let answered = monotonic();
        let wanted = newest(&cluster).await;
        let mut there = 0;
        while there < nodes {
            let served = serving.recv().await.unwrap();
            if served.revision >= wanted {
                assert!(!served.full, "everything was sent for one change");
                latencies.push(served.at.saturating_duration_since(answered));
                largest = largest.max(served.bytes);
                there += 1;
            }
        }
    }
    latencies.sort_unstable();
    let (p50, p99) = (percentile(&latencies, 50), percentile(&latencies, 99));
    println!(
        "a change is proven by every node: p50 {p50:?}, p99 {p99:?}, at most {largest} bytes a node"
    );
    assert!(largest <= 1_024, "{largest} bytes for one change");
    let control_plane = cluster.control_plane.as_ref().unwrap();
    println!(
        "the control plane has needed at most {} MB",
        control_plane.most_memory() / 1_000_000
    );

    all_come_back(&mut cluster, nodes, &mut serving).await;
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
    loop {
        let rows = cluster.read("/clustering/data-planes").await["data"].clone();
        let rows = rows.as_array().unwrap();
        let back =
            |row: &&serde_json::Value| row["connected"] == true && row["progress"] == "current";
        if rows.iter().filter(back).count() == nodes {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
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
