//! HTTP/1.1 on the wire (RFC 9112), for both sides of the proxy: requests in, responses out towards
//! clients; requests out, responses in towards upstream servers.
//!
//! A message is read whole and written anew. Its fields are judged where they lie ([`fields`]); they become values
//! only where somebody looks at more of them than their [`kind`], and else are copied line by line, if each line is
//! just as we would write it. Whatever two servers could read differently is refused here, so that no byte of one
//! request is ever taken for another.

pub(crate) mod body;
mod characters;
pub(crate) mod fields;
pub(crate) mod head;
pub(crate) mod headers;
pub(crate) mod kind;
mod long_texts;
pub(crate) mod request;
pub(crate) mod writer;

use http::{HeaderMap, HeaderName, HeaderValue};

use self::fields::Fields;
use self::kind::Kind;

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum FramingError {
    /// A line does not end in CRLF, or the start line or a field is malformed.
    #[error("malformed head: {0}")]
    Head(&'static str),
    /// The head is larger than allowed, or has too many fields.
    #[error("the head is larger than allowed")]
    HeadTooLarge,
    /// Where the body ends cannot be told for sure.
    #[error("ambiguous body length: {0}")]
    Length(&'static str),
    /// A transfer coding that we do not speak.
    #[error("unknown transfer coding")]
    TransferCoding,
    /// The trailers are larger than allowed, or too many.
    #[error("the trailers are larger than allowed")]
    TrailersTooLarge,
    /// A chunk is malformed.
    #[error("malformed chunk: {0}")]
    Chunk(&'static str),
    /// The request's version of HTTP is not 1.0 or 1.1.
    #[error("unknown HTTP version")]
    Version,
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks with their sizes, and then trailers.
    Chunked,
    /// All until the connection ends. Responses only.
    UntilClose,
}

/// What `Content-Length` and `Transfer-Encoding` say together (RFC 9112 §6.3), read strictly.
fn declared_framing(fields: &Fields, http10: bool) -> Result<Option<Framing>, FramingError> {
    // As nearly every server says it.
    if !fields.has(Kind::TRANSFER_ENCODING)
        && let Some(length) = fields.sole(Kind::CONTENT_LENGTH)
    {
        return Ok(Some(Framing::Length(content_length(length)?)));
    }
    let mut codings = fields.of(Kind::TRANSFER_ENCODING);
    let mut lengths = fields.of(Kind::CONTENT_LENGTH);
    let length = lengths.next();
    if let Some(coding) = codings.next() {
        if length.is_some() {
            return Err(FramingError::Length(
                "both Content-Length and Transfer-Encoding",
            ));
        }
        if http10 {
            return Err(FramingError::Length("Transfer-Encoding in HTTP/1.0"));
        }
        if codings.next().is_some() || !coding.eq_ignore_ascii_case(b"chunked") {
            return Err(FramingError::TransferCoding);
        }
        return Ok(Some(Framing::Chunked));
    }
    let Some(length) = length else {
        return Ok(None);
    };
    let value = content_length(length)?;
    for repeated in lengths {
        if content_length(repeated)? != value {
            return Err(FramingError::Length("different Content-Length values"));
        }
    }
    Ok(Some(Framing::Length(value)))
}

/// A `Content-Length`: digits and nothing else.
pub(crate) fn content_length(digits: &[u8]) -> Result<u64, FramingError> {
    const WRONG: FramingError = FramingError::Length("Content-Length is not a number");
    if !has_only_digits(digits) {
        return Err(WRONG);
    }
    Ok(digits
        .iter()
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Whether `text` is a number as a length is written: up to 19 digits.
fn has_only_digits(text: &[u8]) -> bool {
    !text.is_empty() && text.len() <= 19 && text.iter().all(u8::is_ascii_digit)
}

/// Whether a list-valued field such as `Connection` has `token` among its members.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .any(|value| tokens(value).any(|found| found.eq_ignore_ascii_case(token)))
}

/// The members of a list-valued field that are text.
pub(crate) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    members(value.as_bytes()).filter_map(|member| str::from_utf8(member).ok())
}

/// The members of a list-valued field.
pub(crate) fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(lines: &str, http10: bool) -> Result<Option<Framing>, FramingError> {
        declared_framing(&Fields::read(lines)?, http10)
    }

    fn check(lines: &str, expected: Result<Option<Framing>, ()>) {
        let found = declared(lines, false).map_err(|_| ());
        assert_eq!(found, expected, "{lines:?}");
    }

    #[test]
    fn a_body_length_is_certain_or_refused() {
        check("", Ok(None));
        check("Content-Length: 0\r\n", Ok(Some(Framing::Length(0))));
        check(
            "content-length: 12\r\nContent-Length: 12\r\n",
            Ok(Some(Framing::Length(12))),
        );
        check("transfer-encoding:Chunked \r\n", Ok(Some(Framing::Chunked)));
        for value in [
            "",
            "+1",
            "-1",
            "1 1",
            "1,1",
            "0x1",
            "1a",
            "99999999999999999999",
        ] {
            check(&format!("content-length: {value}\r\n"), Err(()));
        }
        check("content-length: 1\r\ncontent-length: 2\r\n", Err(()));
        check(
            "content-length: 1\r\ntransfer-encoding: chunked\r\n",
            Err(()),
        );
        for value in [
            "",
            "xchunked",
            "chunked, identity",
            "gzip, chunked",
            "chunked,",
            "chunked\u{b}",
        ] {
            check(&format!("transfer-encoding: {value}\r\n"), Err(()));
        }
        let twice = "transfer-encoding: chunked\r\n".repeat(2);
        check(&twice, Err(()));
    }

    #[test]
    fn http_1_0_has_no_transfer_coding() {
        assert!(declared("transfer-encoding: chunked\r\n", true).is_err());
    }
}
