//! Between the messages on the wire and our values.

use proto::v1;
use proto::v1::control_message::Kind;
use proto::v1::{ControlMessage, NodeMessage};
use shared::snapshot::Position;
use tonic::Status;

use super::Peer;
use crate::fleet::{Fault, Introduction};

/// Characters of a text from a node that are kept.
const TEXT: usize = 512;
/// Labels of a node that are kept.
const LABELS: usize = 32;

/// What a node's first message says, if it may be believed.
pub(super) fn introduction(
    message: Option<NodeMessage>,
    peer: &Peer,
) -> Result<Introduction, Status> {
    let Some(v1::node_message::Kind::Hello(hello)) = message.and_then(|message| message.kind)
    else {
        return Err(Status::failed_precondition(
            "the first message must be Hello",
        ));
    };
    if hello.node_id != peer.name {
        return Err(Status::permission_denied(format!(
            "this certificate is for the node `{}`, not for `{}`",
            peer.name,
            short(hello.node_id)
        )));
    }
    Ok(Introduction {
        name: hello.node_id,
        version: short(hello.version),
        hostname: short(hello.hostname),
        ip: peer.address.map(|address| address.ip()),
        labels: hello
            .labels
            .into_iter()
            .take(LABELS)
            .map(|(name, value)| (short(name), short(value)))
            .collect(),
        certificate_expires_at: peer.certificate_expires_at,
        boot: short(hello.boot_id),
        running: position(hello.running)?,
    })
}

/// A position; absent: nothing yet.
pub(super) fn position(position: Option<v1::Position>) -> Result<Position, Status> {
    Position::try_from(position.unwrap_or_default())
        .map_err(|fault| Status::invalid_argument(fault.to_string()))
}

pub(super) fn message(kind: Kind) -> ControlMessage {
    ControlMessage { kind: Some(kind) }
}

pub(super) fn fault(fault: v1::Fault) -> Fault {
    Fault {
        code: fault.code().as_str_name().to_owned(),
        entity_type: short(fault.entity_type),
        entity_id: short(fault.entity_id),
        field: short(fault.field),
        message: short(fault.message),
    }
}

fn short(text: String) -> String {
    if text.len() <= TEXT {
        return text;
    }
    text.chars().take(TEXT).collect()
}
