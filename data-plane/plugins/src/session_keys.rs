//! The key ring: which session key seals now, and which may still open.

use shared::secret::Secret;

/// The session keys of one snapshot, newest activation first.
#[derive(Debug, Default)]
pub struct KeyRing {
    /// All usable keys.
    pub keys: Vec<SessionKey>,
}

/// One key, as the control plane made it.
#[derive(Clone, Debug)]
pub struct SessionKey {
    /// Names the key inside a cookie.
    pub id: [u8; 8],
    /// Key material; each use derives its own key from it.
    pub secret: Secret<[u8; 32]>,
    /// Unix seconds from which on it may seal.
    pub activate_at: u64,
    /// Unix seconds until which it may open; `None`: no end known yet.
    pub decrypt_until: Option<u64>,
}
