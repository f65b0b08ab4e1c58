//! The proxy through its sockets.

#![allow(
    clippy::unwrap_used,
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod answers;
mod balancing;
mod datagrams;
mod errors;
mod filters;
mod framing;
mod gateway;
mod grpc;
mod http2;
mod limits;
mod operators;
mod overload;
mod passing;
mod phases;
mod reach;
mod redis;
mod requests;
mod streams;
mod tls;
mod trailers;
mod upstreams;
mod waits;
