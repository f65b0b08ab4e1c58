//! What the plugins that log, count or trace have in common: records, figures, and queues to servers.

pub(crate) mod custom_fields;
pub(crate) mod figures;
pub mod log_record;
pub mod queue;
pub mod severity;
