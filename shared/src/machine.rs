//! What a process may know of the machine that it runs on.

/// The machine's name, as the kernel tells it; empty if it does not.
pub fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
