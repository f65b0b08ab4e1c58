//! `standard-webhooks`: lets webhooks through that are signed with a known secret and not old (Standard Webhooks; Kong
//! 3.9, standard-webhooks).

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::schema::FieldErrors;

use crate::answer;
use crate::body::LARGEST;
use crate::config::values::SecretText;
use crate::exchange::{BodyError, Exchange, Parsing};
use crate::filter::{Filter, Flow, Instance, Plugin, Scope};
use crate::host::Host;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// Configuration of `standard-webhooks`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct StandardWebhooks {
    /// Secret that webhooks are signed with.
    #[schemars(extend("x-referenceable" = true, "x-encrypted" = true))]
    pub secret_v1: SecretText,

    /// How far a webhook's timestamp may be from now, in seconds.
    #[serde(default = "five_minutes")]
    pub tolerance_second: i64,
}

const fn five_minutes() -> i64 {
    300
}

impl Plugin for StandardWebhooks {
    const NAME: &'static str = "standard-webhooks";
    const PRIORITY: u32 = 760;
    const FORBIDDEN_SCOPES: &'static [Scope] = &[Scope::Consumer];
    type Filter = StandardWebhooksFilter;

    fn compile(self, _: &Instance) -> Result<StandardWebhooksFilter, FieldErrors> {
        let seconds = u64::try_from(self.tolerance_second)
            .map_err(|_| FieldErrors::at(&["tolerance_second"], "value must be greater than -1"))?;
        let secret = self.secret_v1.expose().as_bytes();
        Ok(StandardWebhooksFilter {
            key: Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)),
            tolerance: Duration::from_secs(seconds),
        })
    }
}

/// Looks at the signatures of webhooks.
#[derive(Debug)]
pub struct StandardWebhooksFilter {
    /// It is large.
    key: Box<hmac::Key>,
    tolerance: Duration,
}

impl Filter for StandardWebhooksFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        match self.judge(exchange, host.now()).await {
            Ok(()) => Flow::Continue,
            Err(status) => {
                let message = match status {
                    StatusCode::PAYLOAD_TOO_LARGE => "Payload too large",
                    _ => "Bad request",
                };
                Flow::Answer(answer::error(status, message, exchange))
            }
        }
    }
}

impl StandardWebhooksFilter {
    /// Whether the request is a webhook of the known sender; else what is answered.
    async fn judge(&self, exchange: &mut Exchange<'_>, now: UnixTime) -> Result<(), StatusCode> {
        const BAD: StatusCode = StatusCode::BAD_REQUEST;
        let said = |name| {
            let value = exchange.request.headers.get(name);
            value.and_then(|value| value.to_str().ok()).ok_or(BAD)
        };
        let (id, timestamp, signatures) = (said(&ID)?, said(&TIMESTAMP)?, said(&SIGNATURE)?);
        let sent = UnixTime::from_secs(timestamp.parse().map_err(|_| BAD)?);
        if now.saturating_since(sent).max(sent.saturating_since(now)) > self.tolerance {
            return Err(BAD);
        }
        let signed = format!("{id}.{timestamp}.").into_bytes();
        let body = exchange
            .body
            .read(LARGEST, Parsing::Nothing)
            .await
            .map_err(|error| match error {
                BodyError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
                BodyError::Broken => BAD,
            })?;
        if body.is_empty() {
            return Err(BAD);
        }
        // Once, however many signatures there are: a head holds thousands.
        let mut expected = hmac::Context::with_key(&self.key);
        expected.update(&signed);
        expected.update(&body);
        let expected = expected.sign();
        // A sender that changes its secret signs with both for a while.
        let mut codes = signatures
            .split(' ')
            .filter_map(|one| one.strip_prefix("v1,"));
        let is_good = |code: &str| {
            let code = STANDARD.decode(code).unwrap_or_default();
            verify_slices_are_equal(expected.as_ref(), &code).is_ok()
        };
        codes.any(is_good).then_some(()).ok_or(BAD)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderValue, Method};
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{FakeHost, Request, answer_of};

    const SECRET: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn shortened(text: &str) -> &str {
        text.get(..100).unwrap_or(text)
    }

    #[test]
    fn only_what_is_signed_and_not_old_goes_on() {
        let config = json!({"secret_v1": SECRET, "tolerance_second": 60});
        let config: StandardWebhooks = serde_json::from_value(config).unwrap();
        let id = uuid::Uuid::nil();
        let filter = config.compile(&Instance { id }).unwrap();
        let host = FakeHost::default();
        let now = i64::try_from(host.now().as_secs()).unwrap();
        let sign = |secret: &str, text: &str| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            format!("v1,{}", STANDARD.encode(hmac::sign(&key, text.as_bytes())))
        };
        let signed = |timestamp: i64| sign(SECRET, &format!("msg.{timestamp}.{{}}"));
        let (good, other) = (signed(now), sign("another", &format!("msg.{now}.{{}}")));
        let check = |timestamp: &str, signature: &str, body: &str, status: u16| {
            let mut request = Request::get("/");
            request.method = Method::POST;
            request.body = Bytes::copy_from_slice(body.as_bytes());
            for (name, value) in [(ID, "msg"), (TIMESTAMP, timestamp), (SIGNATURE, signature)] {
                if !value.is_empty() {
                    let value = HeaderValue::from_str(value).unwrap();
                    request.headers.push((name, value));
                }
            }
            let answer = answer_of(&filter, &host, &request);
            let (signature, body) = (shortened(signature), shortened(body));
            assert_eq!(answer.status, status, "{timestamp} {signature} {body}");
            if status == 400 {
                let body: Value = serde_json::from_str(&answer.body).unwrap();
                assert_eq!(body["message"], "Bad request");
            }
        };
        let at = now.to_string();
        check(&at, &good, "{}", 200);
        // As many as a head holds, over as much as is read: each costs a comparison, not a signature.
        let (many, long) = ("v1, ".repeat(16_000), " ".repeat(LARGEST));
        let last = sign(SECRET, &format!("msg.{now}.{long}"));
        check(&at, &format!("{many}{last}"), &long, 200);
        check(&at, &format!("{other} v1a,x {good}"), "{}", 200);
        check(&at, &other, "{}", 400);
        check(&at, good.trim_start_matches("v1,"), "{}", 400);
        check(&at, "v1,", "{}", 400);
        check(&at, &good, "{ }", 400);
        check(&at, &sign(SECRET, &format!("msg.{now}.")), "", 400);
        check(&at, "", "{}", 400);
        check("", &good, "{}", 400);
        check("XYZ", &good, "{}", 400);
        for (apart, status) in [(-60, 200), (-61, 400), (60, 200), (61, 400)] {
            let timestamp = now + apart;
            check(&timestamp.to_string(), &signed(timestamp), "{}", status);
        }
    }

    #[test]
    fn configurations_are_judged_as_by_kong() {
        let check = |config: Value, field: &str, expected: &str| {
            let errors = crate::registry::check("standard-webhooks", &config).unwrap_err();
            assert_eq!(errors.by_field[field], expected, "{config}");
        };
        let missing = "required field missing";
        check(json!({}), "secret_v1", missing);
        check(json!({"secret_v1": 123}), "secret_v1", "expected a string");
        let tolerance = "tolerance_second";
        for (value, expected) in [
            (json!(5.67), "expected an integer"),
            (json!(-1), "value must be greater than -1"),
        ] {
            let config = json!({"secret_v1": "abc123", "tolerance_second": value});
            check(config, tolerance, expected);
        }
        let config = json!({"secret_v1": "abc123"});
        let stored = crate::registry::check("standard-webhooks", &config).unwrap();
        assert_eq!(stored[tolerance], 300);
    }
}
