//! What is sent back to a client.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::http1::headers::Headers;
use crate::http1::writer::values_of;

/// Room for the lines that the gateway tells of an answer, made at once.
const TOLD: usize = 192;

/// A field that the gateway tells, as values and lines have its name.
#[derive(Debug)]
pub(crate) struct ToldField {
    name: HeaderName,
    start: &'static [u8],
    /// Whether its value is never told again.
    once: bool,
}

impl ToldField {
    /// Writes the line that tells `value`.
    pub(crate) fn write(&self, lines: &mut Vec<u8>, value: &[u8]) {
        write_line(lines, self.start, value);
    }

    /// That of lines with this `start`: a name in lower case, a colon and a space.
    pub(crate) const fn of(start: &'static str) -> Self {
        Self::told(start, false)
    }

    /// The same of a field whose value is another one each time. The table of an HTTP/2 connection is no place for such
    /// (RFC 7541 §6.2.3): it would drop what is told again, and each value is searched for among all that were before.
    pub(crate) const fn of_once(start: &'static str) -> Self {
        Self::told(start, true)
    }

    const fn told(start: &'static str, once: bool) -> Self {
        let (name, _) = start.split_at(start.len() - 2);
        Self {
            name: HeaderName::from_static(name),
            start: start.as_bytes(),
            once,
        }
    }
}

/// An answer on its way to the client.
#[derive(Debug)]
pub(crate) struct Returned<B> {
    pub(crate) status: StatusCode,
    /// What the upstream calls a status that has no registered name.
    pub(crate) reason: Option<Box<[u8]>>,
    /// The upstream's fields, as long as nobody changes them, or all of them as values.
    pub(crate) headers: Headers,
    /// Lines behind fields that are as they came.
    pub(crate) told: Vec<u8>,
    pub(crate) body: B,
}

impl<B> Returned<B> {
    /// An answer with `headers`.
    pub(crate) const fn new(status: StatusCode, headers: Headers, body: B) -> Self {
        Self {
            status,
            reason: None,
            headers,
            told: Vec::new(),
            body,
        }
    }

    /// All fields as values, to be changed.
    pub(crate) fn map(&mut self) -> &mut HeaderMap {
        let map = self.headers.map();
        for (name, value) in values_of(&std::mem::take(&mut self.told)) {
            map.append(name, value);
        }
        map
    }

    /// Adds a field, beside those of its name that there are.
    pub(crate) fn add(&mut self, name: HeaderName, value: HeaderValue) {
        match &mut self.headers {
            Headers::Raw(_) => {
                let start = [name.as_str().as_bytes(), b": "].concat();
                self.line(&start, value.as_bytes());
            }
            Headers::Map(map) => _ = map.append(name, value),
        }
    }

    /// Sets a field. One of the same name that is as it came must not be there.
    pub(crate) fn tell(&mut self, field: &ToldField, value: &[u8]) {
        match &mut self.headers {
            Headers::Raw(_) => self.line(field.start, value),
            Headers::Map(map) => {
                if let Ok(mut value) = HeaderValue::from_bytes(value) {
                    value.set_sensitive(field.once);
                    map.insert(field.name.clone(), value);
                }
            }
        }
    }

    /// Tells fields by their `lines`. Call only if the upstream's are as they came.
    pub(crate) fn lines(&mut self, lines: &[u8]) {
        self.room().extend_from_slice(lines);
    }

    /// Tells a field as a line that begins with `start`.
    fn line(&mut self, start: &[u8], value: &[u8]) {
        write_line(self.room(), start, value);
    }

    fn room(&mut self) -> &mut Vec<u8> {
        if self.told.capacity() == 0 {
            self.told = Vec::with_capacity(TOLD);
        }
        &mut self.told
    }

    /// The same answer with another body.
    pub(crate) fn with<C>(self, change: impl FnOnce(B) -> C) -> Returned<C> {
        Returned {
            status: self.status,
            reason: self.reason,
            headers: self.headers,
            told: self.told,
            body: change(self.body),
        }
    }

    /// As a library takes it.
    pub(crate) fn into_response(mut self) -> Response<B> {
        let headers = std::mem::take(self.map());
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

fn write_line(lines: &mut Vec<u8>, start: &[u8], value: &[u8]) {
    lines.reserve(start.len() + value.len() + 2);
    lines.extend_from_slice(start);
    lines.extend_from_slice(value);
    lines.extend_from_slice(b"\r\n");
}

impl<B> From<Response<B>> for Returned<B> {
    fn from(response: Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        Self::new(parts.status, Headers::Map(parts.headers), body)
    }
}

#[cfg(test)]
mod tests {
    use http::header::SET_COOKIE;

    use super::*;
    use crate::http1::fields::Fields;

    #[test]
    fn what_is_told_is_told_in_either_form() {
        static NAME: ToldField = ToldField::of("x-kong-proxy-latency: ");
        static VIA: ToldField = ToldField::of("via: ");
        let fields = Fields::read("A: 1\r\n").unwrap();
        let mut raw = Returned::new(StatusCode::OK, Headers::Raw(fields), ());
        raw.tell(&NAME, b"7: 8");
        raw.tell(&VIA, b"1.1 a");
        let cookie = |text| (SET_COOKIE, HeaderValue::from_static(text));
        for (name, value) in [cookie("a=1"), cookie("b=2")] {
            raw.add(name, value);
        }
        assert_eq!(
            raw.told,
            b"x-kong-proxy-latency: 7: 8\r\nvia: 1.1 a\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n"
        );
        let headers = raw.into_response().into_parts().0.headers;
        assert!(headers.values().all(|value| !value.is_sensitive()));
        let mut map = Returned::new(StatusCode::OK, Headers::Map(HeaderMap::new()), ());
        map.map().insert("a", HeaderValue::from_static("1"));
        map.tell(&NAME, b"7: 8");
        map.tell(&VIA, b"1.1 a");
        for (name, value) in [cookie("a=1"), cookie("b=2")] {
            map.add(name, value);
        }
        assert_eq!(map.into_response().headers(), &headers);
    }

    #[test]
    fn what_is_told_once_is_for_no_table() {
        static ONCE: ToldField = ToldField::of_once("x-kong-request-id: ");
        let mut map = Returned::new(StatusCode::OK, Headers::Map(HeaderMap::new()), ());
        map.tell(&ONCE, b"7");
        let response = map.into_response();
        let told = &response.headers()["x-kong-request-id"];
        assert!(told == "7" && told.is_sensitive());
    }
}
