//! Names, looked up at a DNS server of our own: records of each type, for as long as they last, and failures.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use data_plane::limits::Limits;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use serde_json::{Value, json};
use shared::snapshot::Record;
use uuid::Uuid;

use crate::gateway::{
    OK, ask, configuration, eventually, get_status, read_until, record, settings, start_with, stop,
    upstream,
};

/// What a name has of one type.
#[derive(Clone)]
enum Data {
    Address([u8; 4]),
    /// Weight, port and target.
    Service(u16, u16, &'static str),
}

const A: u16 = 1;
const SOA: u16 = 6;
const SRV: u16 = 33;

/// What the server knows.
#[derive(Default)]
struct Zone {
    /// By name and type, with how long it lasts.
    records: HashMap<(String, u16), (u32, Vec<Data>)>,
    /// Names for which it fails.
    broken: Vec<String>,
    /// How often it was asked for a name.
    asked: HashMap<String, usize>,
}

/// A DNS server.
pub(crate) struct Names {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

impl Names {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Zone::default()));
        let known = Arc::clone(&zone);
        std::thread::spawn(move || {
            let mut room = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut room) {
                let answer = known.lock().unwrap().answer(&room[..length]);
                socket.send_to(&answer, from).unwrap();
            }
        });
        Self { address, zone }
    }

    pub(crate) fn addresses(&self, name: &str, ttl: u32, all: &[[u8; 4]]) {
        let data = all.iter().copied().map(Data::Address).collect();
        let mut zone = self.zone.lock().unwrap();
        zone.records.insert((name.to_owned(), A), (ttl, data));
    }

    fn services(&self, name: &str, ttl: u32, all: &[(u16, u16, &'static str)]) {
        let data = all
            .iter()
            .map(|(weight, port, target)| Data::Service(*weight, *port, target));
        let mut zone = self.zone.lock().unwrap();
        zone.records
            .insert((name.to_owned(), SRV), (ttl, data.collect()));
    }

    fn fail(&self, name: &str, fails: bool) {
        let mut zone = self.zone.lock().unwrap();
        zone.broken.retain(|one| one != name);
        if fails {
            zone.broken.push(name.to_owned());
        }
    }

    fn asked(&self, name: &str) -> usize {
        self.zone
            .lock()
            .unwrap()
            .asked
            .get(name)
            .copied()
            .unwrap_or(0)
    }

    /// Settings that ask here.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            dns_resolver: vec![self.address.to_string()],
            dns_hostsfile: "/nowhere".into(),
            // Whose turn it is each core knows for itself.
            workers: 1,
            ..settings()
        }
    }
}

impl Zone {
    fn answer(&mut self, query: &[u8]) -> Vec<u8> {
        let mut labels = Vec::new();
        let mut place = 12;
        while query[place] > 0 {
            let end = place + 1 + usize::from(query[place]);
            labels.push(String::from_utf8_lossy(&query[place + 1..end]).to_lowercase());
            place = end;
        }
        let question = &query[12..place + 5];
        let kind = u16::from_be_bytes([query[place + 1], query[place + 2]]);
        let name = labels.join(".");
        *self.asked.entry(name.clone()).or_default() += 1;
        let known = self.records.keys().any(|(own, _)| *own == name);
        let (code, (ttl, data)) = match self.records.get(&(name.clone(), kind)) {
            _ if self.broken.contains(&name) => (2, (0, Vec::new())),
            Some(found) => (0, found.clone()),
            None if known => (0, (60, Vec::new())),
            None => (3, (60, Vec::new())),
        };
        let authority = u8::from(data.is_empty() && code != 2);
        let count = u8::try_from(data.len()).unwrap();
        let mut answer = query[..2].to_vec();
        answer.extend([0x85, 0x80 | code, 0, 1, 0, count, 0, authority, 0, 0]);
        answer.extend(question);
        let mut put = |kind: u16, ttl: u32, data: &[u8]| {
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1]);
            answer.extend(ttl.to_be_bytes());
            answer.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            answer.extend(data);
        };
        for one in &data {
            match one {
                Data::Address(address) => put(A, ttl, address),
                Data::Service(weight, port, target) => {
                    let mut data = vec![0, 1];
                    data.extend(weight.to_be_bytes());
                    data.extend(port.to_be_bytes());
                    for label in target.split('.') {
                        data.push(u8::try_from(label.len()).unwrap());
                        data.extend(label.as_bytes());
                    }
                    data.push(0);
                    put(SRV, ttl, &data);
                }
            }
        }
        if authority == 1 {
            // Of the root, by the root: how long it lasts that there is nothing.
            let numbers = [1_u32, 60, 60, 60, 60].map(u32::to_be_bytes).concat();
            put(SOA, 60, &[&[0, 0][..], &numbers].concat());
        }
        answer
    }
}

/// A server that says its name.
fn server(address: (&str, u16), name: &'static str) -> u16 {
    counted(address, name).0
}

/// The same, and how many connections it has taken.
fn counted(address: (&str, u16), name: &'static str) -> (u16, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                while read_until(&mut stream, "\r\n\r\n").is_some() {
                    let length = name.len();
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}");
                    let _ = stream.write_all(format!("{head}\r\n\r\n{name}").as_bytes());
                }
            });
        }
    });
    (port, taken)
}

/// The last line of the answer.
fn said(proxy: &Proxy) -> String {
    let answer = ask(
        proxy,
        "GET / HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\nConnection: close\r\n\r\n",
    );
    if answer.starts_with("HTTP/1.1 503 ") && answer.contains("name resolution failed") {
        return "no name".to_owned();
    }
    answer.lines().last().unwrap_or_default().to_owned()
}

/// Asks until the answer is `expected`.
fn becomes(proxy: &Proxy, expected: &str) {
    eventually(expected, || said(proxy) == expected);
}

fn to_name(names: &Names, host: &str, port: u16) -> Proxy {
    let service = json!({"host": host, "connect_timeout": 5000, "retries": 0});
    let records = configuration(port, &service, &[json!({"paths": ["/"]})]);
    start_with(&names.settings(), Limits::default(), records)
}

#[test]
fn a_service_is_where_its_name_leads_for_as_long_as_the_records_last() {
    let (one, taken) = counted(("127.0.0.1", 0), "one");
    let two = server(("127.0.0.1", 0), "two");
    let names = Names::start();
    names.addresses("here.test", 60, &[[127, 0, 0, 1]]);

    // Each with its own port, by weight. What lasts for no time is asked for again each time.
    names.services(
        "app.test",
        0,
        &[(10, one, "here.test"), (30, two, "here.test")],
    );
    let proxy = to_name(&names, "app.test", 1);
    let heard: Vec<_> = (0..8).map(|_| said(&proxy)).collect();
    let of = |name: &str| heard.iter().filter(|one| *one == name).count();
    assert_eq!((of("one"), of("two")), (2, 6), "{heard:?}");
    assert!(names.asked("app.test") >= 8);
    // Over a connection that is kept.
    assert_eq!(taken.load(Ordering::Relaxed), 1);
    names.services("app.test", 0, &[(0, one, "here.test")]);
    assert_eq!(said(&proxy), "one");
    // A name that is no longer known is taken for what it was.
    names.fail("app.test", true);
    assert_eq!(said(&proxy), "one");
    stop(proxy);

    // Addresses take turns; a port of 0 is no port.
    let other = server(("127.0.0.2", one), "other");
    names.services("both.test", 60, &[(1, 0, "pair.test")]);
    names.addresses("pair.test", 60, &[[127, 0, 0, 1], [127, 0, 0, 2]]);
    let proxy = to_name(&names, "both.test", other);
    let mut heard: Vec<_> = (0..4).map(|_| said(&proxy)).collect();
    let before = names.asked("both.test");
    heard.sort();
    assert_eq!(heard, ["one", "one", "other", "other"]);
    assert_eq!(names.asked("both.test"), before);
    stop(proxy);

    // After its time a name is looked up again.
    names.addresses("moved.test", 1, &[[127, 0, 0, 1]]);
    let proxy = to_name(&names, "moved.test", one);
    assert_eq!(said(&proxy), "one");
    names.addresses("moved.test", 1, &[[127, 0, 0, 2]]);
    becomes(&proxy, "other");
    stop(proxy);
}

#[test]
fn settings_say_how_long_answers_are_believed() {
    let port = server(("127.0.0.1", 0), "one");
    let names = Names::start();
    let start = |host: &str, settings: Settings| {
        let service = json!({"host": host, "connect_timeout": 5000, "retries": 0});
        let records = configuration(port, &service, &[json!({"paths": ["/"]})]);
        start_with(&settings, Limits::default(), records)
    };
    // As long as the setting says, not the record.
    names.addresses("long.test", 0, &[[127, 0, 0, 1]]);
    let settings = Settings {
        dns_valid_ttl: Some(600),
        ..names.settings()
    };
    let proxy = start("long.test", settings);
    assert_eq!((said(&proxy), said(&proxy)), ("one".into(), "one".into()));
    let before = names.asked("long.test");
    assert_eq!(said(&proxy), "one");
    assert_eq!(names.asked("long.test"), before);
    stop(proxy);
    // What is over is not used; and a name that nobody knows may be known a moment later.
    let settings = Settings {
        dns_stale_ttl: 0,
        dns_not_found_ttl: 0,
        dns_error_ttl: 0,
        ..names.settings()
    };
    let proxy = start("late.test", settings);
    assert_eq!(said(&proxy), "no name");
    names.addresses("late.test", 0, &[[127, 0, 0, 1]]);
    assert_eq!(said(&proxy), "one");
    names.fail("late.test", true);
    assert_eq!(said(&proxy), "no name");
    names.fail("late.test", false);
    assert_eq!(said(&proxy), "one");
    stop(proxy);
}

#[test]
fn a_name_that_leads_nowhere_is_told_and_not_asked_for_by_every_request() {
    let port = server(("127.0.0.1", 0), "one");
    let names = Names::start();
    let proxy = to_name(&names, "nobody.test", port);
    assert_eq!(said(&proxy), "no name");
    let before = names.asked("nobody.test");
    assert!(before > 0);
    for _ in 0..5 {
        assert_eq!(said(&proxy), "no name");
    }
    assert_eq!(names.asked("nobody.test"), before);
    stop(proxy);

    // A server that fails is asked again, but not each time.
    names.addresses("ill.test", 60, &[[127, 0, 0, 1]]);
    names.fail("ill.test", true);
    let proxy = to_name(&names, "ill.test", port);
    assert_eq!(said(&proxy), "no name");
    let before = names.asked("ill.test");
    for _ in 0..20 {
        assert_eq!(said(&proxy), "no name");
    }
    assert!(names.asked("ill.test") < before * 10, "{before}");
    names.fail("ill.test", false);
    becomes(&proxy, "one");
    stop(proxy);
}

#[test]
fn targets_are_where_their_names_lead() {
    let (one, two) = (
        server(("127.0.0.1", 0), "one"),
        server(("127.0.0.1", 0), "two"),
    );
    let names = Names::start();
    names.addresses("here.test", 60, &[[127, 0, 0, 1]]);
    names.services(
        "pair.test",
        1,
        &[(1, one, "here.test"), (3, two, "here.test")],
    );
    let upstream = json!({"id": Uuid::from_u128(10)});
    let target = |number, target: &str| -> Record {
        let fields: Value = json!({"upstream": upstream, "target": target, "weight": 100});
        record("targets", number, fields)
    };
    let mut records = configuration(1, &json!({"host": "team"}), &[json!({"paths": ["/"]})]);
    records.extend([
        record("upstreams", 10, json!({"name": "team"})),
        target(11, "pair.test:1"),
        target(12, "nobody.test:1"),
    ]);
    let proxy = start_with(&names.settings(), Limits::default(), records);
    let heard: Vec<_> = (0..8).map(|_| said(&proxy)).collect();
    let of = |name: &str| heard.iter().filter(|one| *one == name).count();
    assert_eq!((of("one"), of("two")), (2, 6), "{heard:?}");
    let health = get_status(&proxy, "/upstreams/team/health");
    assert!(health.contains("DNS_ERROR"), "{health}");
    // The list follows DNS.
    names.services("pair.test", 1, &[(1, one, "here.test")]);
    eventually("the list is what DNS says", || {
        (0..4).all(|_| said(&proxy) == "one")
    });
    // What it was last is kept while nobody can say.
    names.fail("pair.test", true);
    let before = names.asked("pair.test");
    eventually("DNS is asked", || names.asked("pair.test") > before);
    assert_eq!(said(&proxy), "one");
    stop(proxy);
}

#[test]
fn a_server_is_called_as_its_record_names_it_if_the_upstream_says_so() {
    let (port, heads) = upstream(&[OK]);
    let names = Names::start();
    names.addresses("one.test", 60, &[[127, 0, 0, 1]]);
    names.services("app.test", 60, &[(1, port, "one.test")]);
    for (upstream, host) in [
        (json!({}), "app.test"),
        (json!({"use_srv_name": true}), "one.test"),
        (
            json!({"use_srv_name": true, "host_header": "own.test"}),
            "own.test",
        ),
    ] {
        let mut upstream = upstream;
        upstream["name"] = json!("team");
        let target = json!({"upstream": {"id": Uuid::from_u128(10)}, "target": "app.test:1"});
        let mut records = configuration(1, &json!({"host": "team"}), &[json!({"paths": ["/"]})]);
        records.extend([
            record("upstreams", 10, upstream),
            record("targets", 11, target),
        ]);
        let proxy = start_with(&names.settings(), Limits::default(), records);
        assert_eq!(said(&proxy), "ok");
        let head = heads.recv().unwrap();
        assert!(head.contains(&format!("host: {host}:{port}\r\n")), "{head}");
        stop(proxy);
    }
}
