//! What an operator asks of a running program by signals. Those that ask for something besides its end end it all the same by
//! default: until it listens to them they have to wait.

use std::io;

use nix::sys::signal::{SigSet, Signal};
use tokio::signal::unix::{self, SignalKind, signal};

/// What is asked of a program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Asked {
    /// To end: SIGTERM, SIGINT or SIGQUIT.
    End,
    /// To be replaced: SIGUSR2 or SIGHUP. To read settings anew is to start anew.
    Replace,
    /// To open its logs anew: SIGUSR1.
    Reopen,
}

/// The signals that a program heeds.
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
    /// Listens to all of them; what has waited comes first.
    ///
    /// # Errors
    ///
    /// The system's.
    ///
    /// # Panics
    ///
    /// Outside a runtime.
    pub fn listen() -> io::Result<Self> {
        let all = Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            replace: signal(SignalKind::user_defined2())?,
            hang_up: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
        };
        release()?;
        Ok(all)
    }

    /// Waits for what is asked next.
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

    /// Waits until the program is to end; what else is asked waits.
    pub async fn ended(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.quit.recv() => {}
        }
    }

    /// Waits until a program that ends already is to end at once: for SIGTERM or SIGINT.
    pub async fn at_once(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for SIGINT.
    pub async fn interrupted(&mut self) {
        self.interrupt.recv().await;
    }
}

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

    #[tokio::test]
    async fn each_signal_asks_for_its_own() {
        let mut signals = Signals::listen().unwrap();
        for (signal, asked) in [
            (Signal::SIGTERM, Asked::End),
            (Signal::SIGINT, Asked::End),
            (Signal::SIGQUIT, Asked::End),
            (Signal::SIGUSR2, Asked::Replace),
            (Signal::SIGHUP, Asked::Replace),
            (Signal::SIGUSR1, Asked::Reopen),
        ] {
            raise(signal).unwrap();
            assert_eq!(signals.next().await, asked, "{signal}");
        }
    }
}
