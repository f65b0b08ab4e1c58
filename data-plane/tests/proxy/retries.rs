//! Further attempts beside servers that fail: those that are well answer for them, also after an outage.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};

use bytes::Bytes;
use data_plane::limits::Limits;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use http::Response;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use shared::snapshot::Record;

use crate::balancing::{balanced, get};
use crate::gateway::{
    OK, PATIENCE, ask, configuration, connect, read_until, serve_each, settings, start_with, stop,
};
use crate::http2::{plain, request, run};
use crate::names::Names;

/// What comes of a request.
#[derive(Debug, Eq, PartialEq)]
enum Told {
    /// It is at the server that answers nothing.
    Arrived,
    Answered(String),
}

/// A server that answers nothing, as long as it is held.
fn hanging_server(told: Sender<Told>) -> u16 {
    serve_each(move |mut stream| {
        while read_until(&mut stream, "\r\n\r\n").is_some() {
            let _ = told.send(Told::Arrived);
        }
    })
}

/// Asks for `path` without waiting for the answer, which is told.
fn ask_aside(proxy: &Proxy, path: &str, told: &Sender<Told>) {
    let mut stream = connect(proxy);
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let told = told.clone();
    std::thread::spawn(move || {
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let _ = told.send(Told::Answered(answer));
    });
}

/// A proxy of one core, which has room for so many requests at each server.
fn with_room(most: usize, records: Vec<Record>) -> Proxy {
    let settings = Settings {
        workers: 1,
        drain_timeout_ms: 100,
        ..settings()
    };
    let limits = Limits {
        upstream_in_flight: most,
        ..Limits::default()
    };
    start_with(&settings, limits, records)
}

#[test]
fn a_target_that_has_no_room_is_passed_over() {
    const ROOM: usize = 2;
    for algorithm in [
        "round-robin",
        "least-connections",
        "latency",
        "consistent-hashing",
    ] {
        let (told, tells) = channel();
        let (hanging, (well, _)) = (
            hanging_server(told.clone()),
            server(("127.0.0.1", 0), false),
        );
        let targets = [hanging, well].map(|port| format!("127.0.0.1:{port}"));
        let upstream = json!({"algorithm": algorithm, "hash_on": "path"});
        let upstream = if algorithm == "consistent-hashing" {
            upstream
        } else {
            json!({"algorithm": algorithm})
        };
        let service = json!({"retries": 0, "read_timeout": 60_000});
        let records = balanced(upstream, &targets, &service);
        let proxy = with_room(ROOM, records);
        let mut hang = 0;
        for number in 0..60 {
            ask_aside(&proxy, &format!("/{number}"), &told);
            match tells.recv_timeout(PATIENCE).unwrap() {
                Told::Arrived => hang += 1,
                Told::Answered(answer) => {
                    let is_answered = answer.starts_with("HTTP/1.1 200 ");
                    assert!(is_answered, "{algorithm} {number}: {answer}");
                }
            }
        }
        assert!(hang <= ROOM, "{algorithm}: {hang}");
        // Of all of them one takes what there is to do, or has as much as it may have.
        assert!(
            hang == ROOM || algorithm != "round-robin",
            "{algorithm}: {hang}"
        );
        stop(proxy);
    }
}

#[test]
fn where_no_target_has_room_a_request_is_refused() {
    let (told, tells) = channel();
    let targets = [(); 2].map(|()| format!("127.0.0.1:{}", hanging_server(told.clone())));
    let service = json!({"retries": 5, "read_timeout": 60_000});
    let proxy = with_room(2, balanced(json!({}), &targets, &service));
    for number in 0..4 {
        ask_aside(&proxy, "/", &told);
        assert_eq!(tells.recv_timeout(PATIENCE), Ok(Told::Arrived), "{number}");
    }
    let refused = get(&proxy, "/", "");
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    assert!(refused.contains("retry-after: 1"), "{refused}");
    stop(proxy);
}

#[test]
fn how_a_target_has_failed_a_request_is_told_where_no_other_has_room() {
    let (told, tells) = channel();
    let (hanging, (ill, _)) = (hanging_server(told.clone()), server(("127.0.0.1", 0), true));
    let targets = [hanging, ill].map(|port| format!("127.0.0.1:{port}"));
    let service = json!({"retries": 5, "read_timeout": 60_000});
    let proxy = with_room(1, balanced(json!({}), &targets, &service));
    ask_aside(&proxy, "/", &told);
    assert_eq!(tells.recv_timeout(PATIENCE), Ok(Told::Arrived));
    for number in 0..6 {
        let failed = get(&proxy, "/", "");
        assert!(failed.starts_with("HTTP/1.1 502 "), "{number}: {failed}");
    }
    stop(proxy);
}

/// A server that reads requests and closes their connections without a word, while it is ill.
fn server(address: (&str, u16), ill: bool) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    let ill = Arc::new(AtomicBool::new(ill));
    let told = Arc::clone(&ill);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, ill) = (stream.unwrap(), Arc::clone(&told));
            std::thread::spawn(move || {
                while read_until(&mut stream, "\r\n\r\n").is_some() {
                    let is_ill = ill.load(Ordering::Relaxed);
                    if is_ill || stream.write_all(OK.as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
    (port, ill)
}

/// How many of so many requests are answered well.
fn answered(proxy: &Proxy, requests: usize) -> usize {
    let answers = (0..requests).map(|_| get(proxy, "/", ""));
    answers
        .filter(|answer| answer.starts_with("HTTP/1.1 200 "))
        .count()
}

/// A node of one core before `N` targets, all of them ill.
fn outage<const N: usize>() -> (Proxy, [Arc<AtomicBool>; N]) {
    let servers = [(); N].map(|()| server(("127.0.0.1", 0), true));
    let targets = servers.iter().map(|(port, _)| format!("127.0.0.1:{port}"));
    let records = balanced(json!({}), &targets.collect::<Vec<_>>(), &json!({}));
    let settings = Settings {
        workers: 1,
        ..settings()
    };
    let proxy = start_with(&settings, Limits::default(), records);
    (proxy, servers.map(|(_, ill)| ill))
}

#[test]
fn after_an_outage_of_all_targets_one_that_is_well_again_answers_for_the_others() {
    let (proxy, ill) = outage::<4>();
    assert_eq!(answered(&proxy, 200), 0);
    ill[3].store(false, Ordering::Relaxed);
    // What it may be asked for others it has to earn first.
    assert!(answered(&proxy, 40) > 0);
    assert_eq!(answered(&proxy, 100), 100);
    stop(proxy);
}

#[test]
fn two_of_eight_targets_that_are_well_answer_most_of_what_comes_at_once() {
    let (proxy, ill) = outage::<8>();
    assert_eq!(answered(&proxy, 300), 0);
    for at in [2, 6] {
        ill[at].store(false, Ordering::Relaxed);
    }
    // Six attempts may all go to servers that are ill.
    let all: usize = std::thread::scope(|scope| {
        let clients = [(); 5].map(|()| scope.spawn(|| answered(&proxy, 200)));
        clients.map(|client| client.join().unwrap()).iter().sum()
    });
    assert!(all > 600, "{all} of 1000");
    stop(proxy);
}

#[test]
fn a_target_that_fails_at_once_is_not_taken_for_the_fastest() {
    for (ill, well) in [(1, 1), (2, 4)] {
        let servers = (0..ill + well).map(|number| server(("127.0.0.1", 0), number < ill));
        let targets = servers.map(|(port, _)| format!("127.0.0.1:{port}"));
        let upstream = json!({"algorithm": "latency"});
        let records = balanced(upstream, &targets.collect::<Vec<_>>(), &json!({}));
        let proxy = start_with(&settings(), Limits::default(), records);
        // It is not sent once more.
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let answers = (0..200).map(|_| ask(&proxy, post));
        let answered = answers
            .filter(|answer| answer.starts_with("HTTP/1.1 200 "))
            .count();
        assert!(answered > 150, "{ill} ill, {well} well: {answered} of 200");
        stop(proxy);
    }
}

/// A node of one core before a service at a name that leads to `addresses` at `port`, asked by `protocol`.
fn named(addresses: &[[u8; 4]], port: u16, protocol: &str, retries: u32) -> (Names, Proxy) {
    let names = Names::start();
    names.addresses("many.test", 60, addresses);
    let service = json!({
        "host": "many.test", "connect_timeout": 5000, "retries": retries, "protocol": protocol,
    });
    let route = json!({"paths": ["/"], "protocols": [protocol]});
    let records = configuration(port, &service, &[route]);
    let proxy = start_with(&names.settings(), Limits::default(), records);
    (names, proxy)
}

#[test]
fn an_address_of_a_name_answers_for_others_that_fail() {
    let (port, _) = server(("127.0.1.1", 0), false);
    for address in ["127.0.1.2", "127.0.1.3"] {
        server((address, port), true);
    }
    let all = [1, 2, 3].map(|last| [127, 0, 1, last]);
    let (_names, proxy) = named(&all, port, "http", 5);
    assert_eq!(answered(&proxy, 300), 300);
    stop(proxy);
}

#[test]
fn after_an_outage_of_all_addresses_one_that_is_well_again_answers_for_the_others() {
    let (port, well) = server(("127.0.2.1", 0), true);
    for address in ["127.0.2.2", "127.0.2.3", "127.0.2.4"] {
        server((address, port), true);
    }
    let all = [1, 2, 3, 4].map(|last| [127, 0, 2, last]);
    let (_names, proxy) = named(&all, port, "http", 5);
    assert_eq!(answered(&proxy, 200), 0);
    well.store(false, Ordering::Relaxed);
    assert!(answered(&proxy, 40) > 0);
    assert_eq!(answered(&proxy, 100), 100);
    stop(proxy);
}

#[test]
fn a_request_that_an_address_has_failed_goes_to_another() {
    let (port, _) = server(("127.0.4.1", 0), false);
    server(("127.0.4.2", port), true);
    let (_names, proxy) = named(&[[127, 0, 4, 1], [127, 0, 4, 2]], port, "http", 1);
    // Whose turn it is they have in common.
    let all: usize = std::thread::scope(|scope| {
        let clients = [(); 4].map(|()| scope.spawn(|| answered(&proxy, 100)));
        clients.map(|client| client.join().unwrap()).iter().sum()
    });
    assert_eq!(all, 400);
    stop(proxy);
}

/// A server of HTTP/2 that resets the streams of requests while it is `ill`.
async fn http2_server(address: (&str, u16), ill: bool) -> u16 {
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = move |_| async move {
                let answer = Response::new(Full::new(Bytes::from_static(b"ok")));
                if ill {
                    Err(std::io::Error::other("ill"))
                } else {
                    Ok(answer)
                }
            };
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(served);
        }
    });
    port
}

#[test]
fn an_address_of_a_name_answers_for_others_that_fail_by_http2_too() {
    run(async {
        let port = http2_server(("127.0.3.1", 0), false).await;
        for address in ["127.0.3.2", "127.0.3.3"] {
            http2_server((address, port), true).await;
        }
        let all = [1, 2, 3].map(|last| [127, 0, 3, last]);
        let (_names, proxy) = named(&all, port, "grpc", 5);
        let mut client = plain(&proxy).await;
        for _ in 0..300 {
            // Which may be repeated.
            let mut request = request("http://a.test/");
            let grpc = "application/grpc".parse().unwrap();
            request.headers_mut().insert("content-type", grpc);
            let answer = client.send_request(request).await.unwrap();
            assert!(!answer.headers().contains_key("grpc-status"), "{answer:?}");
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
        }
        drop(client);
        tokio::task::spawn_blocking(move || stop(proxy))
            .await
            .unwrap();
    });
}
