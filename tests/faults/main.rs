//! Faults that take too long, or too much, for every change: `tests/faults/run` runs them and prints
//! what they measured.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, and these are run for their figures"
)]

mod etcd;
mod fleet;
mod replicas;
