//! What an operator asks of a running process by signals. Some ask for something besides its end. By default they end it all
//! the same: until it listens to them they have to wait.

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

/// What a signal asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asked {
    /// SIGTERM, SIGINT or SIGQUIT: its end, once what it is at is done.
    End,
    /// SIGUSR2 or SIGHUP: a start anew in its place. To read settings anew is to start anew.
    Anew,
    /// SIGUSR1: log files that are opened again.
    Reopen,
}

/// The signals of a process.
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
    /// Listens to them from now on, those that were held among them.
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

    /// Waits for what is asked for next. Nothing is lost if it is not waited for to the end.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.quit.recv() => Asked::End,
            _ = self.replace.recv() => Asked::Anew,
            _ = self.hang_up.recv() => Asked::Anew,
            _ = self.reopen.recv() => Asked::Reopen,
        }
    }

    /// Waits until the process is to end; whatever else is asked for waits.
    pub async fn ended(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }

    /// Waits until a process that ends is not to finish what it is at: for another SIGTERM or SIGINT.
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
