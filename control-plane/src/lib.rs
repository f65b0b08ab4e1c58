//! The control plane: the writer of the configuration.
//!
//! ```text
//!  admin ─► Command ─► decide(Config, Command) ─► Change ─► journal ─► evolve(Config, Change) ─► Config
//! ```

pub mod admin;
pub mod catalogue;
pub mod certificates;
pub mod command;
pub mod config;
pub mod publisher;
pub mod settings;
