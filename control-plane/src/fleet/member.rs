//! The right of a stream to speak for its node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use shared::clock::UnixTime;
use shared::snapshot::{Position, Revision};
use tokio::sync::mpsc;

use super::{
    Fault, Fleet, Introduction, Node, Nodes, Order, Process, Refusal, Report, Row, Run, Shunned,
};
use crate::snapshot::Missing;

/// Faults of one refusal that are kept.
pub(super) const FAULTS: usize = 20;

/// How often a run of a node may come back in the place of another on the same machine before they are two processes that both
/// want to stay. One that hands over to its successor does so for a moment.
const RETURNS: u32 = 3;

/// How long a stream speaks for its node until nobody takes turns with it any more: a process that is sent away for another comes
/// back within ten seconds.
const UNCHALLENGED: Duration = Duration::from_mins(1);

/// How long two control planes have to hear two processes of a node side by side until these are two that both want to stay. One
/// that starts, or takes over from the process before it, may come to another control plane before that one has gone.
const TOGETHER: Duration = Duration::from_secs(20);

/// The run of a node that had the stream before the one that is introduced now, and whether the two take turns: two processes
/// have the node's certificate then. `row` is what is known of the node.
pub(super) fn turns(row: Option<&Row>, now: &Introduction) -> (Option<Run>, bool) {
    let Some(row) = row else {
        return (None, false);
    };
    let last = &row.introduction;
    if last.boot == now.boot {
        return (row.before.clone(), false);
    }
    let before = row.before.as_ref();
    let before = before.filter(|before| before.boot == now.boot);
    let returns = before.map_or(0, |before| before.returns.saturating_add(1));
    let elsewhere = last.ip != now.ip || last.hostname != now.hostname;
    let contested = returns > if elsewhere { 0 } else { RETURNS };
    if contested {
        tracing::warn!(
            node_id = now.name,
            here = ?now.ip,
            there = ?last.ip,
            "two processes take turns as this node: they have one certificate; give each its own"
        );
    }
    let run = Run {
        boot: last.boot.clone(),
        ip: last.ip,
        returns,
    };
    (Some(run), contested)
}

impl Refusal {
    /// The node has gone on since, and may have become able to run that: only the very state that it refused is not sent again.
    pub(super) const fn outgrown(&mut self) {
        self.configuration = None;
    }
}

impl Row {
    /// Whether `position` is what the node runs, be it with other keys.
    pub(super) fn is_at(&self, position: &Position) -> bool {
        let state = |one: &Position| (one.generation, one.revision);
        state(&self.running) == state(position)
    }

    /// Learns of the row that another control plane has of the node: whether it leads another process of it, which has its
    /// certificate as well.
    pub(super) fn learns_of(&mut self, other: &Self) {
        let since = self.connected_since.zip(other.connected_since);
        let heard = self.last_seen.min(other.last_seen);
        let together =
            since.is_some_and(|(here, there)| heard.saturating_since(here.max(there)) >= TOGETHER);
        let (here, there) = (&self.introduction, &other.introduction);
        let both = self.connected && other.connected && here.boot != there.boot;
        if self.contested || !both || !together {
            return;
        }
        self.contested = true;
        tracing::warn!(
            node_id = here.name,
            here = ?here.ip,
            there = ?there.ip,
            there_hostname = there.hostname,
            "another control plane leads another process as this node: both have one certificate; give each its own"
        );
    }

    /// The node will not run what is `quarantined` again. What it has refused for what it has released it may run.
    fn isolates(&mut self, quarantined: Vec<Position>) {
        let mut before = self.introduction.quarantined.iter();
        let released = before.any(|one| !quarantined.contains(one));
        let is_over =
            |refusal: &mut Refusal| released && refusal.faults.iter().any(Fault::is_of_quarantine);
        self.stuck &= self.last_refusal.take_if(is_over).is_none();
        self.introduction.quarantined = quarantined;
    }

    /// What the node, which introduces itself anew as `now`, has refused in this run of it and would refuse again.
    pub(super) fn shuns(&mut self, now: &Introduction) -> Option<Shunned> {
        if self.introduction.boot != now.boot {
            return None;
        }
        let stays = self.is_at(&now.running);
        self.stuck &= stays;
        self.isolates(now.quarantined.clone());
        let refusal = self.last_refusal.as_mut()?;
        if !stays {
            refusal.outgrown();
        }
        // Another signature may be believed.
        (!refusal.faults.iter().any(Fault::is_of_signature)).then_some(Shunned {
            position: refusal.position,
            configuration: refusal.configuration,
        })
    }
}

/// The right of one stream to speak for its node, until a newer stream of that node takes it.
#[derive(Debug)]
pub struct Membership {
    pub(super) fleet: Fleet,
    pub(super) name: String,
    run: String,
    number: u64,
    features: BTreeSet<String>,
    orders: mpsc::Receiver<Order>,
}

impl Membership {
    pub(super) fn new(
        fleet: &Fleet,
        introduction: &Introduction,
        number: u64,
        orders: mpsc::Receiver<Order>,
    ) -> Self {
        Self {
            fleet: fleet.clone(),
            name: introduction.name.clone(),
            run: introduction.boot.clone(),
            number,
            features: introduction.features.clone(),
            orders,
        }
    }

    /// Whether no newer stream does.
    pub(super) fn speaks_for(&self, node: &Node) -> bool {
        let stream = node.stream.as_ref();
        stream.is_some_and(|stream| stream.number == self.number)
    }

    /// Changes the node's row, unless a newer stream speaks for it.
    fn update(&self, now: UnixTime, change: impl FnOnce(&mut Row)) {
        let mut nodes = self.fleet.nodes();
        let Nodes {
            here, elsewhere, ..
        } = &mut *nodes;
        let Some(node) = here.get_mut(&self.name) else {
            return;
        };
        if self.speaks_for(node) {
            let row = &mut node.row;
            row.last_seen = now;
            let unchallenged = row
                .connected_since
                .is_some_and(|since| now.saturating_since(since) >= UNCHALLENGED);
            if row.contested && unchallenged && !elsewhere.has_another_run(&row.introduction) {
                row.contested = false;
                tracing::info!(
                    node_id = self.name,
                    "one process is left of those that took turns"
                );
            }
            change(row);
        }
        drop(nodes);
        self.fleet.changed.send_replace(());
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process of the node whose stream it is.
    pub fn process(&self) -> Process {
        Process {
            node: self.name.clone(),
            run: self.run.clone(),
        }
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
        self.answers_order();
        self.update(now, |row| {
            // Keys and revocations reach also who cannot run what came with them.
            row.stuck &= row.is_at(&position);
            row.moves(position, now);
            // What it runs it has been ordered to run once more.
            let isolated = &mut row.introduction.quarantined;
            isolated.retain(|isolated| isolated.root != position.root);
        });
    }

    /// What was revoked up to `revision` is in force on the node, whatever it runs.
    pub fn revokes(&self, revision: Revision, now: UnixTime) {
        self.update(now, |row| row.revoked = revision);
    }

    /// The node refused a snapshot.
    pub fn refused(&self, what: impl Into<Shunned>, mut faults: Vec<Fault>, now: UnixTime) {
        let Shunned {
            position,
            configuration,
        } = what.into();
        faults.truncate(FAULTS);
        self.answers_order();
        self.update(now, |row| {
            let before = row.last_refusal.as_ref();
            let state = |one: &Position| (one.generation, one.revision);
            let runs_it = state(&row.running) == state(&position);
            if runs_it && before.is_some_and(|before| before.position.is_after(&position)) {
                // That it takes no keys for what it runs either is less than what it does not run.
                return;
            }
            let again = before.is_some_and(|before| {
                let since_then = before.at >= row.running_since;
                since_then && before.faults == faults
            });
            row.stuck = again;
            row.last_refusal = Some(Refusal {
                position,
                configuration,
                at: now,
                faults,
            });
        });
        self.fleet.news.notify_one();
    }

    /// The node is not sent `position`: what is configured there is what it refused last.
    pub fn still_refuses(&self, position: Position) {
        let mut nodes = self.fleet.nodes();
        let node = nodes.here.get_mut(&self.name);
        let node = node.filter(|node| self.speaks_for(node));
        let refusal = node.and_then(|node| node.row.last_refusal.as_mut());
        // What it has crashed with is told apart.
        let stale = refusal.filter(|refusal| position.is_after(&refusal.position));
        let Some(refusal) = stale.filter(|refusal| refusal.configuration.is_some()) else {
            return;
        };
        refusal.position = position;
        drop(nodes);
        self.fleet.changed.send_replace(());
    }

    /// What the node refused was how the snapshot came, not the snapshot.
    pub fn unrefused(&self, now: UnixTime) {
        self.update(now, |row| {
            row.last_refusal = None;
            row.stuck = false;
        });
    }

    /// The node would have to know `missing` to run the newest.
    pub fn lacks(&self, missing: Vec<Missing>) {
        let mut nodes = self.fleet.nodes();
        if let Some(node) = nodes.here.get_mut(&self.name)
            && self.speaks_for(node)
            && node.row.missing != missing
        {
            if let Some(first) = missing.first() {
                tracing::warn!(
                    node_id = self.name,
                    feature = first.feature,
                    entity = first.record.map(|key| format!("{} {}", key.kind, key.id)),
                    "the node does not know what the newest configuration needs; it stays with what it runs"
                );
            }
            node.row.missing = missing;
        }
    }

    /// The node told how it does.
    pub fn reports(&self, mut report: Report, now: UnixTime) {
        self.update(now, |row| {
            if let Some(quarantined) = report.quarantined.take() {
                row.isolates(quarantined);
            }
            row.moves(report.running, now);
            let millis = |time: UnixTime| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
            row.clock_offset = Some(millis(report.clock).saturating_sub(millis(now)));
            row.samples.take(&report, now);
            row.turns += u64::from(row.report.targets != report.targets);
            row.report = report;
        });
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut nodes = self.fleet.nodes();
        if let Some(node) = nodes.here.get_mut(&self.name)
            && self.speaks_for(node)
        {
            node.stream = None;
            node.row.connected = false;
            // Of no use any more, and as large as it likes.
            node.row.report.targets = Arc::default();
        }
        drop(nodes);
        self.fleet.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::fleet::Progress;
    use crate::fleet::tests::{at, ill, introduction};

    const START: UnixTime = UnixTime::from_secs(1_000);

    fn after(seconds: u64) -> UnixTime {
        START.saturating_add(Duration::from_secs(seconds))
    }

    /// The process `boot`, on a machine of its own.
    fn run(boot: &str) -> Introduction {
        Introduction {
            boot: boot.to_owned(),
            hostname: boot.to_owned(),
            ..introduction("a", at(2))
        }
    }

    fn report() -> Report {
        Report {
            running: at(2),
            ..Report::default()
        }
    }

    fn is_contested(fleet: &Fleet) -> bool {
        fleet.list(|_| at(2), START).remove(0)["contested"] == true
    }

    fn progress(fleet: &Fleet) -> Progress {
        fleet.progress_of(|_, position| *position == at(2))
    }

    #[test]
    fn others_are_told_at_once_when_targets_turn() {
        let fleet = Fleet::default();
        let (member, _) = fleet.join(run("one"), START).unwrap();
        for (unhealthy, is_news) in [([7], true), ([7], false), ([8], true)] {
            let before = fleet.parts();
            let targets = Arc::new(ill(unhealthy, 9));
            let report = Report {
                targets,
                ..report()
            };
            member.reports(report, START);
            assert_eq!(fleet.parts() != before, is_news, "{unhealthy:?}");
        }
    }

    #[test]
    fn nobody_takes_turns_with_a_process_that_has_its_stream_for_a_minute() {
        let fleet = Fleet::default();
        let (first, _) = fleet.join(run("first"), START).unwrap();
        let _second = fleet.join(run("second"), START).unwrap();
        let (again, _) = fleet.join(run("first"), after(5)).unwrap();
        again.reports(report(), after(64));
        // Whoever waits is told which node it is.
        assert!(is_contested(&fleet));
        assert_eq!(progress(&fleet).waiting, ["node-1"]);
        // A stream whose place was taken ends nothing.
        first.reports(report(), after(70));
        assert!(is_contested(&fleet));
        let mut changes = fleet.changes();
        changes.mark_unchanged();
        again.reports(report(), after(65));
        assert!(!is_contested(&fleet));
        assert_eq!(progress(&fleet).serving, ["node-1"]);
        assert!(changes.has_changed().unwrap());
        // It was not over.
        let _second = fleet.join(run("second"), after(66)).unwrap();
        assert!(is_contested(&fleet));
        assert_eq!(progress(&fleet).waiting, ["node-1"]);
    }

    #[test]
    fn what_is_revoked_on_a_node_is_of_the_generation_that_it_runs() {
        let fleet = Fleet::default();
        let (member, _) = fleet.join(introduction("a", at(2)), START).unwrap();
        let shown = || fleet.list(|_| at(2), START).remove(0)["revoked"].clone();
        member.revokes(Revision(100), START);
        assert_eq!(shown(), 100);
        member.runs(at(50), START);
        assert_eq!(shown(), 100);
        let restored = Position {
            generation: at(2).generation + 1,
            ..at(5)
        };
        member.runs(restored, START);
        assert!(shown().is_null());
        member.revokes(Revision(7), START);
        assert_eq!(shown(), 7);
    }

    #[test]
    fn two_processes_that_two_control_planes_lead_are_told_of_at_all() {
        let [one, other, third] = [(); 3].map(|()| Fleet::shared());
        let ids = [1, 2].map(Uuid::from_u128);
        let ways = [
            (&one, ids[0], &other),
            (&other, ids[1], &one),
            (&one, ids[0], &third),
            (&other, ids[1], &third),
        ];
        let exchange = |now| {
            for (from, id, to) in ways {
                for part in from.parts() {
                    let told = from.tell(part.number, false, now).unwrap();
                    to.take(id, part.number, &told, now).unwrap();
                }
            }
            [&one, &other, &third].map(is_contested)
        };
        let (first, _) = one.join(run("first"), START).unwrap();
        let (second, _) = other.join(run("second"), after(5)).unwrap();
        // A process that is gone is there until somebody notices.
        for seconds in [15, 24] {
            first.reports(report(), after(seconds));
            second.reports(report(), after(seconds));
            assert_eq!(exchange(after(seconds)), [false; 3], "{seconds}");
        }
        first.reports(report(), after(60));
        assert_eq!(exchange(after(61)), [false; 3]);
        assert_eq!(progress(&third).serving, ["node-1"]);
        second.reports(report(), after(62));
        assert_eq!(exchange(after(62)), [true; 3]);
        for fleet in [&one, &other, &third] {
            assert_eq!(progress(fleet).waiting, ["node-1"]);
        }
        // A stream in the place of one of theirs changes nothing.
        let (second, _) = other.join(run("second"), after(70)).unwrap();
        second.reports(report(), after(140));
        assert_eq!(exchange(after(140)), [true; 3]);
        drop(second);
        assert_eq!(exchange(after(141)), [true; 3]);
        first.reports(report(), after(142));
        assert_eq!(exchange(after(142)), [false; 3]);
        assert_eq!(progress(&third).serving, ["node-1"]);
        // Nor does one process that goes from one to the other.
        drop(first);
        let (first, _) = other.join(run("first"), after(143)).unwrap();
        first.reports(report(), after(180));
        assert_eq!(exchange(after(180)), [false; 3]);
    }

    #[test]
    fn turns_go_on_while_another_control_plane_has_a_process_of_the_node() {
        let (fleet, other) = (Fleet::shared(), Fleet::shared());
        let there = Uuid::from_u128(1);
        fleet.look([there].into());
        let _first = fleet.join(run("first"), START).unwrap();
        let _second = fleet.join(run("second"), START).unwrap();
        let (again, _) = fleet.join(run("first"), START).unwrap();
        let hear = |now| {
            for part in other.parts() {
                let told = other.tell(part.number, false, now).unwrap();
                fleet.take(there, part.number, &told, now).unwrap();
            }
        };
        let (second, _) = other.join(run("second"), after(1)).unwrap();
        hear(after(2));
        again.reports(report(), after(100));
        assert!(is_contested(&fleet));
        drop(second);
        hear(after(101));
        again.reports(report(), after(102));
        assert!(!is_contested(&fleet));
    }
}
