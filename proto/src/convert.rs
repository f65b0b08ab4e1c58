//! Between messages and the values that both planes work with.

use prost::Message;
use prost::bytes::Bytes;
use shared::entity::definition;
use shared::snapshot::{BUCKETS, Hash, Inventory, Key, Position, Record, Revision};
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
            urgent: position.urgent.0,
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
            urgent: Revision(position.urgent),
            root: root.map_err(|_| MessageFault::Length("a root must have 32 bytes"))?,
        })
    }
}

/// Records and the keys of those that go.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// New records, or such that take the place of others with their keys.
    pub puts: Vec<Record>,
    /// Records that go.
    pub removes: Vec<Key>,
}

/// The bytes of a [`v1::Records`] message. Those of two joined are those of one with both contents.
pub fn encode_changes(changes: Changes) -> Vec<u8> {
    let put = changes.puts.into_iter().map(|record| v1::Record {
        kind: record.key.kind.to_owned(),
        id: Bytes::copy_from_slice(record.key.id.as_bytes()),
        json: record.json,
    });
    let remove = changes.removes.iter().map(|key| v1::Key {
        kind: key.kind.to_owned(),
        id: Bytes::copy_from_slice(key.id.as_bytes()),
    });
    let records = v1::Records {
        put: put.collect(),
        remove: remove.collect(),
    };
    records.encode_to_vec()
}

/// The bytes of a [`v1::Records`] message without removals.
pub fn encode_records(puts: Vec<Record>) -> Vec<u8> {
    encode_changes(Changes {
        puts,
        removes: Vec::new(),
    })
}

/// What a [`v1::Records`] message holds.
pub fn decode_changes(bytes: impl Into<Bytes>) -> Result<Changes, MessageFault> {
    let records = v1::Records::decode(bytes.into()).map_err(|_| MessageFault::Encoding)?;
    let puts = records.put.into_iter().map(|record| {
        Ok(Record {
            key: key(&record.kind, &record.id)?,
            json: record.json,
        })
    });
    let removes = records
        .remove
        .into_iter()
        .map(|gone| key(&gone.kind, &gone.id));
    Ok(Changes {
        puts: puts.collect::<Result<_, MessageFault>>()?,
        removes: removes.collect::<Result<_, MessageFault>>()?,
    })
}

/// The records in a [`v1::Records`] message that removes none.
pub fn decode_records(bytes: impl Into<Bytes>) -> Result<Vec<Record>, MessageFault> {
    let changes = decode_changes(bytes)?;
    if changes.removes.is_empty() {
        Ok(changes.puts)
    } else {
        Err(MessageFault::Encoding)
    }
}

fn key(kind: &str, id: &[u8]) -> Result<Key, MessageFault> {
    let id = Uuid::from_slice(id)
        .map_err(|_| MessageFault::Length("a record's id must have 16 bytes"))?;
    let known = definition(kind).ok_or_else(|| MessageFault::Kind(kind.to_owned()))?;
    Ok(Key {
        kind: known.kind,
        id,
    })
}

/// The digests of all buckets, as they travel.
pub fn encode_digests(inventory: &Inventory) -> Bytes {
    inventory.digests().flatten().copied().collect()
}

/// The digests of all buckets.
pub fn decode_digests(bytes: &[u8]) -> Result<Vec<Hash>, MessageFault> {
    let (digests, rest) = bytes.as_chunks::<32>();
    if digests.len() != BUCKETS || !rest.is_empty() {
        return Err(MessageFault::Length("digests must be 1,024 of 32 bytes"));
    }
    Ok(digests.to_vec())
}
