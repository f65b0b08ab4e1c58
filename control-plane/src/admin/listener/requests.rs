//! Tracks the request on a connection: whether there is one, from its head to the last byte of its response.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, SemaphorePermit};

/// How often it is looked whether there is one.
const LOOK: Duration = Duration::from_millis(10);

/// How many requests of one connection that only read are worked at at once.
const READS: usize = 4;

/// Most bytes of an answer that are given away at once.
const PIECE: usize = 16 * 1024;

/// The requests of a connection that are under way.
#[derive(Debug)]
pub(super) struct Requests {
    now: AtomicUsize,
    so_far: AtomicUsize,
    /// Whether bytes of an answer wait for the client to take them.
    unsent: AtomicBool,
    reads: Semaphore,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            now: AtomicUsize::default(),
            so_far: AtomicUsize::default(),
            unsent: AtomicBool::default(),
            reads: Semaphore::new(READS),
        }
    }
}

/// One of them. Dropped, it has ended.
pub(super) struct UnderWay(Arc<Requests>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Requests {
    /// Waits until one has begun, but no longer than this.
    pub(super) async fn begun_within(&self, longest: Duration) {
        let begun = async {
            while self.so_far.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        // Who has nothing to ask is not waited for.
        let _ = tokio::time::timeout(longest, begun).await;
    }

    pub(super) fn begin(this: &Arc<Self>) -> UnderWay {
        this.now.fetch_add(1, Ordering::Relaxed);
        this.so_far.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(this))
    }

    /// Waits until it is the turn of a request that only reads. By then it is noticed if the client has gone: what it
    /// asked for is not worked off for nobody.
    pub(super) async fn turn_to_read(&self) -> Option<SemaphorePermit<'_>> {
        let turn = self.reads.acquire().await.ok();
        // Whoever works does not wait for anything, and leaves no moment to others by itself.
        tokio::task::yield_now().await;
        turn
    }

    fn are_none(&self) -> bool {
        self.now.load(Ordering::Relaxed) == 0 && !self.unsent.load(Ordering::Relaxed)
    }

    /// Waits until there was none for a time between `idle` and twice that.
    pub(super) async fn none_for(&self, idle: Duration) {
        let mut before = usize::MAX;
        loop {
            let (none, so_far) = (self.are_none(), self.so_far.load(Ordering::Relaxed));
            if none && so_far == before {
                return;
            }
            // One that is under way now and has ended by the next look began before this one.
            before = if none { so_far } else { usize::MAX };
            tokio::time::sleep(idle).await;
        }
    }
}

/// A body, and the request that it answers: under way as long as this is there. It is given away in small pieces, so
/// that this is there until all but the last is on its way.
pub(super) struct Answering<B> {
    body: B,
    rest: Bytes,
    _request: UnderWay,
}

impl<B> Answering<B> {
    pub(super) const fn new(body: B, request: UnderWay) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            _request: request,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answering<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)).transpose()? {
                None => return Poll::Ready(None),
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
            }
        }
        let piece = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(piece);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let more = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(more.lower().saturating_add(rest));
        if let Some(upper) = more.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

/// A connection, of which `requests` know whether the client takes what is sent.
pub(super) struct Watched<S> {
    stream: S,
    requests: Arc<Requests>,
}

impl<S> Watched<S> {
    pub(super) const fn new(stream: S, requests: Arc<Requests>) -> Self {
        Self { stream, requests }
    }

    /// Notes whether what was to be sent has been.
    fn note<T>(&self, sent: Poll<T>) -> Poll<T> {
        let unsent = sent.is_pending();
        self.requests.unsent.store(unsent, Ordering::Relaxed);
        sent
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note(sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.stream).poll_flush(context);
        self.note(sent)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
