//! A named set of targets that requests are spread over.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::health_check::HealthChecks;
use super::{Certificate, Entity, OnDelete, conditional, is_empty, required};
use crate::clock::UnixTime;
use crate::schema::FieldErrors;
use crate::types::{Path, Ref, Set, Tag};

/// A named set of targets that requests are spread over. A service whose host is the name uses it.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Upstream {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Time of the last change, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub updated_at: u64,
    /// Unique name, in the form of a host name.
    #[schemars(extend("x-unique" = true, "format" = "kong-upstream-name"))]
    pub name: String,
    /// How a target is chosen.
    #[serde(default = "round_robin")]
    pub algorithm: Option<Algorithm>,
    /// What of a request is hashed.
    #[serde(default = "none")]
    pub hash_on: Option<HashOn>,
    /// What is hashed when a request does not have what `hash_on` names.
    #[serde(default = "none")]
    pub hash_fallback: Option<HashOn>,
    /// The header to hash.
    #[schemars(extend("format" = "kong-header-name"))]
    pub hash_on_header: Option<String>,
    /// The header to hash as a fallback.
    #[schemars(extend("format" = "kong-header-name"))]
    pub hash_fallback_header: Option<String>,
    /// The cookie to hash; it is set when a request has none.
    #[schemars(extend("format" = "kong-cookie-name"))]
    pub hash_on_cookie: Option<String>,
    /// The path that the cookie is set for.
    #[serde(default = "root")]
    pub hash_on_cookie_path: Option<Path>,
    /// The query argument to hash.
    #[schemars(length(min = 1))]
    pub hash_on_query_arg: Option<String>,
    /// The query argument to hash as a fallback.
    #[schemars(length(min = 1))]
    pub hash_fallback_query_arg: Option<String>,
    /// The capture of the route's path to hash.
    #[schemars(length(min = 1))]
    pub hash_on_uri_capture: Option<String>,
    /// The capture of the route's path to hash as a fallback.
    #[schemars(length(min = 1))]
    pub hash_fallback_uri_capture: Option<String>,
    /// Places on the ring of consistent hashing.
    #[serde(default = "slots")]
    #[schemars(range(min = 10, max = 65536))]
    pub slots: Option<u32>,
    /// How it is found out which targets answer.
    #[serde(default)]
    #[schemars(extend("x-null-is-default" = true))]
    pub healthchecks: HealthChecks,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
    /// The `Host` to send instead of the target's.
    #[schemars(extend("format" = "kong-host-header"))]
    pub host_header: Option<String>,
    /// Certificate that the gateway presents to the targets.
    pub client_certificate: Option<Ref<Certificate>>,
    /// Whether the name of an SRV record goes into `Host` and SNI.
    #[serde(default)]
    #[schemars(extend("x-null-is-default" = true))]
    pub use_srv_name: bool,
}

/// How a target is chosen.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// By a hash, so that equal requests meet the same target.
    ConsistentHashing,
    /// The one with the fewest requests in flight for its weight.
    LeastConnections,
    /// In turn, by weight.
    RoundRobin,
    /// The one that has answered fastest lately.
    Latency,
}

/// What of a request is hashed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HashOn {
    /// Nothing.
    None,
    /// The consumer's id, or else the credential's.
    Consumer,
    /// The client's address.
    Ip,
    /// A header.
    Header,
    /// A cookie.
    Cookie,
    /// The path.
    Path,
    /// A query argument.
    QueryArg,
    /// A capture of the route's path.
    UriCapture,
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "serde's defaults have the field's type"
)]
fn round_robin() -> Option<Algorithm> {
    Some(Algorithm::RoundRobin)
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "serde's defaults have the field's type"
)]
fn none() -> Option<HashOn> {
    Some(HashOn::None)
}

fn root() -> Option<Path> {
    Path::parse("/").ok()
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "serde's defaults have the field's type"
)]
fn slots() -> Option<u32> {
    Some(10_000)
}

/// What `hash_fallback` may be for a `hash_on`; anything if it is not listed.
const FALLBACKS: &[(&str, &[&str])] = &[
    ("none", &["none"]),
    ("cookie", &["none"]),
    (
        "consumer",
        &[
            "none",
            "ip",
            "header",
            "cookie",
            "path",
            "query_arg",
            "uri_capture",
        ],
    ),
    (
        "ip",
        &[
            "none",
            "consumer",
            "header",
            "cookie",
            "path",
            "query_arg",
            "uri_capture",
        ],
    ),
    (
        "path",
        &[
            "none",
            "consumer",
            "ip",
            "header",
            "cookie",
            "query_arg",
            "uri_capture",
        ],
    ),
];

/// What a choice needs to be set: the field with the choice, the choice, what must be set.
const NEEDS: &[(&str, &str, &str)] = &[
    ("hash_on", "header", "hash_on_header"),
    ("hash_fallback", "header", "hash_fallback_header"),
    ("hash_on", "cookie", "hash_on_cookie"),
    ("hash_fallback", "cookie", "hash_on_cookie"),
    ("hash_on", "query_arg", "hash_on_query_arg"),
    ("hash_fallback", "query_arg", "hash_fallback_query_arg"),
    ("hash_on", "uri_capture", "hash_on_uri_capture"),
    ("hash_fallback", "uri_capture", "hash_fallback_uri_capture"),
];

/// Fields that must not have the same value.
const DISTINCT: &[(&str, &str)] = &[
    ("hash_on_header", "hash_fallback_header"),
    ("hash_on_query_arg", "hash_fallback_query_arg"),
    ("hash_on_uri_capture", "hash_fallback_uri_capture"),
];

impl Entity for Upstream {
    const KIND: &'static str = "upstreams";
    const NAME_FIELD: Option<&'static str> = Some("name");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["name"]];
    const NESTED: &'static [(&'static str, &'static str)] = &[("client_certificate", "upstreams")];
    const ON_DELETE: OnDelete = OnDelete::Refuse;

    /// What is hashed and how a target is chosen go together; who sets one gets the other.
    fn expand(record: &mut Map<String, Value>, _: &mut FieldErrors) {
        let algorithm = record.get("algorithm").and_then(Value::as_str);
        if matches!(algorithm, Some("least-connections" | "latency")) {
            record.insert("hash_on".to_owned(), "none".into());
            return;
        }
        let algorithm = match record.get("hash_on") {
            None => return,
            Some(Value::Null) => {
                record.insert("hash_on".to_owned(), "none".into());
                return;
            }
            Some(Value::String(text)) if text == "none" => "round-robin",
            Some(_) => "consistent-hashing",
        };
        record.insert("algorithm".to_owned(), algorithm.into());
    }

    fn check(record: &Map<String, Value>, _: UnixTime, errors: &mut FieldErrors) {
        let text = |field: &str| {
            record
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        for (field, choice, needed) in NEEDS {
            if text(field) == *choice {
                required(record, needed, field, errors);
            }
        }
        let (hash_on, fallback) = (text("hash_on"), text("hash_fallback"));
        let allowed = FALLBACKS.iter().find(|(choice, _)| *choice == hash_on);
        if let Some((_, allowed)) = allowed
            && !allowed.contains(&fallback)
        {
            let message = format!("expected one of: {}", allowed.join(", "));
            errors.replace("hash_fallback", message);
            conditional("hash_on", errors);
        }
        for (one, other) in DISTINCT {
            if !is_empty(record, one) && record.get(*one) == record.get(*other) {
                errors.add_rule(format!(
                    "values of these fields must be distinct: '{one}', '{other}'"
                ));
            }
        }
        if matches!(text("algorithm"), "least-connections" | "latency") && hash_on != "none" {
            errors.replace("hash_on", "value must be none".to_owned());
            conditional("algorithm", errors);
        }
    }
}
