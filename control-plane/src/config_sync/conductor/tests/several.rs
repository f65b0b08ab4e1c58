//! The same with several control planes over one store: they lead their nodes by one journal.

use super::*;
use crate::publisher::Newer;
use crate::rollout::{Agreed, Unagreed};

/// A value that all see, if they can reach it.
#[derive(Clone, Debug, Default)]
struct Value(Arc<Mutex<(u64, Vec<u8>, bool)>>);

/// One control plane's sight of it.
#[derive(Debug)]
struct Sight {
    value: Value,
    version: u64,
    /// What could not be read.
    aside: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Agreed for Sight {
    fn newer(&mut self) -> Result<Option<Vec<u8>>, Unagreed> {
        let value = self.value.0.lock().unwrap();
        if value.2 {
            return Err("out of reach".into());
        }
        let newer = (value.0 > self.version).then(|| value.1.clone());
        self.version = value.0;
        Ok(newer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<bool, Unagreed> {
        let mut value = self.value.0.lock().unwrap();
        if value.2 {
            return Err("out of reach".into());
        }
        if value.0 != self.version {
            return Ok(false);
        }
        (value.0, value.1) = (value.0 + 1, bytes.to_vec());
        self.version = value.0;
        Ok(true)
    }

    fn set_aside(&mut self, value: &[u8]) -> Result<String, Unagreed> {
        self.aside.lock().unwrap().push(value.to_vec());
        Ok("aside".to_owned())
    }

    fn clear(&mut self) -> Result<(), Unagreed> {
        self.value.0.lock().unwrap().1.clear();
        Ok(())
    }
}

/// One control plane's sight of the store.
struct Store {
    memory: Memory,
    last: Revision,
}

impl StoreJournal for Store {
    fn commit(&mut self, entry: &Entry) -> Result<(), JournalFault> {
        self.memory.commit(entry)?;
        self.last = entry.revision;
        Ok(())
    }

    fn newer(&mut self) -> Result<Newer, JournalFault> {
        let entries = self.memory.0.lock().unwrap();
        let newer = entries.range(self.last.next()..);
        let newer: Vec<_> = newer
            .map(|(revision, entry)| (entry.change(), *revision))
            .collect();
        self.last = newer.last().map_or(self.last, |(_, revision)| *revision);
        Ok(Newer::Changes(newer))
    }

    fn history(&self) -> Arc<dyn History> {
        Arc::new(self.memory.clone())
    }
}

struct Plane {
    id: Uuid,
    publisher: Publisher,
    conductor: Conductor,
}

/// Control planes, and nodes that are connected to one each.
struct Several {
    memory: Memory,
    value: Value,
    planes: Vec<Plane>,
    nodes: Vec<(View, usize)>,
    seconds: u64,
}

impl Several {
    fn new(planes: usize, nodes: usize) -> Self {
        let node = |number| {
            let node = View {
                name: format!("node-{number}"),
                connected: true,
                ..View::default()
            };
            (node, number % planes)
        };
        let mut several = Self {
            memory: Memory::default(),
            value: Value::default(),
            planes: Vec::new(),
            nodes: (0..nodes).map(node).collect(),
            seconds: 1_000,
        };
        for _ in 0..planes {
            let plane = several.plane();
            several.planes.push(plane);
        }
        several.turn();
        several
    }

    /// A control plane that starts.
    fn plane(&self) -> Plane {
        let mut config = Config::default();
        let mut last = Revision::default();
        for (revision, entry) in self.memory.0.lock().unwrap().iter() {
            config.apply(&entry.change(), *revision);
            last = *revision;
        }
        let memory = self.memory.clone();
        let publisher = Publisher::new(config, 1, Box::new(Store { memory, last }));
        let follower = Follower::new(publisher.config(), 1, SharedSigner::default());
        let sight = Sight {
            value: self.value.clone(),
            version: 0,
            aside: Arc::default(),
        };
        let staging = Staging {
            plan: Some(PLAN),
            keeper: Keeper::Shared(Box::new(sight)),
        };
        let (id, now) = (Uuid::new_v4(), UnixTime::from_secs(self.seconds));
        let conductor = Conductor::new(follower, staging, &publisher, id, now).unwrap();
        Plane {
            id,
            publisher,
            conductor,
        }
    }

    fn ids(&self) -> BTreeSet<Uuid> {
        self.planes.iter().map(|plane| plane.id).collect()
    }

    /// One control plane looks at everything, each of its nodes takes what it is led to.
    fn turn_one(&mut self, at: usize) {
        let now = UnixTime::from_secs(self.seconds);
        let (views, ids): (Vec<View>, _) = (
            self.nodes.iter().map(|node| node.0.clone()).collect(),
            self.ids(),
        );
        let situation = Situation {
            nodes: &views,
            present: Some(&ids),
            now,
        };
        let plane = &mut self.planes[at];
        plane.publisher.catch_up().unwrap();
        plane.conductor.publish(plane.publisher.config());
        // Out of reach, it stands still.
        let _ = plane.conductor.turn(None, &situation);
        if let Some((to, from)) = plane.conductor.rollback() {
            // Another may have changed something meanwhile.
            let _ = rollback::carry_out(&plane.publisher, from, to);
        }
        let features = BTreeSet::from([URGENT.to_owned()]);
        let targets = plane.conductor.targets();
        for (node, _) in self.nodes.iter_mut().filter(|node| node.1 == at) {
            node.last_seen = now;
            let Some(target) = targets.of(&node.name, &features) else {
                continue;
            };
            take(node, target.position);
        }
    }

    fn turn(&mut self) {
        (0..self.planes.len()).for_each(|at| self.turn_one(at));
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.seconds += 1;
            self.turn();
        }
    }

    fn with(&self, root: Hash) -> usize {
        let nodes = self.nodes.iter();
        nodes.filter(|(node, _)| node.running.root == root).count()
    }

    fn newest(&self) -> Position {
        let newest = self.planes.iter().map(|plane| plane.conductor.newest());
        newest
            .max_by_key(|one| one.position.revision)
            .unwrap()
            .position
    }

    fn journal(&self) -> Journal {
        self.planes[0].conductor.journal().clone()
    }

    fn reach(&self, reachable: bool) {
        self.value.0.lock().unwrap().2 = !reachable;
    }
}

#[test]
fn one_roll_out_leads_the_nodes_of_all() {
    let mut several = Several::new(3, 6);
    let before = several.newest();
    commit(&several.planes[1].publisher, Service::KIND, 1, 80);
    several.turn();
    several.turn();
    let newest = several.newest();
    assert_eq!(
        (several.with(newest.root), several.with(before.root)),
        (1, 5)
    );
    for plane in &several.planes {
        assert_eq!(
            plane.conductor.journal(),
            several.planes[0].conductor.journal()
        );
    }
    // Who looks after it ends, and its nodes go elsewhere: another does.
    let conductor = several.journal().conductor;
    let at = several
        .planes
        .iter()
        .position(|one| one.id == conductor)
        .unwrap();
    several.planes.remove(at);
    several.nodes.iter_mut().for_each(|node| node.1 %= 2);
    several.pass(200);
    assert_eq!(several.with(newest.root), 6);
    let journal = several.journal();
    assert_eq!(journal.rollouts[0].state, State::Completed);
    assert!(several.ids().contains(&journal.conductor));
    assert_eq!(journal.rollouts.len(), 1);
}

#[test]
fn a_change_that_a_node_elsewhere_refuses_is_rolled_back() {
    let mut several = Several::new(2, 4);
    commit(&several.planes[0].publisher, Service::KIND, 1, 80);
    several.pass(200);
    let good = several.newest();
    for (node, _) in &mut several.nodes {
        node.refusal = Some(Refused {
            revision: good.revision.next(),
            reason: "no".to_owned(),
        });
    }
    commit(&several.planes[1].publisher, Service::KIND, 1, 81);
    several.pass(5);
    assert_eq!(several.journal().rollouts[0].state, State::RolledBack);
    assert_eq!(several.newest().root, good.root);
    assert_eq!(several.with(good.root), 4);
}

#[test]
fn an_order_reaches_the_roll_out_through_any() {
    let mut several = Several::new(2, 4);
    commit(&several.planes[0].publisher, Service::KIND, 1, 80);
    several.turn();
    let id = several.journal().rollouts[0].to;
    let order = |several: &mut Several, at: usize, order| {
        let ids = several.ids();
        let situation = Situation {
            nodes: &[],
            present: Some(&ids),
            now: UnixTime::from_secs(several.seconds),
        };
        several.planes[at]
            .conductor
            .turn(Some((id, order)), &situation)
    };
    assert_eq!(order(&mut several, 1, Order::Halt), Ok(()));
    several.pass(200);
    assert_eq!(several.journal().rollouts[0].state, State::Halted);
    assert_eq!(several.with(several.newest().root), 1);
    several.reach(false);
    assert_eq!(
        order(&mut several, 1, Order::Release),
        Err(OrderError::Unkept)
    );
    several.pass(5);
    assert_eq!(several.with(several.newest().root), 1);
    several.reach(true);
    assert_eq!(order(&mut several, 1, Order::Release), Ok(()));
    several.pass(5);
    assert_eq!(several.with(several.newest().root), 4);
}

#[test]
fn nobody_is_given_what_is_not_kept_but_every_revocation() {
    let mut several = Several::new(2, 4);
    let before = several.newest();
    several.reach(false);
    commit(&several.planes[0].publisher, Service::KIND, 1, 80);
    several.pass(200);
    assert_eq!(several.with(before.root), 4);
    commit(&several.planes[0].publisher, Revocation::KIND, 2, 7);
    several.pass(1);
    let held = several.nodes[0].0.running;
    assert_ne!(held.root, before.root);
    assert_eq!(several.with(held.root), 4);
    assert_eq!(held.revision, before.revision);
    several.reach(true);
    several.pass(200);
    assert_eq!(several.with(several.newest().root), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(64)))]

    /// Whichever control plane acts, ends or cannot reach the others, and wherever nodes go: no node is led back,
    /// and in the end all run the newest with every revocation.
    #[test]
    fn several_lead_as_one(
        planes in 1usize..4,
        nodes in 1usize..6,
        events in prop::collection::vec((0u8..9, 0u128..4, 0u64..4), 1..40),
    ) {
        let mut several = Several::new(planes, nodes);
        let mut before: Vec<Position> = several.nodes.iter().map(|node| node.0.running).collect();
        for (event, number, content) in events {
            let at = usize::try_from(number).unwrap() % planes;
            match event {
                0 | 1 => {
                    let publisher = several.planes[at].publisher.clone();
                    publisher.catch_up().unwrap();
                    commit(&publisher, Service::KIND, number, content);
                }
                2 => {
                    let publisher = several.planes[at].publisher.clone();
                    publisher.catch_up().unwrap();
                    commit(&publisher, Revocation::KIND, number, content);
                }
                3 => several.pass(35),
                4 => several.planes[at] = {
                    several.reach(true);
                    several.plane()
                },
                5 => several.reach(content % 2 == 0),
                6 => {
                    let node = usize::try_from(content).unwrap() % nodes;
                    several.nodes[node].1 = at;
                }
                7 => {
                    let to = several.newest().revision.next();
                    let node = usize::try_from(content).unwrap() % nodes;
                    let reason = "no".to_owned();
                    several.nodes[node].0.refusal = Some(Refused { revision: to, reason });
                }
                _ => several.turn_one(at),
            }
            for (node, before) in several.nodes.iter().zip(&mut before) {
                let running = node.0.running;
                prop_assert!(running == *before || running.is_after(before));
                *before = running;
            }
        }
        several.reach(true);
        several.nodes.iter_mut().for_each(|node| node.0.refusal = None);
        several.pass(5);
        if let Some(open) = several.journal().open().map(|open| open.to) {
            let ids = several.ids();
            let now = UnixTime::from_secs(several.seconds);
            let views: Vec<View> = several.nodes.iter().map(|node| node.0.clone()).collect();
            let situation = Situation { nodes: &views, present: Some(&ids), now };
            let _ = several.planes[0].conductor.turn(Some((open, Order::Resume)), &situation);
        }
        several.pass(600);
        let newest = several.newest();
        prop_assert_eq!(several.with(newest.root), nodes, "{:?}", several.journal());
        let all = revocations(&several.planes[0].publisher.config());
        for plane in &several.planes {
            prop_assert_eq!(&revocations(plane.conductor.newest().config()), &all);
        }
    }
}

#[test]
fn roll_outs_that_cannot_be_read_are_kept_aside_before_others_take_their_place() {
    let (value, aside) = (Value::default(), Arc::default());
    *value.0.lock().unwrap() = (1, b"nonsense".to_vec(), false);
    let mut keeper = Keeper::Shared(Box::new(Sight {
        value: value.clone(),
        version: 0,
        aside: Arc::clone(&aside),
    }));
    assert_eq!(keeper.newer().unwrap(), None);
    assert_eq!(*aside.lock().unwrap(), [b"nonsense".to_vec()]);
    assert!(keeper.write(&Journal::default()).unwrap());
    assert_eq!(value.0.lock().unwrap().0, 2);
}
