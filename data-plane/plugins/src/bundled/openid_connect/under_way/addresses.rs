//! Where a sign-in under way leads: what its `state` holds, so that no cookie has to.

use super::super::forms::{pack, unpack};

/// Longest addresses, in bytes as text.
const LONGEST: usize = 32 * 1024;

/// Where the provider leads back to, the URL first asked for, and its query if that is preserved.
pub(in super::super) type Addresses = (String, String, Option<String>);

/// The addresses in few bytes: they begin alike.
pub(in super::super) fn packed(addresses: &Addresses) -> Option<Vec<u8>> {
    let text = serde_json::to_vec(addresses).ok()?;
    pack(&text).filter(|_| text.len() <= LONGEST)
}

/// The addresses that [`packed`] was given.
pub(in super::super) fn unpacked(packed: &[u8]) -> Option<Addresses> {
    serde_json::from_slice(&unpack(packed, LONGEST)?).ok()
}
