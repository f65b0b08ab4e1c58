//! Where commits become durable, as far as the write path knows.

use std::sync::Arc;

use shared::clock::UnixTime;
use shared::snapshot::{Hash, Revision};

use crate::config::{Change, Config};
use crate::history::{Entry, Forgotten, History};

/// Where commits become durable.
pub trait Journal: Send + 'static {
    /// Makes `entry` durable; its revision is the one after the last. After [`JournalFault::Broken`]
    /// nothing is acknowledged any more until the process starts again.
    fn commit(&mut self, entry: &Entry) -> Result<(), JournalFault>;

    /// What others have committed since. Only a store with several writers has any.
    fn newer(&mut self) -> Result<Newer, JournalFault> {
        Ok(Newer::Changes(Vec::new()))
    }

    /// Why it is not to be asked by those who wait until [`Self::newer`] finds it again, if it did not answer the last commit.
    fn lost(&self) -> Option<JournalFault> {
        None
    }

    /// Whether others write to it, too.
    fn is_shared(&self) -> bool {
        false
    }

    /// Keeps `config` whole, if it is time to: so that a start need not read every change there ever was.
    fn checkpoint(&mut self, _: &Config) -> Result<(), JournalFault> {
        Ok(())
    }

    /// Makes a store that holds `config`, which is nothing yet, one that comes after generation `known`, if it can: its
    /// generation then.
    fn pass(
        &mut self,
        _known: u64,
        _: &Config,
        _now: UnixTime,
    ) -> Result<Option<u64>, JournalFault> {
        Ok(None)
    }

    /// What was committed before. Read without waiting for commits.
    fn history(&self) -> Arc<dyn History> {
        Arc::new(Forgotten)
    }

    /// Where this is in what was committed, where others may put something else in its place.
    fn place(&self) -> Option<Place> {
        None
    }
}

/// A place in what was committed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    /// The revision.
    pub revision: Revision,
    /// Hash of its entry, which holds that of the one before: of all that led there.
    pub chain: Hash,
}

/// What leads a control plane to what others have committed.
#[derive(Debug)]
pub enum Newer {
    /// Changes and the revisions that they made.
    Changes(Vec<(Change, Revision)>),
    /// Everything: the changes are not kept any more.
    Whole(Box<Config>),
}

/// Why a commit is not durable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalFault {
    /// A commit failed, now or earlier.
    #[error("the store takes no writes: {0}")]
    Broken(String),
    /// The disk is nearly full. Nothing was written; the next attempt may succeed.
    #[error("the store takes no writes: {0}")]
    NoRoom(String),
    /// The configuration would be larger than it may be. Nothing was written.
    #[error("{0}")]
    TooLarge(String),
    /// Somebody else has committed meanwhile. Nothing was written; what is newer has to be known first.
    #[error(
        "others have changed the configuration at the same time, again and again; send the request again"
    )]
    Behind,
    /// It may be written, now or later: the store was lost before it said so.
    #[error("{0}; it may come into force yet: look before you send it again")]
    Unknown(String),
    /// The store cannot be reached, or not all of it that has to agree. The next attempt may succeed.
    #[error("the store takes no writes: {0}")]
    Unreachable(String),
}
