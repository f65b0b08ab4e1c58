//! Writes messages: a head with the body's first bytes in one system call, then the body as it comes.

use std::io::{self, IoSlice, Write as _};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Framing;
use crate::buffers;
use crate::stream::Stream;

/// Data up to this size is copied behind the head, because one write of one slice is cheaper than a
/// vectored one; larger data is written from where it lies.
const COPIED: usize = 4 * 1024;

/// Capacity that a connection keeps for heads, if one has needed so much.
const KEPT: usize = 16 * 1024;

/// What waits to be written to a connection.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    /// Heads, chunk sizes and small data.
    head: BytesMut,
    /// Large data, after `head`.
    data: Bytes,
    /// Whether it has no more memory than it takes.
    fits: bool,
    /// What ends a chunk, after `data`.
    tail: &'static [u8],
    /// Whether TLS may hold back some of what was written.
    held: bool,
}

impl Writer {
    /// The place for a head. Call only while nothing waits.
    pub(crate) fn head(&mut self) -> &mut BytesMut {
        if self.head.is_empty() && self.head.capacity() > KEPT {
            self.head = BytesMut::new();
        }
        self.room()
    }

    /// The place for what is copied.
    fn room(&mut self) -> &mut BytesMut {
        if self.head.capacity() == 0 {
            self.head = buffers::take();
        }
        &mut self.head
    }

    /// Whether everything has been written.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.data.is_empty() && self.tail.is_empty()
    }

    /// Whether nothing waits in TLS either.
    pub(crate) fn is_flushed(&self) -> bool {
        self.is_empty() && !self.held
    }

    /// How many bytes have not been written.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.data.len() + self.tail.len()
    }

    /// Whether only small things wait: more can be added before a write.
    pub(crate) fn has_room(&self) -> bool {
        self.data.is_empty() && self.tail.is_empty() && self.head.len() < KEPT
    }

    /// Adds bytes of a body in the given framing. Call only while [`Self::has_room`].
    pub(crate) fn body(&mut self, framing: Framing, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let chunked = framing == Framing::Chunked;
        if chunked {
            // Writing to memory cannot fail.
            let _ = write!(self.room().writer(), "{:x}\r\n", data.len());
        }
        let tail: &'static [u8] = if chunked { b"\r\n" } else { b"" };
        if data.len() <= COPIED {
            let head = self.room();
            head.extend_from_slice(&data);
            head.extend_from_slice(tail);
        } else {
            self.data = data;
            self.fits = false;
            self.tail = tail;
        }
    }

    /// What waits will do so for long: it keeps no more memory than it takes, unless somebody else has that as well. What is
    /// longer than any buffer that is read into has memory of its own, and is not copied.
    pub(crate) fn settle(&mut self) {
        if !self.fits && self.data.len() <= buffers::LARGEST && self.data.is_unique() {
            self.data = Bytes::copy_from_slice(&self.data);
            self.fits = true;
        }
    }

    /// Adds what follows the last byte of a body. Call only while [`Self::has_room`].
    pub(crate) fn end(&mut self, framing: Framing, trailers: Option<&HeaderMap>) {
        if framing != Framing::Chunked {
            return;
        }
        let head = self.room();
        head.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.into_iter().flatten() {
            field(head, name.as_str(), value.as_bytes());
        }
        head.extend_from_slice(b"\r\n");
    }

    /// Writes until nothing waits.
    pub(crate) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let written = if self.data.is_empty() && self.tail.is_empty() {
                ready!(stream.poll_write_parts(cx, &[IoSlice::new(&self.head)]))?
            } else {
                let parts = [
                    IoSlice::new(&self.head),
                    IoSlice::new(&self.data),
                    IoSlice::new(self.tail),
                ];
                ready!(stream.poll_write_parts(cx, &parts))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
            self.held = true;
        }
        if self.held {
            ready!(stream.poll_push(cx))?;
            self.held = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        let of_head = written.min(self.head.len());
        if of_head == self.head.len() {
            // Nearly always.
            self.head.clear();
            buffers::give_back(&mut self.head);
        } else {
            self.head.advance(of_head);
        }
        let of_data = (written - of_head).min(self.data.len());
        self.data.advance(of_data);
        let of_tail = (written - of_head - of_data).min(self.tail.len());
        self.tail = self.tail.get(of_tail..).unwrap_or_default();
        if self.data.is_empty() {
            // Gives the memory back to the reader that it came from.
            self.data = Bytes::new();
        }
    }
}

/// Writes one field.
pub(crate) fn field(head: &mut BytesMut, name: &str, value: &[u8]) {
    let name = name.as_bytes();
    head.reserve(name.len() + value.len() + 4);
    head.extend_from_slice(name);
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

/// The fields of `lines` that were written as above, as values.
pub(crate) fn values_of(lines: &[u8]) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    lines.split(|byte| *byte == b'\n').filter_map(|line| {
        let (name, value) = line.split_at(memchr::memchr(b':', line)?);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let name = HeaderName::from_bytes(name).ok()?;
        Some((name, HeaderValue::from_bytes(value).ok()?))
    })
}

/// Writes a number in decimal.
pub(crate) fn decimal(head: &mut BytesMut, number: u64) {
    head.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What waits of a large piece of a buffer of 64 KiB, of which some has gone.
    fn waiting(piece: Bytes) -> Writer {
        let mut writer = Writer::default();
        writer.body(Framing::Chunked, piece);
        writer.advance(60_000);
        writer.settle();
        writer
    }

    #[test]
    fn what_waits_for_long_takes_no_more_memory_than_it_is_long() {
        let buffer = Bytes::from(vec![b'x'; 64 * 1024]);
        let place = buffer.as_ptr().addr();
        let within = |writer: &Writer| {
            let at = writer.data.as_ptr().addr();
            (place..place + 64 * 1024).contains(&at)
        };
        let shared = waiting(buffer.clone());
        assert!(within(&shared), "somebody else has it: a copy is one more");
        drop(shared);
        let mut alone = waiting(buffer);
        assert!(!within(&alone));
        let copy = alone.data.as_ptr();
        alone.settle();
        assert_eq!(alone.data.as_ptr(), copy, "once is enough");
        assert_eq!(alone.len(), "10000\r\n".len() + 64 * 1024 + 2 - 60_000);
        alone.advance(alone.len());
        assert!(alone.is_empty());
    }

    #[test]
    fn what_no_buffer_could_hold_is_not_copied() {
        let mut writer = waiting(Bytes::from(vec![b'x'; 60_000 + 2 * buffers::LARGEST]));
        let place = writer.data.as_ptr();
        writer.settle();
        assert_eq!(writer.data.as_ptr(), place);
        let more = buffers::LARGEST + 10;
        writer.advance(more);
        writer.settle();
        assert_ne!(writer.data.as_ptr().addr(), place.addr() + more);
    }
}
