//! What the plugins that log, count or trace share: records, metrics, queues, and the servers that receive them.

pub(crate) mod custom_fields;
pub(crate) mod figures;
pub(crate) mod http_target;
pub mod log_record;
pub mod queue;
pub mod severity;
