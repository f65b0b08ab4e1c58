//! When changes are announced, and to whom.

use std::sync::{Condvar, Mutex};

use proto::features::URGENT;
use shared::clock::UnixTime;
use shared::entity::{Entity, Revocation, Service};
use shared::snapshot::Position;
use tokio::sync::Notify;

use super::super::conductor::tests::{Memory, commit};
use super::*;
use crate::config_sync::Targets;
use crate::config_sync::rollouts::Order;
use crate::fleet::tests::introduction;
use crate::history::{Entry, History, HistoryFault};
use crate::publisher::{Journal as StoreJournal, JournalFault};
use crate::rollout::{Keeper, Plan};

/// A store whose history is read slowly: only while the gate is open.
#[derive(Clone, Default)]
struct Slow {
    memory: Memory,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    /// Told when somebody stands before it.
    asked: Notify,
}

impl StoreJournal for Slow {
    fn commit(&mut self, entry: &Entry) -> Result<(), JournalFault> {
        self.memory.commit(entry)
    }

    fn history(&self) -> Arc<dyn History> {
        Arc::new(self.clone())
    }
}

impl History for Slow {
    fn entry(&self, revision: Revision) -> Result<Option<Entry>, HistoryFault> {
        self.gate.asked.notify_one();
        let open = self.gate.open.lock().unwrap();
        drop(self.gate.opened.wait_while(open, |open| !*open).unwrap());
        self.memory.entry(revision)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_run_the_newest_holds_up_nobody_however_long_its_history_is() {
    let store = Slow::default();
    let publisher = Publisher::new(Config::default(), 1, Box::new(store.clone()));
    commit(&publisher, Service::KIND, 1, 80);
    let fleet = Fleet::default();
    let staging = Staging {
        plan: None,
        keeper: Keeper::file("nowhere".into()),
    };
    let signer = SharedSigner::default();
    let followed = follow(&publisher, signer, &fleet, staging, Uuid::nil());
    let (mut target, _rollouts, task) = followed.unwrap();
    let runs = target.borrow().newest().position;
    let mut joins = introduction("a", runs);
    joins.features.insert(URGENT.to_owned());
    let (member, _) = fleet.join(joins, UnixTime::default()).unwrap();

    let announced = |publisher: &Publisher| {
        let newest = publisher.config().revision();
        move |targets: &Targets| targets.newest().position.revision == newest
    };
    commit(&publisher, Service::KIND, 2, 80);
    let refused: Position = {
        let targets = target.wait_for(announced(&publisher)).await.unwrap();
        targets.newest().position
    };
    member.refused(refused, Vec::new(), UnixTime::default());
    store.gate.asked.notified().await;
    // What all others are led to does not wait for what this one is to be led to.
    commit(&publisher, Revocation::KIND, 3, 7);
    drop(target.wait_for(announced(&publisher)).await.unwrap());
    assert!(target.borrow().instead(&runs).is_none());

    *store.gate.open.lock().unwrap() = true;
    store.gate.opened.notify_all();
    let newest = publisher.config().revision();
    let has_all = |targets: &Targets| {
        let led = targets.instead(&runs);
        led.is_some_and(|led| led.position.urgent == newest)
    };
    drop(target.wait_for(has_all).await.unwrap());
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_rollback_that_was_possible_does_not_hold_up_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let memory = Box::new(Memory::default());
    let publisher = Publisher::new(Config::default(), 1, memory);
    let fleet = Fleet::default();
    let plan = Plan {
        canary: Duration::from_hours(1),
        share: 50,
        share_bake: Duration::from_hours(1),
        rollback: false,
    };
    let staging = Staging {
        plan: Some(plan),
        keeper: Keeper::file(directory.path().join("rollouts.json")),
    };
    let signer = SharedSigner::default();
    let followed = follow(&publisher, signer, &fleet, staging, Uuid::nil());
    let (target, rollouts, task) = followed.unwrap();
    let runs = target.borrow().newest().position;
    let _member = fleet.join(introduction("a", runs), UnixTime::now());
    let mut journal = rollouts.journal.clone();

    let began = Instant::now();
    for number in 1..=3 {
        commit(&publisher, Service::KIND, number, 80);
        let id = publisher.config().revision();
        let is_open =
            |journal: &Arc<Journal>| journal.open().is_some_and(|rollout| rollout.to == id);
        drop(journal.wait_for(is_open).await.unwrap());
        rollouts.order(id, Order::RollBack).await.unwrap();
        drop(journal.wait_for(|all| all.open().is_none()).await.unwrap());
        assert_eq!(publisher.config().revision(), id.next());
    }
    let took = began.elapsed();
    assert!(took < AGAIN, "{took:?}");
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_one_change_and_ends_in_bounded_time() {
    let (sender, mut changes) = watch::channel(0);
    tokio::spawn(async move {
        for number in 1..200 {
            sender.send_replace(number);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::future::pending::<()>().await;
    });
    changes.changed().await.unwrap();
    // Timers are exact to a millisecond.
    let exact = Duration::from_millis(5);
    let started = Instant::now();
    quiet(&mut changes).await;
    assert!((LATEST..LATEST + exact).contains(&started.elapsed()));
    tokio::time::sleep(Duration::from_secs(10)).await;
    changes.borrow_and_update();
    let started = Instant::now();
    quiet(&mut changes).await;
    assert!((QUIET..QUIET + exact).contains(&started.elapsed()));
}
