//! The proxy path of a real node: TLS, HTTP/2, upgrades, bodies that stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use harness::{Browser, Cluster, Demo, PATIENCE, read_head};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::json;
use shared::machine;
use shared::tls::{Unverified, provider};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

async fn tls(cluster: &Cluster, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let address = cluster.data_planes[0].process.address("proxy_tls");
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
    stream
}

/// A node with a route for `/` to the echo.
async fn echo() -> (Cluster, Demo) {
    let cluster = Cluster::start(1).await;
    let demo = Demo::start(&[]).await;
    cluster.route(&demo.upstream(), "/").await;
    cluster.settled().await;
    (cluster, demo)
}

#[tokio::test]
async fn many_requests_share_one_http2_connection_over_tls() {
    let (cluster, _demo) = echo().await;
    let stream = TokioIo::new(tls(&cluster, b"h2").await);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    let calls = (0..50).map(|number| {
        let mut sender = sender.clone();
        tokio::spawn(async move {
            let request = Request::post(format!("https://app.test/{number}"))
                .body(Full::new(Bytes::from(format!("body {number}"))))
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            serde_json::from_slice::<serde_json::Value>(&body).unwrap()
        })
    });
    for (number, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        let seen = call.await.unwrap();
        assert_eq!(seen["path"], format!("/{number}"));
        assert_eq!(seen["body"], format!("body {number}"));
        assert_eq!(seen["headers"]["x-forwarded-proto"], "https");
        assert_eq!(seen["headers"]["x-forwarded-host"], "app.test");
    }
}

#[tokio::test]
async fn a_sign_in_over_tls_sets_cookies_that_stay_on_tls() {
    let (cluster, demo) = echo().await;
    let plugin = json!({
        "name": "openid-connect",
        "config": { "issuer": demo.issuer(), "client_id": ["c"], "client_secret": ["s"] },
    });
    cluster.create("/plugins", plugin).await;
    cluster.settled().await;
    let stream = TokioIo::new(tls(&cluster, b"http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/x")
        .header("host", "app.test")
        .body(Full::<Bytes>::default());
    let response = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), 302);
    let location = response.headers()["location"].to_str().unwrap();
    assert!(
        location.contains("redirect_uri=https%3A%2F%2Fapp.test%2Fx"),
        "{location}"
    );
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("; Secure"), "{cookie}");
}

#[tokio::test]
async fn a_websocket_is_a_tunnel_after_its_handshake() {
    let cluster = Cluster::start(1).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await.unwrap();
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhi";
        stream.write_all(answer).await.unwrap();
        let mut asked = [0; 4];
        stream.read_exact(&mut asked).await.unwrap();
        stream.write_all(&asked).await.unwrap();
        head.to_ascii_lowercase()
    });
    cluster.route(&format!("http://{address}"), "/").await;
    cluster.settled().await;
    let proxy = cluster.data_planes[0].process.address("proxy");
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    let request = "GET /chat HTTP/1.1\r\nHost: app.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nhi") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    stream.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).await.unwrap();
    assert_eq!(&echoed, b"ping");
    let head = upstream.await.unwrap();
    assert!(
        head.contains("upgrade: websocket") && head.contains("sec-websocket-key:"),
        "{head}"
    );
}

#[tokio::test]
async fn bodies_arrive_whole_and_hop_by_hop_headers_do_not() {
    let (cluster, _demo) = echo().await;
    let browser = Browser::new();
    let body = "x".repeat(900_000);
    let headers = [
        ("connection", "x-private"),
        ("x-private", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "gzip"),
        ("proxy-authorization", "Basic eA=="),
        ("x-kept", "1"),
    ];
    let url = format!("{}/big?a=%20b&c", cluster.url(0));
    let reply = browser
        .send(Method::POST, &url, &headers, body.clone())
        .await;
    let seen = reply.json();
    assert_eq!(reply.status, 200);
    assert_eq!(seen["body"].as_str().map(str::len), Some(body.len()));
    assert_eq!(
        (&seen["path"], &seen["query"]),
        (&json!("/big"), &json!("a=%20b&c"))
    );
    for name in ["x-private", "keep-alive", "te"] {
        assert!(seen["headers"].get(name).is_none(), "{name}: {seen:.300}");
    }
    assert_eq!(seen["headers"]["x-kept"], "1");
    assert!(reply.header("via").starts_with("1.1 kong/3.9."));
    assert_eq!(reply.header("x-kong-request-id").len(), 32);
    an_answer_is_kept_until_an_operator_drops_it(&cluster).await;
}

async fn an_answer_is_kept_until_an_operator_drops_it(cluster: &Cluster) {
    let config = json!({ "strategy": "memory", "content_type": ["*/*", "application/json"] });
    let plugin = json!({ "name": "proxy-cache", "config": config });
    cluster.create("/plugins", plugin).await;
    cluster.settled().await;
    let status = async || {
        let reply = Browser::new()
            .get(&format!("{}/kept", cluster.url(0)))
            .await;
        let key = reply.header("x-cache-key").to_owned();
        (reply.header("x-cache-status").to_owned(), key)
    };
    let (missed, key) = status().await;
    assert_eq!(
        (missed.as_str(), status().await.0.as_str()),
        ("Miss", "Hit")
    );
    for url in [format!("/proxy-cache/{key}"), "/proxy-cache".to_owned()] {
        let reply = cluster.admin(Method::DELETE, &url, &json!({})).await;
        assert_eq!(reply.status, 204, "{url}: {}", reply.text());
        cluster.settled().await;
        assert_eq!(status().await.0, "Miss", "{url}");
        assert_eq!(status().await.0, "Hit", "{url}");
    }
}

#[tokio::test]
async fn an_operator_takes_a_target_out_on_all_nodes() {
    let cluster = Cluster::start(2).await;
    let demo = Demo::start(&[]).await;
    let passive = json!({ "unhealthy": { "http_failures": 1 } });
    let upstream = json!({ "name": "servers", "healthchecks": { "passive": passive } });
    cluster.create("/upstreams", upstream).await;
    let address = demo.upstream();
    let address = address.trim_start_matches("http://").trim_end_matches('/');
    let target = json!({ "target": address });
    let target = cluster.create("/upstreams/servers/targets", target).await;
    cluster.route("http://servers", "/").await;
    let id = target["id"].as_str().unwrap();
    cluster.settled().await;
    let turns = [
        (id.to_owned(), "unhealthy", 503),
        (address.to_owned(), "healthy", 200),
        (format!("{id}/{address}"), "unhealthy", 503),
        (format!("{id}/{address}"), "healthy", 200),
    ];
    let turns = turns.iter().cycle().take(11);
    for (place, word, status) in turns {
        let url = format!("/upstreams/servers/targets/{place}/{word}");
        // Without a wait it is answered after two seconds, too, however busy the nodes are.
        let waiting = format!("{url}?wait=60");
        let reply = cluster.admin(Method::PUT, &waiting, &json!({})).await;
        assert_eq!(reply.status, 204, "{url}: {}", reply.text());
        // Nodes serve by it once it is answered.
        for node in [0, 1] {
            let reply = Browser::new().get(&cluster.url(node)).await;
            assert_eq!(reply.status, *status, "{url} on {node}");
        }
        let shown = word.to_uppercase();
        harness::eventually("the control plane knows", async || {
            let health = cluster.read("/upstreams/servers/health").await;
            (health["data"][0]["health"] == shown.as_str()).then_some(())
        })
        .await;
    }
    // What a node knows of an address outlasts a change of its upstream.
    let unchanged = json!({ "tags": ["later"] });
    cluster.patch("/upstreams/servers", unchanged).await;
    cluster.settled().await;
    let reply = Browser::new().get(&cluster.url(0)).await;
    assert_eq!(reply.status, 503);
}

#[tokio::test]
async fn the_control_plane_shows_where_the_names_of_targets_lead() {
    let cluster = Cluster::start(2).await;
    let demo = Demo::start(&[]).await;
    let passive = json!({ "unhealthy": { "http_failures": 1 } });
    let upstream = json!({ "name": "named", "healthchecks": { "passive": passive } });
    cluster.create("/upstreams", upstream).await;
    let address = demo.upstream();
    let address = address.trim_end_matches('/');
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    let target = json!({ "target": format!("localhost:{port}"), "weight": 7 });
    cluster.create("/upstreams/named/targets", target).await;
    let address = async |state: &str| {
        harness::eventually(&format!("127.0.0.1 is {state}"), async || {
            let health = cluster.read("/upstreams/named/health").await;
            let addresses = health["data"][0]["data"]["addresses"].as_array()?.clone();
            let found = addresses.into_iter().find(|one| one["ip"] == "127.0.0.1")?;
            (found["health"] == state).then_some(found)
        })
        .await
    };
    let found = address("HEALTHY").await;
    assert_eq!(
        (&found["port"], &found["weight"]),
        (&port.into(), &7.into())
    );
    let url = format!("/upstreams/named/targets/localhost:{port}/127.0.0.1:{port}/unhealthy");
    let reply = cluster.admin(Method::PUT, &url, &json!({})).await;
    assert_eq!(reply.status, 204, "{url}: {}", reply.text());
    address("UNHEALTHY").await;
}

/// Asks once on `stream`, or on a new connection: the connection if it was answered, nothing if it was closed.
async fn served(address: &str, stream: Option<TcpStream>) -> Option<TcpStream> {
    let mut stream = match stream {
        Some(stream) => stream,
        None => TcpStream::connect(address).await.ok()?,
    };
    let request = "HEAD /small HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
    }
    answer.starts_with(b"HTTP/1.1 200 ").then_some(stream)
}

#[tokio::test]
async fn a_node_whose_descriptors_are_gone_turns_clients_away_and_serves_the_others() {
    let (cluster, _demo) = echo().await;
    let node = &cluster.data_planes[0].process;
    let address = node.address("proxy");
    let mut held = vec![served(&address, None).await.unwrap()];
    node.take_descriptors(true);
    loop {
        let asked = tokio::time::timeout(PATIENCE, served(&address, None));
        match asked.await.expect("nobody is left waiting") {
            Some(stream) => held.push(stream),
            None => break,
        }
        assert!(held.len() < 500, "descriptors do not end");
    }
    for stream in held {
        let kept = served(&address, Some(stream)).await;
        assert!(kept.is_some(), "who is there is served");
    }
    harness::eventually("it says so", async || {
        node.log().contains("accepting a connection").then_some(())
    })
    .await;
    node.take_descriptors(false);
    harness::eventually("new clients are served again", async || {
        served(&address, None).await.map(drop)
    })
    .await;
}

/// A server that answers nobody until it is told to. How many requests wait there.
struct Held {
    port: u16,
    waiting: Arc<AtomicUsize>,
    release: watch::Sender<bool>,
}

impl Held {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let held = Self {
            port: listener.local_addr().unwrap().port(),
            waiting: Arc::default(),
            release: watch::Sender::new(false),
        };
        let (waiting, released) = (Arc::clone(&held.waiting), held.release.subscribe());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (waiting, mut released) = (Arc::clone(&waiting), released.clone());
                tokio::spawn(async move {
                    _ = read_head(&mut stream).await;
                    waiting.fetch_add(1, Ordering::SeqCst);
                    _ = released.wait_for(|released| *released).await;
                    let answer =
                        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    _ = stream.write_all(answer).await;
                });
            }
        });
        held
    }
}

/// What comes back for a request: nothing where the connection is closed.
async fn answered(address: &str) -> Vec<u8> {
    let mut answer = Vec::new();
    let Ok(mut stream) = TcpStream::connect(address).await else {
        return answer;
    };
    let request = b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";
    if stream.write_all(request).await.is_ok() {
        _ = stream.read_to_end(&mut answer).await;
    }
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_let_in_is_served_however_many_cores_and_few_descriptors_there_are() {
    machine::open_as_many_as_permitted();
    for (cores, descriptors) in [(8, 256), (16, 512), (32, 1024)] {
        let server = Held::start().await;
        let mut cluster = Cluster::start(0).await;
        cluster
            .route(&format!("http://127.0.0.1:{}", server.port), "/")
            .await;
        cluster.certify("node-1");
        cluster.run_under(&["prlimit", &format!("--nofile={descriptors}:{descriptors}")]);
        let workers = ("WARDGATE_WORKERS", cores.to_string());
        cluster.start_data_plane_with("node-1", &[workers]).await;
        cluster.settled().await;
        let address = cluster.data_planes[0].process.address("proxy");
        let ended = Arc::new(AtomicUsize::new(0));
        let clients = (0..descriptors).map(|_| {
            let (address, ended) = (address.clone(), Arc::clone(&ended));
            tokio::spawn(async move {
                let answer = answered(&address).await;
                ended.fetch_add(1, Ordering::SeqCst);
                answer
            })
        });
        let clients: Vec<_> = clients.collect();
        harness::eventually("each is let in or closed", async || {
            let waiting = server.waiting.load(Ordering::SeqCst);
            (waiting + ended.load(Ordering::SeqCst) == descriptors).then_some(())
        })
        .await;
        assert!(cluster.data_planes[0].is_ready().await, "{cores} cores");
        cluster.create("/services", json!({ "host": "h" })).await;
        cluster.settled().await;
        cluster.persisted().await;
        cluster.data_planes[0].process.start_successor("USR2").await;
        server.release.send_replace(true);
        let mut count = 0;
        for client in clients {
            let answer = client.await.unwrap();
            if !answer.is_empty() {
                let answer = String::from_utf8_lossy(&answer);
                assert!(
                    answer.starts_with("HTTP/1.1 200 "),
                    "{cores} cores: {answer}"
                );
                count += 1;
            }
        }
        assert!(count > descriptors / 16, "{cores} cores: {count} served");
    }
}
