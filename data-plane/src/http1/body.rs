//! Finds a body's bytes and its end in what a connection has delivered.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{Framing, FramingError};

/// Longest chunk size line, without its extension.
const MAX_SIZE_DIGITS: u32 = 16;
/// Longest extension of one chunk, in bytes.
const MAX_EXTENSION: usize = 1024;
/// All extensions of a body together, in bytes.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// All trailers of a body together, in bytes.
const MAX_TRAILERS: usize = 16 * 1024;
/// Most of them.
const MAX_TRAILER_FIELDS: usize = 64;

/// What [`Decoder::decode`] found.
#[derive(Debug, PartialEq)]
pub(crate) enum Piece {
    /// Bytes of the body, not empty.
    Data(Bytes),
    /// The body is over. Only a chunked one can have trailers.
    End(Option<HeaderMap>),
    /// Nothing can be said before more arrives.
    More,
}

/// Where in a body we are.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    extensions: usize,
    /// Whether blanks may stand behind the size of a chunk.
    padded: bool,
}

#[derive(Debug)]
enum State {
    Ended,
    Length(u64),
    UntilClose,
    Size {
        value: u64,
        digits: u32,
    },
    Extension {
        size: u64,
        length: usize,
        begun: bool,
    },
    SizeLineFeed {
        size: u64,
    },
    Data(u64),
    DataReturn,
    DataLineFeed,
    Trailers,
}

impl Decoder {
    /// A decoder at the start of an answer's body. Servers write sizes into fields of a fixed width: the blanks behind
    /// them are removed (RFC 9110, section 5.6.3).
    pub(crate) const fn of_answer(framing: Framing) -> Self {
        Self {
            padded: true,
            ..Self::new(framing)
        }
    }

    /// A decoder at the start of a request's body: what somebody in front of us may read in another way is refused.
    pub(crate) const fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size {
                value: 0,
                digits: 0,
            },
            Framing::UntilClose => State::UntilClose,
        };
        Self {
            state,
            extensions: 0,
            padded: false,
        }
    }

    /// Whether the body is over when the connection is.
    pub(crate) const fn ends_with_connection(&self) -> bool {
        matches!(self.state, State::UntilClose | State::Ended)
    }

    /// Whether `input` holds the rest of a body of known length.
    pub(crate) fn is_complete_in(&self, input: &[u8]) -> bool {
        match self.state {
            State::Ended => true,
            State::Length(rest) => u64::try_from(input.len()).is_ok_and(|held| held >= rest),
            _ => false,
        }
    }

    /// Takes the next piece of the body from the front of `input`.
    pub(crate) fn decode(&mut self, input: &mut BytesMut) -> Result<Piece, FramingError> {
        loop {
            match &mut self.state {
                State::Ended => return Ok(Piece::End(None)),
                State::Length(rest) => {
                    let Some(data) = take(input, rest) else {
                        return Ok(Piece::More);
                    };
                    if *rest == 0 {
                        self.state = State::Ended;
                    }
                    return Ok(Piece::Data(data));
                }
                State::UntilClose => {
                    return Ok(if input.is_empty() {
                        Piece::More
                    } else {
                        Piece::Data(input.split().freeze())
                    });
                }
                State::Data(rest) => {
                    let Some(data) = take(input, rest) else {
                        return Ok(Piece::More);
                    };
                    if *rest == 0 {
                        self.state = State::DataReturn;
                    }
                    return Ok(Piece::Data(data));
                }
                State::Trailers => {
                    let Some(length) = trailers_length(input)? else {
                        return Ok(Piece::More);
                    };
                    let trailers = parse_trailers(&input.split_to(length).freeze())?;
                    self.state = State::Ended;
                    return Ok(Piece::End(trailers));
                }
                State::Size { .. }
                | State::Extension { .. }
                | State::SizeLineFeed { .. }
                | State::DataReturn
                | State::DataLineFeed => {
                    let Some(byte) = input.first().copied() else {
                        return Ok(Piece::More);
                    };
                    input.advance(1);
                    self.advance(byte)?;
                }
            }
        }
    }

    /// One byte of what surrounds chunks.
    fn advance(&mut self, byte: u8) -> Result<(), FramingError> {
        self.state = match (&self.state, byte) {
            (State::Size { value, digits }, _) if byte.is_ascii_hexdigit() => {
                if *digits == MAX_SIZE_DIGITS {
                    return Err(FramingError::Chunk("the size is too large"));
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                State::Size {
                    value: (value << 4) | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (State::Size { digits: 0, .. }, _) => return Err(FramingError::Chunk("no size")),
            (State::Size { value, .. }, b'\r') => State::SizeLineFeed { size: *value },
            (State::Size { value, .. }, b';') => State::Extension {
                size: *value,
                length: 0,
                begun: true,
            },
            (State::Size { value, .. }, b' ' | b'\t') if self.padded => State::Extension {
                size: *value,
                length: 0,
                begun: false,
            },
            (State::Size { .. }, _) => return Err(FramingError::Chunk("bad size")),
            (State::Extension { size, .. }, b'\r') => State::SizeLineFeed { size: *size },
            (State::Extension { begun: false, .. }, byte) if !b" \t;".contains(&byte) => {
                return Err(FramingError::Chunk("bad size"));
            }
            (
                State::Extension {
                    size,
                    length,
                    begun,
                },
                b'\t' | 0x20..=0x7e | 0x80..,
            ) => {
                self.extensions += 1;
                if *length == MAX_EXTENSION || self.extensions > MAX_EXTENSIONS {
                    return Err(FramingError::Chunk("the extensions are too long"));
                }
                State::Extension {
                    size: *size,
                    length: length + 1,
                    begun: *begun || byte == b';',
                }
            }
            (State::SizeLineFeed { size: 0 }, b'\n') => State::Trailers,
            (State::SizeLineFeed { size }, b'\n') => State::Data(*size),
            (State::DataReturn, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => State::Size {
                value: 0,
                digits: 0,
            },
            _ => return Err(FramingError::Chunk("bad line end")),
        };
        Ok(())
    }
}

/// Up to `rest` bytes from the front of `input`.
fn take(input: &mut BytesMut, rest: &mut u64) -> Option<Bytes> {
    if input.is_empty() {
        return None;
    }
    let count = usize::try_from(*rest)
        .unwrap_or(usize::MAX)
        .min(input.len());
    *rest -= u64::try_from(count).unwrap_or(*rest);
    Some(
        if count == input.len() {
            input.split()
        } else {
            input.split_to(count)
        }
        .freeze(),
    )
}

/// The length of the trailers with the empty line that ends them, once all are there.
fn trailers_length(input: &[u8]) -> Result<Option<usize>, FramingError> {
    for end in memchr::memchr_iter(b'\n', input) {
        let line = input.get(..end).unwrap_or_default();
        if !line.ends_with(b"\r") {
            return Err(FramingError::Chunk("a trailer ends in a bare line feed"));
        }
        if line == b"\r" || line.ends_with(b"\r\n\r") {
            let length = end + 1;
            return if length > MAX_TRAILERS {
                Err(FramingError::TrailersTooLarge)
            } else {
                Ok(Some(length))
            };
        }
    }
    match input {
        [first, second, ..] if *first == b'\r' && *second != b'\n' => {
            Err(FramingError::Chunk("bad line end"))
        }
        _ if input.len() > MAX_TRAILERS => Err(FramingError::TrailersTooLarge),
        _ => Ok(None),
    }
}

fn parse_trailers(bytes: &Bytes) -> Result<Option<HeaderMap>, FramingError> {
    const BAD: FramingError = FramingError::Chunk("bad trailer");
    if **bytes == *b"\r\n" {
        return Ok(None);
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let fields = match httparse::parse_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete((_, fields))) => fields,
        Err(httparse::Error::TooManyHeaders) => return Err(FramingError::TrailersTooLarge),
        _ => return Err(BAD),
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BAD)?;
        let value =
            HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).map_err(|_| BAD)?;
        trailers.append(name, value);
    }
    Ok(Some(trailers))
}

/// Holds trailers that have come by HTTP/2 to what they may be as lines of a chunked body.
pub(crate) fn bounded(trailers: HeaderMap) -> Result<HeaderMap, FramingError> {
    let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    let length = trailers.iter().map(line).sum::<usize>() + 2;
    if length > MAX_TRAILERS || trailers.len() > MAX_TRAILER_FIELDS {
        return Err(FramingError::TrailersTooLarge);
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body, its trailers, and what followed it.
    type Decoded = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

    /// Decodes `wire`, delivered in pieces that end at `cuts`.
    fn decode(framing: Framing, wire: &[u8], cuts: &[usize]) -> Result<Decoded, FramingError> {
        decode_with(Decoder::new(framing), wire, cuts)
    }

    fn decode_with(
        mut decoder: Decoder,
        wire: &[u8],
        cuts: &[usize],
    ) -> Result<Decoded, FramingError> {
        let mut input = BytesMut::new();
        let mut body = Vec::new();
        let mut start = 0;
        for end in cuts.iter().copied().chain([wire.len()]) {
            let end = end.clamp(start, wire.len());
            input.extend_from_slice(&wire[start..end]);
            start = end;
            loop {
                match decoder.decode(&mut input)? {
                    Piece::Data(data) => body.extend_from_slice(&data),
                    Piece::More => break,
                    Piece::End(trailers) => {
                        input.extend_from_slice(&wire[start..]);
                        return Ok((body, trailers, input.to_vec()));
                    }
                }
            }
        }
        Err(FramingError::Chunk("no end"))
    }

    proptest! {
        #[test]
        fn chunks_decode_to_what_was_encoded_however_they_arrive(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            mut cuts in prop::collection::vec(0_usize..400, 0..20),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:X};a=b\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\nx-sum: 1\r\n\r\nGET /next");
            cuts.sort_unstable();
            let (body, trailers, rest) = decode(Framing::Chunked, &wire, &cuts).unwrap();
            prop_assert_eq!(body, chunks.concat());
            let trailers = trailers.unwrap();
            prop_assert_eq!(trailers.get("x-sum").unwrap(), "1");
            prop_assert_eq!(rest, b"GET /next");
        }

        #[test]
        fn no_input_makes_the_decoder_panic(wire in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(Framing::Chunked, &wire, &[]);
        }

        #[test]
        fn a_length_takes_exactly_its_bytes(
            body in prop::collection::vec(any::<u8>(), 1..100),
            cut in 0_usize..120,
        ) {
            let mut wire = body.clone();
            wire.extend_from_slice(b"next");
            let framing = Framing::Length(u64::try_from(body.len()).unwrap());
            let (decoded, trailers, rest) = decode(framing, &wire, &[cut]).unwrap();
            prop_assert_eq!((decoded, trailers, rest), (body, None, b"next".to_vec()));
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for wire in [
            "0x5\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhelloX\r\n0\r\n\r\n",
            "\r\n0\r\n\r\n",
            ";a\r\n0\r\n\r\n",
            "5;a\rb\r\nhello\r\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
            "0\r\n\nx",
            "0\r\nx: y\n\r\n",
            "0\r\nx : y\r\n\r\n",
            "0\r\n\rx\r\n\r\n",
            "5\r\nhello\r\n0\r\n",
        ] {
            assert!(
                decode(Framing::Chunked, wire.as_bytes(), &[]).is_err(),
                "{wire:?}"
            );
        }
    }

    #[test]
    fn blanks_behind_the_size_of_a_chunk_are_removed_from_answers_only() {
        for line in ["5 ", "5   ", "5\t", "5 \t ", "5 ;x", "5 ; x = y", "5;x "] {
            let wire = format!("{line}\r\nhello\r\n0{}\r\n\r\n", &line[1..]);
            for cut in 0..wire.len() {
                let decoder = Decoder::of_answer(Framing::Chunked);
                let (body, ..) = decode_with(decoder, wire.as_bytes(), &[cut]).unwrap();
                assert_eq!(body, b"hello", "{line:?}");
            }
            let requested = decode(Framing::Chunked, wire.as_bytes(), &[]);
            assert_eq!(requested.is_ok(), line.starts_with("5;"), "{line:?}");
        }
        let long = format!("5{}", " ".repeat(MAX_EXTENSION + 2));
        for line in [" 5", "5 5", "5 x", "5 x;", "5 \u{b}", "5 \n", " ", &long] {
            let wire = format!("{line}\r\nhello\r\n0\r\n\r\n");
            let decoder = Decoder::of_answer(Framing::Chunked);
            let body = decode_with(decoder, wire.as_bytes(), &[]);
            assert!(body.is_err(), "{line:?}");
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let check = |wire: String, fits: bool| {
            assert_eq!(
                decode(Framing::Chunked, wire.as_bytes(), &[]).is_ok(),
                fits,
                "{} bytes",
                wire.len()
            );
        };
        check(
            format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(MAX_EXTENSION)),
            true,
        );
        check(
            format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(MAX_EXTENSION + 1)),
            false,
        );
        check(
            format!(
                "{}0\r\n\r\n",
                format!("1;{}\r\nx\r\n", "a".repeat(1000)).repeat(17)
            ),
            false,
        );
        check(format!("0\r\nx: {}", "y".repeat(MAX_TRAILERS)), false);
        for (length, fits) in [(MAX_TRAILERS, true), (MAX_TRAILERS + 1, false)] {
            let value = "y".repeat(length - "x: \r\n\r\n".len());
            check(format!("0\r\nx: {value}\r\n\r\n"), fits);
        }
        for (fields, fits) in [(MAX_TRAILER_FIELDS, true), (MAX_TRAILER_FIELDS + 1, false)] {
            check(format!("0\r\n{}\r\n", "x: y\r\n".repeat(fields)), fits);
        }
    }
}
