//! A certificate that the gateway presents, with its key.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Entity, is_empty};
use crate::clock::UnixTime;
use crate::schema::FieldErrors;
use crate::types::pem::{KeyType, key_type, matches};
use crate::types::{SecretText, Set, Tag};

/// A certificate that the gateway presents to clients or upstream servers, with its key.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Certificate {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Time of the last change, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub updated_at: u64,
    /// The certificate and those of its authorities, in PEM.
    #[schemars(extend("format" = "kong-certificate", "x-referenceable" = true))]
    pub cert: String,
    /// Its private key, in PEM.
    #[schemars(extend("format" = "kong-key", "x-referenceable" = true))]
    pub key: SecretText,
    /// A second certificate with a key of another type, in PEM.
    #[schemars(extend("format" = "kong-certificate", "x-referenceable" = true))]
    pub cert_alt: Option<String>,
    /// The private key of the second certificate, in PEM.
    #[schemars(extend("format" = "kong-key", "x-referenceable" = true))]
    pub key_alt: Option<SecretText>,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
}

impl Entity for Certificate {
    const KIND: &'static str = "certificates";

    fn check(record: &Map<String, Value>, _: UnixTime, errors: &mut FieldErrors) {
        if is_empty(record, "cert_alt") != is_empty(record, "key_alt") {
            errors.add_rule("all or none of these fields must be set: 'cert_alt', 'key_alt'");
        }
        if ["cert", "key", "cert_alt", "key_alt"]
            .iter()
            .any(|field| errors.by_field.contains_key(*field))
        {
            return;
        }
        // A reference is judged by the data plane, which alone can read it.
        let pem = |field: &str| {
            let text = record.get(field).and_then(Value::as_str)?;
            (!crate::types::is_reference(text)).then_some(text)
        };
        if let (Some(cert), Some(key)) = (pem("cert"), pem("key"))
            && !matches(cert, key)
        {
            errors.add_rule("certificate does not match key");
        }
        if let (Some(cert), Some(key)) = (pem("cert_alt"), pem("key_alt")) {
            if !matches(cert, key) {
                errors.add_rule("alternative certificate does not match key");
            }
            let types: (Option<KeyType>, Option<KeyType>) =
                (pem("cert").and_then(key_type), key_type(cert));
            if let (Some(one), Some(other)) = types
                && one == other
            {
                errors.add_rule(format!(
                    "certificate and alternative certificate need to have different type (e.g. \
                         RSA and ECDSA), the provided certificates were both of the same type '{}'",
                    one.name()
                ));
            }
        }
    }
}
