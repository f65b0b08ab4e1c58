//! What operators do to a node while it serves must not cost a single request: changes of the configuration
//! one after the other, and a restart that passes the sockets on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use harness::{Browser, Cluster, Demo, PATIENCE, eventually};
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinHandle;

/// Clients that ask without a pause.
struct Load {
    ends: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Half of the clients keep their connections, half connect for each request.
    fn start(address: &str, clients: usize) -> Self {
        let (ends, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let clients = (0..clients).map(|number| {
            let (ends, answered) = (Arc::clone(&ends), Arc::clone(&answered));
            let address = address.to_owned();
            tokio::spawn(async move {
                let mut failures = Vec::new();
                let mut kept = None;
                while !ends.load(Ordering::Relaxed) {
                    match ask(&address, &mut kept, number % 2 == 0).await {
                        Ok(()) => _ = answered.fetch_add(1, Ordering::Relaxed),
                        Err(failure) => failures.push(failure),
                    }
                }
                failures
            })
        });
        let clients = clients.collect();
        Self {
            ends,
            answered,
            clients,
        }
    }

    /// Waits until `more` requests have been answered from now on.
    async fn goes_on(&self, more: usize) {
        let wanted = self.answered.load(Ordering::Relaxed) + more;
        eventually("requests are answered", async || {
            (self.answered.load(Ordering::Relaxed) >= wanted).then_some(())
        })
        .await;
    }

    /// How many requests were answered, and what went wrong with the others.
    async fn end(self) -> (usize, Vec<String>) {
        self.ends.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        for client in self.clients {
            failures.extend(client.await.unwrap());
        }
        (self.answered.load(Ordering::Relaxed), failures)
    }
}

/// One request. A kept connection that the server closes before it has answered anything is replaced by a new
/// one, as every client does (RFC 9110 §9.2.2); a new connection must do.
async fn ask(address: &str, kept: &mut Option<TcpStream>, keeps: bool) -> Result<(), String> {
    if let Some(stream) = kept.take() {
        match exchange(stream, keeps).await {
            Ok(stream) => {
                *kept = stream;
                return Ok(());
            }
            Err(failure) if !failure.is_empty() => return Err(failure),
            Err(_) => {}
        }
    }
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("connecting: {error}"))?;
    match exchange(stream, keeps).await {
        Ok(stream) => {
            *kept = stream;
            Ok(())
        }
        Err(failure) if failure.is_empty() => Err("closed without an answer".to_owned()),
        Err(failure) => Err(failure),
    }
}

/// Gives the connection back if it may be used again; fails with what has arrived otherwise.
async fn exchange(mut stream: TcpStream, keeps: bool) -> Result<Option<TcpStream>, String> {
    let connection = if keeps { "keep-alive" } else { "close" };
    let request =
        format!("GET /blip HTTP/1.1\r\nHost: app.test\r\nConnection: {connection}\r\n\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() {
        return Err(String::new());
    }
    let mut answer = Vec::new();
    let head = loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .and_then(|length| length.parse::<usize>().ok());
            if length == Some(body.len()) {
                break head;
            }
        }
        match stream.read_buf(&mut answer).await {
            Ok(1..) => {}
            Ok(_) | Err(_) => return Err(text),
        }
    };
    if !head.starts_with("http/1.1 200 ") {
        return Err(head);
    }
    let closes = head.lines().any(|line| line == "connection: close");
    Ok((keeps && !closes).then_some(stream))
}

/// Begins a request whose body streams; it is under way when this returns, and lacks `cd`.
async fn half_sent(mut stream: TcpStream, fields: &str, demo: &Demo) -> TcpStream {
    let before = demo.upstream_requests();
    let head = format!("POST /slow HTTP/1.1\r\nHost: slow\r\n{fields}Content-Length: 4\r\n\r\nab");
    stream.write_all(head.as_bytes()).await.unwrap();
    eventually("the request has arrived", async || {
        (demo.upstream_requests() > before).then_some(())
    })
    .await;
    stream
}

/// A client of UDP that says one thing after the other, and waits each time for the answer.
struct Talk {
    ends: Arc<AtomicBool>,
    client: JoinHandle<usize>,
}

impl Talk {
    /// Talks to a server of its own through the route of UDP that it makes.
    async fn start(cluster: &Cluster) -> Self {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let service = json!({"host": "127.0.0.1", "port": port, "protocol": "udp"});
        let service = cluster.create("/services", service).await;
        let sources = json!([{"ip": "127.0.0.1"}]);
        let service = json!({"id": service["id"]});
        let route = json!({"protocols": ["udp"], "sources": sources, "service": service});
        cluster.create("/routes", route).await;
        cluster.settled().await;
        tokio::spawn(async move {
            let mut room = [0; 64];
            while let Ok((length, from)) = server.recv_from(&mut room).await {
                server.send_to(&room[..length], from).await.unwrap();
            }
        });
        let gateway = cluster.data_planes[0].process.address("stream");
        let ends = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ends);
        let client = tokio::spawn(async move {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.connect(gateway).await.unwrap();
            let mut said = 0;
            while !told.load(Ordering::Relaxed) {
                let text = said.to_string();
                socket.send(text.as_bytes()).await.unwrap();
                let mut room = [0; 64];
                let answer = tokio::time::timeout(PATIENCE, socket.recv(&mut room));
                let length = answer.await.expect("nothing is lost").unwrap();
                assert_eq!(&room[..length], text.as_bytes());
                said += 1;
            }
            said
        });
        Self { ends, client }
    }

    /// How often it was answered.
    async fn end(self) -> usize {
        self.ends.store(true, Ordering::Relaxed);
        self.client.await.unwrap()
    }
}

async fn gateway() -> (Cluster, Demo) {
    let cluster = Cluster::start_with(1, &[("WARDGATE_STREAM_LISTEN", "127.0.0.1:0 udp")]).await;
    let demo = Demo::start(&[]).await;
    let route = cluster.route(&demo.upstream(), "/").await;
    // The server hears of a request as soon as it has begun.
    let streams = json!({"request_buffering": false});
    cluster.patch(&format!("/routes/{route}"), streams).await;
    cluster.settled().await;
    (cluster, demo)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_that_passes_the_sockets_on_costs_no_request() {
    let (mut cluster, demo) = gateway().await;
    let talk = Talk::start(&cluster).await;
    cluster.persisted().await;
    let address = cluster.data_planes[0].process.address("proxy");
    let load = Load::start(&address, 8);
    load.goes_on(50).await;
    // By the last one Kong reads its settings anew.
    for signal in ["USR2", "USR2", "HUP"] {
        cluster.data_planes[0].process.succeed(signal).await;
        load.goes_on(50).await;
    }
    // The control plane, too: who writes meanwhile waits at its sockets, over connections of their own, since one that is
    // kept may end as it is used.
    let write = async |path: &str, name: &str| {
        let url = format!("{}{path}", cluster.admin_url());
        let service = json!({"url": "http://127.0.0.1:1", "name": name}).to_string();
        let headers = [("content-type", "application/json")];
        let client = Browser::new();
        let reply = client.send(Method::POST, &url, &headers, service).await;
        assert!([201, 202].contains(&reply.status), "{}", reply.text());
        reply.status == 201
    };
    let process = cluster.control_plane.as_ref().unwrap();
    let starts = || process.log().matches("control plane started").count();
    for (signal, started) in [("USR2", 2), ("HUP", 3)] {
        process.signal(signal);
        let mut written = 0;
        while starts() < started || written < 3 {
            let name = format!("{signal}-{written}");
            assert!(write("/services", &name).await);
            written += 1;
        }
        assert!(write("/services?wait=60", signal).await);
    }
    // Several hooks may ask for it at the same time, also while it is under way.
    for pause in [0, 20, 50, 100, 200, 300] {
        for signal in ["USR2", "HUP"] {
            process.signal(signal);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
    // One that is replaced meanwhile, as it was asked to be once more, has nobody wait.
    let mut asked = 0;
    while !write("/services?wait=20", &format!("asked-{asked}")).await {
        asked += 1;
        assert!(asked < 12, "it goes on for more often than it was asked to");
    }
    let (answered, failures) = load.end().await;
    assert!(
        failures.is_empty(),
        "{} of {answered}: {failures:#?}",
        failures.len()
    );
    assert!(talk.end().await > 0);
    // The new process follows the control plane.
    cluster
        .create(
            "/services",
            json!({"url": "http://127.0.0.1:1", "name": "more"}),
        )
        .await;
    cluster.settled().await;
    // What has come just now is not on the disk yet: a successor begins with it all the same.
    cluster.route(&demo.upstream(), "/fresh").await;
    cluster.settled().await;
    cluster.control_plane.take().unwrap().stop().await;
    cluster.data_planes[0].process.succeed("USR2").await;
    let fresh = Browser::new()
        .get(&format!("{}/fresh", cluster.url(0)))
        .await;
    assert_eq!(fresh.status, 200, "{}", fresh.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_ends_its_last_exchanges_leaves_the_node_to_its_successor() {
    let (mut cluster, demo) = gateway().await;
    cluster.persisted().await;
    // A request whose body is still to come keeps the old process.
    let address = cluster.data_planes[0].process.address("proxy");
    let slow = TcpStream::connect(&address).await.unwrap();
    let mut slow = half_sent(slow, "Connection: close\r\n", &demo).await;
    let node = &mut cluster.data_planes[0].process;
    let old = node.start_successor("USR2").await;
    eventually("the successor serves", async || {
        node.log().contains("a successor serves").then_some(())
    })
    .await;
    // Else systemd would not wait for its end.
    let successor = std::fs::read_to_string(format!("/proc/{}/status", node.id())).unwrap();
    let is_child = successor.contains(&format!("PPid:\t{old}\n"));
    assert!(!is_child, "the successor is nobody's here");
    // As systemd does it when it stops both, and again when the successor has ended.
    for _ in 0..2 {
        let mut told = std::process::Command::new("kill");
        assert!(told.arg(old.to_string()).status().unwrap().success());
    }
    let control_plane = cluster.control_plane.as_ref().unwrap();
    let superseded = || {
        control_plane
            .log()
            .matches("a newer stream of the node")
            .count()
    };
    let connected = || control_plane.log().matches("data plane connected").count();
    eventually("both processes follow", async || {
        (connected() >= 3).then_some(())
    })
    .await;
    let write = async |number: usize| {
        let service = json!({"url": "http://127.0.0.1:1", "name": format!("later-{number}")});
        cluster.create("/services?wait=60", service).await;
    };
    // What came of the successor's start is over by then.
    write(0).await;
    let before = superseded();
    for number in 1..6 {
        write(number).await;
    }
    assert_eq!(superseded(), before, "neither throws the other out");
    slow.write_all(b"cd").await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_end_a_node_only_if_they_are_to_and_then_once_its_exchanges_have() {
    let (mut cluster, demo) = gateway().await;
    let log = cluster.directory().join("requests.log");
    let plugin = json!({"name": "file-log", "config": {"path": log}});
    cluster.create("/plugins", plugin).await;
    // What has others read their settings or open their logs anew.
    for signal in ["HUP", "USR1"] {
        cluster.control_plane.as_ref().unwrap().signal(signal);
    }
    cluster.route(&demo.upstream(), "/logged").await;
    cluster.settled().await;
    let node = &cluster.data_planes[0].process;
    // Its certificate has gone: what runs does not need it any more.
    let key = cluster.directory().join("certificates/node-1.key");
    let aside = key.with_extension("aside");
    std::fs::rename(&key, &aside).unwrap();
    node.signal("USR2");
    eventually("the failure is logged", async || {
        node.log()
            .contains("no successor: this process goes on")
            .then_some(())
    })
    .await;
    std::fs::rename(&aside, &key).unwrap();
    let address = node.address("proxy");
    let load = Load::start(&address, 2);
    load.goes_on(10).await;
    eventually("requests are logged", async || log.exists().then_some(())).await;
    std::fs::rename(&log, log.with_extension("1")).unwrap();
    node.signal("USR1");
    eventually("the file is opened anew", async || {
        log.exists().then_some(())
    })
    .await;
    let (_, failures) = load.end().await;
    assert!(failures.is_empty(), "{failures:#?}");

    let stream = TcpStream::connect(&address).await.unwrap();
    let slow = exchange(stream, true).await.unwrap().unwrap();
    let mut slow = half_sent(slow, "", &demo).await;
    let node = &mut cluster.data_planes[0].process;
    node.signal("QUIT");
    eventually("it stops", async || {
        node.log().contains("stopping").then_some(())
    })
    .await;
    slow.write_all(b"cd").await.unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    let answer = answer.to_ascii_lowercase();
    assert!(
        answer.starts_with("http/1.1 200") && answer.contains("connection: close"),
        "{answer}"
    );
    let status = eventually("it has ended", async || node.ended()).await;
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_each_moment_costs_no_request() {
    let (cluster, demo) = gateway().await;
    let load = Load::start(&cluster.data_planes[0].process.address("proxy"), 8);
    load.goes_on(50).await;
    for number in 0..20 {
        let service = json!({"url": demo.upstream(), "name": format!("service-{number}")});
        let service = cluster.create("/services", service).await;
        let route = json!({"paths": [format!("/{number}")], "service": {"id": service["id"]}});
        cluster.create("/routes", route).await;
        let retries = json!({"retries": number % 5});
        cluster
            .patch(&format!("/services/service-{}", number / 2), retries)
            .await;
        // Each is served while the next is not yet made: what is made together may be sent as one change.
        cluster.settled().await;
        load.goes_on(5).await;
    }
    cluster.settled().await;
    let (answered, failures) = load.end().await;
    assert!(
        failures.is_empty(),
        "{} of {answered}: {failures:#?}",
        failures.len()
    );
}
