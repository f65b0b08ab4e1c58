//! Which requests go to a service, or are answered by plugins alone.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::service::Protocol;
use super::{Entity, OnDelete, Service, is_empty};
use crate::clock::UnixTime;
use crate::schema::FieldErrors;
use crate::types::patterns;
use crate::types::{
    Method, Name, Ref, RouteHost, RoutePath, Set, Sni, Tag, check_format, check_path_quantifiers,
    normal_prefix,
};

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
    pub regex_priority: Option<i64>,
    /// How the service's path and the request's are joined.
    #[serde(default = "v0")]
    pub path_handling: Option<PathHandling>,
}

/// One end of a stream.
#[derive(Clone, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
pub struct Peer {
    /// Address or network.
    #[schemars(extend("format" = "kong-ip-or-cidr"))]
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
fn zero() -> Option<i64> {
    Some(0)
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "serde's defaults have the field's type"
)]
fn v0() -> Option<PathHandling> {
    Some(PathHandling::V0)
}

/// Protocols that may stand together on a route, with what their routes may be matched by.
struct Family {
    protocols: &'static [&'static str],
    /// As Kong's errors list the protocols; streams and passed-on TLS are listed as one.
    listed: &'static str,
    /// Fields that say nothing about such requests.
    forbidden: &'static [&'static str],
}

const HTTP: Family = Family {
    protocols: &["http", "https"],
    listed: "'http' or 'https'",
    forbidden: &["sources", "destinations"],
};

const STREAM: Family = Family {
    protocols: &["tcp", "tls", "udp"],
    listed: "'tcp', 'tls', 'tls_passthrough' or 'udp'",
    forbidden: &["methods", "hosts", "paths", "headers"],
};

const PASSTHROUGH: Family = Family {
    protocols: &["tls_passthrough"],
    ..STREAM
};

const GRPC: Family = Family {
    protocols: &["grpc", "grpcs"],
    listed: "'grpc' or 'grpcs'",
    forbidden: &["methods", "sources", "destinations"],
};

/// In the order of Kong's errors.
const FAMILIES: [&Family; 4] = [&HTTP, &STREAM, &PASSTHROUGH, &GRPC];

impl Entity for Route {
    const KIND: &'static str = "routes";
    const NAME_FIELD: Option<&'static str> = Some("name");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["name"]];
    const NESTED: &'static [(&'static str, &'static str)] = &[("service", "routes")];
    const ON_DELETE: OnDelete = OnDelete::Refuse;

    /// A path of a gRPC request names the method and is never cut.
    fn prefill(record: &mut Map<String, Value>) {
        let protocols = texts(record, "protocols");
        let grpc = protocols.iter().any(|name| GRPC.protocols.contains(name));
        if grpc && !record.contains_key("strip_path") {
            record.insert("strip_path".to_owned(), Value::Bool(false));
        }
    }

    fn check(record: &Map<String, Value>, _: UnixTime, errors: &mut FieldErrors) {
        check_paths(record, errors);
        let protocols = texts(record, "protocols");
        let mut families: Vec<&Family> = Vec::new();
        for name in &protocols {
            let family = FAMILIES
                .into_iter()
                .find(|family| family.protocols.contains(name));
            if let Some(family) = family
                && !families
                    .iter()
                    .any(|known| known.protocols == family.protocols)
            {
                families.push(family);
            }
        }
        if families.len() > 1 {
            let sets: Vec<String> = families
                .iter()
                .map(|family| format!("({})", quoted(family.protocols)))
                .collect();
            errors.add(
                &["protocols"],
                format!("these sets are mutually exclusive: {}", sets.join(", ")),
            );
        }
        // The first protocol that is known decides by which rules a route is judged.
        let Some(family) = families.first() else {
            if let Some(first) = protocols.first() {
                errors.replace("protocols", format!("unknown type: {first}"));
            }
            return;
        };
        check_matchers(record, &protocols, family, errors);
        for field in family.forbidden {
            if !is_empty(record, field) {
                errors.replace(
                    field,
                    format!("cannot set '{field}' when 'protocols' is {}", family.listed),
                );
            }
        }
        if family.protocols == GRPC.protocols
            && record.get("strip_path") == Some(&Value::Bool(true))
        {
            errors.add(
                &["strip_path"],
                "cannot set 'strip_path' when 'protocols' is 'grpc' or 'grpcs'",
            );
        }
        check_headers(record, errors);
        check_peers(record, errors);
    }
}

fn texts<'a>(record: &'a Map<String, Value>, field: &str) -> Vec<&'a str> {
    let list = record.get(field).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn quoted(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    names.join(", ")
}

/// Demands that something of a request is matched.
fn check_matchers(
    record: &Map<String, Value>,
    protocols: &[&str],
    family: &Family,
    errors: &mut FieldErrors,
) {
    let has = |name: &str| protocols.contains(&name);
    let (fields, listed): (&[&str], &str) = if family.protocols == HTTP.protocols {
        if has("https") {
            (&["methods", "hosts", "headers", "paths", "snis"], "'https'")
        } else {
            (&["methods", "hosts", "headers", "paths"], "'http'")
        }
    } else if family.protocols == GRPC.protocols {
        if has("grpcs") {
            (&["hosts", "headers", "paths", "snis"], "'grpcs'")
        } else {
            (&["hosts", "headers", "paths"], "'grpc'")
        }
    } else if family.protocols == PASSTHROUGH.protocols {
        (&["snis"], "'tls_passthrough'")
    } else {
        (
            &["sources", "destinations", "snis"],
            "'tcp', 'tls' or 'udp'",
        )
    };
    if fields.iter().all(|field| is_empty(record, field)) {
        let what = match fields {
            [one] => (*one).to_owned(),
            several => format!("one of {}", quoted(several)),
        };
        errors.add_rule(format!("must set {what} when 'protocols' is {listed}"));
    }
    let encrypted = ["https", "grpcs", "tls", "tls_passthrough"];
    if !is_empty(record, "snis") && !encrypted.into_iter().any(has) {
        errors.replace("snis", "length must be 0".to_owned());
        errors.add_rule("'snis' can only be set when 'protocols' is 'grpcs', 'https', 'tls' or 'tls_passthrough'",
        );
    }
}

/// A prefix is written as requests are compared with it, an expression as PCRE reads it, too.
fn check_paths(record: &Map<String, Value>, errors: &mut FieldErrors) {
    let paths = record.get("paths").and_then(Value::as_array);
    for (at, path) in paths.into_iter().flatten().enumerate() {
        let prefix = path.as_str().filter(|path| path.starts_with('/'));
        if let Some(normal) = prefix.and_then(normal_prefix) {
            let message = format!("non-normalized path, consider use '{normal}' instead");
            errors.add(&["paths", &(at + 1).to_string()], message);
        }
        if let Some(Err(message)) = path.as_str().map(check_path_quantifiers) {
            errors.add(&["paths", &(at + 1).to_string()], message);
        }
    }
}

fn check_headers(record: &Map<String, Value>, errors: &mut FieldErrors) {
    let headers = record.get("headers").and_then(Value::as_object);
    for (name, values) in headers.into_iter().flatten() {
        let texts = values.as_array().into_iter().flatten();
        let texts: Vec<String> = texts
            .filter_map(|text| text.as_str().map(str::to_owned))
            .collect();
        let judged = patterns::of_header(&texts).map(|compiled| {
            let text = texts.iter().find_map(|text| text.strip_prefix("~*"));
            compiled.and_then(|_| patterns::check_quantifiers(text.unwrap_or_default()))
        });
        if let Some(Err(error)) = judged {
            errors.add(
                &["headers"],
                format!("invalid regex in header {name}: {error}"),
            );
        }
        if name.eq_ignore_ascii_case("host") {
            errors.add(
                &["headers"],
                "cannot contain 'host' header, which must be specified in the 'hosts' attribute",
            );
        } else if let Err(message) = check_format("kong-header-name", name) {
            errors.add(&["headers"], message);
        }
    }
}

/// One end of a stream is an address, a port or both.
fn check_peers(record: &Map<String, Value>, errors: &mut FieldErrors) {
    for field in ["sources", "destinations"] {
        let peers = record.get(field).and_then(Value::as_array);
        for (at, peer) in peers.into_iter().flatten().enumerate() {
            let Some(peer) = peer.as_object() else {
                continue;
            };
            if is_empty(peer, "ip") && is_empty(peer, "port") {
                let place = (at + 1).to_string();
                let message = "at least one of these fields must be non-empty: 'ip', 'port'";
                let mut nested = FieldErrors::default();
                nested.add_rule(message);
                let entry = errors.by_field.entry(field.to_owned());
                let entry = entry.or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(places) = entry {
                    places
                        .entry(place)
                        .or_insert(Value::Object(nested.by_field));
                }
            }
        }
    }
}
