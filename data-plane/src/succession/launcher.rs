//! Who starts a successor: a process of this program that is there only until that serves.
//!
//! systemd waits for the end of a main process, and lets it end its exchanges, only if that is a child of its own when it is told
//! of it. What this process starts itself would be this one's child until this one ends. What a launcher has started is systemd's
//! as soon as the launcher is gone; where there is no systemd, that of whoever else takes in orphans.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

/// What stands in front of the program, and of its arguments, that a launcher is to start.
const LAUNCH: &str = "launch-successor";

/// This program itself, even where another has taken its place: that one need not know how to launch.
const ITSELF: &str = "/proc/self/exe";

/// A process that was launched, with its launcher.
#[derive(Debug)]
pub(crate) struct Launched {
    launcher: Child,
    process: Pid,
}

/// A command that has a launcher start `program` with `arguments`, and with the environment and descriptors of the command.
pub(crate) fn command(program: &OsStr, arguments: impl Iterator<Item = OsString>) -> Command {
    let mut command = Command::new(ITSELF);
    command.arg0(program).arg(LAUNCH).arg(program);
    command.args(arguments);
    command
}

impl Launched {
    /// Starts the launcher that `command` is, and returns once that has started the program.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        let (mut told, tells) = io::pipe()?;
        // The launcher tells by its standard input: the other two are the program's.
        let mut launcher = command.stdin(tells).spawn()?;
        // The command has the other end too: a launcher that ends would not be noticed.
        command.stdin(Stdio::null());
        let mut number = [0; size_of::<i32>()];
        let heard = told.read_exact(&mut number);
        let heard = heard.and_then(|()| match i32::from_be_bytes(number) {
            error @ ..0 => Err(io::Error::from_raw_os_error(-error)),
            number => Pid::from_raw(number).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        });
        match heard {
            Ok(process) => Ok(Self { launcher, process }),
            Err(error) => {
                let _ = launcher.kill();
                let _ = launcher.wait();
                Err(error)
            }
        }
    }

    /// The number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.process.as_raw_nonzero().get().unsigned_abs()
    }

    /// What the process has ended with, if it has.
    pub(crate) fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.launcher.try_wait()
    }

    /// Has the process be nobody's here: whoever takes in orphans is its parent when this returns.
    pub(crate) fn let_go(&mut self) {
        let _ = self.launcher.kill();
        let _ = self.launcher.wait();
    }

    /// Ends it, if it has not ended by itself.
    pub(crate) fn kill(&mut self) {
        // A launcher ends with the process, whose number may be another's then, unless somebody has ended the launcher.
        let ended = self.launcher.try_wait();
        if !matches!(ended, Ok(Some(status)) if status.signal().is_none()) {
            let _ = kill_process(self.process, Signal::KILL);
        }
        let _ = self.launcher.wait();
    }
}

#[cfg(test)]
impl Launched {
    /// What nobody has launched.
    pub(super) fn of(process: Child) -> Self {
        Self {
            process: Pid::from_child(&process),
            launcher: process,
        }
    }
}

/// Launches, if `arguments`, which this process was started with, say so: with what it ends then.
pub fn launch(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter().skip(1);
    if arguments.next()? != LAUNCH {
        return None;
    }
    let program = arguments.next()?;
    let status = start_and_wait(Command::new(program).args(arguments));
    // As a shell tells of a signal.
    let code = status.map(|status| status.code().or_else(|| Some(128 + status.signal()?)));
    let code = code.ok().flatten().and_then(|code| u8::try_from(code).ok());
    Some(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn start_and_wait(command: &mut Command) -> io::Result<ExitStatus> {
    // What it keeps open would never be closed if nobody ended it. If that one is gone before this, nothing can be told to it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let tells: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let mut tells = File::from(tells);
    match command.stdin(Stdio::null()).spawn() {
        Ok(mut child) => {
            tells.write_all(&child.id().to_be_bytes())?;
            child.wait()
        }
        Err(error) => {
            let number = error.raw_os_error().unwrap_or(i32::MAX);
            tells.write_all(&number.wrapping_neg().to_be_bytes())?;
            Err(error)
        }
    }
}
