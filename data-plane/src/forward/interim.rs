//! Interim (1xx) responses on their way to the client (RFC 9110 §15.2).

use std::cell::RefCell;

use http::{HeaderMap, HeaderName, StatusCode, header};

use crate::http1::head::ResponseHead;

/// The fields of such an answer that a client acts on before the last one comes (RFC 8297). All others are left to that, from
/// which filters take what is not for clients: a cookie, say.
const HINTS: [HeaderName; 2] = [header::LINK, header::CONTENT_SECURITY_POLICY];

/// What a server has said beforehand and the client has not been told yet: that the request is under way (102), what the
/// answer will need (103). One client's connection of HTTP/1.1 has one; the library that serves HTTP/2 takes none.
#[derive(Debug, Default)]
pub(crate) struct Interim(RefCell<Vec<(StatusCode, HeaderMap)>>);

impl Interim {
    /// Adds `head` as the client may see it. That the server waits for the body is between the two of us: the client hears
    /// so when its body is asked for.
    pub(crate) fn add(&self, head: ResponseHead) {
        if head.status == StatusCode::CONTINUE {
            return;
        }
        let told = head.headers.into_map();
        let mut hints = HeaderMap::new();
        for name in HINTS {
            for value in told.get_all(&name) {
                hints.append(name.clone(), value.clone());
            }
        }
        self.0.borrow_mut().push((head.status, hints));
    }

    /// Whether there is nothing to tell: so it is at nearly every look.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// What there is to tell now.
    pub(crate) fn take(&self) -> Vec<(StatusCode, HeaderMap)> {
        self.0.take()
    }
}
