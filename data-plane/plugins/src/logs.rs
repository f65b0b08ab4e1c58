//! What the plugins that log, count or trace have in common: records, figures, queues, and servers that take
//! them.

pub(crate) mod custom_fields;
pub(crate) mod figures;
pub(crate) mod http_target;
pub mod log_record;
pub mod queue;
pub mod severity;
