//! Hot restart: the next process of a node is started with this one's listening sockets, and once it
//! serves, this one ends its exchanges and goes. No connection is refused or reset in between, and nothing is forgotten.
//!
//! ```text
//!  SIGUSR2 ─► start, with the sockets ─► it asks ─► rest, and give what runs ─► it says "ready" ─► drain, without taking
//!                     │                                          │                                 what waits in the queues
//!                     └──────────────────────────────────────────┴─► it ends, or says nothing for too long ─► this process goes on
//! ```
//!
//! A process that rests serves its clients and has their questions answered. It takes nothing new from the control plane, which
//! would be forgotten: its successor follows a control plane only once it serves.

pub(crate) mod given;
pub mod launcher;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::ExitStatus;
use std::sync::atomic::Ordering;
use std::time::Duration;

use program::signals;
use shared::passing::pass;
use shared::snapshot::Position;
use tokio::sync::{oneshot, watch};

use crate::config_sync::{Holds, Phase};
use crate::core::Node;
use crate::listening::inherited::{ASKS, GIVES, Predecessor, READY, SUCCESSION, WITHDRAWN};
use given::Given;
use launcher::Launched;

/// How long a successor may take until it serves.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often it is looked after meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// How long it may take to tell a successor what has come up since.
const MORE: Duration = Duration::from_secs(2);

/// And what its filters go on with, after the end of all exchanges.
const FILTERS: Duration = Duration::from_secs(10);

/// How long a successor waits for this process to leave the node to it.
const LAST: Duration = Duration::from_secs(10);

/// Why there is no successor.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// The program cannot be started.
    #[error("starting {program}")]
    Start {
        /// Which program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A socket cannot be passed on.
    #[error("passing a socket on")]
    Socket(#[from] io::Error),
    /// It is there, and is not told what runs.
    #[error("telling it what runs")]
    Untold(#[source] io::Error),
    /// It would go back to an older configuration.
    #[error(
        "it is of a version that is not told what runs: that was not in data_directory when it began, and no control plane is \
         connected"
    )]
    Unkept,
    /// It has ended before it served.
    #[error("it ended with {0}")]
    Ended(ExitStatus),
    /// It does not serve.
    #[error("it has not said within {PATIENCE:?} that it serves")]
    Silent,
}

/// A process that is to take over.
#[derive(Debug)]
pub struct Successor {
    launched: Launched,
    words: tokio::net::UnixDatagram,
    /// Whether it knows that balancers are to send no traffic here.
    withdrawn: bool,
    /// What ran when it was started, if the disk held that.
    on_disk: Option<Position>,
    /// Whether it hears what it is told: one of an earlier version asks for nothing.
    hears: bool,
    serves: bool,
}

/// What runs; the default: nothing yet.
fn position(node: &Node) -> Position {
    let live = node.live.load();
    let runs = live.as_ref().map(|snapshot| snapshot.position());
    runs.unwrap_or_default()
}

impl Successor {
    /// Starts this program anew, as it was started, with `sockets` by name.
    pub(crate) fn start(
        mut sockets: Vec<(String, OwnedFd)>,
        node: &Node,
    ) -> Result<Self, SuccessionError> {
        let withdrawn = node.withdrawn.load(Ordering::Relaxed);
        let runs = position(node);
        let is_kept = runs == Position::default() || node.contact.is_persisted(Some(runs));
        let mut arguments = std::env::args_os();
        // By its name, not by what runs: it may have been replaced since, and that is the point.
        let program = arguments.next().unwrap_or_default();
        let (words, its_words) = UnixDatagram::pair()?;
        words.set_nonblocking(true)?;
        if withdrawn {
            words.send(WITHDRAWN)?;
        }
        words.send(GIVES)?;
        sockets.push((SUCCESSION.to_owned(), OwnedFd::from(its_words)));
        let mut command = launcher::command(&program, arguments);
        let passed = pass(&mut command, sockets)?;
        // It begins without hearing them: before it listens they would end it.
        signals::hold()?;
        let launched = Launched::start(&mut command);
        signals::release()?;
        let launched = launched.map_err(|source| SuccessionError::Start {
            program: program.to_string_lossy().into_owned(),
            source,
        })?;
        drop(passed);
        tracing::info!(process = launched.id(), "a successor was started");
        Ok(Self {
            launched,
            words: tokio::net::UnixDatagram::from_std(words)?,
            withdrawn,
            on_disk: is_kept.then_some(runs),
            hears: false,
            serves: false,
        })
    }

    /// Gives it what runs on `node`, which rests meanwhile, and waits until it serves. One that does not is ended.
    ///
    /// # Errors
    ///
    /// Why it does not: this process goes on then, as if nothing had happened.
    pub(crate) async fn takes_over(
        &mut self,
        node: &Node,
        phase: &watch::Sender<Phase>,
    ) -> Result<(), SuccessionError> {
        let taking = tokio::time::timeout(PATIENCE, async {
            if self.hears(&[ASKS, READY]).await? == READY {
                let is_kept = self.on_disk == Some(position(node));
                let is_safe = is_kept || node.contact.is_connected();
                return is_safe.then_some(()).ok_or(SuccessionError::Unkept);
            }
            let resting = Resting(phase);
            let holds = resting.begin(node).await;
            let given = Given::of(node, Some(&holds), self.withdrawn);
            let given = given.map_err(SuccessionError::Untold)?;
            self.withdrawn = given.withdrawn.unwrap_or(self.withdrawn);
            self.tell(&given).await?;
            self.hears(&[READY]).await?;
            self.hears = true;
            std::mem::forget(resting);
            Ok(())
        });
        taking.await.unwrap_or(Err(SuccessionError::Silent))?;
        self.serves = true;
        // systemd looks after the new process from here on, if it looks after this one; as its own, so not before it is.
        self.launched.let_go();
        notify(&[sd_notify::NotifyState::MainPid(self.launched.id())]);
        Ok(())
    }

    /// Tells it what has come up on `node` since, but for what its filters go on with, which may be long: once as the node becomes its,
    /// and once as this process ends.
    pub(crate) async fn hear_more(&mut self, node: &Node) {
        let patience = tokio::time::sleep(MORE);
        let given = Given::of(node, None, self.withdrawn);
        if let Ok(given) = &given {
            self.withdrawn = given.withdrawn.unwrap_or(self.withdrawn);
        }
        self.hear_until(patience, given).await;
    }

    /// Tells it what the filters of `node` go on with. However long that takes, the last words are to come behind it: it is given up
    /// only a while after `ended`.
    pub(crate) async fn hear_of_filters(&mut self, node: &Node, ended: impl Future<Output = ()>) {
        let patience = async {
            ended.await;
            tokio::time::sleep(FILTERS).await;
        };
        self.hear_until(patience, Ok(Given::of_filters(node))).await;
    }

    /// Tells it what is `given`, if that is done before `patience` is.
    async fn hear_until(&mut self, patience: impl Future<Output = ()>, given: io::Result<Given>) {
        if !self.hears {
            return;
        }
        let telling = async { given::send(&self.words, &given?.encode()?).await };
        let told = tokio::select! {
            told = telling => told,
            () = patience => Err(io::ErrorKind::TimedOut.into()),
        };
        if let Err(error) = told {
            // What came behind half of it would be taken for the other half.
            self.hears = false;
            tracing::error!(%error, "the successor was not told what came up last");
        }
    }

    async fn tell(&mut self, given: &Given) -> Result<(), SuccessionError> {
        let bytes = given.encode().map_err(SuccessionError::Untold)?;
        let Self {
            launched, words, ..
        } = self;
        let told = tokio::select! {
            told = given::send(words, &bytes) => told,
            failed = fails(launched) => return Err(failed),
        };
        let Err(source) = told else {
            return Ok(());
        };
        // If it ends, that says more.
        let ended = tokio::time::timeout(MORE, fails(launched)).await;
        Err(ended.unwrap_or(SuccessionError::Untold(source)))
    }

    /// Waits until it says one of `expected`. It may say anything more than once.
    async fn hears<'a>(&mut self, expected: &[&'a [u8]]) -> Result<&'a [u8], SuccessionError> {
        let Self {
            launched, words, ..
        } = self;
        let hearing = async {
            loop {
                let mut said = [0; 16];
                let count = words.recv(&mut said).await?;
                let heard = expected.iter().find(|word| said.get(..count) == Some(word));
                if let Some(word) = heard {
                    return Ok(*word);
                }
            }
        };
        tokio::select! {
            heard = hearing => heard,
            failed = fails(launched) => Err(failed),
        }
    }
}

/// Returns once `launched` has ended.
async fn fails(launched: &mut Launched) -> SuccessionError {
    loop {
        match launched.try_wait() {
            Ok(Some(status)) => return SuccessionError::Ended(status),
            Ok(None) => tokio::time::sleep(LOOK).await,
            Err(error) => return error.into(),
        }
    }
}

/// While there is one, the process rests.
struct Resting<'a>(&'a watch::Sender<Phase>);

impl Resting<'_> {
    /// Has the process rest: what it holds then. Nothing if config sync does not run any more: a successor is the cure for that.
    async fn begin(&self, node: &Node) -> Holds {
        let mut holds = node.holds.subscribe();
        self.0.send_replace(Phase::Resting);
        let held = async {
            while holds.changed().await.is_ok() {
                if let Some(holds) = holds.borrow_and_update().clone() {
                    return holds;
                }
            }
            Holds::default()
        };
        tokio::select! {
            holds = held => holds,
            () = self.0.closed() => Holds::default(),
        }
    }
}

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.send_replace(Phase::Serving);
    }
}

/// Tells systemd, and the process before this one, as soon as clients are served; then hears what that has to say until it is
/// gone. `leaves`: where it has told what it runs, whom to tell that it has left the node to this process.
pub(crate) fn tell_when_ready(
    node: &Node,
    predecessor: Option<&Predecessor>,
    leaves: Option<oneshot::Sender<()>>,
) {
    // systemd waits for no control plane: a node without a configuration is started all the same.
    notify(&[sd_notify::NotifyState::Ready]);
    let Some(predecessor) = predecessor else {
        return;
    };
    let is_there = || leaves.is_some() || node.live.load().is_some();
    while !is_there() || !node.contact.is_settled() {
        std::thread::sleep(LOOK);
    }
    if let Err(error) = predecessor.words.send(READY) {
        tracing::error!(%error, "the previous process cannot be told that this one serves");
        return;
    }
    let Some(leaves) = leaves else {
        return;
    };
    let (mut leaves, mut patience) = (Some(leaves), LAST);
    // Nothing more is said to it: what is sent to a process that is gone takes its last words away.
    loop {
        let says_more = match given::receive(predecessor, patience) {
            Ok(Some(more)) => {
                more.tell(node);
                true
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(%error, "the previous process does not answer");
                given::is_silence(&error)
            }
        };
        // Also where it says nothing: this process serves.
        drop(leaves.take());
        if !says_more {
            return;
        }
        patience = Duration::from_hours(24);
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.serves {
            self.launched.kill();
        }
    }
}

/// Tells systemd, if it wants to know.
pub(crate) fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use shared::clock::UnixTime;
    use shared::entity::Revocation;
    use uuid::Uuid;

    use super::given::tests::{before, knowing};
    use super::*;

    /// A process that hears what the other end of `words` is told.
    fn successor(words: UnixDatagram) -> Successor {
        words.set_nonblocking(true).unwrap();
        Successor {
            launched: Launched::of(
                Command::new("cat")
                    .stdin(std::process::Stdio::piped())
                    .spawn()
                    .unwrap(),
            ),
            words: tokio::net::UnixDatagram::from_std(words).unwrap(),
            withdrawn: false,
            on_disk: None,
            hears: true,
            serves: false,
        }
    }

    #[tokio::test]
    async fn the_last_words_come_behind_what_filters_go_on_with_however_long_that_takes() {
        let (proxy, counted) = knowing(20_000);
        let node = proxy.node();
        let (words, before) = before(true);
        let mut successor = successor(words);
        successor.hear_more(node).await;
        // For longer than it may take, it reads nothing.
        let (reads, begins) = std::sync::mpsc::channel::<()>();
        let reading = std::thread::spawn(move || {
            begins.recv().unwrap();
            [(); 3].map(|()| given::receive(&before, PATIENCE).unwrap().unwrap())
        });
        let (ends, ended) = oneshot::channel::<()>();
        let ended = async { _ = ended.await };
        tokio::time::pause();
        let stalled = async {
            tokio::time::sleep(FILTERS * 10).await;
            reads.send(()).unwrap();
        };
        tokio::join!(successor.hear_of_filters(node, ended), stalled);
        tokio::time::resume();
        drop(ends);
        let id = Uuid::from_u128(1);
        let now = UnixTime::now();
        let logout = Revocation {
            id,
            before: Revocation::FOR_GOOD,
            expires_at: now.saturating_add(PATIENCE).as_secs(),
        };
        node.revocations.add([logout], now);
        successor.hear_more(node).await;
        let [first, filters, last] = reading.join().unwrap();
        assert!(first.revocations.is_empty());
        assert_eq!(filters.filters[0].len(), counted[0].len());
        assert_eq!(last.revocations, [logout]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_reads_is_not_waited_for_once_all_exchanges_have_ended() {
        let (proxy, _) = knowing(20_000);
        let (words, _before) = before(true);
        let mut successor = successor(words);
        successor
            .hear_of_filters(proxy.node(), std::future::ready(()))
            .await;
        assert!(!successor.hears);
    }
}
