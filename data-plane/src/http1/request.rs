//! Reads and validates the head of a client's request: nothing that could be read in two ways gets past here.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use super::fields::{self, Fields};
use super::head::{HeadFinder, MAX_FIELDS, MAX_HEAD, MAX_TARGET, read_whole};
use super::headers::{Headers, written_length};
use super::kind::Kind;
use super::long_texts::LongTexts;
use super::{Framing, FramingError, content_length};

/// A request's head.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) headers: Headers,
}

impl RequestHead {
    /// How many bytes it came in; of one of HTTP/2, which came packed, in how many it would have come by HTTP/1.1.
    pub(crate) fn length(&self) -> usize {
        let map = match &self.headers {
            Headers::Raw(fields) => return fields.head().len(),
            Headers::Map(map) => map,
        };
        let target = self.uri.path_and_query();
        let target = target.map_or(1, |target| target.as_str().len());
        self.method.as_str().len() + target + "  HTTP/1.1\r\n\r\n".len() + written_length(map)
    }
}

/// A head of HTTP/1.1 that has been read and judged.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    /// Whether the request is of HTTP/1.0.
    pub(crate) http10: bool,
    pub(crate) fields: Fields,
    /// How long the body is.
    pub(crate) framing: Framing,
}

/// Why a request is refused before anything looks at it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// It is malformed, or could be read in two ways.
    Malformed(&'static str),
    /// It is of another HTTP than the first.
    Version,
    /// Its head is larger than allowed, or has too many fields.
    HeadTooLarge,
    /// Its target is longer than allowed.
    TargetTooLong,
    /// Its head did not come in time.
    Timeout,
    /// It speaks no TLS where it should.
    Bare,
    /// Its address has as many under way as it may have.
    Crowded,
}

impl From<FramingError> for Refusal {
    fn from(error: FramingError) -> Self {
        match error {
            FramingError::HeadTooLarge => Self::HeadTooLarge,
            FramingError::Head(reason)
            | FramingError::Length(reason)
            | FramingError::Chunk(reason) => Self::Malformed(reason),
            FramingError::TrailersTooLarge => Self::Malformed("too large trailers"),
            FramingError::TransferCoding => Self::Malformed("an unknown transfer coding"),
            FramingError::Version => Self::Version,
        }
    }
}

/// Takes a head off `input`, once all of it is there, and reads and judges it. A head is everything up to and with
/// its empty line, each line ending in CRLF (RFC 9112 §2.2, §3, §5, §6.1, §6.3).
pub(crate) fn take_request(
    finder: &mut HeadFinder,
    input: &mut BytesMut,
) -> Result<Option<Judged>, Refusal> {
    let read = |head: &mut [u8], texts: &mut LongTexts| {
        let (method, target, http10, start) = request_line(head)?;
        let (found, length) = fields::find(head, start, texts)?;
        Ok::<_, Refusal>(((method, target, http10, found), length))
    };
    let Some(((method, target, http10, found), length)) = read_whole(finder, input, read)? else {
        return Ok(None);
    };
    let head = input.split_to(length).freeze();
    let target = head.slice(target);
    let uri = Uri::from_maybe_shared(target.clone())
        .or_else(|_| Uri::from_maybe_shared(encoded(&target)))
        .map_err(|_| Refusal::Malformed("not a target"));
    let fields = Fields::new(head, found);
    match uri.and_then(|uri| Ok((uri, framing(&fields, http10)?))) {
        Ok((uri, framing)) => Ok(Some(Judged {
            method,
            uri,
            http10,
            fields,
            framing,
        })),
        Err(refusal) => {
            // Whoever is told of the refusal is told what of.
            let behind = std::mem::replace(input, BytesMut::from(fields.head()));
            input.extend_from_slice(&behind);
            Err(refusal)
        }
    }
}

/// A request that is refused, as far as it can be read: for those who are told of that.
#[derive(Debug, Default)]
pub(crate) struct Glimpse {
    /// Method and target. A target that is too long, or no target, is `/`.
    pub(crate) asked: Option<(Method, Uri)>,
    /// The fields before the first one that is malformed.
    pub(crate) headers: HeaderMap,
}

impl Glimpse {
    /// Reads what `input` begins with.
    pub(crate) fn of(input: &[u8]) -> Self {
        let input = input.strip_prefix(b"\r\n").unwrap_or(input);
        let input = input.get(..MAX_HEAD).unwrap_or(input);
        let mut lines = input.split_inclusive(|byte| *byte == b'\n');
        let Some((method, uri)) = lines.next().and_then(first_line) else {
            return Self::default();
        };
        let mut headers = HeaderMap::new();
        // Behind a target that is too long nothing is read.
        let lines = lines.take_while(|_| uri.is_some());
        let whole = lines.map_while(|line| line.strip_suffix(b"\r\n"));
        for (name, value) in whole.map_while(field).take(MAX_FIELDS) {
            headers.append(name, value);
        }
        Self {
            asked: Some((method, uri.unwrap_or_default())),
            headers,
        }
    }
}

/// Method and target of a request's first line, which may be cut off.
fn first_line(line: &[u8]) -> Option<(Method, Option<Uri>)> {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let method = Method::from_bytes(words.next()?).ok()?;
    let target = words.next()?;
    // What is not followed by anything may go on.
    let whole = words.next().is_some() && target.len() <= MAX_TARGET;
    Some((method, whole.then(|| Uri::try_from(target).ok()).flatten()))
}

/// The field of a line.
fn field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = memchr::memchr(b':', line)?;
    let (name, value) = line.split_at(colon);
    let name = HeaderName::from_bytes(name).ok()?;
    let value = HeaderValue::from_bytes(value.get(1..)?.trim_ascii()).ok()?;
    Some((name, value))
}

/// Method, where the target lies, whether the request is of HTTP/1.0, and where the fields begin.
fn request_line(head: &[u8]) -> Result<(Method, Range<usize>, bool, usize), Refusal> {
    // A server should take an empty line before a request (RFC 9112 §2.2).
    let line = head.strip_prefix(b"\r\n").unwrap_or(head);
    let start = head.len() - line.len();
    let Some(end) = memchr::memchr(b'\n', line) else {
        return Err(Refusal::Malformed("no request line"));
    };
    let Some(line) = line.get(..end).and_then(|line| line.strip_suffix(b"\r")) else {
        return Err(Refusal::Malformed("a line ends in a bare line feed"));
    };
    let RequestLine {
        method,
        target,
        http10,
    } = judge_request_line(line)?;
    let place = start + method.len() + 1;
    let place = place..place + target.len();
    let method = Method::from_bytes(method).map_err(|_| Refusal::Malformed("not a method"))?;
    Ok((method, place, http10, start + end + 1))
}

/// A target whose characters that no URI has (RFC 3986 §2), and many clients send, are percent-encoded.
fn encoded(target: &[u8]) -> Bytes {
    const NOT_IN_URIS: &AsciiSet = &CONTROLS.add(b'"').add(b'<').add(b'>').add(b'`');
    percent_encode(target, NOT_IN_URIS).to_string().into()
}

/// How the body is framed; said once, or not at all.
fn framing(fields: &Fields, http10: bool) -> Result<Framing, Refusal> {
    if !fields.has(Kind::CONTENT_LENGTH.and(Kind::TRANSFER_ENCODING)) {
        return Ok(Framing::None);
    }
    let mut lengths = fields.of(Kind::CONTENT_LENGTH);
    let mut codings = fields.of(Kind::TRANSFER_ENCODING);
    let framing = match (lengths.next(), codings.next()) {
        (None, None) => return Ok(Framing::None),
        (Some(digits), None) => Framing::Length(content_length(digits)?),
        (None, Some(coding)) if !coding.eq_ignore_ascii_case(b"chunked") => {
            return Err(Refusal::Malformed("Transfer-Encoding other than chunked"));
        }
        (None, Some(_)) if http10 => {
            return Err(Refusal::Malformed("Transfer-Encoding in HTTP/1.0"));
        }
        (None, Some(_)) => Framing::Chunked,
        (Some(_), Some(_)) => return Err(SAID_TWICE),
    };
    if lengths.next().or(codings.next()).is_some() {
        return Err(SAID_TWICE);
    }
    Ok(framing)
}

/// Lengths that differ, or are the same.
pub(crate) const SAID_TWICE: Refusal =
    Refusal::Malformed("the body's length is said more than once");

/// A target with a character that no URI has.
pub(crate) const NO_TARGET: Refusal =
    Refusal::Malformed("a character that no URI has in its target");

/// The parts of a request line.
struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    http10: bool,
}

/// What stands before the version, if that is not 1.1, and whether it is 1.0. A minor version that is not known yet is as good
/// as the last one that is; a major version is another protocol (RFC 9110 §2.5, §6.2).
fn other_version(line: &[u8]) -> Result<(&[u8], bool), Refusal> {
    let split = line.len().checked_sub(b" HTTP/1.1".len());
    match split.and_then(|place| line.split_at_checked(place)) {
        Some((line, b" HTTP/1.0")) => Ok((line, true)),
        Some((line, [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'])) => {
            Ok((line, false))
        }
        Some((
            _,
            [
                b' ',
                b'H',
                b'T',
                b'T',
                b'P',
                b'/',
                b'2'..=b'9',
                b'.',
                b'0'..=b'9',
            ],
        )) => Err(Refusal::Version),
        _ => Err(Refusal::Malformed("not a request of HTTP/1.0 or HTTP/1.1")),
    }
}

fn judge_request_line(line: &[u8]) -> Result<RequestLine<'_>, Refusal> {
    let (line, http10) = match line.strip_suffix(b" HTTP/1.1") {
        Some(line) => (line, false),
        None => other_version(line)?,
    };
    let Some(space) = memchr::memchr(b' ', line) else {
        return Err(Refusal::Malformed("no request target"));
    };
    let (method, target) = line.split_at(space);
    let target = target.get(1..).unwrap_or_default();
    if target.len() > MAX_TARGET {
        return Err(Refusal::TargetTooLong);
    }
    if !target
        .iter()
        .all(|byte| byte.is_ascii_graphic() && *byte != b'#')
    {
        return Err(NO_TARGET);
    }
    let absolute = |scheme: &[u8]| {
        target
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let known = match target {
        [b'/', ..] => true,
        b"*" => method == b"OPTIONS",
        _ => method == b"CONNECT" || absolute(b"http://") || absolute(b"https://"),
    };
    if !known {
        return Err(Refusal::Malformed("neither a path nor an absolute target"));
    }
    Ok(RequestLine {
        method,
        target,
        http10,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(head: &[u8]) -> Result<Framing, Refusal> {
        take(head).map(|judged| judged.framing)
    }

    fn take(head: &[u8]) -> Result<Judged, Refusal> {
        let taken = take_request(&mut HeadFinder::default(), &mut BytesMut::from(head));
        taken.map(|judged| judged.expect("the head is whole"))
    }

    fn head(lines: &str) -> Vec<u8> {
        format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
    }

    #[test]
    fn a_body_has_one_certain_length() {
        let check = |lines: &str, expected: Framing| {
            assert_eq!(judge(&head(lines)).unwrap(), expected, "{lines:?}");
        };
        check("", Framing::None);
        check("Content-Length: 0\r\n", Framing::Length(0));
        check("content-length:\t12 \r\n", Framing::Length(12));
        check("Transfer-Encoding: Chunked\r\n", Framing::Chunked);
    }

    #[test]
    fn whatever_could_be_read_in_two_ways_is_refused() {
        for lines in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length: 1 1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length : 1\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: \x0bchunked\r\n",
            "Transfer-Encoding:\r\n",
            "Transfer-Encoding\r\n : chunked\r\n",
            "X: a\r\n b\r\n",
            "X: a\r\n\tb\r\n",
            "X: a\nTransfer-Encoding: chunked\r\n",
            "X: a\rb\r\n",
            "X: a\0b\r\n",
            ": x\r\n",
            "no colon\r\n",
        ] {
            let verdict = judge(&head(lines));
            assert!(
                matches!(verdict, Err(Refusal::Malformed(_))),
                "{lines:?} {verdict:?}"
            );
        }
        assert!(judge(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn a_target_is_a_path_or_absolute() {
        let check = |line: &str, fits: bool| {
            let head = format!("{line}\r\nHost: a\r\n\r\n");
            assert_eq!(judge(head.as_bytes()).is_ok(), fits, "{line:?}");
        };
        for line in [
            "GET / HTTP/1.1",
            "GET /a?b=c HTTP/1.0",
            "GET HTTP://a/b HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "GET / HTTP/1.2",
            "GET / HTTP/1.9",
            "\r\nGET / HTTP/1.1",
        ] {
            check(line, true);
        }
        for line in [
            "GET * HTTP/1.1",
            "GET a HTTP/1.1",
            "GET /#b HTTP/1.1",
            "GET /\u{e9} HTTP/1.1",
            "GET /\u{7f} HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET  / HTTP/1.1",
            "GET / HTTP/2.0",
            "GET / HTTP/1.10",
            "GET / HTTP/1.x",
            "GET / HTTP/0.9",
            "GET / http/1.1",
            "GET / http/1.2",
            "GET /HTTP/1.2",
            "HTTP/1.2",
            "GET /",
            "GET",
            "",
            " GET / HTTP/1.1",
        ] {
            check(line, false);
        }
    }

    #[test]
    fn a_later_minor_version_is_read_as_the_last_that_is_known() {
        let check = |version: &str, expected| {
            let lines = "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            let head = format!("POST / HTTP/{version}\r\n{lines}");
            assert_eq!(judge(head.as_bytes()), expected, "{version}");
        };
        check("1.1", Ok(Framing::Chunked));
        check("1.2", Ok(Framing::Chunked));
        check("1.9", Ok(Framing::Chunked));
        check("2.0", Err(Refusal::Version));
        check("3.1", Err(Refusal::Version));
        let http10 = take(b"GET / HTTP/1.0\r\n\r\n").unwrap().http10;
        assert!(http10 && !take(b"GET / HTTP/1.2\r\n\r\n").unwrap().http10);
    }

    #[test]
    fn what_no_uri_has_is_encoded() {
        for (target, expected) in [
            ("/a`b<c>?d=\"e\"", "/a%60b%3Cc%3E?d=%22e%22"),
            ("/a%20`", "/a%20%60"),
            ("/{\"a\"}|^?[]", "/{\"a\"}|^?[]"),
        ] {
            let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let judged = take(text.as_bytes()).unwrap();
            assert_eq!(judged.uri, expected);
        }
    }

    #[test]
    fn a_request_that_is_refused_tells_what_can_be_read() {
        let long = format!("PUT /{} HTTP/1.1\r\nX: y\r\n\r\n", "x".repeat(MAX_TARGET));
        for (input, expected) in [
            ("POST /a?b=c HTTP/1.1\r\nX: y", "POST /a?b=c"),
            ("\r\nPOST /a HTTP/1.1\r\n", "POST /a"),
            (
                "PUT /a HTTP/3.7\r\nX-A: 1\r\nHost:b\r\n\r\n",
                "PUT /a x-a=1 host=b",
            ),
            (
                "GET /a HTTP/1.1\r\nX: y\r\nZ z\r\nA: b\r\n\r\n",
                "GET /a x=y",
            ),
            ("GET /a HTTP/1.1\nX: y\n\n", "GET /a"),
            ("POST /a", "POST /"),
            (&long, "PUT /"),
            ("P\0ST /a\0 HTTP/1.1", ""),
            ("\u{16}\u{3}\u{1}\0", ""),
            ("", ""),
        ] {
            let glimpse = Glimpse::of(input.as_bytes());
            let asked = glimpse.asked.iter();
            let asked = asked.map(|(method, uri)| format!("{method} {uri}"));
            let fields = glimpse.headers.iter();
            let fields = fields.map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
            let told: Vec<String> = asked.chain(fields).collect();
            assert_eq!(told.join(" "), expected, "{input:.40}");
        }
        let mut input = BytesMut::from("PUT /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\nrest");
        assert!(take_request(&mut HeadFinder::default(), &mut input).is_err());
        let glimpse = Glimpse::of(&input);
        assert_eq!(glimpse.headers.len(), 1);
        assert!(
            glimpse
                .asked
                .is_some_and(|(method, uri)| method == "PUT" && uri == "/a")
        );
    }

    #[test]
    fn a_target_may_have_16_kib_and_a_head_1000_fields() {
        let target = |length: usize| {
            let head = format!(
                "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
                "x".repeat(length - 1)
            );
            judge(head.as_bytes()).map(|_| ())
        };
        assert_eq!(target(MAX_TARGET), Ok(()));
        assert_eq!(target(MAX_TARGET + 1), Err(Refusal::TargetTooLong));
        let fields = |count: usize| judge(&head(&"x: y\r\n".repeat(count - 1))).map(|_| ());
        assert_eq!(fields(MAX_FIELDS), Ok(()));
        assert_eq!(fields(MAX_FIELDS + 1), Err(Refusal::HeadTooLarge));
    }
}
