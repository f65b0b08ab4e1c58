//! What a node can do, as it says in Hello: a snapshot goes only to nodes that know everything in it.

/// Takes updates that hold only what changed.
pub const DELTA: &str = "delta";

/// Tells digests of its buckets and takes updates that replace some of them.
pub const BUCKETS: &str = "buckets";

/// Keeps the certificates of a manifest, so that the next on the same stream may come without them: they are half of
/// what a small change costs.
pub const CHAIN_KEPT: &str = "chain-kept";

/// Knows positions whose keys and revocations are of a later revision, so that it can be held at a state.
pub const URGENT: &str = "urgent";

/// Takes chunks in parts, and what has been revoked meanwhile between these.
pub const BESIDE: &str = "beside";

/// Says how far updates have arrived, so that no more of them is under way than the link carries in a moment.
pub const MILESTONES: &str = "milestones";

/// Knows records of this kind.
pub fn kind(kind: &str) -> String {
    format!("kind/{kind}")
}

/// Knows the plugin of this name.
pub fn plugin(name: &str) -> String {
    format!("plugin/{name}")
}
