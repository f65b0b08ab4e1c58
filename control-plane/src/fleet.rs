//! What the control plane knows of its data planes: who is connected, what each runs, what it refused.

mod room;
mod row;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use shared::clock::UnixTime;
use shared::snapshot::{Position, Revision};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::snapshot::Missing;
pub use room::Full;
use view::Samples;
pub use view::{Refused, Sample, View};

/// How long a node that is gone stays on the list: Kong's `cluster_data_plane_purge_delay`.
const PURGE_DELAY: Duration = Duration::from_hours(14 * 24);

/// Faults of one refusal that are kept.
const FAULTS: usize = 20;

/// Orders that may wait for a stream.
const ORDERS: usize = 4;

/// What ends within this time is shown as expiring.
const EXPIRES_SOON: Duration = Duration::from_hours(30 * 24);

/// Every data plane that has been seen since this process started.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    nodes: Arc<Mutex<BTreeMap<String, Node>>>,
    /// Told when a node has come, gone, or says something.
    changed: Arc<watch::Sender<()>>,
}

/// What a node says of itself when it connects.
#[derive(Clone, Debug)]
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
    /// How often it started after a crash that followed a change.
    pub crash_restarts: u32,
}

/// How a node does.
#[derive(Clone, Debug, Default)]
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
    /// Connections that are open.
    pub connections: u32,
    /// Memory of the process.
    pub resident_bytes: u64,
    /// How often it started after a crash that followed a change.
    pub crash_restarts: u32,
    /// What the slowest of a hundred requests took since the report before, in microseconds.
    pub p99_us: u32,
    /// What runs out when.
    pub expiries: Vec<(String, UnixTime)>,
    /// Targets of upstreams that it sends no request to.
    pub unhealthy_targets: HashSet<Uuid>,
}

/// What an operator, or a newer stream, has to say to a node's stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// Send once more what the node has refused.
    Retry,
}

/// How far the connected nodes are with a revision, by name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// Those that serve it.
    pub serving: Vec<String>,
    /// Those that refused it.
    pub refused: Vec<String>,
    /// Those that have not answered yet.
    pub waiting: Vec<String>,
}

/// One reason why a node refused a snapshot.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize)]
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

/// A snapshot that a node refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Which one.
    pub position: Position,
    /// When.
    pub at: UnixTime,
    /// Why.
    pub faults: Vec<Fault>,
}

#[derive(Debug)]
struct Node {
    introduction: Introduction,
    running: Position,
    /// Since when it runs that.
    running_since: UnixTime,
    last_seen: UnixTime,
    report: Report,
    /// What it reported lately.
    samples: Samples,
    /// How far its clock is ahead of ours, in milliseconds; none before its first report.
    clock_offset: Option<i64>,
    last_refusal: Option<Refusal>,
    /// Whether it has refused two snapshots in a row for the same reason.
    stuck: bool,
    /// What it would have to know to run the newest.
    missing: Vec<Missing>,
    /// The stream that speaks for the node; none while it is away.
    stream: Option<Stream>,
    streams: u64,
}

/// Dropping it ends the stream's task.
#[derive(Debug)]
struct Stream {
    number: u64,
    orders: mpsc::Sender<Order>,
}

/// The right of one stream to speak for its node, until a newer stream of that node takes it.
#[derive(Debug)]
pub struct Membership {
    fleet: Fleet,
    name: String,
    number: u64,
    features: BTreeSet<String>,
    orders: mpsc::Receiver<Order>,
}

impl Fleet {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Node>> {
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
    ) -> Result<(Membership, Vec<Position>), Full> {
        let (orders, receiver) = mpsc::channel(ORDERS);
        let name = introduction.name.clone();
        let running = introduction.running;
        let mut nodes = self.nodes();
        room::make(&mut nodes, &introduction)?;
        let before = nodes.remove(&name);
        let streams = before.as_ref().map_or(0, |node| node.streams) + 1;
        let same_run = before
            .as_ref()
            .is_some_and(|node| node.introduction.boot == introduction.boot);
        let running_since = before
            .as_ref()
            .filter(|node| node.running == running)
            .map_or(now, |node| node.running_since);
        let stuck = same_run && before.as_ref().is_some_and(|node| node.stuck);
        let known = before.is_some();
        let (last_refusal, mut samples) = before
            .map(|node| (node.last_refusal, node.samples))
            .unwrap_or_default();
        if known && !same_run {
            samples.restart();
        }
        let mut refused = introduction.quarantined.clone();
        refused.extend(
            last_refusal
                .as_ref()
                .filter(|_| same_run)
                .map(|refusal| refusal.position),
        );
        let membership = Membership {
            fleet: self.clone(),
            name: name.clone(),
            number: streams,
            features: introduction.features.clone(),
            orders: receiver,
        };
        let report = Report {
            running,
            crash_restarts: introduction.crash_restarts,
            ..Report::default()
        };
        let node = Node {
            introduction,
            running,
            running_since,
            last_seen: now,
            report,
            samples,
            clock_offset: None,
            last_refusal,
            stuck,
            missing: Vec::new(),
            stream: Some(Stream {
                number: streams,
                orders,
            }),
            streams,
        };
        nodes.insert(name, node);
        Ok((membership, refused))
    }

    /// Has the node of this id or name sent once more what it refused. Whether it is connected.
    pub fn retry(&self, node: &str) -> bool {
        let mut nodes = self.nodes();
        let found = nodes.iter_mut().find(|(name, row)| {
            name.as_str() == node || Uuid::parse_str(node).is_ok_and(|id| id == row.id())
        });
        let Some((_, row)) = found else {
            return false;
        };
        row.stuck = false;
        let stream = row.stream.as_ref();
        stream.is_some_and(|stream| stream.orders.try_send(Order::Retry).is_ok())
    }

    /// Every node, as Kong's `GET /clustering/data-planes` shows it; further fields are ours. `target` says
    /// where a node is led.
    pub fn list(&self, target: impl Fn(&Introduction) -> Position, now: UnixTime) -> Vec<Value> {
        let mut nodes = self.nodes();
        nodes.retain(|_, node| {
            node.stream.is_some() || now.saturating_since(node.last_seen) < PURGE_DELAY
        });
        let rows = nodes.values();
        rows.map(|node| node.show(&target(&node.introduction), now))
            .collect()
    }

    /// Every node, as roll-outs judge it.
    pub fn views(&self) -> Vec<View> {
        let nodes = self.nodes();
        nodes.values().map(Node::view).collect()
    }

    /// Tells when [`Self::progress_of`] may have changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// How far the connected nodes are with `revision`, or one after it.
    pub fn progress_of(&self, revision: Revision) -> Progress {
        let mut progress = Progress::default();
        for (name, node) in self
            .nodes()
            .iter()
            .filter(|(_, node)| node.stream.is_some())
        {
            let refused = node
                .last_refusal
                .as_ref()
                .is_some_and(|refusal| refusal.position.revision >= revision);
            let list = if node.running.revision >= revision {
                &mut progress.serving
            } else if refused {
                &mut progress.refused
            } else {
                &mut progress.waiting
            };
            list.push(name.clone());
        }
        progress
    }

    /// Whether a node that has been heard within `window` does not run yet what it is led to.
    pub fn is_behind(
        &self,
        target: impl Fn(&Introduction) -> Position,
        window: Duration,
        now: UnixTime,
    ) -> bool {
        let nodes = self.nodes();
        let lives = |node: &&Node| now.saturating_since(node.last_seen) < window;
        let behind = |node: &Node| target(&node.introduction).is_after(&node.running);
        nodes.values().filter(lives).any(behind)
    }

    /// Targets of upstreams that some connected node sends no request to.
    pub fn unhealthy_targets(&self) -> HashSet<Uuid> {
        let nodes = self.nodes();
        let connected = nodes.values().filter(|node| node.stream.is_some());
        connected
            .flat_map(|node| node.report.unhealthy_targets.iter().copied())
            .collect()
    }

    /// Kong's deprecated `GET /clustering/status`.
    pub fn status(&self) -> Value {
        let nodes = self.nodes();
        let shown = nodes.values().map(|node| {
            let status = json!({
                "config_hash": node.config_hash(),
                "hostname": node.introduction.hostname,
                "ip": node.introduction.ip,
                "last_seen": node.last_seen.as_secs(),
            });
            (node.id().to_string(), status)
        });
        Value::Object(shown.collect())
    }
}

impl Node {
    fn moves(&mut self, position: Position, now: UnixTime) {
        if self.running != position {
            self.running = position;
            self.running_since = now;
            self.report.persisted = false;
        }
    }
}

impl Membership {
    /// Changes the node's row, unless a newer stream speaks for it.
    fn update(&self, now: UnixTime, change: impl FnOnce(&mut Node)) {
        let mut nodes = self.fleet.nodes();
        let Some(node) = nodes.get_mut(&self.name) else {
            return;
        };
        if node
            .stream
            .as_ref()
            .is_some_and(|stream| stream.number == self.number)
        {
            node.last_seen = now;
            change(node);
        }
        drop(nodes);
        self.fleet.changed.send_replace(());
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the node knows.
    pub const fn features(&self) -> &BTreeSet<String> {
        &self.features
    }

    /// The next order for the node's stream; `None` once a newer stream speaks for the node.
    pub async fn order(&mut self) -> Option<Order> {
        self.orders.recv().await
    }

    /// The node runs `position`.
    pub fn runs(&self, position: Position, now: UnixTime) {
        self.update(now, |node| {
            node.moves(position, now);
            node.stuck = false;
        });
    }

    /// The node refused a snapshot.
    pub fn refused(&self, position: Position, mut faults: Vec<Fault>, now: UnixTime) {
        faults.truncate(FAULTS);
        self.update(now, |node| {
            let before = node.last_refusal.as_ref();
            let again = before.is_some_and(|before| {
                let since_then = before.at >= node.running_since;
                since_then && before.position != position && before.faults == faults
            });
            node.stuck = again;
            node.last_refusal = Some(Refusal {
                position,
                at: now,
                faults,
            });
        });
    }

    /// What the node refused was how the snapshot came, not the snapshot.
    pub fn unrefused(&self, now: UnixTime) {
        self.update(now, |node| {
            node.last_refusal = None;
            node.stuck = false;
        });
    }

    /// The node would have to know `missing` to run the newest.
    pub fn lacks(&self, missing: Vec<Missing>) {
        let mut nodes = self.fleet.nodes();
        if let Some(node) = nodes.get_mut(&self.name)
            && node.missing != missing
        {
            if let Some(first) = missing.first() {
                tracing::warn!(
                    node = self.name,
                    feature = first.feature,
                    entity = first.record.map(|key| format!("{} {}", key.kind, key.id)),
                    "the node does not know what the newest configuration needs; it stays with what it runs"
                );
            }
            node.missing = missing;
        }
    }

    /// The node told how it does.
    pub fn reports(&self, report: Report, now: UnixTime) {
        self.update(now, |node| {
            node.moves(report.running, now);
            let millis = |time: UnixTime| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
            node.clock_offset = Some(millis(report.clock).saturating_sub(millis(now)));
            node.samples.take(&report, now);
            node.report = report;
        });
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut nodes = self.fleet.nodes();
        if let Some(node) = nodes.get_mut(&self.name)
            && node
                .stream
                .as_ref()
                .is_some_and(|stream| stream.number == self.number)
        {
            node.stream = None;
        }
        drop(nodes);
        self.fleet.changed.send_replace(());
    }
}
