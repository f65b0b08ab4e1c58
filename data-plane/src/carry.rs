//! Raw bytes both ways between a client and a server, until one side ends or both are silent for too long.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use shared::clock::monotonic;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// How many bytes have been carried.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// From the client.
    pub(crate) received: Cell<u64>,
    /// To the client.
    pub(crate) sent: Cell<u64>,
}

impl Carried {
    /// Counts bytes from the client.
    pub(crate) fn count_received(&self, count: usize) {
        self.received.set(self.received.get() + as_u64(count));
    }

    /// Counts bytes to the client.
    pub(crate) fn count_sent(&self, count: usize) {
        self.sent.set(self.sent.get() + as_u64(count));
    }
}

/// Carries bytes between `client` and `server`, those in `early` first, until both sides have ended, one breaks,
/// or both are silent for `idle`.
pub(crate) async fn carry(
    client: impl AsyncRead + AsyncWrite + Unpin,
    server: impl AsyncRead + AsyncWrite + Unpin,
    early: Early,
    idle: Duration,
    carried: &Rc<Carried>,
) -> io::Result<()> {
    let heard = Rc::new(Cell::new(monotonic()));
    let counted = |count: fn(&Carried, usize)| {
        let carried = Rc::clone(carried);
        move |length| count(&carried, length)
    };
    let (received, sent) = (
        counted(Carried::count_received),
        counted(Carried::count_sent),
    );
    let mut client = Heard {
        stream: client,
        at: Rc::clone(&heard),
        count: received,
    };
    let mut server = Heard {
        stream: server,
        at: Rc::clone(&heard),
        count: sent,
    };
    let both_ways = async {
        if !early.to_client.is_empty() {
            (server.count)(early.to_client.len());
            client.write_all(&early.to_client).await?;
        }
        if !early.to_server.is_empty() {
            (client.count)(early.to_server.len());
            server.write_all(&early.to_server).await?;
        }
        tokio::io::copy_bidirectional(&mut client, &mut server).await
    };
    tokio::select! {
        ended = both_ways => ended.map(drop),
        () = silence(&heard, idle) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What has been read before the two were put together.
#[derive(Debug, Default)]
pub(crate) struct Early {
    pub(crate) to_client: Vec<u8>,
    pub(crate) to_server: Vec<u8>,
}

/// `length` in the width that bytes are counted in.
pub(crate) fn as_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
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

/// Notes when something was last read, and how much.
struct Heard<S, F> {
    stream: S,
    at: Rc<Cell<Instant>>,
    count: F,
}

impl<S: AsyncRead + Unpin, F: Fn(usize) + Unpin> AsyncRead for Heard<S, F> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let result = match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            // Many programs end TLS without a word.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(()))
            }
            result => result,
        };
        if result.is_ready() {
            this.at.set(monotonic());
            (this.count)(buffer.filled().len() - before);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin, F: Unpin> AsyncWrite for Heard<S, F> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Has something to say, and then ends without the word that TLS has for it.
    struct Abrupt(&'static [u8]);

    impl AsyncRead for Abrupt {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let said = std::mem::take(&mut self.0);
            if said.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            buffer.put_slice(said);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Abrupt {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn an_end_without_a_word_is_an_end() {
        let carried = Rc::new(Carried::default());
        let (client, server) = (Abrupt(b"ping"), Abrupt(b"answer"));
        let idle = Duration::from_mins(1);
        let ended = carry(client, server, Early::default(), idle, &carried).await;
        assert!(ended.is_ok(), "{ended:?}");
        assert_eq!((carried.received.get(), carried.sent.get()), (4, 6));
    }
}
