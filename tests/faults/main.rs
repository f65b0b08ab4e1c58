//! Faults that take too long, or too much, for every change: `tests/faults/run` runs them and prints
//! what they measured.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and these are run for their figures"
)]

mod etcd;
mod fleet;
mod loops;
mod namespace;
mod partitions;
mod recorder;
mod replicas;
mod rotation;
mod versions;

/// A number from the environment.
fn number(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}
