//! The control plane: the writer of the configuration.
//!
//! ```text
//!  Command ─► decide(Config, Command) ─► Change ─► evolve(Config, Change) ─► Config
//! ```

pub mod catalogue;
pub mod certificates;
pub mod command;
pub mod config;
pub mod settings;
