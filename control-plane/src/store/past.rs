//! The log of commits, read back.

use std::sync::Arc;

use shared::snapshot::Revision;

use super::pieces;
use super::seal::Sealer;
use crate::history::{Entry, History, HistoryFault};

/// How many revisions the log goes back.
const KEPT: u64 = 10_000;

/// What the store's log tells.
pub(super) struct Past {
    pub(super) log: sled::Tree,
    pub(super) sealer: Arc<Sealer>,
}

impl History for Past {
    fn entry(&self, revision: Revision) -> Result<Option<Entry>, HistoryFault> {
        let unreadable = |what: String| HistoryFault::Unreadable { revision, what };
        let name = log_name(revision);
        let Some(sealed) = pieces::read(&self.log, &name).map_err(unreadable)? else {
            return Ok(None);
        };
        let packed = self.sealer.open(&name, &sealed);
        let packed = packed.ok_or_else(|| unreadable("it is not as written".to_owned()))?;
        Entry::unpack(revision, &packed).map(Some)
    }
}

/// The name of an entry in its tree.
pub(super) fn log_name(revision: Revision) -> Vec<u8> {
    revision.0.to_be_bytes().to_vec()
}

/// The entry that goes when `revision` comes, and how many pieces it has.
pub(super) fn forgotten(log: &sled::Tree, revision: Revision) -> Option<(Vec<u8>, usize)> {
    let name = log_name(Revision(revision.0.checked_sub(KEPT)?));
    let pieces = pieces::count(log, &name);
    (pieces > 0).then_some((name, pieces))
}
