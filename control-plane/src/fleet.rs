//! What the control plane knows of its data planes: who is connected, what each runs, what it refused.

mod clocks;
mod elsewhere;
mod kept;
mod member;
mod orders;
mod progress;
mod room;
mod row;
mod targets;
#[cfg(test)]
pub(crate) mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::v1::fault::Code;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::clock::UnixTime;
use shared::snapshot::{Hash, Position, Revision};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::snapshot::Missing;
use clocks::on_the_wall;
pub(crate) use clocks::{by_another_clock, steady};
use elsewhere::Elsewhere;
pub(crate) use kept::{Had, Kept, Process, generation_told, had, is_generation};
pub(crate) use member::Membership;
pub(crate) use orders::Order;
use orders::Stream;
pub(crate) use progress::Progress;
pub(crate) use room::Full;
pub(crate) use row::{Figures, Standing};
pub(crate) use targets::{Address, Targets};
#[cfg(test)]
pub(crate) use view::Refused;
use view::Samples;
pub(crate) use view::{Sample, View};

/// How long a node that is gone stays on the list, unless a setting says so.
const PURGE_DELAY: Duration = Duration::from_hours(14 * 24);

/// From the first name on, all there are.
const ALL: (&str, usize) = ("", usize::MAX);

/// Every data plane that has been seen since this process started, here or by the control planes over the same
/// store.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    nodes: Arc<Mutex<Nodes>>,
    /// Told when a node has come, gone, or says something.
    changed: Arc<watch::Sender<()>>,
    /// Told when there is something that is not to be lost: a node has come that was not known, here or elsewhere, or has
    /// refused something.
    news: Arc<Notify>,
}

/// What a node says of itself when it connects.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Introduction {
    /// Its name, as its certificate says.
    pub name: String,
    /// The group whose certificate it shares with others; none if it has its own.
    pub group: Option<String>,
    /// The version of its program.
    pub version: String,
    /// The name of its machine.
    pub hostname: String,
    /// Where the connection comes from.
    pub ip: Option<IpAddr>,
    /// Its operator's labels.
    pub labels: BTreeMap<String, String>,
    /// When its certificate ends.
    pub certificate_expires_at: Option<UnixTime>,
    /// Differs after a restart.
    pub boot: String,
    /// What it runs.
    pub running: Position,
    /// What it knows: see `proto::features`. Empty: it does not tell.
    pub features: BTreeSet<String>,
    /// What it will not run again, since it crashed with it.
    pub quarantined: Vec<Position>,
    /// How often it started after a crash.
    pub crash_restarts: u32,
    /// Whether a newer process of the node serves, and this one only ends its last exchanges.
    #[serde(skip)]
    pub handed_over: bool,
}

/// How a node does.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Report {
    /// What it runs.
    pub running: Position,
    /// Its clock.
    pub clock: UnixTime,
    /// Whether what it runs is also on its disk.
    pub persisted: bool,
    /// Whether it lets its last exchanges end.
    pub draining: bool,
    /// Requests that it has answered since its start.
    pub requests: u64,
    /// Of these, those that failed by its own fault.
    pub failed: u64,
    /// Of these, those whose clients went away before an answer.
    #[serde(default)]
    pub left: Option<u64>,
    /// Connections that are open.
    pub connections: u32,
    /// Memory of the process.
    pub resident_bytes: u64,
    /// How often it started after a crash.
    pub crash_restarts: u32,
    /// What the slowest of a hundred requests took since the report before, in microseconds.
    pub p99_us: u32,
    /// What runs out when.
    pub expiries: Vec<(String, UnixTime)>,
    /// What it tells of upstreams' targets: much, of which rows that are passed on have no copy.
    #[serde(flatten)]
    pub targets: Arc<Targets>,
    /// Records that it does without, since it cannot run them.
    #[serde(default)]
    pub unfit: Vec<Fault>,
    /// What it will not run again by now. None of a node of an earlier version, and once its row says so.
    #[serde(skip)]
    pub quarantined: Option<Vec<Position>>,
}

/// One reason why a node refused a snapshot.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Fault {
    /// The kind of reason, such as `INVALID`.
    pub code: String,
    /// The record's collection, if it is about a record.
    pub entity_type: String,
    /// The record's id.
    pub entity_id: String,
    /// The field, with dots between levels.
    pub field: String,
    /// What is wrong, without secrets.
    pub message: String,
}

impl Fault {
    /// Whether nobody that the node believes vouched for the snapshot: another signature may be believed.
    pub fn is_of_signature(&self) -> bool {
        self.code == Code::BadSignature.as_str_name()
    }

    /// Whether the node has crashed with it: it may have released it since.
    pub fn is_of_quarantine(&self) -> bool {
        self.code == Code::Quarantined.as_str_name()
    }

    /// Whether the node had no time for it then: it may have some later.
    pub fn is_of_time(&self) -> bool {
        self.code == Code::Timeout.as_str_name()
    }
}

/// What a node is not sent, since it has refused it or crashed with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shunned {
    /// Which state.
    pub position: Position,
    /// The hash that proves what was configured there, where that is known: the node is not sent it with other keys or
    /// revocations either.
    pub configuration: Option<Hash>,
}

impl From<Position> for Shunned {
    fn from(position: Position) -> Self {
        Self {
            position,
            configuration: None,
        }
    }
}

/// A snapshot that a node refused.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Refusal {
    /// Which one.
    pub position: Position,
    /// The hash that proves what was configured there, where that is known.
    #[serde(default)]
    pub configuration: Option<Hash>,
    /// When.
    pub at: UnixTime,
    /// Why.
    pub faults: Vec<Fault>,
}

/// What is known of a node; what other control planes are told of those that are connected here.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Row {
    introduction: Introduction,
    running: Position,
    /// Since when it runs that.
    running_since: UnixTime,
    last_seen: UnixTime,
    /// For how long of the time since then no control plane was there to hear it.
    #[serde(default)]
    unheard: Duration,
    report: Report,
    /// How often what it tells of targets has changed.
    #[serde(skip)]
    turns: u64,
    /// What it reported lately.
    samples: Samples,
    /// How far its clock is ahead of ours, in milliseconds; none before its first report.
    clock_offset: Option<i64>,
    last_refusal: Option<Refusal>,
    /// Whether it has refused two snapshots in a row for the same reason.
    stuck: bool,
    /// What it would have to know to run the newest.
    missing: Vec<Missing>,
    /// Whether it has a stream.
    connected: bool,
    /// The run of it that had the stream before.
    #[serde(default)]
    before: Option<Run>,
    /// Since when its stream is there, or was. Control planes of earlier versions do not tell.
    #[serde(default)]
    connected_since: Option<UnixTime>,
    /// Whether two runs take turns, or are led side by side: two processes with one certificate.
    #[serde(default)]
    contested: bool,
    /// The revision up to which it has been told of revocations, beside an update that is not done.
    #[serde(default)]
    revoked: Revision,
    /// How many of its runs began after a crash. A run says of itself alone that it did.
    #[serde(default)]
    crashes: u32,
    /// When the control plane that it is connected to last vouched for this; none where that is this one.
    #[serde(skip)]
    told_at: Option<UnixTime>,
}

/// One run of a node's process.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Run {
    boot: String,
    ip: Option<IpAddr>,
    /// How often in a row the one that has the stream now and this one have taken it back from each other.
    #[serde(default)]
    returns: u32,
}

/// A node that is connected here, or was.
#[derive(Debug)]
struct Node {
    row: Row,
    /// The stream that speaks for the node; none while it is away.
    stream: Option<Stream>,
    streams: u64,
}

/// Every node that is known.
#[derive(Debug, Default)]
struct Nodes {
    here: BTreeMap<String, Node>,
    elsewhere: Elsewhere,
    /// The streams of processes that have a successor. Dropping one ends its task.
    leaving: room::Leaving,
    /// Who is on its way back after a restart.
    awaited: kept::Awaited,
    /// How long a node that is gone stays on the list; none: as usual.
    purge_delay: Option<Duration>,
}

impl Nodes {
    fn purge_delay(&self) -> Duration {
        self.purge_delay.unwrap_or(PURGE_DELAY)
    }

    /// Each node once, by name: as the control plane knows it that it is connected to, or was last.
    fn rows(&self) -> Vec<&Row> {
        let here = self.here.values().map(|node| &node.row);
        if self.elsewhere.is_empty() {
            return here.collect();
        }
        let mut rows: BTreeMap<&str, &Row> = BTreeMap::new();
        for row in here.chain(self.elsewhere.rows()) {
            let known = rows.entry(&row.introduction.name).or_insert(row);
            let rank = |row: &Row| (row.connected, row.last_seen);
            if rank(row) > rank(known) {
                *known = row;
            }
        }
        rows.into_values().collect()
    }
}

/// The number of a stream that speaks for no node.
const LEAVING: u64 = 0;

impl Fleet {
    /// The same, where a node that is gone stays on the list for so long.
    #[must_use]
    pub fn purging_after(self, delay: Duration) -> Self {
        self.nodes().purge_delay = Some(delay);
        self
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a node in, in the place of an older stream of the same node. Also returns what the node is
    /// not to be sent: what this run of it has refused, and what it has crashed with.
    ///
    /// # Errors
    ///
    /// If there are more nodes than any cluster has, or more of one certificate.
    pub fn join(
        &self,
        introduction: Introduction,
        now: UnixTime,
    ) -> Result<(Membership, Vec<Shunned>), Full> {
        let (orders, receiver) = orders::channel();
        let name = introduction.name.clone();
        let running = introduction.running;
        let quarantined = introduction.quarantined.iter().copied();
        let mut shunned: Vec<Shunned> = quarantined.map(Shunned::from).collect();
        let mut nodes = self.nodes();
        if introduction.handed_over {
            // It is led like its node, and counts for nothing: its successor speaks for the node.
            nodes.leaving.insert(&introduction, orders)?;
            nodes.awaited.is_back(&introduction);
            let membership = Membership::new(self, &introduction, LEAVING, receiver);
            return Ok((membership, shunned));
        }
        room::make(&mut nodes.here, &introduction)?;
        // One that is turned away is still awaited.
        nodes.awaited.is_back(&introduction);
        let mut before = nodes.here.remove(&name);
        let superseded = before.as_mut().and_then(|node| node.stream.take());
        let streams = before.as_ref().map_or(0, |node| node.streams) + 1;
        // A node that comes from another control plane is known from there.
        let before = before.map(|node| node.row);
        let mut before = nodes.elsewhere.newer_than(before, &name);
        shunned.extend(before.as_mut().and_then(|row| row.shuns(&introduction)));
        let same_run = before
            .as_ref()
            .is_some_and(|row| row.introduction.boot == introduction.boot);
        let running_since = before
            .as_ref()
            .filter(|row| row.running == running)
            .map_or(now, |row| row.running_since);
        let stuck = same_run && before.as_ref().is_some_and(|row| row.stuck);
        // A run says so for as long as it lives, also as it comes back after another one.
        let run_before = before.as_ref().and_then(|row| row.before.as_ref());
        let returns = run_before.is_some_and(|run| run.boot == introduction.boot);
        let after_crash = !same_run && !returns && introduction.crash_restarts > 0;
        let crashes = before.as_ref().map_or(0, |row| row.crashes) + u32::from(after_crash);
        let (run_before, mut contested) = member::turns(before.as_ref(), &introduction);
        // That one of two comes anew ends nothing.
        contested |= before.as_ref().is_some_and(|row| row.contested)
            && nodes.elsewhere.has_another_run(&introduction);
        let known = before.is_some();
        let (last_refusal, mut samples) = before
            .map(|row| (row.last_refusal, row.samples))
            .unwrap_or_default();
        if !known {
            self.news.notify_one();
        } else if !same_run {
            samples.restart();
        }
        let membership = Membership::new(self, &introduction, streams, receiver);
        let report = Report {
            running,
            crash_restarts: introduction.crash_restarts,
            ..Report::default()
        };
        let row = Row {
            introduction,
            running,
            running_since,
            last_seen: now,
            unheard: Duration::ZERO,
            report,
            turns: 0,
            samples,
            clock_offset: None,
            last_refusal,
            stuck,
            missing: Vec::new(),
            connected: true,
            before: run_before,
            connected_since: Some(now),
            contested,
            revoked: Revision::default(),
            crashes,
            told_at: None,
        };
        let mut stream = Stream::new(streams, orders);
        if superseded.is_some_and(|superseded| superseded.is_ordered()) && !shunned.is_empty() {
            // It went under with the stream before, or comes from a process whose answer nobody waits for.
            stream.order();
        }
        let node = Node {
            row,
            stream: Some(stream),
            streams,
        };
        nodes.here.insert(name, node);
        Ok((membership, shunned))
    }

    /// So many nodes from a name on, in the order of their names, as Kong's `GET /clustering/data-planes` shows them; further
    /// fields are ours. `target` says where a node is led.
    pub fn list_from(
        &self,
        nodes: (&str, usize),
        target: impl Fn(&Introduction) -> Position,
        now: UnixTime,
    ) -> Vec<Value> {
        let delay = self.nodes().purge_delay();
        self.each(nodes, target, now, |row, target| {
            row.show(target, now, delay)
        })
    }

    /// Every node.
    #[cfg(test)]
    pub fn list(&self, target: impl Fn(&Introduction) -> Position, now: UnixTime) -> Vec<Value> {
        self.list_from(ALL, target, now)
    }

    /// Every node, as monitoring counts it: without those that have left in order, which nobody waits for.
    pub fn figures(
        &self,
        target: impl Fn(&Introduction) -> Position,
        now: UnixTime,
    ) -> Vec<Figures> {
        let figures = self.each(ALL, target, now, |row, target| {
            let has_left = !row.connected && row.report.draining;
            (!has_left).then(|| row.figures(target))
        });
        figures.into_iter().flatten().collect()
    }

    /// What `tell` makes of so many nodes from the name `from` on that have not been gone for long, and of where each is led.
    fn each<T>(
        &self,
        (from, most): (&str, usize),
        target: impl Fn(&Introduction) -> Position,
        now: UnixTime,
        tell: impl Fn(&Row, &Position) -> T,
    ) -> Vec<T> {
        let mut nodes = self.nodes();
        let delay = nodes.purge_delay();
        let silence = |row: &Row| now.saturating_since(on_the_wall(row.last_seen));
        let stays = |row: &Row| row.connected || silence(row) < delay;
        nodes.here.retain(|_, node| stays(&node.row));
        nodes.elsewhere.retain(stays);
        let rows = nodes.rows();
        rows.iter()
            .filter(|row| *row.introduction.name >= *from)
            .take(most)
            .map(|row| tell(row, &target(&row.introduction)))
            .collect()
    }

    /// Tells when [`Self::progress_of`] may have changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What the connected nodes tell of the targets that are `wanted`.
    pub fn targets(&self, wanted: &HashSet<Uuid>) -> Targets {
        let nodes = self.nodes();
        let connected = nodes.rows().into_iter().filter(|row| row.connected);
        let told = connected.map(|row| &*row.report.targets);
        let told = told.chain(nodes.elsewhere.targets());
        Targets::together(told, Some(wanted))
    }

    /// Kong's deprecated `GET /clustering/status`.
    pub fn status(&self) -> Value {
        let nodes = self.nodes();
        let shown = nodes.rows().into_iter().map(|row| {
            let status = json!({
                "config_hash": row.config_hash(),
                "hostname": row.introduction.hostname,
                "ip": row.introduction.ip,
                "last_seen": on_the_wall(row.last_seen).as_secs(),
            });
            (row.id().to_string(), status)
        });
        Value::Object(shown.collect())
    }
}

impl Row {
    fn moves(&mut self, position: Position, now: UnixTime) {
        if !self.is_at(&position) {
            self.running_since = now;
            if let Some(refusal) = &mut self.last_refusal {
                refusal.outgrown();
            }
        }
        if self.running.generation != position.generation {
            // Revisions of one generation say nothing of another's.
            self.revoked = Revision::default();
            self.samples.clear();
        }
        if self.running != position {
            self.running = position;
            self.report.persisted = false;
        }
    }
}
