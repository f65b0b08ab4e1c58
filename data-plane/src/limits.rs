//! How long and how much a client may keep from others.

use std::time::Duration;

/// Limits on clients. The defaults are for a gateway that faces the internet.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest wait for the rest of a request's head once its first byte is there.
    pub head: Duration,
    /// Longest wait for a request on a connection that has none under way, a new one included.
    pub idle: Duration,
    /// Longest wait for the next bytes of a request's body.
    pub body: Duration,
    /// Longest wait for a client to take the next bytes of its answer.
    pub send: Duration,
    /// Longest wait for a TLS handshake.
    pub handshake: Duration,
    /// Most client connections of the node. More are closed as they come.
    pub connections: usize,
    /// Most requests of the node under way. More are answered 503 as they come.
    pub in_flight: usize,
    /// Most requests under way to one server. More are answered 503.
    pub upstream_in_flight: usize,
    /// Longest part of a request's body that is held back until all of it is there, for routes with
    /// `request_buffering`. A longer body streams from there on.
    pub held_body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body: Duration::from_secs(30),
            send: Duration::from_mins(1),
            handshake: Duration::from_secs(10),
            connections: 50_000,
            in_flight: 10_000,
            upstream_in_flight: 10_000,
            held_body: 64 * 1024,
        }
    }
}
