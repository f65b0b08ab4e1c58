//! Clients that send what never becomes a request, more of them than there is memory for: the node lives, serves those who behave
//! meanwhile, and forgets the others.

use std::net::SocketAddr;
use std::time::Duration;

use harness::{Demo, eventually};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::limits::{kept, limited};

/// A message of TLS that greets, is announced with 60,000 bytes and has a few less, in records.
fn greeting() -> Vec<u8> {
    let mut message = vec![1, 0, 0xea, 0x60, 3, 3];
    message.resize(59_000, b'x');
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[22, 3, 1], &length[..], part].concat()
    };
    message.chunks(16_000).flat_map(record).collect()
}

/// A head over HTTP/2 whose 4 KB name one field 3,800 times, without an end.
fn head_of_many_fields() -> Vec<u8> {
    // `GET`, `http`, `/`, `:authority: a`, and `x:`, which the last byte repeats.
    let mut block = b"\x82\x86\x84\x41\x01a\x40\x01x\x00".to_vec();
    block.resize(block.len() + 3_800, 0xbe);
    let length = u32::try_from(block.len()).unwrap().to_be_bytes();
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let head = [&length[1..], &[1, 1, 0, 0, 0, 1], &block].concat();
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings, &head].concat()
}

/// A request with a body that lacks its last byte.
fn almost(path: &str, kind: &str, length: usize) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: app.test\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    );
    (head + &"x".repeat(length - 1)).into_bytes()
}

/// What somebody at another address is answered: to a form that a plugin reads, to a request whose answer a plugin reads, and to one
/// with a large head.
async fn neighbour(address: &str) -> Vec<String> {
    let form = "POST /form HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nContent-Length: 200\r\n\
                Content-Type: application/x-www-form-urlencoded\r\n\r\n";
    let field = "x".repeat(16_000);
    let mut answers = Vec::new();
    for sent in [
        format!("{form}a={}", "x".repeat(198)),
        "GET /answer HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n".to_owned(),
        format!("GET /p HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\nX: {field}\r\n\r\n"),
    ] {
        let answer = ask_from("127.0.0.2:0", address, &sent).await;
        let line = answer.as_deref().unwrap_or("nothing").lines().next();
        answers.push(line.unwrap_or_default().to_owned());
    }
    answers
}

/// What is answered to what is `sent` from one address to another.
async fn ask_from(from: &str, to: &str, sent: &str) -> Option<String> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(from.parse::<SocketAddr>().ok()?).ok()?;
    let mut stream = socket.connect(to.parse().ok()?).await.ok()?;
    stream.write_all(sent.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .ok()?
        .ok()?;
    String::from_utf8(answer).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: tests/faults/run"]
async fn what_never_becomes_a_request_does_not_fill_the_memory_and_is_forgotten() {
    const LIMIT: u64 = 192;
    // The last of the crowd take what there was no room in for the others.
    const SMALL: usize = 400;
    let demo = Demo::start(&[]).await;
    let more = [
        ("WARDGATE_MEMORY_LIMIT_MB", LIMIT.to_string()),
        ("WARDGATE_MAX_CONNECTIONS_PER_ADDRESS", "10000".to_owned()),
    ];
    let cluster = limited(&demo, &[], &more).await;
    for (path, name, config) in [
        ("/key", "key-auth", json!({ "key_in_body": true })),
        (
            "/form",
            "request-transformer",
            json!({ "add": { "body": ["a:b"] } }),
        ),
        (
            "/answer",
            "response-transformer",
            json!({ "add": { "json": ["a:b"] } }),
        ),
    ] {
        let route = cluster.route(&demo.upstream(), path).await;
        let plugin = json!({ "name": name, "config": config });
        cluster
            .create(&format!("/routes/{route}/plugins"), plugin)
            .await;
    }
    cluster.settled().await;
    let node = &cluster.data_planes[0].process;
    let [plain, secured] = ["proxy", "proxy_tls"].map(|name| node.address(name));
    let head = format!("GET /p HTTP/1.1\r\nX: {}", "x".repeat(60_000)).into_bytes();
    let form = "application/x-www-form-urlencoded";
    let small = almost("/key", form, 200);
    for (what, address, clients, sent) in [
        ("heads", &plain, 4_000, head),
        ("heads over HTTP/2", &plain, 4_000, head_of_many_fields()),
        (
            "bodies that are held back",
            &plain,
            4_000,
            almost("/p", "text/plain", 65_000),
        ),
        (
            "bodies that a plugin reads",
            &plain,
            200,
            almost("/key", form, 8_000_000),
        ),
        ("greetings of TLS", &secured, 4_000, greeting()),
    ] {
        let mut crowd = Vec::new();
        let large = std::iter::repeat_n((address, &sent), clients);
        for (address, sent) in large.chain(std::iter::repeat_n((&plain, &small), SMALL)) {
            let Ok(mut stream) = TcpStream::connect(address).await else {
                break;
            };
            let wrote = stream.write_all(sent);
            let _ = tokio::time::timeout(Duration::from_millis(100), wrote).await;
            crowd.push(stream);
        }
        let answers = neighbour(&plain).await;
        let most = node.most_memory() >> 20;
        println!(
            "{what}: {} clients with {LIMIT} MiB: {most} MiB at most; a neighbour: {answers:?}",
            crowd.len()
        );
        assert_eq!(answers, ["HTTP/1.1 200 OK"; 3], "{what}");
        assert!(most < LIMIT, "{what}: {most}");
        drop(crowd);
        eventually("the node serves again", async || kept(&plain).await).await;
    }
}
