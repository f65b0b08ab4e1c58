//! Faults that the kernel is made to bring: a process is traced, and a system call fails, or is its last.

use std::path::Path;
use std::process::Command;

/// What runs a program so that `what` happens to its system calls, as strace's `inject` says: `fdatasync:error=EIO`,
/// `write:signal=KILL:when=3`. Only calls on one of `paths` count, each thread's for itself.
pub(crate) fn inject(what: &str, paths: &[&Path]) -> Vec<String> {
    let (calls, _) = what
        .split_once(':')
        .expect("a system call and what happens");
    let (trace, inject) = (format!("trace={calls}"), format!("inject={what}"));
    // The tracer is no parent: signals and the end are the program's own.
    let arguments = [
        "strace",
        "-D",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        &trace,
        "-e",
        &inject,
    ];
    let mut command: Vec<String> = arguments.map(str::to_owned).into();
    for path in paths {
        command.extend(["-P".to_owned(), path.display().to_string()]);
    }
    command
}

/// Whether processes can be traced here; if not, says so.
#[expect(clippy::print_stderr, reason = "what is left out is to be seen")]
pub(crate) fn is_possible() -> bool {
    let traced = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .output();
    let possible = traced.is_ok_and(|traced| traced.status.success());
    if !possible {
        eprintln!("left out: it takes strace, and the right to trace");
    }
    possible
}
