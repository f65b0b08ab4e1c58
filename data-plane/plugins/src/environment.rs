//! The parts of a snapshot that filters look things up in, indexed when the snapshot is compiled.

use std::collections::HashMap;
use std::sync::Arc;

use shared::entity::Consumer;
use uuid::Uuid;

use crate::credentials::Credentials;
use crate::openid_connect::client_keys::ClientKeys;
use crate::session_keys::KeyRing;

/// What every filter of one snapshot shares.
#[derive(Debug, Default)]
pub struct Environment {
    /// All consumers.
    pub consumers: Consumers,
    /// What consumers prove who they are with.
    pub credentials: Credentials,
    /// The keys that seal and open cookies.
    pub session_keys: KeyRing,
    /// What the gateway proves itself with at providers.
    pub client_keys: Arc<ClientKeys>,
}

/// A consumer's place in a consumer group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Membership {
    /// The group's id.
    pub group: Uuid,
    /// Its name.
    pub name: String,
}

/// Consumers by everything that a filter may know of them.
#[derive(Debug, Default)]
pub struct Consumers {
    /// By id.
    pub by_id: HashMap<Uuid, Arc<Consumer>>,
    /// By `username`.
    pub by_username: HashMap<String, Arc<Consumer>>,
    /// By `username` in lower case, for `by_username_ignore_case`.
    pub by_username_lower: HashMap<String, Arc<Consumer>>,
    /// By `custom_id`.
    pub by_custom_id: HashMap<String, Arc<Consumer>>,
    /// The ACL groups of a consumer, by its id.
    pub groups: HashMap<Uuid, Vec<String>>,
    /// The consumer groups that a consumer is a member of, by its id.
    pub memberships: HashMap<Uuid, Vec<Membership>>,
}
