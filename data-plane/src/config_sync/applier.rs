//! Makes a received snapshot the one that requests run by, or says why not.

mod again;
mod bounded;
mod ending;
mod handing;
mod ring;
mod saving;

use std::sync::Arc;
use std::time::Duration;

use plugins::sessions::revocations::Revocations;
use proto::v1::Fault;
use proto::v1::fault::Code;
use shared::clock::UnixTime;
use shared::entity::{Entity, Revocation};
use shared::secret::Secret;
use shared::signature::Verifier;
use shared::snapshot::{Difference, Inventory, Key, Position, Snapshot};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::receiver::{Content, Update, fault};
use super::vouched::Vouched;
use crate::balancer::{Balancers, marks};
use crate::compile::room::Room;
use crate::compile::{CompileFault, CompiledSnapshot};
use crate::last_good::{Kept, LastGood};
use crate::live::Live;
use crate::secrets::Secrets;
use again::Again;
use bounded::guarded;
pub(crate) use handing::Holds;
use saving::{Unsaved, save};

/// How long a core may work on compiling a snapshot, and how much longer for each record: ten times what it takes.
const COMPILE: Duration = Duration::from_secs(5);
const OF_A_RECORD: Duration = Duration::from_micros(100);
/// Faults of one refusal, and records that cannot be run, that are told.
pub(super) const FAULTS: usize = 20;
/// After this time what runs does no harm.
const HEALTHY: Duration = Duration::from_secs(30);

/// The one writer of the live snapshot.
#[derive(Debug)]
pub(super) struct Applier {
    live: Live,
    /// Where the secrets are that a snapshot refers to.
    secrets: Secrets,
    /// Bytes that this process may have; none: what the machine has.
    memory: Option<u64>,
    /// Which sessions are over before their time.
    revocations: Arc<Revocations>,
    /// What operators say of the health of targets is for these.
    balancers: Arc<Balancers>,
    /// What runs, as it came: what changes are made to.
    running: Option<Arc<Snapshot>>,
    /// What requests run by, if keys have come beside an update.
    told: Option<ring::Told>,
    /// Who vouched for what runs; none if it came from a file of before there were such.
    vouched: Option<Vouched>,
    verifier: Verifier,
    last_good: Arc<LastGood>,
    /// What the last good file is to hold next.
    unsaved: watch::Sender<Option<Unsaved>>,
    /// The root of what it holds.
    saved: watch::Receiver<Position>,
    /// When what this node has crashed with is run once more, if it has nothing else by then.
    again: Option<Again>,
}

impl Applier {
    /// Call on the runtime that is to write the file.
    pub(super) fn new(
        live: Live,
        (secrets, memory): (Secrets, Option<u64>),
        (revocations, balancers): (Arc<Revocations>, Arc<Balancers>),
        running: Option<Kept>,
        last_good: LastGood,
        verifier: Verifier,
    ) -> Self {
        let (unsaved, snapshots) = watch::channel(None);
        let on_disk = running.as_ref().filter(|running| running.on_disk);
        let position = on_disk.map(|running| running.snapshot.position);
        let (running, vouched) = running.map(|kept| (kept.snapshot, kept.vouched)).unzip();
        let (positions, saved) = watch::channel(position.unwrap_or_default());
        let is_idle = running.is_none() && !last_good.marker.quarantined().is_empty();
        let last_good = Arc::new(last_good);
        tokio::spawn(save(Arc::clone(&last_good), snapshots, positions));
        if running.is_some() {
            tokio::spawn(watch_health(Arc::clone(&last_good)));
        }
        if let Some(live) = live.load().as_deref() {
            // The process before heeded them; this one knows nothing of its targets yet.
            heed(&balancers, live, &live.revocations, UnixTime::now());
        }
        Self {
            live,
            secrets,
            memory,
            revocations,
            balancers,
            running: running.map(Arc::new),
            told: None,
            vouched: vouched.flatten(),
            verifier,
            last_good,
            unsaved,
            saved,
            again: is_idle.then(|| Again::new(Instant::now())),
        }
    }

    /// What requests run by; the default: nothing yet.
    pub(super) fn running(&self) -> Position {
        let live = self.live.load();
        let position = live.as_ref().map(|running| running.position());
        position.unwrap_or_default()
    }

    /// Whether the last good file holds what runs.
    pub(super) fn is_persisted(&self) -> bool {
        self.saved.borrow().root == self.running().root
    }

    /// Where the last good file is.
    pub(super) fn saved(&self) -> watch::Receiver<Position> {
        self.saved.clone()
    }

    /// The digests of what runs.
    pub(super) fn digests(&self) -> bytes::Bytes {
        let (none, running) = (Inventory::default(), self.running.as_deref());
        let inventory = running.map_or(&none, |running| &running.inventory);
        proto::encode_digests(inventory)
    }

    /// What this node will not run again.
    pub(super) fn quarantined(&self) -> Vec<Position> {
        if self.takes_anything() {
            return Vec::new();
        }
        self.last_good.marker.quarantined()
    }

    /// Takes up what the process before this one was ordered to run once more, while this one began. Whether there is such since
    /// the last call.
    pub(super) fn takes_up_releases(&self) -> bool {
        self.last_good.marker.takes_up_releases()
    }

    /// Believes other authorities, and seals under another private key, from now on.
    pub(super) fn renew(&mut self, verifier: Verifier, secret: Secret<Vec<u8>>) {
        self.verifier = verifier;
        self.last_good.renew(secret);
        self.persist();
    }

    /// Has what runs written to the last good file.
    pub(super) fn persist(&self) {
        if let (Some(snapshot), Some(vouched)) = (&self.running, &self.vouched) {
            self.unsaved.send_replace(Some(Unsaved {
                snapshot: Arc::clone(snapshot),
                vouched: vouched.clone(),
            }));
        }
    }

    /// Waits for the last good file to change.
    pub(super) async fn persisted(&mut self) {
        if self.saved.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Brings `update` into force, or leaves everything as it is and says why.
    pub(super) async fn apply(&mut self, update: Update) -> Result<(), Vec<Fault>> {
        let running = self.running();
        let target = update.target;
        if !target.is_after(&running) {
            let message = format!(
                "revision {} of generation {} is not after revision {} of generation {}, which runs",
                target.revision, target.generation, running.revision, running.generation
            );
            return Err(vec![fault(Code::Stale, message)]);
        }
        update
            .vouched
            .check(&self.verifier, &target)
            .map_err(|fault| vec![fault])?;
        let (vouched, ordered) = (update.vouched, update.ordered);
        match update.content.map_err(|fault| vec![fault])? {
            Content::Same => {
                let came = self.to_judge_at(target);
                match came.filter(|_| target.root == running.root) {
                    Some(came) => self.replace(came, vouched, false).await,
                    None => self.move_to(target, running, vouched),
                }
            }
            Content::Full(snapshot) => self.replace(snapshot, vouched, ordered).await,
            content => {
                let base = self.running.clone();
                let assembling = move || assemble(base.as_deref(), target, content);
                let snapshot = tokio::task::spawn_blocking(assembling).await;
                let snapshot = snapshot
                    .unwrap_or_else(|_| Err(fault(Code::Panic, "putting it together panicked")))
                    .map_err(|fault| vec![fault])?;
                self.replace(snapshot, vouched, ordered).await
            }
        }
    }

    fn move_to(
        &mut self,
        target: Position,
        running: Position,
        vouched: Vouched,
    ) -> Result<(), Vec<Fault>> {
        let live = self.live.load();
        let Some(live) = live.as_ref().filter(|_| target.root == running.root) else {
            let message = "the content of this position is not what runs";
            return Err(vec![fault(Code::Corrupt, message)]);
        };
        live.move_to(target);
        if let Some(running) = &mut self.running {
            Arc::make_mut(running).position = target;
        }
        // The file holds this content, with another position that was vouched for. Without one it is not to
        // last.
        if self.vouched.replace(vouched).is_none() {
            self.persist();
        }
        Ok(())
    }

    /// Whether `snapshot` differs from what runs in revocations only. Then it is in force without being
    /// compiled, so that a logout costs no node more than itself.
    fn revokes(
        &mut self,
        snapshot: &Arc<Snapshot>,
        difference: &Difference,
        vouched: &Vouched,
    ) -> Result<bool, Vec<Fault>> {
        let mut keys = difference.puts.iter().chain(&difference.removes);
        if self.told.is_some() {
            return Ok(false);
        }
        let live = self.live.load();
        let Some(live) = live
            .as_ref()
            .filter(|_| keys.all(|key| key.kind == Revocation::KIND))
        else {
            return Ok(false);
        };
        let added = revocations(snapshot, &difference.puts).map_err(|fault| vec![fault])?;
        let now = UnixTime::now();
        heed(&self.balancers, live, &added, now);
        self.revocations.add(added, now);
        self.revocations.forget(gone(difference), now);
        live.move_to(snapshot.position);
        self.running = Some(Arc::clone(snapshot));
        self.vouched = Some(vouched.clone());
        self.persist();
        Ok(true)
    }

    /// Runs by `snapshot`; also by a configuration that this node has crashed with, if that is `ordered`, by an operator or for
    /// want of another.
    async fn replace(
        &mut self,
        snapshot: Snapshot,
        vouched: Vouched,
        ordered: bool,
    ) -> Result<(), Vec<Fault>> {
        let snapshot = Arc::new(snapshot);
        let told = self.told.as_ref().and_then(|told| told.within(&snapshot));
        let records = told.as_ref().map_or(&snapshot, |told| &told.records);
        let running = self.runs_by();
        let since = |running: &Arc<Snapshot>| records.inventory.since(&running.inventory);
        let difference = running.as_ref().map(since);
        if let Some(difference) = &difference
            && self.revokes(&snapshot, difference, &vouched)?
        {
            return Ok(());
        }
        let configuration = snapshot.configuration();
        if ordered || self.takes_anything() {
            self.last_good
                .marker
                .release(&configuration, &snapshot.position.root);
        } else if self
            .last_good
            .marker
            .is_quarantined(&configuration, &snapshot.position.root)
        {
            let message = "this node crashed with it, twice";
            return Err(vec![fault(Code::Quarantined, message)]);
        }
        let gone: Vec<Uuid> = difference.iter().flat_map(gone).collect();
        // Without anything that runs, all are.
        let added = difference.as_ref().map(|difference| {
            let puts = difference.puts.iter();
            let ended = puts.filter(|key| key.kind == Revocation::KIND).copied();
            revocations(&snapshot, &ended.collect::<Vec<Key>>())
        });
        let added = added.transpose().map_err(|fault| vec![fault])?;
        let before = self.live.load_full().zip(running).zip(difference);
        let compiled = compile_guarded(
            (budget(&snapshot), self.memory),
            self.secrets.clone(),
            before,
            Arc::clone(records),
        )
        .await?;
        compiled.alarm(self.live.load().as_deref());
        // In force before anyone can count on it.
        let revocations = compiled.revocations.iter().copied();
        let now = UnixTime::now();
        self.revocations.add(revocations, now);
        self.revocations.forget(gone, now);
        let marker = &self.last_good.marker;
        marker.tries(snapshot.position, configuration);
        // Nobody else writes, so what was checked still holds.
        let added = added.as_deref().unwrap_or(&compiled.revocations);
        heed(&self.balancers, &compiled, added, now);
        let before = self.live.swap(Some(Arc::new(compiled)));
        let ran = (
            self.running.replace(snapshot),
            std::mem::replace(&mut self.told, told),
        );
        self.vouched = Some(vouched);
        // Freeing a large configuration takes a while.
        tokio::task::spawn_blocking(move || drop((before, ran)));
        self.persist();
        tokio::spawn(watch_health(Arc::clone(&self.last_good)));
        Ok(())
    }

    /// Whether what runs lacks secrets, which may be there by now.
    pub(super) fn lacks_secrets(&self) -> bool {
        let live = self.live.load();
        live.as_ref()
            .is_some_and(|live| live.unfit().lacks_secrets())
    }

    /// Looks for the secrets that what runs lacks, and takes up those that are there.
    pub(super) async fn find_secrets(&mut self) {
        let (Some(live), Some(running)) = (self.live.load_full(), self.runs_by()) else {
            return;
        };
        if !live.unfit().lacks_secrets() {
            return;
        }
        let (secrets, before) = (self.secrets.clone(), Arc::clone(&live));
        let records = Arc::clone(&running);
        let looking = move || secrets.finds_more(&before, &records);
        if !tokio::task::spawn_blocking(looking).await.unwrap_or(false) {
            return;
        }
        let before = (
            (Arc::clone(&live), Arc::clone(&running)),
            Difference::default(),
        );
        let budget = (budget(&running), self.memory);
        match compile_guarded(budget, self.secrets.clone(), Some(before), running).await {
            Ok(compiled) => {
                tracing::info!("secrets that were missing have been found");
                compiled.alarm(Some(&live));
                self.live.store(Some(Arc::new(compiled)));
            }
            Err(faults) => {
                let reasons: Vec<&str> = faults.iter().map(|fault| &*fault.message).collect();
                tracing::error!(
                    reason = reasons.join("; "),
                    "what is behind references is refused"
                );
            }
        }
    }
}

/// Sets the health of targets of `compiled` as operators say among what is `added`.
pub(super) fn heed(
    balancers: &Balancers,
    compiled: &CompiledSnapshot,
    added: &[Revocation],
    now: UnixTime,
) {
    if added.iter().any(Revocation::is_mark) {
        marks::heed(compiled.balancers(balancers), added, now);
    }
}

/// The revocations that a snapshot has no more.
fn gone(difference: &Difference) -> impl Iterator<Item = Uuid> {
    let removes = difference.removes.iter();
    let removes = removes.filter(|key| key.kind == Revocation::KIND);
    removes.map(|key| key.id)
}

/// The revocations among `keys`, all of which are to be that.
fn revocations(snapshot: &Snapshot, keys: &[Key]) -> Result<Vec<Revocation>, Fault> {
    let read = |key: &Key| {
        let record = snapshot.record(key)?;
        serde_json::from_slice(&record.json).ok()
    };
    let unreadable = |key: &Key| Fault {
        code: Code::Invalid.into(),
        entity_type: key.kind.to_owned(),
        entity_id: key.id.to_string(),
        field: "@entity".to_owned(),
        message: "not a record of this kind".to_owned(),
    };
    keys.iter()
        .map(|key| read(key).ok_or_else(|| unreadable(key)))
        .collect()
}

/// The snapshot that `content` leads to from what runs.
pub(super) fn assemble(
    running: Option<&Snapshot>,
    target: Position,
    content: Content,
) -> Result<Snapshot, Fault> {
    let on = |base: Position| {
        let fits = running.filter(|running| running.position.root == base.root);
        fits.ok_or_else(|| fault(Code::BadBase, "it builds on something else than what runs"))
    };
    let (generation, revision) = (target.generation, target.revision);
    let patched = match content {
        Content::Full(snapshot) => return Ok(snapshot),
        Content::Same => return Err(fault(Code::Corrupt, "it holds no records")),
        Content::Changes { base, changes } => {
            on(base)?.patched(generation, revision, changes.puts, &changes.removes)
        }
        Content::Buckets {
            base,
            buckets,
            changes,
        } => on(base)?.with_buckets(generation, revision, &buckets, changes.puts),
    };
    let mut snapshot = patched.map_err(|error| fault(Code::Corrupt, error.to_string()))?;
    snapshot.position.urgent = target.urgent;
    if snapshot.position.root != target.root {
        let message = "the records do not have the root that Commit tells";
        return Err(fault(Code::Corrupt, message));
    }
    Ok(snapshot)
}

/// What runs, with the records that it was compiled from.
type Running = (Arc<CompiledSnapshot>, Arc<Snapshot>);

/// How long compiling `snapshot` may take.
fn budget(snapshot: &Snapshot) -> Duration {
    let records = u32::try_from(snapshot.len()).unwrap_or(u32::MAX);
    COMPILE.saturating_add(OF_A_RECORD.saturating_mul(records))
}

/// Compiles on a thread of its own, within so much time and memory; on what runs `before`, where that is enough.
async fn compile_guarded(
    (budget, memory): (Duration, Option<u64>),
    secrets: Secrets,
    before: Option<(Running, Difference)>,
    snapshot: Arc<Snapshot>,
) -> Result<CompiledSnapshot, Vec<Fault>> {
    let (room, _wait) = Room::of_process(memory);
    guarded(budget, move || match &before {
        Some(((ran, old), changed)) => secrets.compile_on((ran, old), &snapshot, changed, &room),
        None => secrets.compile(&snapshot, &room),
    })
    .await
}

pub(super) fn told(fault: CompileFault) -> Fault {
    Fault {
        code: Code::Invalid.into(),
        entity_type: fault.kind.to_owned(),
        entity_id: fault.id.to_string(),
        field: fault.field,
        message: fault.message,
    }
}

/// Takes the crash marker away once what runs now has run for a while.
async fn watch_health(last_good: Arc<LastGood>) {
    let marker = &last_good.marker;
    let before = marker.current();
    tokio::time::sleep(HEALTHY).await;
    if marker.current() == before {
        marker.healthy();
    }
}

#[cfg(test)]
mod tests;
