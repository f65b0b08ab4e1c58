//! What the control plane knows of its data planes: who is connected, what each runs, what it refused.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use shared::clock::UnixTime;
use shared::snapshot::{Position, Revision, short_hash};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

/// How long a node that is gone stays on the list: Kong's `cluster_data_plane_purge_delay`.
const PURGE_DELAY: Duration = Duration::from_hours(14 * 24);

/// Faults of one refusal that are kept.
const FAULTS: usize = 20;

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
#[derive(Clone, Debug, serde::Serialize)]
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
    last_seen: UnixTime,
    draining: bool,
    /// Whether what it runs is also on its disk.
    persisted: bool,
    last_refusal: Option<Refusal>,
    /// The stream that speaks for the node; none while it is away.
    stream: Option<Stream>,
    streams: u64,
}

/// Dropping it ends the stream's task.
#[derive(Debug)]
struct Stream {
    number: u64,
    _superseded: oneshot::Sender<()>,
}

/// The right of one stream to speak for its node, until a newer stream of that node takes it.
#[derive(Debug)]
pub struct Membership {
    fleet: Fleet,
    name: String,
    number: u64,
}

impl Fleet {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a node in. The receiver ends when a newer stream of the same node takes over. Also returns
    /// what this run of the node has refused, which is not to be sent again.
    pub fn join(
        &self,
        introduction: Introduction,
        now: UnixTime,
    ) -> (Membership, oneshot::Receiver<()>, Option<Position>) {
        let (superseded, end) = oneshot::channel();
        let name = introduction.name.clone();
        let running = introduction.running;
        let mut nodes = self.nodes();
        let before = nodes.remove(&name);
        let streams = before.as_ref().map_or(0, |node| node.streams) + 1;
        let same_run = before
            .as_ref()
            .is_some_and(|node| node.introduction.boot == introduction.boot);
        let last_refusal = before.and_then(|node| node.last_refusal);
        let refused = last_refusal
            .as_ref()
            .filter(|_| same_run)
            .map(|refusal| refusal.position);
        let stream = Some(Stream {
            number: streams,
            _superseded: superseded,
        });
        let node = Node {
            introduction,
            running,
            last_seen: now,
            draining: false,
            persisted: false,
            last_refusal,
            stream,
            streams,
        };
        nodes.insert(name.clone(), node);
        let membership = Membership {
            fleet: self.clone(),
            name,
            number: streams,
        };
        (membership, end, refused)
    }

    /// Every node, as Kong's `GET /clustering/data-planes` shows it; further fields are ours.
    pub fn list(&self, target: &Position, now: UnixTime) -> Vec<Value> {
        let mut nodes = self.nodes();
        nodes.retain(|_, node| {
            node.stream.is_some() || now.saturating_since(node.last_seen) < PURGE_DELAY
        });
        nodes.values().map(|node| node.show(target)).collect()
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

    /// Whether a node that has been heard within `window` does not run `target` yet.
    pub fn is_behind(&self, target: &Position, window: Duration, now: UnixTime) -> bool {
        let nodes = self.nodes();
        let lives = |node: &Node| now.saturating_since(node.last_seen) < window;
        nodes
            .values()
            .any(|node| lives(node) && target.is_after(&node.running))
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
    /// Kong's clients want a UUID. The same for a name, wherever and whenever it is seen.
    fn id(&self) -> Uuid {
        Uuid::new_v5(&Uuid::NAMESPACE_URL, self.introduction.name.as_bytes())
    }

    fn config_hash(&self) -> String {
        short_hash(&self.running.root)
    }

    /// What is between the node and `target`.
    fn progress(&self, target: &Position) -> &'static str {
        if self.running == *target {
            "current"
        } else if self
            .last_refusal
            .as_ref()
            .is_some_and(|refusal| refusal.position == *target)
        {
            "refused"
        } else if target.is_after(&self.running) {
            "behind"
        } else {
            "ahead"
        }
    }

    fn show(&self, target: &Position) -> Value {
        let introduction = &self.introduction;
        let refusal = self.last_refusal.as_ref().map(|refusal| {
            json!({
                "revision": refusal.position.revision,
                "config_hash": short_hash(&refusal.position.root),
                "at": refusal.at.as_secs(),
                "faults": refusal.faults,
            })
        });
        let expiry = introduction.certificate_expires_at.map(UnixTime::as_secs);
        json!({
            "id": self.id(),
            "name": introduction.name,
            "hostname": introduction.hostname,
            "ip": introduction.ip,
            "version": introduction.version,
            "labels": introduction.labels,
            "cert_details": { "expiry_timestamp": expiry },
            "config_hash": self.config_hash(),
            "generation": self.running.generation,
            "revision": self.running.revision,
            // Kong's word for a node that is allowed to sync; `progress` says how far it is.
            "sync_status": "normal",
            "progress": self.progress(target),
            "last_refusal": refusal,
            "connected": self.stream.is_some(),
            "draining": self.draining,
            "persisted": self.persisted,
            "last_seen": self.last_seen.as_secs(),
            "updated_at": self.last_seen.as_secs(),
            "ttl": PURGE_DELAY.as_secs(),
        })
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

    /// The node runs `position`.
    pub fn runs(&self, position: Position, now: UnixTime) {
        self.update(now, |node| {
            node.persisted = node.persisted && node.running == position;
            node.running = position;
        });
    }

    /// The node refused a snapshot.
    pub fn refused(&self, position: Position, mut faults: Vec<Fault>, now: UnixTime) {
        faults.truncate(FAULTS);
        let refusal = Refusal {
            position,
            at: now,
            faults,
        };
        self.update(now, |node| node.last_refusal = Some(refusal));
    }

    /// The node told how it does.
    pub fn reports(&self, running: Position, persisted: bool, draining: bool, now: UnixTime) {
        self.update(now, |node| {
            node.running = running;
            node.persisted = persisted;
            node.draining = draining;
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

#[cfg(test)]
mod tests {
    use shared::snapshot::Revision;

    use super::*;

    fn at(revision: u64) -> Position {
        Position {
            generation: 1,
            revision: Revision(revision),
            root: [u8::try_from(revision).unwrap(); 32],
        }
    }

    fn introduction(boot: &str, running: Position) -> Introduction {
        Introduction {
            name: "node-1".to_owned(),
            version: "1".to_owned(),
            hostname: "machine".to_owned(),
            ip: None,
            labels: BTreeMap::new(),
            certificate_expires_at: None,
            boot: boot.to_owned(),
            running,
        }
    }

    const NOW: UnixTime = UnixTime::from_secs(1_000);

    #[test]
    fn a_node_shows_what_it_runs_and_what_it_refused() {
        let fleet = Fleet::default();
        let (member, _end, refused) = fleet.join(introduction("a", at(1)), NOW);
        assert_eq!(refused, None);
        let fault = Fault {
            code: "INVALID".to_owned(),
            entity_type: "routes".to_owned(),
            entity_id: "x".to_owned(),
            field: "paths".to_owned(),
            message: "not a pattern".to_owned(),
        };
        member.refused(at(2), vec![fault; 30], NOW);
        let shown = fleet.list(&at(2), NOW).remove(0);
        assert_eq!(shown["progress"], "refused");
        assert_eq!(shown["revision"], 1);
        assert_eq!(shown["last_refusal"]["revision"], 2);
        assert_eq!(
            shown["last_refusal"]["faults"].as_array().unwrap().len(),
            FAULTS
        );
        member.runs(at(3), NOW);
        let shown = fleet.list(&at(3), NOW).remove(0);
        assert_eq!(shown["progress"], "current");
        assert_eq!(shown["config_hash"], "03".repeat(16));
        assert_eq!(fleet.list(&at(1), NOW).remove(0)["progress"], "ahead");
        drop(member);
        assert_eq!(fleet.list(&at(3), NOW).remove(0)["connected"], false);
    }

    #[test]
    fn a_newer_stream_of_a_node_silences_the_older_one() {
        let fleet = Fleet::default();
        let (old, mut end, _) = fleet.join(introduction("a", at(1)), NOW);
        let (_new, _end, _) = fleet.join(introduction("a", at(5)), NOW);
        assert!(matches!(
            end.try_recv(),
            Err(oneshot::error::TryRecvError::Closed)
        ));
        old.runs(at(2), NOW);
        drop(old);
        let shown = fleet.list(&at(5), NOW).remove(0);
        assert_eq!(
            (&shown["revision"], &shown["connected"]),
            (&5.into(), &true.into())
        );
    }

    #[test]
    fn a_refused_snapshot_is_offered_again_only_to_a_restarted_node() {
        let fleet = Fleet::default();
        let (member, _end, _) = fleet.join(introduction("a", at(1)), NOW);
        member.refused(at(2), Vec::new(), NOW);
        drop(member);
        let (member, _end, refused) = fleet.join(introduction("a", at(1)), NOW);
        assert_eq!(refused, Some(at(2)));
        drop(member);
        assert_eq!(fleet.join(introduction("b", at(1)), NOW).2, None);
    }

    #[test]
    fn a_node_that_is_gone_is_forgotten_after_the_purge_delay() {
        let fleet = Fleet::default();
        drop(fleet.join(introduction("a", at(1)), NOW));
        assert_eq!(fleet.list(&at(1), NOW).len(), 1);
        let minute = Duration::from_mins(1);
        assert!(fleet.is_behind(&at(2), minute, NOW) && !fleet.is_behind(&at(1), minute, NOW));
        assert!(!fleet.is_behind(&at(2), minute, NOW.saturating_add(minute)));
        let later = NOW.saturating_add(PURGE_DELAY);
        assert!(fleet.list(&at(1), later).is_empty());
    }
}
