//! A metric in the `StatsD` format, with tags in the styles of four servers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::values::Number;
use crate::logs::figures::{StatType, share};

/// How tags are written.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// `name:1|c|#tag:value`.
    Dogstatsd,
    /// `name,tag=value:1|c`.
    Influxdb,
    /// `name#tag=value:1|c`.
    Librato,
    /// `name[tag=value]:1|c`.
    Signalfx,
}

/// Names and values, in order.
pub(super) type Tags = Vec<(&'static str, String)>;

/// One figure.
pub(super) fn line(
    prefix: &str,
    stat: &str,
    value: &str,
    kind: StatType,
    rate: Option<&Number>,
    tags: Option<(Style, &Tags)>,
) -> String {
    let kind = kind.letters();
    let rate = share(rate);
    let joined = |separator: &str, tags: &Tags| {
        let pairs = tags
            .iter()
            .map(|(name, value)| format!("{name}{separator}{value}"));
        pairs.collect::<Vec<_>>().join(",")
    };
    match tags {
        None => format!("{prefix}.{stat}:{value}|{kind}{rate}"),
        Some((Style::Dogstatsd, tags)) => {
            format!(
                "{prefix}.{stat}:{value}|{kind}{rate}|#{}",
                joined(":", tags)
            )
        }
        Some((Style::Influxdb, tags)) => {
            format!("{prefix}.{stat},{}:{value}|{kind}{rate}", joined("=", tags))
        }
        Some((Style::Librato, tags)) => {
            format!("{prefix}.{stat}#{}:{value}|{kind}{rate}", joined("=", tags))
        }
        Some((Style::Signalfx, tags)) => {
            format!(
                "{prefix}.{stat}[{}]:{value}|{kind}{rate}",
                joined("=", tags)
            )
        }
    }
}
