//! Wardgate from outside: the real programs, over real sockets.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod across_nodes;
mod bad_input;
mod config_sync;
mod deploy;
mod guide;
mod okta_guide;
mod outage;
mod providers;
mod proxying;
mod quickstart;
mod rollout;
mod sessions;
