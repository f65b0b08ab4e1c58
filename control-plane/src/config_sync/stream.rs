//! One node's stream: sends it updates, takes its answers, ends when either side is silent.

use std::time::Duration;

use proto::v1::control_message::Kind;
use proto::v1::goodbye::Why;
use proto::v1::{
    Begin, Commit, ControlMessage, Goodbye, Heartbeat, NodeMessage, Welcome, node_message,
};
use shared::clock::UnixTime;
use shared::snapshot::Position;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::{Status, Streaming};

use super::Service;
use super::session::{Offer, Session};
use super::wire::{fault, message, position};
use crate::fleet::Membership;
use crate::snapshot::EncodedSnapshot;

/// Time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Time between two reports of a node.
const STATUS: Duration = Duration::from_secs(10);
/// How long a stream may accept nothing.
const STALLED: Duration = Duration::from_secs(30);
/// How long a node may take to answer an update.
const ANSWER: Duration = Duration::from_mins(3);
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
}

/// A node's stream.
pub(super) struct NodeStream {
    service: Service,
    member: Membership,
    outgoing: mpsc::Sender<Result<ControlMessage, Status>>,
    session: Session,
}

impl NodeStream {
    pub(super) fn new(
        service: Service,
        member: Membership,
        outgoing: mpsc::Sender<Result<ControlMessage, Status>>,
        running: Position,
        refused: Option<Position>,
    ) -> Self {
        Self {
            service,
            member,
            outgoing,
            session: Session::new(running, refused),
        }
    }

    /// Serves the node until something ends it.
    pub(super) async fn run(
        mut self,
        incoming: Streaming<NodeMessage>,
        superseded: oneshot::Receiver<()>,
    ) -> Ended {
        let ended = match self.serve(incoming, superseded).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        let why = match ended {
            Ended::Superseded => Why::Superseded,
            Ended::Stopping => Why::Restarting,
            Ended::Protocol(_) | Ended::Unanswered => Why::Denied,
            Ended::Left | Ended::Broken(_) | Ended::Stalled => return ended,
        };
        let goodbye = Goodbye {
            why: why.into(),
            message: ended.to_string(),
            reconnect_within_ms: milliseconds(RECONNECT),
        };
        // The node may be gone already.
        let _ = self.outgoing.try_send(Ok(message(Kind::Goodbye(goodbye))));
        ended
    }

    async fn serve(
        &mut self,
        mut incoming: Streaming<NodeMessage>,
        mut superseded: oneshot::Receiver<()>,
    ) -> Result<std::convert::Infallible, Ended> {
        let mut target = self.service.target.clone();
        let mut stopping = self.service.stopping.clone();
        let newest = target.borrow_and_update().clone();
        self.welcome(&newest).await?;
        let mut heartbeat =
            tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
        let mut answer_by = None;
        loop {
            let newest = target.borrow_and_update().clone();
            if let Some(offer) = self.session.offer(&newest.position) {
                self.update(&newest, offer).await?;
                answer_by = Some(tokio::time::Instant::now() + ANSWER);
            }
            if !self.session.is_waiting() {
                answer_by = None;
            }
            tokio::select! {
                received = incoming.message() => match received {
                    Ok(Some(received)) => self.receive(received)?,
                    Ok(None) => return Err(Ended::Left),
                    Err(status) => return Err(Ended::Broken(status)),
                },
                // Nobody will announce a snapshot any more: the process ends.
                changed = target.changed() => changed.map_err(|_| Ended::Stopping)?,
                _ = heartbeat.tick() => self.heartbeat(&newest).await?,
                _ = &mut superseded => return Err(Ended::Superseded),
                () = stopped(&mut stopping) => return Err(Ended::Stopping),
                () = at(answer_by) => return Err(Ended::Unanswered),
            }
        }
    }

    async fn welcome(&self, newest: &EncodedSnapshot) -> Result<(), Ended> {
        let welcome = Welcome {
            replica: self.service.replica.clone(),
            target: Some((&newest.position).into()),
            wall_clock_ms: UnixTime::now().as_millis(),
            heartbeat_ms: milliseconds(HEARTBEAT),
            status_ms: milliseconds(STATUS),
        };
        if self.session.is_ahead_of(&newest.position) {
            tracing::warn!(
                node = self.member.name(),
                revision = %newest.position.revision,
                "the node runs a newer revision than this control plane has: was an old store put back? \
                 `restore` raises the generation, which nodes follow"
            );
        }
        self.send(Kind::Welcome(welcome)).await
    }

    async fn heartbeat(&self, newest: &EncodedSnapshot) -> Result<(), Ended> {
        let heartbeat = Heartbeat {
            target: Some((&newest.position).into()),
            wall_clock_ms: UnixTime::now().as_millis(),
        };
        self.send(Kind::Heartbeat(heartbeat)).await
    }

    async fn update(&self, snapshot: &EncodedSnapshot, offer: Offer) -> Result<(), Ended> {
        let Offer { nonce, full } = offer;
        // Held until the last chunk is under way; the limit is never closed.
        let _turn = if full {
            self.service.transfers.acquire().await.ok()
        } else {
            None
        };
        let begin = Begin {
            nonce,
            update: snapshot.position.revision.0,
            target: Some((&snapshot.position).into()),
            records: if full { snapshot.records } else { 0 },
            raw_bytes: if full { snapshot.raw_bytes } else { 0 },
            full,
        };
        self.send(Kind::Begin(begin)).await?;
        let chunks = if full {
            snapshot.chunks.as_slice()
        } else {
            &[]
        };
        for chunk in chunks {
            self.send(Kind::Chunk(chunk.clone())).await?;
        }
        let commit = Commit {
            nonce,
            chunks: u32::try_from(chunks.len()).unwrap_or(u32::MAX),
            root: snapshot.position.root.to_vec().into(),
        };
        self.send(Kind::Commit(commit)).await
    }

    async fn send(&self, kind: Kind) -> Result<(), Ended> {
        match self.outgoing.send_timeout(Ok(message(kind)), STALLED).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(Ended::Stalled),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(Ended::Left),
        }
    }

    fn receive(&mut self, received: NodeMessage) -> Result<(), Ended> {
        let protocol = |reason: &dyn std::fmt::Display| Ended::Protocol(reason.to_string());
        let now = UnixTime::now();
        match received.kind {
            Some(node_message::Kind::Ack(ack)) => {
                let running = self
                    .session
                    .acked(ack.nonce)
                    .map_err(|error| protocol(&error))?;
                self.member.runs(running, now);
                tracing::debug!(node = self.member.name(), revision = %running.revision, took_ms = ack.apply_ms, "applied");
            }
            Some(node_message::Kind::Nack(nack)) => {
                let target = self
                    .session
                    .nacked(nack.nonce)
                    .map_err(|error| protocol(&error))?;
                let faults: Vec<_> = nack.faults.into_iter().map(fault).collect();
                let first = faults.first();
                tracing::error!(
                    node = self.member.name(),
                    revision = %target.revision,
                    entity = first.map(|fault| format!("{} {}", fault.entity_type, fault.entity_id)),
                    field = first.map(|fault| fault.field.as_str()),
                    reason = first.map(|fault| fault.message.as_str()),
                    faults = faults.len(),
                    "the node refused the snapshot"
                );
                self.member.refused(target, faults, now);
            }
            Some(node_message::Kind::Status(status)) => {
                let running =
                    position(status.running).map_err(|error| protocol(&error.message()))?;
                self.member
                    .reports(running, status.persisted, status.draining, now);
            }
            Some(node_message::Kind::Hello(_)) => return Err(protocol(&"a second Hello")),
            // A newer node may say more than this control plane knows.
            None => {}
        }
        Ok(())
    }
}

/// Waits for the end of the process. A sender that is gone means the same as one that spoke.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn at(instant: Option<tokio::time::Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn milliseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
