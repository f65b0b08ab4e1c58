//! Bytes on a client's connection to a data plane: heads, paths, framing. Each route answers by itself, so what
//! is answered shows which one was found.

#![no_main]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use data_plane::compile::compile;
use data_plane::limits::Limits;
use data_plane::live::Live;
use data_plane::proxy::Proxy;
use data_plane::settings::Settings;
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use shared::snapshot::{Key, Record, Revision, Snapshot};
use uuid::Uuid;

/// How long an answer may take. No limit of the proxy's is longer here.
const PATIENCE: Duration = Duration::from_secs(10);

static PROXY: LazyLock<(Proxy, SocketAddr)> = LazyLock::new(|| {
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let settings = Settings {
        proxy_listen: vec![any.into()],
        proxy_tls_listen: vec![any.into()],
        status_listen: vec![any.into()],
        workers: 1,
        access_log: "off".to_owned(),
        ..Settings::default()
    };
    let limits = Limits {
        head: Duration::from_millis(200),
        idle: Duration::from_millis(200),
        body: Duration::from_millis(200),
        ..Limits::default()
    };
    let snapshot = Snapshot::new(1, Revision(1), records());
    let live: Live = Arc::new(ArcSwapOption::empty());
    live.store(Some(Arc::new(
        compile(&snapshot).expect("the configuration compiles"),
    )));
    let proxy = Proxy::start_with(&settings, limits, live).expect("the proxy starts");
    let address = proxy.addresses().proxy.unwrap();
    (proxy, address)
});

fn records() -> Vec<Record> {
    let routes = [
        json!({ "paths": ["/"] }),
        json!({ "paths": ["/admin"], "strip_path": false }),
        json!({ "paths": ["~/item/(?<id>[0-9]+)$"] }),
        json!({ "hosts": ["*.example.com", "example.*"], "methods": ["GET", "POST"] }),
        json!({ "headers": { "x-version": ["1", "2"] }, "paths": ["/v"] }),
    ];
    let mut records = Vec::new();
    for (number, mut route) in (1_u128..).zip(routes) {
        route["service"] = Value::Null;
        records.push(record("routes", number, route));
        let plugin = json!({
            "name": "request-termination",
            "route": { "id": Uuid::from_u128(number) },
            "config": { "status_code": 200, "message": "here" },
            "enabled": true,
            "protocols": ["http", "https", "grpc", "grpcs"],
        });
        records.push(record("plugins", 100 + number, plugin));
    }
    records
}

fn record(kind: &'static str, id: u128, mut fields: Value) -> Record {
    let id = Uuid::from_u128(id);
    fields["id"] = json!(id);
    fields["created_at"] = json!(1);
    fields["updated_at"] = json!(1);
    Record {
        key: Key { kind, id },
        json: fields.to_string().into_bytes().into(),
    }
}

fuzz_target!(|input: &[u8]| {
    let mut stream = TcpStream::connect(PROXY.1).expect("the proxy listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout can be set");
    // It may have been refused before all of it was sent.
    let _ = stream.write_all(input);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
        Err(error) => panic!("the connection does not end: {error}"),
    }
    let whole = answer.is_empty() || answer.starts_with(b"HTTP/1.") || answer.get(3) == Some(&4);
    assert!(
        whole,
        "no answer of HTTP: {:?}",
        String::from_utf8_lossy(&answer)
    );
    assert!(!answer.starts_with(b"HTTP/1.1 500"), "an answer of 500");
});
