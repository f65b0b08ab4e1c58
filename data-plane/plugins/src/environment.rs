//! The parts of a snapshot that filters look things up in, indexed when the snapshot is compiled. Values: changing one
//! shares what stayed, so that a new consumer costs no more with a hundred thousand others.

use std::sync::Arc;

use imbl::HashMap;
use shared::entity::Consumer;
use uuid::Uuid;

use crate::client_keys::ClientKeys;
use crate::credentials::Credentials;
use crate::sessions::session_keys::KeyRing;

/// What every filter of one snapshot shares.
#[derive(Clone, Debug, Default)]
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
#[derive(Clone, Debug, Default)]
pub struct Consumers {
    /// By id.
    pub by_id: HashMap<Uuid, Arc<Consumer>>,
    /// By `username`.
    pub by_username: HashMap<String, Arc<Consumer>>,
    /// By `username` in lower case, in the order of their ids.
    by_username_lower: HashMap<String, Vec<Arc<Consumer>>>,
    /// By `custom_id`.
    pub by_custom_id: HashMap<String, Arc<Consumer>>,
    /// The ACL groups of a consumer, by its id, in alphabetical order.
    pub groups: HashMap<Uuid, Vec<String>>,
    /// The consumer groups that a consumer is a member of, by its id, in the order of their names.
    pub memberships: HashMap<Uuid, Vec<Membership>>,
    /// All consumer groups by name.
    pub group_ids: HashMap<String, Uuid>,
}

impl Consumers {
    /// Adds `consumer`.
    pub fn add(&mut self, consumer: &Arc<Consumer>) {
        self.by_id.insert(consumer.id, Arc::clone(consumer));
        if let Some(name) = &consumer.username {
            let alike = self.by_username_lower.entry(name.to_lowercase());
            let alike = alike.or_default();
            let place = alike.partition_point(|other| other.id < consumer.id);
            alike.insert(place, Arc::clone(consumer));
            self.by_username.insert(name.clone(), Arc::clone(consumer));
        }
        if let Some(name) = &consumer.custom_id {
            self.by_custom_id.insert(name.clone(), Arc::clone(consumer));
        }
    }

    /// Takes `consumer` away, as it was added.
    pub fn remove(&mut self, consumer: &Consumer) {
        self.by_id.remove(&consumer.id);
        if let Some(name) = &consumer.username {
            self.by_username.remove(name);
            let lower = name.to_lowercase();
            if let Some(alike) = self.by_username_lower.get_mut(&lower) {
                alike.retain(|other| other.id != consumer.id);
                if alike.is_empty() {
                    self.by_username_lower.remove(&lower);
                }
            }
        }
        if let Some(name) = &consumer.custom_id {
            self.by_custom_id.remove(name);
        }
    }

    /// The consumer of that name, whatever the case of its letters (`by_username_ignore_case`).
    pub fn named_alike(&self, name: &str) -> Option<&Arc<Consumer>> {
        self.by_username_lower.get(&name.to_lowercase())?.last()
    }
}
