//! Follows a client's byte stream from request to request, and lets no head pass unjudged.
//!
//! It reads framing more strictly than the HTTP library behind it: whatever it lets pass, both read
//! alike, so that they always agree on where the next head begins.

use super::head::{HeadFinder, MAX_HEAD, MAX_TARGET};
use super::request::{Refusal, judge};
use super::{Framing, FramingError};

/// Longest line in front of a chunk, and all trailers of a body, in bytes.
const MAX_CHUNK_LINE: u32 = 1024;
const MAX_TRAILERS: u32 = 16 * 1024;

/// What an HTTP/2 connection begins with, up to the end of what looks like a head (RFC 9113 §3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// How far bytes may pass.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Scan {
    /// So many bytes may.
    pub(crate) pass: usize,
    /// What is to be done about the others.
    pub(crate) rest: Rest,
}

/// What is to be done about bytes that may not pass.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rest {
    /// There are none.
    Nothing,
    /// They are the beginning of a head: keep them and come again with more behind them.
    Head,
    /// They come behind a request to switch protocols: keep them until that is decided.
    Undecided,
    /// They begin a request that is refused. Nothing that follows is to be read.
    Refused(Refusal),
    /// They break the body that they belong to.
    Broken(&'static str),
}

/// Where in the stream of requests we are.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    state: State,
    finder: HeadFinder,
    /// Heads that have passed.
    passed: u32,
    /// Whether the request under way asks for another protocol.
    upgrade: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Head,
    Length(u64),
    ChunkLine {
        size: u64,
        digits: u32,
        length: u32,
        extension: bool,
    },
    ChunkLineFeed(u64),
    Chunk(u64),
    ChunkEnd,
    ChunkEndFeed,
    Trailers {
        line: u32,
        total: u32,
    },
    TrailersFeed {
        line: u32,
        total: u32,
    },
    Undecided,
    /// Not HTTP/1, or no longer.
    Free,
}

const CHUNK_LINE: State = State::ChunkLine {
    size: 0,
    digits: 0,
    length: 0,
    extension: false,
};

impl Scanner {
    /// Looks at what comes next: fresh bytes, or those kept before and fresh ones behind them.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Scan {
        let mut at = 0;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(first) = rest.first() else {
                return Scan {
                    pass: at,
                    rest: Rest::Nothing,
                };
            };
            let step = match self.state {
                State::Head => self.head(rest),
                State::Length(left) | State::Chunk(left) => Ok(self.skip(rest.len(), left)),
                State::Undecided => Err(Rest::Undecided),
                State::Free => Ok(rest.len()),
                _ => self.framing(*first).map(|()| 1).map_err(Rest::Broken),
            };
            match step {
                Ok(count) => at += count,
                Err(rest) => return Scan { pass: at, rest },
            }
        }
    }

    /// Heads that have passed so far.
    pub(crate) const fn passed(&self) -> u32 {
        self.passed
    }

    /// Whether the next byte begins a request.
    pub(crate) const fn between_requests(&self) -> bool {
        matches!(self.state, State::Head)
    }

    /// Whether a body has begun and not ended.
    pub(crate) const fn in_body(&self) -> bool {
        !matches!(self.state, State::Head | State::Undecided | State::Free)
    }

    /// Whether the request before asks for a switch of protocols that is neither granted nor refused.
    pub(crate) const fn is_undecided(&self) -> bool {
        matches!(self.state, State::Undecided)
    }

    /// Says whether the switch of protocols that was asked for has come about.
    pub(crate) fn decide(&mut self, switched: bool) {
        if matches!(self.state, State::Undecided) {
            self.state = if switched { State::Free } else { State::Head };
        }
    }

    fn head(&mut self, rest: &[u8]) -> Result<usize, Rest> {
        let length = match self.finder.find(rest) {
            Ok(Some(length)) => length,
            Ok(None) => {
                let line = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
                return Err(if line > MAX_TARGET + 64 {
                    Rest::Refused(Refusal::TargetTooLong)
                } else {
                    Rest::Head
                });
            }
            Err(FramingError::HeadTooLarge) => return Err(Rest::Refused(too_large(rest))),
            Err(_) => {
                let reason = "a line ends in a bare line feed";
                return Err(Rest::Refused(Refusal::Malformed(reason)));
            }
        };
        let head = rest.get(..length).unwrap_or_default();
        if self.passed == 0 && head == HTTP2 {
            self.state = State::Free;
            return Ok(rest.len());
        }
        let shape = judge(head).map_err(Rest::Refused)?;
        self.passed += 1;
        self.upgrade = shape.upgrade;
        match shape.framing {
            Framing::Length(length) if length > 0 => self.state = State::Length(length),
            Framing::Chunked => self.state = CHUNK_LINE,
            Framing::None | Framing::Length(_) | Framing::UntilClose => self.end(),
        }
        Ok(length)
    }

    /// Passes bytes of a body of which so many are left.
    fn skip(&mut self, held: usize, left: u64) -> usize {
        let count = usize::try_from(left).map_or(held, |left| left.min(held));
        let left = left - u64::try_from(count).unwrap_or(left);
        match self.state {
            State::Chunk(_) if left == 0 => self.state = State::ChunkEnd,
            State::Chunk(_) => self.state = State::Chunk(left),
            _ if left == 0 => self.end(),
            _ => self.state = State::Length(left),
        }
        count
    }

    /// Takes one byte of what is around chunks (RFC 9112 §7.1).
    fn framing(&mut self, byte: u8) -> Result<(), &'static str> {
        self.state = match (self.state, byte) {
            (
                State::ChunkLine {
                    size,
                    digits,
                    length,
                    extension,
                },
                _,
            ) => match byte {
                b'\r' if digits > 0 => State::ChunkLineFeed(size),
                b'\n' | b'\r' | 0 => return Err("malformed chunk size"),
                _ if length == MAX_CHUNK_LINE => return Err("chunk extension too long"),
                _ if extension => State::ChunkLine {
                    size,
                    digits,
                    length: length + 1,
                    extension,
                },
                b';' if digits > 0 => State::ChunkLine {
                    size,
                    digits,
                    length,
                    extension: true,
                },
                _ => match char::from(byte).to_digit(16) {
                    Some(digit) if digits < 16 => State::ChunkLine {
                        size: size << 4 | u64::from(digit),
                        digits: digits + 1,
                        length,
                        extension,
                    },
                    _ => return Err("malformed chunk size"),
                },
            },
            (State::ChunkLineFeed(0), b'\n') => State::Trailers { line: 0, total: 0 },
            (State::ChunkLineFeed(size), b'\n') => State::Chunk(size),
            (State::ChunkEnd, b'\r') => State::ChunkEndFeed,
            (State::ChunkEndFeed, b'\n') => CHUNK_LINE,
            (State::Trailers { line, total }, b'\r') => State::TrailersFeed { line, total },
            (State::Trailers { .. }, b'\n' | 0) => return Err("malformed trailer"),
            (State::Trailers { line: 0, .. }, b' ' | b'\t') => return Err("folded trailer"),
            (State::Trailers { total, .. }, _) if total == MAX_TRAILERS => {
                return Err("trailers too large");
            }
            (State::Trailers { line, total }, _) => State::Trailers {
                line: line + 1,
                total: total + 1,
            },
            (State::TrailersFeed { line: 0, .. }, b'\n') => {
                self.end();
                return Ok(());
            }
            (State::TrailersFeed { total, .. }, b'\n') => State::Trailers { line: 0, total },
            _ => return Err("malformed chunk"),
        };
        Ok(())
    }

    /// The request is over.
    fn end(&mut self) {
        self.state = if self.upgrade {
            State::Undecided
        } else {
            State::Head
        };
    }
}

/// Which part of a head that is too large is to blame.
fn too_large(head: &[u8]) -> Refusal {
    match memchr::memchr(b'\n', head.get(..MAX_HEAD).unwrap_or(head)) {
        Some(line) if line <= MAX_TARGET => Refusal::HeadTooLarge,
        _ => Refusal::TargetTooLong,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &[u8] = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nGET /not-a-head HTTP/1.1\r\n\r\nab\
        POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1A;x=y\r\nGET /nor-this HTTP/1.1\r\n\r\n\r\n0\r\nT: v\r\n\r\n\
        PUT /4 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";

    /// Feeds `parts` as a connection does, and says what has passed and what ended it.
    fn feed<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Scanner, Vec<u8>, Rest) {
        let mut scanner = Scanner::default();
        let (mut held, mut passed, mut last) = (Vec::new(), Vec::new(), Rest::Nothing);
        for part in parts {
            held.extend_from_slice(part);
            let scan = scanner.scan(&held);
            passed.extend(held.drain(..scan.pass));
            last = scan.rest;
            if matches!(last, Rest::Refused(_) | Rest::Broken(_)) {
                break;
            }
        }
        (scanner, passed, last)
    }

    proptest! {
        #[test]
        fn heads_are_found_however_the_stream_is_cut(cuts in proptest::collection::vec(1_usize..40, 1..40)) {
            let mut cuts = cuts.into_iter().cycle();
            let mut rest = STREAM;
            let parts = std::iter::from_fn(|| {
                let (part, after) = rest.split_at(cuts.next()?.min(rest.len()));
                rest = after;
                (!part.is_empty()).then_some(part)
            });
            let (scanner, passed, last) = feed(parts);
            prop_assert_eq!(last, Rest::Nothing);
            prop_assert_eq!(scanner.passed(), 4);
            prop_assert_eq!(passed, STREAM);
        }
    }

    #[test]
    fn a_request_that_is_refused_leaves_those_before_it_alone() {
        let stream = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\nHost: a\r\n\r\n";
        let (scanner, passed, last) = feed([&stream[..]].into_iter());
        assert_eq!((scanner.passed(), passed.len()), (1, 28));
        assert!(matches!(last, Rest::Refused(Refusal::Malformed(_))));
    }

    #[test]
    fn a_broken_chunk_ends_the_stream() {
        for body in [
            "x\r\n",
            "\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1 \r\n",
            "+1\r\n",
            "1\na\r\n",
            "1;a\nb\r\n",
            "1;a\rb\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "11111111111111111\r\n",
            "0\r\nT: v\n\r\n",
            "0\r\n folded\r\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            let (_, _, last) = feed([text.as_bytes()].into_iter());
            assert!(matches!(last, Rest::Broken(_)), "{body:?} {last:?}");
        }
    }

    #[test]
    fn nothing_passes_behind_a_request_to_switch_until_it_is_decided() {
        let text =
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\0";
        let mut scanner = Scanner::default();
        let scan = scanner.scan(text);
        assert_eq!((scan.pass, scan.rest), (text.len() - 2, Rest::Undecided));
        scanner.decide(true);
        assert_eq!(scanner.scan(b"\x81\0\n").pass, 3);
    }

    #[test]
    fn http2_passes_untouched_but_only_as_a_connection_begins() {
        let mut scanner = Scanner::default();
        assert_eq!(scanner.scan(b"PRI * HTTP/2.0\r\n").rest, Rest::Head);
        let text = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\n";
        assert_eq!(scanner.scan(text).pass, text.len());
        let late = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let (_, _, last) = feed([&late[..]].into_iter());
        assert!(matches!(last, Rest::Refused(_)));
    }
}
