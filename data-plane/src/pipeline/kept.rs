//! What a connection keeps from one request for the next.

use std::rc::Rc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request};

use crate::http1::fields::shared;
use crate::http1::headers::Headers;
use crate::http1::request::RequestHead;

/// Values at least as long are compared with those of the request before: that is cheaper than to read
/// them again, and a browser sends the same cookie with every request.
const LONG: usize = 256;

/// Makes values of the fields of a connection's requests.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Long values of its last requests.
    long: [Option<HeaderValue>; 2],
    turn: usize,
    /// The last host that was asked for, if it came as it is read.
    host: Option<Rc<str>>,
    /// What servers are told of requests for it, once they were.
    lines: Option<Rc<[u8]>>,
    /// Room for the fields of the next one.
    room: HeaderMap,
}

impl Kept {
    /// Makes values of `headers`.
    pub(super) fn make_values(&mut self, headers: &mut Headers) {
        if let Headers::Raw(fields) = headers {
            let room = std::mem::take(&mut self.room);
            let values = fields.to_map(room, |head, text| self.value(head, text));
            *headers = Headers::Map(values);
        }
    }

    /// A head as libraries have it.
    pub(super) fn parts(&mut self, mut head: RequestHead) -> Parts {
        self.make_values(&mut head.headers);
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = head.method;
        parts.uri = head.uri;
        parts.version = head.version;
        parts.headers = head.headers.into_map();
        parts
    }

    /// The host that `value` names, if that of the request before was the same.
    pub(super) fn host(&self, value: &[u8]) -> Option<Rc<str>> {
        let same = |host: &&Rc<str>| host.as_bytes() == value;
        self.host.as_ref().filter(same).map(Rc::clone)
    }

    /// Remembers the host of a request.
    pub(super) fn keep_host(&mut self, host: &Rc<str>) {
        self.host = Some(Rc::clone(host));
        self.lines = None;
    }

    /// The lines that `make` writes for requests for `host`, if that is what the last one was for.
    pub(super) fn lines(
        &mut self,
        host: &Rc<str>,
        make: impl FnOnce() -> Rc<[u8]>,
    ) -> Option<Rc<[u8]>> {
        let same = |last: &Rc<str>| Rc::ptr_eq(last, host);
        let lines = self
            .host
            .as_ref()
            .is_some_and(same)
            .then_some(&mut self.lines)?;
        Some(Rc::clone(lines.get_or_insert_with(make)))
    }

    /// Takes a map back, as room for the next request's fields.
    pub(super) fn reuse(&mut self, mut headers: HeaderMap) {
        headers.clear();
        self.room = headers;
    }

    /// `text`, which is a part of `head`, as a value.
    fn value(&mut self, head: &Bytes, text: &[u8]) -> Option<HeaderValue> {
        if text.len() < LONG {
            return shared(head, text);
        }
        let mut known = self.long.iter().flatten();
        if let Some(same) = known.find(|known| known.as_bytes() == text) {
            return Some(same.clone());
        }
        // A part of the head would hold on to the whole buffer that it came in, while the connection waits.
        let value = HeaderValue::from_bytes(text).ok()?;
        self.turn = (self.turn + 1) % self.long.len();
        if let Some(slot) = self.long.get_mut(self.turn) {
            *slot = Some(value.clone());
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use http::header;

    use super::*;
    use crate::http1::head::HeadFinder;
    use crate::http1::request::take_request;

    #[test]
    fn what_is_kept_holds_on_to_no_buffer() {
        let mut kept = Kept::default();
        let mut input = BytesMut::with_capacity(4_096);
        let value = "a".repeat(400);
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {value}\r\n\r\n");
        input.extend_from_slice(text.as_bytes());
        let judged = take_request(&mut HeadFinder::default(), &mut input)
            .unwrap()
            .unwrap();
        let mut headers = Headers::Raw(judged.fields);
        drop(judged.uri);
        kept.make_values(&mut headers);
        assert!(!input.try_reclaim(4_096), "the request is still there");
        kept.reuse(headers.into_map());
        assert!(kept.long.iter().flatten().any(|known| known == &*value));
        assert!(input.try_reclaim(4_096));
    }

    #[test]
    fn a_long_value_is_read_once_and_never_mistaken_for_another() {
        let mut kept = Kept::default();
        for (letter, length) in [("a", 400), ("a", 400), ("b", 400), ("c", 400), ("a", 401)] {
            let value = letter.repeat(length);
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {value}\r\n\r\n");
            let judged = take_request(&mut HeadFinder::default(), &mut BytesMut::from(&*text))
                .unwrap()
                .unwrap();
            let mut headers = Headers::Raw(judged.fields);
            kept.make_values(&mut headers);
            let headers = headers.into_map();
            assert_eq!(headers[header::COOKIE], value);
            kept.reuse(headers);
        }
    }
}
