//! What both planes of Wardgate must agree on: entities, their schemas, snapshots, secrets and time.
//!
//! Pure: nothing here opens a socket, spawns a task or reads a clock without being asked to.

pub mod amounts;
pub mod authority;
pub mod clock;
pub mod digest;
pub mod entity;
pub mod error_form;
pub mod expiry;
pub mod hexadecimal;
pub mod listen;
pub mod machine;
pub mod network;
pub mod passing;
pub mod properties;
pub mod renewal;
pub mod schema;
pub mod secret;
pub mod settings;
pub mod shares;
pub mod signature;
pub mod snapshot;
pub mod telemetry;
pub mod tls;
pub mod told;
pub mod types;
pub mod version;
