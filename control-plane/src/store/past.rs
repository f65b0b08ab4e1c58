//! The log of commits, read back.

use std::sync::Arc;

use shared::snapshot::Revision;

use super::pieces;
use super::seal::Sealer;
use crate::history::{Entry, History, HistoryFault};

/// How many revisions the log goes back.
pub(super) const KEPT: u64 = 10_000;

/// What the store's log tells.
pub(super) struct Past {
    pub(super) log: sled::Tree,
    pub(super) sealer: Arc<Sealer>,
}

impl History for Past {
    fn entry(&self, revision: Revision) -> Result<Option<Entry>, HistoryFault> {
        let unreadable = |what: String| HistoryFault::Unreadable { revision, what };
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
) -> Result<Option<Vec<u8>>, String> {
    let name = log_name(revision);
    let Some(value) = pieces::read(log, &name)? else {
        return Ok(None);
    };
    let packed = sealer.open(&name, &value);
    packed.map(Some).ok_or("it is not as written".to_owned())
}

/// The entry that goes when `revision` comes, and how many pieces it has. What is newer than the checkpoint of
/// revision `newest` stays: a start needs it.
pub(super) fn forgotten(
    log: &sled::Tree,
    revision: Revision,
    newest: u64,
) -> Option<(Vec<u8>, usize)> {
    let old = revision.0.checked_sub(KEPT).filter(|old| *old <= newest)?;
    let name = log_name(Revision(old));
    let pieces = pieces::count(log, &name);
    (pieces > 0).then_some((name, pieces))
}
