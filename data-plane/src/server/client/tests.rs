//! Requests as they arrive.

use std::future::poll_fn;

use proptest::prelude::*;
use shared::properties::cases;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::memory;
use crate::quota::fair::Fair;
use crate::timer::Timers;

/// Nothing of as much as anybody likes.
fn held() -> Held {
    let stock = memory::held(usize::MAX, None, 1);
    Held::of(Rc::new(Fair::of(stock, 1)), None, None)
}

const STREAM: &[u8] = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
    POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nGET /not-a-head HTTP/1.1\r\n\r\nab\
    POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1A;x=y\r\nGET /nor-this HTTP/1.1\r\n\r\n\r\n0\r\nT: v\r\n\r\n\
    PUT /4 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";

/// A client that has sent `parts` one after the other.
async fn client(parts: Vec<Vec<u8>>) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut far = TcpStream::connect(address).await.unwrap();
    far.set_nodelay(true).unwrap();
    let (near, _) = listener.accept().await.unwrap();
    tokio::task::spawn_local(async move {
        for part in parts {
            far.write_all(&part).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    let timer = Rc::new(Timers::default()).timer();
    Client::new(
        (Stream::Plain(near), BytesMut::new()),
        timer,
        Limits::default(),
        Arc::default(),
        held(),
    )
}

/// The requests of `parts` with their bodies, up to what ends them.
async fn requests(parts: Vec<Vec<u8>>) -> (Vec<String>, String) {
    let mut client = client(parts).await;
    let mut found = Vec::new();
    loop {
        let incoming = match poll_fn(|cx| client.poll_next(cx)).await {
            Next::Request(incoming) => incoming,
            end => return (found, format!("{end:?}")),
        };
        let mut body = Vec::new();
        if client.begin(incoming.framing, incoming.expects) {
            while let Some(frame) = poll_fn(|cx| client.poll_body(cx)).await {
                match frame {
                    Ok(frame) => body.extend(frame.into_data().unwrap_or_default()),
                    Err(error) => return (found, error.to_string()),
                }
            }
        }
        let text = String::from_utf8(body).unwrap();
        found.push(format!("{} {text}", incoming.head.uri));
    }
}

#[test]
fn a_connection_that_rests_keeps_no_memory_for_the_next_request() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut far = TcpStream::connect(address).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        let head = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n",
            "x".repeat(4000)
        );
        far.write_all(head.as_bytes()).await.unwrap();
        let timers = Rc::new(Timers::default());
        tokio::task::spawn_local(Rc::clone(&timers).drive());
        let limits = Limits {
            idle: Duration::from_millis(1),
            ..Limits::default()
        };
        let near = (Stream::Plain(near), BytesMut::new());
        let mut client = Client::new(near, timers.timer(), limits, Arc::default(), held());
        let next = loop {
            // Until all of it has come, however long that takes.
            match poll_fn(|cx| client.poll_next(cx)).await {
                Next::End => client.wait = Wait::Nothing,
                next => break next,
            }
        };
        assert!(matches!(next, Next::Request(_)));
        assert!(client.finder.room() >= 4000);
        let end = poll_fn(|cx| client.poll_next(cx)).await;
        assert!(matches!(end, Next::End));
        assert_eq!(client.finder.room(), 0);
        drop(far);
    });
}

#[test]
fn who_takes_nothing_stands_still_after_a_moment_and_is_given_up_later() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap());
        let far = far.await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        let timers = Rc::new(Timers::default());
        tokio::task::spawn_local(Rc::clone(&timers).drive());
        let patience = Duration::from_secs(3);
        let limits = Limits {
            take: patience,
            send: patience,
            ..Limits::default()
        };
        let near = (Stream::Plain(near), BytesMut::new());
        let mut client = Client::new(near, timers.timer(), limits, Arc::default(), held());
        // More than the system takes.
        client.write(Framing::Length(0), Bytes::from(vec![b'x'; 32 << 20]));
        let mut seen = Vec::new();
        let began = monotonic();
        let flushed = poll_fn(|cx| {
            let flushed = client.poll_flush(cx);
            seen.push((client.stands_still(), flushed.is_ready()));
            flushed
        });
        let error = flushed.await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= patience, "a moment counts, once");
        assert_eq!(seen.first(), Some(&(false, false)));
        assert!(seen.contains(&(true, false)), "{seen:?}");
        drop(far);
    });
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(work)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(32)))]

    #[test]
    fn requests_are_found_however_the_stream_is_cut(cuts in proptest::collection::vec(1_usize..40, 1..40)) {
        let mut cuts = cuts.into_iter().cycle();
        let mut rest = STREAM;
        let parts = std::iter::from_fn(|| {
            let (part, after) = rest.split_at(cuts.next()?.min(rest.len()));
            rest = after;
            (!part.is_empty()).then(|| part.to_vec())
        });
        let (found, end) = run(requests(parts.collect()));
        prop_assert_eq!(found, [
            "/1 ",
            "/2 GET /not-a-head HTTP/1.1\r\n\r\nab",
            "/3 GET /nor-this HTTP/1.1\r\n\r\n",
            "/4 ",
        ]);
        prop_assert_eq!(end, "End");
    }
}

#[test]
fn what_ends_a_stream_ends_it_for_good() {
    let check = |text: &str, requests_before: usize, end: &str| {
        let (found, ended) = run(requests(vec![text.as_bytes().to_vec()]));
        assert_eq!(found.len(), requests_before, "{text:?}");
        assert!(ended.contains(end), "{text:?} {ended}");
    };
    let first = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
    check(
        &format!("{first}GET /2 HTTP/1.1\nHost: a\r\n\r\n"),
        1,
        "Malformed",
    );
    check(
        &format!("{first}GET /2 HTTP/1.1\r\nA\x01: b\r\n\r\n"),
        1,
        "Malformed",
    );
    check(
        &format!("{first}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        1,
        "Version",
    );
    check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, "Http2");
    check(
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab",
        0,
        "body broke",
    );
    for body in [
        "x\r\n",
        "\r\n",
        "0x1\r\n",
        " 1\r\n",
        "1 \r\n",
        "+1\r\n",
        "1\na\r\n",
        "1;a\nb\r\n",
        "1;a\rb\r\n",
        "1\r\nab\r\n",
        "1\r\na\n",
        "11111111111111111\r\n",
        "0\r\nT: v\n\r\n",
        "0\r\n folded\r\n\r\n",
    ] {
        let text = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        check(&text, 0, "chunk");
    }
}

/// Whether a client that sends `size` bytes after its last answer, and then stops to send or leaves as `leaves` says, is
/// heard to the end.
fn is_heard(size: usize, leaves: bool) -> bool {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut far = TcpStream::connect(address).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        let timers = Rc::new(Timers::default());
        tokio::task::spawn_local(Rc::clone(&timers).drive());
        let limits = Limits {
            linger_silence: if leaves {
                Duration::from_mins(1)
            } else {
                Duration::from_millis(1)
            },
            ..Limits::default()
        };
        let near = (Stream::Plain(near), BytesMut::new());
        let mut client = Client::new(near, timers.timer(), limits, Arc::default(), held());
        let sent = tokio::task::spawn_local(async move {
            let sent = far.write_all(&vec![b'x'; size]).await;
            (!leaves).then_some(far).ok_or(sent)
        });
        poll_fn(|cx| client.poll_close(cx, true)).await;
        drop(client);
        matches!(sent.await.unwrap(), Ok(_) | Err(Ok(())))
    })
}

#[test]
fn a_client_that_sends_all_before_it_reads_is_heard_to_the_end() {
    assert!(is_heard(5_000_000, true));
    // One that says nothing more is not waited for.
    assert!(is_heard(0, false));
}

#[test]
fn nothing_behind_a_broken_body_is_read() {
    run(async {
        let text = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n";
        let mut client = client(vec![text.to_vec()]).await;
        let Next::Request(incoming) = poll_fn(|cx| client.poll_next(cx)).await else {
            panic!("the head is sound");
        };
        client.begin(incoming.framing, incoming.expects);
        assert!(!client.drain() && !client.drain());
    });
}

#[test]
fn a_body_that_is_here_and_not_wanted_is_passed_over() {
    run(async {
        let mut client = client(vec![STREAM.to_vec()]).await;
        for expected in ["/1", "/2", "/3", "/4"] {
            let Next::Request(incoming) = poll_fn(|cx| client.poll_next(cx)).await else {
                panic!("the head is sound");
            };
            assert_eq!(incoming.head.uri, expected);
            client.begin(incoming.framing, incoming.expects);
            assert!(client.drain());
        }
    });
}

#[test]
fn a_client_that_says_nothing_takes_no_memory() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap());
        let (far, near) = tokio::join!(far, listener.accept());
        let near = (Stream::Plain(near.unwrap().0), BytesMut::new());
        let timer = Rc::new(Timers::default()).timer();
        let mut client = Client::new(near, timer, Limits::default(), Arc::default(), held());
        let mut far = far.unwrap();
        for _ in 0..3 {
            let next = futures::poll!(poll_fn(|cx| client.poll_next(cx)));
            assert!(next.is_pending() && client.input.capacity() == 0);
            far.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .await
                .unwrap();
            let Next::Request(incoming) = poll_fn(|cx| client.poll_next(cx)).await else {
                panic!("the head is sound");
            };
            // While somebody looks at the head, it is not overwritten.
            let left = poll_fn(|cx| Poll::Ready(client.poll_left(cx))).await;
            assert!(!left && client.input.capacity() > 0);
            assert_eq!(incoming.head.uri, "/");
        }
    });
}
