//! The write path: a command is decided on the newest configuration, made durable, and only then
//! shown to readers and streams.

mod journal;
mod looks;
mod turns;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use shared::clock::{UnixTime, monotonic};
use shared::snapshot::Revision;
use tokio::sync::{Notify, watch};

use crate::capacity;
use crate::command::{Command, Context, Decision, Rejection, decide};
use crate::config::{Change, Config};
use crate::history::{Entry, History, Origin};
use crate::snapshot;
pub use journal::{Journal, JournalFault, Newer, Place};
use looks::Looks;
use turns::{NoTurn, Turns};

/// Why a command had no effect.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The caller's mistake.
    #[error("rejected")]
    Rejected(#[from] Rejection),
    /// The caller has seen another state.
    #[error("the record has changed")]
    Changed,
    /// A record would point where the caller may not have it point to.
    #[error("forbidden")]
    Forbidden(#[from] Forbidden),
    /// The store's trouble.
    #[error("committing the change to the store")]
    Fault(#[from] JournalFault),
}

/// Whose record may not point to what, by which field.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{user} may not use what {field} points to")]
pub struct Forbidden {
    /// The user's name.
    pub user: String,
    /// The field of the record.
    pub field: String,
}

/// What a command came to.
#[derive(Debug)]
pub struct Outcome {
    /// The record that the caller is shown, and what changed.
    pub decision: Decision,
    /// The revision that readers see it at.
    pub revision: Revision,
}

/// How long a disk without room counts as such.
const NO_ROOM: Duration = Duration::from_mins(1);

/// How often a change is decided anew because others were first. Of two control planes under load either is first in about
/// half of the cases, of five in a fifth: so this many in a row do not happen.
const ATTEMPTS: u32 = 50;

/// The one writer of a configuration, and the way for everybody else to read it.
#[derive(Clone)]
pub struct Publisher {
    inner: Arc<Inner>,
}

struct Inner {
    generation: AtomicU64,
    /// The latest generation of what nodes run that wait for something to be configured here.
    awaited: AtomicU64,
    history: Arc<dyn History>,
    /// Held from the decision to the swap, so that each command is decided on the newest state.
    journal: Turns<Box<dyn Journal>>,
    config: RwLock<Config>,
    /// Where `config` is in what was committed, as soon as it is shown.
    place: RwLock<Option<Place>>,
    revision: watch::Sender<Revision>,
    urgent: Notify,
    looks: Option<Looks>,
    /// Why the last commit was not taken, where nobody else writes to the store.
    refused: RwLock<Option<(JournalFault, Instant)>>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher")
            .field("revision", &self.config().revision())
            .finish_non_exhaustive()
    }
}

impl Publisher {
    /// Publishes `config`, of `generation`, and what is committed to `journal` from now on.
    pub fn new(config: Config, generation: u64, journal: Box<dyn Journal>) -> Self {
        let config = config.founded();
        let revision = watch::Sender::new(config.revision());
        let looks = journal.is_shared().then(Looks::default);
        let inner = Inner {
            generation: AtomicU64::new(generation),
            awaited: AtomicU64::new(0),
            history: journal.history(),
            place: RwLock::new(journal.place()),
            journal: Turns::new(journal),
            config: RwLock::new(config),
            revision,
            urgent: Notify::new(),
            looks,
            refused: RwLock::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The generation of every revision here. Grows only when a backup is restored, or before the first configuration, so
    /// that data planes go back to older content only then.
    pub fn generation(&self) -> u64 {
        self.inner.generation.load(Ordering::Acquire)
    }

    /// A node that runs what a store of `generation` led it to waits for something to be configured in this one, which was
    /// begun anew: that is to come after it, whatever the clock was when this store was made.
    pub fn is_awaited_after(&self, generation: u64) {
        self.inner.awaited.fetch_max(generation, Ordering::AcqRel);
    }

    /// Goes past what nodes run that wait for a first configuration.
    fn pass(
        &self,
        journal: &mut dyn Journal,
        config: &Config,
        now: UnixTime,
    ) -> Result<(), JournalFault> {
        let awaited = self.inner.awaited.load(Ordering::Acquire);
        if awaited <= self.generation() || !snapshot::is_bare(config) {
            return Ok(());
        }
        if let Some(generation) = journal.pass(awaited, config, now)? {
            tracing::warn!(
                generation,
                "the clock was behind when this store was made: it goes past what nodes run that wait for it"
            );
            self.inner.generation.store(generation, Ordering::Release);
        }
        Ok(())
    }

    /// The newest configuration.
    pub fn config(&self) -> Config {
        self.inner
            .config
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Why the store takes no writes, as far as is known.
    pub fn trouble(&self) -> Option<JournalFault> {
        let refused = self.inner.refused.read();
        let refused = refused.unwrap_or_else(PoisonError::into_inner).clone();
        // Only the next write shows that there is room again, which may be long in coming.
        let holds = |(fault, at): &(JournalFault, Instant)| {
            !matches!(fault, JournalFault::NoRoom(_)) || at.elapsed() < NO_ROOM
        };
        let refused = refused.filter(holds).map(|(fault, _)| fault);
        refused.or_else(|| self.inner.looks.as_ref()?.failing())
    }

    /// Whether there may be newer state than is known here, since the store that others write to is not reached.
    pub fn is_stale(&self) -> bool {
        self.is_stale_at(monotonic())
    }

    /// The same at `now`.
    pub(crate) fn is_stale_at(&self, now: Instant) -> bool {
        let looks = self.inner.looks.as_ref();
        looks.is_some_and(|looks| looks.is_stale(now))
    }

    /// Until when there may have been newer state than was known here, up to `now`; none if there never may.
    pub(crate) fn missed(&self, now: Instant) -> Option<Instant> {
        self.inner.looks.as_ref()?.missed(now)
    }

    /// The past of the configuration.
    pub fn history(&self) -> &dyn History {
        &*self.inner.history
    }

    /// Tells of each new revision.
    pub fn watch(&self) -> watch::Receiver<Revision> {
        self.inner.revision.subscribe()
    }

    /// Has the newest change travel at once, without waiting for others that may follow it.
    pub fn hurry(&self) {
        self.inner.urgent.notify_one();
    }

    /// Waits for [`Self::hurry`].
    pub async fn urgent(&self) {
        self.inner.urgent.notified().await;
    }

    /// Carries `command` out for the control plane itself. Blocks on the store: not for an asynchronous
    /// thread.
    pub fn execute(&self, command: &Command, now: UnixTime) -> Result<Outcome, ExecuteError> {
        self.execute_if(&Origin::system(), command, now, |_| true, |_, _| Ok(()))
    }

    /// Carries `command` out in the workspace that `origin` asks, if that is as `holds` wants it and `permits` has nothing
    /// against the change of it. Blocks on the store.
    pub fn execute_if(
        &self,
        origin: &Origin,
        command: &Command,
        now: UnixTime,
        holds: impl Fn(&Config) -> bool,
        permits: impl Fn(&Config, &Change) -> Result<(), Forbidden>,
    ) -> Result<Outcome, ExecuteError> {
        let mut shown = None;
        let revision = self.transact(origin, now, |config, context| {
            let config = config.within(origin.workspace);
            if !holds(&config) {
                return Err(ExecuteError::Changed);
            }
            let decision = decide(&config, command, context)?;
            permits(&config, &decision.change)?;
            shown = decision.record;
            Ok::<_, ExecuteError>(decision.change)
        })?;
        let decision = Decision {
            change: revision.1,
            record: shown,
        };
        Ok(Outcome {
            decision,
            revision: revision.0,
        })
    }

    /// Makes durable and shows what `decide` makes of the newest configuration, of all workspaces. Blocks on
    /// the store.
    pub fn transact<E: From<JournalFault>>(
        &self,
        origin: &Origin,
        now: UnixTime,
        mut decide: impl FnMut(&Config, &Context) -> Result<Change, E>,
    ) -> Result<(Revision, Change), E> {
        // What cannot be committed now is refused at once: whoever asks for the store again has it for seconds.
        if let Some(fault) = self.inner.looks.as_ref().and_then(Looks::failing) {
            let config = self.config();
            let change = decide(&config, &Context::draw(now))?;
            if change == Change::default() {
                return Ok((config.revision(), change));
            }
            return Err(fault.into());
        }
        // Nor does anybody wait behind one after the other who finds that it is lost.
        let taken = self.inner.journal.take(|| {
            let looks = self.inner.looks.as_ref();
            looks.and_then(Looks::failing).map_or(Ok(()), Err)
        });
        let mut journal = taken.map_err(|none| match none {
            NoTurn::Refused(fault) => fault,
            // After a panic in the middle of a commit nobody knows what is durable.
            NoTurn::Lost => {
                let reason = "read-only until the next start: a commit was cut short";
                JournalFault::Broken(reason.to_owned())
            }
        })?;
        let context = Context::draw(now);
        let mut attempts = 0;
        loop {
            let config = self.config();
            let change = decide(&config, &context)?;
            if change == Change::default() {
                return Ok((config.revision(), change));
            }
            capacity::check(&config, &change).map_err(JournalFault::TooLarge)?;
            self.pass(journal.as_mut(), &config, now)?;
            let revision = config.revision().next();
            let begun = monotonic();
            let committed = journal.commit(&Entry::of(&config, &change, revision, now, origin));
            self.note(&committed);
            if let Some(looks) = &self.inner.looks
                && let Some(fault) = journal.lost()
            {
                looks.note(Some(fault));
            }
            match committed {
                Ok(()) => {
                    let config = config.evolve(&change, revision);
                    self.show(config.clone(), journal.place());
                    self.hear(begun);
                    // What is durable stays so without it.
                    if let Err(fault) = journal.checkpoint(&config) {
                        tracing::warn!(%fault, "the configuration is not kept whole");
                    }
                    return Ok((revision, change));
                }
                // Decided on what is not the newest any more: so once more, on that.
                Err(JournalFault::Behind) if attempts < ATTEMPTS => {
                    attempts += 1;
                    self.take_newer(journal.as_mut())?;
                }
                Err(fault) => return Err(fault.into()),
            }
        }
    }

    /// Everything is known that was committed up to `at`.
    fn hear(&self, at: Instant) {
        if let Some(looks) = &self.inner.looks {
            looks.hear(at, monotonic());
        }
    }

    /// Remembers whether the store took a commit.
    fn note(&self, committed: &Result<(), JournalFault>) {
        let is_own = |fault: &&JournalFault| match fault {
            // A change that is too large is the caller's.
            JournalFault::Behind | JournalFault::TooLarge(_) => false,
            // One of several writers learns that by looking, all the time.
            JournalFault::Broken(_) | JournalFault::Unreachable(_) | JournalFault::Unknown(_) => {
                self.inner.looks.is_none()
            }
            JournalFault::NoRoom(_) => true,
        };
        let fault = committed.as_ref().err().filter(is_own).cloned();
        let refused = fault.map(|fault| (fault, monotonic()));
        *self
            .inner
            .refused
            .write()
            .unwrap_or_else(PoisonError::into_inner) = refused;
    }

    /// Up to where the configuration is known, where others may put something else in its place.
    pub(crate) fn place(&self) -> Option<Place> {
        let place = self.inner.place.read();
        *place.unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows readers `config`, which is at `place`.
    fn show(&self, config: Config, place: Option<Place>) {
        let revision = config.revision();
        *self
            .inner
            .place
            .write()
            .unwrap_or_else(PoisonError::into_inner) = place;
        *self
            .inner
            .config
            .write()
            .unwrap_or_else(PoisonError::into_inner) = config;
        self.inner.revision.send_replace(revision);
    }

    fn take_newer(&self, journal: &mut dyn Journal) -> Result<(), JournalFault> {
        let begun = monotonic();
        match journal.newer()? {
            Newer::Changes(changes) if changes.is_empty() => {}
            Newer::Changes(changes) => {
                let mut config = self.config();
                for (change, revision) in changes {
                    config.apply(&change, revision);
                }
                self.show(config, journal.place());
            }
            Newer::Whole(config) => self.show(config.founded(), journal.place()),
        }
        self.hear(begun);
        Ok(())
    }

    /// Waits until readers see everything that was committed before, wherever that was. One look is enough for all who
    /// came before it began. What cannot be reached is left to whoever writes to it.
    pub async fn look(&self) {
        let Some(looks) = &self.inner.looks else {
            return;
        };
        if looks.failing().is_some() {
            return;
        }
        let before = looks.begun.load(Ordering::Acquire);
        let mut ended = looks.ended.lock().await;
        if *ended > before || looks.failing().is_some() {
            return;
        }
        let begun = looks.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let publisher = self.clone();
        let looked = tokio::task::spawn_blocking(move || publisher.catch_up_if(true)).await;
        if let Ok(Err(fault)) = looked {
            tracing::debug!(%fault, "commits of other control planes are not known");
        }
        *ended = begun;
    }

    /// Shows what others have committed, and keeps it whole if it is time to. Blocks on the store.
    pub fn catch_up(&self) -> Result<(), JournalFault> {
        self.catch_up_if(false)
    }

    /// The same; not if `reachable` is wanted and whoever had the store before this has not reached it.
    fn catch_up_if(&self, reachable: bool) -> Result<(), JournalFault> {
        let looks = self.inner.looks.as_ref();
        let taken = self.inner.journal.take(|| {
            let failing = looks.and_then(Looks::failing).filter(|_| reachable);
            failing.map_or(Ok(()), |_| Err(()))
        });
        let mut journal = match taken {
            Ok(journal) => journal,
            Err(NoTurn::Refused(())) => return Ok(()),
            Err(NoTurn::Lost) => {
                let reason = "a commit was cut short; start this control plane again";
                return Err(JournalFault::Broken(reason.to_owned()));
            }
        };
        let taken = self.take_newer(journal.as_mut());
        if let Some(looks) = looks {
            looks.note(taken.as_ref().err().cloned());
        }
        taken?;
        journal.checkpoint(&self.config())
    }
}
