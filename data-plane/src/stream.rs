//! A connection's bytes, plain or through TLS, on either side.

mod corked;

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use rustix::net::{SendFlags, send};
use socket2::SockRef;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

pub(crate) use self::corked::{Corked, MOST_GREETING};
use crate::buffers::Input;

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

    /// The protocol that both ends have agreed on in the handshake (RFC 7301), if they have.
    pub(crate) fn agreed(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    /// Leaves it to whoever writes for how long the other end may have no room, of which the system would make an error
    /// (`Limits::vanished`).
    pub(crate) fn let_rest(&self) -> io::Result<()> {
        let socket = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0.socket(),
        };
        SockRef::from(socket).set_tcp_user_timeout(None)
    }

    /// Appends what has arrived to `input`; zero bytes mean that the peer has ended its side. While nothing comes, an `input`
    /// without bytes has no memory either.
    pub(crate) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut Input,
    ) -> Poll<io::Result<usize>> {
        if self.poll_readable(cx).is_ready() {
            input.make_room();
            let room = input.room();
            if let Poll::Ready(read) = self.poll_append(cx, input) {
                if let Ok(count) = read {
                    input.has_read(count, room);
                }
                return Poll::Ready(read);
            }
        }
        input.give_back();
        Poll::Pending
    }

    /// Ready once there may be something to read. To ask costs less than to read in vain.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let socket = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => {
                let (corked, session) = stream.get_ref();
                // What TLS has decrypted is there already, and so is its end.
                if !session.wants_read() || !corked.reads_socket() {
                    return Poll::Ready(());
                }
                corked.socket()
            }
        };
        // What is wrong with it is for the read to tell.
        socket.poll_read_ready(cx).map(|_| ())
    }

    /// Appends what has arrived to the room that `input` has.
    fn poll_append(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => read(cx, stream, input),
            Self::Tls(stream) => {
                let mut stream = Pin::new(&mut **stream);
                let decrypted = ready!(stream.as_mut().poll_fill_buf(cx))?;
                let count = decrypted.len().min(input.capacity() - input.len());
                input.extend_from_slice(decrypted.get(..count).unwrap_or_default());
                stream.consume(count);
                Poll::Ready(Ok(count))
            }
        }
    }

    /// Whether nothing has arrived, not even the end. The runtime knows without a system call unless something has,
    /// which may then be in `input`.
    pub(crate) fn is_silent(&mut self, input: &mut Input) -> bool {
        match self {
            Self::Plain(stream) => {
                let read = stream.try_read_buf(&mut **input);
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
            (Self::Plain(stream), [only]) => write(cx, stream, only),
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

/// Reads what has arrived into the room that `input` has: what `AsyncReadExt::read_buf` does, with one look in place of three at
/// what the runtime knows of the socket.
fn read(cx: &mut Context<'_>, socket: &TcpStream, input: &mut BytesMut) -> Poll<io::Result<usize>> {
    let room = input.capacity() - input.len();
    loop {
        match socket.try_read_buf(input) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready!(socket.poll_read_ready(cx))?;
            }
            Ok(count) => {
                is_through(socket, Interest::READABLE, count, room);
                return Poll::Ready(Ok(count));
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// Writes some of `bytes`, by the system call alone: the C library's would look whether the thread is to be cancelled.
fn write(cx: &mut Context<'_>, socket: &TcpStream, bytes: &[u8]) -> Poll<io::Result<usize>> {
    loop {
        let sends = || Ok(send(socket, bytes, SendFlags::NOSIGNAL)?);
        match socket.try_io(Interest::WRITABLE, sends) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready!(socket.poll_write_ready(cx))?;
            }
            Ok(count) => {
                is_through(socket, Interest::WRITABLE, count, bytes.len());
                return Poll::Ready(Ok(count));
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// Has the next read or write wait to be told of more, and cost no system call until then, if this one, of `count` of so many
/// bytes, has taken all there was, or filled all room (epoll(7)). Of none since can it have been told: this thread's runtime
/// has had no turn.
fn is_through(socket: &TcpStream, interest: Interest, count: usize, of: usize) {
    if 0 < count && count < of {
        let _: io::Result<()> = socket.try_io(interest, || Err(io::ErrorKind::WouldBlock.into()));
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
            Self::Plain(stream) => write(cx, stream, bytes),
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::crypto::CryptoProvider;
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use shared::tls::provider;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap());
        let (far, near) = tokio::join!(far, listener.accept());
        (near.unwrap().0, far.unwrap())
    }

    /// A connection with TLS, and its client's end.
    async fn secured() -> (Stream, tokio_rustls::client::TlsStream<TcpStream>) {
        let own = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
        let (certificate, key) = (own.cert.der().clone(), own.signing_key.serialize_der());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let provider = Arc::new(CryptoProvider::clone(&provider()));
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key.try_into().unwrap())
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (near, far) = sockets().await;
        let near = Corked::new(near, BytesMut::new());
        let accepting = TlsAcceptor::from(Arc::new(server)).accept(near);
        let connector = TlsConnector::from(Arc::new(client));
        let connecting = connector.connect("a.test".try_into().unwrap(), far);
        let (near, far) = tokio::join!(accepting.into_fallible(), connecting);
        (Stream::secured(near).await.unwrap(), far.unwrap())
    }

    #[tokio::test]
    async fn how_long_the_other_end_may_have_no_room_can_be_left_to_who_writes() {
        let limit = Duration::from_secs(7);
        let (near, _far) = sockets().await;
        let (secured, _far_secured) = secured().await;
        for stream in [Stream::Plain(near), secured] {
            let socket = match &stream {
                Stream::Plain(socket) => socket,
                Stream::Tls(stream) => stream.get_ref().0.socket(),
            };
            let of_system = SockRef::from(socket);
            of_system.set_tcp_user_timeout(Some(limit)).unwrap();
            assert_eq!(of_system.tcp_user_timeout().unwrap(), Some(limit));
            stream.let_rest().unwrap();
            let left = of_system.tcp_user_timeout().unwrap();
            assert!(left.is_none_or(|left| left.is_zero()), "{left:?}");
        }
    }

    /// Reads from `stream` what `far` sends of `sent`, one part after the other, and its end.
    async fn check(mut stream: Stream, mut far: impl AsyncWrite + Unpin, sent: &[&[u8]]) {
        let mut input = Input::default();
        for part in sent {
            let waits = futures::poll!(poll_fn(|cx| stream.poll_fill(cx, &mut input)));
            assert!(waits.is_pending() && input.capacity() == 0);
            let sending = async {
                far.write_all(part).await.unwrap();
                far.flush().await.unwrap();
            };
            let reading = async {
                let mut read = Vec::new();
                while read.len() < part.len() {
                    let fill = poll_fn(|cx| stream.poll_fill(cx, &mut input));
                    assert_eq!(fill.await.unwrap(), input.len());
                    read.extend(input.split());
                }
                read
            };
            let ((), read) = tokio::join!(sending, reading);
            assert_eq!(read, *part);
        }
        far.shutdown().await.unwrap();
        let end = poll_fn(|cx| stream.poll_fill(cx, &mut input)).await;
        assert_eq!(end.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_large_body_that_has_arrived_takes_few_reads() {
        const SENT: usize = 512 * 1024;
        let (near, mut far) = sockets().await;
        let body = vec![b'x'; SENT];
        tokio::spawn(async move { far.write_all(&body).await });
        let mut stream = Stream::Plain(near);
        let mut input = Input::default();
        let (mut left, mut longest) = (SENT, 0);
        while left > 0 {
            let read = poll_fn(|cx| stream.poll_fill(cx, &mut input))
                .await
                .unwrap();
            assert!(read > 0);
            (left, longest) = (left - read, longest.max(read));
            drop(input.split());
        }
        assert!(longest > 16 * 1024, "{longest}");
    }

    #[tokio::test]
    async fn a_read_that_leaves_room_has_taken_all_there_was() {
        let (near, far) = sockets().await;
        let mut far = far.into_std().unwrap();
        let mut stream = Stream::Plain(near);
        let mut input = Input::default();
        for sent in ["a", "bc"] {
            far.write_all(sent.as_bytes()).unwrap();
            poll_fn(|cx| stream.poll_fill(cx, &mut input))
                .await
                .unwrap();
            assert_eq!(input.split(), sent);
            far.write_all(b"more").unwrap();
            assert!(stream.is_silent(&mut input), "nobody has been told of it");
            poll_fn(|cx| stream.poll_fill(cx, &mut input))
                .await
                .unwrap();
            assert_eq!(input.split(), "more");
        }
        drop(far);
        let end = poll_fn(|cx| stream.poll_fill(cx, &mut input)).await;
        assert_eq!(end.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_write_waits_for_the_other_end_and_tells_that_it_is_gone() {
        const SENT: usize = 8 * 1024 * 1024;
        let (near, mut far) = sockets().await;
        let mut stream = Stream::Plain(near);
        let reading = tokio::spawn(async move {
            let mut read = vec![0; SENT];
            far.read_exact(&mut read).await.unwrap();
            assert!(read.iter().all(|byte| *byte == b'x'));
        });
        let bytes = vec![b'x'; SENT];
        let (mut sent, mut waits) = (0, 0);
        while sent < SENT {
            let parts = [IoSlice::new(&bytes[sent..])];
            sent += poll_fn(|cx| {
                let written = stream.poll_write_parts(cx, &parts);
                waits += usize::from(written.is_pending());
                written
            })
            .await
            .unwrap();
        }
        assert!(waits > 0, "it is more than a socket takes at once");
        reading.await.unwrap();
        // The first of them may be taken before the answer comes that nobody is there.
        let gone = poll_fn(|cx| stream.poll_write_parts(cx, &[IoSlice::new(&bytes)]));
        let mut gone = gone.await;
        while gone.is_ok() {
            tokio::task::yield_now().await;
            gone = poll_fn(|cx| stream.poll_write_parts(cx, &[IoSlice::new(&bytes)])).await;
        }
        let error = gone.unwrap_err().kind();
        let expected = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        assert!(expected.contains(&error), "{error}");
    }

    #[tokio::test]
    async fn whoever_waits_for_bytes_has_no_memory_for_them_and_gets_them_all() {
        let large = vec![b'x'; 100_000];
        let sent: [&[u8]; 4] = [b"a", &large, b"bc", &large];
        let (near, far) = sockets().await;
        check(Stream::Plain(near), far, &sent).await;
        let (near, far) = secured().await;
        check(near, far, &sent).await;
    }
}
