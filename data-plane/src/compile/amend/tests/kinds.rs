//! Records of each kind but routes, in a few forms.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// Whether no other record here may refer to the one at `key`.
pub(super) fn is_unreferenced(key: &Key) -> bool {
    let kinds = [
        "services",
        "certificates",
        "ca_certificates",
        "consumer_groups",
    ];
    !kinds.contains(&key.kind) && key.id != Uuid::from_u128(500)
}

/// A few pairs of certificate and key, in PEM.
static PAIRS: LazyLock<[(String, String); 3]> = LazyLock::new(|| {
    ["a.test", "b.test", "c.test"].map(|name| {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    })
});

/// A certificate, which is renewed from form to form.
pub(super) fn certificate(id: u128, form: u8) -> Record {
    let (cert, key) = &PAIRS[usize::from(form % 3)];
    record("certificates", id, json!({ "cert": cert, "key": key }))
}

/// The authority that services may go by.
pub(super) fn authority(form: u8) -> Record {
    let (cert, _) = &PAIRS[usize::from(form % 3)];
    record("ca_certificates", 621, json!({ "cert": cert }))
}

/// A record other than a route, in one of a few forms; `kind` is below 17.
pub(super) fn other(kind: u8, number: u8, form: u8) -> Record {
    let number = u128::from(number % 3);
    let name = ["ann", "Ann", "ANN", "bob"][usize::from(form % 4)];
    let mine = |id: u128, kind, mut fields: Value| {
        if form / 4 % 2 == 1 {
            fields["ws_id"] = json!(Uuid::from_u128(9));
        }
        record(kind, id, fields)
    };
    let consumer = reference(301 + u128::from(form % 3));
    match kind {
        0 => {
            let host = ["h", "Up", "other"][usize::from(form % 3)];
            let path = if form / 3 % 2 == 1 { Some("/p") } else { None };
            let enabled = form % 8 != 7;
            let mut fields = json!({ "name": "s", "host": host, "path": path, "enabled": enabled });
            if form / 16 % 2 == 1 {
                fields["protocol"] = "https".into();
                fields["tls_verify"] = true.into();
                fields["ca_certificates"] = json!([Uuid::from_u128(621)]);
            }
            if form / 32 == 1 {
                fields["client_certificate"] = reference(601);
            }
            record("services", 101 + number % 2, fields)
        }
        1 => {
            let mut fields = json!({ "name": "request-termination", "enabled": form % 5 != 4,
                "config": { "status_code": 200 + u16::from(form) } });
            if form % 2 == 1 {
                fields["route"] = reference(1 + number);
            } else {
                fields["service"] = reference(101 + number % 2);
            }
            record("plugins", 211 + number, fields)
        }
        2 => mine(
            301 + number,
            "consumers",
            json!({ "username": name, "custom_id": name }),
        ),
        3 => {
            let fields = json!({ "group": format!("g{}", 9 - number), "consumer": consumer });
            mine(311 + number, "acls", fields)
        }
        4 => {
            let fields = json!({ "username": name, "password": "x", "consumer": consumer });
            mine(321 + number, "basicauth_credentials", fields)
        }
        5 => {
            let group = reference(401 + number % 2);
            let fields = json!({ "consumer": consumer, "consumer_group": group });
            record("consumer_group_consumers", 331 + number, fields)
        }
        6 => {
            let fields =
                json!({ "target": format!("10.0.0.{form}:80"), "upstream": reference(500) });
            record("targets", 511 + number, fields)
        }
        7 => record(
            "upstreams",
            500,
            json!({ "name": "up", "slots": 10 + u16::from(form) }),
        ),
        // Some take the place of a service's host, or of one another.
        8 | 9 => {
            let name = ["H", "other", "up"][usize::from(form % 3)];
            let certificate = (form / 16 % 2 == 1).then(|| reference(602));
            let fields = json!({ "name": name, "client_certificate": certificate });
            mine(501 + number, "upstreams", fields)
        }
        10 | 11 => mine(221 + number, "plugins", everywhere(form, &consumer)),
        12 => certificate(601 + number % 2, form),
        13 => {
            let name = ["a.test", "b.test", "*.test"][usize::from(form % 3)];
            let certificate = reference(601 + u128::from(form / 4 % 2));
            record(
                "snis",
                611 + number,
                json!({ "name": name, "certificate": certificate }),
            )
        }
        14 => authority(form),
        15 => {
            let secret = STANDARD.encode([form; 32]);
            let state = if form % 4 == 3 { "revoked" } else { "ready" };
            let fields = json!({ "secret": secret, "activate_at": form, "state": state });
            record("session_keys", 631 + number, fields)
        }
        _ => {
            let name = ["a", "m", "z"][usize::from(form % 3)];
            record("consumer_groups", 401 + number % 2, json!({ "name": name }))
        }
    }
}

/// A plugin of all routes, perhaps for one consumer.
fn everywhere(form: u8, consumer: &Value) -> Value {
    let name = ["request-termination", "cors", "acl"][usize::from(form % 3)];
    let config = match name {
        "cors" => json!({ "max_age": form }),
        "acl" => json!({ "allow": [format!("g{form}")] }),
        _ => json!({ "status_code": 300 + u16::from(form) }),
    };
    let consumer = (form / 8 % 2 == 1).then_some(consumer);
    json!({ "name": name, "config": config, "consumer": consumer,
        "enabled": form % 5 != 4, "protocols": ["http", "https", "tcp"] })
}
