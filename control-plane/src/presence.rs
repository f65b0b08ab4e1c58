//! Tells the other control planes over the same etcd of the nodes here, and learns of theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use shared::clock::monotonic;
use shared::snapshot::Hash;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::fleet::{Fleet, steady};
use crate::store::etcd::{Board, EtcdError, Post};

/// How often it is looked at what others tell, and whether there is something to tell them.
const LOOK: Duration = Duration::from_millis(500);

/// How often everything is told again.
const TELL: Duration = Duration::from_secs(10);

/// How often a control plane says that it is there, where roll-outs are judged by what it tells.
const THERE: Duration = Duration::from_secs(2);

/// How long taking everything back may take.
const LEAVE: Duration = Duration::from_secs(3);

/// This control plane among the others.
#[derive(Debug)]
pub(crate) struct Presence {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Presence {
    /// Starts to tell of `fleet` as `replica`, which rolls changes out by `plan`. `samples`: also what roll-outs are
    /// judged by.
    pub(crate) fn start(
        board: Board,
        fleet: Fleet,
        replica: Uuid,
        plan: String,
        samples: bool,
    ) -> Self {
        let (stop, stopping) = oneshot::channel();
        let teller = Teller {
            board,
            fleet,
            replica,
            plan,
            samples,
            told: BTreeMap::new(),
            plan_told: None,
            seen: BTreeMap::new(),
        };
        let task = tokio::spawn(teller.run(stopping));
        Self { stop, task }
    }

    /// Takes back what was told: the nodes find other control planes.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        if tokio::time::timeout(LEAVE, self.task).await.is_err() {
            tracing::warn!("other control planes are not told that this one ends");
        }
    }
}

struct Teller {
    board: Board,
    fleet: Fleet,
    replica: Uuid,
    plan: String,
    samples: bool,
    /// What was told of each part, and when.
    told: BTreeMap<u8, (Hash, Instant)>,
    /// How it rolls out: once, and now and then to say that it is there.
    plan_told: Option<Instant>,
    /// What has been read of others.
    seen: BTreeMap<Post, u64>,
}

impl Teller {
    async fn run(mut self, mut stopping: oneshot::Receiver<()>) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            let ends = tokio::select! {
                _ = ticks.tick() => false,
                _ = &mut stopping => true,
            };
            let turning = tokio::task::spawn_blocking(move || {
                let outcome = if ends {
                    self.board.leave(self.replica)
                } else {
                    self.turn()
                };
                (self, outcome)
            });
            let outcome;
            (self, outcome) = match turning.await {
                Ok(turned) => turned,
                Err(error) => {
                    tracing::error!(%error, "other control planes are told of the nodes here no more");
                    return;
                }
            };
            match &outcome {
                Ok(()) if failing => tracing::info!("other control planes are reached again"),
                Err(error) if !failing => {
                    tracing::error!(%error, "other control planes are not reached; what is known of their nodes stays");
                }
                _ => {}
            }
            failing = outcome.is_err();
            if ends {
                return;
            }
        }
    }

    fn turn(&mut self) -> Result<(), EtcdError> {
        match self.tell() {
            // What others cannot be told is no reason not to hear them.
            Err(error @ (EtcdError::Content(_) | EtcdError::Refused(_))) => {
                self.look()?;
                Err(error)
            }
            told => {
                told?;
                self.look()
            }
        }
    }

    /// Tells what others wait for at once, and everything now and then. A part that is not taken does not hold back
    /// the others.
    fn tell(&mut self) -> Result<(), EtcdError> {
        let now = monotonic();
        if !self.board.keep()? {
            (self.told, self.plan_told) = (BTreeMap::new(), None);
        }
        let mut outcome = Ok(());
        let age = |at: Instant| now.saturating_duration_since(at);
        let is_recent = |at: Instant| age(at) < TELL;
        if self.plan_told.is_none() {
            self.tell_plan(now)?;
        }
        for part in self.fleet.parts() {
            let told = self.told.get(&part.number);
            let is_told = told.is_some_and(|(mark, at)| *mark == part.mark && is_recent(*at));
            if is_told {
                continue;
            }
            // Over a slow etcd all of this takes long. What is gone meanwhile is told anew with the next turn.
            if !self.board.keep()? {
                return outcome;
            }
            match self.tell_part(part.number) {
                Ok(()) => _ = self.told.insert(part.number, (part.mark, now)),
                Err(error @ (EtcdError::Content(_) | EtcdError::Refused(_))) => {
                    outcome = Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        self.order()?;
        outcome?;
        // Only now: what was told before is still so.
        if self.samples && self.plan_told.is_some_and(|at| age(at) >= THERE) {
            self.tell_plan(now)?;
        }
        Ok(())
    }

    fn tell_plan(&mut self, now: Instant) -> Result<(), EtcdError> {
        let plan = Post::Plan(self.replica);
        self.board.tell(&plan, self.plan.as_bytes())?;
        self.plan_told = Some(now);
        Ok(())
    }

    fn order(&mut self) -> Result<(), EtcdError> {
        let mut orders = self.fleet.orders();
        let ordered = self.order_all(&mut orders);
        // They are given again.
        for node in orders {
            self.fleet.retry(&node);
        }
        ordered
    }

    /// Orders all of `orders`, and takes out what is ordered.
    fn order_all(&mut self, orders: &mut Vec<String>) -> Result<(), EtcdError> {
        if orders.is_empty() {
            return Ok(());
        }
        let passing = self.board.passing()?;
        while let Some(node) = orders.last() {
            self.board.order(node.as_bytes(), &passing)?;
            orders.pop();
            self.board.keep()?;
        }
        Ok(())
    }

    fn tell_part(&mut self, number: u8) -> Result<(), EtcdError> {
        let packed = self
            .fleet
            .tell(number, self.samples, steady())
            .map_err(|error| EtcdError::Content(error.to_string()))?;
        self.board.tell(&Post::Part(self.replica, number), &packed)
    }

    /// Takes in what others have told since.
    fn look(&mut self) -> Result<(), EtcdError> {
        // What changes while it is read is not known yet.
        let listed = steady();
        let posts = self.board.posts()?;
        let (mut present, mut there) = (BTreeSet::new(), BTreeSet::new());
        for (post, version) in &posts {
            if let Post::Part(replica, _) = post {
                if *replica == self.replica {
                    continue;
                }
                present.insert(*replica);
            }
            let is_seen = self.seen.get(post) == Some(version);
            if is_seen {
                continue;
            }
            // How others roll out is looked at by whoever starts.
            if let Post::Plan(replica) = post {
                there.insert(*replica);
                continue;
            }
            // What is gone already has said what it had to say.
            if let Some(told) = self.board.read(post)? {
                self.take(post, &told);
            }
            // Others count on what is told here, however long this takes. If it does not stay, the next turn says so.
            _ = self.board.keep();
        }
        for replica in there {
            self.fleet.hears(replica, listed);
        }
        self.fleet.look(present);
        // What is not there any more, such as in an etcd that was put back, is told again.
        let plan = Post::Plan(self.replica);
        self.plan_told = self.plan_told.filter(|_| posts.contains_key(&plan));
        self.told
            .retain(|number, _| posts.contains_key(&Post::Part(self.replica, *number)));
        self.seen = posts;
        Ok(())
    }

    fn take(&self, post: &Post, told: &[u8]) {
        match post {
            Post::Part(replica, part) => {
                if let Err(error) = self.fleet.take(*replica, *part, told, steady()) {
                    tracing::error!(%error, %replica, "what another control plane tells cannot be read");
                }
            }
            Post::Order(_) => self.fleet.obey(&String::from_utf8_lossy(told)),
            Post::Plan(_) => {}
        }
    }
}

/// Why a control plane does not run beside others.
#[derive(Debug, thiserror::Error)]
pub enum Disagreement {
    /// What others do is not known.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// They roll changes out in another way.
    #[error(
        "another control plane over this etcd has {theirs}, this one {ours}: give all the same, after all that run have been stopped; one that was killed counts for fifteen seconds"
    )]
    Plan {
        /// The settings here.
        ours: String,
        /// Those of another.
        theirs: String,
    },
}

/// Has `replica` roll changes out by `plan`, unless another control plane goes by another one. Two that start at the
/// same time may both be refused, but not both run.
pub(crate) fn agree(board: &mut Board, replica: Uuid, plan: &str) -> Result<(), Disagreement> {
    // An etcd that takes no writes (its disk is full) is no reason not to serve: it is told later.
    if let Err(error) = board.tell(&Post::Plan(replica), plan.as_bytes()) {
        tracing::warn!(%error, "other control planes are not told how this one rolls changes out");
    }
    let theirs = board.plans(replica)?;
    let Some(theirs) = theirs.into_iter().find(|theirs| theirs != plan) else {
        return Ok(());
    };
    board.leave(replica)?;
    Err(Disagreement::Plan {
        ours: plan.to_owned(),
        theirs,
    })
}

#[cfg(test)]
mod tests;
