//! The way back from a change that went wrong: a new revision with the content of the one before it.

use shared::clock::UnixTime;
use shared::snapshot::Revision;

use crate::difference::Difference;
use crate::history::{HistoryFault, Origin};
use crate::publisher::{JournalFault, Publisher};

/// Why there is no way back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RollbackError {
    /// Something else was committed in the meantime, which this would undo, too.
    #[error("the configuration has changed meanwhile")]
    Newer,
    /// The past is not kept.
    #[error("what the configuration was then is not kept any more")]
    Forgotten,
    /// The past cannot be read.
    #[error("reading the history")]
    History(#[from] HistoryFault),
    /// The store's trouble.
    #[error("committing")]
    Journal(#[from] JournalFault),
}

/// Makes what the configuration was at `to` a new revision, if `from` is the newest. Neither keys and
/// revocations nor who may use the Admin API go back. Blocks on the store.
pub(crate) fn carry_out(
    publisher: &Publisher,
    from: Revision,
    to: Revision,
) -> Result<Revision, RollbackError> {
    let back = publisher.transact(&Origin::system(), UnixTime::now(), |config, _| {
        if config.revision() != from {
            return Err(RollbackError::Newer);
        }
        let difference = Difference::back(publisher.history(), config, to)?;
        let difference = difference.ok_or(RollbackError::Forgotten)?;
        Ok(difference.change(config))
    });
    back.map(|(revision, _)| revision)
}
