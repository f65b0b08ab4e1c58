//! Messages that overtake an update under way, and the parts that the update's chunks are split into to make room for
//! them.

use bytes::Bytes;
use prost::Message as _;
use proto::v1::{Chunk, Part, Revoke};
use shared::entity::Revocation;
use shared::snapshot::Revision;

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

/// Up to which revision it is known what was revoked, of what comes beside updates.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Whether some of what is being told could not be read.
    lacks: bool,
    /// Up to which revision something may be missing that could not be read: it comes with an update that goes as far.
    whole_from: u64,
}

impl Heard {
    /// Notes a message up to `revision`, 0 if more of the same follow, that was read or not. Up to which revision nothing is
    /// missing, if that is to be said: not while less is `running` than what holds whatever could not be read.
    pub(super) fn note(&mut self, revision: u64, is_read: bool, running: Revision) -> Option<u64> {
        self.lacks |= !is_read;
        if revision == 0 {
            return None;
        }
        if std::mem::take(&mut self.lacks) {
            self.whole_from = revision;
        }
        (running.0 >= self.whole_from).then_some(revision)
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
    fn what_could_not_be_read_is_missing_until_what_holds_it_runs() {
        let mut heard = Heard::default();
        let mut note =
            |revision, is_read, running| heard.note(revision, is_read, Revision(running));
        assert_eq!(note(0, true, 1), None);
        assert_eq!(note(7, true, 1), Some(7));
        // The first of three.
        assert_eq!(note(0, false, 1), None);
        assert_eq!(note(0, true, 1), None);
        assert_eq!(note(9, true, 1), None);
        // What is told next does not tell it again, nor does an update that does not go as far.
        assert_eq!(note(10, true, 1), None);
        assert_eq!(note(11, true, 8), None);
        assert_eq!(note(11, true, 9), Some(11));
        // The only one.
        assert_eq!(note(12, false, 9), None);
        assert_eq!(note(13, true, 12), Some(13));
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
