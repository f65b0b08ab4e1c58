//! What goes back to a client.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::http1::headers::Headers;

/// Fields that the gateway tells of an answer: room for them is made at once.
const TOLD: usize = 4;

/// An answer on its way to the client.
#[derive(Debug)]
pub(crate) struct Returned<B> {
    pub(crate) status: StatusCode,
    /// The upstream's fields, as long as nobody changes them, or all of them as values.
    pub(crate) headers: Headers,
    /// Fields behind those that are as they came.
    pub(crate) told: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: B,
}

impl<B> Returned<B> {
    /// An answer with `headers`.
    pub(crate) const fn new(status: StatusCode, headers: Headers, body: B) -> Self {
        Self {
            status,
            headers,
            told: Vec::new(),
            body,
        }
    }

    /// All fields as values, to be changed.
    pub(crate) fn map(&mut self) -> &mut HeaderMap {
        let map = self.headers.map();
        for (name, value) in self.told.drain(..) {
            map.insert(name, value);
        }
        map
    }

    /// Sets a field. One of the same name that is as it came must not be there.
    pub(crate) fn tell(&mut self, name: HeaderName, value: HeaderValue) {
        match &mut self.headers {
            Headers::Raw(_) => {
                if self.told.is_empty() {
                    self.told.reserve(TOLD);
                }
                self.told.push((name, value));
            }
            Headers::Map(map) => _ = map.insert(name, value),
        }
    }

    /// The same answer with another body.
    pub(crate) fn with<C>(self, change: impl FnOnce(B) -> C) -> Returned<C> {
        Returned {
            status: self.status,
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

impl<B> From<Response<B>> for Returned<B> {
    fn from(response: Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        Self::new(parts.status, Headers::Map(parts.headers), body)
    }
}
