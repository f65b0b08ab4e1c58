//! The generated messages of config sync, and what both planes turn them into. See
//! `gateway/v1/config_sync.proto` for their meaning.

mod convert;

pub use convert::{MessageFault, decode_records, encode_records};

/// Version 1 of the protocol.
pub mod v1 {
    tonic::include_proto!("gateway.v1");
}
