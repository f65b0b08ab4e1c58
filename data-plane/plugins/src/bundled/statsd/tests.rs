//! What statsd promises.

use std::sync::Arc;

use serde_json::{Value, json};
use shared::entity::Consumer;
use uuid::Uuid;

use super::*;
use crate::exchange::{Records, Seen, Workspace};
use crate::testing::{FakeHost, Request, consumer, logged};

const ROUTE: &str = "00000000-0000-0000-0000-000000000007";
const WORKSPACE: &str = "00000000-0000-0000-0000-000000000009";

fn filter(config: &Value) -> StatsdFilter {
    let config = crate::registry::check("statsd", config).unwrap();
    let config: Statsd = serde_json::from_value(config).unwrap();
    config.compile(&Instance { id: Uuid::nil() }).unwrap()
}

/// A request to a service, by bob, whose `custom_id` is `robert`.
fn request() -> Request {
    let mut request = Request::get("/");
    request.matched = Matched {
        route: Named {
            id: ROUTE.parse().unwrap(),
            name: None,
        },
        hosts: Box::default(),
        service: Some(Named {
            id: Uuid::from_u128(8),
            name: Some("stats.d".to_owned()),
        }),
        records: Some(Records {
            route: Arc::default(),
            service: Arc::new(json!({"host": "up.example"})),
            workspace: Workspace {
                id: WORKSPACE.parse().unwrap(),
                name: "team".into(),
            },
        }),
    };
    request
}

/// The datagrams for one exchange.
fn sent(config: &Value, request: &Request, by: Option<Arc<Consumer>>) -> Vec<String> {
    let host = FakeHost::default();
    let filter = filter(config);
    logged(&filter, &host, request, |seen: &mut Seen| {
        seen.identity.consumer = by;
    });
    host.run(host.sleep(Duration::from_secs(5)));
    let written = host.written().into_iter();
    written
        .map(|(_, bytes)| String::from_utf8(bytes.to_vec()).unwrap())
        .collect()
}

fn bob() -> Arc<Consumer> {
    consumer("bob", Some("robert"))
}

fn one(name: &str, kind: &str, more: Value) -> Value {
    let mut metric = json!({"name": name, "stat_type": kind, "sample_rate": 1});
    if let (Value::Object(metric), Value::Object(more)) = (&mut metric, more) {
        metric.extend(more);
    }
    metric
}

#[test]
fn each_figure_is_a_datagram_under_its_service() {
    let mut lines = sent(&json!({}), &request(), Some(bob()));
    lines.sort();
    assert_eq!(
        lines,
        [
            format!("kong.route.{ROUTE}.user.robert.status.200:1|c"),
            "kong.service.stats_d.kong_latency:7|ms".to_owned(),
            "kong.service.stats_d.latency:10|ms".to_owned(),
            "kong.service.stats_d.request.count:1|c".to_owned(),
            "kong.service.stats_d.request.size:100|c".to_owned(),
            "kong.service.stats_d.response.size:200|c".to_owned(),
            "kong.service.stats_d.status.200:1|c".to_owned(),
            "kong.service.stats_d.upstream_latency:3|ms".to_owned(),
            "kong.service.stats_d.user.robert.request.count:1|c".to_owned(),
            "kong.service.stats_d.user.robert.status.200:1|c".to_owned(),
            "kong.service.stats_d.user.uniques:robert|s".to_owned(),
            format!("kong.service.stats_d.workspace.{WORKSPACE}.status.200:1|c"),
        ]
    );
}

#[test]
fn what_matches_no_route_is_filed_apart_and_has_no_users() {
    let lines = sent(&json!({}), &Request::get("/"), None);
    assert_eq!(lines.len(), 7, "{lines:?}");
    assert!(
        lines
            .iter()
            .all(|line| line.starts_with("kong.global.unmatched."))
    );
}

#[test]
fn names_are_as_configured() {
    let check = |metric: Value, more: Value, expected: &str| {
        let mut config = json!({ "metrics": [metric] });
        if let (Value::Object(config), Value::Object(more)) = (&mut config, more) {
            config.extend(more);
        }
        assert_eq!(sent(&config, &request(), Some(bob())), [expected]);
    };
    let count = |more: Value| one("request_count", "counter", more);
    check(
        count(json!({})),
        json!({"prefix": "a.b"}),
        "a.b.service.stats_d.request.count:1|c",
    );
    check(
        count(json!({"sample_rate": 0.5})),
        json!({}),
        "kong.service.stats_d.request.count:1|c|@0.5",
    );
    check(
        count(json!({"service_identifier": "service_host"})),
        json!({}),
        "kong.service.up_example.request.count:1|c",
    );
    check(
        count(json!({})),
        json!({"service_identifier_default": "service_id"}),
        &format!("kong.service.{}.request.count:1|c", Uuid::from_u128(8)),
    );
    check(
        one("latency", "gauge", json!({})),
        json!({}),
        "kong.service.stats_d.latency:10|g",
    );
    check(
        one(
            "unique_users",
            "set",
            json!({"consumer_identifier": "username"}),
        ),
        json!({}),
        "kong.service.stats_d.user.uniques:bob|s",
    );
    let hostname = shared::machine::hostname().replace('.', "_");
    check(
        count(json!({})),
        json!({"hostname_in_prefix": true}),
        &format!("kong.node.{hostname}.service.stats_d.request.count:1|c"),
    );
    let tags = |separator: &str| {
        [
            ("service", "stats.d"),
            ("route", ROUTE),
            ("workspace", WORKSPACE),
            ("consumer", "robert"),
            ("node", hostname.as_str()),
            ("status", "200"),
        ]
        .map(|(name, value)| format!("{name}{separator}{value}"))
        .join(",")
    };
    for (style, expected) in [
        (
            "dogstatsd",
            format!("kong.request.count:1|c|#{}", tags(":")),
        ),
        ("influxdb", format!("kong.request.count,{}:1|c", tags("="))),
        ("librato", format!("kong.request.count#{}:1|c", tags("="))),
        ("signalfx", format!("kong.request.count[{}]:1|c", tags("="))),
    ] {
        check(count(json!({})), json!({ "tag_style": style }), &expected);
    }
}

#[test]
fn a_workspace_has_a_name() {
    let by_name = json!({"workspace_identifier": "workspace_name"});
    let config = json!({"metrics": [one("status_count_per_workspace", "counter", by_name)]});
    let line = |name: &str| format!("kong.service.stats_d.workspace.{name}.status.200:1|c");
    let mut request = request();
    assert_eq!(sent(&config, &request, None), [line("team")]);
    if let Some(records) = &mut request.matched.records {
        records.workspace = Workspace::default();
    }
    assert_eq!(sent(&config, &request, None), [line("default")]);
}

#[test]
fn a_name_cannot_pass_for_another_figure() {
    let config = json!({ "metrics": [
        one("request_per_user", "counter", json!({"consumer_identifier": "username"})),
    ] });
    let lines = sent(&config, &request(), Some(consumer("a:9|c\nx", None)));
    assert_eq!(
        lines,
        ["kong.service.stats_d.user.a_9_c_x.request.count:1|c"]
    );
}

#[test]
fn figures_share_datagrams_and_streams() {
    let metrics = json!([
        one("request_count", "counter", json!({})),
        one("request_size", "counter", json!({})),
        one("response_size", "counter", json!({})),
    ]);
    let lines = [
        "kong.service.stats_d.request.count:1|c",
        "kong.service.stats_d.request.size:100|c",
        "kong.service.stats_d.response.size:200|c",
    ];
    let packet = json!({"metrics": metrics, "udp_packet_size": 80});
    let two = format!("{}\n{}", lines[0], lines[1]);
    assert_eq!(sent(&packet, &request(), None), [two.as_str(), lines[2]]);
    let stream = json!({"metrics": metrics, "use_tcp": true});
    let all = lines.map(|line| format!("{line}\n")).concat();
    assert_eq!(sent(&stream, &request(), None), [all]);
}

#[test]
fn only_allowed_statuses_count() {
    let counts = |ranges: Value| {
        let config = json!({ "allow_status_codes": ranges });
        !sent(&config, &request(), None).is_empty()
    };
    assert!(counts(json!(["100-199", "200-204"])));
    assert!(!counts(json!(["400-404"])));
}

#[test]
fn what_makes_no_sense_is_refused_in_kongs_words() {
    let check = |config: Value, expected: Value| {
        let errors = crate::registry::check("statsd", &config).unwrap_err();
        assert_eq!(Value::Object(errors.by_field), expected, "{config}");
    };
    check(
        json!({"allow_status_codes": ["200-204", "abc", "200"]}),
        json!({"allow_status_codes": {"2": "invalid value: abc", "3": "invalid value: 200"}}),
    );
    check(
        json!({"metrics": [{"name": "request_count", "stat_type": "counter"}]}),
        json!({"metrics": {"1": {
            "sample_rate": "required field missing",
            "@entity": ["failed conditional validation given value of field 'stat_type'"],
        }}}),
    );
    check(
        json!({"metrics": [{"name": "latency", "stat_type": "timer", "sample_rate": 0}]}),
        json!({"metrics": {"1": {"sample_rate": "value must be greater than 0"}}}),
    );
    check(
        json!({"metrics": [{"name": "unique_users", "stat_type": "timer"}]}),
        json!({"metrics": {"1": {
            "stat_type": "value must be set",
            "@entity": ["failed conditional validation given value of field 'name'"],
        }}}),
    );
    check(
        json!({"udp_packet_size": 65_508}),
        json!({"udp_packet_size": "value should be between 0 and 65507"}),
    );
    let errors = crate::registry::check("statsd", &json!({"metrics": [{"name": "x"}]}));
    let errors = Value::Object(errors.unwrap_err().by_field);
    assert_eq!(
        errors["metrics"]["1"]["stat_type"],
        "field required for entity check"
    );
}
