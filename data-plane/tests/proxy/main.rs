//! The proxy through its sockets.

#![allow(
    clippy::unwrap_used,
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod answers;
mod filters;
mod framing;
mod gateway;
mod http2;
mod operators;
mod requests;
mod upstreams;
mod waits;
