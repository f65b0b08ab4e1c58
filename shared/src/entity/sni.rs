//! A TLS server name and the certificate for it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Certificate, Entity};
use crate::types::{Ref, Set, Sni as ServerName, Tag};

/// A TLS server name and the certificate for it.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Sni {
    /// Unique identifier.
    #[schemars(extend("x-auto" = true))]
    pub id: Uuid,
    /// The name; one wildcard at either end.
    #[schemars(extend("x-unique" = true))]
    pub name: ServerName,
    /// Time of creation, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub created_at: u64,
    /// Time of the last change, in seconds since 1970.
    #[schemars(extend("x-auto" = true))]
    pub updated_at: u64,
    /// Labels to select records by.
    pub tags: Option<Set<Tag>>,
    /// The certificate.
    pub certificate: Ref<Certificate>,
}

impl Entity for Sni {
    const KIND: &'static str = "snis";
    const NAME_FIELD: Option<&'static str> = Some("name");
    const UNIQUE: &'static [&'static [&'static str]] = &[&["name"]];
    const UNIQUE_EVERYWHERE: bool = true;
    const NESTED: &'static [(&'static str, &'static str)] = &[("certificate", "snis")];
}
