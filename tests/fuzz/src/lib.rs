//! What the targets stand on: a control plane in memory, and a host of a data plane without a network.

pub mod control;
pub mod host;
pub mod request;
