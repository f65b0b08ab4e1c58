//! The hosts that routes are for, by which routes of all workspaces are found.

use serde_json::Value;
use shared::snapshot::Key;
use uuid::Uuid;

use super::Fields;

/// The field of a route that names them.
pub(super) const FIELD: &str = "hosts";

/// What routes for `host` are indexed under: no record, but what they have in common.
pub fn host_key(host: &str) -> Key {
    let hash = blake3::hash(host.as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(hash.as_bytes().split_at(16).0);
    Key {
        kind: FIELD,
        id: Uuid::from_bytes(id),
    }
}

/// The hosts of a route that are names of one host each, in lower case.
pub fn exact_hosts(route: &Fields) -> impl Iterator<Item = String> {
    let hosts = route.get(FIELD).and_then(Value::as_array);
    let hosts = hosts.into_iter().flatten().filter_map(Value::as_str);
    hosts
        .filter(|host| !host.contains('*'))
        .map(str::to_ascii_lowercase)
}
