//! Wardgate on one machine: both planes in one process, and a demo around them.

mod admin;
pub mod cluster;
mod demo;
mod page;
pub mod provider;
pub mod run;
pub mod settings;
pub mod upstream;
