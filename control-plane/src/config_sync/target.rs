//! Publishes a little after a change, so that many changes make one, and has the conductor say to whom.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use shared::snapshot::Revision;
use shared::telemetry::chain;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::Target;
use super::conductor::{Conductor, Situation, Staging};
use super::rollouts::{OrderError, Request, Rollouts};
use super::targets::{Strays, Targets};
use crate::config::Config;
use crate::fleet::{Fleet, steady};
use crate::publisher::Publisher;
use crate::rollout::rollback::{self, RollbackError};
use crate::rollout::{Journal, JournalError};
use crate::snapshot::{Follower, SharedSigner};

/// Quiet time that ends a burst of changes.
const QUIET: Duration = Duration::from_millis(50);
/// The longest that a change waits for a burst to end.
const LATEST: Duration = Duration::from_millis(500);

/// How often it is looked at how nodes do, while a change is on its way through the fleet.
const WATCH: Duration = Duration::from_millis(500);

/// Orders that may wait.
const ORDERS: usize = 16;

/// How long a rollback waits for its next attempt, if it was not possible, or the roll-out is still open after it.
const AGAIN: Duration = Duration::from_secs(10);

/// Publishes what `publisher` holds, now and after each burst of changes, to the nodes of `fleet`.
pub(super) fn follow(
    publisher: &Publisher,
    signer: SharedSigner,
    fleet: &Fleet,
    staging: Staging,
    replica: Uuid,
) -> Result<(Target, Rollouts, JoinHandle<()>), JournalError> {
    let revisions = publisher.watch();
    let follower = Follower::new(publisher.config(), publisher.generation(), signer);
    let conductor = Conductor::new(follower, staging, publisher, replica, steady())?;
    let (sender, target) = watch::channel(conductor.targets());
    let (told, journal) = watch::channel(Arc::new(conductor.journal().clone()));
    let (orders, received) = mpsc::channel(ORDERS);
    let rollouts = Rollouts {
        plan: conductor.plan().copied(),
        journal,
        orders,
    };
    let leader = Leader {
        publisher: publisher.clone(),
        fleet: fleet.clone(),
        targets: sender,
        told,
        attempt: None,
    };
    let task = tokio::spawn(leader.lead(conductor, revisions, received));
    Ok((target, rollouts, task))
}

/// What happened that may lead nodes elsewhere.
enum Event {
    Changed(Config),
    Ordered(Request),
    Time,
}

struct Leader {
    publisher: Publisher,
    fleet: Fleet,
    targets: watch::Sender<Targets>,
    told: watch::Sender<Arc<Journal>>,
    /// What was last gone back to, or was to be, and when that may be tried again.
    attempt: Option<(Revision, Instant)>,
}

impl Leader {
    async fn lead(
        mut self,
        mut conductor: Conductor,
        mut revisions: watch::Receiver<Revision>,
        mut orders: mpsc::Receiver<Request>,
    ) {
        let mut strays = Astray::default();
        loop {
            let at = strays.at.clone();
            let generation = self.publisher.generation();
            let event = tokio::select! {
                changed = revisions.changed() => {
                    // Nobody will change anything any more: the process ends.
                    if changed.is_err() {
                        return;
                    }
                    settle(&mut revisions, &self.publisher).await;
                    Event::Changed(self.publisher.config())
                }
                Some(request) = orders.recv() => Event::Ordered(request),
                () = tokio::time::sleep(WATCH), if conductor.is_conducting() => Event::Time,
                () = others_stray(&self.fleet, generation, &at) => Event::Time,
                led = strays.led() => {
                    if let Some(led) = led {
                        conductor.take_strays(led);
                        self.announce(&conductor, false);
                    }
                    strays.lead(&conductor);
                    continue;
                }
            };
            strays.at = self.fleet.strays(generation);
            let published = matches!(event, Event::Changed(_));
            let nodes = match conductor.plan() {
                Some(_) => self.fleet.views(self.publisher.generation()),
                None => Vec::new(),
            };
            let (present, now) = (self.fleet.present(), steady());
            let turning = tokio::task::spawn_blocking(move || {
                let situation = Situation {
                    nodes: &nodes,
                    present: present.as_ref(),
                    now,
                };
                let done = turn(&mut conductor, event, &situation);
                (conductor, done)
            });
            let done;
            (conductor, done) = match turning.await {
                Ok(turned) => turned,
                Err(error) => {
                    tracing::error!(%error, "publishing a snapshot failed; nodes are sent no more");
                    return;
                }
            };
            self.announce(&conductor, published);
            if let Some((answer, outcome)) = done {
                // Who asked may be gone.
                let _ = answer.send(outcome);
            }
            strays.due = true;
            strays.lead(&conductor);
            self.roll_back(&conductor).await;
        }
    }

    fn announce(&self, conductor: &Conductor, published: bool) {
        let newest = conductor.newest();
        if published {
            tracing::info!(
                revision = %newest.position.revision,
                records = newest.records(),
                "snapshot ready"
            );
        }
        self.told.send_if_modified(|told| {
            let changed = **told != *conductor.journal();
            if changed {
                *told = Arc::new(conductor.journal().clone());
            }
            changed
        });
        let targets = conductor.targets();
        self.targets.send_if_modified(|before| {
            let changed = *before != targets;
            *before = targets;
            changed
        });
    }

    /// Makes the state before a change that went wrong a new revision.
    async fn roll_back(&mut self, conductor: &Conductor) {
        let Some((to, from)) = conductor.rollback() else {
            return;
        };
        let now = Instant::now();
        if self
            .attempt
            .is_some_and(|(tried, again)| tried == to && now < again)
        {
            return;
        }
        self.attempt = Some((to, now + AGAIN));
        let publisher = self.publisher.clone();
        let back = tokio::task::spawn_blocking(move || rollback::carry_out(&publisher, from, to));
        match back.await {
            Ok(Ok(revision)) => {
                tracing::warn!(%from, %to, %revision, "rolled back");
                self.publisher.hurry();
            }
            // It is tried again once what came meanwhile is published.
            Ok(Err(RollbackError::Newer)) => {
                tracing::warn!(%from, %to, "not rolled back before what is newer is published");
                self.attempt = None;
            }
            Ok(Err(error)) => {
                tracing::error!(error = %chain(&error), %to, "not rolled back");
            }
            Err(error) => tracing::error!(%error, %to, "not rolled back"),
        }
    }
}

/// The outcome of an order, and who waits for it.
type Done = (
    oneshot::Sender<Result<(), OrderError>>,
    Result<(), OrderError>,
);

/// Takes in what happened, and has it kept before a node learns of it.
fn turn(conductor: &mut Conductor, event: Event, situation: &Situation<'_>) -> Option<Done> {
    let (order, answer) = match event {
        Event::Changed(config) => {
            conductor.publish(config);
            (None, None)
        }
        Event::Ordered(Request { id, order, answer }) => (Some((id, order)), Some(answer)),
        Event::Time => (None, None),
    };
    let outcome = conductor.turn(order, situation);
    Some((answer?, outcome))
}

/// Nodes that cannot run what they are led to, and what leads them where they are. The others do not wait for that: it may
/// have to read a long history.
#[derive(Debug, Default)]
struct Astray {
    /// What they run.
    at: BTreeSet<Revision>,
    /// Whether they are to be led anew.
    due: bool,
    leading: Option<JoinHandle<Strays>>,
}

impl Astray {
    /// Begins to lead them to what `conductor` has published, if that is due and nothing else is under way.
    fn lead(&mut self, conductor: &Conductor) {
        if self.leading.is_some() || !std::mem::take(&mut self.due) {
            return;
        }
        if self.at.is_empty() && !conductor.leads_strays() {
            return;
        }
        let (leading, at) = (conductor.leading(), self.at.clone());
        self.leading = Some(tokio::task::spawn_blocking(move || leading.lead(&at)));
    }

    /// Waits for where they are led, if that is under way; none if it is not known.
    async fn led(&mut self) -> Option<Strays> {
        let Some(leading) = &mut self.leading else {
            return std::future::pending().await;
        };
        let led = leading.await;
        self.leading = None;
        if let Err(error) = &led {
            tracing::error!(%error, "nodes that cannot run the newest are sent no keys");
        }
        led.ok()
    }
}

/// Waits until nodes stray elsewhere than at `known` revisions.
async fn others_stray(fleet: &Fleet, generation: u64, known: &BTreeSet<Revision>) {
    loop {
        tokio::time::sleep(WATCH).await;
        if fleet.strays(generation) != *known {
            return;
        }
    }
}

/// Waits until no change has come for a while, but not for ever, and not at all if one is urgent.
async fn settle<T>(changes: &mut watch::Receiver<T>, publisher: &Publisher) {
    tokio::select! {
        () = quiet(changes) => {}
        () = publisher.urgent() => {}
    }
}

async fn quiet<T>(changes: &mut watch::Receiver<T>) {
    let latest = Instant::now() + LATEST;
    loop {
        let until = latest.min(Instant::now() + QUIET);
        match tokio::time::timeout_at(until, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests;
