//! An API behind the gateway.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Certificate, Entity, Judging, OnDelete, forbidden};
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
    #[schemars(range(min = 0, max = 64), extend("x-not-yet" = true))]
    pub tls_verify_depth: Option<u8>,
    /// Authorities that the upstream server's certificate may come from. Unset: those of the system.
    #[schemars(extend("x-not-yet" = true))]
    pub ca_certificates: Option<Vec<Uuid>>,
    /// Whether its routes exist.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
}

/// A protocol of a service or route.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
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

    /// `url` stands for protocol, host, port and path.
    fn expand(record: &mut Map<String, Value>, errors: &mut FieldErrors) {
        let Some(given) = record.shift_remove("url") else {
            return;
        };
        let Some(url) = given.as_str().and_then(|text| url::Url::parse(text).ok()) else {
            if !given.is_null() {
                errors.add(&["url"], "missing host in url");
            }
            return;
        };
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            errors.add(&["url"], "missing host in url");
            return;
        };
        let port = url
            .port()
            .unwrap_or(if url.scheme() == "https" { 443 } else { 80 });
        let path =
            Some(url.path()).filter(|path| !matches!(*path, "" | "/") || ends_in_slash(&given));
        for (field, value) in [
            ("protocol", Value::from(url.scheme())),
            ("host", Value::from(host)),
            ("port", Value::from(port)),
            ("path", path.map_or(Value::Null, Value::from)),
        ] {
            record.insert(field.to_owned(), value);
        }
    }

    fn check(record: &Map<String, Value>, _: &Judging, errors: &mut FieldErrors) {
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

/// The parser gives every URL a path; only a written one counts.
fn ends_in_slash(url: &Value) -> bool {
    url.as_str().is_some_and(|text| text.ends_with('/'))
}
