//! `request-size-limiting`: refuses requests with a body that is too large (Kong 3.9,
//! request-size-limiting).

use http::StatusCode;
use http::header::{CONTENT_LENGTH, EXPECT};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;

use crate::answer;
use crate::exchange::Exchange;
use crate::filter::{Filter, Flow, Instance, Plugin};
use crate::host::Host;

/// Configuration of `request-size-limiting`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct RequestSizeLimiting {
    /// Largest body, in units of `size_unit`.
    #[serde(default = "default_size")]
    pub allowed_payload_size: i64,

    /// What the size is counted in.
    #[serde(default = "megabytes")]
    pub size_unit: SizeUnit,

    /// Refuses requests that do not say how long they are.
    #[serde(default)]
    pub require_content_length: bool,
}

/// A unit of sizes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SizeUnit {
    /// 2^20 bytes.
    Megabytes,
    /// 2^10 bytes.
    Kilobytes,
    /// Bytes.
    Bytes,
}

const fn default_size() -> i64 {
    128
}

const fn megabytes() -> SizeUnit {
    SizeUnit::Megabytes
}

impl Plugin for RequestSizeLimiting {
    const NAME: &'static str = "request-size-limiting";
    const PRIORITY: u32 = 951;
    type Filter = RequestSizeLimitingFilter;

    fn compile(self, _: &Instance) -> Result<RequestSizeLimitingFilter, FieldErrors> {
        let unit = match self.size_unit {
            SizeUnit::Megabytes => 1 << 20,
            SizeUnit::Kilobytes => 1 << 10,
            SizeUnit::Bytes => 1,
        };
        Ok(RequestSizeLimitingFilter {
            largest: u64::try_from(self.allowed_payload_size)
                .unwrap_or_default()
                .saturating_mul(unit),
            needs_length: self.require_content_length,
        })
    }
}

/// Looks at the sizes of bodies.
#[derive(Debug)]
pub struct RequestSizeLimitingFilter {
    largest: u64,
    needs_length: bool,
}

impl Filter for RequestSizeLimitingFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, _: &impl Host) -> Flow {
        let headers = &exchange.request.headers;
        let length = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let (status, message) = match length {
            Some(length) if length > self.largest => {
                let expects = headers
                    .get(EXPECT)
                    .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
                let status = if expects {
                    StatusCode::EXPECTATION_FAILED
                } else {
                    StatusCode::PAYLOAD_TOO_LARGE
                };
                (status, "Request size limit exceeded")
            }
            Some(_) => return Flow::Continue,
            None if self.needs_length => (
                StatusCode::LENGTH_REQUIRED,
                "A valid Content-Length header is required",
            ),
            None => {
                // The body is counted on its way.
                let limit = exchange.upstream.body_limit.unwrap_or(u64::MAX);
                exchange.upstream.body_limit = Some(limit.min(self.largest));
                return Flow::Continue;
            }
        };
        Flow::Answer(answer::error(status, message, exchange))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::testing::{FakeHost, Request, answer_of};

    #[test]
    fn a_body_up_to_the_limit_passes() {
        let check = |config: Value, headers: &[(HeaderName, &str)], expected: (u16, &str)| {
            let parsed: RequestSizeLimiting = serde_json::from_value(config.clone()).unwrap();
            let filter = parsed.compile(&Instance { id: Uuid::nil() }).unwrap();
            let mut request = Request::get("/");
            for (name, value) in headers {
                let value = HeaderValue::from_str(value).unwrap();
                request.headers.push((name.clone(), value));
            }
            let answer = answer_of(&filter, &FakeHost::default(), &request);
            assert_eq!(
                (answer.status, answer.message().as_str()),
                expected,
                "{config} {headers:?}"
            );
        };
        let exceeded = "Request size limit exceeded";
        let megabyte = json!({"allowed_payload_size": 1});
        check(megabyte.clone(), &[(CONTENT_LENGTH, "1048576")], (200, ""));
        check(
            megabyte.clone(),
            &[(CONTENT_LENGTH, "1048577")],
            (413, exceeded),
        );
        let expects = [(CONTENT_LENGTH, "1048577"), (EXPECT, "100-continue")];
        check(megabyte.clone(), &expects, (417, exceeded));
        check(megabyte, &[], (200, ""));
        let bytes = json!({"allowed_payload_size": 9, "size_unit": "bytes", "require_content_length": true});
        check(bytes.clone(), &[(CONTENT_LENGTH, "10")], (413, exceeded));
        check(
            bytes,
            &[],
            (411, "A valid Content-Length header is required"),
        );
        let kilobytes = json!({"allowed_payload_size": 1, "size_unit": "kilobytes"});
        check(kilobytes, &[(CONTENT_LENGTH, "1025")], (413, exceeded));
    }
}
