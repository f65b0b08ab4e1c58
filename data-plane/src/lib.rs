//! Skeleton.

pub mod settings;
