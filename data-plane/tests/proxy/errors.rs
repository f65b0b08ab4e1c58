//! Errors as an operator writes them, and lines of the access log.

use data_plane::limits::Limits;
use data_plane::settings::Settings;
use serde_json::json;
use uuid::Uuid;

use crate::gateway::{ask, configuration, eventually, record, settings, start_with, stop};

#[test]
fn errors_have_the_bodies_of_an_operators_templates() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let log = directory.path().join("access.log");
    let settings = Settings {
        error_template_html: file("html", "<p>%s</p><i>%s</i>"),
        error_template_json: file("json", r#"{"custom":"%s"}"#),
        access_log: log.display().to_string(),
        access_log_format: "$method $path $status $route".to_owned(),
        ..settings()
    };
    // Nobody listens at port 1.
    let mut records = configuration(1, &json!({"retries": 0}), &[json!({"paths": ["/down"]})]);
    let route = json!({"paths": ["/key"], "service": {"id": Uuid::from_u128(1)}});
    records.push(record("routes", 7, route));
    let plugin = json!({"name": "key-auth", "config": {}, "route": {"id": Uuid::from_u128(7)}});
    records.push(record("plugins", 8, plugin));
    let proxy = start_with(&settings, Limits::default(), records);
    let get = |path: &str, accept: &str| {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAccept: {accept}\r\n\r\n"
        );
        ask(&proxy, &request)
    };
    // Several fields are one list.
    let answer = get("/down", "text/plain;q=0.9\r\nAccept: text/html");
    assert!(
        answer.contains(
            "\r\n\r\n<p>An invalid response was received from the upstream server</p><i>"
        ),
        "{answer}"
    );
    let answer = get("/key", "text/plain;q=0.7\r\nAccept: application/json;q=0.8");
    assert!(
        answer.ends_with(r#"{"custom":"No API key found in request"}"#),
        "{answer}"
    );
    let answer = get("/down", "text/plain");
    assert!(answer.contains("server\nrequest_id: "), "{answer}");
    stop(proxy);
    let wanted = format!("GET /key 401 {}\n", Uuid::from_u128(7));
    // Another thread writes them.
    eventually(&wanted, || {
        std::fs::read_to_string(&log).is_ok_and(|lines| lines.contains(&wanted))
    });
}
