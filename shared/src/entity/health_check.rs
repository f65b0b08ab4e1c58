//! How to find out which targets of an upstream are healthy.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::Path;

/// How it is found out which targets answer.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct HealthChecks {
    /// By asking them.
    #[serde(default)]
    pub active: ActiveChecks,
    /// By watching what they answer to clients.
    #[serde(default)]
    pub passive: PassiveChecks,
    /// Least share of healthy weight, in per cent, for the upstream to count as healthy.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub threshold: f64,
}

impl Default for HealthChecks {
    fn default() -> Self {
        Self {
            active: ActiveChecks::default(),
            passive: PassiveChecks::default(),
            threshold: 0.0,
        }
    }
}

/// Checks by asking the targets.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default)]
pub struct ActiveChecks {
    /// How many targets are asked at a time.
    #[schemars(range(min = 1, max = 2_147_483_648_i64))]
    pub concurrency: u32,
    /// When a target that failed is healthy again.
    pub healthy: ActiveHealthy,
    /// Headers of the request, by name.
    pub headers: Option<BTreeMap<String, Vec<String>>>,
    /// Path of the request.
    pub http_path: Path,
    /// Server name of the TLS handshake; the upstream's or target's if absent.
    #[schemars(extend("format" = "kong-server-name"))]
    pub https_sni: Option<String>,
    /// Whether the certificate must be valid.
    pub https_verify_certificate: bool,
    /// Longest wait for an answer, in seconds.
    #[schemars(range(min = 0, max = 65535))]
    pub timeout: f64,
    /// What is asked.
    #[serde(rename = "type")]
    pub kind: CheckKind,
    /// When a target has failed.
    pub unhealthy: ActiveUnhealthy,
}

impl Default for ActiveChecks {
    fn default() -> Self {
        Self {
            concurrency: 10,
            healthy: ActiveHealthy::default(),
            headers: None,
            http_path: Path::parse("/").expect("a slash is a path"),
            https_sni: None,
            https_verify_certificate: true,
            timeout: 1.0,
            kind: CheckKind::Http,
            unhealthy: ActiveUnhealthy::default(),
        }
    }
}

/// What a check speaks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// A connection, nothing more.
    Tcp,
    /// A request.
    Http,
    /// A request over TLS.
    Https,
    /// gRPC.
    Grpc,
    /// gRPC over TLS.
    Grpcs,
}

/// When a target that failed is healthy again, by asking it.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default)]
pub struct ActiveHealthy {
    /// Statuses that count as success.
    pub http_statuses: Vec<HttpStatus>,
    /// Seconds between two checks; 0 for none.
    #[schemars(range(min = 0, max = 65535))]
    pub interval: f64,
    /// Successes in a row; 0 for never.
    #[schemars(range(min = 0, max = 255))]
    pub successes: u32,
}

impl Default for ActiveHealthy {
    fn default() -> Self {
        Self {
            http_statuses: statuses(&[200, 302]),
            interval: 0.0,
            successes: 0,
        }
    }
}

/// When a target has failed, by asking it.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default)]
pub struct ActiveUnhealthy {
    /// Failing answers in a row; 0 for never.
    #[schemars(range(min = 0, max = 255))]
    pub http_failures: u32,
    /// Statuses that count as failure.
    pub http_statuses: Vec<HttpStatus>,
    /// Seconds between two checks; 0 for none.
    #[schemars(range(min = 0, max = 65535))]
    pub interval: f64,
    /// Failed connections in a row; 0 for never.
    #[schemars(range(min = 0, max = 255))]
    pub tcp_failures: u32,
    /// Timeouts in a row; 0 for never.
    #[schemars(range(min = 0, max = 255))]
    pub timeouts: u32,
}

impl Default for ActiveUnhealthy {
    fn default() -> Self {
        Self {
            http_failures: 0,
            http_statuses: statuses(&[429, 404, 500, 501, 502, 503, 504, 505]),
            interval: 0.0,
            tcp_failures: 0,
            timeouts: 0,
        }
    }
}

/// Checks by watching what targets answer to clients.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default)]
pub struct PassiveChecks {
    /// When a target that failed is healthy again.
    pub healthy: PassiveHealthy,
    /// What is watched.
    #[serde(rename = "type")]
    pub kind: CheckKind,
    /// When a target has failed.
    pub unhealthy: PassiveUnhealthy,
}

impl Default for PassiveChecks {
    fn default() -> Self {
        Self {
            healthy: PassiveHealthy::default(),
            kind: CheckKind::Http,
            unhealthy: PassiveUnhealthy::default(),
        }
    }
}

/// When a target that failed is healthy again, by watching it.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default)]
pub struct PassiveHealthy {
    /// Statuses that count as success.
    pub http_statuses: Vec<HttpStatus>,
    /// Successes in a row; 0 for never.
    #[schemars(range(min = 0, max = 255))]
    pub successes: u32,
}

impl Default for PassiveHealthy {
    fn default() -> Self {
        Self {
            http_statuses: statuses(&[
                200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305,
                306, 307, 308,
            ]),
            successes: 0,
        }
    }
}

/// When a target has failed, by watching it.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(default)]
pub struct PassiveUnhealthy {
    /// Failing answers in a row; 0 for never.
    #[schemars(range(min = 0, max = 255))]
    pub http_failures: u32,
    /// Statuses that count as failure.
    pub http_statuses: Vec<HttpStatus>,
    /// Failed connections in a row; 0 for never.
    #[schemars(range(min = 0, max = 255))]
    pub tcp_failures: u32,
    /// Timeouts in a row; 0 for never.
    #[schemars(range(min = 0, max = 255))]
    pub timeouts: u32,
}

impl Default for PassiveUnhealthy {
    fn default() -> Self {
        Self {
            http_failures: 0,
            http_statuses: statuses(&[429, 500, 503]),
            tcp_failures: 0,
            timeouts: 0,
        }
    }
}

/// A status code of HTTP.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(transparent)]
#[schemars(inline)]
pub struct HttpStatus(#[schemars(range(min = 100, max = 999))] pub u16);

fn statuses(codes: &[u16]) -> Vec<HttpStatus> {
    codes.iter().copied().map(HttpStatus).collect()
}
