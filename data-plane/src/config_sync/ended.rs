//! Why a stream has ended.

use std::time::Duration;

use tonic::Status;

use super::connection::ConnectError;
use super::receiver::Violation;

/// Why following a control plane ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("{0}")]
    Unreachable(ConnectError),
    #[error("the control plane ended the stream")]
    Closed,
    #[error("the connection broke: {}", .0.message())]
    Broken(Status),
    #[error("no heartbeat in time")]
    Silent,
    #[error("the control plane does not follow the protocol: {0}")]
    Protocol(#[from] Violation),
    #[error("{message}")]
    Goodbye { within: Duration, message: String },
    #[error("another process of this node serves now")]
    HandedOver,
    #[error("this process goes on, or rests")]
    Turned,
    #[error("another process follows as this node: {0}")]
    Superseded(String),
    #[error("this node is to run once more what it has crashed with")]
    Again,
    #[error("told to wait: {reason}")]
    Held { wait: Duration, reason: String },
}

impl Ended {
    /// Whether it belongs to the life of a cluster.
    pub(super) const fn is_expected(&self) -> bool {
        matches!(
            self,
            Self::Goodbye { .. }
                | Self::HandedOver
                | Self::Turned
                | Self::Again
                | Self::Held { .. }
        )
    }
}
