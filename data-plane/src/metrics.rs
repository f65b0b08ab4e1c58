//! What operators watch, under the names of Kong 3.9's Prometheus plugin.
//!
//! Each core counts for itself, behind a lock that it shares with nobody but a scrape; the cores'
//! figures are added up when they are asked for.

mod figures;
mod gone;
mod histogram;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::HashMap;
use http::StatusCode;
use plugins::exchange::{Source, Workspace};
use plugins::filter::Counts;
use uuid::Uuid;

pub(crate) use self::figures::Figures;
pub(crate) use self::gone::forget;
use self::histogram::{GATEWAY_BOUNDS, Histogram, OTHER_BOUNDS, histogram};
pub(crate) use self::streams::Ended;
use self::streams::Streams;
use crate::pipeline::CLIENT_LEFT;

/// What a route's figures are shown under.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Labels {
    /// Name of the service, else its host.
    pub(crate) service: String,
    /// Name of the route, else its id.
    pub(crate) route: String,
    /// Name of the workspace that the route is in.
    pub(crate) workspace: Arc<str>,
}

impl Default for Labels {
    /// Those of requests that match no route.
    fn default() -> Self {
        Self {
            service: String::new(),
            route: String::new(),
            workspace: Workspace::default().name,
        }
    }
}

/// How long a client waits before it counts as one that gave up, in milliseconds: whoever hangs up at once says nothing of
/// how the gateway does.
const PATIENCE: u64 = 1_000;

/// One exchange that is over.
#[derive(Debug)]
pub(crate) struct Observation<'a> {
    pub(crate) route: Option<(Uuid, &'a Arc<Labels>)>,
    /// What of it is counted.
    pub(crate) counts: Counts,
    /// Name of the consumer, else its id.
    pub(crate) consumer: Option<&'a str>,
    pub(crate) status: StatusCode,
    pub(crate) source: Source,
    /// Bytes of heads and bodies.
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Milliseconds.
    pub(crate) proxy_latency: u64,
    pub(crate) upstream_latency: Option<u64>,
    pub(crate) total_latency: u64,
    /// Whether more of the request was waited for.
    pub(crate) lacks: bool,
}

/// The figures of one core: nothing of them is in a cache line with another core's.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Metrics {
    routes: Mutex<HashMap<Uuid, Series>>,
    pub(crate) streams: Streams,
    /// Connections taken so far, and those open now.
    pub(crate) accepted: AtomicU64,
    pub(crate) open: AtomicU64,
    /// Connections that were closed as they came.
    pub(crate) refused: AtomicU64,
    /// Requests whose heads are here in part.
    pub(crate) reading: AtomicU64,
    /// Exchanges that have begun.
    begun: AtomicU64,
    /// Answers of 5xx that are the gateway's own.
    failed: AtomicU64,
    /// Requests whose clients went away after they had waited for [`PATIENCE`], and nothing of them was waited for.
    left: AtomicU64,
}

/// The figures of one route.
#[derive(Clone, Debug, Default)]
struct Series {
    labels: Arc<Labels>,
    /// All exchanges, also those of which nothing else is counted.
    requests: u64,
    /// Of everybody, or of those who are no consumer.
    volume: Volume,
    /// Of each consumer, where consumers are told apart.
    consumers: HashMap<Box<str>, Volume>,
    proxy: Histogram<17>,
    upstream: Histogram<13>,
    total: Histogram<13>,
    /// How long exchanges took of which operators are not told that.
    untold: Histogram<13>,
}

/// How much of what there was.
#[derive(Clone, Debug, Default)]
struct Volume {
    /// A route sees few different answers.
    answers: Vec<(StatusCode, Source, u64)>,
    /// Bytes, once any are counted.
    bytes: Option<(u64, u64)>,
}

impl Volume {
    fn count(&mut self, status: StatusCode, source: Source, count: u64) {
        match self
            .answers
            .iter_mut()
            .find(|(known, from, _)| (*known, *from) == (status, source))
        {
            Some((.., total)) => *total += count,
            None => self.answers.push((status, source, count)),
        }
    }

    /// The answers by status and who made them, as far as operators are told that.
    fn by_source(&self) -> BTreeMap<(u16, &'static str), u64> {
        let mut answers = BTreeMap::new();
        for (status, source, count) in &self.answers {
            *answers
                .entry((status.as_u16(), source.as_str()))
                .or_default() += count;
        }
        answers
    }

    fn carry(&mut self, received: u64, sent: u64) {
        let (before_received, before_sent) = self.bytes.unwrap_or_default();
        self.bytes = Some((before_received + received, before_sent + sent));
    }

    fn add(&mut self, other: &Self) {
        for (status, source, count) in &other.answers {
            self.count(*status, *source, *count);
        }
        if let Some((received, sent)) = other.bytes {
            self.carry(received, sent);
        }
    }
}

impl Series {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.volume.add(&other.volume);
        for (consumer, volume) in &other.consumers {
            self.consumers
                .entry(consumer.clone())
                .or_default()
                .add(volume);
        }
        self.proxy.add(&other.proxy);
        self.upstream.add(&other.upstream);
        self.total.add(&other.total);
        self.untold.add(&other.untold);
    }
}

impl Metrics {
    /// Counts an exchange that begins; nobody but the core's own thread does.
    pub(crate) fn begin(&self) {
        let begun = self.begun.load(Ordering::Relaxed);
        self.begun.store(begun + 1, Ordering::Relaxed);
    }

    /// Counts an exchange that is over; nobody but the core's own thread does.
    pub(crate) fn observe(&self, seen: &Observation<'_>) {
        let counter = if seen.status == CLIENT_LEFT {
            Some(&self.left).filter(|_| seen.total_latency >= PATIENCE && !seen.lacks)
        } else {
            let is_failure = seen.status.is_server_error() && seen.source == Source::Error;
            Some(&self.failed).filter(|_| is_failure)
        };
        if let Some(counter) = counter {
            counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        let id = seen.route.map_or(Uuid::nil(), |(id, _)| id);
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let series = routes.entry(id).or_default();
        if let Some((_, labels)) = seen.route
            && !Arc::ptr_eq(&series.labels, labels)
        {
            series.labels = Arc::clone(labels);
        }
        series.requests += 1;
        let volume = match seen.consumer.filter(|_| seen.counts.consumers) {
            None => &mut series.volume,
            Some(consumer) => series.consumers.entry(consumer.into()).or_default(),
        };
        if seen.counts.statuses {
            volume.count(seen.status, seen.source, 1);
        }
        if seen.counts.bandwidth {
            volume.carry(seen.received, seen.sent);
        }
        if !seen.counts.latencies {
            series.untold.observe(&OTHER_BOUNDS, seen.total_latency);
            return;
        }
        series.proxy.observe(&GATEWAY_BOUNDS, seen.proxy_latency);
        if let Some(latency) = seen.upstream_latency {
            series.upstream.observe(&OTHER_BOUNDS, latency);
        }
        series.total.observe(&OTHER_BOUNDS, seen.total_latency);
    }
}

/// The figures of all cores together.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    series: Vec<Series>,
    /// Of routes that are gone: no longer shown, but counted.
    gone: Series,
    streams: streams::Sum,
    pub(crate) accepted: u64,
    pub(crate) open: u64,
    pub(crate) refused: u64,
    pub(crate) requests: u64,
    failed: u64,
    left: u64,
    pub(crate) reading: u64,
    /// Exchanges under way.
    pub(crate) writing: u64,
}

impl Sum {
    /// Adds up what `cores` have counted.
    pub(crate) fn of(cores: &[Arc<Metrics>]) -> Self {
        let mut sum = Self::default();
        let mut routes: HashMap<Uuid, Series> = HashMap::default();
        for core in cores {
            sum.accepted += core.accepted.load(Ordering::Relaxed);
            sum.open += core.open.load(Ordering::Relaxed);
            sum.refused += core.refused.load(Ordering::Relaxed);
            sum.reading += core.reading.load(Ordering::Relaxed);
            sum.failed += core.failed.load(Ordering::Relaxed);
            sum.left += core.left.load(Ordering::Relaxed);
            let counted = core.routes.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, series) in counted.iter() {
                match routes.get_mut(id) {
                    Some(known) => known.add(series),
                    None => _ = routes.insert(*id, series.clone()),
                }
            }
        }
        sum.gone = routes.remove(&gone::ALL).unwrap_or_default();
        sum.series = routes.into_values().collect();
        sum.series.sort_by(|a, b| a.labels.cmp(&b.labels));
        // A route that was made anew under its name goes on with the figures of the one before.
        sum.series.dedup_by(|next, kept| {
            let same = next.labels == kept.labels;
            if same {
                kept.add(next);
            }
            same
        });
        sum.streams = streams::Sum::of(cores.iter().map(|core| &core.streams));
        let series = sum.series.iter().chain([&sum.gone]);
        sum.requests = series.map(|series| series.requests).sum();
        let begun = cores.iter().map(|core| core.begun.load(Ordering::Relaxed));
        sum.writing = begun.sum::<u64>().saturating_sub(sum.requests);
        sum
    }

    /// Connections that wait for a request.
    pub(crate) const fn waiting(&self) -> u64 {
        self.open
            .saturating_sub(self.reading)
            .saturating_sub(self.writing)
    }

    /// The text exposition format, version 0.0.4, for the node with the id `node`: of its routes what is `asked` for.
    pub(crate) fn render(&self, node: &str, asked: Counts) -> String {
        // Writing to a string cannot fail, so its results are dropped.
        let (mut text, node) = (String::new(), escape(node));
        self.render_routes(&mut text, asked);
        let mut lines = String::new();
        for (state, count) in [
            ("accepted", self.accepted),
            ("active", self.open),
            ("handled", self.accepted.saturating_sub(self.refused)),
            ("reading", self.reading),
            ("total", self.requests),
            ("waiting", self.waiting()),
            ("writing", self.writing),
        ] {
            let _ = writeln!(
                lines,
                "kong_nginx_connections_total{{node_id=\"{node}\",subsystem=\"http\",state=\"{state}\"}} {count}"
            );
        }
        family(
            &mut text,
            "kong_nginx_connections_total",
            "gauge",
            "Number of connections by subsystem",
            &lines,
        );
        // Counting cannot fail here; whoever watches Kong looks whether it does.
        let errors = "kong_nginx_metric_errors_total";
        family(
            &mut text,
            errors,
            "counter",
            "Number of metrics that could not be counted",
            &format!("{errors} 0\n"),
        );
        let requests = "kong_nginx_requests_total";
        let count = self.requests;
        family(
            &mut text,
            requests,
            "gauge",
            "Total number of requests",
            &format!("{requests}{{node_id=\"{node}\",subsystem=\"http\"}} {count}\n"),
        );
        text
    }

    /// What is told of routes, and of exchanges without one.
    fn render_routes(&self, text: &mut String, asked: Counts) {
        if asked.statuses {
            self.render_statuses(text);
        }
        if asked.bandwidth {
            self.render_bandwidth(text);
        }
        if asked.latencies {
            self.render_latencies(text);
        }
        self.streams.render(text, asked);
    }

    fn render_statuses(&self, text: &mut String) {
        let mut lines = String::new();
        for (labels, consumer, volume) in self.volumes() {
            let (labels, workspace) = (shown(labels), escape(&labels.workspace));
            for ((code, source), count) in volume.by_source() {
                let _ = writeln!(
                    lines,
                    "kong_http_requests_total{{{labels},code=\"{code}\",source=\"{source}\",workspace=\"{workspace}\",consumer=\"{consumer}\"}} {count}"
                );
            }
        }
        family(
            text,
            "kong_http_requests_total",
            "counter",
            "HTTP status codes per consumer/service/route in Kong",
            &lines,
        );
    }

    fn render_bandwidth(&self, text: &mut String) {
        let mut lines = String::new();
        for ((labels, consumer), (received, sent)) in self.bandwidth() {
            let (labels, workspace) = (shown(labels), escape(&labels.workspace));
            for (direction, bytes) in [("ingress", received), ("egress", sent)] {
                let _ = writeln!(
                    lines,
                    "kong_bandwidth_bytes{{{labels},direction=\"{direction}\",workspace=\"{workspace}\",consumer=\"{consumer}\"}} {bytes}"
                );
            }
        }
        family(
            text,
            "kong_bandwidth_bytes",
            "counter",
            "Total bandwidth (ingress/egress) throughput in bytes",
            &lines,
        );
    }

    /// What each route's consumers have, with what it is shown under.
    fn volumes(&self) -> impl Iterator<Item = (&Labels, String, &Volume)> {
        self.series.iter().flat_map(|series| {
            let mut consumers: Vec<(&str, &Volume)> = vec![("", &series.volume)];
            let named = series.consumers.iter();
            consumers.extend(named.map(|(name, volume)| (&**name, volume)));
            consumers.sort_by_key(|(name, _)| *name);
            consumers
                .into_iter()
                .map(|(name, volume)| (&*series.labels, escape(name), volume))
        })
    }

    /// Bytes from and to clients by route and consumer, of requests and streams: a route that was one of HTTP and is one
    /// of streams goes on under its name.
    fn bandwidth(&self) -> BTreeMap<(&Labels, String), (u64, u64)> {
        let requests = self
            .volumes()
            .filter_map(|(labels, consumer, volume)| Some(((labels, consumer), volume.bytes?)));
        let streams = self.streams.bandwidth();
        let streams = streams.map(|(labels, bytes)| ((labels, String::new()), bytes));
        let mut all: BTreeMap<_, (u64, u64)> = BTreeMap::new();
        for (whose, (received, sent)) in requests.chain(streams) {
            let sum = all.entry(whose).or_default();
            *sum = (sum.0 + received, sum.1 + sent);
        }
        all
    }

    fn render_latencies(&self, text: &mut String) {
        type Other = (&'static str, &'static str, fn(&Series) -> &Histogram<13>);
        let name = "kong_kong_latency_ms";
        let mut lines = String::new();
        for series in &self.series {
            let labels = &series.labels;
            histogram(&mut lines, name, labels, &GATEWAY_BOUNDS, &series.proxy);
        }
        let help = "Latency added by Kong in ms for each service/route in Kong";
        family(text, name, "histogram", help, &lines);
        let others: [Other; 2] = [
            (
                "kong_upstream_latency_ms",
                "Latency added by upstream response in ms for each service/route in Kong",
                |series| &series.upstream,
            ),
            (
                "kong_request_latency_ms",
                "Total latency incurred during requests in ms for each service/route in Kong",
                |series| &series.total,
            ),
        ];
        for (name, help, of) in others {
            lines.clear();
            for series in &self.series {
                histogram(&mut lines, name, &series.labels, &OTHER_BOUNDS, of(series));
            }
            family(text, name, "histogram", help, &lines);
        }
    }
}

/// Adds the `lines` of a metric, with what it is. One without any is not mentioned, as in Kong.
pub(crate) fn family(text: &mut String, name: &str, kind: &str, help: &str, lines: &str) {
    if !lines.is_empty() {
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
    }
}

fn shown(labels: &Labels) -> String {
    format!(
        "service=\"{}\",route=\"{}\"",
        escape(&labels.service),
        escape(&labels.route)
    )
}

pub(crate) fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
