//! Header fields that no configuration may give a value of its own: they frame the message, speak of its connection, or
//! are the gateway's own to send.

use http::HeaderName;

/// What frames a message or speaks of one connection.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What the gateway sends in every request, makes of the client's, or keeps for itself.
const REQUESTS: [&str; 13] = [
    "cookie",
    "expect",
    "host",
    "proxy",
    "proxy-authorization",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-path",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-real-ip",
];

/// What the gateway tells of an answer itself.
const ANSWERS: [&str; 7] = [
    "date",
    "set-cookie",
    "via",
    "x-kong-proxy-latency",
    "x-kong-response-latency",
    "x-kong-upstream-latency",
    "x-kong-upstream-status",
];

/// Whose message a field would stand in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Message {
    /// A client's request on its way upstream.
    Request,
    /// The answer to the client.
    Answer,
    /// A request of the gateway's own, to a provider.
    Own,
}

impl Message {
    /// The names that are reserved in it.
    pub fn reserved(self) -> impl Iterator<Item = &'static str> {
        let own: &[&str] = match self {
            Self::Request => &REQUESTS,
            Self::Answer => &ANSWERS,
            Self::Own => &["expect", "host"],
        };
        let id = (self != Self::Own).then_some("x-kong-request-id");
        FRAMING.into_iter().chain(own.iter().copied()).chain(id)
    }

    /// Why `name` cannot be set in it, if it cannot.
    pub(crate) fn refusal(self, name: &HeaderName) -> Option<String> {
        let reserved = self.reserved().any(|reserved| name == reserved);
        reserved
            .then(|| format!("{name} is for the gateway itself to set: use another header name"))
    }
}
