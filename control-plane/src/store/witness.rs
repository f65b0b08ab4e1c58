//! Which commit was the last, beside the database: a store that has lost its end opens as if it had never been
//! longer, and only something outside of it can tell.
//!
//! The file is written after each commit was synced, and is not synced itself. It outlives the process, and after a
//! power cut it is as old as the disk has it, never newer than the store: it accuses nobody wrongly, and costs a
//! commit next to nothing.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use shared::snapshot::Hash;

use super::Head;

/// The file in the store's directory.
const NAME: &str = "witness";

/// What it begins with.
const MAGIC: &[u8; 8] = b"WARDWIT\x01";

/// Magic, generation, revision, chain, checksum.
const LENGTH: usize = 8 + 8 + 8 + 32 + 8;

/// The last commit that was acknowledged, as far as is known.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Seen {
    pub(super) generation: u64,
    pub(super) revision: u64,
    pub(super) chain: Hash,
}

impl From<&Head> for Seen {
    fn from(head: &Head) -> Self {
        Self {
            generation: head.generation,
            revision: head.revision,
            chain: head.chain,
        }
    }
}

/// The file, once the store is open.
#[derive(Debug)]
pub(super) struct Witness(Option<File>);

impl Witness {
    /// The file in `directory`, made if it is absent. Without one the store is used all the same.
    pub(super) fn open(directory: &Path) -> Self {
        let path = directory.join(NAME);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path);
        if let Err(error) = &file {
            tracing::warn!(file = %path.display(), %error, "the store has no witness");
        }
        Self(file.ok())
    }

    /// Notes that `head` is on disk.
    pub(super) fn note(&mut self, head: &Head) {
        let Some(file) = &self.0 else {
            return;
        };
        // One write: whoever is killed leaves this or the one before.
        if let Err(error) = file.write_all_at(&encode(Seen::from(head)), 0) {
            tracing::warn!(%error, "the store's witness cannot be written");
            self.0 = None;
        }
    }
}

/// Whether something was ever committed to a store in `directory`: a start that could not has left one that is as good as none. One
/// that cannot be looked into counts as begun.
pub(crate) fn is_begun(directory: &Path) -> bool {
    let length = |name| match std::fs::metadata(directory.join(name)) {
        Ok(found) => Some(found.len()),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => None,
            _ => Some(u64::MAX),
        },
    };
    // One of before there were witnesses has a database alone.
    length(NAME).map_or_else(|| length("db").is_some(), |length| length > 0)
}

/// What the witness in `directory` has seen; nothing if it is absent or damaged.
pub(super) fn seen(directory: &Path) -> Option<Seen> {
    let path = directory.join(NAME);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let seen = decode(&bytes);
            if seen.is_none() && !bytes.is_empty() {
                tracing::warn!(file = %path.display(), "the store's witness is damaged and passed over");
            }
            seen
        }
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                tracing::warn!(file = %path.display(), %error, "the store's witness cannot be read");
            }
            None
        }
    }
}

fn encode(seen: Seen) -> Vec<u8> {
    let parts: [&[u8]; 4] = [
        MAGIC,
        &seen.generation.to_be_bytes(),
        &seen.revision.to_be_bytes(),
        &seen.chain,
    ];
    let mut bytes = parts.concat();
    let sum = checksum(&bytes);
    bytes.extend(sum);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Seen> {
    let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
    let (content, sum) = bytes.split_last_chunk::<8>()?;
    let rest = content.strip_prefix(MAGIC)?;
    let (generation, rest) = rest.split_first_chunk::<8>()?;
    let (revision, chain) = rest.split_first_chunk::<8>()?;
    let seen = Seen {
        generation: u64::from_be_bytes(*generation),
        revision: u64::from_be_bytes(*revision),
        chain: chain.try_into().ok()?,
    };
    (checksum(content) == *sum).then_some(seen)
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let hash = blake3::hash(bytes);
    let first = hash.as_bytes().first_chunk();
    *first.expect("a hash has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_seen_and_damage_is_nothing() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(seen(place.path()), None);
        let mut witness = Witness::open(place.path());
        assert_eq!(seen(place.path()), None, "nothing was noted yet");
        for revision in [1, 2] {
            let head = Head {
                revision,
                chain: [7; 32],
                ..Head::default()
            };
            witness.note(&head);
            assert_eq!(seen(place.path()), Some(Seen::from(&head)));
        }
        let path = place.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            for bytes in [flipped, whole[..at].to_vec()] {
                std::fs::write(&path, bytes).unwrap();
                assert_eq!(seen(place.path()), None, "at {at}");
            }
        }
    }
}
