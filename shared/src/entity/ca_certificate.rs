//! An authority whose certificates are trusted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::Entity;
use crate::clock::UnixTime;
use crate::schema::FieldErrors;
use crate::types::pem::{authority, digest};
use crate::types::{Set, Tag};

/// An authority whose certificates are trusted.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct CaCertificate {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Time of the last change, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub updated_at: u64,
    /// The authority's certificate, in PEM.
    #[schemars(extend("format" = "kong-certificate"))]
    pub cert: String,
    /// SHA-256 of the certificate, in hexadecimal digits. Computed.
    #[schemars(extend("x-unique" = true))]
    pub cert_digest: Option<String>,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
}

impl Entity for CaCertificate {
    const KIND: &'static str = "ca_certificates";
    const UNIQUE: &'static [&'static [&'static str]] = &[&["cert_digest"]];
    const WORKSPACED: bool = false;

    fn check(record: &Map<String, Value>, now: UnixTime, errors: &mut FieldErrors) {
        let Some(cert) = record.get("cert").and_then(Value::as_str) else {
            return;
        };
        if errors.by_field.contains_key("cert") {
            return;
        }
        if let Err(message) = authority(cert, now) {
            errors.add_rule(message);
        }
    }

    fn derive(record: &mut Map<String, Value>, _: &Map<String, Value>) {
        let digest = record.get("cert").and_then(Value::as_str).and_then(digest);
        record.insert("cert_digest".to_owned(), digest.into());
    }
}
