//! An API behind the gateway.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Certificate, Entity, OnDelete, forbidden};
use crate::clock::UnixTime;
use crate::schema::FieldErrors;
use crate::types::{Host, Name, Path, Ref, Set, Tag};

/// An API behind the gateway.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Service {
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
    /// How often a request is tried again after a failure.
    #[serde(default = "retries")]
    #[schemars(range(min = 0, max = 32767))]
    pub retries: Option<u32>,
    /// Protocol spoken to the upstream server.
    #[serde(default = "http")]
    pub protocol: Protocol,
    /// Host of the upstream server: a DNS name, an IP address or the name of an upstream.
    #[schemars(length(min = 1))]
    pub host: Host,
    /// Port of the upstream server.
    #[serde(default = "port")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: u16,
    /// Path put before that of every request.
    pub path: Option<Path>,
    /// Longest wait for a connection to the upstream server, in milliseconds.
    #[serde(default = "one_minute")]
    #[schemars(range(min = 1, max = 2_147_483_646))]
    pub connect_timeout: Option<u32>,
    /// Longest wait between two writes to the upstream server, in milliseconds.
    #[serde(default = "one_minute")]
    #[schemars(range(min = 1, max = 2_147_483_646))]
    pub write_timeout: Option<u32>,
    /// Longest wait between two reads from the upstream server, in milliseconds.
    #[serde(default = "one_minute")]
    #[schemars(range(min = 1, max = 2_147_483_646))]
    pub read_timeout: Option<u32>,
    /// Certificate that the gateway presents to the upstream server.
    pub client_certificate: Option<Ref<Certificate>>,
    /// Whether the upstream server's certificate must be valid. Unset: it need not be.
    pub tls_verify: Option<bool>,
    /// Longest chain of certificates of the upstream server, counted without its own.
    #[schemars(range(min = 0, max = 64))]
    pub tls_verify_depth: Option<u8>,
    /// Authorities that the upstream server's certificate may come from. Unset: those of the system.
    pub ca_certificates: Option<Vec<Uuid>>,
    /// Whether its routes exist.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
}

/// A protocol of a service or route.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// gRPC without TLS.
    Grpc,
    /// gRPC over TLS.
    Grpcs,
    /// HTTP without TLS.
    Http,
    /// HTTP over TLS.
    Https,
    /// Bytes.
    Tcp,
    /// Bytes, TLS ended here.
    Tls,
    /// Bytes, TLS passed on.
    TlsPassthrough,
    /// Datagrams.
    Udp,
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "serde's defaults have the field's type"
)]
fn retries() -> Option<u32> {
    Some(5)
}

fn http() -> Protocol {
    Protocol::Http
}

fn port() -> u16 {
    80
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "serde's defaults have the field's type"
)]
fn one_minute() -> Option<u32> {
    Some(60_000)
}

fn enabled() -> bool {
    true
}

impl Entity for Service {
    const KIND: &'static str = "services";
    const NAME_FIELD: Option<&'static str> = Some("name");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["name"]];
    const NESTED: &'static [(&'static str, &'static str)] = &[("client_certificate", "services")];
    const ON_DELETE: OnDelete = OnDelete::Refuse;

    /// `url` stands for protocol, host, port and path. What it lacks is missing in the record, and named there.
    fn expand(record: &mut Map<String, Value>, errors: &mut FieldErrors) {
        let text = match record.shift_remove("url") {
            None | Some(Value::Null) => return,
            Some(Value::String(text)) => text,
            Some(_) => {
                errors.add(&["url"], "expected a string");
                return;
            }
        };
        let url = Parts::of(&text);
        let protocol = url.scheme.unwrap_or("http");
        let port = match url.port {
            Some(port) => port
                .parse::<u64>()
                .map_or_else(|_| port.into(), Value::from),
            None => Value::from(if protocol == "https" { 443 } else { 80 }),
        };
        for (field, value) in [
            ("protocol", Value::from(protocol)),
            ("host", url.host.map_or(Value::Null, Value::from)),
            ("port", port),
            ("path", url.path.map_or(Value::Null, Value::from)),
        ] {
            record.insert(field.to_owned(), value);
        }
    }

    fn check(record: &Map<String, Value>, _: UnixTime, errors: &mut FieldErrors) {
        let protocol = record
            .get("protocol")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if matches!(
            protocol,
            "tcp" | "tls" | "udp" | "tls_passthrough" | "grpc" | "grpcs"
        ) {
            forbidden(record, "path", "protocol", errors);
        }
        if !matches!(protocol, "https" | "tls") {
            for field in [
                "client_certificate",
                "tls_verify",
                "tls_verify_depth",
                "ca_certificates",
            ] {
                forbidden(record, field, "protocol", errors);
            }
        }
    }
}

/// The parts of a URL as they are written. A URL parser would complete and refuse where Kong tells what is
/// missing (RFC 3986, Appendix B).
struct Parts<'a> {
    scheme: Option<&'a str>,
    host: Option<&'a str>,
    port: Option<&'a str>,
    path: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Self {
        let text = text.split(['?', '#']).next().unwrap_or_default();
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme, rest))
                if scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                    && scheme
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c)) =>
            {
                (Some(scheme), rest)
            }
            _ => (None, text),
        };
        let (authority, path) = match rest.strip_prefix("//") {
            None => ("", rest),
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        };
        let authority = authority
            .rsplit_once('@')
            .map_or(authority, |(_, place)| place);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let written = |part: &'a str| Some(part).filter(|part| !part.is_empty());
        Self {
            scheme,
            host: written(host),
            port: port.filter(|port| !port.is_empty()),
            path: written(path),
        }
    }
}
