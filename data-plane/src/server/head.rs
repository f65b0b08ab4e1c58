//! A request's head as a value.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::http1::request::Refusal;
use crate::http1::{Framing, head::MAX_FIELDS, tokens};

/// Values at least as long are compared with those of the request before: that is cheaper than to read
/// them again, and a browser sends the same cookie with every request.
const LONG: usize = 256;

/// A request that has come in, up to its body.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a wish of the client's"
)]
pub(super) struct Incoming {
    pub(super) parts: Parts,
    pub(super) framing: Framing,
    /// Whether the client wants to send another.
    pub(super) keep_alive: bool,
    /// Whether it waits for our word before it sends the body.
    pub(super) expects: bool,
    /// Why it is not to be served.
    pub(super) refusal: Option<Refusal>,
    /// Whether it takes trailers behind the answer (RFC 9110 §10.1.4).
    pub(super) trailers: bool,
    /// Whether the client would like to speak another protocol afterwards.
    pub(super) upgrades: bool,
}

impl Incoming {
    /// One without a body, after which the connection ends.
    pub(super) const fn new(parts: Parts) -> Self {
        Self {
            parts,
            framing: Framing::None,
            keep_alive: false,
            expects: false,
            refusal: None,
            trailers: false,
            upgrades: false,
        }
    }
}

/// The long values of a connection's last requests.
#[derive(Debug, Default)]
pub(super) struct LongValues {
    known: [Option<HeaderValue>; 2],
    turn: usize,
}

impl LongValues {
    /// `text`, which is a part of `head`, as a value.
    fn value(&mut self, head: &Bytes, text: &[u8]) -> Option<HeaderValue> {
        if text.len() < LONG {
            return HeaderValue::from_maybe_shared(head.slice_ref(text)).ok();
        }
        let mut known = self.known.iter().flatten();
        if let Some(same) = known.find(|known| known.as_bytes() == text) {
            return Some(same.clone());
        }
        let value = HeaderValue::from_maybe_shared(head.slice_ref(text)).ok()?;
        self.turn = (self.turn + 1) % self.known.len();
        if let Some(slot) = self.known.get_mut(self.turn) {
            *slot = Some(value.clone());
        }
        Some(value)
    }
}

/// Reads a complete head that has been judged to announce `framing`. `headers` is empty: room to be used.
pub(super) fn read(
    head: &Bytes,
    framing: Framing,
    mut headers: HeaderMap,
    long: &mut LongValues,
) -> Result<Incoming, Refusal> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_request_with_uninit_headers(&mut request, head, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        _ => return Err(Refusal::Malformed("not a head of HTTP/1.1")),
    }
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::from_bytes(request.method.unwrap_or_default().as_bytes())
        .map_err(|_| Refusal::Malformed("not a method"))?;
    let target = head.slice_ref(request.path.unwrap_or_default().as_bytes());
    parts.uri = Uri::from_maybe_shared(target.clone())
        .or_else(|_| Uri::from_maybe_shared(encoded(&target)))
        .map_err(|_| Refusal::Malformed("not a target"))?;
    let http10 = request.version == Some(0);
    parts.version = if http10 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    headers.reserve(request.headers.len());
    let (mut closes, mut keeps, mut expects) = (false, false, false);
    let (mut trailers, mut upgrades) = (false, false);
    for field in request.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| Refusal::Malformed("not a field name"))?;
        let value = long
            .value(head, field.value)
            .ok_or(Refusal::Malformed("not a field value"))?;
        if name == header::CONNECTION {
            closes |= tokens(&value).any(|token| token.eq_ignore_ascii_case("close"));
            keeps |= tokens(&value).any(|token| token.eq_ignore_ascii_case("keep-alive"));
        } else if name == header::EXPECT {
            expects = value.as_bytes().eq_ignore_ascii_case(b"100-continue");
        } else if name == header::TE {
            trailers |= tokens(&value).any(|token| token.eq_ignore_ascii_case("trailers"));
        } else if name == header::UPGRADE {
            upgrades = !http10;
        }
        headers.append(name, value);
    }
    parts.headers = headers;
    Ok(Incoming {
        framing,
        keep_alive: !closes && (keeps || !http10),
        expects: expects && !http10,
        trailers: trailers && !http10,
        upgrades,
        ..Incoming::new(parts)
    })
}

/// A target whose characters that no URI has (RFC 3986 §2), and many clients send, are percent-encoded.
fn encoded(target: &[u8]) -> Bytes {
    const NOT_IN_URIS: &AsciiSet = &CONTROLS.add(b'"').add(b'<').add(b'>').add(b'`');
    percent_encode(target, NOT_IN_URIS).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::request::judge;

    fn parse(text: &str, long: &mut LongValues) -> Incoming {
        let head = Bytes::copy_from_slice(text.as_bytes());
        let framing = judge(&head).unwrap();
        read(&head, framing, HeaderMap::new(), long).unwrap()
    }

    #[test]
    fn a_head_says_what_comes_after_it() {
        let check = |fields: &str, version: &str, keep_alive, expects, upgrades| {
            let text = format!("POST /a?b HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
            let found = parse(&text, &mut LongValues::default());
            assert_eq!(found.parts.uri, "/a?b");
            assert_eq!(
                (found.keep_alive, found.expects, found.upgrades),
                (keep_alive, expects, upgrades),
                "{text}"
            );
        };
        check("", "1.1", true, false, false);
        check("", "1.0", false, false, false);
        check("Connection: keep-alive\r\n", "1.0", true, false, false);
        check("Connection: a, Close\r\n", "1.1", false, false, false);
        check(
            "Connection: close\r\nConnection: keep-alive\r\n",
            "1.1",
            false,
            false,
            false,
        );
        check("Expect: 100-Continue\r\n", "1.1", true, true, false);
        check("Expect: 100-continue\r\n", "1.0", false, false, false);
        check("Upgrade: websocket\r\n", "1.1", true, false, true);
        check("Upgrade: websocket\r\n", "1.0", false, false, false);
    }

    #[test]
    fn what_no_uri_has_is_encoded() {
        for (target, expected) in [
            ("/a`b<c>?d=\"e\"", "/a%60b%3Cc%3E?d=%22e%22"),
            ("/a%20`", "/a%20%60"),
            ("/{\"a\"}|^?[]", "/{\"a\"}|^?[]"),
        ] {
            let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(parse(&text, &mut LongValues::default()).parts.uri, expected);
        }
    }

    #[test]
    fn a_long_value_is_read_once_and_never_mistaken_for_another() {
        let mut long = LongValues::default();
        for (letter, length) in [("a", 400), ("a", 400), ("b", 400), ("c", 400), ("a", 401)] {
            let value = letter.repeat(length);
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {value}\r\n\r\n");
            let found = parse(&text, &mut long);
            assert_eq!(found.parts.headers[header::COOKIE], value);
        }
    }
}
