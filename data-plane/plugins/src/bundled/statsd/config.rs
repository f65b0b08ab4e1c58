//! The configuration of `statsd`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::line::Style;
use crate::config::values::Number;
use crate::logs::figures::{ConsumerIdentifier, StatType, localhost, port, prefix};
use crate::logs::queue::{OldQueue, QueueConfig};

/// Configuration of `statsd`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Statsd {
    /// Name or address of the server.
    #[serde(default = "localhost")]
    #[schemars(extend("format" = "kong-host"))]
    pub host: String,

    /// Its port.
    #[serde(default = "port")]
    #[schemars(range(min = 0, max = 65_535))]
    pub port: u16,

    /// What each name begins with.
    #[serde(default = "prefix")]
    pub prefix: String,

    /// Figures to send.
    #[serde(default = "metrics")]
    pub metrics: Option<Vec<Metric>>,

    /// Ranges of the statuses whose exchanges count, such as `200-299`; all if absent.
    #[serde(default)]
    pub allow_status_codes: Option<Vec<String>>,

    /// Most bytes of a datagram; 0: one figure each.
    #[serde(default)]
    #[schemars(range(min = 0, max = 65_507))]
    pub udp_packet_size: usize,

    /// Sends over TCP.
    #[serde(default)]
    pub use_tcp: bool,

    /// Puts the machine's name after the prefix.
    #[serde(default)]
    pub hostname_in_prefix: bool,

    /// What a consumer is called, unless a metric says otherwise.
    #[serde(default)]
    pub consumer_identifier_default: ConsumerIdentifier,

    /// What a service is called, unless a metric says otherwise.
    #[serde(default)]
    pub service_identifier_default: ServiceIdentifier,

    /// What a workspace is called, unless a metric says otherwise.
    #[serde(default)]
    pub workspace_identifier_default: WorkspaceIdentifier,

    /// How tags tell what a figure is of; its name does if absent.
    #[serde(default)]
    pub tag_style: Option<Style>,

    /// How figures wait and are sent.
    #[serde(default)]
    pub queue: QueueConfig,

    /// Names of earlier versions.
    #[serde(flatten)]
    pub old_queue: OldQueue,
}

/// A figure to send.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Metric {
    /// What it is. Those of shared memory and of the data store's cache are taken, and never sent.
    #[schemars(extend("x-rules" = true))]
    pub name: MetricName,

    /// What kind of figure it is.
    #[schemars(schema_with = "kinds", extend("x-rules" = true))]
    pub stat_type: StatType,

    /// The share of exchanges that the server is to believe it stands for. Every exchange is told.
    #[serde(default)]
    pub sample_rate: Option<Number>,

    /// What a consumer is called.
    #[serde(default)]
    pub consumer_identifier: Option<ConsumerIdentifier>,

    /// What a service is called.
    #[serde(default)]
    pub service_identifier: Option<ServiceIdentifier>,

    /// What a workspace is called.
    #[serde(default)]
    pub workspace_identifier: Option<WorkspaceIdentifier>,
}

/// What a figure is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricName {
    KongLatency,
    Latency,
    RequestCount,
    RequestPerUser,
    RequestSize,
    ResponseSize,
    StatusCount,
    StatusCountPerUser,
    UniqueUsers,
    UpstreamLatency,
    StatusCountPerWorkspace,
    StatusCountPerUserPerRoute,
    ShdictUsage,
    CacheDatastoreHitsTotal,
    CacheDatastoreMissesTotal,
}

/// What a service is called.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "the names are Kong's")]
pub enum ServiceIdentifier {
    /// By its id.
    ServiceId,
    /// By its name.
    ServiceName,
    /// By its host.
    ServiceHost,
    /// By its name, else by its host.
    #[default]
    ServiceNameOrHost,
}

/// What a workspace is called.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkspaceIdentifier {
    /// By its id.
    #[default]
    WorkspaceId,
    /// By its name.
    WorkspaceName,
}

/// The kinds of figures that every `StatsD` server knows.
fn kinds(_: &mut SchemaGenerator) -> Schema {
    let known = ["counter", "gauge", "histogram", "meter", "set", "timer"];
    json_schema!({ "type": "string", "enum": known })
}

impl MetricName {
    /// The kind that it must be of, if it cannot be of any.
    pub(super) const fn only_kind(self) -> Option<StatType> {
        match self {
            Self::UniqueUsers => Some(StatType::Set),
            Self::StatusCount | Self::StatusCountPerUser | Self::RequestPerUser => {
                Some(StatType::Counter)
            }
            _ => None,
        }
    }
}

#[allow(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
fn metrics() -> Option<Vec<Metric>> {
    let metric = |name, stat_type| Metric {
        name,
        stat_type,
        sample_rate: (!matches!(stat_type, StatType::Timer | StatType::Set))
            .then(|| Number(1.into())),
        consumer_identifier: None,
        service_identifier: None,
        workspace_identifier: None,
    };
    let all = [
        (MetricName::RequestCount, StatType::Counter),
        (MetricName::Latency, StatType::Timer),
        (MetricName::RequestSize, StatType::Counter),
        (MetricName::StatusCount, StatType::Counter),
        (MetricName::ResponseSize, StatType::Counter),
        (MetricName::UniqueUsers, StatType::Set),
        (MetricName::RequestPerUser, StatType::Counter),
        (MetricName::UpstreamLatency, StatType::Timer),
        (MetricName::KongLatency, StatType::Timer),
        (MetricName::StatusCountPerUser, StatType::Counter),
        (MetricName::StatusCountPerWorkspace, StatType::Counter),
        (MetricName::StatusCountPerUserPerRoute, StatType::Counter),
        (MetricName::ShdictUsage, StatType::Gauge),
    ];
    Some(
        all.into_iter()
            .map(|(name, kind)| metric(name, kind))
            .collect(),
    )
}
