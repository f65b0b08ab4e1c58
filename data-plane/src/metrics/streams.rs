//! The figures of byte streams, under Kong's names.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::HashMap;
use http::StatusCode;
use plugins::filter::Counts;
use uuid::Uuid;

use super::{Histogram, Labels, OTHER_BOUNDS, escape, family, histogram, shown};

/// The figures of one core's streams, by route.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<HashMap<Uuid, Series>>);

/// One stream that is over.
#[derive(Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) route: (Uuid, &'a Arc<Labels>),
    /// What of it is counted.
    pub(crate) counts: Counts,
    pub(crate) status: StatusCode,
    /// Whether a server was reached.
    pub(crate) connected: bool,
    /// Bytes from and to the client.
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// Milliseconds.
    pub(crate) session: u64,
}

/// The figures of one route.
#[derive(Clone, Debug, Default)]
struct Series {
    labels: Arc<Labels>,
    /// Sessions by how they ended, and whether a server was reached.
    sessions: Vec<(StatusCode, bool, u64)>,
    /// Bytes, once any are counted.
    bytes: Option<(u64, u64)>,
    duration: Histogram<13>,
}

impl Series {
    fn count(&mut self, status: StatusCode, connected: bool, count: u64) {
        let known = self.sessions.iter_mut();
        let mut known = known.filter(|(one, reached, _)| (*one, *reached) == (status, connected));
        match known.next() {
            Some((.., total)) => *total += count,
            None => self.sessions.push((status, connected, count)),
        }
    }

    fn carry(&mut self, received: u64, sent: u64) {
        let (before_received, before_sent) = self.bytes.unwrap_or_default();
        self.bytes = Some((before_received + received, before_sent + sent));
    }

    fn add(&mut self, other: &Self) {
        for (status, connected, count) in &other.sessions {
            self.count(*status, *connected, *count);
        }
        if let Some((received, sent)) = other.bytes {
            self.carry(received, sent);
        }
        self.duration.add(&other.duration);
    }
}

impl Streams {
    /// Forgets the figures of routes that are `gone`; answers which routes there were.
    pub(super) fn forget(&self, gone: &dyn Fn(&Uuid) -> bool) -> Vec<Uuid> {
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ids = routes.keys().copied().collect();
        routes.retain(|id, _| !gone(id));
        ids
    }

    /// Counts a stream.
    pub(crate) fn observe(&self, ended: &Ended<'_>) {
        let (id, labels) = ended.route;
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let series = routes.entry(id).or_default();
        if !Arc::ptr_eq(&series.labels, labels) {
            series.labels = Arc::clone(labels);
        }
        if ended.counts.statuses {
            series.count(ended.status, ended.connected, 1);
        }
        if ended.counts.bandwidth {
            series.carry(ended.received, ended.sent);
        }
        if ended.counts.latencies {
            series.duration.observe(&OTHER_BOUNDS, ended.session);
        }
    }
}

/// The figures of all cores' streams together.
#[derive(Debug, Default)]
pub(super) struct Sum(Vec<Series>);

impl Sum {
    /// Adds up what `cores` have counted.
    pub(super) fn of<'a>(cores: impl Iterator<Item = &'a Streams>) -> Self {
        let mut routes: HashMap<Uuid, Series> = HashMap::default();
        for core in cores {
            let counted = core.0.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, series) in counted.iter() {
                match routes.get_mut(id) {
                    Some(known) => known.add(series),
                    None => _ = routes.insert(*id, series.clone()),
                }
            }
        }
        let mut series: Vec<Series> = routes.into_values().collect();
        series.sort_by(|a, b| a.labels.cmp(&b.labels));
        series.dedup_by(|next, kept| {
            let same = next.labels == kept.labels;
            if same {
                kept.add(next);
            }
            same
        });
        Self(series)
    }

    /// Bytes from and to the clients of each route of which they are counted.
    pub(super) fn bandwidth(&self) -> impl Iterator<Item = (&Labels, (u64, u64))> {
        let series = self.0.iter();
        series.filter_map(|series| Some((&*series.labels, series.bytes?)))
    }

    /// Adds what streams alone have.
    pub(super) fn render(&self, text: &mut String, asked: Counts) {
        if asked.statuses {
            self.render_sessions(text);
        }
        if asked.latencies {
            self.render_durations(text);
        }
    }

    fn render_sessions(&self, text: &mut String) {
        let name = "kong_stream_sessions_total";
        let mut lines = String::new();
        for series in &self.0 {
            let labels = shown(&series.labels);
            let workspace = escape(&series.labels.workspace);
            for (status, connected, count) in &series.sessions {
                let code = status.as_u16();
                let source = if *connected { "service" } else { "kong" };
                let _ = writeln!(
                    lines,
                    "{name}{{{labels},code=\"{code}\",source=\"{source}\",workspace=\"{workspace}\"}} {count}"
                );
            }
        }
        let help = "Stream status codes per service/route in Kong";
        family(text, name, "counter", help, &lines);
    }

    fn render_durations(&self, text: &mut String) {
        let name = "kong_session_duration_ms";
        let mut lines = String::new();
        for series in &self.0 {
            let labels = &series.labels;
            histogram(&mut lines, name, labels, &OTHER_BOUNDS, &series.duration);
        }
        let help = "latency in stream session in ms for each service/route in Kong";
        family(text, name, "histogram", help, &lines);
    }
}
