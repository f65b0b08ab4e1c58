//! Values that tests begin with.

use std::sync::Arc;

use serde_json::json;
use shared::entity::Consumer;
use shared::secret::Secret;
use uuid::Uuid;

use crate::sessions::session_keys::{KeyRing, SessionKey};

/// A ring with one key that is active.
pub(crate) fn key_ring() -> KeyRing {
    KeyRing {
        keys: vec![session_key(1)],
    }
}

pub(crate) fn session_key(id: u8) -> SessionKey {
    SessionKey {
        id: [id; 8],
        secret: Secret::new([id; 32]),
        activate_at: 0,
        decrypt_until: None,
    }
}

pub(crate) fn consumer(username: &str, custom_id: Option<&str>) -> Arc<Consumer> {
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, username.as_bytes());
    let consumer = json!({
        "id": id, "username": username, "custom_id": custom_id, "tags": null,
    });
    Arc::new(serde_json::from_value(consumer).unwrap())
}
