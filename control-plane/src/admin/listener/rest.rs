//! What is left of a request's body once the request is answered: a little is read and forgotten, so that the next request
//! may follow on the same connection.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

/// Most bytes of it that are read.
const MOST: usize = 1024 * 1024;
/// The longest that it is waited for: it is on its way, unless its client waits to be asked for it.
const LONGEST: Duration = Duration::from_secs(1);

/// A body that is given back by whoever does not need the rest of it.
pub(super) struct Lent<B> {
    /// None: all has come, or nothing more does.
    body: Option<B>,
    back: Rest<B>,
}

/// Where it is given back to.
pub(super) struct Rest<B>(Arc<Mutex<Option<B>>>);

impl<B> Lent<B> {
    /// `body`, and what will be left of it.
    pub(super) fn new(body: B) -> (Self, Rest<B>) {
        let back = Arc::default();
        let rest = Rest(Arc::clone(&back));
        let lent = Self {
            body: Some(body),
            back: Rest(back),
        };
        (lent, rest)
    }
}

impl<B> Drop for Lent<B> {
    fn drop(&mut self) {
        *self.back.0.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
    }
}

impl<B: Body<Data = Bytes> + Unpin> Rest<B> {
    /// Reads what is left of the body; returns whether that came to its end. `waits`: whether its client sends it only when it
    /// is asked to.
    pub(super) async fn ends(self, waits: bool) -> bool {
        let rest = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut body) = rest.filter(|body| !body.is_end_stream()) else {
            return true;
        };
        let most = u64::try_from(MOST).unwrap_or(u64::MAX);
        if waits || body.size_hint().lower() > most {
            return false;
        }
        let reading = async {
            let mut left = MOST;
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else {
                    return false;
                };
                let length = frame.data_ref().map_or(0, Bytes::len);
                let Some(less) = left.checked_sub(length) else {
                    return false;
                };
                left = less;
            }
            true
        };
        tokio::time::timeout(LONGEST, reading)
            .await
            .unwrap_or(false)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Lent<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if frame.is_none() {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let none = || SizeHint::with_exact(0);
        self.body.as_ref().map_or_else(none, Body::size_hint)
    }
}
