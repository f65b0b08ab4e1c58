//! Replaces everything in etcd with a whole configuration, as a restore does.

use shared::snapshot::Hash;
use shared::telemetry::chain;

use super::client::{EtcdError, EtcdSettings};
use super::shelf::log;
use super::{EtcdStore, Head};
use crate::config::Config;
use crate::history::Entry;
use crate::store::seal::SecretsKey;

/// What is in etcd, whether that can be read or not.
#[derive(Debug)]
pub struct Replaced {
    /// What writes there.
    pub store: EtcdStore,
    /// Its generation; 0 where the head cannot be read.
    pub generation: u64,
    /// What it holds, if that can be read.
    pub config: Option<Config>,
}

impl EtcdStore {
    /// Looks at what is in etcd before something else takes its place.
    pub fn to_be_replaced(
        settings: &EtcdSettings,
        key: &SecretsKey,
    ) -> Result<Replaced, EtcdError> {
        let shelf = Self::shelf(settings, key)?;
        let (head, seen) = match shelf.head() {
            Err(EtcdError::Content(error)) => {
                tracing::warn!(error, "the head of the store to be replaced cannot be read");
                (Head::default(), shelf.head_version()?)
            }
            other => other?,
        };
        let store = Self::at(shelf, head, seen);
        let config = match store.shelf.load(&store.head) {
            Ok(config) => Some(config),
            Err(EtcdError::Content(error)) => {
                tracing::warn!(error, "the store to be replaced cannot be read");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Replaced {
            generation: store.head.generation,
            config,
            store,
        })
    }

    /// Puts `config`, of `generation`, in the place of everything, and `entry`, which says so, as the revision after it.
    pub fn replace(
        mut self,
        generation: u64,
        config: &Config,
        entry: &Entry,
    ) -> Result<(), EtcdError> {
        self.put_whole(generation, config, entry)
            .map_err(|error| EtcdError::Unfinished(Box::new(error)))?;
        // What is there counts; what is older is in nobody's way.
        let client = &self.shelf.client;
        let forgotten = client
            .delete(&log(0), &log(entry.revision.0))
            .and_then(|()| client.delete(&log(entry.revision.0 + 1), "log0"));
        if let Err(error) = forgotten {
            tracing::warn!(error = %chain(&error), "changes from before the restore stay in etcd");
        }
        Ok(())
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
            restored: Some(true),
            ..Head::default()
        };
        if ours && self.write(entry)? {
            Ok(())
        } else {
            Err(EtcdError::Refused("another control plane writes".into()))
        }
    }
}
