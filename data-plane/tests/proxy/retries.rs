//! Further attempts beside servers that fail: those that are well answer for them, also after an outage.

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use data_plane::limits::Limits;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use serde_json::json;

use crate::balancing::{balanced, get};
use crate::gateway::{OK, configuration, read_until, settings, start_with, stop};
use crate::names::Names;

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
fn an_address_of_a_name_answers_for_others_that_fail() {
    let (port, _) = server(("127.0.1.1", 0), false);
    for address in ["127.0.1.2", "127.0.1.3"] {
        server((address, port), true);
    }
    let names = Names::start();
    let all = [1, 2, 3].map(|last| [127, 0, 1, last]);
    names.addresses("many.test", 60, &all);
    let service = json!({"host": "many.test", "connect_timeout": 5000, "retries": 5});
    let records = configuration(port, &service, &[json!({"paths": ["/"]})]);
    let proxy = start_with(&names.settings(), Limits::default(), records);
    assert_eq!(answered(&proxy, 300), 300);
    stop(proxy);
}
