//! The configuration as it travels: encoded and packed once per revision, whatever the number of nodes.

use proto::v1::Chunk;
use proto::v1::chunk::Packing;
use shared::entity::definition;
use shared::snapshot::{Key, Position, Record, Snapshot};

use crate::config::Config;

/// Bytes of a chunk before packing. Packed in parts of this size nothing is lost against one piece.
const CHUNK: usize = 256 * 1024;

/// Higher levels of zstd cost more here and are not smaller: most of a record is identifiers.
const LEVEL: i32 = 1;

/// A snapshot, ready to be sent to any node.
#[derive(Debug)]
pub struct EncodedSnapshot {
    /// Where it stands.
    pub position: Position,
    /// How many records it holds.
    pub records: u32,
    /// Bytes of all chunks before packing.
    pub raw_bytes: u64,
    /// The records. A clone of a chunk shares its bytes.
    pub chunks: Vec<Chunk>,
}

/// Encodes every record of `config`.
pub fn encode(config: &Config, generation: u64) -> EncodedSnapshot {
    let distributed = |key: &Key| definition(key.kind).is_some_and(|entity| entity.distributed);
    let records = config
        .records()
        .filter(|(key, _)| distributed(key))
        .map(|(key, record)| Record {
            key: *key,
            json: record.json().to_vec(),
        });
    let snapshot = Snapshot::new(generation, config.revision(), records.collect());
    pack(snapshot)
}

fn pack(snapshot: Snapshot) -> EncodedSnapshot {
    let position = snapshot.position;
    let count = u32::try_from(snapshot.records.len()).unwrap_or(u32::MAX);
    let raw = proto::encode_records(snapshot.records);
    // Equal for all streams; only there to tell one update's chunks from another's.
    let update = position.revision.0;
    let chunks = raw.chunks(CHUNK).zip(0..).map(|(part, index)| {
        let packed = zstd::bulk::compress(part, LEVEL).ok();
        let (packing, data) = match packed {
            Some(packed) if packed.len() < part.len() => (Packing::Zstd, packed),
            _ => (Packing::Plain, part.to_vec()),
        };
        Chunk {
            update,
            index,
            raw_size: u32::try_from(part.len()).expect("a part is far below 4 GiB"),
            packing: packing.into(),
            data: data.into(),
        }
    });
    EncodedSnapshot {
        position,
        records: count,
        raw_bytes: u64::try_from(raw.len()).expect("memory is far below 2^64 bytes"),
        chunks: chunks.collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::snapshot::{Key, Revision};
    use uuid::Uuid;

    use super::*;
    use crate::config::{Change, Stored};

    fn config(records: u128, padding: usize) -> Config {
        let put = |number| {
            let key = Key {
                kind: "services",
                id: Uuid::from_u128(number),
            };
            let text = "x".repeat(padding);
            let fields = json!({ "id": key.id, "name": format!("s{number}"), "path": text });
            (key, Stored::of(fields.as_object().unwrap()))
        };
        let change = Change {
            puts: (0..records).map(put).collect(),
            removes: Vec::new(),
        };
        Config::default().evolve(&change, Revision(7))
    }

    fn unpack(encoded: &EncodedSnapshot) -> Vec<Record> {
        let mut raw = Vec::new();
        for (chunk, index) in encoded.chunks.iter().zip(0..) {
            assert_eq!(chunk.index, index);
            assert!(chunk.raw_size <= 256 * 1024);
            match chunk.packing() {
                Packing::Plain => raw.extend_from_slice(&chunk.data),
                Packing::Zstd => {
                    let size = usize::try_from(chunk.raw_size).unwrap();
                    raw.extend(zstd::bulk::decompress(&chunk.data, size).unwrap());
                }
            }
        }
        assert_eq!(u64::try_from(raw.len()).unwrap(), encoded.raw_bytes);
        proto::decode_records(raw).unwrap()
    }

    #[test]
    fn every_record_arrives_in_parts_of_bounded_size() {
        for (records, padding) in [(0, 0), (3, 10), (2, 700_000), (5_000, 200)] {
            let config = config(records, padding);
            let encoded = encode(&config, 1);
            let put = unpack(&encoded);
            assert_eq!(put.len(), config.len());
            assert_eq!(usize::try_from(encoded.records).unwrap(), config.len());
            assert!(put.iter().all(|record| record.json.len() > padding));
            let arrived = Snapshot::new(1, config.revision(), put).position;
            assert_eq!(arrived, encoded.position);
        }
    }

    #[test]
    fn equal_content_has_equal_roots_at_any_revision() {
        let config = config(20, 5);
        let again = config.evolve(&Change::default(), Revision(9));
        let (one, other) = (encode(&config, 1).position, encode(&again, 1).position);
        assert_eq!(one.root, other.root);
        assert!(other.is_after(&one));
    }
}
