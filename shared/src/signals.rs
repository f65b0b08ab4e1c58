//! Signals that ask a process for something besides its end. By default they end it all the same: until it listens to them
//! they have to wait.

use std::io;

use nix::sys::signal::{SigSet, Signal};

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
}
