//! The requests of a connection: whether there is one, from its head to the last byte of its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};

/// How often it is looked whether there is one.
const LOOK: Duration = Duration::from_millis(10);

/// The requests of a connection that are under way.
#[derive(Debug, Default)]
pub(super) struct Requests {
    now: AtomicUsize,
    so_far: AtomicUsize,
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

    fn are_none(&self) -> bool {
        self.now.load(Ordering::Relaxed) == 0
    }

    /// Waits until there was none for a time between `idle` and twice that.
    pub(super) async fn none_for(&self, idle: Duration) {
        let mut before = usize::MAX;
        loop {
            let so_far = self.so_far.load(Ordering::Relaxed);
            if self.are_none() && so_far == before {
                return;
            }
            before = so_far;
            tokio::time::sleep(idle).await;
        }
    }
}

/// A body, and the request that it answers: under way as long as this is there.
pub(super) struct Answering<B> {
    body: B,
    _request: UnderWay,
}

impl<B> Answering<B> {
    pub(super) const fn new(body: B, request: UnderWay) -> Self {
        Self {
            body,
            _request: request,
        }
    }
}

impl<B: Body + Unpin> Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
