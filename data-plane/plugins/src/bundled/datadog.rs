//! `datadog`: sends metrics of each exchange to a Datadog agent (Kong 3.9, datadog).

#[cfg(test)]
mod tests;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;

use crate::config::values::Number;
use crate::exchange::{Matched, Named};
use crate::filter::{Filter, Instance, Over, Phases, Plugin, Protocols};
use crate::host::Host;
use crate::host::sink::Sink;
use crate::logs::figures::{
    ConsumerIdentifier, Figure, Figures, StatType, check_rate, localhost, plain, port, prefix,
    send, service_host, share,
};
use crate::logs::queue::{OldQueue, Outbox, QueueConfig};

/// Longest wait for the agent.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Configuration of `datadog`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Datadog {
    /// Name or address of the agent.
    #[serde(default = "localhost")]
    #[schemars(extend("format" = "kong-host", "x-referenceable" = true))]
    pub host: String,

    /// Its UDP port.
    #[serde(default = "port")]
    #[schemars(range(min = 0, max = 65_535))]
    pub port: u16,

    /// What each name begins with.
    #[serde(default = "prefix")]
    pub prefix: String,

    /// Tag that holds the service's name, or its host.
    #[serde(default = "name_tag")]
    pub service_name_tag: Option<String>,

    /// Tag that holds the status of the answer.
    #[serde(default = "status_tag")]
    pub status_tag: Option<String>,

    /// Tag that holds the consumer.
    #[serde(default = "consumer_tag")]
    pub consumer_tag: Option<String>,

    /// How figures wait and are sent.
    #[serde(default)]
    pub queue: QueueConfig,

    /// Names of earlier versions.
    #[serde(flatten)]
    pub old_queue: OldQueue,

    /// Figures to send.
    #[serde(default = "metrics")]
    pub metrics: Vec<DatadogMetric>,
}

/// A figure to send.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct DatadogMetric {
    /// What it is.
    pub name: Figure,

    /// What kind of figure it is.
    #[schemars(extend("x-rules" = true))]
    pub stat_type: StatType,

    /// Tags besides those of service, status and consumer.
    #[serde(default)]
    pub tags: Option<Vec<String>>,

    /// The share of exchanges that the agent is to believe it stands for. Every exchange is told.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub sample_rate: Option<Number>,

    /// What the consumer is called; without it, none is told.
    #[serde(default)]
    pub consumer_identifier: Option<ConsumerIdentifier>,
}

#[allow(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
fn name_tag() -> Option<String> {
    Some("name".to_owned())
}

#[allow(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
fn status_tag() -> Option<String> {
    Some("status".to_owned())
}

#[allow(clippy::unnecessary_wraps, reason = "serde wants the field's type")]
fn consumer_tag() -> Option<String> {
    Some("consumer".to_owned())
}

fn metrics() -> Vec<DatadogMetric> {
    use Figure::{KongLatency, Latency, RequestCount, RequestSize, ResponseSize, UpstreamLatency};
    use StatType::{Counter, Timer};
    let metric = |(name, stat_type)| DatadogMetric {
        name,
        stat_type,
        tags: Some(vec!["app:kong".to_owned()]),
        sample_rate: (stat_type == Counter).then(|| Number(1.into())),
        consumer_identifier: Some(ConsumerIdentifier::CustomId),
    };
    let all = [
        (RequestCount, Counter),
        (Latency, Timer),
        (RequestSize, Timer),
        (ResponseSize, Timer),
        (UpstreamLatency, Timer),
        (KongLatency, Timer),
    ];
    all.into_iter().map(metric).collect()
}

impl Plugin for Datadog {
    const NAME: &'static str = "datadog";
    const PRIORITY: u32 = 10;
    const DISPENSABLE: bool = true;
    const PROTOCOLS: Protocols = Protocols::ALL;
    type Filter = DatadogFilter;

    fn compile(self, instance: &Instance) -> Result<DatadogFilter, FieldErrors> {
        let mut errors = FieldErrors::default();
        for (place, metric) in self.metrics.iter().enumerate() {
            let place = (place + 1).to_string();
            let (kind, rate) = (metric.stat_type, metric.sample_rate.as_ref());
            check_rate(&place, kind, rate, &mut errors);
            for (tag_place, tag) in metric.tags.iter().flatten().enumerate() {
                if tag.ends_with(':') || tag.contains(|c: char| c == '|' || c.is_control()) {
                    let tag_place = (tag_place + 1).to_string();
                    let path = ["metrics", place.as_str(), "tags", tag_place.as_str()];
                    errors.add(&path, format!("invalid value: {tag}"));
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(DatadogFilter {
            sink: Sink::Udp {
                host: self.host,
                port: self.port,
                timeout: TIMEOUT,
            },
            prefix: self.prefix,
            service_tag: self.service_name_tag.or_else(name_tag).unwrap_or_default(),
            status_tag: self.status_tag.or_else(status_tag).unwrap_or_default(),
            consumer_tag: self.consumer_tag.or_else(consumer_tag).unwrap_or_default(),
            metrics: self.metrics,
            outbox: Outbox::new(instance.id, self.old_queue.over(self.queue)),
        })
    }
}

/// Sends figures.
#[derive(Debug)]
pub struct DatadogFilter {
    sink: Sink,
    prefix: String,
    service_tag: String,
    status_tag: String,
    consumer_tag: String,
    metrics: Vec<DatadogMetric>,
    outbox: Outbox,
}

impl Filter for DatadogFilter {
    fn phases(&self) -> Phases {
        Phases::LOG
    }

    fn on_log(&self, over: Over<'_>, host: &impl Host) {
        let figures = Figures::of(over);
        let lines = self.metrics.iter();
        let lines: Vec<String> = lines
            .filter_map(|metric| self.line(metric, &figures))
            .collect();
        // A datagram for each.
        send(host, &self.outbox, &self.sink, &lines, 0);
    }
}

impl DatadogFilter {
    /// What `metric` says of `figures`; nothing if there is no such figure.
    fn line(&self, metric: &DatadogMetric, figures: &Figures<'_>) -> Option<String> {
        let (name, value) = metric.name.of(figures)?;
        let service = figures.matched.and_then(service).unwrap_or_default();
        let service = plain(&service).replace('.', "_");
        let status = figures
            .status
            .map_or("-".to_owned(), |status| status.to_string());
        let mut tags = vec![
            format!("{}:{service}", self.service_tag),
            format!("{}:{status}", self.status_tag),
        ];
        if let Some((called, consumer)) = metric.consumer_identifier.zip(figures.consumer)
            && let Some(mut name) = called.name(consumer)
        {
            if called == ConsumerIdentifier::ConsumerId {
                name = name.replace('-', "_");
            }
            tags.push(format!("{}:{}", self.consumer_tag, plain(&name)));
        }
        tags.extend(metric.tags.iter().flatten().cloned());
        let rate = share(metric.sample_rate.as_ref());
        let (prefix, kind, tags) = (&self.prefix, metric.stat_type.letters(), tags.join(","));
        Some(format!("{prefix}.{name}:{value}|{kind}{rate}|#{tags}"))
    }
}

/// What the service is called: its name, or its host.
fn service(matched: &Matched) -> Option<String> {
    let Named { name, .. } = matched.service.as_ref()?;
    name.clone().or_else(|| service_host(matched))
}
