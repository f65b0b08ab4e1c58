//! A connection's bytes, plain or through TLS, on either side.

mod corked;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

pub(crate) use self::corked::Corked;

/// Least free space that a read is given. Larger than a usual request, so that one read takes it
/// whole and leaves the socket known to be empty: the next read then costs no system call.
const SPARE: usize = 4 * 1024;

/// Most free space that a read is given once a connection has shown that it carries big bodies.
const LARGE_SPARE: usize = 64 * 1024;

/// A TCP connection, perhaps with TLS on top.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Bytes as they are.
    Plain(TcpStream),
    /// TLS, as client or server.
    Tls(Box<TlsStream<Corked>>),
}

impl Stream {
    /// A connection whose handshake has come to `outcome`. If it failed, the other end is told why.
    pub(crate) async fn secured(
        outcome: Result<impl Into<TlsStream<Corked>>, (io::Error, Corked)>,
    ) -> io::Result<Self> {
        match outcome {
            Ok(stream) => {
                let mut stream = stream.into();
                stream.get_mut().0.uncork();
                Ok(Self::Tls(Box::new(stream)))
            }
            Err((error, mut socket)) => {
                let _ = poll_fn(|cx| socket.poll_send(cx)).await;
                Err(error)
            }
        }
    }

    /// Where the other end is, if there still is one.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Plain(stream) => stream.peer_addr().ok(),
            Self::Tls(stream) => stream.get_ref().0.socket().peer_addr().ok(),
        }
    }

    /// Appends what has arrived to `input`; zero bytes mean that the peer has ended its side.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        if input.capacity() - input.len() < SPARE {
            // A buffer that a read has filled to the brim grows, up to a limit.
            let larger = (input.capacity() * 2).clamp(2 * SPARE, LARGE_SPARE);
            input.reserve(larger);
        }
        let count = match self {
            Self::Plain(stream) => ready!(pin!(stream.read_buf(input)).poll(cx)),
            Self::Tls(stream) => ready!(pin!(stream.read_buf(input)).poll(cx)),
        };
        Poll::Ready(count)
    }

    /// Whether nothing has arrived, not even the end. The runtime knows without a system call unless something has,
    /// which may then be in `input`.
    pub(crate) fn is_silent(&mut self, input: &mut BytesMut) -> bool {
        match self {
            Self::Plain(stream) => {
                let read = stream.try_read_buf(input);
                read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            Self::Tls(_) => {
                let mut cx = Context::from_waker(Waker::noop());
                self.poll_fill(&mut cx, input).is_pending()
            }
        }
    }

    /// Writes some of `parts`, in order.
    pub(crate) fn poll_write_parts(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match (self, parts) {
            (Self::Plain(stream), [only]) => Pin::new(stream).poll_write(cx, only),
            (Self::Plain(stream), _) => Pin::new(stream).poll_write_vectored(cx, parts),
            (Self::Tls(stream), _) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    /// Gives what TLS holds back to the socket. Free for a plain connection.
    pub(crate) fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// What is written from now on is the last: with TLS it goes with the end.
    pub(crate) fn cork(&mut self) {
        if let Self::Tls(stream) = self {
            stream.get_mut().0.cork();
        }
    }

    /// Ends our side. To close the connection is the same, unless it `lingers`.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>, lingers: bool) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) if !lingers => Poll::Ready(Ok(())),
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => {
                if !lingers {
                    stream.get_mut().0.close_whole();
                }
                Pin::new(stream).poll_shutdown(cx)
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_push(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_end(cx, true)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_parts(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
