//! The lengths in what a server says. The library takes every one below zero for "nothing there", which only -1 is (RESP,
//! "Null bulk strings"): from a server, or somebody on the way, that is out of step it would be a session that has ended.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes of a length: more than the longest number has.
const LONGEST: usize = 32;

/// A connection that breaks at the first length that is none.
#[derive(Debug)]
pub(super) struct Measured<S> {
    stream: S,
    lengths: Lengths,
}

/// Where in the replies the reader is. Arrays need no looking after: what they hold comes as replies of its own.
#[derive(Debug)]
enum Lengths {
    /// Before the first byte of a reply.
    Start,
    /// In the length of bytes, or of an array.
    Length { of_bytes: bool, digits: Vec<u8> },
    /// In a line of which nothing is to be known.
    Line,
    /// Before so many bytes of content, its end of line among them.
    Content(u64),
}

impl<S> Measured<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self {
            stream,
            lengths: Lengths::Start,
        }
    }
}

impl Lengths {
    /// Goes on by `bytes`; whether all lengths among them are some.
    fn go_on(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((first, rest)) = bytes.split_first() {
            match self {
                Self::Start => {
                    *self = match first {
                        b'$' | b'*' => Self::Length {
                            of_bytes: *first == b'$',
                            digits: Vec::new(),
                        },
                        _ => Self::Line,
                    };
                    bytes = rest;
                }
                Self::Line => match bytes.iter().position(|byte| *byte == b'\n') {
                    Some(end) => {
                        *self = Self::Start;
                        bytes = bytes.get(end + 1..).unwrap_or_default();
                    }
                    None => return true,
                },
                Self::Length { of_bytes, digits } => {
                    bytes = rest;
                    if *first != b'\n' {
                        digits.push(*first);
                        if digits.len() > LONGEST {
                            return false;
                        }
                        continue;
                    }
                    let text = str::from_utf8(digits).unwrap_or_default();
                    let length = text.strip_suffix('\r').unwrap_or(text).parse::<i64>();
                    *self = match (length, *of_bytes) {
                        (Ok(-1), _) | (Ok(0..), false) => Self::Start,
                        (Ok(length @ 0..), true) => Self::Content(length.unsigned_abs() + 2),
                        (Ok(_) | Err(_), _) => return false,
                    };
                }
                Self::Content(left) => {
                    let skipped = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len());
                    *left = left.saturating_sub(u64::try_from(skipped).unwrap_or(u64::MAX));
                    bytes = bytes.get(skipped..).unwrap_or_default();
                    if *left == 0 {
                        *self = Self::Start;
                    }
                }
            }
        }
        true
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Measured<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        Poll::Ready(if self.lengths.go_on(read) {
            Ok(())
        } else {
            let problem = "a length in a reply is no length";
            Err(io::Error::new(io::ErrorKind::InvalidData, problem))
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Measured<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_minus_one_says_that_nothing_is_there() {
        let good: [&[u8]; 9] = [
            b"$-1\r\n",
            b"*-1\r\n",
            b"+OK\r\n:-5\r\n-ERR $-5\r\n$0\r\n\r\n",
            b"$5\r\n$-5\r\n\r\n$-1\r\n",
            b"*2\r\n$3\r\nabc\r\n*1\r\n:-7\r\n",
            b"*0\r\n",
            b"$12\r\n\r\n$-5\r\n*-9\r\n\r\n:1\r\n",
            b"",
            b"$5\r\nab",
        ];
        let bad: [&[u8]; 8] = [
            b"$-5\r\n",
            b"*-2\r\n",
            b"$\r\n",
            b"$x\r\n",
            b"$1 2\r\n",
            b"*1\r\n$-5\r\n",
            b"$3\r\nabc\r\n$-2\r\n",
            b"$111111111111111111111111111111111",
        ];
        for (replies, is_good) in good
            .map(|replies| (replies, true))
            .into_iter()
            .chain(bad.map(|replies| (replies, false)))
        {
            let shown = replies.escape_ascii();
            assert_eq!(Lengths::Start.go_on(replies), is_good, "{shown}");
            // However they come in.
            let mut lengths = Lengths::Start;
            let all = replies.iter().all(|byte| lengths.go_on(&[*byte]));
            assert_eq!(all, is_good, "{shown}");
        }
    }
}
