//! The proxy through its sockets.

#![allow(
    clippy::unwrap_used,
    clippy::as_conversions,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod announced;
mod answers;
mod asking;
mod balancing;
mod datagrams;
mod downgrade;
mod errors;
mod filters;
mod floods;
mod framing;
mod gateway;
mod grpc;
mod grpc_clients;
mod held;
mod http2;
mod lasting;
mod ldap;
mod letter;
mod limits;
mod lingering;
mod names;
mod operators;
mod overload;
mod passing;
mod phases;
mod reach;
mod redis;
mod requests;
mod retries;
mod streams;
mod tls;
mod trailers;
mod transcoding;
mod unfinished;
mod unfit;
mod upgraded;
mod upstreams;
mod waits;
