//! The generated messages of config sync. See `gateway/v1/config_sync.proto` for their meaning.

/// Version 1 of the protocol.
pub mod v1 {
    tonic::include_proto!("gateway.v1");
}
