//! Slow clients: once the process is to stop, it does not wait long for them, since its successor starts only after it
//! has ended.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;

/// How long a handshake or a body may take to go on once the process is to stop.
const LATE: Duration = Duration::from_secs(1);

/// Ends a while after `stopped` says so.
pub(super) async fn late(mut stopped: watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stopped.wait_for(|stopped| *stopped).await;
    tokio::time::sleep(LATE).await;
}

/// A body until it is late.
pub(super) struct Timely<B> {
    body: B,
    /// Ends when it is late; none: it has.
    late: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Whether that was told.
    over: bool,
}

impl<B> Timely<B> {
    /// `body`, until a while after `stopped` says so.
    pub(super) fn new(body: B, stopped: watch::Receiver<bool>) -> Self {
        Self {
            body,
            late: Some(Box::pin(late(stopped))),
            over: false,
        }
    }
}

impl<B> Body for Timely<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(late) = &mut self.late
            && late.as_mut().poll(context).is_ready()
        {
            self.late = None;
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if self.late.is_some() {
            return Poll::Pending;
        }
        let told = std::mem::replace(&mut self.over, true);
        let late = || Err("the process stops, and the body is late".into());
        Poll::Ready((!told).then(late))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
