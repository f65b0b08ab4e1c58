//! The head of a request, and what it says about the body.

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Uri, Version, header};

use crate::http1::fields::Fields;
use crate::http1::head::check_host;
use crate::http1::headers::{Headers, View};
use crate::http1::kind::Kind;
use crate::http1::request::{Glimpse, Judged, Refusal, RequestHead};
use crate::http1::{Framing, members};

/// A request that has come in, up to its body.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a wish of the client's"
)]
pub(super) struct Incoming {
    /// Boxed, as it goes a long way.
    pub(super) head: Box<RequestHead>,
    pub(super) framing: Framing,
    /// Whether the client wants to send another.
    pub(super) keep_alive: bool,
    /// Whether it waits for our word before it sends the body.
    pub(super) expects: bool,
    /// Why it is not to be served.
    pub(super) refusal: Option<Refusal>,
    /// Whether its first line could be read.
    pub(super) legible: bool,
    /// Whether it takes trailers behind the answer (RFC 9110 §10.1.4).
    pub(super) trailers: bool,
    /// Whether the client would like to speak another protocol afterwards.
    pub(super) upgrades: bool,
}

impl Incoming {
    /// The request that was judged.
    pub(super) fn of(judged: Judged) -> Self {
        let Judged {
            method,
            uri,
            http10,
            fields,
            framing,
        } = judged;
        let connection = fields.connection();
        let keep_alive = !connection.close && (!http10 || connection.keep_alive);
        let is_trailers = |coding: &[u8]| coding.eq_ignore_ascii_case(b"trailers");
        let trailers =
            fields.has(Kind::TE) && fields.of(Kind::TE).flat_map(members).any(is_trailers);
        let is_continue = |what: &[u8]| what.eq_ignore_ascii_case(b"100-continue");
        let expects =
            fields.has(Kind::EXPECT) && fields.of(Kind::EXPECT).last().is_some_and(is_continue);
        let upgrades = fields.has(Kind::UPGRADE) && !http10;
        let headers = match uri.authority() {
            None => Headers::Raw(fields),
            Some(authority) => Headers::Map(with_host(fields, authority)),
        };
        Self {
            framing,
            keep_alive,
            expects: expects && !http10,
            refusal: None,
            legible: true,
            trailers: !http10 && trailers,
            upgrades,
            head: Box::new(RequestHead {
                method,
                uri,
                version: if http10 {
                    Version::HTTP_10
                } else {
                    Version::HTTP_11
                },
                headers,
            }),
        }
    }

    /// What is answered in place of a request that is refused: so that the answer has its turn and its form,
    /// and is logged and counted like any other.
    pub(super) fn stand_in(refusal: Refusal, glimpse: Glimpse) -> Self {
        let legible = glimpse.asked.is_some();
        let (method, uri) = glimpse.asked.unwrap_or_default();
        Self {
            head: Box::new(RequestHead {
                method,
                uri,
                version: Version::HTTP_11,
                headers: Headers::Map(glimpse.headers),
            }),
            framing: Framing::None,
            keep_alive: false,
            expects: false,
            refusal: Some(refusal),
            legible,
            trailers: false,
            upgrades: false,
        }
    }
}

/// The fields of a request whose target names the host: what `Host` says is not acted on (RFC 9112 §3.2.2), as long as it
/// says one thing that could be read.
fn with_host(fields: Fields, authority: &Authority) -> HeaderMap {
    let mut map = Headers::Raw(fields).into_map();
    let readable = check_host(&Uri::default(), View::Map(&map), false).is_ok();
    if readable && let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        map.insert(header::HOST, host);
    }
    map
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::http1::head::HeadFinder;
    use crate::http1::request::take_request;

    #[test]
    fn the_target_says_the_host_before_the_field() {
        let check = |target: &str, hosts: &str, expected: &[&str]| {
            let text = format!("GET {target} HTTP/1.1\r\nX: y\r\n{hosts}\r\n");
            let judged = take_request(&mut HeadFinder::default(), &mut BytesMut::from(&*text))
                .unwrap()
                .unwrap();
            let map = Incoming::of(judged).head.headers.into_map();
            let found: Vec<_> = map.get_all("host").iter().collect();
            assert_eq!(found, expected, "{text}");
            assert_eq!(map["x"], "y");
        };
        check("/", "Host: a\r\n", &["a"]);
        check("http://b:80/", "Host: a\r\n", &["b:80"]);
        check("http://a/", "Host: a\r\n", &["a"]);
        // These are refused for their `Host`.
        check("http://a/", "", &[]);
        check("http://b/", "Host: a/b\r\n", &["a/b"]);
        check("http://b/", "Host: a\r\nHost: b\r\n", &["a", "b"]);
    }

    #[test]
    fn a_head_says_what_comes_after_it() {
        let check = |fields: &str, version: &str, keep_alive, expects, upgrades| {
            let text = format!("POST /a?b HTTP/{version}\r\nHost: a\r\n{fields}\r\n");
            let judged = take_request(&mut HeadFinder::default(), &mut BytesMut::from(&*text))
                .unwrap()
                .unwrap();
            let found = Incoming::of(judged);
            assert_eq!(found.head.uri, "/a?b");
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
}
