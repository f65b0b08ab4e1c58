//! A proxy in this process, with a configuration, an upstream server, and raw bytes on both sides.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use data_plane::compile::compile;
use data_plane::limits::Limits;
use data_plane::live::Live;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use serde_json::{Value, json};
use shared::clock::monotonic;
use shared::snapshot::{Key, Record, Revision, Snapshot};
use tokio::net::TcpSocket;
use uuid::Uuid;

/// The longest that anything here waits for what is to happen soon, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Asks until it holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = monotonic();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn record(kind: &'static str, id: u128, mut fields: Value) -> Record {
    let id = Uuid::from_u128(id);
    let object = fields.as_object_mut().unwrap();
    object.insert("id".to_owned(), json!(id));
    object.insert("created_at".to_owned(), json!(1));
    object.insert("updated_at".to_owned(), json!(1));
    Record {
        key: Key { kind, id },
        json: serde_json::to_vec(&fields).unwrap().into(),
    }
}

/// One service at `port`, with the routes given.
pub(crate) fn configuration(port: u16, service: &Value, routes: &[Value]) -> Vec<Record> {
    let mut fields =
        json!({"host": "127.0.0.1", "port": port, "retries": 1, "read_timeout": 60_000});
    fields
        .as_object_mut()
        .unwrap()
        .extend(service.as_object().unwrap().clone());
    let mut records = vec![record("services", 1, fields)];
    for (number, route) in (2..).zip(routes) {
        let mut route = route.clone();
        route["service"] = json!({"id": Uuid::from_u128(1)});
        records.push(record("routes", number, route));
    }
    records
}

/// A route `/bytes` to a service that speaks no HTTP.
pub(crate) fn unsupported() -> [Record; 2] {
    let service = json!({"host": "127.0.0.1", "port": 1, "protocol": "tcp"});
    let route = json!({"paths": ["/bytes"], "service": {"id": Uuid::from_u128(101)}});
    [
        record("services", 101, service),
        record("routes", 102, route),
    ]
}

pub(crate) fn settings() -> Settings {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Settings {
        proxy_listen: vec![any.into()],
        proxy_tls_listen: vec![any.into()],
        status_listen: vec![any.into()],
        workers: 2,
        access_log: "off".to_owned(),
        drain_timeout_ms: 3000,
        ..Settings::default()
    }
}

pub(crate) fn start(records: Vec<Record>) -> Proxy {
    start_with(&settings(), Limits::default(), records)
}

/// One whose end waits for what is under way for as long as that takes.
pub(crate) fn patient(records: Vec<Record>) -> Proxy {
    let settings = Settings {
        drain_timeout_ms: 60_000,
        ..settings()
    };
    start_with(&settings, Limits::default(), records)
}

pub(crate) fn start_with(settings: &Settings, limits: Limits, records: Vec<Record>) -> Proxy {
    let live: Live = Arc::new(ArcSwapOption::empty());
    live.store(Some(Arc::new(
        compile(&Snapshot::new(1, Revision(1), records)).unwrap(),
    )));
    Proxy::start_with(settings, limits, live).unwrap()
}

pub(crate) fn stop(proxy: Proxy) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(proxy.stop());
}

/// A port at which nobody listens, nor will: it is held until the process ends, since others look for free ones.
pub(crate) fn closed_port() -> u16 {
    let socket = Box::leak(Box::new(TcpSocket::new_v4().unwrap()));
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    socket.local_addr().unwrap().port()
}

/// A server that does `work` with each connection, in a thread of its own; its port.
pub(crate) fn serve_each(work: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, work) = (stream.unwrap(), work.clone());
            std::thread::spawn(move || work(stream));
        }
    });
    port
}

/// Answers each request head on each connection with the next of `answers` (the last one again and
/// again); an empty answer closes the connection. The heads can be received.
pub(crate) fn upstream(answers: &'static [&'static str]) -> (u16, Receiver<String>) {
    upstream_at("127.0.0.1", answers)
}

/// The same on another address of this machine.
pub(crate) fn upstream_at(
    address: &str,
    answers: &'static [&'static str],
) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, heads) = channel();
    std::thread::spawn(move || {
        let answers = Arc::new(Mutex::new(answers.iter().copied().cycle_last()));
        for stream in listener.incoming() {
            let (answers, sender) = (Arc::clone(&answers), sender.clone());
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                while let Some(head) = read_until(&mut stream, "\r\n\r\n") {
                    if sender.send(head).is_err() {
                        return;
                    }
                    let answer = answers.lock().unwrap().next().unwrap();
                    if answer.is_empty() || stream.write_all(answer.as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
    (port, heads)
}

pub(crate) trait CycleLast: Iterator + Sized {
    /// Goes on with the last item for ever.
    fn cycle_last(self) -> impl Iterator<Item = Self::Item>
    where
        Self::Item: Copy,
    {
        let mut last = None;
        let mut items = self;
        std::iter::from_fn(move || {
            last = items.next().or(last);
            last
        })
    }
}

impl<I: Iterator> CycleLast for I {}

/// Reads up to and with `end`; `None` if the stream ends before.
pub(crate) fn read_until(stream: &mut impl std::io::Read, end: &str) -> Option<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(end.as_bytes()) {
        match stream.read(&mut byte) {
            Ok(1) => text.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8(text).unwrap())
}

pub(crate) fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.addresses().proxy.unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends `request` and reads until the proxy closes.
pub(crate) fn ask(proxy: &Proxy, request: &str) -> String {
    let mut stream = connect(proxy);
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub(crate) const OK: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: origin\r\nKeep-Alive: 1\r\n\r\nok";

/// A plugin for every request.
pub(crate) fn plugin(number: u128, name: &str, config: &Value) -> Record {
    let config = plugins::registry::check(name, config).unwrap();
    record("plugins", number, json!({"name": name, "config": config}))
}

/// The plugin that has exchanges told of in `/metrics`.
pub(crate) fn counted() -> Record {
    let all =
        json!({"status_code_metrics": true, "latency_metrics": true, "bandwidth_metrics": true});
    plugin(250, "prometheus", &all)
}

/// The record with further fields.
#[allow(
    clippy::needless_pass_by_value,
    reason = "a record is given away, with its fields changed"
)]
pub(crate) fn scoped(plugin: Record, more: &Value) -> Record {
    let mut fields: Value = serde_json::from_slice(&plugin.json).unwrap();
    fields
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let json = serde_json::to_vec(&fields).unwrap().into();
    Record { json, ..plugin }
}

/// What the status listener answers.
pub(crate) fn get_status(proxy: &Proxy, path: &str) -> String {
    get(proxy.addresses().status.unwrap(), path)
}

/// What is answered at `address`, with nothing but a path asked for.
pub(crate) fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
