//! The head of an answer, and how its body is framed (RFC 9112 §6).

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode, Version, header};
use http_body::{Body as _, SizeHint};

use crate::http1::head::is_bodiless;
use crate::http1::headers::Headers;
use crate::http1::kind::Kind;
use crate::http1::writer::{decimal, field};
use crate::http1::{Framing, tokens};
use crate::pipeline::{Recorded, Returned};

/// What of a request decides about its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    pub(super) version: Version,
    pub(super) method: &'a Method,
    /// Whether another request may come.
    pub(super) reusable: bool,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Framed {
    /// Whether anything does.
    pub(super) body: bool,
    pub(super) framing: Framing,
    /// Whether the connection ends with the answer.
    pub(super) closes: bool,
}

/// What of the upstream's fields speaks of its own connection, or of a length that is told anew.
const MADE_ANEW: Kind = Kind::HOP_BY_HOP.and(Kind::CONTENT_LENGTH);

impl Answer<'_> {
    /// Writes the head of an answer with `body`.
    pub(super) fn write(
        self,
        head: &mut BytesMut,
        returned: &Returned<Recorded>,
        date: &[u8],
    ) -> Framed {
        let body = &returned.body;
        let size = if body.is_end_stream() {
            SizeHint::with_exact(0)
        } else {
            body.size_hint()
        };
        self.write_sized(head, returned, size.exact(), date)
    }

    fn write_sized<B>(
        self,
        head: &mut BytesMut,
        returned: &Returned<B>,
        size: Option<u64>,
        date: &[u8],
    ) -> Framed {
        let http10 = self.version == Version::HTTP_10;
        let status = returned.status;
        let bodiless = is_bodiless(status);
        let asked_for_head = *self.method == Method::HEAD;
        let framing = match size {
            Some(length) => Framing::Length(length),
            None if http10 => Framing::UntilClose,
            None => Framing::Chunked,
        };
        let sends = !bodiless && !asked_for_head && size != Some(0);
        write_status(head, http10, status, returned.reason.as_deref());
        let mut closes = !self.reusable || (sends && framing == Framing::UntilClose);
        let (mut dated, mut connection, mut length) = (false, false, false);
        match &returned.headers {
            Headers::Raw(fields) => {
                dated = fields.has(Kind::DATE);
                fields.copy_without(MADE_ANEW, head);
            }
            Headers::Map(headers) => {
                for (name, value) in headers {
                    if *name == header::CONTENT_LENGTH {
                        // What a body would have if one were sent; of others it is told below.
                        if length || !(bodiless || asked_for_head) {
                            continue;
                        }
                        length = true;
                    } else if *name == header::TRANSFER_ENCODING {
                        continue;
                    } else if *name == header::CONNECTION {
                        connection = true;
                        closes |= tokens(value).any(|token| token.eq_ignore_ascii_case("close"));
                    }
                    dated |= *name == header::DATE;
                    field(head, name.as_str(), value.as_bytes());
                }
            }
        }
        head.extend_from_slice(&returned.told);
        match framing {
            _ if bodiless || length => {}
            Framing::Length(0) if asked_for_head => {}
            Framing::Length(length) => {
                head.extend_from_slice(b"content-length: ");
                decimal(head, length);
                head.extend_from_slice(b"\r\n");
            }
            Framing::Chunked if sends => {
                head.extend_from_slice(b"transfer-encoding: chunked\r\n");
            }
            Framing::None | Framing::Chunked | Framing::UntilClose => {}
        }
        if !dated {
            field(head, header::DATE.as_str(), date);
        }
        let told: Option<&[u8]> = match (connection, closes, http10) {
            (true, ..) | (false, true, true) | (false, false, false) => None,
            (false, true, false) => Some(b"close"),
            (false, false, true) => Some(b"keep-alive"),
        };
        if let Some(told) = told {
            field(head, header::CONNECTION.as_str(), told);
        }
        head.extend_from_slice(b"\r\n");
        Framed {
            body: sends,
            framing,
            closes,
        }
    }
}

/// Writes an answer that is not the last.
pub(super) fn write_informational(head: &mut BytesMut, status: StatusCode, fields: &HeaderMap) {
    write_status(head, false, status, None);
    for (name, value) in fields {
        field(head, name.as_str(), value.as_bytes());
    }
    head.extend_from_slice(b"\r\n");
}

fn write_status(head: &mut BytesMut, http10: bool, status: StatusCode, reason: Option<&[u8]>) {
    if status == StatusCode::OK && !http10 {
        head.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    head.extend_from_slice(if http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    head.extend_from_slice(status.as_str().as_bytes());
    head.extend_from_slice(b" ");
    let registered = status.canonical_reason().map(str::as_bytes);
    head.extend_from_slice(registered.or(reason).unwrap_or_default());
    head.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;

    /// What is written for an answer of `status` with `fields`, and what follows.
    fn check(
        asked: &str,
        status: u16,
        fields: &[(&str, &str)],
        size: Option<u64>,
        expected: &str,
        closes: bool,
    ) {
        let (method, version) = asked.split_once(' ').unwrap();
        let (version, http10) = match version {
            "1.0" => (Version::HTTP_10, true),
            _ => (Version::HTTP_11, false),
        };
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let returned = response.body(()).unwrap().into();
        let answer = Answer {
            version,
            method: &method.parse().unwrap(),
            reusable: !http10 || fields.is_empty(),
        };
        let mut head = BytesMut::new();
        let framed = answer.write_sized(&mut head, &returned, size, b"now");
        let text = str::from_utf8(&head).unwrap();
        let (_, lines) = text.split_once("\r\n").unwrap();
        let lines = lines.trim_end().replace("\r\n", "|");
        assert_eq!(
            (lines.as_str(), framed.closes),
            (expected, closes),
            "{asked} {status}"
        );
    }

    #[test]
    fn a_body_ends_where_its_head_says() {
        check(
            "GET 1.1",
            200,
            &[],
            Some(5),
            "content-length: 5|date: now",
            false,
        );
        check(
            "GET 1.1",
            200,
            &[],
            Some(0),
            "content-length: 0|date: now",
            false,
        );
        check(
            "GET 1.1",
            200,
            &[],
            None,
            "transfer-encoding: chunked|date: now",
            false,
        );
        check(
            "HEAD 1.1",
            200,
            &[],
            Some(5),
            "content-length: 5|date: now",
            false,
        );
        check("HEAD 1.1", 200, &[], Some(0), "date: now", false);
        check(
            "HEAD 1.1",
            200,
            &[("content-length", "7")],
            Some(0),
            "content-length: 7|date: now",
            false,
        );
        check("GET 1.1", 204, &[], Some(0), "date: now", false);
        check(
            "GET 1.1",
            304,
            &[("content-length", "7")],
            Some(0),
            "content-length: 7|date: now",
            false,
        );
        check(
            "GET 1.1",
            200,
            &[("content-length", "7")],
            Some(5),
            "content-length: 5|date: now",
            false,
        );
        check(
            "GET 1.1",
            101,
            &[("connection", "upgrade")],
            Some(0),
            "connection: upgrade|date: now",
            false,
        );
        check(
            "GET 1.1",
            400,
            &[("connection", "close")],
            Some(0),
            "connection: close|content-length: 0|date: now",
            true,
        );
        check(
            "GET 1.1",
            200,
            &[("date", "then")],
            Some(1),
            "date: then|content-length: 1",
            false,
        );
        check(
            "GET 1.0",
            200,
            &[],
            Some(1),
            "content-length: 1|date: now|connection: keep-alive",
            false,
        );
        check("GET 1.0", 200, &[], None, "date: now", true);
        check(
            "GET 1.0",
            200,
            &[("x", "y")],
            Some(1),
            "x: y|content-length: 1|date: now",
            true,
        );
    }
}
