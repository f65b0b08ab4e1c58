//! `/status`, `/timers`: what this process holds and does, in the words of Kong's clients.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use shared::machine::{resident_bytes, total_bytes};

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

/// How amounts of memory are written.
#[derive(Clone, Copy, Debug)]
struct Format {
    /// Bytes of the unit, and its name; none for plain bytes.
    unit: Option<(u64, &'static str)>,
    scale: usize,
}

impl Format {
    fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut format = Self {
            unit: Some((1 << 20, "MiB")),
            scale: 2,
        };
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "unit" => {
                    format.unit = match &*value {
                        "b" | "B" => None,
                        "k" | "K" => Some((1 << 10, "KiB")),
                        "m" | "M" => Some((1 << 20, "MiB")),
                        "g" | "G" => Some((1 << 30, "GiB")),
                        other => {
                            return Err(Refusal::Argument(format!(
                                "invalid unit '{other}' (expected 'k/K', 'm/M', or 'g/G')"
                            )));
                        }
                    };
                }
                "scale" => {
                    let scale = value.parse::<usize>().ok().filter(|scale| *scale <= 20);
                    format.scale = scale.ok_or_else(|| {
                        Refusal::Argument("scale must be equal or greater than 0".to_owned())
                    })?;
                }
                _ => {}
            }
        }
        Ok(format)
    }

    fn show(self, bytes: u64) -> Value {
        let Some((unit, name)) = self.unit else {
            return bytes.into();
        };
        // Exact up to 2^53 bytes, far beyond any memory.
        let amount = bytes.to_string().parse::<f64>().unwrap_or_default()
            / unit.to_string().parse::<f64>().unwrap_or(1.0);
        format!("{amount:.scale$} {name}", scale = self.scale).into()
    }
}

/// `/status`, with what is told of the `database`. What is read is in memory.
pub(super) fn status(
    config: &Config,
    database: &Value,
    counters: &Counters,
    query: Option<&str>,
) -> Result<Value, Refusal> {
    let format = Format::parse(query)?;
    let resident = format.show(resident_bytes());
    let dictionary = json!({ "capacity": format.show(total_bytes()), "allocated_slabs": resident });
    Ok(json!({
        "database": database,
        "server": counters.shown(),
        "memory": {
            // All configuration is in this process's own memory: one worker and one dictionary.
            "workers_lua_vms": [{ "pid": std::process::id(), "http_allocated_gc": resident }],
            "lua_shared_dicts": { "kong": dictionary, "kong_db_cache": dictionary },
        },
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
