//! Records that cannot be run: what needs them is refused, and all else is served.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use data_plane::compile::room::Room;
use data_plane::limits::Limits;
use data_plane::live::Live;
use data_plane::proxy::Proxy;
use data_plane::secrets::Secrets;
use serde_json::{Value, json};
use shared::snapshot::{Record, Revision, Snapshot};
use uuid::Uuid;

use crate::gateway::{OK, ask, configuration, get, record, settings, stop, upstream};

/// A reference to what is nowhere.
const LOST: &str = "{vault://env/wardgate-no-such-variable}";

fn reference(id: u128) -> Value {
    json!({ "id": Uuid::from_u128(id) })
}

fn compile(records: Vec<Record>) -> Result<data_plane::compile::CompiledSnapshot, String> {
    let compiled =
        Secrets::default().compile(&Snapshot::new(1, Revision(1), records), &Room::default());
    compiled.map_err(|faults| format!("{faults:?}"))
}

#[test]
fn a_record_that_cannot_be_run_takes_down_what_needs_it_and_no_more() {
    let (port, heads) = upstream(&[OK]);
    let paths = ["/fine", "/oidc", "/log", "/old", "/older"];
    let routes = paths.map(|path| json!({ "paths": [path] }));
    let mut records = configuration(port, &json!({}), &routes);
    let mut plugin = |id: u128, route: u128, name: &str, config: Value| {
        let fields = json!({ "name": name, "route": reference(route), "config": config });
        records.push(record("plugins", id, fields));
    };
    let provider = json!({ "issuer": "https://op.test", "client_id": ["x"] });
    let with = |field: &str, value: Value| {
        let mut config = provider.clone();
        config[field] = value;
        config
    };
    plugin(
        20,
        3,
        "openid-connect",
        with("client_secret", json!([LOST])),
    );
    // Answers in the place of nothing that guards.
    let all = json!({ "status_code": 200, "message": "open" });
    plugin(21, 3, "request-termination", all);
    plugin(22, 4, "http-log", json!({ "http_endpoint": LOST }));
    plugin(23, 5, "correlation-id", json!({ "header_name": "host" }));
    let fragment = json!(["https://a.test/#x"]);
    plugin(24, 6, "openid-connect", with("redirect_uri", fragment));
    let cert = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    records.push(record(
        "certificates",
        60,
        json!({ "cert": cert.cert.pem(), "key": LOST }),
    ));
    let certificate = reference(60);
    records.extend([
        record(
            "services",
            70,
            json!({ "host": "localhost", "port": port, "protocol": "https", "client_certificate": certificate }),
        ),
        record(
            "services",
            71,
            json!({ "host": "up.test", "protocol": "https" }),
        ),
        record(
            "upstreams",
            72,
            json!({ "name": "up.test", "client_certificate": certificate }),
        ),
        record("snis", 73, json!({ "name": "a.test", "certificate": certificate })),
        record(
            "routes",
            74,
            json!({ "paths": ["/own"], "service": reference(70) }),
        ),
        record(
            "routes",
            75,
            json!({ "paths": ["/shared"], "service": reference(71) }),
        ),
    ]);
    let live: Live = Arc::new(ArcSwapOption::empty());
    live.store(Some(Arc::new(compile(records).unwrap())));
    let proxy = Proxy::start_with(&settings(), Limits::default(), live).unwrap();
    for (path, status, said) in [
        ("/fine", "200", "ok"),
        ("/oidc", "503", "a plugin of this route cannot run"),
        ("/log", "200", "ok"),
        ("/old", "200", "ok"),
        ("/older", "503", "a plugin of this route cannot run"),
        ("/own", "503", "the service cannot be used"),
        ("/shared", "503", "the service cannot be used"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
        let answer = ask(&proxy, &request);
        assert_eq!(answer.split(' ').nth(1), Some(status), "{path}: {answer}");
        assert!(answer.contains(said), "{path}: {answer}");
        if status == "200" {
            let head = heads.recv().unwrap();
            assert!(!head.contains("{vault:"), "{head}");
        }
    }
    let status = proxy.addresses().status.unwrap();
    let told = get(status, "/status");
    for id in [20, 22, 23, 24, 60, 70, 71] {
        assert!(
            told.contains(&Uuid::from_u128(id).to_string()),
            "{id}: {told}"
        );
    }
    assert!(
        told.contains("WARDGATE_NO_SUCH_VARIABLE is not set"),
        "{told}"
    );
    let metrics = get(status, "/metrics");
    assert!(metrics.contains("wardgate_config_unfit_records 7\n"));
    stop(proxy);
}

#[test]
fn what_does_not_say_what_needs_it_refuses_everything() {
    let all = |kind, fields: Value| {
        let mut records = configuration(1, &json!({}), &[json!({ "paths": ["/"] })]);
        records.push(record(kind, 20, fields));
        compile(records)
    };
    for (kind, fields) in [
        ("plugins", json!({ "name": "no-such-plugin", "config": {} })),
        ("plugins", json!({ "name": 1 })),
        // That a secret is missing says nothing of a protocol that a later version knows.
        (
            "plugins",
            json!({ "name": "http-log", "config": { "http_endpoint": LOST }, "protocols": ["new"] }),
        ),
        ("routes", json!({ "paths": ["~("] })),
        ("services", json!({ "host": 1 })),
    ] {
        assert!(all(kind, fields.clone()).is_err(), "{kind} {fields}");
    }
}
