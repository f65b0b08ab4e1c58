//! `rate-limiting`: lets each client make so many requests per second, minute, hour, day, month or year
//! (Kong 3.9, rate-limiting).

mod amounts;
mod counters;
mod period;
mod remote;
mod synchronised;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;
use uuid::Uuid;

pub(crate) use self::amounts::{Amounts, whole};
pub(crate) use self::counters::Counters;
use self::counters::Usage;
pub(crate) use self::period::Period;
use crate::answer;
use crate::bundled::request_termination::{final_status, refuse_interim};
use crate::config::redis_config::{self, RedisConfig};
use crate::config::values::{Number, whole_error, yes};
use crate::exchange::{Exchange, Identity, Matched};
use crate::filter::{Filter, Flow, Instance, Plugin};
use crate::glance::{Glance, Looks, Pass, Value};
use crate::host::Host;
use crate::host::redis::{RedisError, RedisServer};

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Configuration of `rate-limiting`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct RateLimiting {
    /// How many requests per period.
    #[serde(flatten)]
    pub limits: Amounts,

    /// What tells clients apart. Those that it does not tell apart are told apart by address.
    #[serde(default = "consumer")]
    pub limit_by: LimitBy,

    /// Header that tells clients apart, with `limit_by` `header`.
    #[serde(default)]
    pub header_name: Option<LimitHeader>,

    /// Path whose requests are counted together, with `limit_by` `path`.
    #[serde(default)]
    pub path: Option<LimitPath>,

    /// Where requests are counted: on each node for itself, or in Redis for all.
    #[serde(default = "local")]
    pub policy: Policy,

    /// Lets requests through while Redis cannot be asked.
    #[serde(default = "yes")]
    pub fault_tolerant: bool,

    /// The Redis server.
    #[serde(default)]
    pub redis: RedisConfig,

    /// Does not tell clients how many requests they have left.
    #[serde(default)]
    pub hide_client_headers: bool,

    /// Status of the answer to clients that ask too often.
    #[serde(default = "Number::of::<429>")]
    pub error_code: Number,

    /// Message of that answer.
    #[serde(default = "exceeded")]
    pub error_message: String,

    /// How often a node's counts are brought together with Redis, in seconds; -1: with every request.
    #[serde(default = "Number::of::<-1>")]
    pub sync_rate: Number,
}

/// What tells clients apart.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitBy {
    /// The consumer, else the credential.
    Consumer,
    /// The credential.
    Credential,
    /// The address.
    Ip,
    /// The service: all its clients are counted together.
    Service,
    /// A header.
    Header,
    /// A path: all its clients are counted together.
    Path,
}

/// Where requests are counted.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// On each node for itself.
    Local,
    /// In Redis.
    Redis,
}

/// The name of a header.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(transparent)]
#[schemars(inline)]
pub struct LimitHeader(#[schemars(extend("format" = "kong-header-name"))] pub String);

/// A path.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(transparent)]
#[schemars(inline)]
pub struct LimitPath(#[schemars(extend("format" = "kong-path"))] pub String);

const fn consumer() -> LimitBy {
    LimitBy::Consumer
}

const fn local() -> Policy {
    Policy::Local
}

fn exceeded() -> String {
    "API rate limit exceeded".to_owned()
}

impl RateLimiting {
    /// The rules between fields.
    fn check(&self) -> FieldErrors {
        let mut errors = FieldErrors::default();
        self.limits.check(&[], &mut errors);
        if self.limits.given().is_empty() {
            errors.add_rule("at least one of these fields must be non-empty: 'config.second', 'config.minute', 'config.hour', 'config.day', 'config.month', 'config.year'",
            );
        }
        for (applies, field, missing) in [
            (
                self.policy == Policy::Redis,
                "policy",
                ("redis", "host", self.redis.host.is_none()),
            ),
            (
                self.limit_by == LimitBy::Header,
                "limit_by",
                ("header_name", "", self.header_name.is_none()),
            ),
            (
                self.limit_by == LimitBy::Path,
                "limit_by",
                ("path", "", self.path.is_none()),
            ),
        ] {
            let (record, inner, missing) = missing;
            if applies && missing {
                let path = [record, inner];
                let path = if inner.is_empty() {
                    &path[..1]
                } else {
                    &path[..]
                };
                errors.add(path, "required field missing");
                errors.add_rule(format!(
                    "failed conditional validation given value of field 'config.{field}'"
                ));
            }
        }
        if self.error_code.value() <= 0.0 {
            errors.add(&["error_code"], "value must be greater than 0");
        }
        if let Some(disorder) = self.limits.disorder() {
            whole_error(&mut errors, format!("The {disorder}"));
        }
        errors
    }
}

impl RateLimiting {
    /// The status of the answer, if it is a whole number.
    fn code(&self) -> Option<u16> {
        let code = self.error_code.0.as_u64()?;
        u16::try_from(code).ok()
    }
}

/// Tells Redis what the node of `host` has counted since it was last told. Answers how many clients are left of whom it
/// could not be told.
pub async fn flush(host: &impl Host) -> usize {
    synchronised::flush(host).await
}

/// What becomes of a request whose client's usage is not known.
pub(crate) fn unknown(error: &RedisError, tolerated: bool, exchange: &Exchange<'_>) -> Flow {
    let request_id = &*exchange.request_id;
    tracing::error!(request_id, %error, "failed to get usage");
    if tolerated {
        return Flow::Continue;
    }
    Flow::Answer(answer::message(
        StatusCode::INTERNAL_SERVER_ERROR,
        "An unexpected error occurred",
        &exchange.request_id,
    ))
}

/// What the requests of a consumer have in common, or those with a credential.
pub(crate) fn consumer_of(identity: &Identity) -> Option<String> {
    let consumer = identity.consumer.as_ref();
    let id = consumer.map(|consumer| consumer.id.to_string());
    id.or_else(|| identity.credential.clone())
}

impl Plugin for RateLimiting {
    const NAME: &'static str = "rate-limiting";
    const PRIORITY: u32 = 910;
    const SHORTHANDS: &'static [(&'static str, &'static str)] = &redis_config::OLD_NAMES;
    const SHOWS_OLD_NAMES: bool = true;
    type Filter = RateLimitingFilter;

    fn refuse(&self, errors: &mut FieldErrors) {
        match self.code() {
            Some(code) if code < 1000 => refuse_interim("error_code", code, errors),
            _ => errors.add(
                &["error_code"],
                "must be a status: an integer from 200 to 999",
            ),
        }
    }

    fn compile(self, instance: &Instance) -> Result<RateLimitingFilter, FieldErrors> {
        let mut errors = self.check();
        let header = self.header_name.as_ref().and_then(|LimitHeader(name)| {
            let header = HeaderName::try_from(name.as_str()).ok();
            if header.is_none() {
                errors.add(&["header_name"], "bad header name");
            }
            header
        });
        if !errors.is_empty() {
            return Err(errors);
        }
        let given = self.limits.given().into_iter();
        let limits = given
            .map(|(period, most)| Limit::new(period, most))
            .collect();
        let status = self.code().and_then(final_status);
        let remote = (self.policy == Policy::Redis)
            .then(|| self.redis.server())
            .flatten();
        Ok(RateLimitingFilter {
            instance: instance.id,
            limits,
            limit_by: self.limit_by,
            header,
            path: self.path.map(|LimitPath(path)| path),
            remote,
            sync_rate: (self.sync_rate.value() > 0.0).then(|| self.sync_rate.seconds()),
            fault_tolerant: self.fault_tolerant,
            hides_headers: self.hide_client_headers,
            status: status.unwrap_or(StatusCode::TOO_MANY_REQUESTS),
            message: self.error_message,
        })
    }
}

/// A limit, with the names of its headers.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub(crate) period: Period,
    pub(crate) most: u64,
    shown: HeaderValue,
    most_header: HeaderName,
    left_header: HeaderName,
}

impl Limit {
    fn new(period: Period, most: &Number) -> Self {
        let header = |kind: &str| {
            HeaderName::try_from(format!("x-ratelimit-{kind}-{}", period.name()))
                .expect("the names of periods are letters")
        };
        let most = whole(most);
        Self {
            period,
            most,
            shown: HeaderValue::from(most),
            most_header: header("limit"),
            left_header: header("remaining"),
        }
    }
}

/// Counts requests.
#[derive(Debug)]
pub struct RateLimitingFilter {
    instance: Uuid,
    limits: Vec<Limit>,
    limit_by: LimitBy,
    header: Option<HeaderName>,
    path: Option<String>,
    /// The server to count in, if it is not this node.
    remote: Option<Arc<RedisServer>>,
    sync_rate: Option<std::time::Duration>,
    fault_tolerant: bool,
    hides_headers: bool,
    status: StatusCode,
    message: String,
}

impl Filter for RateLimitingFilter {
    fn looks(&self) -> Looks {
        if self.remote.is_none() {
            Looks::Counting
        } else {
            Looks::Never
        }
    }

    fn on_glance(&self, request: &Glance<'_>, pass: &mut Pass, host: &impl Host) -> Option<()> {
        let nobody = Identity::default();
        let header = match &self.header {
            Some(name) => match pass.value(request, name) {
                Value::Missing => None,
                Value::Sole(value) => Some(value),
                Value::Repeated => return None,
            },
            None => None,
        };
        let client = self.client(&Asker {
            identity: pass.known.as_ref().map_or(&nobody, |known| &known.identity),
            address: request.client.address,
            matched: request.matched,
            path: request.path,
            header,
        });
        let now = host.now();
        let usage = Counters::of(host).count(self.instance, &client, &self.limits, now);
        if usage.exceeded.is_some() {
            // Nothing was counted: the whole look refuses it.
            return None;
        }
        if !self.hides_headers {
            self.tell(&usage, now, &mut pass.response_headers);
        }
        Some(())
    }

    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        let headers = &exchange.request.headers;
        let header = self.header.as_ref().and_then(|name| headers.get(name));
        let client = self.client(&Asker {
            identity: &exchange.identity,
            address: exchange.client.address,
            matched: exchange.matched,
            path: &exchange.path,
            header: header.map(HeaderValue::as_bytes),
        });
        let now = host.now();
        let counted = match &self.remote {
            None => Ok(Counters::of(host).count(self.instance, &client, &self.limits, now)),
            Some(server) => match self.sync_rate {
                None => {
                    remote::count(host, server, self.instance, &client, &self.limits, now).await
                }
                Some(rate) => {
                    let key = (self.instance, client.as_str());
                    let rate = (rate, !self.fault_tolerant);
                    synchronised::count(host, server, key, &self.limits, rate).await
                }
            },
        };
        let usage = match counted {
            Ok(usage) => usage,
            Err(error) => return unknown(&error, self.fault_tolerant, exchange),
        };
        let mut reset = None;
        if !self.hides_headers {
            reset = self.tell(&usage, now, &mut exchange.response_headers);
        }
        if usage.exceeded.is_none() {
            return Flow::Continue;
        }
        let mut answer = answer::error(self.status, &self.message, exchange);
        if let Some(reset) = reset {
            let headers = answer.headers_mut();
            headers.insert(http::header::RETRY_AFTER, HeaderValue::from(reset));
        }
        Flow::Answer(answer)
    }
}

/// What of a request tells whose it is.
struct Asker<'a> {
    identity: &'a Identity,
    address: IpAddr,
    matched: &'a Matched,
    path: &'a str,
    /// The value of the header that tells clients apart.
    header: Option<&'a [u8]>,
}

/// Bytes of a header's value by which clients are told apart as they stand.
const MOST_OF_A_HEADER: usize = 256;

/// What a header's value says of a client: of a long one its hash, so that nobody fills the memory with such.
fn of_header(value: &[u8]) -> String {
    if value.len() > MOST_OF_A_HEADER {
        return blake3::hash(value).to_hex().to_string();
    }
    String::from_utf8_lossy(value).into_owned()
}

impl RateLimitingFilter {
    /// What the requests of one client have in common.
    fn client(&self, asker: &Asker<'_>) -> String {
        let identity = asker.identity;
        let found = match self.limit_by {
            LimitBy::Ip => None,
            LimitBy::Credential => identity.credential.clone(),
            LimitBy::Consumer => consumer_of(identity),
            LimitBy::Service => {
                let service = asker.matched.service.as_ref();
                service.map(|service| service.id.to_string())
            }
            LimitBy::Header => {
                let value = asker.header.filter(|value| !value.is_empty());
                value.map(of_header)
            }
            LimitBy::Path => self.path.clone().filter(|path| path == asker.path),
        };
        found.unwrap_or_else(|| asker.address.to_string())
    }

    /// Tells the client what it has left, and answers after how many seconds there is more.
    fn tell(
        &self,
        usage: &Usage,
        now: shared::clock::UnixTime,
        headers: &mut Vec<(HeaderName, HeaderValue)>,
    ) -> Option<u64> {
        let mut tightest: Option<(&Limit, u64)> = None;
        for (limit, used) in self.limits.iter().zip(&usage.before) {
            let counted = usage.exceeded.is_none_or(|period| period == limit.period);
            let remaining = limit.most.saturating_sub(*used);
            let remaining = remaining.saturating_sub(u64::from(counted));
            // Of equal ones, the longest period counts.
            if tightest.is_none_or(|(_, least)| remaining <= least) {
                tightest = Some((limit, remaining));
            }
            headers.push((limit.most_header.clone(), limit.shown.clone()));
            headers.push((limit.left_header.clone(), HeaderValue::from(remaining)));
        }
        let (limit, remaining) = tightest?;
        let reset = limit.period.reset(now);
        headers.push((LIMIT, limit.shown.clone()));
        headers.push((REMAINING, HeaderValue::from(remaining)));
        headers.push((RESET, HeaderValue::from(reset)));
        Some(reset)
    }
}
