//! The bundled plugins. Both planes link them: the control plane for their schemas and checks, the
//! data plane for their filters. Nothing here opens a socket or spawns a task.
//!
//! Adding a plugin: its file or folder, and one line in [`registry`].

pub mod acl;
mod answer;
pub mod environment;
pub mod exchange;
pub mod filter;
pub mod host;
mod identity_headers;
pub mod openid_connect;
pub mod registry;
pub mod revocations;
pub mod session_keys;
pub mod state;
#[cfg(test)]
mod testing;
