//! Revocations that no control plane has stored yet: kept on disk, so that a logout outlives this process, and
//! sent on as soon as a control plane is heard.
//!
//! The file lies beside the last good configuration and is sealed as that is. A process with a successor shares it
//! with that: what one writes, the other leaves there until it is stored.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use plugins::sessions::revocations::Revocations;
use proto::v1::answer;
use proto::v1::request::What;
use shared::clock::{UnixTime, monotonic};
use shared::entity::Revocation;
use shared::telemetry::Trouble;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::ask::Questions;
use crate::config_sync::backoff::{random, spread};
use crate::last_good::beside::{SealedFile, Unusable};
use crate::last_good::sealing::{Magic, OVERHEAD, Sealing, Unopened};

const MAGIC: Magic = *b"WARDRV\0\x01";
const FILE: &str = "unstored-revocations";

/// Revocations that are kept: an outage's logouts.
const MOST: usize = 50_000;
/// Bytes of one: id, before, expires at.
const LENGTH: usize = 32;
/// Those that are sent on together.
const TOGETHER: usize = 64;

/// How long the control plane may take to store revocations.
const STORED: Duration = Duration::from_secs(5);
/// The time until they are brought again while none is heard.
const UNHEARD: Duration = Duration::from_secs(1);
/// How often it is looked whether a process before this one, which ends its last exchanges, has kept more.
const LOOK: Duration = Duration::from_millis(500);
/// The same after a refusal, give or take a fifth, so that a fleet does not come as one: a store that takes no writes for now tells
/// nobody when it does again.
const REFUSED: Duration = Duration::from_secs(4);
/// For how long of that it does not matter that something else is stored, which often is what takes no room.
const LEAST: Duration = Duration::from_secs(1);

/// Revocations, each once.
pub(crate) type ById = BTreeMap<Uuid, Revocation>;

/// What became of revocations that were brought to the control plane.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stored {
    /// They are stored.
    Yes,
    /// It does not want to.
    Refused,
    /// It does not answer.
    Unheard,
}

/// Brings `revocations` to the control plane. That it refuses is logged as one of the `refusals`.
pub(crate) async fn store(
    questions: &Questions,
    revocations: &[Revocation],
    refusals: &mut Trouble,
) -> Stored {
    let Ok(json) = serde_json::to_vec(revocations) else {
        return Stored::Refused;
    };
    match questions
        .ask_patiently(What::Revoke(json.into()), STORED, || false)
        .await
    {
        Ok(answer::What::Stored(true)) => Stored::Yes,
        Ok(answer::What::Refused(reason)) => {
            if refusals.is_news(&reason, monotonic()) {
                tracing::error!(reason, "the control plane does not store a revocation");
            }
            Stored::Refused
        }
        _ => Stored::Unheard,
    }
}

/// The unstored revocations of one node. The default keeps them in memory only.
#[derive(Debug, Default)]
pub(crate) struct Unstored {
    state: Mutex<State>,
    kept: Option<Kept>,
    /// Held by the one that writes.
    writer: Mutex<()>,
    more: Notify,
    /// Told whenever the control plane has stored something.
    stores: Notify,
}

#[derive(Debug, Default)]
struct State {
    unstored: ById,
    /// Stored since the file was written.
    stored: ById,
    /// Whether the file says something else.
    changed: bool,
    /// Whether it could not be written.
    failing: bool,
    /// The renewal of the private key that the file is sealed under.
    renewal: u64,
    /// The file as it was when it was last looked into.
    seen: Option<Stamp>,
}

/// What tells a file from the one that was in its place: its number, its length and the time of its last change.
type Stamp = (u64, u64, Option<SystemTime>);

/// The file.
#[derive(Debug)]
struct Kept(SealedFile);

impl Unstored {
    /// What a process before this one has left in `directory`. A file that cannot be used is passed over.
    pub(crate) fn open(directory: &Path, sealing: Arc<Sealing>, now: UnixTime) -> Self {
        let renewal = sealing.renewals();
        let kept = Kept(SealedFile::new(
            directory,
            (FILE, MAGIC),
            sealing,
            MOST * LENGTH,
        ));
        let mut unstored = kept.read_or_warn();
        unstored.retain(|_, found| found.expires_at > now.as_secs());
        if !unstored.is_empty() {
            tracing::info!(
                count = unstored.len(),
                "revocations are to be brought to the control plane"
            );
        }
        Self {
            state: Mutex::new(State {
                unstored,
                renewal,
                ..State::default()
            }),
            kept: Some(kept),
            ..Self::default()
        }
    }

    /// All that is kept.
    pub(crate) fn all(&self) -> Vec<Revocation> {
        self.state().unstored.values().copied().collect()
    }

    /// Keeps `revocations` until they are stored; returns once they are on disk.
    pub(crate) async fn keep(self: &Arc<Self>, revocations: &[Revocation], now: UnixTime) {
        self.add(revocations, now);
        self.more.notify_one();
        self.write_aside().await;
    }

    /// Keeps what the process before this one kept, also where the disk has none of it.
    pub(crate) fn take_over(&self, revocations: &[Revocation], now: UnixTime) {
        self.add(revocations, now);
        self.more.notify_one();
    }

    /// `revocations` are stored.
    pub(crate) async fn forget(self: &Arc<Self>, revocations: &[Revocation]) {
        self.stores.notify_waiters();
        if self.remove(revocations) {
            self.write_aside().await;
        }
    }

    /// Sends on what is kept, for as long as there is somebody who may add to it.
    pub(crate) async fn send_on(self: Arc<Self>, questions: &Questions) {
        let mut refusals = Trouble::default();
        loop {
            // Also what could not be written before, or is sealed under a private key of before.
            self.write_aside().await;
            let next = self.next(UnixTime::now());
            if next.is_empty() {
                self.more.notified().await;
                continue;
            }
            match store(questions, &next, &mut refusals).await {
                Stored::Yes => {
                    refusals.ends();
                    self.remove(&next);
                    tracing::info!(
                        count = next.len(),
                        "revocations of before have reached the control plane"
                    );
                }
                Stored::Refused => {
                    let stored = self.stores.notified();
                    tokio::time::sleep(LEAST).await;
                    let pause = REFUSED * 4 / 5 + spread(REFUSED * 2 / 5, random());
                    _ = tokio::time::timeout(pause.saturating_sub(LEAST), stored).await;
                }
                Stored::Unheard => tokio::time::sleep(UNHEARD).await,
            }
        }
    }

    /// Takes up what another process of this node keeps, for as long as this one runs: the one before it has no way to a
    /// control plane any more. `revocations` are told of it.
    pub(crate) async fn take_up(self: Arc<Self>, revocations: &Revocations) {
        loop {
            tokio::time::sleep(LOOK).await;
            let this = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || this.look(UnixTime::now()));
            match looked.await {
                Ok(found) if found.is_empty() => {}
                Ok(found) => {
                    let count = found.len();
                    tracing::info!(count, "revocations of the previous process are taken over");
                    revocations.add(found, UnixTime::now());
                    self.more.notify_one();
                }
                Err(_) => tracing::error!("looking for revocations of the previous process failed"),
            }
        }
    }

    /// What is in the file and not known here: it is kept from now on.
    fn look(&self, now: UnixTime) -> Vec<Revocation> {
        let Some(kept) = &self.kept else {
            return Vec::new();
        };
        let stamp = kept.stamp();
        if stamp.is_none() || self.state().seen == stamp {
            return Vec::new();
        }
        let found = kept.read_or_warn();
        let mut state = self.state();
        let state = &mut *state;
        state.seen = stamp;
        let mut fresh = Vec::new();
        for (id, found) in found {
            let known = state.unstored.get(&id).copied();
            let merged = merge(known, found);
            let covers = |stored: &Revocation| stored.merge(found) == *stored;
            if found.expires_at > now.as_secs()
                && known != Some(merged)
                && !state.stored.get(&id).is_some_and(covers)
                && (known.is_some() || state.unstored.len() < MOST)
            {
                state.unstored.insert(id, merged);
                fresh.push(merged);
            }
        }
        fresh
    }

    /// Writes what has changed. Blocks on the disk.
    pub(crate) fn write(&self) {
        self.write_at(UnixTime::now());
    }

    fn write_at(&self, now: UnixTime) {
        let Some(kept) = &self.kept else {
            return;
        };
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let renewal = kept.0.renewals();
        let (unstored, stored) = {
            let mut state = self.state();
            let resealed = state.renewal != renewal && !state.unstored.is_empty();
            if !state.changed && !resealed {
                return;
            }
            state.changed = false;
            (state.unstored.clone(), state.stored.clone())
        };
        let written = kept.update(unstored, &stored, now);
        let mut state = self.state();
        match written {
            Ok(()) => {
                state.renewal = renewal;
                state.failing = false;
                state.stored.retain(|id, one| stored.get(id) != Some(one));
            }
            Err(error) => {
                state.changed = true;
                // It is tried again and again: once is enough to say so.
                if std::mem::replace(&mut state.failing, true) {
                    return;
                }
                tracing::error!(%error, "revocations that are not stored yet cannot be written to disk: they hold until this process ends");
            }
        }
    }

    async fn write_aside(self: &Arc<Self>) {
        let this = Arc::clone(self);
        if tokio::task::spawn_blocking(move || this.write())
            .await
            .is_err()
        {
            tracing::error!("writing revocations that are not stored yet failed");
        }
    }

    fn add(&self, revocations: &[Revocation], now: UnixTime) {
        let mut state = self.state();
        let state = &mut *state;
        let mut lost = 0_usize;
        for revocation in revocations {
            let id = revocation.id;
            let known = state.unstored.get(&id).copied();
            if known.is_none() && state.unstored.len() >= MOST {
                state
                    .unstored
                    .retain(|_, found| found.expires_at > now.as_secs());
                if state.unstored.len() >= MOST {
                    lost += 1;
                    continue;
                }
            }
            let merged = merge(known, *revocation);
            if known != Some(merged) {
                state.unstored.insert(id, merged);
                state.stored.remove(&id);
                state.changed = true;
            }
        }
        if lost > 0 {
            tracing::error!(
                lost,
                most = MOST,
                "no control plane has stored what this node has kept: further revocations hold until this process ends"
            );
        }
    }

    /// Whether any of them was kept.
    fn remove(&self, stored: &[Revocation]) -> bool {
        let mut state = self.state();
        let state = &mut *state;
        let mut removed = false;
        for revocation in stored {
            let id = revocation.id;
            let covered = |found: &Revocation| revocation.merge(*found) == *revocation;
            if state.unstored.get(&id).is_some_and(covered) {
                state.unstored.remove(&id);
                state.changed = true;
                removed = true;
                // If the disk takes nothing, the rest stays in the file and is stored once more.
                if state.stored.len() < MOST {
                    state.stored.insert(id, *revocation);
                }
            }
        }
        removed
    }

    /// What is to be sent on next. What has expired is forgotten.
    fn next(&self, now: UnixTime) -> Vec<Revocation> {
        let mut state = self.state();
        let before = state.unstored.len();
        state
            .unstored
            .retain(|_, found| found.expires_at > now.as_secs());
        state.changed |= state.unstored.len() != before;
        state.unstored.values().take(TOGETHER).copied().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Makes the file hold `unstored` as well, and nothing more that is `stored` or has expired at `now`.
    fn update(&self, mut unstored: ById, stored: &ById, now: UnixTime) -> io::Result<()> {
        let file = self.0.lock()?;
        for (id, found) in self.read_or_warn() {
            let covered = |stored: &Revocation| stored.merge(found) == *stored;
            if !stored.get(&id).is_some_and(covered) {
                let known = unstored.get(&id).copied();
                if known.is_some() || unstored.len() < MOST {
                    unstored.insert(id, merge(known, found));
                }
            }
        }
        unstored.retain(|_, found| found.expires_at > now.as_secs());
        if unstored.is_empty() {
            file.remove()
        } else {
            file.write(encode(unstored.values()))
        }
    }

    fn stamp(&self) -> Option<Stamp> {
        let found = std::fs::metadata(self.0.path()).ok()?;
        Some((found.ino(), found.len(), found.modified().ok()))
    }

    fn read_or_warn(&self) -> ById {
        self.read().unwrap_or_else(|reason| {
            let path = self.0.path();
            tracing::warn!(file = %path.display(), error = %reason, "revocations that no control plane has stored are lost");
            ById::new()
        })
    }

    fn read(&self) -> Result<ById, Unusable> {
        match self.0.read()? {
            Some(content) => Ok(decode(&content).ok_or(Unopened::Format)?),
            None => Ok(ById::new()),
        }
    }
}

fn merge(known: Option<Revocation>, other: Revocation) -> Revocation {
    known.map_or(other, |known| known.merge(other))
}

/// `revocations` in bytes.
pub(crate) fn encode<'a>(revocations: impl ExactSizeIterator<Item = &'a Revocation>) -> Vec<u8> {
    let mut content = Vec::with_capacity(revocations.len() * LENGTH + OVERHEAD);
    for revocation in revocations {
        content.extend(revocation.id.as_bytes());
        content.extend(revocation.before.to_be_bytes());
        content.extend(revocation.expires_at.to_be_bytes());
    }
    content
}

/// The revocations in `content`, if it holds nothing else.
pub(crate) fn decode(content: &[u8]) -> Option<ById> {
    let (all, []) = content.as_chunks::<LENGTH>() else {
        return None;
    };
    let decoded = all.iter().map(|one| {
        let (id, rest) = one.split_first_chunk()?;
        let (before, rest) = rest.split_first_chunk()?;
        let id = Uuid::from_bytes(*id);
        let revocation = Revocation {
            id,
            before: u64::from_be_bytes(*before),
            expires_at: u64::from_be_bytes(rest.try_into().ok()?),
        };
        Some((id, revocation))
    });
    decoded.collect()
}

#[cfg(test)]
mod tests;
