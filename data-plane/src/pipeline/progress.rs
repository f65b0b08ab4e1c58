//! How far an exchange has come, and which way it took.

use std::time::Instant;

use http::{StatusCode, Version};
use plugins::exchange::{Source, Try};
use shared::clock::monotonic;

use crate::forward::Hold;

/// How far an exchange has come.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) start: Instant,
    /// Who made the answer.
    pub(crate) source: Source,
    /// Milliseconds in the gateway before the upstream was asked, and until it answered.
    pub(crate) proxy_latency: Option<u64>,
    pub(crate) upstream_latency: Option<u64>,
    pub(crate) upstream_status: Option<StatusCode>,
    /// The version of HTTP that it answered by.
    pub(crate) upstream_version: Version,
    /// When the upstream answered.
    pub(crate) answered_at: Option<Instant>,
    /// Whether all of the answer has gone in that moment.
    pub(crate) at_once: bool,
    /// Where it went, if any filter will look at that.
    pub(crate) trail: Option<Box<Trail>>,
    /// What counts the exchange among those of its server.
    pub(crate) hold: Option<Hold>,
}

impl Progress {
    /// That of an exchange that begins now.
    pub(crate) fn begin() -> Self {
        Self {
            start: monotonic(),
            source: Source::Error,
            proxy_latency: None,
            upstream_latency: None,
            upstream_status: None,
            upstream_version: Version::HTTP_11,
            answered_at: None,
            at_once: false,
            trail: None,
            hold: None,
        }
    }
}

/// Where an exchange went.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    /// Path and query that the upstream was asked for.
    pub(crate) upstream_uri: String,
    /// The servers that were asked.
    pub(crate) tries: Vec<Try>,
}
