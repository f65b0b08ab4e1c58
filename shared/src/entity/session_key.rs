//! A key that seals sessions. The control plane makes them; no operator ever sees one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Entity;

/// A key that seals sessions and sign-ins. Distributed like any record, so that any node opens any
/// session, and never shown by the Admin API.
#[derive(Clone, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct SessionKey {
    /// Unique identifier. Its first eight bytes name the key inside a cookie.
    pub id: Uuid,
    /// 32 random bytes in Base64.
    #[schemars(extend("x-encrypted" = true))]
    pub secret: String,
    /// Time of creation, in seconds since 1970.
    pub created_at: u64,
    /// Time from which on it may seal, in seconds since 1970.
    pub activate_at: u64,
    /// Time until which it may open, in seconds since 1970; none while it is the newest.
    pub decrypt_until: Option<u64>,
    /// What it may be used for.
    pub state: KeyState,
}

/// What a session key may be used for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Seals once active, opens always.
    Ready,
    /// Neither seals nor opens: what it sealed is void.
    Revoked,
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionKey")
            .field("id", &self.id)
            .field("activate_at", &self.activate_at)
            .field("decrypt_until", &self.decrypt_until)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Entity for SessionKey {
    const KIND: &'static str = "session_keys";
    const PUBLIC: bool = false;
    const WORKSPACED: bool = false;
}
