//! Reads the heads of requests and responses.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};

use super::{Framing, FramingError, declared_framing, has_token};

/// Largest head, in bytes.
pub(crate) const MAX_HEAD: usize = 64 * 1024;

/// Longest request target, in bytes.
pub(crate) const MAX_TARGET: usize = 16 * 1024;

/// Most fields in a head.
pub(crate) const MAX_FIELDS: usize = 128;

/// A response's head and what follows from it.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// How long the body is.
    pub(crate) framing: Framing,
    /// Whether the server allows another request on this connection.
    pub(crate) keep_alive: bool,
}

/// Finds the ends of heads, without looking at any byte twice while one trickles in.
#[derive(Debug, Default)]
pub(crate) struct HeadFinder {
    scanned: usize,
}

impl HeadFinder {
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

/// Reads a complete response head. `method` is the request's: it decides whether a body follows.
pub(crate) fn parse_response(
    head: &Bytes,
    method: &Method,
    mut headers: HeaderMap,
) -> Result<ResponseHead, FramingError> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut response, head, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(FramingError::Head("the head ends early")),
        Err(error) => return Err(parse_error(error)),
    }
    let http10 = match response.version {
        Some(1) => false,
        Some(0) => true,
        _ => return Err(FramingError::Version),
    };
    let status = StatusCode::from_u16(response.code.unwrap_or_default())
        .map_err(|_| FramingError::Head("bad status"))?;
    fill(&mut headers, head, response.headers)?;
    let declared = declared_framing(&headers, http10)?;
    let bodiless = *method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let framing = if bodiless {
        Framing::None
    } else {
        declared.unwrap_or(Framing::UntilClose)
    };
    let keep_alive = framing != Framing::UntilClose
        && if http10 {
            has_token(&headers, &header::CONNECTION, "keep-alive")
        } else {
            !has_token(&headers, &header::CONNECTION, "close")
        };
    Ok(ResponseHead {
        status,
        headers,
        framing,
        keep_alive,
    })
}

/// Fields that the gateway adds to an answer: room for them is made at once.
const ADDED: usize = 6;

/// Fields as values that share the head's memory.
fn fill(
    headers: &mut HeaderMap,
    head: &Bytes,
    fields: &[httparse::Header<'_>],
) -> Result<(), FramingError> {
    headers.reserve(fields.len() + ADDED);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| FramingError::Head("bad field name"))?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value))
            .map_err(|_| FramingError::Head("bad field value"))?;
        headers.append(name, value);
    }
    Ok(())
}

fn parse_error(error: httparse::Error) -> FramingError {
    match error {
        httparse::Error::TooManyHeaders => FramingError::HeadTooLarge,
        httparse::Error::Version => FramingError::Version,
        httparse::Error::HeaderName => FramingError::Head("bad field name"),
        httparse::Error::HeaderValue => FramingError::Head("bad field value"),
        httparse::Error::NewLine => FramingError::Head("bad line end"),
        httparse::Error::Status => FramingError::Head("bad status"),
        httparse::Error::Token => FramingError::Head("bad start line"),
    }
}

/// Exactly one well-formed `Host`, the same as in the target if that names one (RFC 9112 §3.2).
pub(crate) fn check_host(
    uri: &Uri,
    headers: &HeaderMap,
    optional: bool,
) -> Result<(), FramingError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else {
        return if optional {
            Ok(())
        } else {
            Err(FramingError::Head("no Host"))
        };
    };
    if hosts.next().is_some() {
        return Err(FramingError::Head("several Host fields"));
    }
    if !valid_authority(host.as_bytes()) {
        return Err(FramingError::Head("bad Host"));
    }
    match uri.authority().map(Authority::as_str) {
        Some(authority) if !authority.as_bytes().eq_ignore_ascii_case(host.as_bytes()) => {
            Err(FramingError::Head("Host differs from the request target"))
        }
        _ => Ok(()),
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
    use super::*;

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
            "HTTP/2.0 200 OK\r\n\r\n",
        ] {
            let refused = HeadFinder::default().find(text.as_bytes()).is_err()
                || parse_response(
                    &Bytes::copy_from_slice(text.as_bytes()),
                    &Method::GET,
                    HeaderMap::new(),
                )
                .is_err();
            assert!(refused, "{text:?}");
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
                check_host(&uri, &headers, false).is_ok(),
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
        check(&[], "/", false);
        let mut two = HeaderMap::new();
        two.append(header::HOST, HeaderValue::from_static("a"));
        two.append(header::HOST, HeaderValue::from_static("a"));
        assert!(check_host(&Uri::from_static("/"), &two, false).is_err());
    }

    #[test]
    fn a_response_without_a_length_ends_with_the_connection() {
        let check = |text: &str, method: Method, expected: Framing| {
            let head = parse_response(
                &Bytes::copy_from_slice(text.as_bytes()),
                &method,
                HeaderMap::new(),
            )
            .unwrap();
            assert_eq!(head.framing, expected, "{text:?}");
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
