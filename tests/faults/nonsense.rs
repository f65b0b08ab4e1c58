//! A control plane with a good certificate that says what none would: its nodes go on with what they run, and leave it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use harness::{Cluster, Demo, Relay, eventually};
use http::Response;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use proto::v1::chunk::Packing;
use proto::v1::control_message::Kind;
use proto::v1::{Begin, Chunk, Commit, ControlMessage, Position, Record, Records, Welcome};
use serde_json::json;
use shared::clock::monotonic;
use shared::snapshot::{Key, Revision, Snapshot};
use shared::tls::{self, Identity};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use crate::load::{Load, Target};

/// The longest that a node may stay with it.
const ABANDONED: Duration = Duration::from_secs(35);

/// What it says on one connection.
#[derive(Clone)]
enum Says {
    /// Not even TLS.
    Nothing,
    /// TLS, and nothing in it.
    Silence,
    /// Bytes that are no HTTP/2.
    Bytes(Vec<u8>),
    /// An answer with this body, of which it sends its Welcome at once and then `piece` bytes a second; then the end, or
    /// nothing more.
    Answer {
        body: Vec<u8>,
        piece: usize,
        ends: bool,
    },
}

/// A message as gRPC frames it.
fn framed(kind: Kind) -> Vec<u8> {
    let message = ControlMessage { kind: Some(kind) }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &message].concat()
}

fn welcome() -> Vec<u8> {
    framed(Kind::Welcome(Welcome {
        replica: "nobody".to_owned(),
        heartbeat_ms: 10_000,
        status_ms: 10_000,
        ..Welcome::default()
    }))
}

/// A whole configuration of one service, that no control plane vouches for, as its three messages.
fn update() -> [Kind; 3] {
    let id = Uuid::from_u128(7);
    let json = json!({ "id": id, "host": "stranger" }).to_string();
    let record = shared::snapshot::Record {
        key: Key {
            kind: "services",
            id,
        },
        json: json.clone().into(),
    };
    let snapshot = Snapshot::new(1, Revision(1_000_000), vec![record]);
    let position: Position = (&snapshot.position).into();
    let records = Records {
        put: vec![Record {
            kind: "services".to_owned(),
            id: id.as_bytes().to_vec().into(),
            json: json.into(),
        }],
        remove: Vec::new(),
    };
    let raw = records.encode_to_vec();
    let size = raw.len();
    [
        Kind::Begin(Begin {
            nonce: 1,
            update: 1,
            target: Some(position.clone()),
            records: 1,
            raw_bytes: size.try_into().unwrap(),
            full: true,
            ..Begin::default()
        }),
        Kind::Chunk(Chunk {
            update: 1,
            index: 0,
            raw_size: size.try_into().unwrap(),
            packing: Packing::Plain.into(),
            data: raw.into(),
        }),
        Kind::Commit(Commit {
            nonce: 1,
            chunks: 1,
            root: position.root,
        }),
    ]
}

/// The update with something of it changed.
fn changed(change: impl FnOnce(&mut Begin, &mut Chunk)) -> Vec<u8> {
    let [Kind::Begin(mut begin), Kind::Chunk(mut chunk), commit] = update() else {
        unreachable!("these are its messages")
    };
    change(&mut begin, &mut chunk);
    let rest = [Kind::Begin(begin), Kind::Chunk(chunk), commit];
    [welcome(), rest.map(framed).concat()].concat()
}

/// All that it says, one after the other.
fn cases() -> Vec<(String, Says)> {
    let whole = changed(|_, _| {});
    let answer = |body: Vec<u8>| Says::Answer {
        body,
        piece: usize::MAX,
        ends: true,
    };
    let mut bomb = vec![0; 64 * 1024 * 1024];
    bomb = zstd::bulk::compress(&bomb, 1).unwrap();
    let mut cases: Vec<(String, Says)> = [
        ("takes the connection and says nothing", Says::Nothing),
        ("says nothing within TLS", Says::Silence),
        ("speaks no HTTP/2", Says::Bytes(vec![0x16; 4096])),
        (
            "welcomes and says nothing more",
            Says::Answer {
                body: welcome(),
                piece: usize::MAX,
                ends: false,
            },
        ),
        (
            "sends a byte a second",
            Says::Answer {
                body: whole.clone(),
                piece: 1,
                ends: false,
            },
        ),
        (
            "tells a length of 4 GiB",
            answer([&welcome()[..], &[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]].concat()),
        ),
        (
            "says that it compresses",
            answer([&[1], &welcome()[1..]].concat()),
        ),
        (
            "says what no version knows",
            answer([&welcome()[..], &[0, 0, 0, 0, 5, 0x9a, 0x06, 2, 1, 2]].concat()),
        ),
        (
            "sends what is no message",
            answer([&welcome()[..], &[0, 0, 0, 0, 3, 0xff, 0xff, 0xff]].concat()),
        ),
        (
            "sends a chunk of 64 MiB, as it says",
            answer(changed(|begin, chunk| {
                begin.raw_bytes = 64 * 1024 * 1024;
                chunk.raw_size = 64 * 1024 * 1024;
            })),
        ),
        (
            "sends a bomb",
            answer(changed(|begin, chunk| {
                begin.raw_bytes = 256 * 1024;
                chunk.raw_size = 256 * 1024;
                chunk.packing = Packing::Zstd.into();
                chunk.data = bomb.into();
            })),
        ),
        (
            "sends parts of another update",
            answer(changed(|_, chunk| chunk.update = 2)),
        ),
        (
            "leaves out the first chunk",
            answer(changed(|_, chunk| chunk.index = 1)),
        ),
        (
            "sends a configuration that nobody vouches for",
            answer(whole.clone()),
        ),
        (
            "begins twice",
            answer([changed(|_, _| {}), whole.clone(), whole.clone()].concat()),
        ),
    ]
    .map(|(what, says)| (what.to_owned(), says))
    .into();
    // It ends at each border between messages, and around it.
    let borders = update().into_iter().scan(welcome().len(), |end, kind| {
        let begin = *end;
        *end += framed(kind).len();
        Some(begin)
    });
    for border in borders {
        for end in [border - 1, border, border + 1, border + 6] {
            let what = format!("ends after {end} bytes");
            cases.push((what, answer(whole[..end].to_vec())));
        }
    }
    // Bytes of it are others.
    for number in 0..12_usize {
        let mut bytes = whole.clone();
        let at = number * 977 % bytes.len();
        bytes[at] ^= 0x55;
        cases.push((format!("has byte {at} wrong"), answer(bytes)));
    }
    cases
}

/// It, while it lives.
struct Nonsense {
    address: String,
    /// Which of the cases a node has left, and after how long.
    ended: Arc<Mutex<Vec<(usize, Duration)>>>,
}

impl Nonsense {
    async fn start(cluster: &Cluster, cases: Vec<(String, Says)>) -> Self {
        let file = |name: &str| cluster.directory().join("certificates").join(name);
        let identity = Identity::read(&file("control-plane.pem"), &file("control-plane.key"));
        let authorities = tls::read_authorities(&file("ca.pem")).unwrap();
        let config = tls::cluster_server(&identity.unwrap(), authorities).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nonsense = Self {
            address: listener.local_addr().unwrap().to_string(),
            ended: Arc::default(),
        };
        let ended = Arc::clone(&nonsense.ended);
        tokio::spawn(async move {
            for turn in 0.. {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                // Once all was said it says nothing, to whoever still comes.
                let says = cases
                    .get(turn)
                    .map_or(Says::Nothing, |(_, says)| says.clone());
                let (acceptor, ended) =
                    (TlsAcceptor::from(Arc::clone(&config)), Arc::clone(&ended));
                tokio::spawn(async move {
                    let started = monotonic();
                    speak(stream, acceptor, says).await;
                    ended.lock().unwrap().push((turn, started.elapsed()));
                });
            }
        });
        nonsense
    }
}

/// Speaks until the other side has closed the connection.
async fn speak(mut stream: tokio::net::TcpStream, acceptor: TlsAcceptor, says: Says) {
    let mut rest = Vec::new();
    if matches!(says, Says::Nothing) {
        let _ = stream.read_to_end(&mut rest).await;
        return;
    }
    let Ok(mut stream) = acceptor.accept(stream).await else {
        return;
    };
    let (body, piece, ends) = match says {
        Says::Nothing | Says::Silence => {
            let _ = stream.read_to_end(&mut rest).await;
            return;
        }
        Says::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.read_to_end(&mut rest).await;
            return;
        }
        Says::Answer { body, piece, ends } => (body, piece, ends),
    };
    let first = welcome().len();
    let service = service_fn(move |_| {
        let body = Bytes::from(body.clone());
        let frames = stream::unfold((body, first), move |(mut body, first)| async move {
            if body.is_empty() {
                if !ends {
                    std::future::pending::<()>().await;
                }
                return None;
            }
            let next = body.split_to(first.max(piece).min(body.len()));
            // Piece by piece: an update that goes on for as long as it likes.
            if !body.is_empty() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Some((Ok::<_, Infallible>(Frame::data(next)), (body, 0)))
        });
        let response = Response::builder().header("content-type", "application/grpc");
        let response = response.body(StreamBody::new(frames)).expect("it is one");
        async move { Ok::<_, Infallible>(response) }
    });
    // The node closes it; a broken one is closed, too.
    let _ = http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: tests/faults/run"]
async fn a_control_plane_that_speaks_nonsense_changes_nothing_and_is_left() {
    const NODES: usize = 4;
    let mut cluster = Cluster::start(0).await;
    let demo = Demo::start(&[]).await;
    cluster.route(&demo.upstream(), "/open").await;
    let relay = Relay::start(cluster.cluster_address()).await;
    cluster.lead_through(&relay.address());
    for number in 0..NODES {
        cluster.add_data_plane(&format!("node-{number}")).await;
    }
    cluster.settled().await;
    cluster.persisted().await;
    let nodes = &cluster.data_planes;
    let targets = nodes.iter().map(|node| Target::of(&node.url(), "/open"));
    let load = Load::start(50, targets.collect());
    load.within(Duration::from_secs(3)).await.none_failed();
    let memory = || -> Vec<u64> { nodes.iter().map(|node| node.process.memory_now()).collect() };
    let hash = async |at: usize| {
        let status = nodes[at].status().await.unwrap();
        status["configuration_hash"].clone()
    };
    let (before, runs) = (memory(), hash(0).await);

    let cases = cases();
    let count = cases.len();
    let names: Vec<String> = cases.iter().map(|(what, _)| what.clone()).collect();
    let nonsense = Nonsense::start(&cluster, cases).await;
    relay.turn_to(&nonsense.address);
    relay.break_all();
    // They come back after ever longer pauses, of 10 s at most: four of them make a turn of each 3 s.
    let patience = Duration::from_secs(3) * u32::try_from(count).unwrap() + ABANDONED;
    let left_by_all = async {
        let left =
            |ended: &[(usize, Duration)]| ended.iter().filter(|(turn, _)| *turn < count).count();
        while left(&nonsense.ended.lock().unwrap()) < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // What nobody has met or left by then is named below.
    let _ = tokio::time::timeout(patience, left_by_all).await;
    let ended = nonsense.ended.lock().unwrap().clone();
    for (turn, name) in names.iter().enumerate() {
        let left = ended.iter().find(|(ended, _)| *ended == turn);
        let (_, after) = left.unwrap_or_else(|| panic!("{name}: nobody has left it"));
        assert!(*after < ABANDONED, "{name}: left after {after:?}");
    }
    let slowest = ended
        .iter()
        .map(|(_, after)| *after)
        .max()
        .unwrap_or_default();
    let grown = memory().into_iter().zip(before);
    let grown = grown.map(|(now, before)| now.saturating_sub(before)).max();
    let grown = grown.unwrap_or_default() / 1024;
    for (at, node) in nodes.iter().enumerate() {
        assert_eq!(hash(at).await, runs);
        let log = node.process.log();
        assert!(!log.contains("panicked"), "{log}");
    }
    relay.turn_to(cluster.cluster_address());
    relay.break_all();
    cluster.create("/services", json!({ "host": "h" })).await;
    eventually("the nodes are back", async || {
        let rows = cluster.read("/clustering/data-planes").await["data"].clone();
        let all = rows.as_array()?.iter().all(|row| row["connected"] == true);
        all.then_some(())
    })
    .await;
    cluster.settled().await;
    let figures = load.end().await;
    figures.none_failed();
    println!(
        "{count} kinds of nonsense, each left within {slowest:.1?}; memory grew by {grown} KiB; meanwhile {figures}"
    );
    assert!(grown <= 8 * 1024, "{grown} KiB");
}
