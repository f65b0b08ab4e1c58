//! The figures of an exchange or a stream, for the plugins that send them on.

use serde_json::{Value, json};
use shared::entity::Consumer;
use shared::schema::FieldErrors;

use crate::exchange::{Log, Matched};
use crate::stream::StreamLog;
use crate::values::Number;

/// The figures of one exchange or stream.
#[derive(Debug)]
pub(crate) struct Figures<'a> {
    /// Its route; none if it matched none.
    pub(crate) matched: Option<&'a Matched>,
    /// Who it comes from.
    pub(crate) consumer: Option<&'a Consumer>,
    /// The status of the answer; streams have none.
    pub(crate) status: Option<u16>,
    /// Bytes from the client.
    pub(crate) received: u64,
    /// Bytes to the client.
    pub(crate) sent: u64,
    /// Milliseconds in all.
    pub(crate) latency: u64,
    /// Milliseconds until the upstream answered.
    pub(crate) upstream_latency: Option<u64>,
    /// Milliseconds in the gateway.
    pub(crate) kong_latency: u64,
}

impl<'a> Figures<'a> {
    /// Those of an exchange.
    pub(crate) fn of(log: &Log<'a>) -> Self {
        Self {
            matched: log.matched,
            consumer: log.seen.identity.consumer.as_deref(),
            status: Some(log.status.as_u16()),
            received: log.received,
            sent: log.sent,
            latency: log.latencies.request,
            upstream_latency: log.latencies.proxy,
            kong_latency: log.latencies.kong + log.latencies.receive,
        }
    }

    /// Those of a stream.
    pub(crate) const fn of_stream(log: &StreamLog<'a>) -> Self {
        Self {
            matched: Some(log.matched),
            consumer: None,
            status: None,
            received: log.received,
            sent: log.sent,
            latency: log.session,
            upstream_latency: None,
            kong_latency: log.kong,
        }
    }
}

/// Demands a rate of the metric at `place` if it is `rated`.
pub(crate) fn check_rate(
    place: &str,
    rated: bool,
    rate: Option<&Number>,
    errors: &mut FieldErrors,
) {
    if rated && rate.is_none() {
        errors.add(&["metrics", place, "sample_rate"], "required field missing");
        let rule = "failed conditional validation given value of field 'stat_type'";
        errors.put(&["metrics", place, "@entity"], json!([rule]));
    }
}

/// A name without what ends one in a line of figures: whoever is called `a:1|c` counts for nobody else.
pub(crate) fn plain(name: &str) -> String {
    let is_mark = |character: char| character.is_control() || matches!(character, ':' | '|');
    name.replace(is_mark, "_")
}

/// The host of the service that a route leads to.
pub(crate) fn service_host(matched: &Matched) -> Option<String> {
    let service = &matched.records.as_ref()?.service;
    service
        .get("host")
        .and_then(Value::as_str)
        .map(str::to_owned)
}
