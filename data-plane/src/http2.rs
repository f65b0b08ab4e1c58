//! Connections of HTTP/2 as their bytes pass. The library that speaks it serves as many frames as come that carry nothing, for
//! which the other end pays less than we do; so they are counted (RFC 9113 §10.5).
//!
//! ```text
//!  Stream ─► Counted: received ─► Allowance ─► the library that speaks HTTP/2
//!     ▲                                │               │
//!     └── GOAWAY if it is used up ◄────┘◄──── sent ◄───┘
//! ```

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use shared::clock::monotonic;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::memory::Held;
use crate::stream::Stream;

/// Frames that carry nothing, of which the other end may send so many without a reason, in [`WITHIN`].
const MOST: u32 = 1000;
const WITHIN: Duration = Duration::from_secs(10);
/// So many more with each head, and with each [`PART`] of DATA that it is sent: it makes room for more (RFC 9113 §6.9) on the stream
/// and on the connection, perhaps with every 4 KiB that it reads (Go), asks how long the way is (gRPC), says which of its
/// requests comes first, and gives some up.
const EACH: u32 = 10;
/// The length of a DATA frame, unless the other end allows longer ones.
const PART: u32 = 16 * 1024;
/// As many as it may have left: it may come to read only after as much as its windows hold (RFC 9113 §6.9.1).
const MOST_LEFT: u32 = (1 << 31) / PART * EACH;

/// What a client says before its first frame (RFC 9113 §3.4).
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// Kinds of frames (RFC 9113 §6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

/// The flag of the last frame of a head (RFC 9113 §6.2, §6.10).
const END_HEADERS: u8 = 4;

/// What a head takes up, at most, that has not ended with its first frame: the library keeps its fields as it will hand them on,
/// of which 3,900 fit into the list that it takes.
const UNFINISHED: usize = 320 * 1024;

/// GOAWAY with `ENHANCE_YOUR_CALM` (RFC 9113 §6.8, §7): any request may have been served.
const FAREWELL: [u8; 17] = [
    0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0xb,
];

/// A connection whose other end is cut off for sending too many frames that carry nothing.
#[derive(Debug)]
pub(crate) struct Counted {
    stream: Stream,
    /// What has arrived and not been read.
    early: BytesMut,
    received: Frames,
    sent: Frames,
    allowance: Allowance,
    head: Head,
    /// What the head takes up, if it is unfinished, and a client's: of servers there are few, and somebody has chosen them.
    held: Option<Held>,
}

impl Counted {
    /// One to a client, which has sent `early`, and for which nothing is `held` so far.
    pub(crate) fn to_client(stream: Stream, early: BytesMut, held: Held) -> Self {
        Self {
            stream,
            early,
            received: Frames::behind(PREFACE),
            sent: Frames::behind(0),
            allowance: Allowance::new(monotonic()),
            head: Head::Whole,
            held: Some(held),
        }
    }

    /// One to a server, which has sent nothing.
    pub(crate) fn to_server(stream: Stream) -> Self {
        Self {
            stream,
            early: BytesMut::new(),
            received: Frames::behind(0),
            sent: Frames::behind(PREFACE),
            allowance: Allowance::new(monotonic()),
            head: Head::Whole,
            held: None,
        }
    }

    /// Counts what has been `read`, or refuses it.
    fn hear(&mut self, cx: &mut Context<'_>, mut read: &[u8]) -> io::Result<()> {
        while let Some(frame) = self.received.next(&mut read) {
            self.head = self.head.with(frame);
            let within = match frame.kind {
                HEADERS => {
                    self.allowance.grow(0);
                    true
                }
                // The library has limits for these.
                CONTINUATION => true,
                DATA if frame.length > 0 => true,
                _ => self.allowance.take(monotonic),
            };
            if !within {
                self.take_leave(cx);
                return Err(io::Error::other("too many frames that carry nothing"));
            }
        }
        if self.head == Head::Ending && self.received.is_between() {
            self.head = Head::Whole;
        }
        let Some(held) = &mut self.held else {
            return Ok(());
        };
        if self.head == Head::Whole {
            held.lets_go();
        } else if !held.grows(UNFINISHED) {
            let error = "no memory for a head that does not end";
            return Err(io::Error::other(error));
        }
        Ok(())
    }

    /// Says why the connection ends (RFC 9113 §6.8), if that can be said at once: within a frame of ours, of which the other
    /// end has not taken all, it could not be told from that.
    fn take_leave(&mut self, cx: &mut Context<'_>) {
        let mut stream = Pin::new(&mut self.stream);
        if self.sent.is_between() && stream.as_mut().poll_write(cx, &FAREWELL).is_ready() {
            let _ = stream.poll_flush(cx);
        }
    }

    /// Some of `parts` has been sent, or not.
    fn tell(
        &mut self,
        written: Poll<io::Result<usize>>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = written {
            let mut left = count;
            for part in parts {
                let mut sent = part.get(..left.min(part.len())).unwrap_or_default();
                left -= sent.len();
                while let Some(frame) = self.sent.next(&mut sent) {
                    if matches!(frame.kind, DATA | HEADERS) {
                        self.allowance.grow(frame.length);
                    }
                }
            }
        }
        written
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if this.early.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        } else {
            let count = this.early.len().min(buffer.remaining());
            buffer.put_slice(this.early.get(..count).unwrap_or_default());
            this.early.advance(count);
        }
        let read = buffer.filled().get(before..).unwrap_or_default();
        Poll::Ready(this.hear(cx, read))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.tell(written, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.tell(written, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// How many frames that carry nothing the other end may still send.
#[derive(Debug)]
struct Allowance {
    left: u32,
    /// When it was last given [`MOST`] without a reason.
    since: Instant,
}

impl Allowance {
    const fn new(now: Instant) -> Self {
        Self {
            left: MOST,
            since: now,
        }
    }

    /// Something has come, or `length` bytes were sent, for which there is a reason.
    fn grow(&mut self, length: u32) {
        let more = EACH * (1 + length / PART);
        self.left = self.left.saturating_add(more).min(MOST_LEFT);
    }

    /// Takes one away; whether there was one. The time is asked for only where there was none.
    fn take(&mut self, now: impl FnOnce() -> Instant) -> bool {
        if self.left == 0 {
            let now = now();
            if now.saturating_duration_since(self.since) < WITHIN {
                return false;
            }
            *self = Self::new(now);
        }
        self.left -= 1;
        true
    }
}

/// How much has come of the last head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Head {
    /// All of it, or no more than a part of its only frame.
    Whole,
    /// Some of its frames.
    Begun,
    /// A part of the last of several.
    Ending,
}

impl Head {
    /// The same once the head of `frame` has passed.
    const fn with(self, frame: Frame) -> Self {
        let is_last = frame.flags & END_HEADERS != 0;
        match (frame.kind, is_last, self) {
            (HEADERS, false, _) | (CONTINUATION, false, Self::Begun) => Self::Begun,
            (CONTINUATION, true, Self::Begun) => Self::Ending,
            _ => Self::Whole,
        }
    }
}

/// What is known of a frame once its head has passed (RFC 9113 §4.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
}

/// The frames in one direction of a connection, wherever its bytes are cut.
#[derive(Debug)]
struct Frames {
    /// Bytes that come before the next head.
    before: usize,
    head: [u8; 9],
    /// How much of that has passed.
    passed: usize,
}

impl Frames {
    /// Those that begin behind so many bytes.
    const fn behind(before: usize) -> Self {
        Self {
            before,
            head: [0; 9],
            passed: 0,
        }
    }

    /// Whether no frame has passed in part.
    const fn is_between(&self) -> bool {
        self.before == 0 && self.passed == 0
    }

    /// The next frame whose head ends in `bytes`, of which it takes away what has passed until then.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Frame> {
        let skipped = self.before.min(bytes.len());
        self.before -= skipped;
        let (_, rest) = bytes.split_at(skipped);
        let (passing, rest) = rest.split_at(rest.len().min(self.head.len() - self.passed));
        let head = self.head.iter_mut().skip(self.passed);
        head.zip(passing).for_each(|(to, from)| *to = *from);
        self.passed += passing.len();
        *bytes = rest;
        if self.passed < self.head.len() {
            return None;
        }
        self.passed = 0;
        let [a, b, c, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.before = usize::try_from(length).unwrap_or(usize::MAX);
        Some(Frame {
            length,
            kind,
            flags,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as it passes.
    fn bytes(kind: u8, payload: &[u8]) -> Vec<u8> {
        let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn frames_are_found_wherever_their_bytes_are_cut() {
        let all = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            bytes(4, &[]),
            bytes(DATA, &[0; 300]),
            bytes(6, &[1; 8]),
        ]
        .concat();
        let frame = |length, kind| Frame {
            length,
            kind,
            flags: 0,
        };
        let expected = [frame(0, 4), frame(300, DATA), frame(8, 6)];
        for size in 1..=all.len() {
            let mut frames = Frames::behind(PREFACE);
            let mut found = Vec::new();
            for mut part in all.chunks(size) {
                while let Some(frame) = frames.next(&mut part) {
                    found.push(frame);
                }
                assert!(part.is_empty());
            }
            assert_eq!(found, expected, "{size}");
            assert!(frames.is_between());
        }
        let mut frames = Frames::behind(0);
        frames.next(&mut &all[PREFACE..=PREFACE]);
        assert!(!frames.is_between());
    }

    #[test]
    fn a_head_is_unfinished_until_the_last_byte_of_its_last_frame() {
        let of = |kind, flags| Frame {
            length: 1,
            kind,
            flags,
        };
        let whole = Head::Whole.with(of(HEADERS, END_HEADERS));
        assert_eq!(whole, Head::Whole);
        let begun = whole.with(of(HEADERS, 1));
        assert_eq!(begun, Head::Begun);
        let begun = begun.with(of(CONTINUATION, 0));
        assert_eq!(begun, Head::Begun);
        let ending = begun.with(of(CONTINUATION, END_HEADERS));
        assert_eq!(ending, Head::Ending);
        assert_eq!(ending.with(of(DATA, 0)), Head::Whole);
        assert_eq!(ending.with(of(HEADERS, 0)), Head::Begun);
    }

    #[test]
    fn so_many_may_come_and_more_with_each_that_has_a_reason_or_some_time_later() {
        let begun = monotonic();
        let at = |seconds| move || begun + Duration::from_secs(seconds);
        let mut allowance = Allowance::new(begun);
        assert!((0..MOST).all(|_| allowance.take(at(0))));
        assert!(!allowance.take(at(9)));
        allowance.grow(PART - 1);
        assert!((0..EACH).all(|_| allowance.take(at(9))));
        // It is read by 4 KiB, and each has room made for it on the stream and on the connection.
        allowance.grow(4 * PART);
        assert!((0..5 * EACH).all(|_| allowance.take(at(9))));
        assert!(!allowance.take(at(9)));
        // Then there are as many again, and no more for having waited longer.
        assert!((0..MOST).all(|_| allowance.take(at(100))));
        assert!(!allowance.take(at(109)));
        (0..MOST_LEFT).for_each(|_| allowance.grow(0));
        assert!((0..MOST_LEFT).all(|_| allowance.take(at(109))));
        assert!(!allowance.take(at(109)));
    }
}
