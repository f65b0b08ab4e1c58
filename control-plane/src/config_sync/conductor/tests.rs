//! What nodes are led to while changes are on their way.

mod halted;
mod orders;
mod several;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proto::features::URGENT;
use serde_json::json;
use shared::entity::{Entity, Revocation, Service};
use shared::properties::cases;
use shared::snapshot::{Hash, Key, Position};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::config::{Change, Stored};
use crate::fleet::tests::introduction;
use crate::fleet::{Refused, Sample};
use crate::history::{Entry, History, HistoryFault, Origin};
use crate::publisher::{Journal as StoreJournal, JournalFault};
use crate::rollout::rollback;
use crate::snapshot::SharedSigner;

/// A store in memory, with its history, and whether that is out of reach.
#[derive(Clone, Default)]
pub(in crate::config_sync) struct Memory(Arc<Mutex<BTreeMap<Revision, Entry>>>, Arc<AtomicBool>);

impl StoreJournal for Memory {
    fn commit(&mut self, entry: &Entry) -> Result<(), JournalFault> {
        let mut entries = self.0.lock().unwrap();
        if entries.contains_key(&entry.revision) {
            return Err(JournalFault::Behind);
        }
        entries.insert(entry.revision, entry.clone());
        Ok(())
    }

    fn history(&self) -> Arc<dyn History> {
        Arc::new(self.clone())
    }
}

impl History for Memory {
    fn entry(&self, revision: Revision) -> Result<Option<Entry>, HistoryFault> {
        if self.1.load(Ordering::Relaxed) {
            return Err(HistoryFault::Unreachable("no leader".to_owned()));
        }
        Ok(self.0.lock().unwrap().get(&revision).cloned())
    }
}

const PLAN: Plan = Plan {
    canary: Duration::from_secs(30),
    share: 50,
    share_bake: Duration::from_secs(30),
    rollback: true,
};

/// A control plane and the nodes that follow it, without a network.
struct Stage {
    directory: TempDir,
    memory: Memory,
    publisher: Publisher,
    conductor: Conductor,
    nodes: Vec<View>,
    seconds: u64,
}

/// A node takes what it is led to, unless it refuses that. As on a stream, it never goes back.
fn take(node: &mut View, target: Position) {
    let refuses = node
        .refusal
        .as_ref()
        .is_some_and(|refusal| refusal.revision == target.revision);
    if !refuses && target.is_after(&node.running) {
        node.running = target;
    }
}

fn conductor(publisher: &Publisher, directory: &TempDir, now: UnixTime) -> Conductor {
    let signer = SharedSigner::default();
    let follower = Follower::new(publisher.config(), publisher.generation(), signer);
    let staging = Staging {
        plan: Some(PLAN),
        keeper: Keeper::file(directory.path().join("rollouts.json")),
    };
    Conductor::new(follower, staging, publisher, Uuid::new_v4(), now).unwrap()
}

/// Commits a record, decided on whatever is the newest.
pub(in crate::config_sync) fn commit(
    publisher: &Publisher,
    kind: &'static str,
    number: u128,
    content: u64,
) {
    let key = Key {
        kind,
        id: Uuid::from_u128(number),
    };
    let fields = if kind == Revocation::KIND {
        json!({ "id": key.id, "before": content, "expires_at": u64::MAX / 4 })
    } else {
        json!({ "id": key.id, "name": format!("s{number}"), "port": content })
    };
    let change = Change {
        puts: vec![(key, Stored::of(fields.as_object().unwrap()))],
        removes: Vec::new(),
    };
    let committed = publisher.transact(&Origin::system(), UnixTime::default(), |_, _| {
        Ok::<_, JournalFault>(change.clone())
    });
    committed.unwrap();
}

impl Stage {
    fn new(count: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let memory = Memory::default();
        let publisher = Publisher::new(Config::default(), 1, Box::new(memory.clone()));
        let node = |number| View {
            name: format!("node-{number}"),
            connected: true,
            ..View::default()
        };
        let conductor = conductor(&publisher, &directory, UnixTime::from_secs(1_000));
        let mut stage = Self {
            directory,
            memory,
            publisher,
            conductor,
            nodes: (0..count).map(node).collect(),
            seconds: 1_000,
        };
        stage.serve();
        stage
    }

    fn now(&self) -> UnixTime {
        UnixTime::from_secs(self.seconds)
    }

    fn commit(&mut self, kind: &'static str, number: u128, content: u64) {
        commit(&self.publisher, kind, number, content);
        self.publish();
    }

    fn publish(&mut self) {
        self.conductor.publish(self.publisher.config());
        self.turn();
    }

    fn conduct(&mut self) {
        let situation = Situation {
            nodes: &self.nodes,
            present: Some(&BTreeSet::new()),
            now: UnixTime::from_secs(self.seconds),
        };
        self.conductor.turn(None, &situation).unwrap();
    }

    fn order(&mut self, id: Revision, order: Order) -> Result<(), OrderError> {
        let situation = Situation {
            nodes: &self.nodes,
            present: Some(&BTreeSet::new()),
            now: UnixTime::from_secs(self.seconds),
        };
        self.conductor.order(id, order, &situation)
    }

    fn turn(&mut self) {
        self.conduct();
        if let Some((to, from)) = self.conductor.rollback() {
            rollback::carry_out(&self.publisher, from, to).unwrap();
            self.conductor.publish(self.publisher.config());
            self.conduct();
        }
        self.serve();
    }

    fn target(&self, name: &str) -> Arc<Published> {
        self.known_target(name).unwrap()
    }

    /// None where nobody knows any more what the node is held at.
    fn known_target(&self, name: &str) -> Option<Arc<Published>> {
        let features = BTreeSet::from([URGENT.to_owned()]);
        let targets = self.conductor.targets();
        targets.of(name, &features).cloned()
    }

    /// Every node takes what it is led to, if it is connected.
    fn serve(&mut self) {
        let now = self.now();
        let mut nodes = std::mem::take(&mut self.nodes);
        for node in nodes.iter_mut().filter(|node| node.connected) {
            node.last_seen = now;
            if let Some(target) = self.known_target(&node.name) {
                take(node, target.position);
            }
        }
        self.nodes = nodes;
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.seconds += 1;
            self.turn();
        }
    }

    fn restart(&mut self) {
        let now = self.now();
        self.conductor = conductor(&self.publisher, &self.directory, now);
        self.turn();
    }

    fn running(&self) -> Vec<Position> {
        self.nodes.iter().map(|node| node.running).collect()
    }

    fn newest(&self) -> Position {
        self.conductor.newest().position
    }

    fn state(&self) -> Option<State> {
        let rollouts = &self.conductor.journal().rollouts;
        rollouts.first().map(|rollout| rollout.state)
    }

    /// The newest roll-out.
    fn rollout(&self) -> &Rollout {
        &self.conductor.journal().rollouts[0]
    }

    /// Who is given it.
    fn members(&self) -> BTreeSet<String> {
        self.rollout().members.keys().cloned().collect()
    }

    fn lead_strays(&mut self, revisions: &BTreeSet<Revision>) {
        let strays = self.conductor.leading().lead(revisions);
        self.conductor.take_strays(strays);
    }

    /// Whether every node is led to a state that has the newest revocations.
    fn all_have_the_newest_revocations(&self) -> bool {
        let newest = revocations(&self.publisher.config());
        let mut nodes = self.nodes.iter();
        nodes.all(|node| revocations(self.target(&node.name).config()) == newest)
    }
}

fn revocations(config: &Config) -> Vec<Stored> {
    let keys = config.keys(Revocation::KIND, Uuid::nil());
    keys.filter_map(|key| config.stored(key).cloned()).collect()
}

fn roots(positions: &[Position]) -> BTreeSet<Hash> {
    positions.iter().map(|position| position.root).collect()
}

#[test]
fn who_cannot_run_the_newest_hears_of_revocations_where_it_stands() {
    let mut stage = Stage::new(1);
    stage.commit(Service::KIND, 1, 80);
    stage.pass(200);
    let runs = stage.newest();
    for (at, (kind, number)) in [
        (Service::KIND, 3),
        (Revocation::KIND, 2),
        (Service::KIND, 4),
        (Revocation::KIND, 5),
    ]
    .into_iter()
    .enumerate()
    {
        stage.commit(kind, number, 7);
        let revisions = BTreeSet::from([runs.revision, stage.newest().revision.next()]);
        stage.lead_strays(&revisions);
        let targets = stage.conductor.targets();
        let led = Arc::clone(targets.instead(&runs).unwrap());
        assert_eq!(led.position.revision, runs.revision);
        assert_eq!(led.position.root == runs.root, at == 0);
        let newest = revocations(&stage.publisher.config());
        assert_eq!(revocations(led.config()), newest);
        assert_eq!(led.config().keys(Service::KIND, Uuid::nil()).count(), 1);
        // The same as long as there is nothing new.
        stage.lead_strays(&revisions);
        assert_eq!(stage.conductor.targets(), targets);
        let elsewhere = Position {
            generation: 2,
            ..runs
        };
        assert!(targets.instead(&elsewhere).is_none());
        assert!(targets.instead(&stage.newest()).is_none());
    }
    stage.lead_strays(&BTreeSet::new());
    assert!(stage.conductor.targets().instead(&runs).is_none());
}

#[test]
fn a_node_has_a_change_by_its_content_and_not_by_the_number_alone() {
    let mut stage = Stage::new(1);
    stage.commit(Service::KIND, 1, 80);
    stage.pass(200);
    let one = stage.newest();
    stage.commit(Service::KIND, 2, 80);
    stage.pass(200);
    let two = stage.newest();
    let targets = stage.conductor.targets();
    let node = introduction("a", one);
    let foreign = |position: Position| Position {
        root: [9; 32],
        ..position
    };
    let of = |generation, position: Position| Position {
        generation,
        ..position
    };
    let next = Position {
        revision: two.revision.next(),
        ..two
    };
    let before = Position {
        root: one.root,
        ..two
    };
    for (position, expected) in [
        (one, [true, false]),
        (two, [true, true]),
        (foreign(one), [false, false]),
        (foreign(two), [false, false]),
        (before, [false, false]),
        // What another control plane has committed is not known yet.
        (next, [false, false]),
        (of(2, two), [false, false]),
        (of(0, two), [false, false]),
    ] {
        let has = [one, two].map(|change| targets.has(change.revision, &node, &position));
        assert_eq!(has, expected, "{position:?}");
    }
    // Keys that come later do not take a change away.
    stage.commit(Revocation::KIND, 3, 7);
    let targets = stage.conductor.targets();
    assert!(targets.has(two.revision, &node, &two));
}

#[test]
fn a_change_waits_and_a_revocation_does_not() {
    let mut stage = Stage::new(4);
    let before = stage.newest();
    stage.commit(Service::KIND, 1, 80);
    assert_eq!(stage.state(), Some(State::Running));
    let on = |stage: &Stage, root| {
        stage
            .running()
            .iter()
            .filter(|one| one.root == root)
            .count()
    };
    assert_eq!(
        (on(&stage, before.root), on(&stage, stage.newest().root)),
        (3, 1)
    );
    stage.commit(Revocation::KIND, 2, 7);
    assert!(stage.all_have_the_newest_revocations());
    let running = stage.running();
    assert_eq!(roots(&running).len(), 2);
    let held = running.iter().filter(|one| one.revision == before.revision);
    assert_eq!(held.clone().count(), 3);
    assert!(
        held.clone()
            .all(|one| one.urgent == stage.newest().revision)
    );
    // What comes meanwhile waits for its own turn.
    stage.commit(Service::KIND, 3, 80);
    assert_eq!(roots(&stage.running()), roots(&running));
    stage.pass(200);
    assert_eq!(stage.running(), vec![stage.newest(); 4]);
    let rollouts = &stage.conductor.journal().rollouts;
    assert!(
        rollouts
            .iter()
            .all(|rollout| rollout.state == State::Completed)
    );
    assert_eq!(rollouts.len(), 2);
    // A revocation alone needs no roll-out.
    stage.commit(Revocation::KIND, 9, 7);
    assert_eq!(stage.running(), vec![stage.newest(); 4]);
    assert_eq!(stage.conductor.journal().rollouts.len(), 2);
}

/// Has the first node that is given the next change refuse it.
fn refuse(stage: &mut Stage) {
    let to = stage.publisher.config().revision().next();
    for node in &mut stage.nodes {
        node.refusal = Some(Refused {
            revision: to,
            reason: "no".to_owned(),
        });
    }
}

#[test]
fn a_refused_change_is_rolled_back_as_a_new_revision() {
    let mut stage = Stage::new(4);
    stage.commit(Service::KIND, 1, 80);
    stage.pass(100);
    let good = stage.newest();
    refuse(&mut stage);
    stage.commit(Service::KIND, 1, 81);
    stage.turn();
    assert_eq!(stage.state(), Some(State::RolledBack));
    assert_eq!(stage.newest().root, good.root);
    assert_eq!(stage.newest().revision.0, good.revision.0 + 2);
    assert_eq!(stage.running(), vec![stage.newest(); 4]);
}

#[test]
fn what_is_held_back_is_held_back_after_a_restart() {
    let mut stage = Stage::new(4);
    stage.commit(Service::KIND, 1, 80);
    stage.commit(Revocation::KIND, 2, 7);
    let (running, members) = (stage.running(), stage.conductor.targets());
    stage.restart();
    assert_eq!(roots(&stage.running()), roots(&running));
    assert!(stage.all_have_the_newest_revocations());
    for node in &stage.nodes {
        let features = BTreeSet::from([URGENT.to_owned()]);
        let before = members.of(&node.name, &features).unwrap().position;
        assert_eq!(stage.target(&node.name).position.root, before.root);
    }
    let id = stage.rollout().to;
    assert_eq!(stage.order(id, Order::Halt), Ok(()));
    stage.pass(200);
    stage.restart();
    assert_eq!(stage.state(), Some(State::Halted));
    assert_eq!(stage.order(id, Order::Resume), Ok(()));
    stage.pass(200);
    assert_eq!(stage.running(), vec![stage.newest(); 4]);
    assert_eq!(stage.order(id, Order::Halt), Err(OrderError::Ended));
    let unknown = stage.order(Revision(999), Order::Halt);
    assert_eq!(unknown, Err(OrderError::Unknown));
}

#[test]
fn nodes_of_an_earlier_version_get_every_change_at_once() {
    let mut stage = Stage::new(4);
    stage.commit(Service::KIND, 1, 80);
    let targets = stage.conductor.targets();
    let old = targets.of("node-9", &BTreeSet::new()).unwrap().position;
    assert_eq!(old, stage.newest());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]

    /// Whatever is committed, refused, halted, and however often the process starts again: no node is led back,
    /// none misses a revocation, and in the end all run the newest.
    #[test]
    fn nodes_only_go_forward_and_all_arrive(
        count in 1usize..6,
        events in prop::collection::vec((0u8..9, 0u128..4, 0u64..4), 1..40),
    ) {
        let mut stage = Stage::new(count);
        let mut before = stage.running();
        for (event, number, content) in events {
            match event {
                0 | 1 => stage.commit(Service::KIND, number, content),
                2 | 3 => stage.commit(Revocation::KIND, number, content),
                4 => stage.pass(35),
                5 => refuse(&mut stage),
                6 => stage.restart(),
                7 => {
                    let order = [Order::Halt, Order::Resume, Order::Release, Order::RollBack];
                    if let Some(id) = stage.conductor.journal().open().map(|open| open.to) {
                        let order = order[usize::try_from(content).unwrap()];
                        let done = stage.order(id, order);
                        prop_assert!(matches!(done, Ok(()) | Err(OrderError::Several)));
                        stage.turn();
                    }
                }
                _ => {
                    let at = usize::try_from(number).unwrap() % count;
                    let node = &mut stage.nodes[at];
                    node.connected = !node.connected;
                    stage.turn();
                }
            }
            prop_assert!(stage.all_have_the_newest_revocations());
            for (node, before) in stage.nodes.iter().zip(&before) {
                prop_assert!(node.running == *before || node.running.is_after(before));
            }
            before = stage.running();
        }
        for node in &mut stage.nodes {
            node.connected = true;
            node.refusal = None;
        }
        if let Some(id) = stage.conductor.journal().open().map(|open| open.to) {
            stage.order(id, Order::Resume).unwrap();
        }
        stage.pass(600);
        let root = stage.newest().root;
        prop_assert!(stage.running().iter().all(|one| one.root == root), "{:?}", stage.conductor.journal());
    }
}
