//! More than can be served, and floods of frames: some are refused, the others do not notice.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use data_plane::limits::Limits;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use serde_json::json;

use crate::gateway::{
    OK, ask, configuration, connect, read_until, settings, start, start_with, stop, upstream,
};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\nAccept: */*\r\nConnection: close\r\n\r\n";

/// A server that answers each request only once it is told to.
fn patient_server() -> (u16, std::sync::mpsc::Receiver<Sender<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (arrivals, arrived) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, arrivals) = (stream.unwrap(), arrivals.clone());
            std::thread::spawn(move || {
                while read_until(&mut stream, "\r\n\r\n").is_some() {
                    let (go, gone) = channel();
                    if arrivals.send(go).is_err() || gone.recv().is_err() {
                        return;
                    }
                    stream.write_all(OK.as_bytes()).unwrap();
                }
            });
        }
    });
    (port, arrived)
}

fn with_limits(port: u16, limits: Limits) -> Proxy {
    let one_worker = Settings {
        workers: 1,
        ..settings()
    };
    let service = json!({"read_timeout": 10_000, "retries": 0});
    let routes = [json!({"paths": ["/"]})];
    start_with(&one_worker, limits, configuration(port, &service, &routes))
}

#[test]
fn as_many_requests_are_under_way_as_may_be_and_no_more() {
    for (limits, message) in [
        (
            Limits {
                in_flight: 2,
                ..Limits::default()
            },
            "too many requests are under way",
        ),
        (
            Limits {
                upstream_in_flight: 2,
                ..Limits::default()
            },
            "The upstream server is currently unavailable",
        ),
    ] {
        let (port, arrived) = patient_server();
        let proxy = with_limits(port, limits);
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = connect(&proxy);
            stream.write_all(REQUEST.as_bytes()).unwrap();
            held.push((stream, arrived.recv().unwrap()));
        }
        let refused = ask(&proxy, REQUEST);
        assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
        assert!(
            refused.contains(message) && refused.contains("retry-after: 1"),
            "{refused}"
        );
        for (mut stream, go) in held {
            go.send(()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        // There is room again.
        let mut stream = connect(&proxy);
        stream.write_all(REQUEST.as_bytes()).unwrap();
        arrived.recv().unwrap().send(()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        stop(proxy);
    }
}

/// A frame of HTTP/2.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[test]
fn a_flood_of_frames_reaches_nobody_else() {
    let (port, _heads) = upstream(&[OK]);
    let proxy = start(configuration(port, &json!({}), &[json!({"paths": ["/"]})]));
    let settings = frame(4, 0, 0, &[]);
    let head: &[u8] = &[0x82, 0x84, 0x86, 0x41, 0x01, b'a'];
    let floods: [(&str, Vec<u8>, Vec<u8>); 6] = [
        ("ping", Vec::new(), frame(6, 0, 0, &[0; 8])),
        ("settings", Vec::new(), frame(4, 0, 0, &[0, 4, 0, 0, 0, 1])),
        ("continuation", frame(1, 0, 1, head), frame(9, 0, 1, &[])),
        ("empty data", frame(1, 4, 1, head), frame(0, 0, 1, &[])),
        ("priority", Vec::new(), frame(2, 0, 3, &[0, 0, 0, 0, 1])),
        ("window", Vec::new(), frame(8, 0, 0, &[0, 0, 0, 1])),
    ];
    for (name, before, repeated) in floods {
        let mut stream = TcpStream::connect(proxy.addresses().proxy.unwrap()).unwrap();
        stream
            .set_write_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .unwrap();
        stream.write_all(&settings).unwrap();
        stream.write_all(&before).unwrap();
        let many = repeated.repeat(1000);
        for _ in 0..20 {
            // It is cut off, or nobody reads it any more.
            if stream.write_all(&many).is_err() {
                break;
            }
        }
        let answer = ask(&proxy, REQUEST);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{name} {answer}");
    }
    stop(proxy);
}
