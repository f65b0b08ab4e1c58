//! Wardgate from outside: the real programs, over real sockets.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod across_nodes;
mod all_at_once;
mod bad_input;
mod canaries;
mod changed_provider;
mod config_sync;
mod deploy;
mod guide;
mod hand_over;
mod hostile_provider;
mod identity;
mod never_a_blip;
mod okta_guide;
mod outage;
mod providers;
mod proxying;
mod quickstart;
/// The server that the data plane's own tests start.
#[path = "../../data-plane/tests/proxy/redis.rs"]
mod redis;
mod rollout;
mod sessions;
mod stored_sessions;
mod vaults;
mod whole;
