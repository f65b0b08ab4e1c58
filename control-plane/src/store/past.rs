//! The log of commits, read back.

use std::sync::Arc;

use shared::snapshot::Revision;
use shared::telemetry::chain;

use super::seal::Sealer;
use super::{Fault, pieces};
use crate::history::{Entry, History, HistoryFault};

/// How many revisions the log goes back if nothing else is set, and at least: checkpoints count on it.
pub const REVISIONS: u64 = 10_000;

/// How many entries go at once at most, where the log is to become shorter.
const GONE_AT_ONCE: usize = 16;

/// What the store's log tells.
pub(super) struct Past {
    pub(super) log: sled::Tree,
    pub(super) sealer: Arc<Sealer>,
}

impl History for Past {
    fn entry(&self, revision: Revision) -> Result<Option<Entry>, HistoryFault> {
        let unreadable = |fault: Fault| HistoryFault::Unreadable {
            revision,
            what: chain(&fault).to_string(),
        };
        let packed = read(&self.log, &self.sealer, revision).map_err(unreadable)?;
        packed
            .map(|packed| Entry::unpack(revision, &packed))
            .transpose()
    }
}

/// The name of an entry in its tree.
pub(super) fn log_name(revision: Revision) -> Vec<u8> {
    revision.0.to_be_bytes().to_vec()
}

/// The packed entry that made `revision`.
pub(super) fn read(
    log: &sled::Tree,
    sealer: &Sealer,
    revision: Revision,
) -> Result<Option<Vec<u8>>, Fault> {
    let name = log_name(revision);
    let Some(value) = pieces::read(log, &name)? else {
        return Ok(None);
    };
    let packed = sealer.open(&name, &value);
    packed
        .map(Some)
        .ok_or_else(|| Fault::damaged("it is not as written"))
}

/// The entries that go when `revision` comes and `kept` are to stay, and how many pieces each has. What is newer
/// than the checkpoint of revision `newest` stays: a start needs it.
pub(super) fn forgotten(
    log: &sled::Tree,
    revision: Revision,
    kept: u64,
    newest: u64,
) -> Vec<(Vec<u8>, usize)> {
    let mut gone: Vec<(Vec<u8>, usize)> = Vec::new();
    let Some(end) = (revision.0 + 1).checked_sub(kept) else {
        return gone;
    };
    let end = Revision(end.min(newest + 1));
    for key in log.range(..log_name(end)).keys() {
        // What cannot be read now goes another time.
        let Ok(key) = key else { break };
        let name = pieces::name_of(&key);
        if let Some((_, pieces)) = gone.last_mut().filter(|(last, _)| *last == name) {
            *pieces += 1;
        } else if gone.len() < GONE_AT_ONCE {
            gone.push((name.to_vec(), 1));
        } else {
            break;
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_goes_back_as_far_as_is_set() {
        let database = sled::Config::new().temporary(true).open().unwrap();
        let log = database.open_tree("log").unwrap();
        let put = |revision: u64| {
            // Some entries have more than one piece.
            let length = usize::try_from(revision % 3).unwrap() * 5_000 + 1;
            let (name, value) = (log_name(Revision(revision)), vec![0; length]);
            log.transaction(|log| pieces::put(log, &name, &value))
                .unwrap();
        };
        let forget = |revision: u64, kept: u64, newest: u64| {
            let gone = forgotten(&log, Revision(revision), kept, newest);
            for (name, pieces) in &gone {
                log.transaction(|log| pieces::remove(log, name, *pieces))
                    .unwrap();
            }
            put(revision);
            let left = log.iter().keys().map(|key| {
                let key = key.unwrap();
                u64::from_be_bytes(pieces::name_of(&key).try_into().unwrap())
            });
            let mut left: Vec<u64> = left.collect();
            left.dedup();
            left
        };
        (1..=35).for_each(put);
        assert_eq!(forget(36, 30, 100), (7..=36).collect::<Vec<_>>());
        // A start needs what the checkpoint does not have.
        assert_eq!(forget(37, 30, 0), (7..=37).collect::<Vec<_>>());
        // The surplus goes with the next commits, not with one.
        assert_eq!(forget(38, 2, 100), (23..=38).collect::<Vec<_>>());
        assert_eq!(forget(39, 2, 100), [38, 39]);
    }
}
