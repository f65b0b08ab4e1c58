//! The bundled plugins. Both planes link them: the control plane for their schemas and checks, the
//! data plane for their filters. Nothing here opens a socket or spawns a task.
//!
//! Adding a plugin: its file or folder in [`bundled`], and one line in [`registry`].

pub mod answer;
mod body;
pub mod bundled;
pub mod client_keys;
pub mod config;
pub mod credentials;
pub mod environment;
pub mod exchange;
mod expiring;
pub mod filter;
pub mod glance;
pub mod host;
pub mod listed_host;
pub mod logs;
mod lua;
pub mod proxies;
mod raw_text;
pub mod registry;
pub mod request_id;
pub mod sessions;
pub mod state;
pub mod stream;
mod succession;
#[cfg(test)]
mod testing;
pub mod trace;
mod transcoding;
