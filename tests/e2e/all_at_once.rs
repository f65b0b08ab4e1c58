//! Exchanges of every kind that are under way while a node stops, or passes its sockets on, come to the end that their own two
//! sides have for them: requests on new and on kept connections, downloads, uploads, events, a WebSocket, gRPC, many at once
//! over HTTP/2.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use harness::{Browser, Cluster, PATIENCE, eventually, read_head};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, BodyStream, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Bytes of an upload and of a download, half of which are to come when the node is told to stop.
const LENGTH: usize = 2 * 1024 * 1024;

/// Requests of one connection of HTTP/2.
const STREAMS: usize = 50;

/// A masked frame of a client's WebSocket, and one of its server (RFC 6455 §5.2).
const ASKED: &[u8] = b"\x81\x85\0\0\0\0hello";
const SAID: &[u8] = b"\x81\x05hello";

/// What both sides of all exchanges know.
#[derive(Clone)]
struct Shared {
    /// How many have arrived at a server.
    arrived: Arc<AtomicUsize>,
    /// Whether they may come to their end.
    may_end: watch::Receiver<bool>,
}

impl Shared {
    fn arrives(&self) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
    }

    async fn end(&mut self) {
        self.may_end.wait_for(|may| *may).await.unwrap();
    }
}

/// A server of HTTP/1.1.
async fn server(shared: &Shared) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shared = shared.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, shared.clone()));
        }
    });
    url
}

async fn serve(mut stream: TcpStream, mut shared: Shared) -> std::io::Result<()> {
    while let Ok(head) = read_head(&mut stream).await {
        let path = head.split(' ').nth(1).unwrap_or_default();
        if path != "/plain" {
            shared.arrives();
        }
        match path {
            "/late" => {
                shared.end().await;
                stream.write_all(OK).await?;
            }
            "/upload" => {
                let mut body = vec![0; LENGTH];
                stream.read_exact(&mut body).await?;
                stream.write_all(OK).await?;
            }
            "/download" => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                let half = vec![b'x'; LENGTH / 2];
                stream.write_all(&half).await?;
                shared.end().await;
                stream.write_all(&half).await?;
            }
            "/events" => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes()).await?;
                stream.write_all(b"e\r\ndata: before\n\n\r\n").await?;
                shared.end().await;
                stream
                    .write_all(b"d\r\ndata: after\n\n\r\n0\r\n\r\n")
                    .await?;
            }
            "/socket" => {
                let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                stream.write_all(head.as_bytes()).await?;
                let mut asked = [0; ASKED.len()];
                while stream.read_exact(&mut asked).await.is_ok() {
                    assert_eq!(asked, ASKED);
                    stream.write_all(SAID).await?;
                }
                return Ok(());
            }
            _ => stream.write_all(OK).await?,
        }
    }
    Ok(())
}

/// A server of gRPC that says again whatever it is told, and then that it was well.
async fn grpc_server(shared: &Shared) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("grpc://{}", listener.local_addr().unwrap());
    let shared = shared.clone();
    let echo = move |request: Request<Incoming>| {
        shared.arrives();
        async move {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let end = stream::once(async move { Ok(Frame::trailers(trailers)) });
            let body = StreamBody::new(BodyStream::new(request.into_body()).chain(end));
            let response = Response::builder().header("content-type", "application/grpc");
            Ok::<_, Infallible>(response.body(body).unwrap())
        }
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let echo = service_fn(echo.clone());
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), echo));
        }
    });
    url
}

async fn connect(address: &str) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

async fn ask(stream: &mut TcpStream, method: &str, path: &str, fields: &str) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// The rest of what the gateway says before it closes the connection, which it does in order.
async fn rest(mut stream: TcpStream) -> String {
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    rest
}

#[track_caller]
fn assert_ok(answer: &str) {
    let answer = answer.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 200 "), "{answer}");
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
}

/// A request that waits for its answer; on a connection that has carried one before, if it is `kept`.
async fn request(address: String, kept: bool) {
    let mut stream = connect(&address).await;
    if kept {
        ask(&mut stream, "GET", "/plain", "").await;
        let head = read_head(&mut stream).await.unwrap();
        assert!(!head.to_ascii_lowercase().contains("connection: close"));
        assert_eq!(stream.read_u16().await.unwrap().to_be_bytes(), *b"ok");
    }
    ask(&mut stream, "GET", "/late", "").await;
    assert_ok(&rest(stream).await);
}

async fn upload(address: String, mut shared: Shared) {
    let mut stream = connect(&address).await;
    let fields = format!("Content-Length: {LENGTH}\r\n");
    ask(&mut stream, "POST", "/upload", &fields).await;
    let half = vec![b'x'; LENGTH / 2];
    stream.write_all(&half).await.unwrap();
    shared.end().await;
    stream.write_all(&half).await.unwrap();
    assert_ok(&rest(stream).await);
}

/// An answer that has begun before the node is told to stop.
async fn answer(address: String, path: &str) -> String {
    let mut stream = connect(&address).await;
    ask(&mut stream, "GET", path, "").await;
    let head = read_head(&mut stream).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    rest(stream).await
}

async fn download(address: String) {
    assert_eq!(answer(address, "/download").await.len(), LENGTH);
}

async fn events(address: String) {
    let events = answer(address, "/events").await;
    let data: Vec<_> = events.lines().filter(|line| line.contains(':')).collect();
    assert_eq!(data, ["data: before", "data: after"]);
    assert!(events.ends_with("\r\n0\r\n\r\n"), "{events}");
}

async fn web_socket(address: String, mut shared: Shared) {
    let mut stream = connect(&address).await;
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    ask(&mut stream, "GET", "/socket", fields).await;
    let head = read_head(&mut stream).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for turn in 0..4 {
        if turn == 2 {
            shared.end().await;
        }
        stream.write_all(ASKED).await.unwrap();
        let mut said = [0; SAID.len()];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(said, SAID);
    }
}

async fn grpc(address: String, mut shared: Shared) {
    let stream = TokioIo::new(connect(&address).await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let (say, said) = mpsc::unbounded_channel::<Bytes>();
    let said = tokio_stream::wrappers::UnboundedReceiverStream::new(said);
    let body = StreamBody::new(said.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
    let request = Request::post("http://app.test/test.Echo/Talk")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    // A message of two bytes that is not compressed.
    let message = Bytes::from_static(b"\0\0\0\0\x02hi");
    say.send(message.clone()).unwrap();
    let mut answer = sender.send_request(request).await.unwrap().into_body();
    for turn in 0..4 {
        if turn == 2 {
            shared.end().await;
        }
        let frame = answer.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), message);
        if turn < 3 {
            say.send(message.clone()).unwrap();
        }
    }
    drop(say);
    let last = answer.frame().await.unwrap().unwrap();
    assert_eq!(last.into_trailers().unwrap()["grpc-status"], "0");
    drop((answer, sender));
    connection.await.unwrap().unwrap();
}

/// Many requests on one connection, which the gateway then ends in order.
async fn streams(address: String) {
    let stream = TokioIo::new(connect(&address).await);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut asking = JoinSet::new();
    for _ in 0..STREAMS {
        let mut sender = sender.clone();
        let request = Request::get("http://app.test/late");
        asking.spawn(async move {
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
        });
    }
    asking.join_all().await;
    // The client would keep it: the end is the gateway's.
    connection.await.unwrap().unwrap();
    drop(sender);
}

/// A node with exchanges of all kinds under way, and what tells these to end.
struct Busy {
    cluster: Cluster,
    exchanges: JoinSet<()>,
    end: watch::Sender<bool>,
}

impl Busy {
    async fn start() -> Self {
        let (end, may_end) = watch::channel(false);
        let shared = Shared {
            arrived: Arc::default(),
            may_end,
        };
        let cluster = Cluster::start(1).await;
        cluster.route(&server(&shared).await, "/").await;
        let service = json!({ "url": grpc_server(&shared).await });
        let service = cluster.create("/services", service).await;
        let route = json!({
            "protocols": ["grpc"], "paths": ["/test.Echo"], "service": { "id": service["id"] },
        });
        cluster.create("/routes", route).await;
        cluster.settled().await;
        cluster.persisted().await;
        let address = || cluster.data_planes[0].process.address("proxy");
        let mut exchanges = JoinSet::new();
        exchanges.spawn(request(address(), false));
        exchanges.spawn(request(address(), true));
        exchanges.spawn(upload(address(), shared.clone()));
        exchanges.spawn(download(address()));
        exchanges.spawn(events(address()));
        exchanges.spawn(web_socket(address(), shared.clone()));
        exchanges.spawn(grpc(address(), shared.clone()));
        let each_one = exchanges.len();
        exchanges.spawn(streams(address()));
        eventually("all of them are under way", async || {
            (shared.arrived.load(Ordering::Relaxed) == each_one + STREAMS).then_some(())
        })
        .await;
        Self {
            cluster,
            exchanges,
            end,
        }
    }

    async fn says(&self, text: &str) {
        let process = &self.cluster.data_planes[0].process;
        eventually(text, async || process.log().contains(text).then_some(())).await;
    }

    /// None of them has ended until now, and each of them ends well.
    async fn all_end(&mut self) {
        assert!(self.exchanges.try_join_next().is_none());
        self.end.send(true).unwrap();
        while let Some(ended) = tokio::time::timeout(PATIENCE, self.exchanges.join_next())
            .await
            .unwrap()
        {
            ended.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_of_every_kind_end_well_on_a_node_that_stops() {
    let mut busy = Busy::start().await;
    busy.cluster.data_planes[0].process.signal("TERM");
    busy.says("stopping").await;
    busy.all_end().await;
    let node = &mut busy.cluster.data_planes[0].process;
    let status = eventually("it has ended", async || node.ended()).await;
    assert!(status.success(), "{status}");
    assert!(!node.log().contains("cut off"), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_of_every_kind_end_well_on_a_node_that_passes_its_sockets_on() {
    let mut busy = Busy::start().await;
    let node = &mut busy.cluster.data_planes[0].process;
    node.start_successor("USR2").await;
    busy.says("stopping").await;
    let url = format!("{}/plain", busy.cluster.url(0));
    assert_eq!(Browser::new().get(&url).await.status, 200);
    busy.all_end().await;
    let node = &mut busy.cluster.data_planes[0].process;
    let status = eventually("the old process has ended", async || node.ended()).await;
    assert!(status.success(), "{status}");
    assert_eq!(Browser::new().get(&url).await.status, 200);
}
