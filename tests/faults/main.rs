//! Faults from outside. Those that take too long, or too much, for every change are ignored: `tests/faults/run` runs
//! all of them and prints what they measured.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and these are run for their figures"
)]

mod changes;
mod clocks;
mod crowds;
mod cuts;
mod damage;
mod desync;
mod disks;
mod etcd;
mod fields;
mod fleet;
mod frozen;
mod histories;
mod injection;
mod kills;
mod limits;
mod load;
mod loops;
mod mount;
mod namespace;
mod nonsense;
mod numbered;
mod overload;
mod partitions;
mod providers;
mod recorder;
mod replicas;
mod rotation;
mod sessions;
mod slow_links;
mod soak;
mod suites;
mod versions;

use tokio::sync::{Mutex, MutexGuard};

/// Held by the test that runs. With every change as many would run at once as there are cores, and what one does to the machine
/// would be another's fault.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Waits until no other of these tests runs, for as long as what this returns is held.
async fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().await
}

/// A number from the environment.
fn number(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}
