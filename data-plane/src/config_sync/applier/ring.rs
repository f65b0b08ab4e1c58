//! Session keys that a control plane tells beside an update, which takes its time over a slow link: they are in force at once.
//!
//! What this node has stays what came with updates, at its position: changes are made to that, and the last good file holds it.
//! Requests run by the same records, with the keys that were told in the place of theirs.

use std::sync::Arc;

use prost::Message;
use proto::v1::{KeyRing, SessionKeys};
use shared::clock::UnixTime;
use shared::entity::{Entity, SessionKey};
use shared::signature::{Subject, Verifier};
use shared::snapshot::{Key, Position, Record, Snapshot};
use uuid::Uuid;

use super::{Applier, budget, compile_guarded};

/// All session keys of one state.
#[derive(Debug)]
struct Ring {
    /// Where that stands.
    at: Position,
    keys: Vec<Record>,
    /// As it came.
    came: SessionKeys,
}

/// What requests run by, where that is not what came.
#[derive(Debug)]
pub(super) struct Told {
    ring: Arc<Ring>,
    /// The records that came, with these keys.
    pub(super) records: Arc<Snapshot>,
}

impl Told {
    /// The keys as they came.
    pub(super) fn came(&self) -> &SessionKeys {
        &self.ring.came
    }

    /// The same keys in `snapshot`; none if that has newer ones, or is of another store: who sends that has keys of its own.
    pub(super) fn within(&self, snapshot: &Snapshot) -> Option<Self> {
        let is_ours = snapshot.position.generation == self.ring.at.generation;
        is_ours.then(|| Ring::within(&self.ring, snapshot))?
    }
}

impl Ring {
    /// What `told` says, if a control plane of the cluster does.
    fn read(told: &SessionKeys, verifier: &Verifier) -> Result<Self, String> {
        let ring = KeyRing::decode(told.ring.clone()).map_err(|error| error.to_string())?;
        let created = UnixTime::from_millis(ring.created_ms);
        let believed = verifier.verify(
            Subject::SessionKeys,
            &ring.chain,
            created,
            &told.ring,
            &told.signature,
        );
        believed.map_err(|reason| reason.to_string())?;
        let at = ring.target.map(Position::try_from);
        let at = at.and_then(Result::ok).ok_or("it names no position")?;
        let keys = ring.keys.into_iter().map(|record| {
            let id = Uuid::from_slice(&record.id).ok();
            let id = id.filter(|_| record.kind == SessionKey::KIND)?;
            let kind = SessionKey::KIND;
            Some(Record {
                key: Key { kind, id },
                json: record.json,
            })
        });
        let keys: Option<Vec<Record>> = keys.collect();
        let keys = keys.filter(|keys| !keys.is_empty());
        let keys = keys.ok_or("it holds no keys, or others")?;
        let came = told.clone();
        Ok(Self { at, keys, came })
    }

    /// These keys in `snapshot`; none if that has newer ones, or is of a store that was put in place of theirs.
    fn within(self: &Arc<Self>, snapshot: &Snapshot) -> Option<Told> {
        let position = snapshot.position;
        if !self.is_after(&position) {
            return None;
        }
        let before = snapshot.of_kind(SessionKey::KIND);
        let is_gone = |key: &Key| self.keys.iter().all(|record| record.key != *key);
        let gone: Vec<Key> = before.map(|record| record.key).filter(is_gone).collect();
        let (generation, revision) = (position.generation, position.revision);
        let patched = snapshot.patched(generation, revision, self.keys.clone(), &gone);
        let mut records = patched.ok()?;
        records.position = position;
        Some(Told {
            ring: Arc::clone(self),
            records: Arc::new(records),
        })
    }

    /// Whether these keys are newer than those at `position`: by when they are of, not by the revision that a node may be kept at.
    fn is_after(&self, position: &Position) -> bool {
        let order = |at: &Position| (at.generation, at.revision.max(at.urgent));
        order(&self.at) > order(position)
    }
}

impl Applier {
    /// The records that requests run by.
    pub(super) fn runs_by(&self) -> Option<Arc<Snapshot>> {
        let told = self.told.as_ref().map(|told| &told.records);
        told.or(self.running.as_ref()).cloned()
    }

    /// What runs as it came, at `target`, where keys were told beside it: whether these hold there is to be judged anew.
    pub(super) fn to_judge_at(&self, target: Position) -> Option<Snapshot> {
        self.told.as_ref()?;
        let mut came = Snapshot::clone(self.running.as_deref()?);
        came.position = target;
        Some(came)
    }

    /// Has requests run by the session keys that a control plane tells beside an update. What cannot be believed or used changes
    /// nothing: all of it comes with an update as well.
    pub(in super::super) async fn take_keys(&mut self, told: &SessionKeys) {
        let ring = match Ring::read(told, &self.verifier) {
            Ok(ring) => Arc::new(ring),
            Err(reason) => {
                tracing::warn!(
                    reason,
                    "session keys that came beside an update are not taken"
                );
                return;
            }
        };
        let is_late = |known: &Told| !ring.is_after(&known.ring.at);
        if self.told.as_ref().is_some_and(is_late) {
            return;
        }
        let told = self.running.as_ref().and_then(|came| ring.within(came));
        // Without a configuration nobody needs keys.
        if let Some(told) = told
            && self.runs_with(Some(told)).await
        {
            tracing::info!(revision = %ring.at.revision, "session keys are in force before the change under way");
        }
    }

    /// A control plane leads this node to what is of `generation`. Where that is what it runs, keys of another store end that were
    /// told while that was in place of this one: the nodes that it leads have its own.
    pub(in super::super) async fn is_led_in(&mut self, generation: u64) {
        let is_ours = |running: &Arc<Snapshot>| running.position.generation == generation;
        let is_foreign = |told: &Told| told.ring.at.generation != generation;
        if self.running.as_ref().is_some_and(is_ours)
            && self.told.as_ref().is_some_and(is_foreign)
            && self.runs_with(None).await
        {
            tracing::info!("session keys of another store are not in force any more");
        }
    }

    /// Has requests run by what came, with the keys that were `told` beside it in the place of its own. Whether they do.
    async fn runs_with(&mut self, told: Option<Told>) -> bool {
        let records = told.as_ref().map(|told| &told.records);
        let records = records.or(self.running.as_ref()).cloned();
        let before = self.live.load_full().zip(self.runs_by());
        let Some((records, (live, old))) = records.zip(before) else {
            return false;
        };
        let difference = records.inventory.since(&old.inventory);
        let compiled = compile_guarded(
            (budget(&records), self.memory),
            self.secrets.clone(),
            Some(((Arc::clone(&live), old), difference)),
            records,
        );
        match compiled.await {
            Ok(compiled) => {
                compiled.alarm(Some(&live));
                self.live.store(Some(Arc::new(compiled)));
                self.told = told;
                true
            }
            Err(faults) => {
                let reasons: Vec<&str> = faults.iter().map(|fault| &*fault.message).collect();
                tracing::warn!(
                    reason = reasons.join("; "),
                    "other session keys cannot be used with what runs"
                );
                false
            }
        }
    }
}

#[cfg(test)]
mod tests;
