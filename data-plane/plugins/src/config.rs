//! What the configurations of several plugins have in common.

pub(crate) mod old_names;
pub(crate) mod pairs;
pub(crate) mod redis_config;
pub mod reserved_headers;
pub(crate) mod values;
