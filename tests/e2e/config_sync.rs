//! Config sync against nodes and control planes that do not behave.

use std::sync::Arc;
use std::time::Duration;

use harness::{Cluster, eventually};
use hyper_util::rt::TokioIo;
use proto::v1::config_sync_client::ConfigSyncClient;
use proto::v1::control_message::Kind;
use proto::v1::fault::Code;
use proto::v1::{ControlMessage, Fault, Hello, Nack, NodeMessage, Position, goodbye, node_message};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use shared::tls::{self, Identity};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code as Status, Streaming};

/// A node that does what a test wants.
struct Node {
    outgoing: mpsc::Sender<NodeMessage>,
    incoming: Streaming<ControlMessage>,
}

impl Node {
    async fn say(&self, kind: node_message::Kind) {
        self.outgoing
            .send(NodeMessage { kind: Some(kind) })
            .await
            .unwrap();
    }

    /// The next message that is not a heartbeat.
    async fn hear(&mut self) -> Option<Kind> {
        loop {
            let message = tokio::time::timeout(Duration::from_secs(20), self.incoming.message());
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
        loop {
            if let Kind::Commit(commit) = self.hear().await.unwrap() {
                return (commit.nonce, commit.root.to_vec());
            }
        }
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
    let stream = TcpStream::connect(cluster.cluster_address()).await?;
    let name = ServerName::try_from(tls::CONTROL_PLANE_NAME).unwrap();
    let stream = connector.connect(name, stream).await?;
    let stream = Arc::new(std::sync::Mutex::new(Some(TokioIo::new(stream))));
    Endpoint::from(Uri::from_static("http://wardgate-control-plane"))
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let stream = stream.lock().unwrap().take();
            async move {
                stream
                    .ok_or(std::io::ErrorKind::NotConnected)
                    .map_err(std::io::Error::from)
            }
        }))
        .await
        .map_err(std::io::Error::other)
}

fn hello(node: &str, boot: &str, running: Option<Position>) -> node_message::Kind {
    node_message::Kind::Hello(Hello {
        node_id: node.to_owned(),
        version: "test".to_owned(),
        hostname: "test".to_owned(),
        running,
        boot_id: boot.to_owned(),
        ..Hello::default()
    })
}

async fn subscribe(cluster: &Cluster, first: node_message::Kind) -> Result<Node, tonic::Status> {
    let channel = connect(cluster, "certificates", "node-1").await.unwrap();
    let (outgoing, messages) = mpsc::channel(8);
    outgoing
        .send(NodeMessage { kind: Some(first) })
        .await
        .unwrap();
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
        generation: 1,
        revision: 1_000_000,
        root: vec![9; 32].into(),
    };
    let mut node = subscribe(&cluster, hello("node-1", "a", Some(running)))
        .await
        .unwrap();
    assert!(matches!(node.hear().await, Some(Kind::Welcome(_))));
    cluster.create("/services", json!({ "host": "h" })).await;
    let next = tokio::time::timeout(Duration::from_millis(1_500), node.hear()).await;
    assert!(next.is_err(), "{next:?}");
    assert_eq!(row(&cluster).await["progress"], "ahead");
}

#[tokio::test]
async fn only_the_node_that_a_certificate_names_gets_a_configuration() {
    let cluster = cluster().await;
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
    let ack = proto::v1::Ack {
        nonce: 77,
        ..proto::v1::Ack::default()
    };
    node.say(node_message::Kind::Ack(ack)).await;
    let Some(Kind::Goodbye(goodbye)) = node.hear().await else {
        panic!("the stream goes on")
    };
    assert_eq!(goodbye.why(), goodbye::Why::Denied);
    assert!(goodbye.message.contains("77"), "{}", goodbye.message);
}
