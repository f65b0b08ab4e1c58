//! `statsd`: sends metrics of each exchange to a `StatsD` server (Kong 3.9, statsd).

mod config;
mod line;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::json;
use shared::schema::FieldErrors;

pub use self::config::Statsd;
use self::config::{Metric, MetricName, ServiceIdentifier, WorkspaceIdentifier};
use self::line::{Style, Tags, line};
use crate::exchange::{Matched, Named};
use crate::filter::{Filter, Instance, Over, Phases, Plugin, Protocols};
use crate::host::Host;
use crate::host::sink::Sink;
use crate::logs::figures::{
    ConsumerIdentifier, Figure, Figures, StatType, check_rate, plain, send, service_host,
};
use crate::logs::queue::Outbox;

/// Longest wait for the server.
const TIMEOUT: Duration = Duration::from_secs(1);

impl Plugin for Statsd {
    const NAME: &'static str = "statsd";
    const PRIORITY: u32 = 11;
    const DISPENSABLE: bool = true;
    const PROTOCOLS: Protocols = Protocols::ALL;
    type Filter = StatsdFilter;

    fn refuse(&self, errors: &mut FieldErrors) {
        for (place, metric) in self.metrics.iter().flatten().enumerate() {
            let place = (place + 1).to_string();
            if let Some(kind) = metric
                .name
                .only_kind()
                .filter(|kind| *kind != metric.stat_type)
            {
                let word = if kind == StatType::Set {
                    "set"
                } else {
                    "counter"
                };
                let path = ["metrics", place.as_str(), "stat_type"];
                errors.add(&path, format!("value must be {word}"));
                let rule = "failed conditional validation given value of field 'name'";
                errors.put(&["metrics", &place, "@entity"], json!([rule]));
            }
        }
    }

    fn compile(self, instance: &Instance) -> Result<StatsdFilter, FieldErrors> {
        let mut errors = FieldErrors::default();
        let mut statuses = Vec::new();
        for (place, text) in self.allow_status_codes.iter().flatten().enumerate() {
            if let Some(range) = range(text) {
                statuses.push(range);
            } else {
                let place = (place + 1).to_string();
                errors.add(
                    &["allow_status_codes", &place],
                    format!("invalid value: {text}"),
                );
            }
        }
        let given = self.metrics.as_deref().unwrap_or_default();
        for (place, metric) in given.iter().enumerate() {
            let place = (place + 1).to_string();
            let rate = metric.sample_rate.as_ref();
            check_rate(&place, metric.stat_type, rate, &mut errors);
            if rate.is_some_and(|rate| rate.value() <= 0.0) {
                let path = ["metrics", place.as_str(), "sample_rate"];
                errors.add(&path, "value must be greater than 0");
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let hostname = shared::machine::hostname().replace('.', "_");
        let prefix = if self.hostname_in_prefix && self.tag_style.is_none() {
            format!("{}.node.{hostname}", self.prefix)
        } else {
            self.prefix
        };
        let (host, port) = (self.host, self.port);
        Ok(StatsdFilter {
            sink: if self.use_tcp {
                Sink::Tcp {
                    host,
                    port,
                    tls: None,
                    timeout: TIMEOUT,
                    keepalive: Duration::from_mins(1),
                }
            } else {
                Sink::Udp {
                    host,
                    port,
                    timeout: TIMEOUT,
                }
            },
            packet: self.udp_packet_size,
            prefix,
            hostname,
            statuses: self.allow_status_codes.is_some().then_some(statuses),
            metrics: self
                .metrics
                .unwrap_or_default()
                .into_iter()
                .map(|metric| Compiled {
                    consumer: metric
                        .consumer_identifier
                        .unwrap_or(self.consumer_identifier_default),
                    service: metric
                        .service_identifier
                        .unwrap_or(self.service_identifier_default),
                    workspace: metric
                        .workspace_identifier
                        .unwrap_or(self.workspace_identifier_default),
                    metric,
                })
                .collect(),
            style: self.tag_style,
            outbox: Outbox::new(instance.id, self.old_queue.over(self.queue)),
        })
    }
}

/// The statuses that `100-299` stands for.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(first) || !digits(last) {
        return None;
    }
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// Sends figures.
#[derive(Debug)]
pub struct StatsdFilter {
    sink: Sink,
    /// Most bytes of a datagram; 0: one figure each.
    packet: usize,
    prefix: String,
    hostname: String,
    /// Statuses of the exchanges that count; all if absent.
    statuses: Option<Vec<RangeInclusive<u16>>>,
    metrics: Vec<Compiled>,
    style: Option<Style>,
    outbox: Outbox,
}

/// A metric, and how it calls what it is of.
#[derive(Debug)]
struct Compiled {
    metric: Metric,
    consumer: ConsumerIdentifier,
    service: ServiceIdentifier,
    workspace: WorkspaceIdentifier,
}

impl Filter for StatsdFilter {
    fn phases(&self) -> Phases {
        Phases::LOG
    }

    fn on_log(&self, over: Over<'_>, host: &impl Host) {
        let figures = Figures::of(over);
        let ranges = self.statuses.as_ref();
        let counts =
            |status| ranges.is_none_or(|ranges| ranges.iter().any(|range| range.contains(&status)));
        if !figures.status.is_none_or(counts) {
            return;
        }
        let lines = self.metrics.iter();
        let lines: Vec<String> = lines
            .filter_map(|metric| self.line(metric, &figures))
            .collect();
        send(host, &self.outbox, &self.sink, &lines, self.packet);
    }
}

impl StatsdFilter {
    /// What `metric` says of `log`; nothing if there is no such figure.
    fn line(&self, metric: &Compiled, log: &Figures<'_>) -> Option<String> {
        let Compiled {
            metric: told,
            consumer,
            ..
        } = metric;
        let consumer = || {
            let known = log.consumer?;
            consumer.name(known).map(|name| plain(&name))
        };
        let basic = |figure: Figure| {
            let (name, value) = figure.of(log)?;
            Some((name.to_owned(), value))
        };
        let (name, value) = match told.name {
            MetricName::RequestCount => basic(Figure::RequestCount)?,
            MetricName::RequestSize => basic(Figure::RequestSize)?,
            MetricName::ResponseSize => basic(Figure::ResponseSize)?,
            MetricName::Latency => basic(Figure::Latency)?,
            MetricName::UpstreamLatency => basic(Figure::UpstreamLatency)?,
            MetricName::KongLatency => basic(Figure::KongLatency)?,
            // The rest is told by its name, which tags would tell again.
            _ if self.style.is_some() => return None,
            MetricName::StatusCount => (format!("status.{}", log.status?), 1),
            MetricName::UniqueUsers => {
                let stat = format!("{}.user.uniques", scope(metric, log.matched));
                let user = consumer()?;
                return Some(line(&self.prefix, &stat, &user, StatType::Set, None, None));
            }
            MetricName::RequestPerUser => (format!("user.{}.request.count", consumer()?), 1),
            MetricName::StatusCountPerUser => {
                (format!("user.{}.status.{}", consumer()?, log.status?), 1)
            }
            MetricName::StatusCountPerWorkspace => {
                let workspace = workspace(metric, log.matched)?;
                (format!("workspace.{workspace}.status.{}", log.status?), 1)
            }
            MetricName::StatusCountPerUserPerRoute => {
                let (user, route) = (consumer()?, log.matched?.route.id);
                let stat = format!("route.{route}.user.{user}.status.{}", log.status?);
                let (kind, rate) = (StatType::Counter, told.sample_rate.as_ref());
                return Some(line(&self.prefix, &stat, "1", kind, rate, None));
            }
            // There is no such memory here.
            MetricName::ShdictUsage
            | MetricName::CacheDatastoreHitsTotal
            | MetricName::CacheDatastoreMissesTotal => return None,
        };
        let kind = match told.name {
            MetricName::StatusCount
            | MetricName::RequestPerUser
            | MetricName::StatusCountPerUser
            | MetricName::StatusCountPerWorkspace => StatType::Counter,
            _ => told.stat_type,
        };
        let rate = told.sample_rate.as_ref();
        let value = value.to_string();
        Some(match self.style {
            None => {
                let stat = format!("{}.{name}", scope(metric, log.matched));
                line(&self.prefix, &stat, &value, kind, rate, None)
            }
            Some(style) => {
                let tags = self.tags(metric, log, consumer());
                let tags = tags.as_ref().map(|tags| (style, tags));
                line(&self.prefix, &name, &value, kind, rate, tags)
            }
        })
    }

    /// What `log` is of, as tags; none without a service.
    fn tags(&self, metric: &Compiled, log: &Figures<'_>, consumer: Option<String>) -> Option<Tags> {
        let matched = log.matched?;
        let mut tags = vec![("service", plain(&service(metric, matched)?))];
        tags.push(("route", plain(&matched.route.shown())));
        tags.extend(workspace(metric, log.matched).map(|name| ("workspace", name)));
        tags.extend(consumer.map(|name| ("consumer", name)));
        tags.push(("node", self.hostname.clone()));
        tags.extend(log.status.map(|status| ("status", status.to_string())));
        Some(tags)
    }
}

/// Where a figure is filed: under its service, if there is one.
fn scope(metric: &Compiled, matched: Option<&Matched>) -> String {
    let Some(matched) = matched.filter(|matched| matched.service.is_some()) else {
        return "global.unmatched".to_owned();
    };
    let name = service(metric, matched);
    let name = name.map_or_else(|| "unnamed".to_owned(), |name| plain(&name));
    format!("service.{}", name.replace('.', "_"))
}

fn service(metric: &Compiled, matched: &Matched) -> Option<String> {
    let Named { id, name } = matched.service.as_ref()?;
    let host = || service_host(matched);
    match metric.service {
        ServiceIdentifier::ServiceId => Some(id.to_string()),
        ServiceIdentifier::ServiceName => name.clone(),
        ServiceIdentifier::ServiceHost => host(),
        ServiceIdentifier::ServiceNameOrHost => name.clone().or_else(host),
    }
}

fn workspace(metric: &Compiled, matched: Option<&Matched>) -> Option<String> {
    let workspace = &matched?.records.as_ref()?.workspace;
    Some(match metric.workspace {
        WorkspaceIdentifier::WorkspaceName => plain(&workspace.name),
        WorkspaceIdentifier::WorkspaceId => workspace.id.to_string(),
    })
}
