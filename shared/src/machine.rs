//! What a process knows of the machine that it runs on, and leaves there for others.

use std::io;
use std::path::Path;

/// The machine's name, as the kernel tells it; empty if it does not.
pub fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// Writes `text` to `path` whole or not at all, so that a reader who sees the file can use it.
pub fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    std::fs::write(&unfinished, text)?;
    std::fs::rename(unfinished, path)
}
