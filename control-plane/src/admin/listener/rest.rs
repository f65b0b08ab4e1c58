//! The rest of a request's body after the response was sent: a little of it is read and discarded, so that the next
//! request can follow on the same connection.

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
    left: Left<B>,
    back: Rest<B>,
}

/// What is left of a body.
#[derive(Default)]
enum Left<B> {
    /// It has come to its end.
    #[default]
    Nothing,
    Body(B),
    /// It broke, and nothing can follow it. It would say that it has ended if it were asked again.
    Broken,
}

/// Where it is given back to.
pub(super) struct Rest<B>(Arc<Mutex<Left<B>>>);

impl<B> Lent<B> {
    /// `body`, and what will be left of it.
    pub(super) fn new(body: B) -> (Self, Rest<B>) {
        let back = Arc::default();
        let rest = Rest(Arc::clone(&back));
        let lent = Self {
            left: Left::Body(body),
            back: Rest(back),
        };
        (lent, rest)
    }
}

impl<B> Drop for Lent<B> {
    fn drop(&mut self) {
        *self.back.0.lock().unwrap_or_else(PoisonError::into_inner) =
            std::mem::take(&mut self.left);
    }
}

impl<B: Body<Data = Bytes> + Unpin> Rest<B> {
    /// Reads what is left of the body; returns whether that came to its end. `waits`: whether its client sends it only when it
    /// is asked to.
    pub(super) async fn ends(self, waits: bool) -> bool {
        let left = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut body = match left {
            Left::Nothing => return true,
            Left::Broken => return false,
            Left::Body(body) if body.is_end_stream() => return true,
            Left::Body(body) => body,
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
        let Left::Body(body) = &mut self.left else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(context));
        match &frame {
            None => self.left = Left::Nothing,
            Some(Err(_)) => self.left = Left::Broken,
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.left {
            Left::Body(body) => body.is_end_stream(),
            Left::Nothing | Left::Broken => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.left {
            Left::Body(body) => body.size_hint(),
            Left::Nothing | Left::Broken => SizeHint::with_exact(0),
        }
    }
}
