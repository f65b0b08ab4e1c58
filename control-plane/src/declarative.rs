//! Declarative configuration: a workspace as one file, in the format that decK and Kong without a database read.
//!
//! ```text
//!  YAML or JSON ─ decode ─► Value ─ read ─► File ─ command::batch ─► Change | every fault at once
//!                                             ▲                            └ faults ─► Kong's errors
//!  Config ─ write ─► Value ─ encode ─► YAML ──┘ means the same records
//! ```

mod faults;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use faults::{errors, flattened, general, nested, table};
pub use read::{File, Place, Refused, read};
pub use write::write;

use serde_json::Value;

/// The versions of the format that are understood.
pub const VERSIONS: [&str; 3] = ["1.1", "2.1", "3.0"];

/// Most values of a YAML file: room for a million records.
const NODES: usize = 50_000_000;

/// Most values that anchors may keep to be repeated: a short file must not become a long one.
const REPEATED: usize = 20_000;

/// Deepest nesting of a file.
const DEPTH: usize = 64;

/// Reads YAML, of which JSON is a part. Bounded in depth and size; anchors cannot make it grow without end.
///
/// # Errors
///
/// What is wrong and where.
pub fn decode(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: NODES,
            max_events: NODES.saturating_mul(2),
            max_depth: DEPTH,
            max_anchors: 1_000,
            max_recorded_anchor_events: REPEATED,
            max_total_scalar_bytes: 512 * 1024 * 1024,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
}

/// Writes YAML.
///
/// # Errors
///
/// None that is known: every JSON value can be written.
pub fn encode(document: &Value) -> Result<String, String> {
    serde_saphyr::to_string(document).map_err(|error| error.to_string())
}
