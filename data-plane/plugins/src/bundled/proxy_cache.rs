//! `proxy-cache`: keeps answers and gives them to those who ask the same (RFC 9111; Kong 3.9,
//! proxy-cache).

mod directives;
mod media;
pub mod store;
mod vary;

use std::time::Duration;

use bytes::Bytes;
use http::header::{AGE, AUTHORIZATION, CONTENT_TYPE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::clock::UnixTime;
use shared::entity::Revocation;
use shared::hexadecimal::hexadecimal;
use shared::schema::FieldErrors;
use uuid::Uuid;

use self::directives::Directives;
use self::media::MediaType;
use self::store::{Kept, store};
use self::vary::{digested, encodings, values, varies_by};
use crate::answer;
use crate::config::values::yes;
use crate::credentials::arguments::Arguments;
use crate::exchange::{BodyWish, Exchange, Reply, Seen, Source, Told, WholeBody};
use crate::filter::{Filter, Flow, Instance, Phases, Plugin};
use crate::host::Host;

const STATUS: HeaderName = HeaderName::from_static("x-cache-status");
const KEY: HeaderName = HeaderName::from_static("x-cache-key");

/// Largest body that is kept, in bytes.
const LARGEST: usize = 1024 * 1024;

/// How long an answer is kept at most, whatever says so.
pub const LONGEST: Duration = Duration::from_hours(30 * 24);

/// Configuration of `proxy-cache`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct ProxyCache {
    /// Statuses of answers that are kept.
    #[serde(default = "codes")]
    #[schemars(length(min = 1))]
    pub response_code: Vec<ResponseCode>,

    /// Methods of requests whose answers are kept.
    #[serde(default = "methods")]
    pub request_method: Vec<CachedMethod>,

    /// Media types of answers that are kept, `*` for all; malformed ones stand for none.
    #[serde(default = "types")]
    pub content_type: Vec<String>,

    /// How long answers are kept, in seconds.
    #[serde(default = "five_minutes")]
    pub cache_ttl: i64,

    /// Where answers are kept. One with more than 1 MiB of content is not: it says `Bypass`.
    pub strategy: Strategy,

    /// Does as `Cache-Control` says.
    #[serde(default)]
    pub cache_control: bool,

    /// Takes paths that differ in case only for the same.
    #[serde(default)]
    pub ignore_uri_case: bool,

    /// How long answers are held, in seconds, whatever else says; for clients that take stale ones.
    #[serde(default)]
    pub storage_ttl: Option<i64>,

    /// The memory that answers are kept in.
    #[serde(default)]
    pub memory: Memory,

    /// Query arguments that tell requests apart; all if empty.
    #[serde(default)]
    pub vary_query_params: Option<Vec<String>>,

    /// Headers that tell requests apart.
    #[serde(default)]
    pub vary_headers: Option<Vec<String>>,

    /// What clients are told of the cache.
    #[serde(default)]
    pub response_headers: ToldHeaders,
}

/// A status.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(transparent)]
#[schemars(inline)]
pub struct ResponseCode(#[schemars(range(min = 100, max = 900))] pub u16);

/// A method whose answers can be kept.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names are those of RFC 9110 §9.3")]
pub enum CachedMethod {
    Head,
    Get,
    Post,
    Patch,
    Put,
}

impl CachedMethod {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Head => "HEAD",
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Patch => "PATCH",
            Self::Put => "PUT",
        }
    }
}

/// Where answers are kept.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// In each node's memory.
    Memory,
}

/// Names that Kong has for memory, in its own template.
const DICTIONARIES: [&str; 10] = [
    "kong",
    "kong_cluster_events",
    "kong_core_db_cache",
    "kong_core_db_cache_miss",
    "kong_db_cache",
    "kong_db_cache_miss",
    "kong_healthchecks",
    "kong_locks",
    "kong_rate_limiting_counters",
    "kong_secrets",
];

/// The memory of a node.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Memory {
    /// One of Kong's names for it; all mean the same.
    #[serde(default = "dictionary")]
    pub dictionary_name: String,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            dictionary_name: dictionary(),
        }
    }
}

/// What clients are told of the cache.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct ToldHeaders {
    /// How old a kept answer is.
    #[serde(rename = "age", alias = "Age", default = "yes")]
    pub age: bool,

    /// Whether the answer was a kept one.
    #[serde(rename = "X-Cache-Status", default = "yes")]
    pub status: bool,

    /// What the answer is kept under.
    #[serde(rename = "X-Cache-Key", default = "yes")]
    pub key: bool,
}

impl Default for ToldHeaders {
    fn default() -> Self {
        Self {
            age: true,
            status: true,
            key: true,
        }
    }
}

fn codes() -> Vec<ResponseCode> {
    vec![ResponseCode(200), ResponseCode(301), ResponseCode(404)]
}

fn methods() -> Vec<CachedMethod> {
    vec![CachedMethod::Get, CachedMethod::Head]
}

fn types() -> Vec<String> {
    vec!["text/plain".to_owned(), "application/json".to_owned()]
}

const fn five_minutes() -> i64 {
    300
}

fn dictionary() -> String {
    "kong_db_cache".to_owned()
}

impl Plugin for ProxyCache {
    const NAME: &'static str = "proxy-cache";
    const PRIORITY: u32 = 100;
    type Filter = ProxyCacheFilter;

    fn compile(self, instance: &Instance) -> Result<ProxyCacheFilter, FieldErrors> {
        let mut errors = FieldErrors::default();
        if self.cache_ttl <= 0 {
            errors.add(&["cache_ttl"], "value must be greater than 0");
        }
        let name = &self.memory.dictionary_name;
        if !DICTIONARIES.contains(&name.as_str()) {
            errors.add_rule(format!("missing shared dict '{name}'"));
        }
        let mut vary_headers = Vec::new();
        for name in self.vary_headers.iter().flatten() {
            match HeaderName::try_from(name.as_str()) {
                Ok(name) => vary_headers.push(name),
                Err(_) => errors.add(&["vary_headers"], format!("bad header name '{name}'")),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        vary_headers.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        Ok(ProxyCacheFilter {
            instance: instance.id,
            own_name: Revocation::cache(instance.id),
            types: self
                .content_type
                .iter()
                .filter_map(|text| MediaType::parse(text))
                .collect(),
            vary_headers,
            config: self,
        })
    }
}

/// Keeps answers.
#[derive(Debug)]
pub struct ProxyCacheFilter {
    instance: Uuid,
    /// What all that it keeps is called where it is dropped.
    own_name: Uuid,
    config: ProxyCache,
    types: Vec<MediaType>,
    vary_headers: Vec<HeaderName>,
}

/// What the response is to be kept under, and what the client is told.
struct Wanted {
    key: [u8; 32],
    epochs: [u64; 2],
    status: &'static str,
}

/// The request's answer is not to be kept.
struct Bypassed;

/// The answer is a kept one already.
struct Served;

impl Filter for ProxyCacheFilter {
    async fn on_request(&self, exchange: &mut Exchange<'_>, host: &impl Host) -> Flow {
        let directives = Directives::of(&exchange.request.headers);
        if !self.may_serve(exchange, &directives) {
            exchange.notes.put(Bypassed);
            return Flow::Continue;
        }
        let key = self.key(exchange);
        if self.config.response_headers.key
            && let Ok(value) = HeaderValue::from_str(&hexadecimal(&key))
        {
            exchange.response_headers.push((KEY, value));
        }
        let now = host.now();
        let names = [self.own_name, Revocation::cached(key)];
        let epochs = names.map(|name| host.revocations().epoch(name));
        let found = store(host)
            .find(&key, &exchange.request.headers)
            .filter(|kept| now.saturating_since(kept.since) < Duration::from_secs(kept.held))
            .filter(|kept| kept.epochs == epochs);
        let Some(kept) = found else {
            if self.config.cache_control && directives.has("only-if-cached") {
                return Flow::Answer(answer::message(
                    StatusCode::GATEWAY_TIMEOUT,
                    "The upstream server is timing out",
                    &exchange.request_id,
                ));
            }
            exchange.notes.put(Wanted {
                key,
                epochs,
                status: "Miss",
            });
            return Flow::Continue;
        };
        let age = now.saturating_since(kept.since);
        if !self.is_fresh(&kept, age, &directives) {
            exchange.notes.put(Wanted {
                key,
                epochs,
                status: "Refresh",
            });
            return Flow::Continue;
        }
        exchange.notes.put(Served);
        Flow::Kept(self.serve(&kept, age.as_secs()))
    }

    fn phases(&self) -> Phases {
        Phases::RESPONSE
    }

    fn on_response(&self, reply: &mut Reply<'_>, host: &impl Host) {
        let notes = &reply.seen.notes;
        if notes.get::<Served>().is_some() || reply.source != Source::Service {
            return;
        }
        let wanted = notes.get::<Wanted>();
        if wanted.is_some()
            && notes.get::<Bypassed>().is_none()
            && self.may_keep(*reply.status, reply.headers, host.now())
            && !is_somebodys(reply.seen, reply.headers)
        {
            reply.wish = BodyWish::Look(LARGEST);
        }
        if self.config.response_headers.status {
            // What is too long is not shown whole, and stays that.
            let value = HeaderValue::from_static("Bypass");
            reply.headers.insert(STATUS, value);
        }
    }

    fn on_body(&self, whole: &mut WholeBody<'_>, host: &impl Host) {
        let Some(wanted) = whole.seen.notes.get::<Wanted>() else {
            return;
        };
        let ttl = u64::try_from(self.config.cache_ttl).unwrap_or_default();
        let now = host.now();
        let fresh = if self.config.cache_control {
            Directives::of(whole.headers).lifetime(whole.headers, now)
        } else {
            ttl
        };
        let storage = self.config.storage_ttl;
        let held = storage
            .and_then(|ttl| u64::try_from(ttl).ok())
            .unwrap_or(fresh)
            .min(LONGEST.as_secs());
        // What other filters have told this client, they tell the next one as it is then.
        let told = whole.seen.notes.get::<Told>();
        let all = || whole.headers.clone();
        let mut headers = told.map_or_else(all, |told| told.apart_from(whole.headers));
        for name in [STATUS, KEY, AGE] {
            headers.remove(name);
        }
        let Some(names) = varies_by(&headers) else {
            return;
        };
        let kept = Kept {
            status: whole.status,
            headers,
            body: whole.body.clone(),
            since: now,
            epochs: wanted.epochs,
            fresh,
            held,
        };
        let asked = &whole.seen.request.headers;
        store(host).keep(wanted.key, names, asked, kept, host);
        if self.config.response_headers.status {
            let value = HeaderValue::from_static(wanted.status);
            whole.headers.insert(STATUS, value);
        }
    }
}

impl ProxyCacheFilter {
    /// Whether a kept answer may serve the request.
    fn may_serve(&self, exchange: &Exchange<'_>, directives: &Directives) -> bool {
        let method = exchange.request.method.as_str();
        let known = self.config.request_method.iter();
        let mut known = known.map(|known| known.as_str());
        if !known.any(|known| known == method) {
            return false;
        }
        let refused = directives.has("no-store")
            || directives.has("no-cache")
            || exchange.request.headers.contains_key(AUTHORIZATION);
        !(self.config.cache_control && refused)
    }

    /// Whether an answer may be kept.
    fn may_keep(&self, status: StatusCode, headers: &HeaderMap, now: UnixTime) -> bool {
        let mut codes = self.config.response_code.iter();
        if !codes.any(|code| code.0 == status.as_u16()) {
            return false;
        }
        let mut types = headers.get_all(CONTENT_TYPE).iter();
        let (Some(Ok(text)), None) = (types.next().map(HeaderValue::to_str), types.next()) else {
            return false;
        };
        let Some(given) = MediaType::parse(text) else {
            return false;
        };
        if !self.types.iter().any(|wanted| wanted.includes(&given)) {
            return false;
        }
        // One client's cookie is nobody else's (OURS: RFC 9111 §7.3).
        if headers.contains_key(SET_COOKIE) || varies_by(headers).is_none() {
            return false;
        }
        if !self.config.cache_control {
            return true;
        }
        let directives = Directives::of(headers);
        let private = ["private", "no-store", "no-cache"];
        let private = private.iter().any(|name| directives.has(name));
        !private && directives.lifetime(headers, now) > 0
    }

    fn is_fresh(&self, kept: &Kept, age: Duration, directives: &Directives) -> bool {
        let fresh = Duration::from_secs(kept.fresh);
        if !self.config.cache_control {
            return age < fresh;
        }
        let seconds = |name: &str| directives.seconds(name).map(Duration::from_secs);
        let stale = age.saturating_sub(fresh);
        let too_old = seconds("max-age").is_some_and(|most| age > most);
        let too_stale = stale > seconds("max-stale").unwrap_or_default();
        let not_for_long =
            seconds("min-fresh").is_some_and(|least| fresh.saturating_sub(age) < least);
        !(too_old || too_stale || not_for_long)
    }

    fn serve(&self, kept: &Kept, age: u64) -> Response<Bytes> {
        let mut response = Response::new(kept.body.clone());
        *response.status_mut() = kept.status;
        let headers = response.headers_mut();
        headers.extend(kept.headers.clone());
        if self.config.response_headers.age {
            headers.insert(AGE, HeaderValue::from(age));
        }
        if self.config.response_headers.status {
            headers.insert(STATUS, HeaderValue::from_static("Hit"));
        }
        response
    }

    /// What the answer to a request is kept under.
    fn key(&self, exchange: &Exchange<'_>) -> [u8; 32] {
        let request = &exchange.request;
        let path = &exchange.path;
        let lower = self.config.ignore_uri_case.then(|| path.to_lowercase());
        let identity = &exchange.identity;
        let query = Arguments::of(&request.uri);
        let chosen = self.config.vary_query_params.as_deref().unwrap_or_default();
        let mut arguments: Vec<(&str, &str)> = query
            .iter()
            .filter(|(name, _)| chosen.is_empty() || chosen.iter().any(|chosen| chosen == name))
            .collect();
        arguments.sort_unstable();
        let parts = serde_json::json!([
            self.instance,
            // Also of somebody who is no consumer, an answer is for nobody else.
            identity.consumer.as_ref().map(|consumer| consumer.id),
            identity.credential,
            identity.authenticated_groups,
            exchange.matched.route.id,
            exchange.client.authority,
            request.method.as_str(),
            lower.as_ref().unwrap_or(path),
            arguments,
            values(&self.vary_headers, &request.headers),
            encodings(&request.headers),
        ]);
        digested(&parts)
    }
}

/// Whether an answer is for its client alone, as far as one can tell: the request has told the upstream whose it is,
/// which the gateway knows nothing of (RFC 9111 §3.5).
fn is_somebodys(seen: &Seen, answer: &HeaderMap) -> bool {
    let who = &seen.identity;
    let told = who.consumer.is_some() || who.credential.is_some();
    let known = !who.anonymous && (told || who.authenticated_groups.is_some());
    if known || !seen.request.headers.contains_key(AUTHORIZATION) {
        return false;
    }
    let directives = Directives::of(answer);
    let shared = ["public", "s-maxage", "must-revalidate"];
    !shared.iter().any(|name| directives.has(name))
}

#[cfg(test)]
mod tests;
