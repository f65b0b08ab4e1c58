//! Wardgate's data plane: the proxy and its OpenID Connect relying party.
//!
//! ```text
//!  client ─► listener ─► pipeline ─► router: the CompiledRoute, from the live snapshot
//!                           │
//!                           ├─► filters, by priority; any of them may answer
//!                           └─► forward ─► upstream: a pooled connection ─► server
//! ```
//!
//! A request runs from its first to its last byte on the core that accepted it, and by the snapshot
//! that it began with.

mod access_log;
mod body;
mod certificates;
pub mod compile;
mod core;
mod error;
mod forward;
mod host;
mod http1;
mod listener;
pub mod live;
mod metrics;
mod pipeline;
pub mod proxy;
mod router;
pub mod settings;
mod status;
mod stream;
mod timer;
mod trusted;
mod upstream;
