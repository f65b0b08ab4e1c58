//! Connections of HTTP/2 as their bytes pass. The library that speaks it serves as many frames as come that carry nothing, for
//! which the other end pays less than we do; so they are counted (RFC 9113 §10.5). Nor does it mind how long a head takes to its
//! end.
//!
//! ```text
//!  Stream ─► Counted: received ─► Allowance, Unfinished ─► the library that speaks HTTP/2
//!     ▲                                │                           │
//!     └── GOAWAY if one is used up ◄───┘◄───────── sent ◄──────────┘
//! ```

mod frames;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use shared::clock::monotonic;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::frames::{CONTINUATION, DATA, Frames, HEADERS, Head, PREFACE};
use crate::memory::Held;
use crate::stream::Stream;
use crate::timer::Timer;

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
/// The same for heads that it has sent, whose answers earn it more.
const MOST_OF_HEADS: u32 = 10 * MOST;

/// What a head takes up, at most, that has not ended with its first frame: the library keeps its fields as it will hand them on,
/// of which 3,900 fit into the list that it takes.
pub(crate) const UNFINISHED: usize = 320 * 1024;

/// GOAWAY with `ENHANCE_YOUR_CALM` (RFC 9113 §6.8, §7): no request of a stream behind the `last` has been served.
fn farewell(last: u32) -> [u8; 17] {
    let [a, b, c, d] = last.to_be_bytes();
    [0, 0, 8, 7, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, 0xb]
}

/// A connection whose other end is cut off for sending too many frames that carry nothing, or a head that does not end.
#[derive(Debug)]
pub(crate) struct Counted {
    stream: Stream,
    /// What has arrived and not been read.
    early: BytesMut,
    received: Frames,
    sent: Frames,
    allowance: Allowance,
    head: Head,
    /// The stream of the head that has come last, and of the last one that is whole.
    stream_of_head: u32,
    last: u32,
    /// Whether the other end has been told that the connection ends.
    left: bool,
    /// Bounds what a client leaves unfinished: of servers there are few, and somebody has chosen them.
    unfinished: Option<Unfinished>,
}

/// What is known of a head that a client has not sent to its end.
#[derive(Debug)]
struct Unfinished {
    /// What it takes up, if it has not ended with its first frame.
    held: Held,
    /// Watches from the first byte on.
    timer: Timer,
    /// How long it may take.
    limit: Duration,
    /// Whether the timer watches.
    watched: bool,
    /// Whether there was no room for the head: nothing is read any more, and what is under way may end until the time is over.
    crowded: bool,
}

impl Unfinished {
    /// Watches over a head that has `begun`, `anew` if the one that was watched over until now has ended; or over nothing.
    fn watch(&mut self, begun: bool, anew: bool) {
        if begun && (anew || !self.watched) {
            self.timer.set(self.limit);
        } else if !begun && self.watched {
            self.timer.clear();
        }
        self.watched = begun;
    }
}

impl Counted {
    /// One to a client, which has sent `early`, and for which nothing is `held` so far. It may take as long as `limit` for a head,
    /// over which `timer` watches.
    pub(crate) fn to_client(
        stream: Stream,
        early: BytesMut,
        held: Held,
        (timer, limit): (Timer, Duration),
    ) -> Self {
        Self {
            stream,
            early,
            received: Frames::behind(PREFACE),
            sent: Frames::behind(0),
            allowance: Allowance::new(monotonic()),
            head: Head::Whole,
            stream_of_head: 0,
            last: 0,
            left: false,
            unfinished: Some(Unfinished {
                held,
                timer,
                limit,
                watched: false,
                crowded: false,
            }),
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
            stream_of_head: 0,
            last: 0,
            left: false,
            unfinished: None,
        }
    }

    /// Counts what has been `read`, or refuses it. How many bytes of it go on to the library: all, unless there is no room for the
    /// head that begins in them.
    fn hear(&mut self, cx: &mut Context<'_>, read: &[u8]) -> io::Result<usize> {
        let (mut rest, mut anew, mut before_head) = (read, false, 0);
        loop {
            self.received.skip(&mut rest);
            if self.received.before == 0 {
                self.head = self.head.through();
                if self.head == Head::Whole {
                    anew = true;
                    self.last = self.last.max(self.stream_of_head);
                }
            }
            let Some(frame) = self.received.next(&mut rest) else {
                break;
            };
            self.head = self.head.with(frame);
            let within = match frame.kind {
                HEADERS => {
                    before_head = read.len() - rest.len();
                    self.stream_of_head = frame.stream;
                    self.allowance.grow(0, MOST_OF_HEADS);
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
        let begun = self.head != Head::Whole || self.received.is_within_head();
        let Some(unfinished) = &mut self.unfinished else {
            return Ok(read.len());
        };
        unfinished.watch(begun, anew);
        if self.head == Head::Whole {
            unfinished.held.lets_go();
        } else if !unfinished.held.grows(UNFINISHED) {
            unfinished.crowded = true;
            return Ok(before_head);
        }
        Ok(read.len())
    }

    /// Whether the other end has been told which of its streams is the last that is served.
    pub(crate) fn has_left(&self) -> bool {
        self.left
    }

    /// Whether there was no room for what the client has begun.
    fn is_crowded(&self) -> bool {
        self.unfinished.as_ref().is_some_and(|one| one.crowded)
    }

    /// Nothing more comes now: whether a head that a client has not sent to its end may still take a while.
    fn wait(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(unfinished) = self.unfinished.as_mut().filter(|one| one.watched) else {
            return Ok(());
        };
        let (is_over, crowded) = (unfinished.timer.poll_fired(cx), unfinished.crowded);
        if crowded || is_over {
            self.take_leave(cx);
        }
        if is_over {
            let error = if crowded {
                "no memory for a head in several frames"
            } else {
                "a head that does not end"
            };
            return Err(io::Error::other(error));
        }
        Ok(())
    }

    /// Says why the connection ends (RFC 9113 §6.8), once, if that can be said now: within a frame of ours, of which the other
    /// end has not taken all, it could not be told from that.
    fn take_leave(&mut self, cx: &mut Context<'_>) {
        let mut stream = Pin::new(&mut self.stream);
        if !self.left
            && self.sent.is_between()
            && stream
                .as_mut()
                .poll_write(cx, &farewell(self.last))
                .is_ready()
        {
            self.left = true;
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
                loop {
                    self.sent.skip(&mut sent);
                    let Some(frame) = self.sent.next(&mut sent) else {
                        break;
                    };
                    if matches!(frame.kind, DATA | HEADERS) {
                        self.allowance.grow(frame.length, MOST_LEFT);
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
            let read = Pin::new(&mut this.stream).poll_read(cx, buffer)?;
            if read.is_pending() {
                this.wait(cx)?;
                return Poll::Pending;
            }
        } else {
            let count = this.early.len().min(buffer.remaining());
            buffer.put_slice(this.early.get(..count).unwrap_or_default());
            this.early.advance(count);
        }
        let read = buffer.filled().get(before..).unwrap_or_default();
        if !read.is_empty() && this.is_crowded() {
            // It is not kept, and that the other end leaves is heard all the same.
            buffer.set_filled(before);
            this.wait(cx)?;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let heard = this.hear(cx, read)?;
        buffer.set_filled(before + heard);
        Poll::Ready(Ok(()))
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

    /// Something has come, or `length` bytes were sent, for which there is a reason: of such there are so many left at `most`.
    fn grow(&mut self, length: u32, most: u32) {
        let more = EACH * (1 + length / PART);
        let left = self.left.saturating_add(more).min(most);
        self.left = self.left.max(left);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_may_come_and_more_with_each_that_has_a_reason_or_some_time_later() {
        let begun = monotonic();
        let at = |seconds| move || begun + Duration::from_secs(seconds);
        let mut allowance = Allowance::new(begun);
        assert!((0..MOST).all(|_| allowance.take(at(0))));
        assert!(!allowance.take(at(9)));
        allowance.grow(PART - 1, MOST_LEFT);
        assert!((0..EACH).all(|_| allowance.take(at(9))));
        // It is read by 4 KiB, and each has room made for it on the stream and on the connection.
        allowance.grow(4 * PART, MOST_LEFT);
        assert!((0..5 * EACH).all(|_| allowance.take(at(9))));
        assert!(!allowance.take(at(9)));
        // Then there are as many again, and no more for having waited longer.
        assert!((0..MOST).all(|_| allowance.take(at(100))));
        assert!(!allowance.take(at(109)));
        (0..MOST_OF_HEADS).for_each(|_| allowance.grow(0, MOST_OF_HEADS));
        assert_eq!(allowance.left, MOST_OF_HEADS);
        (0..MOST_LEFT).for_each(|_| allowance.grow(0, MOST_LEFT));
        allowance.grow(0, MOST_OF_HEADS);
        assert!((0..MOST_LEFT).all(|_| allowance.take(at(109))));
        assert!(!allowance.take(at(109)));
    }
}
