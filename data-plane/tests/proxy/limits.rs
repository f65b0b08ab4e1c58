//! Connections, requests and memory: at the limit all is well, above it one is refused, below it again.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::Receiver;

use data_plane::limits::Limits;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::gateway::{
    OK, PATIENCE, ask, configuration, eventually, get_status, read_until, settings, start_with,
    stop, upstream,
};

const KEPT: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// A gateway before a server that answers as long as what it is asked can be received.
fn gateway(limits: Limits, trusted: &[&str]) -> (Proxy, Receiver<String>) {
    let (port, heads) = upstream(&[OK]);
    let settings = Settings {
        trusted_ips: trusted.iter().map(|ip| ip.parse().unwrap()).collect(),
        ..settings()
    };
    let routes = [json!({"paths": ["/"]})];
    let service = json!({"read_timeout": 60_000});
    let proxy = start_with(&settings, limits, configuration(port, &service, &routes));
    (proxy, heads)
}

/// A connection from an address of this machine.
fn connect_from(proxy: &Proxy, address: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from: SocketAddr = format!("{address}:0").parse().unwrap();
    socket.bind(&from.into()).unwrap();
    socket
        .connect(&proxy.addresses().proxy.unwrap().into())
        .unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Whether a request on `stream` is answered, which is kept open.
fn is_served(stream: &mut TcpStream) -> bool {
    stream.write_all(KEPT.as_bytes()).is_ok()
        && read_until(stream, "\r\n\r\nok").is_some_and(|answer| answer.contains(" 200 "))
}

/// Asks on new connections until one is taken: the end of an old one is noticed in its own time.
fn is_served_at_last(proxy: &Proxy, address: &str) {
    eventually("there is room again", || {
        is_served(&mut connect_from(proxy, address))
    });
}

#[test]
fn as_many_connections_are_taken_as_may_be_and_no_more() {
    let limits = Limits {
        connections: 3,
        ..Limits::default()
    };
    let (proxy, _heads) = gateway(limits, &[]);
    let mut open: Vec<_> = (1..=3)
        .map(|last| connect_from(&proxy, &format!("127.0.0.{last}")))
        .collect();
    assert!(open.iter_mut().all(is_served));
    assert!(!is_served(&mut connect_from(&proxy, "127.0.0.4")));
    assert!(open.iter_mut().all(is_served), "who is there stays");
    open.pop();
    is_served_at_last(&proxy, "127.0.0.4");
    stop(proxy);
}

#[test]
fn one_address_cannot_take_all_connections() {
    let limits = Limits {
        connections_per_address: 2,
        ..Limits::default()
    };
    let (proxy, _heads) = gateway(limits, &["127.0.0.9"]);
    let mut open: Vec<_> = (0..2).map(|_| connect_from(&proxy, "127.0.0.1")).collect();
    assert!(open.iter_mut().all(is_served));
    assert!(!is_served(&mut connect_from(&proxy, "127.0.0.1")));
    let mut others: Vec<_> = (0..2).map(|_| connect_from(&proxy, "127.0.0.2")).collect();
    assert!(others.iter_mut().all(is_served));
    // Behind a trusted proxy are many clients.
    let mut many: Vec<_> = (0..5).map(|_| connect_from(&proxy, "127.0.0.9")).collect();
    assert!(many.iter_mut().all(is_served));
    open.pop();
    is_served_at_last(&proxy, "127.0.0.1");
    let metrics = get_status(&proxy, "/metrics");
    let count = |state: &str| -> u64 {
        let end = format!(",subsystem=\"http\",state=\"{state}\"}} ");
        let mut lines = metrics.lines();
        let line = lines.find_map(|line| {
            let rest = line.strip_prefix("kong_nginx_connections_total{node_id=\"")?;
            Some(rest.split_once(&end)?.1)
        });
        line.unwrap().parse().unwrap()
    };
    assert!(count("accepted") > count("handled"), "{metrics}");
    stop(proxy);
}

#[test]
fn a_process_that_has_almost_no_memory_left_takes_no_work() {
    let with = |memory| {
        let limits = Limits {
            memory: Some(memory),
            ..Limits::default()
        };
        gateway(limits, &[])
    };
    let (roomy, _heads) = with(u64::MAX);
    assert!(ask(&roomy, LAST).starts_with("HTTP/1.1 200 "));
    stop(roomy);
    let (full, _heads) = with(1);
    // It is weighed a moment after the start.
    eventually("connections are closed as they come", || {
        let mut stream = connect_from(&full, "127.0.0.1");
        let mut answer = String::new();
        let sent = stream.write_all(LAST.as_bytes());
        sent.is_err() || stream.read_to_string(&mut answer).is_err() || answer.is_empty()
    });
    assert!(get_status(&full, "/status").starts_with("HTTP/1.1 200 "));
    stop(full);
}
