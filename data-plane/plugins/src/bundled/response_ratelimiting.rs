//! `response-ratelimiting`: the upstream says in a header how much of which quota a response costs, and a
//! client that has used a quota up gets no more of it (Kong 3.9, response-ratelimiting).

#[cfg(test)]
mod tests;
mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::clock::UnixTime;
use shared::schema::FieldErrors;
use uuid::Uuid;

use crate::answer;
use crate::bundled::rate_limiting::{Amounts, Period, Policy, consumer_of, unknown, whole};
use crate::config::redis_config::{self, RedisConfig};
use crate::config::values::{Number, yes};
use crate::exchange::{BodyWish, Exchange, Reply};
use crate::filter::{Filter, Flow, Instance, Over, Phases, Plugin};
use crate::host::Host;
use crate::host::redis::RedisServer;

/// Configuration of `response-ratelimiting`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct ResponseRatelimiting {
    /// Header of responses that says what they cost, such as `videos=1, images=2`. Clients do not see it.
    #[serde(default = "kong_limit")]
    pub header_name: String,

    /// What tells clients apart. Those that it does not tell apart are told apart by address.
    #[serde(default = "consumer")]
    pub limit_by: ResponseLimitBy,

    /// Where is counted: on each node for itself, or in Redis for all.
    #[serde(default = "local")]
    pub policy: Policy,

    /// Lets requests through while Redis cannot be asked.
    #[serde(default = "yes")]
    pub fault_tolerant: bool,

    /// The Redis server.
    #[serde(default)]
    pub redis: RedisConfig,

    /// Refuses every request of a client that has used up any quota, and not only those that would cost more
    /// of it.
    #[serde(default)]
    pub block_on_first_violation: bool,

    /// Does not tell clients what they have left.
    #[serde(default)]
    pub hide_client_headers: bool,

    /// Quotas by name, each with so many units per period.
    #[schemars(extend("minProperties" = 1))]
    pub limits: BTreeMap<String, Amounts>,
}

/// What tells clients apart.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ResponseLimitBy {
    /// The consumer, else the credential.
    Consumer,
    /// The credential.
    Credential,
    /// The address.
    Ip,
}

fn kong_limit() -> String {
    "x-kong-limit".to_owned()
}

const fn consumer() -> ResponseLimitBy {
    ResponseLimitBy::Consumer
}

const fn local() -> Policy {
    Policy::Local
}

impl Plugin for ResponseRatelimiting {
    const NAME: &'static str = "response-ratelimiting";
    const PRIORITY: u32 = 900;
    const SHORTHANDS: &'static [(&'static str, &'static str)] = &redis_config::OLD_NAMES;
    const SHOWS_OLD_NAMES: bool = true;
    type Filter = ResponseRatelimitingFilter;

    fn compile(self, instance: &Instance) -> Result<ResponseRatelimitingFilter, FieldErrors> {
        let mut errors = FieldErrors::default();
        let header = HeaderName::try_from(self.header_name.as_str()).ok();
        if header.is_none() {
            errors.add(&["header_name"], "bad header name");
        }
        let mut quotas = Vec::new();
        for (name, quota) in &self.limits {
            let given = quota.given();
            quota.check(&["limits"], &mut errors);
            if let Some(disorder) = quota.disorder() {
                errors.add(&["limits"], format!("the {disorder}"));
            }
            if given.is_empty() {
                let needed = "at least one of these fields must be non-empty: 'second', 'minute', 'hour', 'day', 'month', 'year'";
                errors.put(&["limits", "@entity"], json!([needed]));
            }
            if let Some(quota) = CompiledQuota::new(name, &given) {
                quotas.push(quota);
            } else {
                let message = format!("the name '{name}' cannot be part of a header's");
                errors.add(&["limits"], message);
            }
        }
        if self.policy == Policy::Redis && self.redis.host.is_none() {
            errors.add(&["redis", "host"], "required field missing");
            errors.add_rule("failed conditional validation given value of field 'config.policy'");
        }
        let Some(header) = header.filter(|_| errors.is_empty()) else {
            return Err(errors);
        };
        Ok(ResponseRatelimitingFilter {
            instance: instance.id,
            header,
            limit_by: self.limit_by,
            remote: (self.policy == Policy::Redis)
                .then(|| self.redis.server())
                .flatten(),
            fault_tolerant: self.fault_tolerant,
            blocks: self.block_on_first_violation,
            hides_headers: self.hide_client_headers,
            quotas,
        })
    }
}

/// A quota, with the names of its headers.
#[derive(Debug)]
struct CompiledQuota {
    name: String,
    /// What the upstream is told.
    left: HeaderName,
    limits: Vec<Limit>,
}

#[derive(Debug)]
struct Limit {
    period: Period,
    most: u64,
    /// What the client is told.
    most_header: HeaderName,
    left_header: HeaderName,
}

impl CompiledQuota {
    /// `None` if the name is no part of a header name.
    fn new(name: &str, given: &[(Period, &Number)]) -> Option<Self> {
        let header = |text: String| HeaderName::try_from(text).ok();
        let limits = given.iter().map(|(period, most)| {
            let place = format!("{name}-{}", period.name());
            Some(Limit {
                period: *period,
                most: whole(most),
                most_header: header(format!("x-ratelimit-limit-{place}"))?,
                left_header: header(format!("x-ratelimit-remaining-{place}"))?,
            })
        });
        Some(Self {
            limits: limits.collect::<Option<_>>()?,
            left: header(format!("x-ratelimit-remaining-{name}"))?,
            name: name.to_owned(),
        })
    }
}

/// Counts what responses cost.
#[derive(Debug)]
pub struct ResponseRatelimitingFilter {
    instance: Uuid,
    header: HeaderName,
    limit_by: ResponseLimitBy,
    /// The server to count in, if it is not this node.
    remote: Option<Arc<RedisServer>>,
    fault_tolerant: bool,
    blocks: bool,
    hides_headers: bool,
    quotas: Vec<CompiledQuota>,
}

/// What a client had used when its request came, by quota and limit.
struct Used {
    client: String,
    now: UnixTime,
    counts: Vec<Vec<u64>>,
}

/// What the response costs, by quota.
struct Costs(Vec<u64>);

impl Filter for ResponseRatelimitingFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        let (client, now) = (self.client(exchange), host.now());
        let counts = match usage::read(self, host, &client, now).await {
            Ok(counts) => counts,
            Err(error) => return unknown(&error, self.fault_tolerant, exchange),
        };
        for (quota, used) in self.quotas.iter().zip(&counts) {
            let left = quota.limits.iter().zip(used);
            let left = left
                .map(|(limit, used)| limit.most.saturating_sub(*used))
                .min();
            let left = left.unwrap_or_default();
            if self.blocks && left == 0 {
                let message = format!("API rate limit exceeded for '{}'", quota.name);
                return Flow::Answer(answer::error(
                    StatusCode::TOO_MANY_REQUESTS,
                    &message,
                    exchange,
                ));
            }
            let value = HeaderValue::from(left);
            exchange.request.headers.insert(quota.left.clone(), value);
        }
        exchange.notes.put(Used {
            client,
            now,
            counts,
        });
        Flow::Continue
    }

    fn phases(&self) -> Phases {
        Phases::ALL
    }

    fn on_response(&self, reply: &mut Reply<'_>, _: &impl Host) {
        let costs = self.costs(reply.headers.get_all(&self.header).iter());
        reply.headers.remove(&self.header);
        let Some(used) = reply.seen.notes.get::<Used>() else {
            return;
        };
        let mut exceeded = false;
        for ((quota, used), cost) in self.quotas.iter().zip(&used.counts).zip(&costs) {
            for (limit, used) in quota.limits.iter().zip(used) {
                let left = limit.most.saturating_sub(*used);
                exceeded |= *cost > 0 && left == 0;
                if !self.hides_headers {
                    let headers = &mut *reply.headers;
                    headers.insert(limit.most_header.clone(), limit.most.into());
                    let after = left.saturating_sub(*cost);
                    headers.insert(limit.left_header.clone(), after.into());
                }
            }
        }
        if exceeded {
            *reply.status = StatusCode::TOO_MANY_REQUESTS;
            reply.wish = BodyWish::Discard;
        } else {
            reply.seen.notes.put(Costs(costs));
        }
    }

    fn on_log(&self, over: Over<'_>, host: &impl Host) {
        let Over::Exchange(log) = over else {
            return;
        };
        let notes = &log.seen.notes;
        if let (Some(used), Some(Costs(costs))) = (notes.get::<Used>(), notes.get::<Costs>()) {
            usage::add(self, host, used, costs);
        }
    }
}

impl ResponseRatelimitingFilter {
    fn client(&self, exchange: &Exchange<'_>) -> String {
        let identity = &exchange.identity;
        let found = match self.limit_by {
            ResponseLimitBy::Ip => None,
            ResponseLimitBy::Credential => identity.credential.clone(),
            ResponseLimitBy::Consumer => consumer_of(identity),
        };
        found.unwrap_or_else(|| exchange.client.address.to_string())
    }

    /// What a response costs that says `said`, in one field or several. Quotas that are not configured are of no
    /// interest; of several costs of one quota the last counts, as in Kong.
    fn costs<'a>(&self, said: impl Iterator<Item = &'a HeaderValue>) -> Vec<u64> {
        let texts = said.filter_map(|value| value.to_str().ok());
        let told: Vec<(&str, u64)> = texts
            .flat_map(|text| text.split(','))
            .filter_map(|part| part.split_once('='))
            .filter_map(|(name, cost)| Some((name.trim(), cost.trim().parse().ok()?)))
            .collect();
        let cost = |quota: &CompiledQuota| {
            let found = told.iter().rev().find(|(name, _)| *name == quota.name);
            found.map_or(0, |(_, cost)| *cost)
        };
        self.quotas.iter().map(cost).collect()
    }
}
