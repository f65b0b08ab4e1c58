//! `tls-handshake-modifier`: asks clients for a certificate in the TLS handshake (Kong 3.9, tls-handshake-modifier).
//!
//! What one is good for is for others to say. `openid-connect` asks by itself where tokens may be bound to one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::schema::FieldErrors;

use crate::filter::{Filter, Instance, Plugin, Scope};
use crate::glance::{Glance, Looks, Pass};
use crate::host::Host;

/// Configuration of `tls-handshake-modifier`.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct TlsHandshakeModifier {
    /// How clients are asked: `REQUEST` lets those pass that have none.
    #[serde(default)]
    pub tls_client_certificate: ClientCertificate,
}

/// How clients are asked for a certificate.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ClientCertificate {
    /// One that has none passes too.
    #[default]
    Request,
}

impl Plugin for TlsHandshakeModifier {
    const NAME: &'static str = "tls-handshake-modifier";
    const PRIORITY: u32 = 997;
    const FORBIDDEN_SCOPES: &'static [Scope] = &[Scope::Consumer];
    type Filter = Self;

    fn compile(self, _: &Instance) -> Result<Self, FieldErrors> {
        Ok(self)
    }
}

impl Filter for TlsHandshakeModifier {
    fn looks(&self) -> Looks {
        Looks::Always
    }

    fn on_glance(&self, _: &Glance<'_>, _: &mut Pass, _: &impl Host) -> Option<()> {
        Some(())
    }

    fn wants_certificates(&self) -> bool {
        match self.tls_client_certificate {
            ClientCertificate::Request => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry;

    #[test]
    fn clients_are_asked_for_a_certificate() {
        let config = registry::check(TlsHandshakeModifier::NAME, &json!({})).unwrap();
        assert_eq!(config, json!({ "tls_client_certificate": "REQUEST" }));
        let instance = Instance {
            id: uuid::Uuid::nil(),
        };
        let filter = registry::compile(TlsHandshakeModifier::NAME, config, &instance).unwrap();
        assert!(filter.wants_certificates());
        let wrong = json!({ "tls_client_certificate": "REQUIRE" });
        let refused = registry::check(TlsHandshakeModifier::NAME, &wrong).unwrap_err();
        assert!(refused.by_field.contains_key("tls_client_certificate"));
    }
}
