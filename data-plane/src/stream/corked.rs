//! A socket below TLS that delays writes when more is about to come: each write is a packet, and wakes the other end.
//! The last flight of a handshake goes with the first bytes after it, tickets with a response, and the alert that ends
//! a connection with the last of its bytes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Most bytes that wait.
const MOST: usize = 64 * 1024;

/// Most bytes of a client before its handshake has begun: a `ClientHello` with keys that withstand quantum computers and a
/// ticket takes some 2 KB, with the client's certificates in the ticket a few more.
pub(crate) const MOST_GREETING: usize = 16 * 1024;

/// As many after that, up to the end of the handshake: for its certificates.
const MOST_ANSWER: usize = 64 * 1024;

/// When bytes are sent that TLS has written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sends {
    /// Once there is nothing to read: the other end may be waiting for them.
    BeforeWaiting,
    /// At once, behind those that wait.
    AtOnce,
    /// With the end.
    AtTheEnd,
}

/// A socket that TLS reads from and writes to.
#[derive(Debug)]
pub(crate) struct Corked {
    socket: TcpStream,
    /// What was read before TLS was spoken.
    early: BytesMut,
    held: BytesMut,
    sends: Sends,
    /// Whether the other end may still be sending at our end.
    half_closes: bool,
    /// How much the other end may send until its handshake goes on, or is over: all of that waits for its last byte.
    may_send: usize,
}

impl Corked {
    /// A socket that a handshake is about to begin on, with what has been read from it.
    pub(crate) fn new(socket: TcpStream, early: BytesMut) -> Self {
        Self {
            socket,
            early,
            held: BytesMut::new(),
            sends: Sends::BeforeWaiting,
            half_closes: true,
            may_send: usize::MAX,
        }
    }

    /// The same of a client, which is held to what a handshake takes.
    pub(crate) fn to_client(socket: TcpStream, early: BytesMut) -> Self {
        Self {
            may_send: MOST_GREETING.saturating_sub(early.len()),
            ..Self::new(socket, early)
        }
    }

    /// The client's greeting is here: what comes now may be as long as what it proves itself by.
    pub(crate) const fn is_greeted(&mut self) {
        self.may_send = MOST_ANSWER;
    }

    /// The handshake is over: what it has left goes with what comes next, or with the next flush.
    pub(crate) const fn uncork(&mut self) {
        self.sends = Sends::AtOnce;
    }

    /// What is written from now on is the last, and goes with the end.
    pub(super) const fn cork(&mut self) {
        self.sends = Sends::AtTheEnd;
    }

    /// The socket is closed right after the end.
    pub(super) const fn close_whole(&mut self) {
        self.half_closes = false;
    }

    pub(super) const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Sends what waits.
    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(written);
        }
        // Little is held, and rarely: an idle connection needs no room for it.
        self.held = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Takes `parts` behind what waits.
    fn poll_hold(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.held.len() >= MOST {
            ready!(self.poll_send(cx))?;
        }
        for part in parts {
            self.held.extend_from_slice(part);
        }
        if self.sends == Sends::AtOnce
            && let Poll::Ready(Err(error)) = self.poll_send(cx)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()))
    }

    /// Whether a read reads from the socket and does nothing else.
    pub(super) fn reads_socket(&self) -> bool {
        self.early.is_empty() && self.sends != Sends::BeforeWaiting
    }

    fn passes(&self) -> bool {
        self.sends == Sends::AtOnce && self.held.is_empty()
    }
}

impl AsyncRead for Corked {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.early.is_empty() {
            let count = this.early.len().min(buffer.remaining());
            buffer.put_slice(this.early.get(..count).unwrap_or_default());
            this.early.advance(count);
            if this.early.is_empty() {
                this.early = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.socket).poll_read(cx, buffer);
        if this.sends == Sends::BeforeWaiting {
            if read.is_pending()
                && let Poll::Ready(Err(error)) = this.poll_send(cx)
            {
                return Poll::Ready(Err(error));
            }
            let count = buffer.filled().len() - before;
            let Some(left) = this.may_send.checked_sub(count) else {
                return Poll::Ready(Err(io::Error::other("a handshake that is too long")));
            };
            this.may_send = left;
        }
        read
    }
}

impl AsyncWrite for Corked {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.passes() {
            return super::write(cx, &this.socket, bytes);
        }
        this.poll_hold(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match parts {
            _ if !this.passes() => this.poll_hold(cx, parts),
            [only] => super::write(cx, &this.socket, only),
            _ => Pin::new(&mut this.socket).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.sends == Sends::AtOnce {
            this.poll_send(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        if this.half_closes {
            Pin::new(&mut this.socket).poll_shutdown(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Corked, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap());
        let (far, near) = tokio::join!(far, listener.accept());
        let near = Corked::new(near.unwrap().0, BytesMut::from(&b"hello"[..]));
        (near, far.unwrap())
    }

    #[tokio::test]
    async fn what_is_written_waits_for_what_comes_next_but_never_for_the_other_end() {
        let (mut near, mut far) = pair().await;
        near.socket.writable().await.unwrap();
        let mut early = [0; 16];
        assert_eq!(near.read(&mut early).await.unwrap(), 5);
        assert_eq!(&early[..5], b"hello");

        // A flight of the handshake goes before we wait, in one piece.
        near.write_all(b"a").await.unwrap();
        near.write_all(b"b").await.unwrap();
        near.flush().await.unwrap();
        assert_eq!(near.held, "ab");
        let waits = futures::poll!(std::pin::pin!(near.read(&mut early)));
        assert!(waits.is_pending());
        let mut flight = [0; 2];
        far.read_exact(&mut flight).await.unwrap();
        assert_eq!(&flight, b"ab");

        // What the handshake leaves goes with the answer, or when somebody asks for it.
        for (answer, expected) in [(&b"answer"[..], "ticketanswer"), (b"", "ticket")] {
            near.sends = Sends::BeforeWaiting;
            near.write_all(b"ticket").await.unwrap();
            near.uncork();
            assert_eq!(near.held, "ticket");
            near.write_all(answer).await.unwrap();
            near.flush().await.unwrap();
            let mut whole = vec![0; expected.len()];
            far.read_exact(&mut whole).await.unwrap();
            assert_eq!(whole, expected.as_bytes());
            assert!(near.held.is_empty() && near.passes());
        }

        // The last bytes go with the end.
        near.cork();
        near.close_whole();
        near.write_all(b"last").await.unwrap();
        near.flush().await.unwrap();
        assert_eq!(near.held, "last");
        near.write_all(b"end").await.unwrap();
        near.shutdown().await.unwrap();
        drop(near);
        let mut rest = String::new();
        far.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "lastend");
    }

    #[tokio::test]
    async fn no_more_waits_than_there_is_room_for() {
        let (mut near, mut far) = pair().await;
        near.cork();
        let sent = vec![b'x'; 4 * MOST];
        let reading = async {
            let mut read = Vec::new();
            far.read_to_end(&mut read).await.unwrap();
            read.len()
        };
        let writing = async {
            for part in sent.chunks(MOST / 2) {
                near.write_all(part).await.unwrap();
                assert!(near.held.len() < MOST + part.len());
            }
            near.shutdown().await.unwrap();
        };
        let (read, ()) = tokio::join!(reading, writing);
        assert_eq!(read, sent.len());
    }
}
