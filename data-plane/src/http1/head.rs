//! Reads the heads of requests and responses.

use bytes::BytesMut;
use http::uri::Authority;
use http::{Method, StatusCode, Uri, Version, header};

use super::characters::fits_in_text;
use super::fields::{self, Fields};
use super::headers::{Headers, View};
use super::kind::Kind;
use super::long_texts::LongTexts;
use super::{Framing, FramingError, declared_framing};

/// Largest head, in bytes.
pub(crate) const MAX_HEAD: usize = 64 * 1024;

/// Bytes of a status line before its reason.
const BEFORE_REASON: usize = "HTTP/1.1 200 ".len();

/// Longest request target, in bytes.
pub(crate) const MAX_TARGET: usize = 16 * 1024;

/// Most fields in a head: as many as Kong can be made to look at (`lua_max_req_headers`).
pub(crate) const MAX_FIELDS: usize = 1000;

/// Whether an answer with `status` has no content, whoever asked for what (RFC 9110 §6.4.1).
pub(crate) fn is_bodiless(status: StatusCode) -> bool {
    status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

/// A response's head and what follows from it.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    /// The version of HTTP that it came by.
    pub(crate) version: Version,
    pub(crate) status: StatusCode,
    /// What the server calls a status that has no registered name.
    pub(crate) reason: Option<Box<[u8]>>,
    pub(crate) headers: Headers,
    /// How long the body is.
    pub(crate) framing: Framing,
    /// Whether the server allows another request on this connection.
    pub(crate) keep_alive: bool,
}

/// Finds the ends of heads, without looking at any byte twice while one trickles in.
#[derive(Debug, Default)]
pub(crate) struct HeadFinder {
    scanned: usize,
    texts: LongTexts,
}

impl HeadFinder {
    /// Gives back the memory that is only of use to a connection with much to read.
    pub(crate) fn rest(&mut self) {
        self.texts.forget();
    }

    /// That memory.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.texts.room()
    }

    /// The length of the head that `input` begins with, once all of it is there.
    pub(crate) fn find(&mut self, input: &[u8]) -> Result<Option<usize>, FramingError> {
        let fresh = input.get(self.scanned..).unwrap_or_default();
        for offset in memchr::memchr_iter(b'\n', fresh) {
            let line_end = self.scanned + offset;
            let before = input.get(..line_end).unwrap_or_default();
            if !before.ends_with(b"\r") {
                return Err(FramingError::Head("a line ends in a bare line feed"));
            }
            if before.ends_with(b"\r\n\r") {
                self.scanned = 0;
                let length = line_end + 1;
                return if length > MAX_HEAD {
                    Err(FramingError::HeadTooLarge)
                } else {
                    Ok(Some(length))
                };
            }
        }
        self.scanned = input.len();
        if input.len() >= MAX_HEAD {
            Err(FramingError::HeadTooLarge)
        } else {
            Ok(None)
        }
    }
}

/// Reads with `read` the head that `input` begins with, once all of it is there.
///
/// Nearly every head comes at once and is whole, so it is read without a look for its end. If that fails, `finder`
/// tells a head that has not come yet from one that is malformed.
pub(super) fn read_whole<T, E: From<FramingError>>(
    finder: &mut HeadFinder,
    input: &mut [u8],
    mut read: impl FnMut(&mut [u8], &mut LongTexts) -> Result<(T, usize), E>,
) -> Result<Option<(T, usize)>, E> {
    let failed = if finder.scanned == 0 {
        match read(input, &mut finder.texts) {
            Ok((_, length)) if length > MAX_HEAD => return Err(FramingError::HeadTooLarge.into()),
            Ok(found) => return Ok(Some(found)),
            Err(error) => Some(error),
        }
    } else {
        None
    };
    match (finder.find(input)?, failed) {
        (None, _) => Ok(None),
        (Some(_), Some(error)) => Err(error),
        (Some(_), None) => read(input, &mut finder.texts).map(Some),
    }
}

/// Takes a response's head off `input`, once all of it is there. `method` is the request's: it decides whether a
/// body follows.
pub(crate) fn take_response(
    finder: &mut HeadFinder,
    input: &mut BytesMut,
    method: &Method,
) -> Result<Option<ResponseHead>, FramingError> {
    let read = |head: &mut [u8], texts: &mut LongTexts| {
        let (status, http10, start) = status_line(head)?;
        let (found, length) = fields::find(head, start, texts)?;
        Ok::<_, FramingError>(((status, reason(head, start, status), http10, found), length))
    };
    let Some(((status, reason, http10, found), length)) = read_whole(finder, input, read)? else {
        return Ok(None);
    };
    let fields = Fields::new(input.split_to(length).freeze(), found);
    let declared = declared_framing(&fields, http10)?;
    let framing = if *method == Method::HEAD || is_bodiless(status) {
        Framing::None
    } else {
        declared.unwrap_or(Framing::UntilClose)
    };
    let connection = fields.connection();
    let keep_alive = framing != Framing::UntilClose
        && if http10 {
            connection.keep_alive
        } else {
            !connection.close
        };
    Ok(Some(ResponseHead {
        version: if http10 {
            Version::HTTP_10
        } else {
            Version::HTTP_11
        },
        status,
        reason,
        headers: Headers::Raw(fields),
        framing,
        keep_alive,
    }))
}

/// The status, whether the answer is of HTTP/1.0, and where the fields begin (RFC 9112 §4).
fn status_line(head: &[u8]) -> Result<(StatusCode, bool, usize), FramingError> {
    let Some(rest) = head.strip_prefix(b"HTTP/1.") else {
        return Err(FramingError::Version);
    };
    let (http10, rest) = match rest {
        // A later minor version is as good as the last one that is known (RFC 9110 §6.2).
        [b'1'..=b'9', b' ', rest @ ..] => (false, rest),
        [b'0', b' ', rest @ ..] => (true, rest),
        _ => return Err(FramingError::Version),
    };
    let (code, rest) = rest
        .split_at_checked(3)
        .ok_or(FramingError::Head("bad status"))?;
    let status = StatusCode::from_bytes(code).map_err(|_| FramingError::Head("bad status"))?;
    let end = memchr::memchr(b'\n', rest).ok_or(FramingError::Head("bad line end"))?;
    let reason = rest.get(..end).and_then(|line| line.strip_suffix(b"\r"));
    match reason {
        None => Err(FramingError::Head("bad line end")),
        Some([]) => Ok(()),
        Some([b' ', reason @ ..]) if reason.iter().all(|byte| fits_in_text(*byte)) => Ok(()),
        Some(_) => Err(FramingError::Head("bad status")),
    }?;
    Ok((status, http10, head.len() - rest.len() + end + 1))
}

/// What the status line, which ends at `end`, calls a `status` that has no registered name.
fn reason(head: &[u8], end: usize, status: StatusCode) -> Option<Box<[u8]>> {
    if status.canonical_reason().is_some() {
        return None;
    }
    let reason = head.get(BEFORE_REASON..end.checked_sub(2)?)?;
    (!reason.is_empty()).then(|| reason.into())
}

/// Exactly one well-formed `Host`, the same as in the target if that names one (RFC 9112 §3.2), which it returns; none
/// only where it is `optional`. What the target names is well-formed, too.
pub(crate) fn check_host<'a>(
    uri: &Uri,
    headers: View<'a>,
    optional: bool,
) -> Result<Option<&'a [u8]>, FramingError> {
    if let Some(authority) = uri.authority()
        && !valid_authority(authority.as_str().as_bytes())
    {
        return Err(FramingError::Head("bad authority"));
    }
    let mut hosts = headers.values(Kind::HOST, &header::HOST);
    let Some(host) = hosts.next() else {
        return if optional {
            Ok(None)
        } else {
            Err(FramingError::Head("no Host"))
        };
    };
    if hosts.next().is_some() {
        return Err(FramingError::Head("several Host fields"));
    }
    if !valid_authority(host) {
        return Err(FramingError::Head("bad Host"));
    }
    match uri.authority().map(Authority::as_str) {
        Some(authority) if !authority.as_bytes().eq_ignore_ascii_case(host) => {
            Err(FramingError::Head("Host differs from the request target"))
        }
        _ => Ok(Some(host)),
    }
}

/// `host` or `host:port`, where the host is a name, an IPv4 address or a bracketed IPv6 address.
/// An empty one is what a client sends whose URL has no host.
fn valid_authority(text: &[u8]) -> bool {
    let (host, port) = match text {
        [b'[', rest @ ..] => {
            let Some(end) = memchr::memchr(b']', rest) else {
                return false;
            };
            let (inside, after) = rest.split_at(end);
            if !inside
                .iter()
                .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
            {
                return false;
            }
            match after {
                [b']'] => (inside, None),
                [b']', b':', port @ ..] => (inside, Some(port)),
                _ => return false,
            }
        }
        _ => match memchr::memchr(b':', text) {
            Some(colon) => (text.get(..colon).unwrap_or_default(), text.get(colon + 1..)),
            None => (text, None),
        },
    };
    let host_valid = host.iter().all(|byte| {
        byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b':'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
                    | b'%'
            )
    });
    host_valid && port.is_none_or(|port| port.len() <= 5 && port.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    /// Read at once, and read as it trickles in, which is to be the same.
    fn response(text: &str, method: &Method) -> Result<ResponseHead, FramingError> {
        let whole = take_response(
            &mut HeadFinder::default(),
            &mut BytesMut::from(text),
            method,
        );
        let (mut finder, mut input) = (HeadFinder::default(), BytesMut::new());
        let mut trickled = Ok(None);
        for byte in text.bytes() {
            input.extend_from_slice(&[byte]);
            trickled = take_response(&mut finder, &mut input, method);
            if !matches!(trickled, Ok(None)) {
                break;
            }
        }
        let shown = |read: &Result<Option<ResponseHead>, _>| format!("{read:?}");
        if whole.is_ok() {
            assert_eq!(shown(&whole), shown(&trickled), "{text:?}");
        }
        assert_eq!(whole.is_ok(), trickled.is_ok(), "{text:?}");
        whole.map(|head| head.expect("the head is whole"))
    }

    #[test]
    fn a_head_is_found_however_it_trickles_in() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let mut finder = HeadFinder::default();
        for end in 0..27 {
            assert_eq!(finder.find(&text[..end]), Ok(None), "{end}");
        }
        assert_eq!(finder.find(text), Ok(Some(27)));
    }

    #[test]
    fn a_head_may_have_64_kib_and_not_one_byte_more() {
        for (length, fits) in [
            (MAX_HEAD - 1, true),
            (MAX_HEAD, true),
            (MAX_HEAD + 1, false),
        ] {
            let mut text = b"GET / HTTP/1.1\r\nHost: a\r\nx: ".to_vec();
            text.resize(length - 4, b'y');
            text.extend_from_slice(b"\r\n\r\n");
            assert_eq!(HeadFinder::default().find(&text).is_ok(), fits, "{length}");
        }
    }

    #[test]
    fn whatever_could_be_read_in_two_ways_is_refused() {
        for text in [
            "HTTP/1.1 200 OK\nx: y\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx : y\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: \0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx\r\n\r\n",
            "HTTP/1.1 200 O\0K\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "HTTP/1.10 200 OK\r\n\r\n",
            "HTTP/1. 200 OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
        ] {
            let refused = response(text, &Method::GET).is_err();
            assert!(refused, "{text:?}");
        }
    }

    #[test]
    fn an_answer_of_a_later_minor_version_is_read_as_one_of_1_1() {
        for (version, keep_alive) in [("1.0", false), ("1.1", true), ("1.2", true), ("1.9", true)] {
            let text = format!("HTTP/{version} 200 OK\r\nContent-Length: 2\r\n\r\n");
            let head = response(&text, &Method::GET).unwrap();
            assert_eq!(head.framing, Framing::Length(2), "{version}");
            assert_eq!(head.keep_alive, keep_alive, "{version}");
        }
    }

    #[test]
    fn a_host_is_one_name_and_perhaps_a_port() {
        let check = |hosts: &[&'static str], target: &str, valid: bool| {
            let headers: HeaderMap = hosts
                .iter()
                .map(|host| (header::HOST, HeaderValue::from_static(host)))
                .collect();
            let uri: Uri = target.parse().unwrap();
            assert_eq!(
                check_host(&uri, View::Map(&headers), false).is_ok(),
                valid,
                "{hosts:?} {target}"
            );
        };
        check(&["a.test:80"], "/", true);
        check(&["[::1]:80"], "/", true);
        check(&["A:80"], "http://a:80/", true);
        for host in ["a/b", "u@a", "a b", "a:1x", "[::1", "a#b", "a?b"] {
            check(&[host], "/", false);
        }
        check(&["a"], "http://b/", false);
        for (target, valid) in [
            ("http://a:80/", true),
            ("http://a:8a/", false),
            ("http://a:+80/", false),
        ] {
            let uri: Uri = target.parse().unwrap();
            let none = HeaderMap::new();
            let checked = check_host(&uri, View::Map(&none), true).is_ok();
            assert_eq!(checked, valid, "{target}");
        }
        check(&[], "/", false);
        let mut two = HeaderMap::new();
        two.append(header::HOST, HeaderValue::from_static("a"));
        two.append(header::HOST, HeaderValue::from_static("a"));
        assert!(check_host(&Uri::from_static("/"), View::Map(&two), false).is_err());
    }

    #[test]
    fn a_response_without_a_length_ends_with_the_connection() {
        let check = |text: &str, method: Method, expected: Framing| {
            assert_eq!(
                response(text, &method).unwrap().framing,
                expected,
                "{text:?}"
            );
        };
        check("HTTP/1.1 200 OK\r\n\r\n", Method::GET, Framing::UntilClose);
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            Method::GET,
            Framing::Length(5),
        );
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            Method::HEAD,
            Framing::None,
        );
        check(
            "HTTP/1.1 204 No Content\r\n\r\n",
            Method::GET,
            Framing::None,
        );
        check(
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            Method::GET,
            Framing::None,
        );
        check(
            "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n",
            Method::GET,
            Framing::Chunked,
        );
    }
}
