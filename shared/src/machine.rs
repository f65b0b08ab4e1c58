//! What a process knows of the machine that it runs on, and leaves there for others.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The machine's name, as the kernel tells it; empty if it does not.
pub fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Memory that this process has in use, in bytes; 0 where the kernel does not tell.
pub fn resident_bytes() -> u64 {
    kilobytes("/proc/self/status", "VmRSS:")
}

/// Memory that the machine has, in bytes; 0 where the kernel does not tell.
pub fn total_bytes() -> u64 {
    kilobytes("/proc/meminfo", "MemTotal:")
}

/// Memory that the machine could give to a process now, in bytes; 0 where the kernel does not tell.
pub fn available_bytes() -> u64 {
    kilobytes("/proc/meminfo", "MemAvailable:")
}

/// How many files and sockets this process may have open.
pub fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Has a crash leave no core file: it would hold session keys and clients' secrets. Whoever wants one raises the limit of
/// the running process (`prlimit --core`).
pub fn leave_no_core_file() {
    let limit = getrlimit(Resource::Core);
    let none = Rlimit {
        current: Some(0),
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "a crash may leave a core file, with secrets in it");
    }
}

fn kilobytes(file: &str, label: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    let amount = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    amount.unwrap_or_default().saturating_mul(1024)
}

/// Writes `text` to `path` whole or not at all, so that a reader who sees the file can use it.
pub fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    std::fs::write(&unfinished, text)?;
    std::fs::rename(unfinished, path)
}

/// Writes `text` to `path` whole or not at all. Once this returns, it is there after a power failure, too.
pub fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file = File::create(&unfinished)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(unfinished, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}
