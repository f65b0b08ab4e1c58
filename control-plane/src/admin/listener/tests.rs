//! What the listener of the Admin API promises.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::routing::{get, post};
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};

use super::*;

/// Bytes of an answer that no buffer takes.
const LONG: usize = 64 * 1024 * 1024;

type Started = (SocketAddr, oneshot::Sender<()>, JoinHandle<()>);

async fn start(limits: Limits) -> Started {
    start_with(limits, None).await
}

async fn start_with(limits: Limits, tls: Option<watch::Receiver<Tls>>) -> Started {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopping) = oneshot::channel();
    let long = || async {
        let parts =
            (0..LONG / 65_536).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b'a'; 65_536])));
        axum::body::Body::from_stream(futures::stream::iter(parts))
    };
    let whole = || async { vec![b'a'; LONG] };
    let router = Router::new()
        .route("/", get(|| async { "here" }).post(|_: Bytes| async {}))
        .route("/busy", get(|| async { StatusCode::SERVICE_UNAVAILABLE }))
        .route("/long", get(long))
        .route("/whole", get(whole));
    let served = tokio::spawn(serve(listener, tls, limits, router, stopping));
    (address, stop, served)
}

/// What comes until the connection is closed.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    // Closed with bytes unread, it may also be reset.
    let _ = stream.read_to_string(&mut text).await;
    text
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn a_connection_without_a_whole_request_is_closed() {
    let limits = Limits {
        idle: Duration::from_millis(500),
        ..Limits::default()
    };
    let (address, _stop, _) = start(limits).await;
    for head in ["", "GET / HTTP/1.1\r\nHost: loc"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(rest(stream).await, "", "{head}");
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    assert!(rest(stream).await.ends_with("here"));
}

#[tokio::test]
async fn a_body_that_does_not_come_holds_the_end_up_for_a_moment_only() {
    let (address, stop, served) = start(Limits::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let half =
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(half).await.unwrap();
    // It is under way.
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    stop.send(()).unwrap();
    served.await.unwrap();
    assert!(rest(stream).await.contains("HTTP/1.1 400"));
}

/// Clients that keep a request open in each way, where nothing but the end of the process ends them.
#[tokio::test]
async fn half_of_anything_holds_the_end_up_for_a_moment_only() {
    let limits = Limits {
        idle: Duration::from_hours(1),
        handshake: Duration::from_hours(1),
        ..Limits::default()
    };
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (
        directory.path().join("c.pem"),
        directory.path().join("k.pem"),
    );
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let config = server_config(&certificate, &key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();

    let (_tls, tls) = watch::channel(Some(config));
    let (address, stop, served) = start_with(limits, Some(tls)).await;
    // A handshake that does not begin, and half of one.
    let _bare = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(&[22, 3, 1, 0, 200, 1]).await.unwrap();
    let over_tls = async |protocol: &[u8], sent: &[u8]| {
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = "localhost".try_into().unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        stream.write_all(sent).await.unwrap();
        stream.flush().await.unwrap();
        stream
    };
    let _head = over_tls(b"http/1.1", b"GET / HTTP/1.1\r\nHost: loc").await;
    // Settings; the head of a POST; half of its body. It takes no leave either.
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    sent.extend(b"\0\0\x0e\x01\x04\0\0\0\x01\x83\x87\x84\x41\x09localhost");
    sent.extend(b"\0\0\x01\0\0\0\0\0\x01{");
    let mut body = over_tls(H2, &sent).await;
    assert_ne!(body.read(&mut [0; 9]).await.unwrap(), 0, "it is spoken to");
    let (plain, stop_plain, served_plain) = start(limits).await;
    let mut head = TcpStream::connect(plain).await.unwrap();
    head.write_all(b"POST / HTTP/1.1\r\nHost: loc")
        .await
        .unwrap();

    stop.send(()).unwrap();
    stop_plain.send(()).unwrap();
    for served in [served, served_plain] {
        let ended = tokio::time::timeout(Duration::from_mins(1), served).await;
        ended.expect("it ends").unwrap();
    }
}

#[tokio::test]
async fn an_answer_that_is_read_slowly_is_finished() {
    for path in ["/long", "/whole"] {
        let (address, stop, served) = start(Limits::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await.unwrap();
        stop.send(()).unwrap();
        // Longer than a connection without a request would be there.
        tokio::time::sleep(QUIET * 4).await;
        let rest = rest(stream).await.len();
        assert!(rest > LONG, "{path}: {rest}");
        served.await.unwrap();
    }
}

#[tokio::test]
async fn many_that_come_in_one_moment_are_each_answered() {
    let limits = Limits {
        connections: 32,
        // However slow the machine is.
        fresh: Duration::from_hours(1),
        ..Limits::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        crowd.push(stream);
    }
    let (_stop, stopping) = oneshot::channel();
    let router = Router::new().route("/", get(|| async { "here" }));
    tokio::spawn(serve(listener, None, limits, router, stopping));
    for stream in crowd {
        let answer = rest(stream).await;
        assert!(answer.ends_with("here"), "{answer}");
    }
}

#[tokio::test]
async fn who_is_told_to_come_back_leaves_their_place() {
    let (address, _stop, _) = start(Limits::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /busy HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let answer = rest(stream).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
}

/// What serves `router`, until it is told to stop.
fn serving(router: Router) -> (Serving, watch::Sender<bool>) {
    let (stop, stopped) = watch::channel(false);
    let limits = Limits::default();
    let serving = Serving {
        tls: None,
        handshakes: Arc::new(Semaphore::new(limits.handshakes)),
        limits,
        router,
        stopped,
    };
    (serving, stop)
}

#[tokio::test(start_paused = true)]
async fn a_body_that_no_answer_needs_is_read_or_ends_the_connection() {
    const HUGE: &str = "Content-Length: 20000000\r\n";
    const EXPECT: &str = "Content-Length: 2\r\nExpect: 100-continue\r\n";
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
    let begun = Arc::new(Notify::new());
    let tell = Arc::clone(&begun);
    let early = move || {
        tell.notify_one();
        async { StatusCode::NOT_FOUND }
    };
    let tell = Arc::clone(&begun);
    let reading = move |body: axum::body::Body| {
        tell.notify_one();
        async {
            let _ = body.collect().await;
            StatusCode::NOT_FOUND
        }
    };
    let router = Router::new()
        .route("/", post(early).get(|| async { "here" }))
        .route("/reads", post(reading));
    let early = [
        ("", "", true),
        ("Content-Length: 2\r\n", "{}", true),
        (CHUNKED, "2\r\n{}\r\n0\r\n\r\n", true),
        // It does not come, or not all of it.
        ("Content-Length: 2\r\n", "", false),
        (CHUNKED, "2\r\n{}\r\n", false),
        (CHUNKED, "nonsense", false),
        // It is not asked for.
        (EXPECT, "", false),
        (HUGE, "{}", false),
    ];
    // Whoever answers has read it to its end, or to where it breaks.
    let read = [
        ("Content-Length: 2\r\n", "{}", true),
        (CHUNKED, "2\r\n{}\r\n0\r\n\r\n", true),
        (CHUNKED, "nonsense", false),
    ];
    let early = early.map(|row| ("/", row));
    let read = read.map(|row| ("/reads", row));
    for (path, (head, body, stays)) in early.into_iter().chain(read) {
        let (serving, _stop) = serving(router.clone());
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        tokio::spawn(async move { serving.speak(far, address, false).await });
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n");
        near.write_all(head.as_bytes()).await.unwrap();
        begun.notified().await;
        // The connection may be closed by now.
        let _ = near.write_all(body.as_bytes()).await;
        if stays {
            let _ = near.write_all(REQUEST).await;
        }
        let mut told = String::new();
        near.read_to_string(&mut told).await.unwrap();
        assert!(told.starts_with("HTTP/1.1 404 "), "{head}{told}");
        let closes = told.contains("connection: close\r\n");
        assert_eq!(closes, !stays, "{head}{told}");
        assert_eq!(told.ends_with("here"), stays, "{head}{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_kept_has_one_more_request_when_the_process_stops() {
    // It ends shortly before the next look at what is under way.
    const REST: Duration = Duration::from_millis(2_900);
    let slow = || async {
        let rest = async {
            tokio::time::sleep(REST).await;
            Ok::<_, Infallible>("rest")
        };
        let begins = futures::stream::iter([Ok("begun, ")]);
        let parts = begins.chain(futures::stream::once(rest));
        axum::body::Body::from_stream(parts)
    };
    let router = Router::new()
        .route("/", get(|| async { "here" }))
        .route("/slow", get(slow));
    // Between two requests, and in the middle of an answer.
    for (path, until, passes) in [
        ("/", "here", QUIET / 2),
        ("/slow", "begun", REST + QUIET / 2),
    ] {
        let (serving, stop) = serving(router.clone());
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let served = tokio::spawn(async move { serving.speak(far, address, false).await });
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        near.write_all(request.as_bytes()).await.unwrap();
        let mut told = String::new();
        while !told.contains(until) {
            told.push(char::from(near.read_u8().await.unwrap()));
        }
        stop.send_replace(true);
        tokio::time::sleep(passes).await;
        // It may be closed by now.
        let _ = near.write_all(REQUEST).await;
        near.read_to_string(&mut told).await.unwrap();
        assert_eq!(told.matches("HTTP/1.1 200").count(), 2, "{told}");
        assert_eq!(told.matches("connection: close").count(), 1, "{told}");
        assert!(told.ends_with("here"), "{told}");
        served.await.unwrap();
    }
}

/// Speaks HTTP/2 with `serving` through buffers that all fits in: the server's end, what is asked with, and the line between
/// the two, to be cut.
async fn over_http2(serving: Serving) -> (JoinHandle<()>, SendRequest<Empty<Bytes>>, AbortHandle) {
    let [(near, mut end), (mut other_end, far)] =
        [(); 2].map(|()| tokio::io::duplex(16 * 1024 * 1024));
    let line = async move { tokio::io::copy_bidirectional(&mut end, &mut other_end).await };
    let line = tokio::spawn(line).abort_handle();
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let served = tokio::spawn(async move { serving.speak(far, address, true).await });
    let (asking, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .handshake(TokioIo::new(near))
        .await
        .unwrap();
    tokio::spawn(connection);
    (served, asking, line)
}

#[tokio::test]
async fn an_answer_of_http2_that_is_read_slowly_is_finished() {
    let whole = || async { vec![b'a'; 1024 * 1024] };
    let (serving, stop) = serving(Router::new().route("/", get(whole)));
    let (served, mut asking, _line) = over_http2(serving).await;
    let request = Request::get("http://localhost/").body(Empty::new());
    let answer = asking.send_request(request.unwrap()).await.unwrap();
    stop.send_replace(true);
    tokio::time::sleep(QUIET * 4).await;
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), 1024 * 1024);
    served.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_http2_comes_whole_over_a_slow_way() {
    // More than the way holds: only then the server asks.
    const LENGTH: usize = 4 * 1024 * 1024;
    let whole = || async { vec![b'a'; LENGTH] };
    let (serving, _stop) = serving(Router::new().route("/", get(whole)));
    let [(near, end), (other_end, far)] = [(); 2].map(|()| tokio::io::duplex(LENGTH / 4));
    let (mut asks, mut told) = tokio::io::split(end);
    let (mut answers, mut asked) = tokio::io::split(other_end);
    tokio::spawn(async move { tokio::io::copy(&mut asks, &mut asked).await });
    tokio::spawn(async move {
        let mut piece = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = answers.read(&mut piece).await {
            told.write_all(&piece[..count]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    tokio::spawn(async move { serving.speak(far, address, true).await });
    let window = u32::try_from(2 * LENGTH).unwrap();
    let (mut asking, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .initial_connection_window_size(window)
        .handshake(TokioIo::new(near))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://localhost/").body(Empty::<Bytes>::new());
    let answer = asking.send_request(request.unwrap()).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), LENGTH);
}

#[tokio::test]
async fn what_a_client_that_has_gone_asked_to_read_is_not_worked_off() {
    const ASKED: usize = 100;
    let begun = Arc::new(AtomicUsize::new(0));
    let line: Arc<OnceLock<AbortHandle>> = Arc::default();
    let (count, cut) = (Arc::clone(&begun), Arc::clone(&line));
    let work = move || {
        count.fetch_add(1, Ordering::Relaxed);
        if let Some(line) = cut.get() {
            line.abort();
        }
        async { "here" }
    };
    let router = Router::new().route("/", get(work));
    let (serving, _stop) = serving(router.clone());
    let (served, asking, between) = over_http2(serving).await;
    line.set(between).unwrap();
    let all = (0..ASKED).map(|_| {
        let request = Request::get("http://localhost/").body(Empty::new());
        asking.clone().send_request(request.unwrap())
    });
    let answers = futures::future::join_all(all).await;
    assert!(answers.iter().any(Result::is_err));
    served.await.unwrap();
    // What is left of the requests goes by itself.
    for _ in 0..ASKED {
        tokio::task::yield_now().await;
    }
    let number = begun.swap(0, Ordering::Relaxed);
    assert!((1..ASKED / 2).contains(&number), "{number}");

    // One after the other, over HTTP/1.1.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    std::io::Write::write_all(&mut stream, &REQUEST.repeat(ASKED)).unwrap();
    drop(stream);
    let (stop, stopping) = oneshot::channel();
    let served = tokio::spawn(serve(listener, None, Limits::default(), router, stopping));
    while begun.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    stop.send(()).unwrap();
    served.await.unwrap();
    let number = begun.load(Ordering::Relaxed);
    assert!(number < ASKED / 2, "{number}");
}

#[tokio::test]
async fn who_is_one_too_many_of_an_address_is_told_so() {
    let limits = Limits {
        connections: 2 * u32::try_from(LEAST_SHARE).unwrap(),
        ..Limits::default()
    };
    let (address, _stop, _) = start(limits).await;
    let mut others = Vec::new();
    for _ in 0..LEAST_SHARE {
        others.push(TcpStream::connect(address).await.unwrap());
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    let answer = rest(stream).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    // Those that are there go on.
    let mut stream = others.pop().unwrap();
    stream.write_all(REQUEST).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn a_place_is_free_again_when_its_connection_ends() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let (address, stop, served) = start(limits).await;
    let first = TcpStream::connect(address).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(REQUEST).await.unwrap();
    drop(first);
    let mut answer = [0; 15];
    second.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    // An idle connection does not hold the end up.
    stop.send(()).unwrap();
    served.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
