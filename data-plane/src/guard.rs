//! Stands between a client's connection and the HTTP library: judges raw request heads, and ends
//! waits that no timer of the library covers.
//!
//! ```text
//!  socket ─► TLS ─► Guarded ─► HTTP library ─► pipeline
//!                      ▲  Gate: what each tells the other  ▲
//!                      └───────────────────────────────────┘
//! ```
//!
//! A request that is refused never reaches the library. It is given a harmless one in its place, and
//! the pipeline learns from the [`Gate`] what to answer to that: so the answer comes in its turn behind
//! those to earlier requests, has Kong's body, and is logged and counted like any other.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use futures::task::AtomicWaker;
use shared::clock::monotonic;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::http1::request::Refusal;
use crate::http1::scanner::{Rest, Scanner};
use crate::limits::Limits;

/// What the library reads in place of a refused request.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n";

/// Most bytes kept while a switch of protocols is undecided.
const MAX_EARLY: usize = 16 * 1024;

/// How much, and for how long, is read from a client that goes on sending after its last answer:
/// closing at once would reset the connection, and the answer with it.
const LINGER_BYTES: usize = 1024 * 1024;
const LINGER: Duration = Duration::from_secs(2);

/// What a connection and its requests tell each other.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// Requests that the pipeline has begun, and those that it has ended.
    begun: AtomicU32,
    ended: AtomicU32,
    /// Requests that the client has given up.
    given_up: AtomicU32,
    /// Which request is refused, counted from one, and why. It is the last.
    refused: OnceLock<(u32, Refusal)>,
    /// Whether the connection is a tunnel from here on.
    switched: AtomicBool,
    reader: AtomicWaker,
}

impl Gate {
    /// Begins a request; says why it is to be refused, if it is.
    pub(crate) fn begin(&self) -> Option<Refusal> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        self.refused
            .get()
            .filter(|(refused, _)| *refused == number)
            .map(|(_, refusal)| *refusal)
    }

    /// Ends a request: its answer has been given to the connection, or to nobody any more.
    pub(crate) fn end(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.reader.wake();
    }

    /// Notes that the client has given a request up.
    pub(crate) fn give_up(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    /// How many requests the client has given up.
    pub(crate) fn given_up(&self) -> u32 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Makes the connection a tunnel.
    pub(crate) fn switch(&self) {
        self.switched.store(true, Ordering::Relaxed);
        self.reader.wake();
    }

    fn is_idle(&self) -> bool {
        self.begun.load(Ordering::Relaxed) == self.ended.load(Ordering::Relaxed)
    }
}

/// A client's connection under guard.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    gate: Arc<Gate>,
    limits: Limits,
    scanner: Scanner,
    /// What has arrived and may not pass yet.
    held: BytesMut,
    /// What may pass and has not.
    ready: BytesMut,
    end: End,
    /// Since when the connection waits for a request, or for the rest of a head.
    waiting: Option<Instant>,
    /// Since when the client takes no byte.
    stalled: Option<Instant>,
    /// Looks at the limits now and then; it is set again only for what comes before it.
    alarm: Pin<Box<Sleep>>,
    lingering: Option<(Instant, usize)>,
}

/// How reading ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    Open,
    /// The stand-in has been put in place; what follows is of no interest.
    Refused,
    /// A body is malformed.
    Broken(&'static str),
    /// The client has ended its side, or has waited too long.
    Over,
}

impl<S> Guarded<S> {
    /// Guards `stream`. Call on a runtime.
    pub(crate) fn new(stream: S, gate: Arc<Gate>, limits: Limits) -> Self {
        Self {
            stream,
            gate,
            limits,
            scanner: Scanner::default(),
            held: BytesMut::new(),
            ready: BytesMut::new(),
            end: End::Open,
            waiting: None,
            stalled: None,
            alarm: Box::pin(tokio::time::sleep(limits.head)),
            lingering: None,
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        // The gate has room for one, and there is never a second.
        let _ = self.gate.refused.set((self.scanner.passed() + 1, refusal));
        self.ready.extend_from_slice(STAND_IN);
        self.held.clear();
        self.end = End::Refused;
    }

    /// What is to become of bytes that may not pass.
    fn note(&mut self, rest: Rest) {
        match rest {
            Rest::Nothing | Rest::Head | Rest::Undecided => {}
            Rest::Refused(refusal) => self.refuse(refusal),
            Rest::Broken(reason) => self.end = End::Broken(reason),
        }
    }

    /// Whether `limit` has passed since `start`; if not, the task is woken when it has.
    fn is_over(&mut self, cx: &mut Context<'_>, start: Instant, limit: Duration) -> bool {
        let deadline = tokio::time::Instant::from_std(start + limit);
        if deadline < self.alarm.deadline() {
            self.alarm.as_mut().reset(deadline);
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            if self.alarm.deadline() >= deadline {
                return true;
            }
            self.alarm.as_mut().reset(deadline);
        }
        false
    }

    /// Nothing has arrived: whether the wait for a request has become too long.
    fn waited_too_long(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.scanner.between_requests() {
            self.waiting = None;
            return false;
        }
        let limit = if !self.held.is_empty() {
            self.limits.head
        } else if self.gate.is_idle() {
            self.limits.idle
        } else {
            // The end of the exchange wakes nobody: look again later.
            self.waiting = None;
            self.is_over(cx, monotonic(), self.limits.idle);
            return false;
        };
        let start = *self.waiting.get_or_insert_with(monotonic);
        self.is_over(cx, start, limit)
    }
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    /// Reads behind what is held. Ready with `false` at the end of the stream.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut space = [0_u8; 4096];
        let mut buffer = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        self.held.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(!buffer.filled().is_empty()))
    }

    /// Nothing arrives now. Ready if that has lasted too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waited_too_long(cx) {
            return Poll::Pending;
        }
        if self.held.is_empty() {
            self.end = End::Over;
        } else {
            self.refuse(Refusal::Timeout);
        }
        Poll::Ready(())
    }

    /// Reads on behind the beginning of a head, or behind a request to switch protocols.
    fn poll_held(&mut self, cx: &mut Context<'_>, undecided: bool) -> Poll<io::Result<()>> {
        if undecided && self.held.len() >= MAX_EARLY {
            return Poll::Pending;
        }
        match self.poll_hold(cx)? {
            Poll::Ready(true) => {}
            Poll::Ready(false) => self.end = End::Over,
            Poll::Pending if undecided => return Poll::Pending,
            Poll::Pending => return self.poll_patience(cx).map(Ok),
        }
        Poll::Ready(Ok(()))
    }

    /// Lets what is held pass as far as it may. Says whether a switch of protocols is undecided.
    fn sift(&mut self) -> bool {
        if self.held.is_empty() {
            return self.scanner.is_undecided();
        }
        let scan = self.scanner.scan(&self.held);
        self.ready = self.held.split_to(scan.pass);
        if scan.pass > 0 {
            self.waiting = None;
        }
        self.note(scan.rest);
        scan.rest == Rest::Undecided
    }

    fn decide(&mut self) {
        if self.gate.switched.load(Ordering::Relaxed) {
            self.scanner.decide(true);
        } else if self.gate.ended.load(Ordering::Relaxed) >= self.scanner.passed() {
            self.scanner.decide(false);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() {
                let count = this.ready.len().min(buffer.remaining());
                buffer.put_slice(this.ready.get(..count).unwrap_or_default());
                this.ready.advance(count);
                return Poll::Ready(Ok(()));
            }
            match this.end {
                End::Open => {}
                End::Broken(reason) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, reason)));
                }
                // An end would make the library drop the answer; it closes once that is written.
                End::Refused => return Poll::Pending,
                End::Over => return Poll::Ready(Ok(())),
            }
            if this.scanner.is_undecided() {
                this.gate.reader.register(cx.waker());
                this.decide();
            }
            let undecided = this.sift();
            if !this.ready.is_empty() || this.end != End::Open {
                continue;
            }
            if undecided || !this.held.is_empty() {
                ready!(this.poll_held(cx, undecided))?;
                continue;
            }
            // The usual case: bytes go straight to where the library wants them.
            let before = buffer.filled().len();
            match Pin::new(&mut this.stream).poll_read(cx, buffer)? {
                Poll::Pending => {
                    ready!(this.poll_patience(cx));
                    continue;
                }
                Poll::Ready(()) => {}
            }
            let fresh = buffer.filled().get(before..).unwrap_or_default();
            if fresh.is_empty() {
                this.end = End::Over;
                return Poll::Ready(Ok(()));
            }
            this.waiting = None;
            let scan = this.scanner.scan(fresh);
            let kept = fresh.get(scan.pass..).unwrap_or_default();
            if !kept.is_empty() {
                this.held.extend_from_slice(kept);
                buffer.set_filled(before + scan.pass);
            }
            this.note(scan.rest);
            if scan.pass > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guarded<S> {
    /// A write has ended in `result`: whether the client has stopped to take bytes.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let start = *self.stalled.get_or_insert_with(monotonic);
        if self.is_over(cx, start, self.limits.send) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }

    /// Reads what the client still sends, within limits.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (start, mut left) = *self
            .lingering
            .get_or_insert_with(|| (monotonic(), LINGER_BYTES));
        let mut space = [0_u8; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut space);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    left = left.saturating_sub(buffer.filled().len());
                    self.lingering = Some((start, left));
                    if left == 0 {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending if self.is_over(cx, start, LINGER) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.watch(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.watch(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_flush(cx);
        this.watch(cx, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            let result = Pin::new(&mut this.stream).poll_shutdown(cx);
            ready!(this.watch(cx, result))?;
        }
        let unread = matches!(this.end, End::Refused | End::Broken(_))
            || (this.end == End::Open && this.scanner.in_body());
        if unread {
            ready!(this.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
