//! Request out, response back.

pub(crate) mod fields;
