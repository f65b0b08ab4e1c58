//! HTTP/1.1 on the wire (RFC 9112), for both sides of the proxy: requests in, responses out towards
//! clients; requests out, responses in towards upstream servers.
//!
//! A message is read into values and written anew from them, never copied. Whatever two servers
//! could read differently is refused here, so that no byte of one request is ever taken for another.

pub(crate) mod body;
pub(crate) mod head;
pub(crate) mod request;
pub(crate) mod writer;

use http::{HeaderMap, HeaderName, HeaderValue, header};

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
pub(crate) fn declared_framing(
    headers: &HeaderMap,
    http10: bool,
) -> Result<Option<Framing>, FramingError> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if let Some(coding) = coding {
        if length.is_some() {
            return Err(FramingError::Length(
                "both Content-Length and Transfer-Encoding",
            ));
        }
        if http10 {
            return Err(FramingError::Length("Transfer-Encoding in HTTP/1.0"));
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
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
pub(crate) fn content_length(value: &HeaderValue) -> Result<u64, FramingError> {
    const WRONG: FramingError = FramingError::Length("Content-Length is not a number");
    let digits = value.as_bytes();
    if !has_only_digits(digits) {
        return Err(WRONG);
    }
    Ok(digits
        .iter()
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Whether `text` is a number as a length is written: up to 19 digits.
pub(crate) fn has_only_digits(text: &[u8]) -> bool {
    !text.is_empty() && text.len() <= 19 && text.iter().all(u8::is_ascii_digit)
}

/// Whether a list-valued field such as `Connection` has `token` among its members.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .any(|value| tokens(value).any(|found| found.eq_ignore_ascii_case(token)))
}

/// The members of a list-valued field. One that is not text has none.
pub(crate) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value
        .to_str()
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: &[(&'static str, &'static str)], expected: Result<Option<Framing>, ()>) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        assert_eq!(
            declared_framing(&headers, false).map_err(|_| ()),
            expected,
            "{fields:?}"
        );
    }

    #[test]
    fn a_body_length_is_certain_or_refused() {
        check(&[], Ok(None));
        check(&[("content-length", "0")], Ok(Some(Framing::Length(0))));
        check(
            &[("content-length", "12"), ("content-length", "12")],
            Ok(Some(Framing::Length(12))),
        );
        check(
            &[("transfer-encoding", "Chunked")],
            Ok(Some(Framing::Chunked)),
        );
        for value in [
            "",
            "+1",
            "-1",
            " 1 1",
            "1,1",
            "0x1",
            "1a",
            "99999999999999999999",
        ] {
            check(&[("content-length", value)], Err(()));
        }
        check(&[("content-length", "1"), ("content-length", "2")], Err(()));
        check(
            &[("content-length", "1"), ("transfer-encoding", "chunked")],
            Err(()),
        );
        for value in [
            "",
            "xchunked",
            "chunked, identity",
            "gzip, chunked",
            "chunked,",
            "\tchunked\u{b}",
        ] {
            if let Ok(value) = HeaderValue::from_str(value) {
                let mut headers = HeaderMap::new();
                headers.insert("transfer-encoding", value);
                assert!(declared_framing(&headers, false).is_err());
            }
        }
        check(
            &[
                ("transfer-encoding", "chunked"),
                ("transfer-encoding", "chunked"),
            ],
            Err(()),
        );
    }

    #[test]
    fn http_1_0_has_no_transfer_coding() {
        let mut headers = HeaderMap::new();
        headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
        assert!(declared_framing(&headers, true).is_err());
    }
}
