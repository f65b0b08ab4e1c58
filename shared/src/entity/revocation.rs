//! A revocation: which sessions have ended before their time, which cached responses are void, and which health of a
//! target an operator has set. Data planes ask for them at a logout; the control plane keeps and distributes them; no
//! operator writes one.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Entity;

/// What the ids of marks begin with, so that a node tells them from all others at a glance.
const MARK: [u8; 8] = *b"t-health";

/// Ends sessions or the keeping of answers on every node, or what was known there of a target's health. Distributed like any record, and never shown by the Admin API.
///
/// The id is computed from what is ended, so that it says nothing of a user to whoever reads it, and
/// so that a repeat meets the record that is there: of two with one id, the later `before` and the
/// later `expires_at` hold, see [`Revocation::merge`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Revocation {
    /// Names what is ended: half of the BLAKE3 hash of its kind and its name.
    pub id: Uuid,
    /// Sessions that began at this time or before it are over, in milliseconds since 1970.
    pub before: u64,
    /// When no such session could be alive any more, in seconds since 1970: the record may go.
    pub expires_at: u64,
}

impl Revocation {
    /// The `before` of what never begins anew, one session of the gateway above all: clocks of nodes differ, and it is over
    /// whatever they say. The end of the year 9999.
    pub const FOR_GOOD: u64 = 253_402_300_799_999;

    /// Names one session of the gateway, by its random id.
    pub fn session(id: &str) -> Uuid {
        name(b"session", &[id])
    }

    /// Names the sessions that began within the provider's session `sid`.
    pub fn provider_session(issuer: &str, sid: &str) -> Uuid {
        name(b"sid", &[issuer.trim_end_matches('/'), sid])
    }

    /// Names all sessions of a user.
    pub fn subject(issuer: &str, subject: &str) -> Uuid {
        name(b"sub", &[issuer.trim_end_matches('/'), subject])
    }

    /// Names all sessions of a provider that the cluster's own keys seal, and what was discovered of
    /// that provider.
    pub fn issuer(issuer: &str) -> Uuid {
        name(b"iss", &[issuer.trim_end_matches('/')])
    }

    /// Names all answers that a `proxy-cache` plugin keeps.
    pub fn cache(plugin: Uuid) -> Uuid {
        name(b"cache", &[&plugin.to_string()])
    }

    /// Names the answers that are kept under `key`, a SHA-256 hash, of which this is half.
    pub fn cached(key: [u8; 32]) -> Uuid {
        let mut half = [0; 16];
        half.copy_from_slice(key.split_at(16).0);
        Uuid::from_bytes(half)
    }

    /// Names that an operator calls a target healthy or not, or one of its addresses (with a port or with any).
    pub fn mark(target: Uuid, address: Option<(IpAddr, Option<u16>)>, healthy: bool) -> Uuid {
        let (target, address) = (
            target.to_string(),
            match address {
                None => String::new(),
                Some((address, None)) => address.to_string(),
                Some((address, Some(port))) => format!("{address} {port}"),
            },
        );
        let word = if healthy { "healthy" } else { "unhealthy" };
        let mut bytes = *name(b"mark", &[&target, &address, word]).as_bytes();
        let (start, _) = bytes.split_at_mut(MARK.len());
        start.copy_from_slice(&MARK);
        Uuid::from_bytes(bytes)
    }

    /// The names of all that an operator may say of the target and an address of it, and whether it is called healthy by that.
    pub fn marks(
        target: Uuid,
        address: Option<(IpAddr, u16)>,
    ) -> impl Iterator<Item = (Uuid, bool)> {
        let any_port = address.map(|(address, _)| Some((address, None)));
        let exact = address.map(|(address, port)| Some((address, Some(port))));
        let forms = [Some(None), any_port, exact].into_iter().flatten();
        forms.flat_map(move |form| {
            [true, false].map(|healthy| (Self::mark(target, form, healthy), healthy))
        })
    }

    /// Whether this is what an operator says of a target's health. Nodes say no such thing to each other.
    pub fn is_mark(&self) -> bool {
        self.id.as_bytes().starts_with(&MARK)
    }

    /// Names a logout token, which may be used once.
    pub fn logout_token(issuer: &str, id: &str) -> Uuid {
        name(b"jti", &[issuer.trim_end_matches('/'), id])
    }

    /// Names that the provider itself has said, server to server, that what `ended` names is over (OpenID Connect Back-Channel
    /// Logout 1.0): whoever names a session in a frame has proven nothing.
    pub fn by_provider(ended: Uuid) -> Uuid {
        name(b"backchannel", &[&ended.to_string()])
    }

    /// Both of two revocations of one thing.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            id: self.id,
            before: self.before.max(other.before),
            expires_at: self.expires_at.max(other.expires_at),
        }
    }
}

/// Every part has its length before it, so that no two names hash the same bytes.
fn name(kind: &[u8], parts: &[&str]) -> Uuid {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind);
    for part in parts {
        let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
        hasher.update(&length.to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let hash = hasher.finalize();
    let mut half = [0; 16];
    half.copy_from_slice(hash.as_bytes().split_at(16).0);
    Uuid::from_bytes(half)
}

impl Entity for Revocation {
    const KIND: &'static str = "revocations";
    const PUBLIC: bool = false;
    const WORKSPACED: bool = false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_things_have_different_names() {
        let issuer = "https://idp.example";
        assert_eq!(
            Revocation::subject(issuer, "a"),
            Revocation::subject("https://idp.example/", "a")
        );
        let all = [
            Revocation::session("a"),
            Revocation::subject(issuer, "a"),
            Revocation::subject(issuer, "b"),
            Revocation::provider_session(issuer, "a"),
            Revocation::issuer(issuer),
            Revocation::logout_token(issuer, "a"),
            Revocation::subject("https://idp.examplea", ""),
            Revocation::by_provider(Revocation::subject(issuer, "a")),
            Revocation::by_provider(Revocation::subject(issuer, "b")),
            Revocation::cache(Uuid::nil()),
            Revocation::cached([1; 32]),
            Revocation::mark(Uuid::nil(), None, true),
            Revocation::mark(Uuid::nil(), None, false),
            Revocation::mark(Uuid::max(), None, true),
            Revocation::mark(Uuid::nil(), Some((IpAddr::from([10, 0, 0, 1]), None)), true),
            Revocation::mark(
                Uuid::nil(),
                Some((IpAddr::from([10, 0, 0, 1]), Some(80))),
                true,
            ),
            Revocation::mark(
                Uuid::nil(),
                Some((IpAddr::from([10, 0, 0, 1]), Some(81))),
                true,
            ),
        ];
        let marks = all.map(|id| {
            let (before, expires_at) = (0, 0);
            Revocation {
                id,
                before,
                expires_at,
            }
            .is_mark()
        });
        assert_eq!(marks.iter().filter(|mark| **mark).count(), 6);
        for (position, one) in all.iter().enumerate() {
            assert!(!all[position + 1..].contains(one));
        }
    }

    #[test]
    fn the_later_of_two_holds() {
        let one = Revocation {
            id: Uuid::nil(),
            before: 5,
            expires_at: 100,
        };
        let other = Revocation {
            before: 7,
            expires_at: 90,
            ..one
        };
        let both = one.merge(other);
        assert_eq!((both.before, both.expires_at), (7, 100));
    }
}
