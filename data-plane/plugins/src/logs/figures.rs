//! The metrics of an exchange or a stream, for the plugins that send them.

use std::rc::Rc;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::entity::Consumer;
use shared::schema::FieldErrors;

use crate::config::values::Number;
use crate::exchange::Matched;
use crate::filter::Over;
use crate::host::Host;
use crate::host::sink::Sink;
use crate::logs::queue::{self, Outbox};

/// The host that figures are sent to by default.
pub(crate) fn localhost() -> String {
    "localhost".to_owned()
}

/// Its port.
pub(crate) const fn port() -> u16 {
    8125
}

/// What names of figures begin with by default.
pub(crate) fn prefix() -> String {
    "kong".to_owned()
}

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
    /// Those of what is over.
    pub(crate) fn of(over: Over<'a>) -> Self {
        match over {
            Over::Exchange(log) => Self {
                matched: log.matched,
                consumer: log.seen.identity.consumer.as_deref(),
                status: Some(log.status.as_u16()),
                received: log.received,
                sent: log.sent,
                latency: log.latencies.request,
                upstream_latency: log.latencies.proxy,
                kong_latency: log.latencies.kong + log.latencies.receive,
            },
            Over::Stream(log) => Self {
                matched: Some(log.matched),
                consumer: None,
                status: None,
                received: log.received,
                sent: log.sent,
                latency: log.session,
                upstream_latency: None,
                kong_latency: log.kong,
            },
        }
    }
}

/// A figure that every exchange has.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Time in the gateway.
    KongLatency,
    /// Time in all.
    Latency,
    /// How many.
    RequestCount,
    /// Bytes from the client.
    RequestSize,
    /// Bytes to the client.
    ResponseSize,
    /// Time until the upstream answered.
    UpstreamLatency,
}

impl Figure {
    /// What lines call it, and its value; nothing of an exchange that has none.
    pub(crate) fn of(self, figures: &Figures<'_>) -> Option<(&'static str, u64)> {
        Some(match self {
            Self::RequestCount => ("request.count", 1),
            Self::RequestSize => ("request.size", figures.received),
            Self::ResponseSize => ("response.size", figures.sent),
            Self::Latency => ("latency", figures.latency),
            Self::UpstreamLatency => ("upstream_latency", figures.upstream_latency?),
            Self::KongLatency => ("kong_latency", figures.kong_latency),
        })
    }
}

/// What kind of figure it is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StatType {
    /// Added up.
    Counter,
    /// The last one counts.
    Gauge,
    /// Values by how often they are seen, on each server.
    Histogram,
    /// A rate.
    Meter,
    /// Different values are counted.
    Set,
    /// Durations.
    Timer,
    /// Values by how often they are seen, on all servers together.
    Distribution,
}

impl StatType {
    /// How a line says so.
    pub(crate) const fn letters(self) -> &'static str {
        match self {
            Self::Counter => "c",
            Self::Gauge => "g",
            Self::Histogram => "h",
            Self::Meter => "m",
            Self::Set => "s",
            Self::Timer => "ms",
            Self::Distribution => "d",
        }
    }

    /// Whether its values stand for a share of the exchanges, which has to be said.
    const fn is_rated(self) -> bool {
        matches!(self, Self::Counter | Self::Gauge)
    }
}

/// What a consumer is called.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumerIdentifier {
    /// By its id.
    ConsumerId,
    /// By its `custom_id`.
    #[default]
    CustomId,
    /// By its `username`.
    Username,
}

impl ConsumerIdentifier {
    /// The name of `consumer`, if it has one of this kind.
    pub(crate) fn name(self, consumer: &Consumer) -> Option<String> {
        match self {
            Self::ConsumerId => Some(consumer.id.to_string()),
            Self::CustomId => consumer.custom_id.clone(),
            Self::Username => consumer.username.clone(),
        }
    }
}

/// How a line tells the share of exchanges that it stands for: not at all where that is every one.
pub(crate) fn share(rate: Option<&Number>) -> String {
    match rate {
        Some(rate) if (rate.value() - 1.0).abs() > f64::EPSILON => format!("|@{}", rate.0),
        _ => String::new(),
    }
}

/// Demands a rate of the metric at `place` where its kind needs one.
pub(crate) fn check_rate(
    place: &str,
    kind: StatType,
    rate: Option<&Number>,
    errors: &mut FieldErrors,
) {
    if kind.is_rated() && rate.is_none() {
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

/// Has `lines` sent to `sink` when it is their turn. A datagram has at most `datagram` bytes, or one line.
pub(crate) fn send(
    host: &impl Host,
    outbox: &Outbox,
    sink: &Sink,
    lines: &[String],
    datagram: usize,
) {
    if lines.is_empty() {
        return;
    }
    let entry = Bytes::from(lines.join("\n"));
    queue::push(host, outbox, entry, || {
        let (host, sink) = (host.clone(), sink.clone());
        Rc::new(move |batch: Vec<Bytes>| {
            let (host, sink) = (host.clone(), sink.clone());
            Box::pin(async move {
                let datagram = matches!(sink, Sink::Udp { .. }).then_some(datagram);
                for packet in packets(&batch, datagram) {
                    let written = host.write(&sink, packet).await;
                    written.map_err(|error| error.to_string())?;
                }
                Ok(())
            })
        })
    });
}

/// Lines as they are sent: on a stream together; in datagrams of at most so many bytes, or one each.
fn packets(batch: &[Bytes], datagram: Option<usize>) -> Vec<Bytes> {
    let lines = batch
        .iter()
        .flat_map(|entry| entry.split(|byte| *byte == b'\n'));
    let Some(most) = datagram else {
        let mut all = Vec::new();
        for line in lines {
            all.extend_from_slice(line);
            all.push(b'\n');
        }
        return vec![all.into()];
    };
    let mut packets: Vec<Vec<u8>> = Vec::new();
    for line in lines {
        match packets.last_mut() {
            Some(last) if last.len() + 1 + line.len() <= most => {
                last.push(b'\n');
                last.extend_from_slice(line);
            }
            _ => packets.push(line.to_vec()),
        }
    }
    packets.into_iter().map(Bytes::from).collect()
}
