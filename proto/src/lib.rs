//! The generated messages of config sync, and what both planes turn them into. See
//! `gateway/v1/config_sync.proto` for their meaning.

mod convert;
pub mod features;

pub use convert::{
    Changes, MessageFault, decode_changes, decode_digests, decode_records, encode_changes,
    encode_digests, encode_records,
};

/// Version 1 of the protocol.
pub mod v1 {
    tonic::include_proto!("gateway.v1");
}
