//! Signals that ask a process for something besides its end. By default they end it all the same: until it listens to them
//! they have to wait.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{self, SignalKind, signal};

/// Has them wait for [`release`], in this thread and in all that it starts from now on: threads, processes, and what takes
/// the place of this process.
///
/// # Errors
///
/// The system's.
pub fn hold() -> io::Result<()> {
    Ok(requests().thread_block()?)
}

/// Has those come that have waited, and all further ones: for a process that listens to them.
///
/// # Errors
///
/// The system's.
pub fn release() -> io::Result<()> {
    Ok(requests().thread_unblock()?)
}

/// What an operator asks of a running process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To end: SIGTERM, SIGINT or SIGQUIT.
    End,
    /// To let another take its place, as it was started: SIGUSR2, or SIGHUP. To read settings anew is to start anew.
    Replace,
    /// To open log files anew: SIGUSR1.
    Reopen,
}

/// Signals that a process listens to.
#[derive(Debug)]
pub struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
    replace: unix::Signal,
    hang_up: unix::Signal,
    reopen: unix::Signal,
}

impl Signals {
    /// Listens, also to those that have waited since [`hold`]. Needs a runtime.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn listen() -> io::Result<Self> {
        let signals = Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            replace: signal(SignalKind::user_defined2())?,
            hang_up: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
        };
        release()?;
        Ok(signals)
    }

    /// What is asked next.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.quit.recv() => Asked::End,
            _ = self.replace.recv() => Asked::Replace,
            _ = self.hang_up.recv() => Asked::Replace,
            _ = self.reopen.recv() => Asked::Reopen,
        }
    }

    /// Returns when the process is to end. What else is asked meanwhile waits for [`Self::next`].
    pub async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }

    /// Returns when a process that is ending is not to wait any longer: on another SIGTERM or SIGINT. SIGQUIT, by which
    /// servers are asked to end in order, hurries nobody.
    pub async fn at_once(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn requests() -> SigSet {
    SigSet::from_iter([Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2])
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{pthread_sigmask, raise};

    use super::*;

    /// Whether they wait in this thread.
    fn wait() -> bool {
        let mut now = SigSet::empty();
        pthread_sigmask(
            nix::sys::signal::SigmaskHow::SIG_BLOCK,
            None,
            Some(&mut now),
        )
        .unwrap();
        now.contains(Signal::SIGUSR2)
    }

    #[test]
    fn what_is_held_waits_in_threads_that_are_started_meanwhile_too() {
        let held = std::thread::spawn(|| {
            hold().unwrap();
            // Nobody listens: it would end the process.
            raise(Signal::SIGUSR2).unwrap();
            let inherited = std::thread::spawn(wait).join().unwrap();
            let taken = SigSet::from_iter([Signal::SIGUSR2]).wait().unwrap();
            assert_eq!(taken, Signal::SIGUSR2);
            release().unwrap();
            (inherited, wait())
        });
        assert_eq!(held.join().unwrap(), (true, false));
        assert!(!wait());
    }
}
