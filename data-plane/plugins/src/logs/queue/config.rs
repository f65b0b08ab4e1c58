//! How a plugin's queue is configured (Kong 3.9, queue).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::values::Number;

/// How entries wait and are sent.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct QueueConfig {
    /// Most entries that are sent together.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_batch_size: u32,

    /// How long an entry waits for others to be sent with, in seconds.
    #[serde(default = "Number::of::<1>")]
    #[schemars(range(min = 0, max = 3600))]
    pub max_coalescing_delay: Number,

    /// Most entries that wait; the oldest are dropped.
    #[serde(default = "ten_thousand")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_entries: u32,

    /// Most bytes that wait; the oldest are dropped.
    #[serde(default)]
    pub max_bytes: Option<u64>,

    /// How long sending is tried again before a batch is dropped, in seconds.
    #[serde(default = "Number::of::<60>")]
    pub max_retry_time: Number,

    /// Pause before the first further attempt, in seconds; it doubles each time.
    #[serde(default = "hundredth")]
    #[schemars(range(min = 0.001, max = 1_000_000))]
    pub initial_retry_delay: Number,

    /// Longest such pause, in seconds.
    #[serde(default = "Number::of::<60>")]
    #[schemars(range(min = 0.001, max = 1_000_000))]
    pub max_retry_delay: Number,

    /// How many batches each core sends at a time: one, or with -1 up to 64.
    #[serde(default = "one_at_a_time")]
    #[schemars(extend("enum" = [-1, 1]))]
    pub concurrency_limit: i32,
}

const fn one() -> u32 {
    1
}

const fn one_at_a_time() -> i32 {
    1
}

const fn ten_thousand() -> u32 {
    10_000
}

fn hundredth() -> Number {
    Number(serde_json::Number::from_f64(0.01).expect("0.01 is finite"))
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            max_batch_size: one(),
            max_coalescing_delay: Number::of::<1>(),
            max_entries: ten_thousand(),
            max_bytes: None,
            max_retry_time: Number::of::<60>(),
            initial_retry_delay: hundredth(),
            max_retry_delay: Number::of::<60>(),
            concurrency_limit: one_at_a_time(),
        }
    }
}

impl QueueConfig {
    /// This queue with what a configuration says under the names of earlier versions.
    pub(crate) fn with(mut self, size: Option<i64>, delay: Option<&Number>) -> Self {
        if let Some(size) = size {
            self.max_batch_size = u32::try_from(size.max(1)).unwrap_or(u32::MAX);
        }
        if let Some(delay) = delay {
            self.max_coalescing_delay = delay.clone();
        }
        self
    }
}

/// What the queue's fields of log plugins were called before there was `queue` (Kong 2.8): part of a
/// configuration. A value that was the default then says nothing, as in Kong 3.9.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct OldQueue {
    /// Has no effect: `queue.max_retry_time` says for how long sending is tried again.
    #[serde(default)]
    pub retry_count: Option<i64>,

    /// Use `queue.max_batch_size`.
    #[serde(default)]
    pub queue_size: Option<i64>,

    /// Use `queue.max_coalescing_delay`.
    #[serde(default)]
    pub flush_timeout: Option<Number>,
}

impl OldQueue {
    /// `queue` with what is said here.
    pub(crate) fn over(&self, queue: QueueConfig) -> QueueConfig {
        let delay = self.flush_timeout.as_ref();
        queue.with(
            self.queue_size.filter(|size| *size != 1),
            delay.filter(|delay| (delay.value() - 2.0).abs() > f64::EPSILON),
        )
    }
}
