//! `basic-auth`: lets a request through if it carries a known user name and password (RFC 7617; Kong
//! 3.9, basic-auth).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::entity::basic_auth_hash;
use shared::schema::FieldErrors;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::credentials::Credentials;
use crate::credentials::authentication::{
    Authenticated, Refusal, challenge, is_settled, settle, take,
};
use crate::exchange::Exchange;
use crate::filter::{Filter, Flow, Instance, Plugin, Scope};
use crate::host::Host;

/// Configuration of `basic-auth`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct BasicAuth {
    /// Consumer, by id or username, that requests without valid credentials count as. Without one they
    /// are refused.
    #[serde(default)]
    pub anonymous: Option<String>,

    /// Keeps name and password from the upstream.
    #[serde(default)]
    pub hide_credentials: bool,

    /// Realm of the challenge to clients without credentials.
    #[serde(default = "service")]
    pub realm: String,
}

fn service() -> String {
    "service".to_owned()
}

impl Plugin for BasicAuth {
    const NAME: &'static str = "basic-auth";
    const PRIORITY: u32 = 1100;
    const FORBIDDEN_SCOPES: &'static [Scope] = &[Scope::Consumer];
    type Filter = Self;

    fn compile(self, _: &Instance) -> Result<Self, FieldErrors> {
        Ok(self)
    }
}

impl Filter for BasicAuth {
    async fn on_request(&self, exchange: &mut Exchange<'_>, _: &impl Host) -> Flow {
        let anonymous = self.anonymous.as_deref();
        if is_settled(exchange, anonymous) {
            return Flow::Continue;
        }
        let outcome = self.authenticate(exchange);
        settle(exchange, outcome, anonymous)
    }
}

impl BasicAuth {
    fn authenticate(&self, exchange: &mut Exchange<'_>) -> Result<Authenticated, Refusal> {
        let refusal = || Refusal::new("Unauthorized", challenge("Basic", Some(&self.realm)));
        for header in [PROXY_AUTHORIZATION, AUTHORIZATION] {
            let Some((username, password)) = take(exchange, &header, self.hide_credentials, parse)
            else {
                continue;
            };
            if let Some(found) = verify(&exchange.environment.credentials, &username, &password) {
                return Ok(Authenticated {
                    consumer: found,
                    credential: username,
                });
            }
            if exchange
                .environment
                .credentials
                .basic
                .contains_key(&username)
            {
                return Err(refusal());
            }
        }
        Err(refusal())
    }
}

/// Name and password of `Basic …`.
fn parse(text: &str) -> Option<(String, String)> {
    let text = text.trim_start();
    let (scheme, rest) = text.split_at_checked(5)?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(rest.trim()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (username, password) = decoded.split_once(':')?;
    (!username.is_empty()).then(|| (username.to_owned(), password.to_owned()))
}

/// The consumer with this name and password. A name that nobody has takes as long as a wrong password.
fn verify(credentials: &Credentials, username: &str, password: &str) -> Option<Uuid> {
    let found = credentials.basic.get(username);
    let consumer = found.map_or(Uuid::nil(), |found| found.consumer);
    let hash = basic_auth_hash(password, consumer);
    let stored = found.map_or("", |found| found.hash.expose().as_str());
    let same = bool::from(
        hash.as_bytes()
            .ct_eq(stored.to_ascii_lowercase().as_bytes()),
    );
    found.filter(|_| same).map(|found| found.consumer)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use shared::secret::Secret;

    use super::*;
    use crate::credentials::Password;
    use crate::testing::{FakeHost, Request, answer_of, consumer};

    fn request(authorization: Option<&str>) -> Request {
        let mut request = Request::get("/");
        let consumer = consumer("bob", None);
        let password = Password {
            consumer: consumer.id,
            hash: Secret::new(basic_auth_hash("kong", consumer.id)),
        };
        let environment = &mut request.environment;
        environment
            .credentials
            .basic
            .insert("bob".to_owned(), password);
        environment.consumers.by_id.insert(consumer.id, consumer);
        if let Some(value) = authorization {
            let value = HeaderValue::from_str(value).unwrap();
            request.headers.push((AUTHORIZATION, value));
        }
        request
    }

    #[test]
    fn only_the_right_password_passes() {
        let filter: BasicAuth = serde_json::from_str("{}").unwrap();
        let check = |authorization: Option<&str>, expected: u16| {
            let answer = answer_of(&filter, &FakeHost::default(), &request(authorization));
            assert_eq!(answer.status, expected, "{authorization:?}");
            if expected == 401 {
                assert_eq!(
                    answer.header("www-authenticate"),
                    r#"Basic realm="service""#
                );
                assert_eq!(answer.message(), "Unauthorized");
            } else {
                assert_eq!(answer.upstream_header("x-consumer-username"), "bob");
                assert_eq!(answer.upstream_header("x-credential-identifier"), "bob");
            }
        };
        check(None, 401);
        check(Some("Basic Ym9iOmtvbmc="), 200);
        check(Some("basic  Ym9iOmtvbmc="), 200);
        check(Some("Basic Ym9iOndyb25n"), 401);
        check(Some("Basic YW5uOmtvbmc="), 401);
        check(Some("Basic Ym9i"), 401);
        check(Some("Basic !!"), 401);
        check(Some("Bearer Ym9iOmtvbmc="), 401);
        check(Some("Bas\u{fc}c x"), 401);
    }

    #[test]
    fn with_an_anonymous_consumer_nobody_is_refused() {
        let filter: BasicAuth = serde_json::from_str(r#"{"anonymous": "nobody"}"#).unwrap();
        let mut wrong = request(Some("Basic Ym9iOndyb25n"));
        let answer = answer_of(&filter, &FakeHost::default(), &wrong);
        assert_eq!(answer.status, 500);
        assert_eq!(
            answer.message(),
            "anonymous consumer nobody is configured but doesn't exist"
        );
        let nobody = consumer("nobody", None);
        let consumers = &mut wrong.environment.consumers;
        consumers
            .by_username
            .insert("nobody".to_owned(), nobody.clone());
        consumers.by_id.insert(nobody.id, nobody);
        let answer = answer_of(&filter, &FakeHost::default(), &wrong);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.upstream_header("x-anonymous-consumer"), "true");
        assert_eq!(answer.upstream_header("x-consumer-username"), "nobody");
    }
}
