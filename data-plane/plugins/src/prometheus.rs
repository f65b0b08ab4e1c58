//! `prometheus`: decides what of the exchanges is counted for `/metrics` (Kong 3.9, prometheus).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;

use crate::filter::{Counts, Filter, Instance, Phases, Plugin};

/// Configuration of `prometheus`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of Kong's")]
pub struct Prometheus {
    /// Counts by consumer too.
    #[serde(default)]
    pub per_consumer: bool,

    /// Counts answers by status.
    #[serde(default)]
    pub status_code_metrics: bool,

    /// Figures of the models that AI plugins ask.
    #[serde(default)]
    #[schemars(extend("x-not-yet" = true))]
    pub ai_metrics: bool,

    /// Counts how long exchanges take.
    #[serde(default)]
    pub latency_metrics: bool,

    /// Counts bytes.
    #[serde(default)]
    pub bandwidth_metrics: bool,

    /// Shows the health of upstreams' targets.
    #[serde(default)]
    #[schemars(extend("x-not-yet" = true))]
    pub upstream_health_metrics: bool,
}

impl Plugin for Prometheus {
    const NAME: &'static str = "prometheus";
    const PRIORITY: u32 = 13;
    type Filter = Counts;

    fn compile(self, _: &Instance) -> Result<Counts, FieldErrors> {
        Ok(Counts {
            statuses: self.status_code_metrics,
            latencies: self.latency_metrics,
            bandwidth: self.bandwidth_metrics,
            consumers: self.per_consumer,
        })
    }
}

impl Filter for Counts {
    fn phases(&self) -> Phases {
        Phases::LOG
    }

    fn counts(&self) -> Option<Counts> {
        Some(*self)
    }
}
