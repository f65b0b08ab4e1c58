//! A whole configuration in the place of what is in etcd, as a restore puts it there.

use shared::clock::UnixTime;
use shared::snapshot::Hash;
use shared::telemetry::chain;

use super::client::{EtcdError, EtcdSettings};
use super::{EtcdStore, Head, log};
use crate::config::Config;
use crate::history::Entry;
use crate::store::generation_after;
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
        now: UnixTime,
    ) -> Result<u64, EtcdError> {
        let mut store = Self::at_head(settings, key)?;
        let generation = generation_after(store.head.generation.max(known), now);
        store
            .put_whole(generation, config, entry)
            .map_err(|error| EtcdError::Unfinished(Box::new(error)))?;
        // What is there counts; what is older is in nobody's way.
        let client = &store.shelf.client;
        let forgotten = client
            .delete(&log(0), &log(entry.revision.0))
            .and_then(|()| client.delete(&log(entry.revision.0 + 1), "log0"));
        if let Err(error) = forgotten {
            tracing::warn!(error = %chain(&error), "changes from before the restore stay in etcd");
        }
        Ok(generation)
    }

    /// All of it is there once the head is.
    fn put_whole(
        &mut self,
        generation: u64,
        config: &Config,
        entry: &Entry,
    ) -> Result<(), EtcdError> {
        let ours = self
            .shelf
            .replace_checkpoint(generation, config, Hash::default())?;
        self.head = Head {
            generation,
            revision: config.revision().0,
            ..Head::default()
        };
        if ours && self.write(entry)? {
            Ok(())
        } else {
            Err(EtcdError::Refused("another control plane writes".into()))
        }
    }
}
