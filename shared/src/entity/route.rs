//! Which requests go to a service, or are answered by plugins alone.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::service::{Protocol, check_served};
use super::{Entity, OnDelete, Service, entity_error, is_empty};
use crate::schema::FieldErrors;
use crate::types::{Method, Name, Ref, RouteHost, RoutePath, Set, Sni, Tag};

/// Which requests go to a service. Every attribute that is set must match; within one, any value does.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch that Kong defines"
)]
pub struct Route {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Time of the last change, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub updated_at: u64,
    /// Unique name.
    #[schemars(length(min = 1), extend("x-unique" = true))]
    pub name: Option<Name>,
    /// Protocols that the route speaks; of one family.
    #[serde(default = "http_and_https")]
    #[schemars(length(min = 1))]
    pub protocols: Set<Protocol>,
    /// Status for a request over plain HTTP to a route for HTTPS only.
    #[serde(default)]
    pub https_redirect_status_code: HttpsRedirect,
    /// Whether the matched part of the path is left out of the upstream's.
    #[serde(default = "yes")]
    pub strip_path: bool,
    /// Whether the request's `Host` goes upstream.
    #[serde(default)]
    pub preserve_host: bool,
    /// Whether the request's body is read whole before it is sent.
    #[serde(default = "yes")]
    pub request_buffering: bool,
    /// Whether the response's body is read whole before it is sent.
    #[serde(default = "yes")]
    pub response_buffering: bool,
    /// The service behind the route.
    pub service: Option<Ref<Service>>,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
    /// TLS server names.
    pub snis: Option<Set<Sni>>,
    /// Where the connection comes from. Only for streams.
    pub sources: Option<Set<Peer>>,
    /// Where the connection goes to. Only for streams.
    pub destinations: Option<Set<Peer>>,
    /// HTTP methods.
    pub methods: Option<Set<Method>>,
    /// Hosts; one wildcard label at either end.
    pub hosts: Option<Vec<RouteHost>>,
    /// Path prefixes, or regular expressions after `~`.
    pub paths: Option<Vec<RoutePath>>,
    /// Headers by name, each with the values of which one must be there. A single value that begins
    /// with `~*` is a regular expression.
    #[schemars(length(min = 1))]
    pub headers: Option<BTreeMap<String, Vec<String>>>,
    /// Among routes with regular expressions, the higher one is tried first.
    #[serde(default = "zero")]
    pub regex_priority: Option<i32>,
    /// How the service's path and the request's are joined.
    #[serde(default = "v0")]
    pub path_handling: Option<PathHandling>,
}

/// One end of a stream.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Peer {
    /// Address or network.
    pub ip: Option<String>,
    /// Port.
    #[schemars(range(min = 0, max = 65535))]
    pub port: Option<u16>,
}

/// How the service's path and the request's are joined.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathHandling {
    /// As segments, with exactly one slash between them.
    V0,
    /// The service's path is a plain prefix.
    V1,
}

/// Status for a request over plain HTTP to a route for HTTPS only.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct HttpsRedirect(u16);

impl HttpsRedirect {
    const ALLOWED: [u16; 5] = [426, 301, 302, 307, 308];

    /// The status code.
    pub const fn status(self) -> u16 {
        self.0
    }
}

impl Default for HttpsRedirect {
    fn default() -> Self {
        Self(426)
    }
}

impl TryFrom<u16> for HttpsRedirect {
    type Error = String;

    fn try_from(status: u16) -> Result<Self, String> {
        if Self::ALLOWED.contains(&status) {
            Ok(Self(status))
        } else {
            Err("expected one of: 426, 301, 302, 307, 308".to_owned())
        }
    }
}

impl From<HttpsRedirect> for u16 {
    fn from(redirect: HttpsRedirect) -> Self {
        redirect.0
    }
}

impl JsonSchema for HttpsRedirect {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HttpsRedirect".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "enum": Self::ALLOWED })
    }
}

fn http_and_https() -> Set<Protocol> {
    [Protocol::Http, Protocol::Https].into_iter().collect()
}

fn yes() -> bool {
    true
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "serde's defaults have the field's type"
)]
fn zero() -> Option<i32> {
    Some(0)
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "serde's defaults have the field's type"
)]
fn v0() -> Option<PathHandling> {
    Some(PathHandling::V0)
}

/// Families of protocols that do not mix, each with the attributes of which one must be set.
const FAMILIES: &[(&[&str], &[&str])] = &[
    (&["http"], &["methods", "hosts", "headers", "paths"]),
    (
        &["https"],
        &["methods", "hosts", "headers", "paths", "snis"],
    ),
    (&["grpc"], &["hosts", "headers", "paths"]),
    (&["grpcs"], &["hosts", "headers", "paths", "snis"]),
    (&["tcp", "tls", "udp"], &["sources", "destinations", "snis"]),
    (&["tls_passthrough"], &["snis"]),
];

impl Entity for Route {
    const KIND: &'static str = "routes";
    const NAME_FIELD: Option<&'static str> = Some("name");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["name"]];
    const NESTED: &'static [(&'static str, &'static str)] = &[("service", "routes")];
    const ON_DELETE: OnDelete = OnDelete::Refuse;

    fn check(record: &Map<String, Value>, errors: &mut FieldErrors) {
        let protocols: Vec<&str> = record
            .get("protocols")
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let has = |names: &[&str]| protocols.iter().any(|protocol| names.contains(protocol));
        let families = [
            has(&["http", "https"]),
            has(&["tcp", "tls", "udp"]),
            has(&["tls_passthrough"]),
            has(&["grpc", "grpcs"]),
        ];
        if families.iter().filter(|family| **family).count() > 1 {
            errors.add(
                &["protocols"],
                "these sets are mutually exclusive: ('http', 'https'), ('tcp', 'tls', 'udp'), \
                 ('tls_passthrough'), ('grpc', 'grpcs')",
            );
            return;
        }
        check_matchers(record, &protocols, errors);
        if has(&["grpc", "grpcs"]) && record.get("strip_path") == Some(&Value::Bool(true)) {
            errors.add(
                &["strip_path"],
                "cannot set 'strip_path' when 'protocols' is 'grpc' or 'grpcs'",
            );
        }
        let host = |name: &String| name.eq_ignore_ascii_case("host");
        if record
            .get("headers")
            .and_then(Value::as_object)
            .is_some_and(|map| map.keys().any(host))
        {
            errors.add(
                &["headers"],
                "cannot contain 'host' header, which must be specified in the 'hosts' attribute",
            );
        }
        if errors.is_empty() {
            check_served("protocols", &protocols, errors);
        }
    }
}

fn check_matchers(record: &Map<String, Value>, protocols: &[&str], errors: &mut FieldErrors) {
    // A route that speaks several protocols is judged by the one that offers the most attributes.
    let judged = FAMILIES
        .iter()
        .filter(|(names, _)| protocols.iter().any(|protocol| names.contains(protocol)))
        .max_by_key(|(_, matchers)| matchers.len());
    let Some((names, matchers)) = judged else {
        return;
    };
    if matchers.iter().all(|field| is_empty(record, field)) {
        let listed: Vec<String> = matchers.iter().map(|field| format!("'{field}'")).collect();
        let protocol = protocols
            .iter()
            .find(|protocol| names.contains(protocol))
            .unwrap_or(&"");
        entity_error(
            errors,
            format!(
                "must set one of {} when 'protocols' is '{protocol}'",
                listed.join(", ")
            ),
        );
    }
    if !is_empty(record, "snis")
        && !protocols
            .iter()
            .any(|p| matches!(*p, "https" | "grpcs" | "tls" | "tls_passthrough"))
    {
        errors.add(
            &["snis"],
            "'snis' can only be set when 'protocols' is 'grpcs', 'https', 'tls' or 'tls_passthrough'",
        );
    }
}
