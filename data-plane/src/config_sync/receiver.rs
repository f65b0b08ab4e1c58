//! Puts an update together from its messages: bounded, in order, and complete only with a proven root.

use proto::v1::chunk::Packing;
use proto::v1::fault::Code;
use proto::v1::{Begin, Chunk, Commit, Fault, Part};
use proto::{Changes, MessageFault, decode_changes};
use shared::snapshot::{BucketSet, MOST_BYTES, MOST_RECORDS, Position, Snapshot};

use super::beside::Parts;
use super::vouched::{Chain, Vouched};

/// Bytes of a chunk, before packing.
pub(super) const CHUNK: usize = 256 * 1024;

/// An update that has come to its end, well or not.
#[derive(Debug)]
pub(super) struct Update {
    /// The stream's number of it.
    pub(super) nonce: u64,
    /// Where it leads.
    pub(super) target: Position,
    /// Who says so.
    pub(super) vouched: Vouched,
    /// Whether an operator orders it, although this node has crashed with it.
    pub(super) ordered: bool,
    /// What it holds, or why it cannot be used.
    pub(super) content: Result<Content, Fault>,
}

/// What an update holds.
#[derive(Debug)]
pub(super) enum Content {
    /// The whole configuration.
    Full(Snapshot),
    /// What leads from `base` to the target.
    Changes { base: Position, changes: Changes },
    /// What takes the place of some buckets of `base`.
    Buckets {
        base: Position,
        buckets: BucketSet,
        changes: Changes,
    },
    /// What runs already, at another position.
    Same,
}

/// What the chunks of an update hold.
#[derive(Debug)]
enum Kind {
    Full,
    Changes(Position),
    Buckets(Position, BucketSet),
    Same,
}

/// The control plane does not follow the protocol: the stream is of no use any more.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Violation {
    #[error("an update begins while another has not ended")]
    Overlap,
    #[error("a part of an update outside of one")]
    Outside,
    #[error("a Commit of another update")]
    Nonce,
    #[error("certificates that were to be kept, where there were none")]
    Chain,
    #[error("parts that make no chunk")]
    Part,
}

/// Collects one update at a time.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    open: Option<Open>,
    parts: Parts,
    chain: Chain,
}

#[derive(Debug)]
struct Open {
    nonce: u64,
    update: u64,
    target: Position,
    vouched: Vouched,
    ordered: bool,
    kind: Kind,
    records: u32,
    raw_bytes: u64,
    raw: Vec<u8>,
    chunks: u32,
    /// The first thing that was wrong. The rest of the update is read and dropped.
    fault: Option<Fault>,
}

/// A fault of the update as a whole.
pub(super) fn fault(code: Code, message: impl Into<String>) -> Fault {
    Fault {
        code: code.into(),
        message: message.into(),
        ..Fault::default()
    }
}

impl Receiver {
    pub(super) fn begin(&mut self, begin: Begin) -> Result<(), Violation> {
        if self.open.is_some() {
            return Err(Violation::Overlap);
        }
        let whole = self.chain.complete(&begin.manifest, begin.chain_kept);
        let manifest = whole.ok_or(Violation::Chain)?;
        let mut refused = None;
        let target =
            Position::try_from(begin.target.clone().unwrap_or_default()).unwrap_or_else(|error| {
                refused = Some(fault(Code::Corrupt, error.to_string()));
                Position::default()
            });
        let kind = Kind::of(&begin).unwrap_or_else(|message| {
            refused = Some(fault(Code::Corrupt, message));
            Kind::Same
        });
        if begin.raw_bytes > MOST_BYTES || begin.records > MOST_RECORDS {
            let message = format!(
                "{} records of {} bytes; this node takes {MOST_RECORDS} of {MOST_BYTES}",
                begin.records, begin.raw_bytes
            );
            refused = Some(fault(Code::Limit, message));
        }
        self.open = Some(Open {
            nonce: begin.nonce,
            update: begin.update,
            target,
            vouched: Vouched {
                manifest,
                signature: begin.signature.into(),
            },
            ordered: begin.ordered,
            kind,
            records: begin.records,
            raw_bytes: begin.raw_bytes,
            raw: Vec::new(),
            chunks: 0,
            fault: refused,
        });
        Ok(())
    }

    /// Whether an update has begun and not ended.
    pub(super) const fn is_receiving(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn part(&mut self, part: &Part) -> Result<(), Violation> {
        if self.open.is_none() {
            return Err(Violation::Outside);
        }
        let chunk = self.parts.take(part)?;
        chunk.map_or(Ok(()), |chunk| self.chunk(&chunk))
    }

    pub(super) fn chunk(&mut self, chunk: &Chunk) -> Result<(), Violation> {
        let open = self.open.as_mut().ok_or(Violation::Outside)?;
        if open.fault.is_none()
            && let Err(message) = open.take(chunk)
        {
            open.fault = Some(fault(Code::Corrupt, message));
            open.raw = Vec::new();
        }
        Ok(())
    }

    pub(super) fn commit(&mut self, commit: &Commit) -> Result<Update, Violation> {
        let open = self.open.take().ok_or(Violation::Outside)?;
        if open.nonce != commit.nonce {
            return Err(Violation::Nonce);
        }
        Ok(Update {
            nonce: open.nonce,
            target: open.target,
            vouched: open.vouched.clone(),
            ordered: open.ordered,
            content: open.finish(commit),
        })
    }
}

impl Kind {
    fn of(begin: &Begin) -> Result<Self, String> {
        let Some(base) = begin.base.clone() else {
            return Ok(if begin.full { Self::Full } else { Self::Same });
        };
        let base = Position::try_from(base).map_err(|error| error.to_string())?;
        if begin.buckets.is_empty() {
            return Ok(Self::Changes(base));
        }
        let buckets = BucketSet::from_bytes(&begin.buckets);
        let buckets = buckets.ok_or("the set of buckets has a wrong length")?;
        Ok(Self::Buckets(base, buckets))
    }
}

impl Open {
    fn take(&mut self, chunk: &Chunk) -> Result<(), String> {
        if chunk.update != self.update
            || chunk.index != self.chunks
            || matches!(self.kind, Kind::Same)
        {
            return Err(format!(
                "chunk {} of update {} where chunk {} of update {} was due",
                chunk.index, chunk.update, self.chunks, self.update
            ));
        }
        self.chunks += 1;
        let size = usize::try_from(chunk.raw_size).unwrap_or(usize::MAX);
        let room = self
            .raw_bytes
            .saturating_sub(u64::try_from(self.raw.len()).unwrap_or(u64::MAX));
        if size > CHUNK || u64::from(chunk.raw_size) > room {
            return Err(format!("chunk {} of {size} bytes is too long", chunk.index));
        }
        let before = self.raw.len();
        match Packing::try_from(chunk.packing) {
            Ok(Packing::Plain) => self.raw.extend_from_slice(&chunk.data),
            Ok(Packing::Zstd) => {
                // Bounded while it unpacks: a longer result is an error.
                let raw = zstd::bulk::decompress(&chunk.data, size)
                    .map_err(|_| format!("chunk {} cannot be unpacked", chunk.index))?;
                self.raw.extend_from_slice(&raw);
            }
            Err(_) => return Err(format!("chunk {} is packed in an unknown way", chunk.index)),
        }
        if self.raw.len() - before != size {
            return Err(format!("chunk {} has not the length it tells", chunk.index));
        }
        Ok(())
    }

    fn finish(self, commit: &Commit) -> Result<Content, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let corrupt = |message: &str| fault(Code::Corrupt, message);
        if commit.root.as_ref() != self.target.root.as_slice() {
            return Err(corrupt("Begin and Commit name different roots"));
        }
        if matches!(self.kind, Kind::Same) {
            return Ok(Content::Same);
        }
        if commit.chunks != self.chunks || u64::try_from(self.raw.len()) != Ok(self.raw_bytes) {
            return Err(corrupt("chunks are missing"));
        }
        let changes = decode_changes(self.raw).map_err(|error| match error {
            MessageFault::Kind(_) => fault(Code::Unsupported, error.to_string()),
            _ => corrupt(&error.to_string()),
        })?;
        if usize::try_from(self.records) != Ok(changes.puts.len()) {
            return Err(corrupt("not as many records as Begin tells"));
        }
        match self.kind {
            Kind::Changes(base) => return Ok(Content::Changes { base, changes }),
            Kind::Buckets(base, buckets) => {
                return Ok(Content::Buckets {
                    base,
                    buckets,
                    changes,
                });
            }
            Kind::Full | Kind::Same => {}
        }
        if !changes.removes.is_empty() {
            return Err(corrupt("a whole set removes nothing"));
        }
        let Position {
            generation,
            revision,
            urgent,
            root,
        } = self.target;
        let mut snapshot = Snapshot::new(generation, revision, changes.puts);
        snapshot.position.urgent = urgent;
        if snapshot.position.root != root {
            return Err(corrupt(
                "the records do not have the root that Commit tells",
            ));
        }
        Ok(Content::Full(snapshot))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::snapshot::{Key, Record, Revision};
    use uuid::Uuid;

    use super::*;

    /// An update as a control plane sends it.
    #[derive(Clone, Debug)]
    struct Sent {
        begin: Begin,
        chunks: Vec<Chunk>,
        commit: Commit,
    }

    fn snapshot(records: u128) -> Snapshot {
        let record = |number| Record {
            key: Key {
                kind: "services",
                id: Uuid::from_u128(number),
            },
            json: format!("{{\"name\":\"{number}\"}}").into(),
        };
        Snapshot::new(1, Revision(5), (0..records).map(record).collect())
    }

    fn sent(records: u128, part: usize) -> Sent {
        let snapshot = snapshot(records);
        let position = snapshot.position;
        let raw = proto::encode_records(snapshot.records().collect());
        let chunks = raw.chunks(part).enumerate().map(|(index, part)| Chunk {
            update: 5,
            index: index.try_into().unwrap(),
            raw_size: part.len().try_into().unwrap(),
            packing: Packing::Zstd.into(),
            data: zstd::bulk::compress(part, 1).unwrap().into(),
        });
        let chunks: Vec<Chunk> = chunks.collect();
        Sent {
            begin: Begin {
                nonce: 3,
                update: 5,
                target: Some((&position).into()),
                records: records.try_into().unwrap(),
                raw_bytes: raw.len().try_into().unwrap(),
                full: true,
                ..Begin::default()
            },
            commit: Commit {
                nonce: 3,
                chunks: chunks.len().try_into().unwrap(),
                root: position.root.to_vec().into(),
            },
            chunks,
        }
    }

    fn receive(sent: &Sent) -> Update {
        let mut receiver = Receiver::default();
        assert!(!receiver.is_receiving());
        receiver.begin(sent.begin.clone()).unwrap();
        for chunk in &sent.chunks {
            receiver.chunk(chunk).unwrap();
        }
        assert!(receiver.is_receiving());
        let update = receiver.commit(&sent.commit).unwrap();
        assert!(!receiver.is_receiving());
        update
    }

    fn code(sent: &Sent) -> Code {
        receive(sent).content.unwrap_err().code()
    }

    #[test]
    fn a_whole_update_is_a_snapshot() {
        for (records, part) in [(0, 10), (1, 10), (300, 1000), (300, 100_000)] {
            let update = receive(&sent(records, part));
            let expected = snapshot(records);
            assert_eq!((update.nonce, update.target), (3, expected.position));
            let Ok(Content::Full(received)) = update.content else {
                panic!("{:?}", update.content)
            };
            assert!(received.records().eq(expected.records()));
        }
    }

    #[test]
    fn what_is_not_as_told_is_refused_whole() {
        let good = sent(300, 1000);
        let broken = |change: &dyn Fn(&mut Sent)| {
            let mut sent = good.clone();
            change(&mut sent);
            code(&sent)
        };
        assert_eq!(broken(&|sent| _ = sent.chunks.pop()), Code::Corrupt);
        assert_eq!(broken(&|sent| sent.chunks.swap(0, 1)), Code::Corrupt);
        assert_eq!(broken(&|sent| sent.chunks.truncate(1)), Code::Corrupt);
        assert_eq!(
            broken(&|sent| sent.chunks[1].raw_size = 4_000_000_000),
            Code::Corrupt
        );
        assert_eq!(broken(&|sent| sent.chunks[1].raw_size -= 1), Code::Corrupt);
        assert_eq!(broken(&|sent| sent.chunks[1].packing = 9), Code::Corrupt);
        assert_eq!(broken(&|sent| sent.begin.records += 1), Code::Corrupt);
        assert_eq!(broken(&|sent| sent.begin.raw_bytes -= 1), Code::Corrupt);
        assert_eq!(broken(&|sent| sent.begin.full = false), Code::Corrupt);
        assert_eq!(
            broken(&|sent| sent.commit.root = vec![0; 32].into()),
            Code::Corrupt
        );
        assert_eq!(broken(&|sent| sent.begin.raw_bytes = u64::MAX), Code::Limit);
        let other_root = |sent: &mut Sent| {
            let mut position = snapshot(300).position;
            position.root = [1; 32];
            sent.begin.target = Some((&position).into());
            sent.commit.root = position.root.to_vec().into();
        };
        assert_eq!(broken(&other_root), Code::Corrupt);
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let mut bomb = sent(1, 100_000);
        bomb.chunks[0].data = zstd::bulk::compress(&vec![0; 50_000_000], 1)
            .unwrap()
            .into();
        assert_eq!(code(&bomb), Code::Corrupt);
    }

    #[test]
    fn an_unknown_kind_is_named() {
        let record = proto::v1::Record {
            kind: "quotas".to_owned(),
            id: vec![0; 16].into(),
            json: "{}".into(),
        };
        let records = proto::v1::Records {
            put: vec![record],
            remove: Vec::new(),
        };
        let mut unknown = sent(1, 100_000);
        let raw = prost::Message::encode_to_vec(&records);
        unknown.begin.raw_bytes = raw.len().try_into().unwrap();
        unknown.chunks[0].raw_size = raw.len().try_into().unwrap();
        unknown.chunks[0].packing = Packing::Plain.into();
        unknown.chunks[0].data = raw.into();
        let fault = receive(&unknown).content.unwrap_err();
        assert_eq!(fault.code(), Code::Unsupported);
        assert!(fault.message.contains("`quotas`"));
    }

    #[test]
    fn parts_outside_of_an_update_end_the_stream() {
        let good = sent(3, 1000);
        let mut receiver = Receiver::default();
        assert_eq!(receiver.chunk(&good.chunks[0]), Err(Violation::Outside));
        assert_eq!(
            receiver.commit(&good.commit).unwrap_err(),
            Violation::Outside
        );
        receiver.begin(good.begin.clone()).unwrap();
        assert_eq!(receiver.begin(good.begin.clone()), Err(Violation::Overlap));
        let mut other = good.commit;
        other.nonce += 1;
        assert_eq!(receiver.commit(&other).unwrap_err(), Violation::Nonce);
    }

    /// What a control plane of the first version has sent is understood: each message with its length
    /// before it. `UPDATE=1` records it anew, which is only right for a protocol that is not released.
    #[test]
    fn a_stream_of_the_first_version_is_understood() {
        use proto::v1::ControlMessage;
        use proto::v1::control_message::Kind;
        let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/update-1");
        if std::env::var_os("UPDATE").is_some() {
            let sent = sent(30, 700);
            let kinds = std::iter::once(Kind::Begin(sent.begin))
                .chain(sent.chunks.into_iter().map(Kind::Chunk))
                .chain(std::iter::once(Kind::Commit(sent.commit)));
            let messages = kinds.map(|kind| ControlMessage { kind: Some(kind) });
            let bytes: Vec<u8> = messages
                .flat_map(|message| prost::Message::encode_length_delimited_to_vec(&message))
                .collect();
            std::fs::write(recorded, bytes).unwrap();
        }
        let bytes = std::fs::read(recorded).unwrap();
        let mut bytes = bytes.as_slice();
        let mut receiver = Receiver::default();
        let update = loop {
            let message: ControlMessage =
                prost::Message::decode_length_delimited(&mut bytes).unwrap();
            match message.kind.unwrap() {
                Kind::Begin(begin) => receiver.begin(begin).unwrap(),
                Kind::Chunk(chunk) => receiver.chunk(&chunk).unwrap(),
                Kind::Commit(commit) => break receiver.commit(&commit).unwrap(),
                other => panic!("{other:?}"),
            }
        };
        let Ok(Content::Full(arrived)) = update.content else {
            panic!("{:?}", update.content)
        };
        assert_eq!(arrived.position, snapshot(30).position);
    }

    proptest! {
        /// A flipped byte anywhere in the chunks is found.
        #[test]
        fn a_flipped_byte_is_found(at in 0_usize..5_000, bit in 0_u8..8) {
            let mut sent = sent(200, 2_000);
            let total: usize = sent.chunks.iter().map(|chunk| chunk.data.len()).sum();
            let mut at = at % total;
            for chunk in &mut sent.chunks {
                if at < chunk.data.len() {
                    let mut data = chunk.data.to_vec();
                    data[at] ^= 1 << bit;
                    chunk.data = data.into();
                    break;
                }
                at -= chunk.data.len();
            }
            if let Ok(content) = receive(&sent).content {
                // Unused bits of the packing may differ without a difference in what they pack.
                let Content::Full(received) = content else { panic!() };
                prop_assert!(received.records().eq(snapshot(200).records()));
            }
        }
    }
}
