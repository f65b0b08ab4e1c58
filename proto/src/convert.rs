//! Between messages and the values that both planes work with.

use prost::Message;
use prost::bytes::Bytes;
use shared::entity::definition;
use shared::snapshot::{Key, Position, Record, Revision};
use uuid::Uuid;

use crate::v1;

/// Why a message is not the value that it should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MessageFault {
    /// Not a message at all.
    #[error("not a record set")]
    Encoding,
    /// An id or a root of the wrong length.
    #[error("{0}")]
    Length(&'static str),
    /// A kind of record that this version does not know.
    #[error("records of the kind `{0}` are unknown to this version")]
    Kind(String),
}

impl From<&Position> for v1::Position {
    fn from(position: &Position) -> Self {
        Self {
            generation: position.generation,
            revision: position.revision.0,
            root: Bytes::copy_from_slice(&position.root),
        }
    }
}

impl TryFrom<v1::Position> for Position {
    type Error = MessageFault;

    /// A position without a root is the default: nothing yet.
    fn try_from(position: v1::Position) -> Result<Self, MessageFault> {
        if position.root.is_empty() {
            return Ok(Self::default());
        }
        let root = position.root.as_ref().try_into();
        Ok(Self {
            generation: position.generation,
            revision: Revision(position.revision),
            root: root.map_err(|_| MessageFault::Length("a root must have 32 bytes"))?,
        })
    }
}

/// The bytes of a [`v1::Records`] message.
pub fn encode_records(records: Vec<Record>) -> Vec<u8> {
    let put = records.into_iter().map(|record| v1::Record {
        kind: record.key.kind.to_owned(),
        id: Bytes::copy_from_slice(record.key.id.as_bytes()),
        json: record.json.into(),
    });
    v1::Records { put: put.collect() }.encode_to_vec()
}

/// The records in a [`v1::Records`] message.
pub fn decode_records(bytes: impl Into<Bytes>) -> Result<Vec<Record>, MessageFault> {
    let records = v1::Records::decode(bytes.into()).map_err(|_| MessageFault::Encoding)?;
    records.put.into_iter().map(decode_record).collect()
}

fn decode_record(record: v1::Record) -> Result<Record, MessageFault> {
    let id = Uuid::from_slice(&record.id)
        .map_err(|_| MessageFault::Length("a record's id must have 16 bytes"))?;
    let Some(known) = definition(&record.kind) else {
        return Err(MessageFault::Kind(record.kind));
    };
    Ok(Record {
        key: Key {
            kind: known.kind,
            id,
        },
        json: record.json.into(),
    })
}
