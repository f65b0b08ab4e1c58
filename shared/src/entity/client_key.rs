//! A key that signs for a client at a provider. The control plane makes them; no operator ever sees
//! more than their public halves.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Entity;
use crate::types::SecretText;

/// A key of `private_key_jwt`, one for each algorithm. Distributed like any record, so that any node
/// signs, and never shown by the Admin API but for its public half (`/openid-connect/jwks`).
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct ClientKey {
    /// Unique identifier, and the `kid` of what it signs.
    pub id: Uuid,
    /// What it signs by (RFC 7518 §3.1).
    pub algorithm: String,
    /// The private key, PKCS #8 in Base64.
    #[schemars(extend("x-encrypted" = true))]
    pub secret: SecretText,
    /// The public key, a JSON Web Key.
    pub public: String,
    /// Time of creation, in seconds since 1970.
    pub created_at: u64,
    /// Time from which on another signs in its place, in seconds since 1970; none while it does. For two days more it
    /// signs where the provider does not know the new one yet, so its secret stays for so long.
    pub retired_at: Option<u64>,
}

impl Entity for ClientKey {
    const KIND: &'static str = "client_keys";
    const PUBLIC: bool = false;
    const WORKSPACED: bool = false;
}
