//! Config sync against nodes and control planes that do not behave.

use std::time::Duration;

use harness::{Browser, Cluster, PATIENCE, channel, endpoint, eventually};
use http::Method;
use proto::features::{BUCKETS, DELTA, URGENT};
use proto::v1::chunk::Packing;
use proto::v1::config_sync_client::ConfigSyncClient;
use proto::v1::control_message::Kind;
use proto::v1::fault::Code;
use proto::v1::{
    Ack, Begin, ControlMessage, Fault, Hello, Nack, Need, NodeMessage, Position, goodbye, need,
    node_message,
};
use serde_json::{Value, json};
use shared::tls::{self, Identity};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code as Status, Streaming, transport::Channel};

mod beside;

/// A node that does what a test wants.
struct Node {
    outgoing: mpsc::Sender<NodeMessage>,
    incoming: Streaming<ControlMessage>,
}

impl Node {
    async fn say(&self, kind: node_message::Kind) {
        let message = NodeMessage { kind: Some(kind) };
        self.outgoing.send(message).await.unwrap();
    }

    /// The next message that is not a heartbeat.
    async fn hear(&mut self) -> Option<Kind> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.incoming.message());
            match message.await.unwrap() {
                Ok(Some(message)) => match message.kind? {
                    Kind::Heartbeat(_) => {}
                    kind => return Some(kind),
                },
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Reads up to a Commit; its nonce and root.
    async fn update(&mut self) -> (u64, Vec<u8>) {
        let (begin, _) = self.whole_update().await;
        (begin.nonce, begin.target.unwrap().root.to_vec())
    }

    /// Reads up to a Commit; the Begin before it and what its chunks hold.
    async fn whole_update(&mut self) -> (Begin, proto::Changes) {
        let (mut begin, mut raw) = (None, Vec::new());
        loop {
            match self.hear().await.unwrap() {
                Kind::Begin(first) => begin = Some(first),
                Kind::Chunk(chunk) if chunk.packing() == Packing::Plain => raw.extend(chunk.data),
                Kind::Chunk(chunk) => {
                    let size = chunk.raw_size.try_into().unwrap();
                    raw.extend(zstd::bulk::decompress(&chunk.data, size).unwrap());
                }
                // Where it takes its time, what it revokes passes it.
                Kind::Revoke(_) => {}
                Kind::Milestone(here) => self.say(beside::reached(here.at)).await,
                Kind::Commit(_) => return (begin.unwrap(), proto::decode_changes(raw).unwrap()),
                other => assert!(matches!(other, Kind::Welcome(_)), "{other:?}"),
            }
        }
    }

    async fn ack(&self, begin: &Begin) {
        let ack = Ack {
            nonce: begin.nonce,
            running: begin.target.clone(),
            ..Ack::default()
        };
        self.say(node_message::Kind::Ack(ack)).await;
    }
}

/// A connection with the certificate of `member`, issued by the authority in `directory`.
async fn connect(cluster: &Cluster, directory: &str, member: &str) -> std::io::Result<Channel> {
    let own = cluster.directory().join(directory);
    let theirs = cluster.directory().join("certificates");
    let certificate = own.join(format!("{member}.pem"));
    let identity = Identity::read(&certificate, &own.join(format!("{member}.key"))).unwrap();
    let authorities = tls::read_authorities(&theirs.join("ca.pem")).unwrap();
    let connector = TlsConnector::from(tls::cluster_client(&identity, authorities).unwrap());
    // Little is under way, as on a slow link.
    let endpoint = endpoint().initial_stream_window_size(32 * 1024);
    channel(endpoint, &connector, cluster.cluster_address()).await
}

fn hello(node: &str, boot: &str, running: Option<Position>) -> node_message::Kind {
    hello_with(node, boot, running, &[])
}

fn hello_with(
    node: &str,
    boot: &str,
    running: Option<Position>,
    features: &[&str],
) -> node_message::Kind {
    node_message::Kind::Hello(Hello {
        features: features.iter().map(|name| (*name).to_owned()).collect(),
        node_id: node.to_owned(),
        version: "test".to_owned(),
        hostname: "test".to_owned(),
        running,
        boot_id: boot.to_owned(),
        ..Hello::default()
    })
}

async fn subscribe(cluster: &Cluster, first: node_message::Kind) -> Result<Node, tonic::Status> {
    subscribe_as(cluster, "node-1", first).await
}

async fn subscribe_as(
    cluster: &Cluster,
    member: &str,
    first: node_message::Kind,
) -> Result<Node, tonic::Status> {
    let channel = connect(cluster, "certificates", member).await.unwrap();
    let (outgoing, messages) = mpsc::channel(8);
    let message = NodeMessage { kind: Some(first) };
    outgoing.send(message).await.unwrap();
    let mut client = ConfigSyncClient::new(channel);
    let incoming = client
        .subscribe(ReceiverStream::new(messages))
        .await?
        .into_inner();
    Ok(Node { outgoing, incoming })
}

/// A cluster whose only node is ours.
async fn cluster() -> Cluster {
    let mut cluster = Cluster::start(1).await;
    cluster.data_planes.remove(0).process.kill();
    cluster
}

async fn row(cluster: &Cluster) -> Value {
    cluster.read("/clustering/data-planes").await["data"][0].clone()
}

#[tokio::test]
async fn a_refusal_is_shown_with_entity_and_field_and_not_sent_again() {
    let cluster = cluster().await;
    let mut node = subscribe(&cluster, hello("node-1", "a", None))
        .await
        .unwrap();
    assert!(matches!(node.hear().await, Some(Kind::Welcome(_))));
    let (nonce, root) = node.update().await;
    let fault = Fault {
        code: Code::Invalid.into(),
        entity_type: "routes".to_owned(),
        entity_id: "7f5b5b3e-0000-4000-8000-000000000000".to_owned(),
        field: "paths".to_owned(),
        message: "a pattern that this node cannot compile".to_owned(),
    };
    let nack = |nonce| {
        node_message::Kind::Nack(Nack {
            nonce,
            faults: vec![fault.clone()],
            ..Nack::default()
        })
    };
    node.say(nack(nonce)).await;
    let shown = eventually("the refusal is shown", async || {
        let row = row(&cluster).await;
        row["last_refusal"].is_object().then_some(row)
    })
    .await;
    assert_eq!(shown["progress"], "refused");
    let first = &shown["last_refusal"]["faults"][0];
    assert_eq!(
        (&first["entity_type"], &first["field"], &first["message"]),
        (&json!("routes"), &json!("paths"), &json!(fault.message))
    );
    // Kong's Admin API has metrics, too.
    let metrics = Browser::new()
        .get(&format!("{}/metrics", cluster.admin_url()))
        .await;
    assert!(metrics.header("content-type").starts_with("text/plain"));
    let refused = format!("wardgate_data_plane_refused{{node_id={}", shown["id"]);
    let text = metrics.text();
    let mut lines = text.lines();
    assert!(
        lines.any(|line| line.starts_with(&refused) && line.ends_with("} 1")),
        "{text}"
    );
    // The same run of the node is not bothered again, a newer snapshot is sent, and a restarted node
    // gets its chance.
    drop(node);
    let mut again = subscribe(&cluster, hello("node-1", "a", None))
        .await
        .unwrap();
    assert!(matches!(again.hear().await, Some(Kind::Welcome(_))));
    cluster.create("/services", json!({ "host": "h" })).await;
    let (_, newer) = again.update().await;
    assert_ne!(newer, root);
    drop(again);
    let mut restarted = subscribe(&cluster, hello("node-1", "b", None))
        .await
        .unwrap();
    restarted.update().await;
}

#[tokio::test]
async fn a_node_that_believes_no_signature_is_left_alone_until_something_is_new() {
    let cluster = cluster().await;
    let features = [DELTA, URGENT, "kind/services", "kind/session_keys"];
    let first = hello_with("node-1", "a", None, &features);
    let mut node = subscribe(&cluster, first).await.unwrap();
    let (begin, _) = node.whole_update().await;
    node.ack(&begin).await;
    let runs = begin.target.unwrap().revision;
    for _ in 0..2 {
        cluster.create("/services", json!({ "host": "h" })).await;
        // The newest, and what it runs with the keys of now.
        for is_newest in [true, false] {
            let (begin, _) = node.whole_update().await;
            assert_eq!(begin.target.unwrap().revision > runs, is_newest);
            let fault = Fault {
                code: Code::BadSignature.into(),
                message: "its certificate has ended".to_owned(),
                ..Fault::default()
            };
            let nack = Nack {
                nonce: begin.nonce,
                faults: vec![fault],
                ..Nack::default()
            };
            node.say(node_message::Kind::Nack(nack)).await;
        }
        let next = tokio::time::timeout(Duration::from_millis(1500), node.hear()).await;
        assert!(next.is_err(), "{next:?}");
        eventually("the refusal is shown", async || {
            let row = row(&cluster).await;
            let is_new = row["last_refusal"]["revision"].as_u64() > Some(runs);
            (is_new && (row["progress"] == "refused" || row["progress"] == "stuck")).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_newest_stream_of_a_node_speaks_for_it() {
    let cluster = cluster().await;
    let mut old = subscribe(&cluster, hello("node-1", "a", None))
        .await
        .unwrap();
    old.update().await;
    let mut new = subscribe(&cluster, hello("node-1", "b", None))
        .await
        .unwrap();
    new.update().await;
    let Some(Kind::Goodbye(goodbye)) = old.hear().await else {
        panic!("the older stream goes on")
    };
    assert_eq!(goodbye.why(), goodbye::Why::Superseded);
    assert!(old.hear().await.is_none());
    assert_eq!(row(&cluster).await["connected"], true);
}

#[tokio::test]
async fn a_node_ahead_of_the_control_plane_is_left_alone() {
    let cluster = cluster().await;
    let running = Position {
        generation: u64::MAX,
        revision: 1_000_000,
        root: vec![9; 32].into(),
        ..Position::default()
    };
    let mut node = subscribe(&cluster, hello("node-1", "a", Some(running)))
        .await
        .unwrap();
    assert!(matches!(node.hear().await, Some(Kind::Welcome(_))));
    let service = json!({ "host": "h" });
    let written = cluster.admin(Method::POST, "/services?wait=1", &service);
    let written = written.await;
    // It is at a later revision, but at none of these.
    assert_eq!(written.status, 202);
    assert_eq!(written.header("x-wardgate-waiting"), "node-1");
    let next = tokio::time::timeout(Duration::from_millis(500), node.hear()).await;
    assert!(next.is_err(), "{next:?}");
    assert_eq!(row(&cluster).await["progress"], "ahead");

    // Who is cut off while it is waited for has not answered.
    let revision = cluster.read("/status").await["configuration_revision"].clone();
    let body = json!({ "host": "h" });
    let write = cluster.admin(Method::POST, "/services?wait=30", &body);
    let cut = async {
        eventually("the write is committed", async || {
            let status = cluster.read("/status").await;
            (status["configuration_revision"] != revision).then_some(())
        })
        .await;
        drop(node);
    };
    let (written, ()) = tokio::join!(write, cut);
    assert_eq!(written.status, 202);
    assert_eq!(written.header("x-wardgate-waiting"), "node-1");
}

#[tokio::test]
async fn only_the_node_that_a_certificate_names_gets_a_configuration() {
    // The node of the cluster has come when this returns.
    let led = [("WARDGATE_CLUSTER_DATA_PLANES", "*.edge,node-1")];
    let mut cluster = Cluster::start_with(1, &led).await;
    cluster.data_planes.remove(0).process.kill();
    cluster.certify("node-2");
    let refused = subscribe_as(&cluster, "node-2", hello("node-2", "a", None)).await;
    let status = refused.err().unwrap();
    assert_eq!(status.code(), Status::PermissionDenied);
    assert!(status.message().contains("`node-2`"), "{status}");
    let refused = subscribe(&cluster, hello("node-2", "a", None)).await;
    let status = refused.err().unwrap();
    assert_eq!(status.code(), Status::PermissionDenied);
    assert!(
        status.message().contains("`node-1`"),
        "{}",
        status.message()
    );
    let nack = node_message::Kind::Nack(Nack::default());
    let refused = subscribe(&cluster, nack).await.err().unwrap();
    assert_eq!(refused.code(), Status::FailedPrecondition);
    // A certificate of somebody else's authority ends at the handshake, as does none at all.
    let strangers = cluster.directory().join("strangers");
    let out = strangers.display().to_string();
    harness::run(
        "wardgate-control-plane",
        &["certificates", "--out", &out, "--data-plane", "node-1"],
    );
    let connected = connect(&cluster, "strangers", "node-1").await;
    let stream = match connected {
        Err(_) => return,
        Ok(channel) => {
            let (_outgoing, messages) = mpsc::channel(8);
            ConfigSyncClient::new(channel)
                .subscribe(ReceiverStream::new(messages))
                .await
        }
    };
    assert!(stream.is_err(), "a stranger was let in");
}

#[tokio::test]
async fn a_node_that_answers_what_was_not_asked_is_sent_away() {
    let cluster = cluster().await;
    let mut node = subscribe(&cluster, hello("node-1", "a", None))
        .await
        .unwrap();
    node.update().await;
    let ack = Ack {
        nonce: 77,
        ..Ack::default()
    };
    node.say(node_message::Kind::Ack(ack)).await;
    let Some(Kind::Goodbye(goodbye)) = node.hear().await else {
        panic!("the stream goes on")
    };
    assert_eq!(goodbye.why(), goodbye::Why::Denied);
    assert!(goodbye.message.contains("77"), "{}", goodbye.message);
}

#[tokio::test]
async fn a_node_is_sent_what_it_lacks_and_no_more() {
    let cluster = cluster().await;
    for number in 0..260 {
        let service = json!({ "host": "h", "name": format!("s{number}") });
        cluster.create("/services", service).await;
    }
    let features = [DELTA, BUCKETS, "kind/services", "kind/session_keys"];
    let first = hello_with("node-1", "a", None, &features);
    let mut node = subscribe(&cluster, first).await.unwrap();
    let (mut begin, all) = node.whole_update().await;
    assert!(begin.full && !begin.signature.is_empty());
    // The last of the services may have come too late for the first update. If most have, the next is as short whole as by what changed.
    let mut records = all.puts.len();
    node.ack(&begin).await;
    while records <= 260 {
        let (next, changes) = node.whole_update().await;
        assert_eq!(next.base.is_none(), next.full);
        records = changes.puts.len() + if next.full { 0 } else { records };
        node.ack(&next).await;
        begin = next;
    }
    let running = begin.target.clone();
    // One change is one record.
    cluster.patch("/services/s7", json!({ "port": 81 })).await;
    let (begin, changes) = node.whole_update().await;
    assert_eq!((begin.full, &begin.base), (false, &running));
    assert_eq!((changes.puts.len(), changes.removes.len()), (1, 0));
    let bytes = prost::Message::encoded_len(&begin) + usize::try_from(begin.raw_bytes).unwrap();
    assert!(bytes < 2_000, "{bytes} bytes for one change");
    node.ack(&begin).await;
    // A node that comes back with what it had is sent what changed meanwhile.
    drop(node);
    cluster
        .admin(Method::DELETE, "/services/s8", &json!({}))
        .await;
    cluster.patch("/services/s9", json!({ "port": 82 })).await;
    let again = hello_with("node-1", "a", running.clone(), &features);
    let mut node = subscribe(&cluster, again).await.unwrap();
    let (mut puts, mut removes) = (0, 0);
    let mut begin = Begin::default();
    while (puts, removes) != (2, 1) {
        if puts > 0 {
            node.ack(&begin).await;
        }
        let (next, changes) = node.whole_update().await;
        assert!(!next.full && next.base.is_some());
        puts += changes.puts.len();
        removes += changes.removes.len();
        begin = next;
    }
    // Changes that the node cannot use are followed by everything.
    let fault = Fault {
        code: Code::BadBase.into(),
        ..Fault::default()
    };
    let nack = Nack {
        nonce: begin.nonce,
        faults: vec![fault],
        ..Nack::default()
    };
    node.say(node_message::Kind::Nack(nack)).await;
    let everything = Need {
        what: Some(need::What::Everything(true)),
    };
    node.say(node_message::Kind::Need(everything)).await;
    let (begin, all) = node.whole_update().await;
    assert!(begin.full && all.puts.len() > 259);
    drop(node);
    // A node that runs what nobody remembers tells its digests.
    let unknown = Position {
        root: vec![1; 32].into(),
        ..running.unwrap()
    };
    let strange = hello_with("node-1", "a", Some(unknown.clone()), &features);
    let mut node = subscribe(&cluster, strange).await.unwrap();
    assert!(matches!(node.hear().await, Some(Kind::Welcome(_))));
    assert!(matches!(node.hear().await, Some(Kind::AskDigests(_))));
    let digests = proto::encode_digests(&shared::snapshot::Inventory::default());
    let told = Need {
        what: Some(need::What::Digests(digests)),
    };
    node.say(node_message::Kind::Need(told)).await;
    let (begin, records) = node.whole_update().await;
    assert_eq!((begin.full, begin.base), (false, Some(unknown)));
    assert_eq!(begin.buckets.len(), 128);
    assert_eq!(records.puts.len(), all.puts.len());
    drop(node);
    a_node_that_lacks_a_plugin(&cluster, &features).await;
}

async fn a_node_that_lacks_a_plugin(cluster: &Cluster, features: &[&str]) {
    // It is not sent what needs it, and it is said which record that is.
    let acl = |allowed: &str| json!({ "name": "acl", "config": { "allow": [allowed] } });
    let plugin = cluster.create("/plugins", acl("a")).await;
    let features = [features, &["kind/plugins", URGENT]].concat();
    let lacking = hello_with("node-1", "b", None, &features);
    let mut node = subscribe(cluster, lacking).await.unwrap();
    assert!(matches!(node.hear().await, Some(Kind::Welcome(_))));
    let row = eventually("what it lacks is shown", async || {
        let row = row(cluster).await;
        (row["progress"] == "blocked").then_some(row)
    })
    .await;
    assert_eq!(row["missing"][0]["feature"], "plugin/acl");
    assert_eq!(row["missing"][0]["entity_id"], plugin["id"]);
    assert_eq!(row["sync_status"], "plugin_set_incompatible");
    // Without it, it is served again.
    let path = format!("/plugins/{}", plugin["id"].as_str().unwrap());
    cluster.admin(Method::DELETE, &path, &json!({})).await;
    let newest = cluster.read("/status").await["configuration_revision"].as_u64();
    let runs = loop {
        // What was before the plugin may have been on its way when that was published.
        let (begin, _) = node.whole_update().await;
        node.ack(&begin).await;
        let runs = begin.target.unwrap().revision;
        if Some(runs) == newest {
            break runs;
        }
    };
    // With another, it hears of keys all the same, and stays where it is.
    cluster.create("/plugins", acl("b")).await;
    let revoke = "/clustering/session-keys/revoke";
    let reply = cluster.admin(Method::POST, revoke, &json!({})).await;
    assert_eq!(reply.status / 100, 2, "{}", reply.text());
    loop {
        let (begin, changes) = node.whole_update().await;
        node.ack(&begin).await;
        let target = begin.target.unwrap();
        assert!(
            target.revision == runs && target.urgent > runs,
            "{target:?}"
        );
        let kinds: Vec<_> = changes.puts.iter().map(|record| record.key.kind).collect();
        assert!(!kinds.contains(&"plugins"), "{kinds:?}");
        if kinds.contains(&"session_keys") {
            break;
        }
    }
    eventually("it stays where it is", async || {
        (self::row(cluster).await["progress"] == "blocked").then_some(())
    })
    .await;
}
