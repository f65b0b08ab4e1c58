//! Sockets that a process passes on to the one that takes its place, as systemd passes them (`sd_listen_fds(3)`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};

/// Below are descriptors that are not in a row.
const FIRST: i32 = 64;

/// How often a row of free descriptors is looked for.
const TRIES: usize = 1000;

/// What is passed on. Until the other process runs, it is to be kept.
#[derive(Debug)]
pub struct Passed {
    _descriptors: Vec<OwnedFd>,
}

/// Has the process that `command` starts find `sockets`, with their names.
///
/// # Errors
///
/// There are no descriptors left.
pub fn pass(command: &mut Command, sockets: Vec<(String, OwnedFd)>) -> io::Result<Passed> {
    let (names, descriptors): (Vec<String>, Vec<OwnedFd>) = sockets.into_iter().unzip();
    let (first, row) = in_a_row(&descriptors)?;
    command
        .env("LISTEN_FDS", names.len().to_string())
        .env("LISTEN_FDNAMES", names.join(":"))
        .env("LISTEN_FDS_FIRST_FD", first.to_string())
        .env_remove("LISTEN_PID");
    Ok(Passed { _descriptors: row })
}

/// Duplicates of `descriptors` with numbers one after the other, the first of which is told. Whatever is started next
/// inherits them.
fn in_a_row(descriptors: &[OwnedFd]) -> io::Result<(i32, Vec<OwnedFd>)> {
    let mut first = FIRST;
    for _ in 0..TRIES {
        let mut row = Vec::new();
        for (number, descriptor) in (first..).zip(descriptors) {
            let copy = fcntl_dupfd_cloexec(descriptor, number)?;
            let got = copy.as_raw_fd();
            row.push(copy);
            if got != number {
                first = got;
                break;
            }
        }
        if row.len() == descriptors.len() && row.first().is_none_or(|one| one.as_raw_fd() == first)
        {
            for copy in &row {
                fcntl_setfd(copy, FdFlags::empty())?;
            }
            return Ok((first, row));
        }
    }
    Err(io::Error::other("there are no free descriptors in a row"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_stand_in_a_row_whatever_is_open() {
        let one = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let given = [one(), one(), one()];
        let blocker = fcntl_dupfd_cloexec(&given[0], FIRST + 1).unwrap();
        let (first, row) = in_a_row(&given).unwrap();
        assert!(first > FIRST + 1 || blocker.as_raw_fd() != FIRST + 1);
        let numbers: Vec<_> = row.iter().map(AsRawFd::as_raw_fd).collect();
        assert_eq!(numbers, [first, first + 1, first + 2]);
    }
}
