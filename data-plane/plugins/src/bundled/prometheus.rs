//! `prometheus`: decides what of the exchanges is counted for `/metrics` (Kong 3.9, prometheus).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;

use crate::filter::{Counts, Filter, Instance, Phases, Plugin, Protocols};
use crate::glance::{Glance, Looks, Pass};
use crate::host::Host;

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
    pub upstream_health_metrics: bool,
}

impl Plugin for Prometheus {
    const NAME: &'static str = "prometheus";
    const PRIORITY: u32 = 13;
    const DISPENSABLE: bool = true;
    const PROTOCOLS: Protocols = Protocols::ALL;
    type Filter = Counts;

    fn compile(self, _: &Instance) -> Result<Counts, FieldErrors> {
        Ok(Counts {
            statuses: self.status_code_metrics,
            latencies: self.latency_metrics,
            bandwidth: self.bandwidth_metrics,
            consumers: self.per_consumer,
            health: self.upstream_health_metrics,
        })
    }
}

impl Filter for Counts {
    fn looks(&self) -> Looks {
        Looks::Always
    }

    fn on_glance(&self, _: &Glance<'_>, _: &mut Pass, _: &impl Host) -> Option<()> {
        Some(())
    }

    fn phases(&self) -> Phases {
        Phases::COUNT
    }

    fn counts(&self) -> Option<Counts> {
        Some(*self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn nothing_is_counted_that_is_not_asked_for() {
        let counts = |config| {
            let config = crate::registry::check("prometheus", &config).unwrap();
            let config: Prometheus = serde_json::from_value(config).unwrap();
            config.compile(&Instance { id: Uuid::nil() }).unwrap()
        };
        assert_eq!(counts(json!({})), Counts::default());
        for (field, expected) in [
            (
                "status_code_metrics",
                Counts {
                    statuses: true,
                    ..Counts::default()
                },
            ),
            (
                "latency_metrics",
                Counts {
                    latencies: true,
                    ..Counts::default()
                },
            ),
            (
                "bandwidth_metrics",
                Counts {
                    bandwidth: true,
                    ..Counts::default()
                },
            ),
            (
                "per_consumer",
                Counts {
                    consumers: true,
                    ..Counts::default()
                },
            ),
            (
                "upstream_health_metrics",
                Counts {
                    health: true,
                    ..Counts::default()
                },
            ),
        ] {
            let found = counts(json!({ field: true }));
            assert_eq!(found, expected, "{field}");
            assert!(found.phases() == Phases::COUNT && found.counts() == Some(expected));
        }
        assert!(crate::registry::check("prometheus", &json!({"ai_metrics": true})).is_err());
    }
}
