//! What datadog promises.

use serde_json::{Value, json};
use shared::clock::UnixTime;
use uuid::Uuid;

use super::*;
use crate::exchange::Seen;
use crate::stream::StreamLog;
use crate::testing::{FakeHost, Request, consumer, logged};

fn filter(config: &Value) -> DatadogFilter {
    let config = crate::registry::check("datadog", config).unwrap();
    let config: Datadog = serde_json::from_value(config).unwrap();
    config.compile(&Instance { id: Uuid::nil() }).unwrap()
}

fn matched() -> Matched {
    Matched {
        service: Some(Named {
            id: Uuid::from_u128(8),
            name: Some("dd.1".to_owned()),
        }),
        ..Matched::default()
    }
}

fn written(host: &FakeHost) -> Vec<String> {
    host.run(host.sleep(Duration::from_secs(5)));
    let written = host.written().into_iter();
    written
        .map(|(_, bytes)| String::from_utf8(bytes.to_vec()).unwrap())
        .collect()
}

/// The datagrams for one exchange of bob, whose `custom_id` is `robert`.
fn sent(config: &Value) -> Vec<String> {
    let host = FakeHost::default();
    let mut request = Request::get("/");
    request.matched = matched();
    logged(&filter(config), &host, &request, |seen: &mut Seen| {
        seen.identity.consumer = Some(consumer("bob", Some("robert")));
    });
    written(&host)
}

#[test]
fn each_figure_is_a_datagram_with_tags() {
    let tags = "|#name:dd_1,status:200,consumer:robert,app:kong";
    assert_eq!(
        sent(&json!({})),
        [
            format!("kong.request.count:1|c{tags}"),
            format!("kong.latency:10|ms{tags}"),
            format!("kong.request.size:100|ms{tags}"),
            format!("kong.response.size:200|ms{tags}"),
            format!("kong.upstream_latency:3|ms{tags}"),
            format!("kong.kong_latency:7|ms{tags}"),
        ]
    );
    let config = json!({
        "prefix": "p", "service_name_tag": "s", "status_tag": "c", "consumer_tag": "u",
        "metrics": [
            {"name": "request_count", "stat_type": "counter", "sample_rate": 0.5, "tags": ["T2:V2:V3", "T4"]},
            {"name": "latency", "stat_type": "distribution", "consumer_identifier": "username"},
        ],
    });
    assert_eq!(
        sent(&config),
        [
            "p.request.count:1|c|@0.5|#s:dd_1,c:200,T2:V2:V3,T4",
            "p.latency:10|d|#s:dd_1,c:200,u:bob",
        ]
    );
    assert!(sent(&json!({"metrics": []})).is_empty());
}

#[test]
fn what_matches_no_route_has_no_name() {
    let host = FakeHost::default();
    let config = json!({"metrics": [{"name": "latency", "stat_type": "gauge", "sample_rate": 1}]});
    logged(&filter(&config), &host, &Request::get("/"), |_| {});
    assert_eq!(written(&host), ["kong.latency:10|g|#name:,status:200"]);
}

#[test]
fn a_stream_is_told_too() {
    let host = FakeHost::default();
    let log = StreamLog {
        matched: &matched(),
        client: [127, 0, 0, 1].into(),
        client_port: 7,
        port: 9000,
        status: http::StatusCode::OK,
        connected: true,
        received: 5,
        sent: 6,
        started_at: UnixTime::from_secs(1),
        kong: 1,
        session: 9,
        tls: None,
        tries: &[],
    };
    filter(&json!({})).on_log(Over::Stream(&log), &host);
    let tags = "|#name:dd_1,status:-,app:kong";
    assert_eq!(
        written(&host),
        [
            format!("kong.request.count:1|c{tags}"),
            format!("kong.latency:9|ms{tags}"),
            format!("kong.request.size:5|ms{tags}"),
            format!("kong.response.size:6|ms{tags}"),
            format!("kong.kong_latency:1|ms{tags}"),
        ]
    );
}

#[test]
fn what_makes_no_sense_is_refused_in_kongs_words() {
    let check = |metric: Value, expected: Value| {
        let config = json!({ "metrics": [metric] });
        let errors = crate::registry::check("datadog", &config).unwrap_err();
        assert_eq!(Value::Object(errors.by_field)["metrics"]["1"], expected);
    };
    check(
        json!({"name": "request_count", "stat_type": "counter", "sample_rate": 1, "tags": ["T1:"]}),
        json!({"tags": {"1": "invalid value: T1:"}}),
    );
    check(
        json!({"name": "request_count", "stat_type": "gauge"}),
        json!({
            "sample_rate": "required field missing",
            "@entity": ["failed conditional validation given value of field 'stat_type'"],
        }),
    );
    check(
        json!({"name": "latency", "stat_type": "timer", "sample_rate": 2}),
        json!({"sample_rate": "value should be between 0 and 1"}),
    );
    check(
        json!({"stat_type": "timer"}),
        json!({"name": "required field missing"}),
    );
    check(
        json!({"name": "latency", "sample_rate": 1}),
        json!({"stat_type": "field required for entity check"}),
    );
}
