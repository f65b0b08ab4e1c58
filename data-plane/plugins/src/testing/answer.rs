//! What a filter makes of a request, as client and upstream see it.

use super::{FakeHost, Request};
use crate::exchange::Overrides;

/// What became of a request.
#[derive(Debug)]
pub(crate) struct Answer {
    /// 200 if it went on.
    pub(crate) status: u16,
    /// Header fields for the client.
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
    /// The request as the upstream sees it.
    pub(crate) upstream: http::request::Parts,
    pub(crate) overrides: Overrides,
}

impl Answer {
    /// A field of the answer; empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> String {
        joined(&self.headers, name)
    }

    /// A field of the request as the upstream sees it; empty if it is not there.
    pub(crate) fn upstream_header(&self, name: &str) -> String {
        joined(&self.upstream.headers, name)
    }

    /// `message` of the body.
    pub(crate) fn message(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["message"].as_str().unwrap_or_default().to_owned()
    }
}

fn joined(headers: &http::HeaderMap, name: &str) -> String {
    let values = headers.get_all(name).iter();
    let values: Vec<_> = values
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect();
    values.join(", ")
}

/// Shows `request` to `filter`.
pub(crate) fn answer_of(
    filter: &impl crate::filter::Filter,
    host: &FakeHost,
    request: &Request,
) -> Answer {
    request.with_exchange(|exchange| {
        let flow = host.run(filter.on_request(exchange, host));
        let mut headers = http::HeaderMap::new();
        for (name, value) in exchange.response_headers.drain(..) {
            headers.append(name, value);
        }
        let (status, body) = match flow {
            crate::filter::Flow::Continue => (200, String::new()),
            crate::filter::Flow::Answer(answer) | crate::filter::Flow::Kept(answer) => {
                let (parts, body) = answer.into_parts();
                headers.extend(parts.headers);
                let body = String::from_utf8_lossy(&body).into_owned();
                (parts.status.as_u16(), body)
            }
        };
        Answer {
            status,
            headers,
            body,
            upstream: exchange.request.clone(),
            overrides: exchange.upstream.clone(),
        }
    })
}
