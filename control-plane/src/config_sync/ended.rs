//! Why a node's stream ended, and what the node is told about it.

use std::time::Duration;

use proto::v1::Goodbye;
use proto::v1::goodbye::Why;
use tonic::Status;

/// Within which time nodes come back after a restart of the control plane.
const RECONNECT: Duration = Duration::from_secs(2);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the node left")]
    Left,
    #[error("the connection broke: {0}")]
    Broken(Status),
    #[error("a newer stream of the node took over")]
    Superseded,
    #[error("this control plane stops")]
    Stopping,
    #[error("the node accepted nothing for 30 s")]
    Stalled,
    #[error("the node did not answer an update within 3 minutes")]
    Unanswered,
    #[error("the node does not follow the protocol: {0}")]
    Protocol(String),
    #[error("the stream is half an hour old")]
    Old,
    #[error(
        "no authority of the cluster vouches any more for the certificate that the node has shown"
    )]
    Untrusted,
}

impl Ended {
    /// What the node is told; none if it is not there to hear it.
    pub(super) fn goodbye(&self) -> Option<Goodbye> {
        let why = match self {
            Self::Superseded => Why::Superseded,
            Self::Stopping => Why::Restarting,
            Self::Protocol(_) | Self::Unanswered => Why::Denied,
            // One that has another certificate by now comes back with it.
            Self::Old | Self::Untrusted => Why::Rebalance,
            Self::Left | Self::Broken(_) | Self::Stalled => return None,
        };
        Some(Goodbye {
            why: why.into(),
            message: self.to_string(),
            reconnect_within_ms: milliseconds(RECONNECT),
        })
    }
}

pub(super) fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::stream::age;
    use super::*;

    #[test]
    fn nodes_of_old_streams_are_to_come_back_but_not_as_one() {
        let ages: Vec<_> = (0..200).map(|_| age()).collect();
        let (soonest, latest) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
        let minutes = Duration::from_mins;
        assert!(*soonest >= minutes(27) && *latest <= minutes(33));
        assert!(latest.saturating_sub(*soonest) > minutes(2));
        let goodbye = Ended::Old.goodbye().unwrap();
        assert_eq!(goodbye.why(), Why::Rebalance);
        assert!(goodbye.reconnect_within_ms > 0, "spread again");
    }
}
