//! What OpenID providers last said of themselves, on disk: a node that starts while one is away goes on with it.
//!
//! The file lies beside the last good configuration and is sealed as that is: whoever could write it could bring in keys.
//! A process with a successor leaves it to that: what the one learned earlier must not take the place of what the other knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use plugins::filter::Filter as _;
use shared::clock::monotonic;
use tokio::sync::Notify;

use crate::last_good::beside::{SealedFile, Unusable};
use crate::last_good::sealing::{Magic, Sealing, Unopened};
use crate::live::Live;

const MAGIC: Magic = *b"WARDPV\0\x01";
const FILE: &str = "providers";

/// Most bytes that are kept. Beyond, what is there goes: it comes again as providers are asked.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// The time between two writes, and between two looks whether the private key is another.
const SPACING: Duration = Duration::from_mins(1);

/// How long what is kept of a provider stays that no plugin names any more: as long as a provider's word serves without a
/// newer one, so that a change of the configuration that is taken back loses nothing.
const UNNAMED: Duration = Duration::from_hours(24);

type ByKey = BTreeMap<[u8; 32], Bytes>;

/// What one node keeps. The default keeps it in memory only.
#[derive(Debug, Default)]
pub(crate) struct Discovered {
    state: Mutex<State>,
    kept: Option<SealedFile>,
    more: Notify,
    /// Whether the file is another process's by now.
    left: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    said: ByKey,
    /// Since when no plugin names them.
    unnamed: BTreeMap<[u8; 32], Instant>,
    /// Whether the file says something else.
    changed: bool,
    /// The renewal of the private key that the file is sealed under.
    renewal: u64,
}

impl Discovered {
    /// What a process before this one has left in `directory`. A file that cannot be used is passed over.
    pub(crate) fn open(directory: &Path, sealing: Arc<Sealing>) -> Self {
        // Each that is kept has a few bytes besides.
        let kept = SealedFile::new(directory, (FILE, MAGIC), sealing, 2 * MOST_BYTES);
        let said = read(&kept).unwrap_or_else(|error| {
            tracing::warn!(%error, "stored discovery data of providers cannot be used");
            ByKey::default()
        });
        let state = State {
            said,
            renewal: kept.renewals(),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            kept: Some(kept),
            more: Notify::new(),
            left: AtomicBool::new(false),
        }
    }

    /// What was kept under `key`.
    pub(crate) fn find(&self, key: &[u8; 32]) -> Option<Bytes> {
        self.state().said.get(key).cloned()
    }

    /// Keeps `said` under `key`; on disk soon.
    pub(crate) fn keep(&self, key: [u8; 32], said: Bytes) {
        let mut state = self.state();
        let others = state.said.iter().filter(|(other, _)| **other != key);
        let held: usize = others.map(|(_, said)| said.len()).sum();
        if said.len() > MOST_BYTES {
            return;
        }
        if held + said.len() > MOST_BYTES {
            state.said.clear();
        }
        state.said.insert(key, said);
        state.changed = true;
        drop(state);
        self.more.notify_one();
    }

    /// Forgets what nobody has named for long, where plugins name these.
    fn forget(&self, named: &BTreeSet<[u8; 32]>, now: Instant) {
        let State {
            said,
            unnamed,
            changed,
            ..
        } = &mut *self.state();
        unnamed.retain(|key, _| said.contains_key(key) && !named.contains(key));
        said.retain(|key, _| {
            let is_kept = named.contains(key)
                || now.saturating_duration_since(*unnamed.entry(*key).or_insert(now)) < UNNAMED;
            *changed |= !is_kept;
            is_kept
        });
    }

    /// Writes what there is to write, until the node ends, and forgets what the configurations in `live` have no use for.
    pub(crate) async fn write_on(self: Arc<Self>, live: &Live) {
        loop {
            _ = tokio::time::timeout(SPACING, self.more.notified()).await;
            if let Some(live) = live.load().as_ref() {
                let named = live.filters.iter().filter_map(|filter| filter.provider());
                self.forget(&named.collect(), monotonic());
            }
            let this = Arc::clone(&self);
            if tokio::task::spawn_blocking(move || this.write())
                .await
                .is_err()
            {
                tracing::error!("writing what providers said failed");
            }
            tokio::time::sleep(SPACING).await;
        }
    }

    /// Leaves the file to the process that has taken over.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    /// Writes what has changed. Blocks on the disk.
    pub(crate) fn write(&self) {
        let left = self.left.load(Ordering::Relaxed);
        let Some(kept) = self.kept.as_ref().filter(|_| !left) else {
            return;
        };
        let renewal = kept.renewals();
        let said = {
            let mut state = self.state();
            let resealed = state.renewal != renewal && !state.said.is_empty();
            if !std::mem::take(&mut state.changed) && !resealed {
                return;
            }
            state.said.clone()
        };
        match kept.lock().and_then(|file| file.write(encode(&said))) {
            Ok(()) => self.state().renewal = renewal,
            Err(error) => {
                self.state().changed = true;
                tracing::warn!(%error, "discovery data of providers cannot be written: a start while they are down would lack it");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the file holds.
fn read(kept: &SealedFile) -> Result<ByKey, Unusable> {
    match kept.read()? {
        Some(content) => Ok(decode(&content).ok_or(Unopened::Format)?),
        None => Ok(ByKey::default()),
    }
}

/// Each key with the length of what follows and that.
fn encode(said: &ByKey) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, said) in said {
        let Ok(length) = u32::try_from(said.len()) else {
            continue;
        };
        content.extend_from_slice(key);
        content.extend_from_slice(&length.to_be_bytes());
        content.extend_from_slice(said);
    }
    content
}

fn decode(mut content: &[u8]) -> Option<ByKey> {
    let mut said = ByKey::new();
    while !content.is_empty() {
        let (key, rest) = content.split_first_chunk::<32>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (found, rest) = rest.split_at_checked(length)?;
        said.insert(*key, Bytes::copy_from_slice(found));
        content = rest;
    }
    Some(said)
}

#[cfg(test)]
mod tests {
    use shared::secret::Secret;

    use super::*;

    fn open(directory: &Path, secret: u8) -> Discovered {
        let sealing = Sealing::new(Secret::new(vec![secret; 32]), "node");
        Discovered::open(directory, Arc::new(sealing))
    }

    #[test]
    fn what_was_kept_is_there_after_a_restart_for_this_node_alone() {
        let directory = tempfile::tempdir().unwrap();
        let one = open(directory.path(), 1);
        assert_eq!(one.find(&[1; 32]), None);
        one.write();
        assert!(!directory.path().join(FILE).exists(), "there is nothing");
        one.keep([1; 32], Bytes::from_static(b"a"));
        one.keep([2; 32], Bytes::new());
        one.keep([1; 32], Bytes::from_static(b"b"));
        one.write();
        let again = open(directory.path(), 1);
        assert_eq!(again.find(&[1; 32]), Some(Bytes::from_static(b"b")));
        assert_eq!(again.find(&[2; 32]), Some(Bytes::new()));
        assert_eq!(open(directory.path(), 2).find(&[1; 32]), None);
        let path = directory.path().join(FILE);
        let bytes = std::fs::read(&path).unwrap();
        for damage in [&bytes[..bytes.len() - 1], b"", b"WARDPV\0\x01"] {
            std::fs::write(&path, damage).unwrap();
            assert_eq!(open(directory.path(), 1).find(&[1; 32]), None);
        }
    }

    #[test]
    fn a_process_with_a_successor_writes_nothing_in_the_place_of_what_that_knows() {
        let directory = tempfile::tempdir().unwrap();
        let (before, after) = (open(directory.path(), 1), open(directory.path(), 1));
        before.keep([1; 32], Bytes::from_static(b"withdrawn"));
        before.leave();
        after.keep([1; 32], Bytes::from_static(b"newer"));
        after.write();
        before.write();
        let again = open(directory.path(), 1);
        assert_eq!(again.find(&[1; 32]), Some(Bytes::from_static(b"newer")));
    }

    #[test]
    fn what_is_too_much_makes_room() {
        let discovered = Discovered::default();
        discovered.keep([1; 32], Bytes::from(vec![0; MOST_BYTES]));
        discovered.keep([1; 32], Bytes::from(vec![0; MOST_BYTES]));
        assert!(discovered.find(&[1; 32]).is_some());
        discovered.keep([2; 32], Bytes::from(vec![0; MOST_BYTES + 1]));
        assert!(discovered.find(&[1; 32]).is_some() && discovered.find(&[2; 32]).is_none());
        discovered.keep([3; 32], Bytes::from_static(b"a"));
        assert!(discovered.find(&[1; 32]).is_none() && discovered.find(&[3; 32]).is_some());
    }

    #[test]
    fn a_provider_that_no_plugin_names_is_forgotten_a_day_later() {
        let directory = tempfile::tempdir().unwrap();
        let one = open(directory.path(), 1);
        for key in 1..=3 {
            one.keep([key; 32], Bytes::from_static(b"a"));
        }
        let begin = monotonic();
        let forget = |named: &[u8], after: Duration| {
            let named = named.iter().map(|key| [*key; 32]).collect();
            one.forget(&named, begin + after);
            [1, 2, 3].map(|key| one.find(&[key; 32]).is_some())
        };
        let minute = Duration::from_mins(1);
        assert_eq!(forget(&[1], Duration::ZERO), [true; 3]);
        // One comes back, for a moment.
        assert_eq!(forget(&[1, 2], UNNAMED.saturating_sub(minute)), [true; 3]);
        assert_eq!(forget(&[1], UNNAMED), [true, true, false]);
        assert_eq!(
            forget(&[1], (2 * UNNAMED).saturating_sub(minute)),
            [true, true, false]
        );
        assert_eq!(forget(&[1], 2 * UNNAMED), [true, false, false]);
        one.write();
        let again = open(directory.path(), 1);
        assert_eq!(again.find(&[2; 32]), None);
        assert!(again.find(&[1; 32]).is_some());
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        let said = ByKey::from([([1; 32], Bytes::from_static(b"abc"))]);
        let content = encode(&said);
        assert_eq!(decode(&content), Some(said));
        assert_eq!(decode(b""), Some(ByKey::new()));
        for length in 1..content.len() {
            assert_eq!(decode(&content[..length]), None, "{length}");
        }
    }
}
