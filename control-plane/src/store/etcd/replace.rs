//! A whole configuration in the place of what is in etcd, as a restore puts it there.

use shared::snapshot::Hash;

use super::client::{EtcdError, EtcdSettings};
use super::{EtcdStore, Head, log};
use crate::config::Config;
use crate::history::Entry;
use crate::store::seal::SecretsKey;

impl EtcdStore {
    /// Puts `config` in the place of everything, whether that can be read or not, as a generation after `known`, and
    /// `entry`, which says so, as the revision after it; returns the generation.
    pub fn replace(
        settings: &EtcdSettings,
        key: &SecretsKey,
        known: u64,
        config: &Config,
        entry: &Entry,
    ) -> Result<u64, EtcdError> {
        let in_use =
            || EtcdError::Refused("another control plane writes: stop all of them first".into());
        let mut store = Self::at_head(settings, key)?;
        let generation = store.head.generation.max(known).max(1).saturating_add(1);
        let ours = store
            .shelf
            .replace_checkpoint(generation, config, Hash::default())?;
        store.head = Head {
            generation,
            revision: config.revision().0,
            ..Head::default()
        };
        // All of it is there once the head is; a restore that ends before is run again.
        if !ours || !store.write(entry)? {
            return Err(in_use());
        }
        let client = &store.shelf.client;
        client.delete(&log(0), &log(entry.revision.0))?;
        client.delete(&log(entry.revision.0 + 1), "log0")?;
        Ok(generation)
    }
}
