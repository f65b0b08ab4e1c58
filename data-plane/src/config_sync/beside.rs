//! What comes beside an update that is under way, and the parts that its chunks come in so that there is room for that.

use bytes::Bytes;
use prost::Message as _;
use proto::v1::{Chunk, Part, Revoke};
use shared::entity::Revocation;

use super::receiver::{CHUNK, Violation};

/// What a chunk says besides its data, in bytes.
const AROUND: usize = 1024;

/// Puts a chunk together from its parts.
#[derive(Debug, Default)]
pub(super) struct Parts(Vec<u8>);

impl Parts {
    /// Takes the next part; the chunk, if it was the last.
    pub(super) fn take(&mut self, part: &Part) -> Result<Option<Chunk>, Violation> {
        if self.0.len() + part.data.len() > CHUNK + AROUND {
            return Err(Violation::Part);
        }
        self.0.extend_from_slice(&part.data);
        if !part.last {
            return Ok(None);
        }
        let whole = Bytes::from(std::mem::take(&mut self.0));
        Chunk::decode(whole).map(Some).map_err(|_| Violation::Part)
    }
}

/// What `told` revokes. What cannot be read comes once more, with the next update.
pub(super) fn revocations(told: &Revoke) -> Option<Vec<Revocation>> {
    serde_json::from_slice(&told.revocations).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(size: usize) -> Chunk {
        Chunk {
            update: 5,
            data: vec![7; size].into(),
            ..Chunk::default()
        }
    }

    fn parts(bytes: &[u8], size: usize) -> Vec<Part> {
        let pieces = bytes.chunks(size).map(|data| Part {
            data: data.to_vec().into(),
            last: false,
        });
        let mut parts: Vec<Part> = pieces.collect();
        parts.last_mut().unwrap().last = true;
        parts
    }

    #[test]
    fn a_chunk_comes_of_its_parts_and_of_nothing_longer() {
        for size in [1, 7_000, CHUNK] {
            let chunk = chunk(size);
            let (mut all, mut chunks) = (Parts::default(), Vec::new());
            for part in parts(&chunk.encode_to_vec(), 7_000)
                .iter()
                .chain(&parts(&chunk.encode_to_vec(), 99))
            {
                chunks.extend(all.take(part).unwrap());
            }
            assert_eq!(chunks, [chunk.clone(), chunk]);
        }
        let mut all = Parts::default();
        let long = parts(&chunk(CHUNK + AROUND).encode_to_vec(), 7_000);
        let violated = long.iter().find_map(|part| all.take(part).err());
        assert_eq!(violated, Some(Violation::Part));
        let torn = Part {
            data: Bytes::from_static(&[0x2a, 100]),
            last: true,
        };
        assert_eq!(Parts::default().take(&torn), Err(Violation::Part));
    }

    #[test]
    fn what_cannot_be_read_revokes_nothing() {
        let told = |text: &'static str| {
            revocations(&Revoke {
                revision: 7,
                revocations: Bytes::from_static(text.as_bytes()),
            })
        };
        let id = "00000000-0000-0000-0000-000000000007";
        let one =
            told(r#"[{"id":"00000000-0000-0000-0000-000000000007","before":5,"expires_at":9}]"#);
        assert_eq!(one.unwrap().first().unwrap().id.to_string(), id);
        assert_eq!(told("[]"), Some(Vec::new()));
        assert_eq!(told("[1]"), None);
    }
}
