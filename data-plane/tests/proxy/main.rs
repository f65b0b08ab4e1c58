//! The proxy through its sockets.

#![allow(
    clippy::unwrap_used,
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod framing;
mod gateway;
mod operators;
mod requests;
mod waits;
