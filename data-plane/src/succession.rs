//! Hot restart: the next process of a node is started with this one's listening sockets, and once it
//! serves, this one ends its exchanges and goes. No connection is refused or reset in between.
//!
//! ```text
//!  SIGUSR2 ─► start, with the sockets ─► it says "ready" ─► drain, without taking what waits in the queues
//!                     └─► it ends, or says nothing for too long ─► this process goes on
//! ```

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use shared::passing::pass;
use shared::signals;

use crate::listening::inherited::{READY, SUCCESSION, WITHDRAWN};

/// How long a successor may take until it serves.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often it is looked after meanwhile.
const LOOK: Duration = Duration::from_millis(50);

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
    /// It would go back to an older configuration.
    #[error(
        "what runs is not in data_directory, and no control plane is connected: it would begin with an older configuration; \
         see why the log says that the file is not written"
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
    child: Child,
    words: UnixDatagram,
    serves: bool,
}

impl Successor {
    /// Starts this program anew, as it was started, with `sockets` by name.
    /// `withdrawn`: balancers are to send no traffic here, since an operator said so.
    pub(crate) fn start(
        mut sockets: Vec<(String, OwnedFd)>,
        withdrawn: bool,
    ) -> Result<Self, SuccessionError> {
        let mut arguments = std::env::args_os();
        // By its name, not by what runs: it may have been replaced since, and that is the point.
        let program = arguments.next().unwrap_or_default();
        let (words, its_words) = UnixDatagram::pair()?;
        words.set_nonblocking(true)?;
        if withdrawn {
            words.send(WITHDRAWN)?;
        }
        sockets.push((SUCCESSION.to_owned(), OwnedFd::from(its_words)));
        let mut command = Command::new(&program);
        let passed = pass(command.args(arguments), sockets)?;
        // It begins without hearing them: before it listens they would end it.
        signals::hold()?;
        let child = command.spawn();
        signals::release()?;
        let child = child.map_err(|source| SuccessionError::Start {
            program: program.to_string_lossy().into_owned(),
            source,
        })?;
        drop(passed);
        tracing::info!(process = child.id(), "a successor was started");
        Ok(Self {
            child,
            words,
            serves: false,
        })
    }

    /// Waits until it serves. One that does not is ended.
    ///
    /// # Errors
    ///
    /// Why it does not: this process is to go on then.
    pub async fn ready(mut self) -> Result<(), SuccessionError> {
        let serving = tokio::time::timeout(PATIENCE, async {
            loop {
                let mut said = [0; 16];
                if let Ok(count) = self.words.recv(&mut said)
                    && said.get(..count) == Some(READY)
                {
                    return Ok(());
                }
                if let Some(status) = self.child.try_wait()? {
                    return Err(SuccessionError::Ended(status));
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        serving.await.unwrap_or(Err(SuccessionError::Silent))?;
        self.serves = true;
        // systemd looks after the new process from here on, if it looks after this one.
        notify(&[sd_notify::NotifyState::MainPid(self.child.id())]);
        Ok(())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.serves {
            // It may have ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Tells systemd, if it wants to know.
pub(crate) fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
