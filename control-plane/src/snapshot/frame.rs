//! Messages to nodes as they lie on the wire: gRPC's mark and length before each.

#![expect(
    clippy::unnecessary_box_returns,
    reason = "the way to each node has room for many frames, which are small by that"
)]

use prost::Message as _;
use prost::bytes::{BufMut as _, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use proto::v1::control_message::Kind;
use proto::v1::{Chunk, ControlMessage, Part};

/// Bytes before a message: whether it is compressed, which none is, and how long it is.
const HEAD: usize = 5;

/// The numbers of a message's chunk, and of a chunk's data.
const CHUNK: u32 = 3;
const DATA: u32 = 5;

/// The numbers of a message's part, and of a part's data.
const PARTS: u32 = 10;
const PART_DATA: u32 = 1;

/// Bytes of a chunk in one part: some tenth of a second over a slow link.
const PART: usize = 7 * 1024;

/// A message in the pieces that it is sent in, one right after the other. The second may be empty.
pub(crate) type Frame = Box<[Bytes; 2]>;

/// Bytes of all of it.
pub(crate) fn size(frame: &Frame) -> usize {
    frame.iter().map(Bytes::len).sum()
}

/// Encodes a message.
///
/// # Panics
///
/// If it is longer than 4 GiB, which none is.
pub(crate) fn frame(kind: Kind) -> Frame {
    let message = ControlMessage { kind: Some(kind) };
    let mut bytes = begun(message.encoded_len(), message.encoded_len());
    message
        .encode(&mut bytes)
        .expect("there is room for all of it");
    Box::new([bytes.freeze(), Bytes::new()])
}

/// Encodes a chunk: what comes before its data, and the data, which all nodes share.
pub(crate) fn chunk_frame(chunk: &Chunk) -> Frame {
    let (before, data) = message(chunk);
    let length = before.len() + data.len();
    // The number of a chunk takes one byte.
    let whole = 1 + encoded_len_varint(long(length)) + length;
    let mut bytes = begun(whole, whole - data.len());
    encode_key(CHUNK, WireType::LengthDelimited, &mut bytes);
    encode_varint(long(length), &mut bytes);
    bytes.put_slice(&before);
    Box::new([bytes.freeze(), data])
}

/// Encodes a chunk that is long in parts, between which there is room for what cannot wait. Their data all nodes share, too.
pub(crate) fn parts(chunk: &Chunk) -> Vec<Frame> {
    if chunk.data.len() <= PART {
        return vec![chunk_frame(chunk)];
    }
    let (before, mut data) = message(chunk);
    let mut before = before.freeze();
    let mut frames = Vec::with_capacity(data.len() / PART + 1);
    loop {
        let piece = data.split_to(data.len().min(PART));
        let is_last = data.is_empty();
        frames.push(part(&std::mem::take(&mut before), piece, is_last));
        if is_last {
            return frames;
        }
    }
}

/// Encodes one part, which holds `before` and `data`.
fn part(before: &[u8], data: Bytes, is_last: bool) -> Frame {
    // Fields may come in any order, so what all nodes share can come last.
    let last = Part {
        data: Bytes::new(),
        last: is_last,
    };
    let length = before.len() + data.len();
    let own = last.encoded_len() + 1 + encoded_len_varint(long(length)) + before.len();
    let inner = own + data.len();
    let whole = 1 + encoded_len_varint(long(inner)) + inner;
    let mut bytes = begun(whole, whole - data.len());
    encode_key(PARTS, WireType::LengthDelimited, &mut bytes);
    encode_varint(long(inner), &mut bytes);
    last.encode(&mut bytes)
        .expect("there is room for all of it");
    encode_key(PART_DATA, WireType::LengthDelimited, &mut bytes);
    encode_varint(long(length), &mut bytes);
    bytes.put_slice(before);
    Box::new([bytes.freeze(), data])
}

/// A chunk as it is encoded: what comes before its data, and the data.
fn message(chunk: &Chunk) -> (BytesMut, Bytes) {
    let rest = Chunk {
        data: Bytes::new(),
        ..chunk.clone()
    };
    let mut before = BytesMut::new();
    rest.encode(&mut before)
        .expect("the buffer grows as needed");
    encode_key(DATA, WireType::LengthDelimited, &mut before);
    encode_varint(long(chunk.data.len()), &mut before);
    (before, chunk.data.clone())
}

/// The beginning of a message of `length` bytes, with room for `own` of these.
fn begun(length: usize, own: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(HEAD + own);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("a message is far below 4 GiB"));
    bytes
}

fn long(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proto::v1::Heartbeat;

    use super::*;

    fn read(frame: &[u8]) -> Kind {
        let (head, message) = frame.split_at(HEAD);
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        assert_eq!(head, [&[0][..], &length].concat());
        ControlMessage::decode(message).unwrap().kind.unwrap()
    }

    #[test]
    fn a_message_lies_behind_its_mark_and_length() {
        let heartbeat = Kind::Heartbeat(Heartbeat {
            wall_clock_ms: 7,
            ..Heartbeat::default()
        });
        assert_eq!(read(&frame(heartbeat.clone()).concat()), heartbeat);
        for size in [1, 100, 40_000, 300_000] {
            let chunk = Chunk {
                update: 1 << 40,
                index: 3,
                raw_size: 300_000,
                packing: 1,
                data: vec![7; size].into(),
            };
            let frames = chunk_frame(&chunk);
            assert_eq!(frames[1].as_ptr(), chunk.data.as_ptr());
            let mut joined = Vec::new();
            let parts = parts(&chunk);
            if size <= PART {
                assert_eq!(parts, [frames]);
                continue;
            }
            for (number, frame) in (1..).zip(&parts) {
                assert!(frame.concat().len() < PART + 64);
                assert!(chunk.data.as_ptr_range().contains(&frame[1].as_ptr()));
                let Kind::Part(part) = read(&frame.concat()) else {
                    panic!("not a part")
                };
                assert_eq!(part.last, number == parts.len());
                joined.extend(part.data);
            }
            assert_eq!(Chunk::decode(joined.as_slice()).unwrap(), chunk);
            assert_eq!(read(&frames.concat()), Kind::Chunk(chunk));
        }
    }
}
