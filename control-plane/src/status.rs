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
use crate::fleet::{Figures, Fleet, Introduction, Standing};
use crate::publisher::Publisher;
use crate::store::etcd::Version;

/// What is told of.
#[derive(Clone, Debug)]
pub struct Told {
    pub(crate) publisher: Publisher,
    pub(crate) fleet: Fleet,
    pub(crate) target: Target,
    /// When the control plane's own certificates end.
    pub(crate) expiries: watch::Receiver<Vec<Expiry>>,
    /// The version of etcd, where the store is there and it has told.
    pub(crate) etcd: watch::Receiver<Option<Version>>,
}

/// The service that the status listener runs.
pub(crate) fn router(told: Told) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/status/", get(status))
        .route("/status/ready", get(ready))
        .route("/status/ready/", get(ready))
        .route("/metrics", get(metrics))
        .route("/metrics/", get(metrics))
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
        "database": told.database(),
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
    /// Whether the store takes writes, and what there is to know of it.
    pub(crate) fn database(&self) -> Value {
        database(
            self.publisher.trouble().is_none(),
            self.etcd.borrow().as_ref(),
        )
    }

    /// The fleet in the text format of Prometheus, in Kong's names where Kong has them.
    pub(crate) fn metrics(&self) -> String {
        let targets = self.target.borrow().clone();
        let target = |node: &Introduction| targets.position_of(node);
        let nodes = self.fleet.figures(target, UnixTime::now());
        let revision = self.publisher.config().revision();
        let reachable = self.publisher.trouble().is_none();
        render((revision.0, reachable), &nodes, &self.expiries.borrow())
    }
}

/// Kong's member of `/status`; the version of etcd is ours.
pub(crate) fn database(reachable: bool, etcd: Option<&Version>) -> Value {
    match etcd {
        Some(etcd) => json!({ "reachable": reachable, "etcd": etcd.show() }),
        None => json!({ "reachable": reachable }),
    }
}

/// A family of metrics, and what a node has of it.
type Family = (&'static str, &'static str, fn(&Figures) -> Option<u128>);

/// The one that tells the node's version, too.
const VERSIONS: &str = "kong_data_plane_version_compatible";

/// Those with a line for each node.
const FAMILIES: [Family; 10] = [
    (
        "kong_data_plane_last_seen",
        "When the control plane last heard of the data plane, in seconds since 1970.",
        |node| Some(node.last_seen.as_secs().into()),
    ),
    (
        "kong_data_plane_cluster_cert_expiry_timestamp",
        "When the data plane's certificate ends, in seconds since 1970.",
        |node| Some(node.certificate_expires_at?.as_secs().into()),
    ),
    (
        "kong_data_plane_config_hash",
        "The hash of the data plane's configuration as a number: equal among those that run the same.",
        |node| node.root.first_chunk().copied().map(u128::from_be_bytes),
    ),
    (
        VERSIONS,
        "Whether the data plane's version is compatible with the control plane's, 0 is incompatible.",
        |node| Some(node.compatible.into()),
    ),
    (
        "wardgate_data_plane_connected",
        "Whether the data plane has a stream.",
        |node| Some(node.connected.into()),
    ),
    (
        "wardgate_data_plane_current",
        "Whether the data plane, which has a stream, runs the newest configuration.",
        |node| {
            node.connected
                .then(|| (node.standing == Standing::Current).into())
        },
    ),
    (
        "wardgate_data_plane_refused",
        "Whether the data plane, which has a stream, does not take the newest configuration.",
        |node| node.connected.then(|| node.standing.is_refusal().into()),
    ),
    (
        "wardgate_data_plane_contested",
        "Whether two processes take turns as this data plane: they have one certificate.",
        |node| Some(node.contested.into()),
    ),
    (
        "wardgate_data_plane_clock_offset_milliseconds",
        "How far the clocks of the data plane and of the control plane are apart.",
        |node| Some(node.clock_offset?.unsigned_abs().into()),
    ),
    (
        "wardgate_data_plane_revision",
        "The revision that the data plane runs.",
        |node| Some(node.revision.0.into()),
    ),
];

fn render((revision, reachable): (u64, bool), nodes: &[Figures], expiries: &[Expiry]) -> String {
    let mut text = String::new();
    let labels: Vec<String> = nodes
        .iter()
        .map(|node| {
            let ip = node.ip.map(|ip| ip.to_string()).unwrap_or_default();
            let (id, hostname) = (node.id, escaped(&node.hostname));
            format!("node_id=\"{id}\",hostname=\"{hostname}\",ip=\"{ip}\"")
        })
        .collect();
    for (name, help, value) in FAMILIES {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (node, labels) in nodes.iter().zip(&labels) {
            let Some(value) = value(node) else { continue };
            let _ = match name {
                VERSIONS => {
                    let version = escaped(&node.version);
                    writeln!(
                        text,
                        "{name}{{{labels},kong_version=\"{version}\"}} {value}"
                    )
                }
                _ => writeln!(text, "{name}{{{labels}}} {value}"),
            };
        }
    }
    let name = "wardgate_configuration_revision";
    let _ = writeln!(
        text,
        "# HELP {name} The newest committed revision.\n# TYPE {name} gauge\n{name} {revision}"
    );
    let (name, reachable) = ("kong_datastore_reachable", u8::from(reachable));
    let _ = writeln!(
        text,
        "# HELP {name} Whether the store takes writes, 0 is unreachable.\n# TYPE {name} gauge\n{name} {reachable}"
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
    use shared::snapshot::Revision;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn each_node_is_told_of_with_its_labels_escaped() {
        let node = |number: u128, hostname: &str| {
            let mut root = [0; 32];
            root[15] = 42;
            Figures {
                id: Uuid::from_u128(number),
                hostname: hostname.to_owned(),
                version: "1.2.3".to_owned(),
                ip: None,
                last_seen: UnixTime::from_secs(7),
                certificate_expires_at: None,
                root,
                revision: Revision(3),
                compatible: false,
                connected: false,
                standing: Standing::Refused,
                clock_offset: None,
                contested: false,
            }
        };
        let nodes = [
            Figures {
                ip: Some([10, 0, 0, 1].into()),
                certificate_expires_at: Some(UnixTime::from_secs(9)),
                compatible: true,
                connected: true,
                standing: Standing::Current,
                clock_offset: Some(-7),
                ..node(1, "a\"b")
            },
            node(2, "c"),
            Figures {
                connected: true,
                standing: Standing::Stuck,
                contested: true,
                ..node(3, "d")
            },
        ];
        let ends = [("cluster_ca".to_owned(), UnixTime::from_secs(8))];
        let text = render((4, false), &nodes, &ends);
        for line in [
            r#"kong_data_plane_last_seen{node_id="1",hostname="a\"b",ip="10.0.0.1"} 7"#,
            r#"kong_data_plane_cluster_cert_expiry_timestamp{node_id="1",hostname="a\"b",ip="10.0.0.1"} 9"#,
            r#"kong_data_plane_config_hash{node_id="1",hostname="a\"b",ip="10.0.0.1"} 42"#,
            r#"kong_data_plane_version_compatible{node_id="1",hostname="a\"b",ip="10.0.0.1",kong_version="1.2.3"} 1"#,
            r#"kong_data_plane_version_compatible{node_id="2",hostname="c",ip="",kong_version="1.2.3"} 0"#,
            r#"wardgate_data_plane_connected{node_id="2",hostname="c",ip=""} 0"#,
            r#"wardgate_data_plane_refused{node_id="3",hostname="d",ip=""} 1"#,
            r#"wardgate_data_plane_contested{node_id="3",hostname="d",ip=""} 1"#,
            r#"wardgate_data_plane_clock_offset_milliseconds{node_id="1",hostname="a\"b",ip="10.0.0.1"} 7"#,
            r#"wardgate_data_plane_current{node_id="1",hostname="a\"b",ip="10.0.0.1"} 1"#,
            "wardgate_configuration_revision 4",
            "kong_datastore_reachable 0",
            r#"wardgate_certificate_expiry_timestamp{certificate="cluster_ca"} 8"#,
        ] {
            // Ids have more digits.
            let id = "00000000-0000-0000-0000-00000000000";
            let line = line.replace("node_id=\"", &format!("node_id=\"{id}"));
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for (family, count) in [
            ("kong_data_plane_cluster_cert_expiry_timestamp{", 1),
            // Nobody is to be woken by a node that has gone.
            ("wardgate_data_plane_current{", 2),
        ] {
            assert_eq!(text.matches(family).count(), count, "{text}");
        }
    }
}
