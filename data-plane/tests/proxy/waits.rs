//! A client that is slow, silent or one too many keeps nothing from others.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use data_plane::limits::Limits;
use data_plane::proxy::Proxy;
use futures::{StreamExt as _, stream};
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use shared::clock::monotonic;
use socket2::{Domain, Socket, Type};

use crate::gateway::{
    OK, PATIENCE, configuration, connect, eventually, read_until, serve_each, settings, start_with,
    stop, upstream,
};
use crate::http2::{plain, run};

pub(crate) const SHORT: Duration = Duration::from_millis(300);

pub(crate) fn impatient(port: u16, limits: Limits) -> Proxy {
    start_with(
        &settings(),
        limits,
        configuration(
            port,
            &json!({"retries": 0, "read_timeout": 10_000}),
            &[json!({"paths": ["/"]})],
        ),
    )
}

/// What the proxy says to `sent` before it closes, and how long that took.
fn outlast(proxy: &Proxy, sent: &str) -> (String, Duration) {
    loop {
        let start = monotonic();
        let mut stream = connect(proxy);
        stream.write_all(sent.as_bytes()).unwrap();
        // A client that was held up itself was late for another reason.
        if start.elapsed() < SHORT / 3 {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            return (answer, start.elapsed());
        }
    }
}

#[test]
fn a_silent_client_is_let_go() {
    let (port, _heads) = upstream(&[OK]);
    let limits = Limits {
        idle: SHORT,
        ..Limits::default()
    };
    let proxy = impatient(port, limits);
    for sent in ["", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let (answer, time) = outlast(&proxy, sent);
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            usize::from(!sent.is_empty()),
            "{answer}"
        );
        let by_default = Limits::default().idle;
        assert!((SHORT..by_default).contains(&time), "{sent:?} {time:?}");
    }
    stop(proxy);
}

#[test]
fn a_head_that_does_not_end_is_given_up() {
    let (port, heads) = upstream(&[OK]);
    let limits = Limits {
        head: SHORT,
        ..Limits::default()
    };
    let proxy = impatient(port, limits);
    for sent in ["G", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nHost: a\r\n"] {
        let (answer, time) = outlast(&proxy, sent);
        assert!(
            answer.starts_with("HTTP/1.1 408 ") && answer.contains("Request timeout"),
            "{answer}"
        );
        let by_default = Limits::default().head;
        assert!((SHORT..by_default).contains(&time), "{sent:?} {time:?}");
    }
    // One byte at a time helps nobody.
    let mut stream = connect(&proxy);
    let start = monotonic();
    for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX: 0123456789012345678901234567890123456789" {
        if stream.write_all(&[*byte]).is_err() || start.elapsed() > SHORT * 3 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut answer = String::new();
    // The proxy may have closed in the middle of a write.
    let _ = stream.read_to_string(&mut answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 408 "),
        "{answer}"
    );
    assert!(heads.try_recv().is_err());
    stop(proxy);
}

#[test]
fn a_body_that_stops_is_given_up() {
    let limits = Limits {
        body: SHORT,
        ..Limits::default()
    };
    // The upstream waits for the whole body.
    let waiting = serve_each(|mut stream| {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let proxy = impatient(waiting, limits);
    for body in [
        "Content-Length: 5\r\n\r\nab",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    ] {
        let (answer, time) = outlast(&proxy, &format!("POST / HTTP/1.1\r\nHost: a\r\n{body}"));
        assert!(
            answer.starts_with("HTTP/1.1 408 ") && answer.contains("Request timeout"),
            "{answer}"
        );
        let by_default = Limits::default().body;
        assert!((SHORT..by_default).contains(&time), "{time:?}");
    }
    stop(proxy);
}

#[test]
fn a_body_that_stops_is_given_up_by_http2_too() {
    let limits = Limits {
        body: SHORT,
        ..Limits::default()
    };
    let waiting = serve_each(|mut stream| {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let proxy = impatient(waiting, limits);
    run(async {
        // Held back until it is whole, or streamed.
        for length in [2, 100_000] {
            let part = Ok(Frame::data(Bytes::from(vec![b'x'; length])));
            let parts = stream::iter([part]).chain(stream::pending());
            let body = BodyExt::boxed(StreamBody::new(parts));
            let request = Request::post("http://a.test/").body(body).unwrap();
            let answer = plain(&proxy).await.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 408, "{length}");
            let told = answer.into_body().collect().await.unwrap().to_bytes();
            let told = String::from_utf8_lossy(&told);
            assert!(told.contains("Request timeout"), "{told}");
        }
    });
    stop(proxy);
}

#[test]
fn a_body_is_held_back_up_to_a_length_and_streams_from_there_on() {
    let (port, heads) = upstream(&[OK]);
    let limits = Limits {
        body: SHORT,
        ..Limits::default()
    };
    let proxy = impatient(port, limits);
    let most = limits.held_body;
    for length in [most - 1, most, most + 1] {
        let head = format!("POST /{length} HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n");
        let (answer, _) = outlast(&proxy, &(head + &"x".repeat(length)));
        let is_held = answer.starts_with("HTTP/1.1 408 ");
        assert!(is_held || length > most, "{length} {answer}");
    }
    let first = heads.recv_timeout(PATIENCE).unwrap();
    let expected = format!("POST /{} ", most + 1);
    assert!(first.starts_with(&expected), "{first}");
    stop(proxy);
}

/// A server whose answers do not end; says how much of one was written once it was given up.
pub(crate) fn endless_answer() -> (u16, Receiver<usize>) {
    let (sender, ended) = channel();
    let port = serve_each(move |mut stream| {
        read_until(&mut stream, "\r\n\r\n").unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
            .unwrap();
        let chunk = vec![b'x'; 64 * 1024];
        let mut written = 0;
        while stream.write_all(&chunk).is_ok() {
            written += chunk.len();
        }
        // A test that is over does not want to know.
        let _ = sender.send(written);
    });
    (port, ended)
}

#[test]
fn a_client_that_does_not_read_is_let_go() {
    let limits = Limits {
        take: SHORT,
        ..Limits::default()
    };
    let (port, ended) = endless_answer();
    let proxy = impatient(port, limits);
    let mut stream = connect(&proxy);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    // Only the buffers of the sockets are in between.
    let written = ended.recv_timeout(PATIENCE).unwrap();
    assert!(written < 64 * 1024 * 1024, "{written}");
    drop(stream);
    stop(proxy);
}

/// A client with little room on its own side, which asks for an answer that does not end.
pub(crate) fn with_little_room(proxy: &Proxy) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let address = proxy.addresses().proxy.unwrap();
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    stream
}

#[test]
fn a_client_that_reads_slowly_is_not_let_go_until_it_stops() {
    let (port, ended) = endless_answer();
    let limits = Limits {
        take: Duration::from_secs(5),
        send: Duration::from_secs(5),
        ..Limits::default()
    };
    let proxy = impatient(port, limits);
    let mut stream = with_little_room(&proxy);
    for _ in 0..80 {
        stream.read_exact(&mut [0; 16 * 1024]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(ended.try_recv().is_err(), "it still reads");
    }
    let written = ended.recv_timeout(PATIENCE).unwrap();
    assert!(written < 64 * 1024 * 1024, "{written}");
    drop(stream);
    stop(proxy);
}

#[test]
fn a_client_that_has_taken_some_may_pause_for_longer_than_one_that_takes_nothing() {
    let (port, ended) = endless_answer();
    let limits = Limits {
        take: SHORT,
        ..Limits::default()
    };
    let proxy = impatient(port, limits);
    let mut stream = with_little_room(&proxy);
    let mut piece = vec![0; 1024 * 1024];
    stream.read_exact(&mut piece).unwrap();
    // It pauses for longer than the time after which one is let go that takes nothing.
    let idle = with_little_room(&proxy);
    ended.recv_timeout(PATIENCE).unwrap();
    drop(idle);
    for _ in 0..8 {
        stream.read_exact(&mut piece).unwrap();
    }
    assert!(ended.try_recv().is_err(), "it reads again");
    drop(stream);
    stop(proxy);
}

#[test]
fn a_long_exchange_is_no_idle_connection() {
    let port = serve_each(|mut stream| {
        read_until(&mut stream, "\r\n\r\n").unwrap();
        std::thread::sleep(SHORT * 3);
        // Whoever was held up has gone.
        let _ = stream.write_all(OK.as_bytes());
        std::thread::sleep(SHORT);
    });
    let limits = Limits {
        idle: SHORT,
        head: SHORT,
        body: SHORT,
        send: SHORT,
        ..Limits::default()
    };
    let proxy = impatient(port, limits);
    let (answer, _) = outlast(&proxy, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"),
        "{answer}"
    );
    stop(proxy);
}

#[test]
fn one_connection_too_many_is_closed() {
    let (port, _heads) = upstream(&[OK]);
    let one_worker = data_plane::settings::Settings {
        workers: 1,
        ..settings()
    };
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let proxy = start_with(
        &one_worker,
        limits,
        configuration(port, &json!({}), &[json!({"paths": ["/"]})]),
    );
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut kept: Vec<_> = (0..2).map(|_| connect(&proxy)).collect();
    for stream in &mut kept {
        stream.write_all(request).unwrap();
        assert!(
            read_until(stream, "\r\n\r\n")
                .unwrap()
                .starts_with("HTTP/1.1 200 ")
        );
    }
    let mut refused = connect(&proxy);
    assert!(refused.write_all(request).is_err() || read_until(&mut refused, "\r\n").is_none());
    kept.clear();
    eventually("a place that becomes free is used again", || {
        let mut stream = connect(&proxy);
        stream.write_all(request).is_ok() && read_until(&mut stream, "\r\n").is_some()
    });
    stop(proxy);
}

#[test]
fn a_tunnel_in_which_nobody_speaks_is_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_until(&mut stream, "\r\n\r\n").unwrap();
        stream
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .unwrap();
        while read_until(&mut stream, "\n").is_some() {
            stream.write_all(b"heard\n").unwrap();
        }
    });
    let proxy = start_with(
        &settings(),
        Limits::default(),
        configuration(
            port,
            &json!({"read_timeout": 2_000}),
            &[json!({"paths": ["/"]})],
        ),
    );
    let mut stream = connect(&proxy);
    stream
        .write_all(
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .unwrap();
    assert!(
        read_until(&mut stream, "\r\n\r\n")
            .unwrap()
            .starts_with("HTTP/1.1 101 ")
    );
    let mut said = monotonic();
    for _ in 0..12 {
        std::thread::sleep(Duration::from_millis(200));
        said = monotonic();
        stream.write_all(b"x\n").unwrap();
        assert_eq!(read_until(&mut stream, "\n").unwrap(), "heard\n");
    }
    assert!(read_until(&mut stream, "\n").is_none());
    let silent = said.elapsed();
    assert!(silent >= Duration::from_secs(2), "{silent:?}");
    stop(proxy);
}

#[test]
fn a_server_that_goes_on_to_speak_is_not_late() {
    const PAUSE: Duration = Duration::from_millis(800);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_until(&mut stream, "\r\n\r\n").unwrap();
        let parts = [
            "HTTP/1.1 102 Processing\r\n\r\n",
            "HTTP/1.1 102 Processing\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
            "Content-Length: 2\r\n",
            "\r\nok",
        ];
        for part in parts {
            std::thread::sleep(PAUSE);
            stream.write_all(part.as_bytes()).unwrap();
        }
    });
    // It counts between two reads, and is shorter than all of them together.
    let service = json!({"retries": 0, "read_timeout": 2500});
    let records = configuration(port, &service, &[json!({"paths": ["/"]})]);
    let proxy = start_with(&settings(), Limits::default(), records);
    let (answer, _) = outlast(
        &proxy,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(answer.matches("HTTP/1.1 102 ").count(), 2, "{answer}");
    assert!(
        answer.contains("HTTP/1.1 200 ") && answer.ends_with("ok"),
        "{answer}"
    );
    server.join().unwrap();
    stop(proxy);
}
