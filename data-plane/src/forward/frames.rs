//! The frames of a WebSocket on their way to the client: between two of them, the gateway may announce that the
//! connection ends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// Why a WebSocket is over (RFC 6455 §7.4.1).
#[derive(Clone, Copy, Debug)]
pub(super) enum Reason {
    /// The node stops, and waits no longer: the client may connect again.
    GoingAway,
    /// The client may not go on.
    Policy,
}

impl Reason {
    /// A close frame that says so (RFC 6455 §5.5.1).
    fn frame(self) -> [u8; 4] {
        let code: u16 = match self {
            Self::GoingAway => 1001,
            Self::Policy => 1008,
        };
        let [high, low] = code.to_be_bytes();
        [0x88, 0x02, high, low]
    }
}

/// Longest head of a frame (RFC 6455 §5.2).
const LONGEST_HEAD: usize = 14;

/// A client's connection, on which frames are followed.
#[derive(Debug)]
pub(super) struct Framed<S> {
    stream: S,
    frames: Frames,
}

impl<S: AsyncWrite + Unpin> Framed<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            frames: Frames::default(),
        }
    }

    /// Tells the client that it is over, if that can be told between two frames, and ends the connection.
    pub(super) async fn close(&mut self, reason: Reason) -> io::Result<()> {
        if self.frames.are_whole() {
            self.stream.write_all(&reason.frame()).await?;
        }
        self.stream.shutdown().await
    }
}

/// How far a frame has come.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; LONGEST_HEAD],
    /// How much of the head is there.
    known: usize,
    /// How much of the payload is not.
    left: u64,
}

impl Frames {
    /// Whether no frame has begun that has not ended.
    const fn are_whole(&self) -> bool {
        self.known == 0 && self.left == 0
    }

    /// Follows what is sent.
    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                let passed = self.left.min(length);
                self.left -= passed;
                let passed = usize::try_from(passed).unwrap_or(usize::MAX);
                bytes = bytes.get(passed..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.head.get_mut(self.known) {
                *place = *first;
            }
            self.known += 1;
            bytes = rest;
            if let Some(length) = self.payload() {
                self.known = 0;
                self.left = length;
            }
        }
    }

    /// How long the payload is, once the whole head is there.
    fn payload(&self) -> Option<u64> {
        let [_, second, extended @ ..] = self.head;
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let (size, length) = match second & 0x7f {
            126 => (
                2,
                extended
                    .first_chunk()
                    .copied()
                    .map(u16::from_be_bytes)?
                    .into(),
            ),
            127 => (8, extended.first_chunk().copied().map(u64::from_be_bytes)?),
            short => (0, u64::from(short)),
        };
        (self.known >= 2 && self.known == 2 + size + mask).then_some(length)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Framed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.frames.pass(bytes.get(..written).unwrap_or(bytes));
        Poll::Ready(Ok(written))
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

    #[test]
    fn frames_are_followed_however_their_bytes_come() {
        let frame = |head: &[u8], payload: usize| [head, &vec![7; payload]].concat();
        let frames = [
            frame(&[0x81, 0], 0),
            frame(&[0x81, 125], 125),
            frame(&[0x82, 126, 0x01, 0x00], 256),
            frame(&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 1], 65_537),
            // A client would mask.
            frame(&[0x81, 0x83, 1, 2, 3, 4], 3),
            frame(&[0x89, 2], 2),
        ];
        for step in [1, 3, 1000, usize::MAX] {
            let mut found = Frames::default();
            for frame in &frames {
                for (place, part) in frame.chunks(step.min(frame.len())).enumerate() {
                    found.pass(part);
                    let whole = (place + 1).saturating_mul(step) >= frame.len();
                    assert_eq!(found.are_whole(), whole, "{step} {place}");
                }
            }
            let all = frames.concat();
            found.pass(&all);
            assert!(found.are_whole());
            found.pass(all.get(..all.len() - 1).unwrap());
            assert!(!found.are_whole());
        }
    }

    #[tokio::test]
    async fn rule_95_the_client_of_a_websocket_is_told_that_it_is_over() {
        use tokio::io::AsyncReadExt as _;
        for (sent, reason, told) in [
            (
                &b"\x81\x02hi"[..],
                Reason::Policy,
                &b"\x81\x02hi\x88\x02\x03\xf0"[..],
            ),
            (
                b"\x01\x02hi",
                Reason::GoingAway,
                b"\x01\x02hi\x88\x02\x03\xe9",
            ),
            (b"\x81\x02h", Reason::Policy, b"\x81\x02h"),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(64);
            let mut framed = Framed::new(ours);
            framed.write_all(sent).await.unwrap();
            framed.close(reason).await.unwrap();
            let mut heard = Vec::new();
            theirs.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, told);
        }
    }
}
