//! What upstreams and clients may be told of a session, in headers.

use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A fact of a session that may be sent as a header.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum SessionHeader {
    Id,
    Audience,
    Subject,
    Timeout,
    IdlingTimeout,
    RollingTimeout,
    AbsoluteTimeout,
}

impl SessionHeader {
    /// The header that carries it (Kong 3.9, `session_request_headers`).
    pub const fn header(self) -> HeaderName {
        HeaderName::from_static(match self {
            Self::Id => "session-id",
            Self::Audience => "session-audience",
            Self::Subject => "session-subject",
            Self::Timeout => "session-timeout",
            Self::IdlingTimeout => "session-idling-timeout",
            Self::RollingTimeout => "session-rolling-timeout",
            Self::AbsoluteTimeout => "session-absolute-timeout",
        })
    }
}
