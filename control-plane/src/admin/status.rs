//! `/status`, `/timers`: what this process holds and does, in the words of Kong's clients.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use shared::amounts::Format;

use super::error::Refusal;
use crate::config::Config;

/// Requests that were answered and those that are under way.
#[derive(Debug, Default)]
pub(super) struct Counters {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Counters {
    /// A request begins.
    pub(super) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// A request was answered.
    pub(super) fn end(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections are counted as requests: this listener does not tell one from the other.
    fn shown(&self) -> Value {
        let ended = self.ended.load(Ordering::Relaxed);
        let begun = self.begun.load(Ordering::Relaxed);
        let active = begun.saturating_sub(ended);
        json!({
            "connections_active": active,
            "connections_reading": 0,
            "connections_writing": active,
            "connections_waiting": 0,
            "connections_accepted": begun,
            "connections_handled": begun,
            "total_requests": begun,
        })
    }
}

/// `/status`, with what is told of the `database`. What is read is in memory.
pub(super) fn status(
    config: &Config,
    database: &Value,
    counters: &Counters,
    query: Option<&str>,
) -> Result<Value, Refusal> {
    let format = Format::parse(query).map_err(Refusal::Argument)?;
    Ok(json!({
        "database": database,
        "server": counters.shown(),
        "memory": format.memory(),
        "configuration_revision": config.revision(),
    }))
}

/// `/timers`: there are none; what is to happen later waits in tasks.
pub(super) fn timers() -> Value {
    json!({
        "worker": { "id": 0, "count": 1 },
        "stats": {
            "sys": { "total": 0, "runs": 0, "running": 0, "pending": 0, "waiting": 0 },
            "timers": {},
            "flamegraph": { "running": "", "pending": "", "elapsed_time": "" },
        },
    })
}
