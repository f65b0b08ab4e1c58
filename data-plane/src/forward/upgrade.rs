//! After `101 Switching Protocols`: raw bytes both ways.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use shared::clock::monotonic;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::oneshot;

use super::Hold;
use crate::server::Switched;
use crate::upstream::Connection;

/// Carries bytes both ways in a task of its own, until one side ends or both are silent for `idle`
/// (Kong 3.9, `read_timeout` of a WebSocket's service).
///
/// `hold` is kept as long as that.
pub(crate) fn tunnel(
    client: oneshot::Receiver<Switched>,
    mut upstream: Box<Connection>,
    hold: Hold,
    idle: Duration,
) {
    upstream.timer.clear();
    tokio::task::spawn_local(async move {
        let _hold = hold;
        let Ok(switched) = client.await else {
            tracing::debug!("the client did not switch protocols");
            return;
        };
        let heard = Rc::new(Cell::new(monotonic()));
        let mut client = Heard {
            stream: switched.stream,
            at: Rc::clone(&heard),
        };
        // What the server sent right behind its answer's head.
        let early = upstream.input.split();
        // And the client right behind its request's.
        let ahead = switched.early;
        let mut server = Heard {
            stream: &mut upstream.stream,
            at: Rc::clone(&heard),
        };
        let carried = async {
            server.write_all(&ahead).await?;
            client.write_all(&early).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await
        };
        let result = tokio::select! {
            carried = carried => carried.map(drop),
            () = silence(&heard, idle) => Err(io::ErrorKind::TimedOut.into()),
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a tunnel broke");
        }
    });
}

/// Ends once nothing has been heard for `limit`.
async fn silence(heard: &Cell<Instant>, limit: Duration) {
    loop {
        let deadline = heard.get() + limit;
        tokio::time::sleep_until(deadline.into()).await;
        if heard.get() + limit <= deadline {
            return;
        }
    }
}

/// Notes when something was last read.
struct Heard<S> {
    stream: S,
    at: Rc<Cell<Instant>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if result.is_ready() {
            this.at.set(monotonic());
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
