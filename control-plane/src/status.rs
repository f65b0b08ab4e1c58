//! What orchestrators and monitoring ask the control plane: `/status`, `/status/ready`, `/metrics`. Nothing of
//! the configuration is told here, so it may listen where the Admin API must not.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use http::{StatusCode, header};
use serde_json::{Value, json};
use shared::clock::UnixTime;
use shared::expiry::{self, Expiry};
use tokio::sync::watch;

use crate::config_sync::Target;
use crate::fleet::{Fleet, Introduction};
use crate::publisher::Publisher;

/// What is told of.
#[derive(Clone, Debug)]
pub struct Told {
    pub(crate) publisher: Publisher,
    pub(crate) fleet: Fleet,
    pub(crate) target: Target,
    /// When the control plane's own certificates end.
    pub(crate) expiries: watch::Receiver<Vec<Expiry>>,
}

/// The service that the status listener runs.
pub(crate) fn router(told: Told) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/status/ready", get(ready))
        .route("/metrics", get(metrics))
        .fallback(|| async {
            let body = Json(json!({ "message": "Not found" }));
            (StatusCode::NOT_FOUND, body).into_response()
        })
        .with_state(Arc::new(told))
}

/// The process answers, and this is what it has.
async fn status(State(told): State<Arc<Told>>) -> Response {
    let now = UnixTime::now();
    let expiries = told.expiries.borrow().clone();
    let soon = expiries.iter().filter(|(_, at)| expiry::is_soon(*at, now));
    let expiring: Vec<Value> = soon
        .map(|(what, at)| json!({ "what": what, "at": at.as_secs() }))
        .collect();
    Json(json!({
        "database": { "reachable": true },
        "configuration_revision": told.publisher.config().revision(),
        "expiring": expiring,
    }))
    .into_response()
}

/// Data planes can be served: the listener opens only once the store has been read.
async fn ready() -> Response {
    Json(json!({ "message": "ready" })).into_response()
}

async fn metrics(State(told): State<Arc<Told>>) -> Response {
    ([(header::CONTENT_TYPE, METRICS)], told.metrics()).into_response()
}

/// The type of what [`Told::metrics`] writes.
pub(crate) const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Told {
    /// The fleet in the text format of Prometheus, in Kong's names where Kong has them.
    pub(crate) fn metrics(&self) -> String {
        let targets = self.target.borrow().clone();
        let target = |node: &Introduction| targets.position_of(node);
        let nodes = self.fleet.list(target, UnixTime::now());
        let revision = self.publisher.config().revision();
        render(revision.0, &nodes, &self.expiries.borrow())
    }
}

fn render(revision: u64, nodes: &[Value], expiries: &[Expiry]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut family = |name: &str, help: &str, value: &dyn Fn(&Value) -> Option<String>| {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for node in nodes {
            if let Some(value) = value(node) {
                let label = |field: &str| {
                    escaped(node.get(field).and_then(Value::as_str).unwrap_or_default())
                };
                let (id, hostname, ip) = (label("id"), label("hostname"), label("ip"));
                let _ = writeln!(
                    text,
                    "{name}{{node_id=\"{id}\",hostname=\"{hostname}\",ip=\"{ip}\"}} {value}"
                );
            }
        }
    };
    let number =
        |node: &Value, field: &str| node.get(field)?.as_u64().map(|number| number.to_string());
    let is = |node: &Value, field: &str, expected: Value| {
        let flag = node.get(field) == Some(&expected);
        Some(u8::from(flag).to_string())
    };
    family(
        "kong_data_plane_last_seen",
        "When the control plane last heard of the data plane, in seconds since 1970.",
        &|node| number(node, "last_seen"),
    );
    family(
        "kong_data_plane_cluster_cert_expiry_timestamp",
        "When the data plane's certificate ends, in seconds since 1970.",
        &|node| number(node.get("cert_details")?, "expiry_timestamp"),
    );
    family(
        "kong_data_plane_config_hash",
        "The hash of the data plane's configuration as a number: equal among those that run the same.",
        &|node| {
            let hash = node.get("config_hash")?.as_str()?;
            u128::from_str_radix(hash, 16)
                .ok()
                .map(|hash| hash.to_string())
        },
    );
    family(
        "kong_data_plane_version_compatible",
        "Whether the data plane's version is compatible with the control plane's, 0 is incompatible.",
        &|node| is(node, "sync_status", "normal".into()),
    );
    family(
        "wardgate_data_plane_connected",
        "Whether the data plane has a stream.",
        &|node| is(node, "connected", true.into()),
    );
    family(
        "wardgate_data_plane_current",
        "Whether the data plane runs the newest configuration.",
        &|node| is(node, "progress", "current".into()),
    );
    family(
        "wardgate_data_plane_refused",
        "Whether the data plane has refused the newest configuration.",
        &|node| is(node, "progress", "refused".into()),
    );
    family(
        "wardgate_data_plane_revision",
        "The revision that the data plane runs.",
        &|node| number(node, "revision"),
    );
    let name = "wardgate_configuration_revision";
    let _ = writeln!(
        text,
        "# HELP {name} The newest committed revision.\n# TYPE {name} gauge\n{name} {revision}"
    );
    text.push_str(&expiry::metrics(expiries));
    text
}

/// A label's value in the text format of Prometheus.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_is_told_of_with_its_labels_escaped() {
        let nodes = [
            json!({
                "id": "1", "hostname": "a\"b", "ip": "10.0.0.1", "last_seen": 7, "connected": true,
                "progress": "current", "revision": 3, "cert_details": { "expiry_timestamp": 9 },
                "config_hash": "0000000000000000000000000000002a", "sync_status": "normal",
            }),
            json!({
                "id": "2", "hostname": "c", "ip": null, "connected": false, "progress": "refused",
                "sync_status": "plugin_set_incompatible",
            }),
        ];
        let ends = [("cluster_ca".to_owned(), UnixTime::from_secs(8))];
        let text = render(4, &nodes, &ends);
        for line in [
            r#"kong_data_plane_last_seen{node_id="1",hostname="a\"b",ip="10.0.0.1"} 7"#,
            r#"kong_data_plane_cluster_cert_expiry_timestamp{node_id="1",hostname="a\"b",ip="10.0.0.1"} 9"#,
            r#"kong_data_plane_config_hash{node_id="1",hostname="a\"b",ip="10.0.0.1"} 42"#,
            r#"kong_data_plane_version_compatible{node_id="1",hostname="a\"b",ip="10.0.0.1"} 1"#,
            r#"kong_data_plane_version_compatible{node_id="2",hostname="c",ip=""} 0"#,
            r#"wardgate_data_plane_connected{node_id="2",hostname="c",ip=""} 0"#,
            r#"wardgate_data_plane_refused{node_id="2",hostname="c",ip=""} 1"#,
            r#"wardgate_data_plane_current{node_id="1",hostname="a\"b",ip="10.0.0.1"} 1"#,
            "wardgate_configuration_revision 4",
            r#"wardgate_certificate_expiry_timestamp{certificate="cluster_ca"} 8"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
