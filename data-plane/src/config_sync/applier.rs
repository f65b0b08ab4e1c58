//! Makes a received snapshot the one that requests run by, or says why not.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use plugins::revocations::Revocations;
use proto::v1::Fault;
use proto::v1::fault::Code;
use shared::clock::UnixTime;
use shared::snapshot::{Position, Snapshot};
use tokio::sync::watch;

use super::receiver::{Content, Update, fault};
use crate::compile::{CompileFault, CompiledSnapshot, compile};
use crate::last_good::LastGood;
use crate::live::Live;

/// How long a snapshot may take to compile.
const COMPILE: Duration = Duration::from_mins(1);
/// Faults of one refusal that are told.
const FAULTS: usize = 20;
/// Pause between two writes of the last good file.
const PERSIST: Duration = Duration::from_secs(1);

/// The one writer of the live snapshot.
#[derive(Debug)]
pub(super) struct Applier {
    live: Live,
    /// Which sessions are over before their time.
    revocations: Arc<Revocations>,
    /// What the last good file is to hold next.
    unsaved: watch::Sender<Option<Arc<Snapshot>>>,
    /// The root of what it holds.
    saved: watch::Receiver<Position>,
}

impl Applier {
    /// Call on the runtime that is to write the file.
    pub(super) fn new(live: Live, revocations: Arc<Revocations>, last_good: LastGood) -> Self {
        let (unsaved, snapshots) = watch::channel(None);
        // What runs at the start came from the file, if anything does.
        let running = live.load().as_ref().map(|running| running.position());
        let (positions, saved) = watch::channel(running.unwrap_or_default());
        tokio::spawn(save(Arc::new(last_good), snapshots, positions));
        Self {
            live,
            revocations,
            unsaved,
            saved,
        }
    }

    /// What requests run by; the default: nothing yet.
    pub(super) fn running(&self) -> Position {
        let live = self.live.load();
        live.as_ref()
            .map(|running| running.position())
            .unwrap_or_default()
    }

    /// Whether the last good file holds what runs.
    pub(super) fn is_persisted(&self) -> bool {
        self.saved.borrow().root == self.running().root
    }

    /// Waits for the last good file to change.
    pub(super) async fn persisted(&mut self) {
        if self.saved.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Brings `update` into force, or leaves everything as it is and says why.
    pub(super) async fn apply(&self, update: Update) -> Result<(), Vec<Fault>> {
        let running = self.running();
        let target = update.target;
        if !target.is_after(&running) {
            let message = format!(
                "revision {} of generation {} is not after revision {} of generation {}, which runs",
                target.revision, target.generation, running.revision, running.generation
            );
            return Err(vec![fault(Code::Stale, message)]);
        }
        match update.content.map_err(|fault| vec![fault])? {
            Content::Same => self.move_to(target, running),
            Content::Full(snapshot) => self.replace(snapshot).await,
        }
    }

    fn move_to(&self, target: Position, running: Position) -> Result<(), Vec<Fault>> {
        let live = self.live.load();
        let Some(live) = live.as_ref().filter(|_| target.root == running.root) else {
            let message = "the content of this position is not what runs";
            return Err(vec![fault(Code::Corrupt, message)]);
        };
        live.move_to(target);
        Ok(())
    }

    async fn replace(&self, snapshot: Snapshot) -> Result<(), Vec<Fault>> {
        let snapshot = Arc::new(snapshot);
        let compiled = compile_guarded(Arc::clone(&snapshot)).await?;
        // In force before anyone can count on it.
        let revocations = compiled.revocations.iter().copied();
        self.revocations.add(revocations, UnixTime::now());
        // Nobody else writes, so what was checked still holds.
        let before = self.live.swap(Some(Arc::new(compiled)));
        // Freeing a large configuration takes a while.
        tokio::task::spawn_blocking(move || drop(before));
        self.unsaved.send_replace(Some(snapshot));
        Ok(())
    }
}

/// Compiles on a thread of its own, within bounds.
async fn compile_guarded(snapshot: Arc<Snapshot>) -> Result<CompiledSnapshot, Vec<Fault>> {
    let work = tokio::task::spawn_blocking(move || {
        std::panic::catch_unwind(AssertUnwindSafe(|| compile(&snapshot)))
    });
    match tokio::time::timeout(COMPILE, work).await {
        Ok(Ok(Ok(compiled))) => {
            compiled.map_err(|faults| faults.into_iter().take(FAULTS).map(told).collect())
        }
        Ok(Ok(Err(_)) | Err(_)) => Err(vec![fault(Code::Panic, "compiling it panicked")]),
        Err(_) => {
            let message = format!("compiling it took over {} s", COMPILE.as_secs());
            Err(vec![fault(Code::Timeout, message)])
        }
    }
}

fn told(fault: CompileFault) -> Fault {
    Fault {
        code: Code::Invalid.into(),
        entity_type: fault.kind.to_owned(),
        entity_id: fault.id.to_string(),
        field: fault.field,
        message: fault.message,
    }
}

/// Writes the newest snapshot to the last good file, again and again.
async fn save(
    last_good: Arc<LastGood>,
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    saved: watch::Sender<Position>,
) {
    while snapshots.changed().await.is_ok() {
        let Some(snapshot) = snapshots.borrow_and_update().clone() else {
            continue;
        };
        let position = snapshot.position;
        let last_good = Arc::clone(&last_good);
        match tokio::task::spawn_blocking(move || last_good.write(&snapshot)).await {
            Ok(Ok(())) => _ = saved.send_replace(position),
            Ok(Err(error)) => tracing::error!(%error, "the last good file cannot be written"),
            Err(error) => tracing::error!(%error, "writing the last good file panicked"),
        }
        tokio::time::sleep(PERSIST).await;
    }
}
