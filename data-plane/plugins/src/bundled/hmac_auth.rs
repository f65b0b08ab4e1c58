//! `hmac-auth`: lets a request through if it is signed with a known secret (draft-cavage-http-signatures;
//! Kong 3.9, hmac-auth).

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, DATE, PROXY_AUTHORIZATION};
use http::{HeaderName, Version};
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::digest::sha256;
use shared::schema::FieldErrors;

use crate::body::LARGEST;
use crate::config::values::Number;
use crate::credentials::authentication::{
    Authenticated, Refusal, challenge, is_settled, settle, take,
};
use crate::exchange::{Exchange, Parsing};
use crate::filter::{Filter, Flow, Instance, Plugin, Scope};
use crate::host::Host;

const X_DATE: HeaderName = HeaderName::from_static("x-date");
const DIGEST: HeaderName = HeaderName::from_static("digest");

const UNVERIFIABLE: &str = "HMAC signature cannot be verified";
const DIFFERENT: &str = "HMAC signature does not match";

/// Configuration of `hmac-auth`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct HmacAuth {
    /// Keeps the signature from the upstream.
    #[serde(default)]
    pub hide_credentials: bool,

    /// How far the request's date may be from now, in seconds.
    #[serde(default = "Number::of::<300>")]
    pub clock_skew: Number,

    /// Consumer, by id or username, that requests without a valid signature count as. Without one they
    /// are refused.
    #[serde(default)]
    pub anonymous: Option<String>,

    /// Holds the body against the header `Digest`.
    #[serde(default)]
    pub validate_request_body: bool,

    /// Headers that a signature must cover.
    #[serde(default)]
    pub enforce_headers: Vec<String>,

    /// Algorithms that a signature may be made with.
    #[serde(default = "all")]
    pub algorithms: Vec<Algorithm>,

    /// Realm of the challenge to clients without a signature.
    #[serde(default)]
    pub realm: Option<String>,
}

/// An algorithm of signatures.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Algorithm {
    /// HMAC with SHA-1.
    #[serde(rename = "hmac-sha1")]
    Sha1,
    /// HMAC with SHA-256.
    #[serde(rename = "hmac-sha256")]
    Sha256,
    /// HMAC with SHA-384.
    #[serde(rename = "hmac-sha384")]
    Sha384,
    /// HMAC with SHA-512.
    #[serde(rename = "hmac-sha512")]
    Sha512,
}

impl Algorithm {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "hmac-sha1" => Some(Self::Sha1),
            "hmac-sha256" => Some(Self::Sha256),
            "hmac-sha384" => Some(Self::Sha384),
            "hmac-sha512" => Some(Self::Sha512),
            _ => None,
        }
    }

    const fn hash(self) -> hmac::Algorithm {
        match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }
}

fn all() -> Vec<Algorithm> {
    vec![
        Algorithm::Sha1,
        Algorithm::Sha256,
        Algorithm::Sha384,
        Algorithm::Sha512,
    ]
}

impl Plugin for HmacAuth {
    const NAME: &'static str = "hmac-auth";
    const PRIORITY: u32 = 1030;
    const FORBIDDEN_SCOPES: &'static [Scope] = &[Scope::Consumer];
    type Filter = Self;

    fn compile(self, _: &Instance) -> Result<Self, FieldErrors> {
        self.clock_skew.check_positive("clock_skew")?;
        Ok(self)
    }
}

/// What the header says of a signature.
#[derive(Debug, PartialEq)]
struct Signature {
    username: String,
    algorithm: String,
    headers: Vec<String>,
    /// Nothing if it is no Base64: that is no code of any text.
    code: Vec<u8>,
}

impl Filter for HmacAuth {
    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        let anonymous = self.anonymous.as_deref();
        if is_settled(exchange, anonymous) {
            return Flow::Continue;
        }
        let outcome = self.authenticate(exchange, host.now()).await;
        settle(exchange, outcome, anonymous)
    }
}

impl HmacAuth {
    async fn authenticate(
        &self,
        exchange: &mut Exchange<'_>,
        now: UnixTime,
    ) -> Result<Authenticated, Refusal> {
        let refuse =
            |message: &str| Refusal::new(message, challenge("hmac", self.realm.as_deref()));
        let headers = &exchange.request.headers;
        if !headers.contains_key(AUTHORIZATION) && !headers.contains_key(PROXY_AUTHORIZATION) {
            return Err(refuse("Unauthorized"));
        }
        if !self.is_timely(exchange, &X_DATE, now) && !self.is_timely(exchange, &DATE, now) {
            return Err(refuse(
                "HMAC signature cannot be verified, a valid date or x-date header is required for HMAC Authentication",
            ));
        }
        let mut said = |header| take(exchange, &header, self.hide_credentials, parse);
        let said = said(PROXY_AUTHORIZATION).or_else(|| said(AUTHORIZATION));
        let said = said.ok_or_else(|| refuse(UNVERIFIABLE))?;
        let algorithm = Algorithm::parse(&said.algorithm)
            .filter(|algorithm| self.algorithms.contains(algorithm))
            .ok_or_else(|| refuse(UNVERIFIABLE))?;
        let covered = |header: &String| {
            said.headers
                .iter()
                .any(|signed| signed.eq_ignore_ascii_case(header))
        };
        if !self.enforce_headers.iter().all(covered) {
            return Err(refuse(UNVERIFIABLE));
        }
        let credentials = &exchange.environment.credentials;
        let credential = credentials
            .hmac
            .get(&said.username)
            .ok_or_else(|| refuse(UNVERIFIABLE))?;
        let key = hmac::Key::new(algorithm.hash(), credential.secret.expose().as_bytes());
        let uri = &exchange.request.uri;
        let target = uri
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str);
        let text = signed_text(exchange, &said.headers, target);
        if hmac::verify(&key, text.as_bytes(), &said.code).is_err() {
            return Err(refuse(DIFFERENT));
        }
        let consumer = credential.consumer;
        if self.validate_request_body && !is_intact(exchange).await {
            return Err(refuse(DIFFERENT));
        }
        Ok(Authenticated {
            consumer,
            credential: said.username,
        })
    }

    /// Whether `header` has a date that is not too far from `now`.
    fn is_timely(&self, exchange: &Exchange<'_>, header: &HeaderName, now: UnixTime) -> bool {
        let value = exchange.request.headers.get(header);
        let date = value
            .and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok())
            .and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
        date.is_some_and(|date| {
            let date = UnixTime::from_secs(date.as_secs());
            let apart = now.saturating_since(date).max(date.saturating_since(now));
            apart.as_secs() <= self.clock_skew.seconds().as_secs()
        })
    }
}

/// Where a signature stands in a header: anywhere, as Kong finds it.
static SIGNATURE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r#"(?i:hmac)\s*username="([^"]+)",\s*algorithm="([^"]+)","#,
        r#"\s*headers="([^"]+)",\s*signature="([^"]+)""#,
    ))
    .expect("a constant pattern")
});

/// `hmac username="…", algorithm="…", headers="…", signature="…"`.
fn parse(text: &str) -> Option<Signature> {
    let (_, [username, algorithm, headers, signature]) = SIGNATURE.captures(text)?.extract();
    Some(Signature {
        username: username.to_owned(),
        algorithm: algorithm.to_owned(),
        headers: headers.split(' ').map(str::to_owned).collect(),
        code: STANDARD.decode(signature).unwrap_or_default(),
    })
}

/// The text that a signature over these headers is of.
fn signed_text(exchange: &Exchange<'_>, signed: &[String], target: &str) -> String {
    let request = &exchange.request;
    let lines = signed.iter().map(|name| {
        let mut values = request
            .headers
            .get_all(name.to_ascii_lowercase())
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let Some(first) = values.next() else {
            let method = request.method.as_str();
            return match name.as_str() {
                "request-line" => format!("{method} {target} {}", version(request.version)),
                "@request-target" => {
                    format!("{name}: {} {target}", method.to_ascii_lowercase())
                }
                "host" => format!("{name}: {}", exchange.client.authority),
                _ => format!("{name}:"),
            };
        };
        let value = values.fold(first, |all, more| format!("{all}, {more}"));
        format!("{name}: {value}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

const fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// Whether the body is the one that `Digest` is of.
async fn is_intact(exchange: &mut Exchange<'_>) -> bool {
    let Ok(body) = exchange.body.read(LARGEST, Parsing::Nothing).await else {
        return false;
    };
    match exchange.request.headers.get(DIGEST) {
        None => body.is_empty(),
        Some(said) => {
            let made = format!("SHA-256={}", STANDARD.encode(sha256(&body)));
            said.as_bytes() == made.as_bytes()
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use shared::secret::Secret;

    use super::*;
    use crate::credentials::SigningSecret;
    use crate::testing::{FakeHost, Request, START, answer_of, consumer};

    fn sign(algorithm: hmac::Algorithm, text: &str) -> String {
        let key = hmac::Key::new(algorithm, b"secret");
        STANDARD.encode(hmac::sign(&key, text.as_bytes()))
    }

    #[test]
    fn whom_another_plugin_knows_stays_who_they_are() {
        let filter: HmacAuth = serde_json::from_str(r#"{"anonymous": "nobody"}"#).unwrap();
        let host = FakeHost::default();
        request(&[]).with_exchange(|exchange| {
            // `openid-connect` maps consumers without a credential.
            let known = exchange
                .environment
                .consumers
                .by_id
                .values()
                .next()
                .cloned();
            exchange.identity.consumer = known;
            let flow = host.run(filter.on_request(exchange, &host));
            assert!(matches!(flow, Flow::Continue) && !exchange.identity.anonymous);
            let known = exchange.identity.consumer.as_ref().unwrap();
            assert_eq!(known.username.as_deref(), Some("bob"));
        });
    }

    fn request(headers: &[(&'static str, &str)]) -> Request {
        let mut request = Request::get("/requests?a=1");
        let consumer = consumer("bob", None);
        let secret = SigningSecret {
            consumer: consumer.id,
            secret: Secret::new("secret".to_owned()),
        };
        let environment = &mut request.environment;
        environment
            .credentials
            .hmac
            .insert("bob".to_owned(), secret);
        environment.consumers.by_id.insert(consumer.id, consumer);
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).unwrap();
            request.headers.push((HeaderName::from_static(name), value));
        }
        request
    }

    fn date(offset: u64) -> String {
        let seconds = START.as_secs() + offset;
        httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
    }

    fn check(config: &str, headers: &[(&'static str, &str)], expected: Result<(), &str>) {
        let filter: HmacAuth = serde_json::from_str(config).unwrap();
        let answer = answer_of(&filter, &FakeHost::default(), &request(headers));
        match expected {
            Ok(()) => {
                assert_eq!(answer.status, 200, "{headers:?} {}", answer.message());
                assert_eq!(answer.upstream_header("x-credential-identifier"), "bob");
            }
            Err(message) => {
                assert_eq!((answer.status, answer.message().as_str()), (401, message));
                assert_eq!(answer.header("www-authenticate"), "hmac");
            }
        }
    }

    #[test]
    fn a_signature_over_date_and_request_line_passes() {
        let date = date(10);
        for (name, algorithm) in [
            ("hmac-sha1", hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
            ("hmac-sha256", hmac::HMAC_SHA256),
            ("hmac-sha384", hmac::HMAC_SHA384),
            ("hmac-sha512", hmac::HMAC_SHA512),
        ] {
            let text = format!(
                "date: {date}\nGET /requests?a=1 HTTP/1.1\n@request-target: get /requests?a=1"
            );
            let signature = sign(algorithm, &text);
            let header = format!(
                r#"hmac username="bob", algorithm="{name}", headers="date request-line @request-target", signature="{signature}""#
            );
            check("{}", &[("date", &date), ("authorization", &header)], Ok(()));
            check(
                "{}",
                &[("x-date", &date), ("proxy-authorization", &header)],
                Err(DIFFERENT),
            );
            let only = r#"{"algorithms": ["hmac-sha256"]}"#;
            let expected = if name == "hmac-sha256" {
                Ok(())
            } else {
                Err(UNVERIFIABLE)
            };
            check(
                only,
                &[("date", &date), ("authorization", &header)],
                expected,
            );
        }
    }

    #[test]
    fn a_signature_is_found_as_kong_finds_it() {
        let now = date(0);
        let check_of = |text: &str, before: &str, signed: &str, expected| {
            let signature = sign(hmac::HMAC_SHA256, text);
            let header = format!(
                r#"{before}username="bob",  algorithm="hmac-sha256",headers="{signed}", signature="{signature}""#
            );
            check(
                "{}",
                &[("date", &now), ("authorization", &header)],
                expected,
            );
        };
        let dated = format!("date: {now}");
        check_of(&dated, "hmac ", "date", Ok(()));
        check_of(&dated, "HMAC ", "date", Ok(()));
        check_of(&dated, "\"hmac ", "date", Ok(()));
        check_of(&dated, "hma ", "date", Err(UNVERIFIABLE));
        // Without the query, whoever sees it signed could send any (Kong 3.0).
        for (target, expected) in [
            ("/requests?a=1", Ok(())),
            ("/requests", Err(DIFFERENT)),
            ("/requests?a=2", Err(DIFFERENT)),
        ] {
            let text = format!("{dated}\nGET {target} HTTP/1.1");
            check_of(&text, "hmac ", "date request-line", expected);
        }
        let header =
            r#"hmac username="bob",algorithm="hmac-sha1",headers="date",signature="not Base64!!!""#;
        let headers = [("date", now.as_str()), ("authorization", header)];
        check("{}", &headers, Err(DIFFERENT));
        for nothing in [
            "hmac username=,algorithm,headers,dXNlcg==",
            "hmac :dXNlcg==",
            "asd",
        ] {
            let headers = [("date", now.as_str()), ("authorization", nothing)];
            check("{}", &headers, Err(UNVERIFIABLE));
        }
    }

    #[test]
    fn what_is_missing_or_stale_is_said() {
        const NO_DATE: &str = "HMAC signature cannot be verified, a valid date or x-date header is required for HMAC Authentication";
        let now = date(0);
        let signature = sign(hmac::HMAC_SHA256, &format!("date: {now}"));
        let header = |username: &str| {
            format!(
                r#"hmac username="{username}", algorithm="hmac-sha256", headers="date", signature="{signature}""#
            )
        };
        check("{}", &[], Err("Unauthorized"));
        check("{}", &[("authorization", "hmac x")], Err(NO_DATE));
        check(
            "{}",
            &[("date", &date(301)), ("authorization", &header("bob"))],
            Err(NO_DATE),
        );
        check(
            "{}",
            &[("date", &now), ("authorization", "hmac x")],
            Err(UNVERIFIABLE),
        );
        check(
            "{}",
            &[("date", &now), ("authorization", &header("ann"))],
            Err(UNVERIFIABLE),
        );
        check(
            "{}",
            &[("date", &now), ("authorization", &header("bob"))],
            Ok(()),
        );
        let enforced = r#"{"enforce_headers": ["date", "host"]}"#;
        check(
            enforced,
            &[("date", &now), ("authorization", &header("bob"))],
            Err(UNVERIFIABLE),
        );
        let digest = r#"{"validate_request_body": true}"#;
        check(
            digest,
            &[("date", &now), ("authorization", &header("bob"))],
            Ok(()),
        );
        let wrong = [
            ("date", now.as_str()),
            ("digest", "SHA-256=x"),
            ("authorization", &header("bob")),
        ];
        check(digest, &wrong, Err(DIFFERENT));
    }
}
