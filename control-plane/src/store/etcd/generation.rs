//! The generation of a store in etcd, on which its control planes have to agree before they lead any node.

use shared::clock::UnixTime;
use shared::snapshot::Revision;

use super::client::{Client, Comparison, EtcdError, EtcdSettings, Put};
use super::{EtcdStore, HEAD, Head};
use crate::store::{Chains, Found, SecretsKey, StoreError, generation_after};

impl Head {
    /// What it tells of the store.
    pub(super) fn found(&self) -> Found {
        let found = Found::at(self.generation, Revision(self.revision));
        Found {
            begun: found.begun || self.restored == Some(false),
            ..found
        }
    }
}

impl EtcdStore {
    /// What [`Self::open`] would find, or why it would not open the store, as far as its head tells.
    pub fn try_open(
        settings: &EtcdSettings,
        key: &SecretsKey,
        permits: impl FnOnce(&Found, &Chains<'_>) -> Result<(), StoreError>,
    ) -> Result<Found, StoreError> {
        let shelf = Self::shelf(settings, key)?;
        let found = shelf.head()?.0.found();
        permits(&found, &|revision| Ok(shelf.chain_at(revision.0)?))?;
        Ok(found)
    }

    /// Whether there is a store, whatever it is sealed with.
    pub fn is_begun(settings: &EtcdSettings) -> Result<bool, EtcdError> {
        Ok(Client::start(settings)?.get(HEAD)?.is_some())
    }

    /// Says what generation this is, unless another control plane has: all of them must say the same.
    pub(super) fn declare_generation(&mut self, now: UnixTime) -> Result<(), EtcdError> {
        let head = Head {
            generation: generation_after(0, now),
            restored: Some(false),
            ..Head::default()
        };
        let none = Comparison {
            name: HEAD,
            version: 0,
        };
        let put = Put {
            name: HEAD.to_owned(),
            value: self.shelf.seal_json(HEAD, &head)?,
        };
        let declared = self.shelf.client.commit(&none, None, &[put]);
        if let Err(error) = &declared
            && !matches!(error, EtcdError::Unknown(_))
        {
            return Err(error.clone());
        }
        // What is there counts, whoever has put it there.
        (self.head, self.seen) = self.shelf.head()?;
        if self.seen == 0 {
            declared?;
        }
        Ok(())
    }
}
