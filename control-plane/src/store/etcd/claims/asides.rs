//! Forms that one control plane keeps in its memory and another looks for. They go through etcd only then; what nobody
//! looks for is never written there.
//!
//! ```text
//! PREFIX/wanted/KEY     somebody looks for this
//! PREFIX/aside/KEY      and here it is
//! ```
//!
//! Both are gone by themselves, as claims are.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Claims, EtcdError, Put, open};

/// What the names begin with of what is looked for, and how far these go.
const WANTED: (&str, &str) = ("wanted/", "wanted0");

fn name(of: &str, key: &[u8]) -> String {
    format!("{of}{}", URL_SAFE_NO_PAD.encode(key))
}

fn given(key: &[u8]) -> String {
    name("aside/", key)
}

impl Claims {
    /// Says that `key` is looked for.
    ///
    /// # Errors
    ///
    /// If it cannot be said.
    pub async fn want(&self, key: &[u8]) -> Result<(), EtcdError> {
        self.tell(name(WANTED.0, key), &[]).await
    }

    /// What is looked for.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub async fn wanted(&self) -> Result<Vec<Vec<u8>>, EtcdError> {
        let names = self.client.list(WANTED.0, WANTED.1).await?;
        let keys = names.iter().filter_map(|(name, _)| {
            let key = name.strip_prefix(WANTED.0)?;
            URL_SAFE_NO_PAD.decode(key).ok()
        });
        Ok(keys.collect())
    }

    /// Says that nobody looks for `key` any more.
    ///
    /// # Errors
    ///
    /// If it cannot be said.
    pub async fn unwant(&self, key: &[u8]) -> Result<(), EtcdError> {
        self.remove(&name(WANTED.0, key)).await
    }

    /// Gives `value` to who looks for `key`.
    ///
    /// # Errors
    ///
    /// If it cannot be given.
    pub async fn give(&self, key: &[u8], value: &[u8]) -> Result<(), EtcdError> {
        self.tell(given(key), value).await?;
        self.unwant(key).await
    }

    /// Takes what another control plane has given for `key`, if one has: whoever asks at once with this one does not get it.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub async fn receive(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EtcdError> {
        let name = given(key);
        let Some(taken) = self.client.take(&name).await? else {
            return Ok(None);
        };
        open(&self.sealer, &name, &taken.value).map(Some)
    }

    async fn tell(&self, name: String, value: &[u8]) -> Result<(), EtcdError> {
        let value = self.sealer.seal(name.as_bytes(), value);
        let lease = self.lease().await?;
        let told = self.client.write_leased(&Put { name, value }, &lease).await;
        if told.is_err() {
            // It may be the lease that is gone.
            *self.lease.lock().await = None;
        }
        told
    }

    async fn remove(&self, name: &str) -> Result<(), EtcdError> {
        self.client.remove(name, &format!("{name}\0")).await
    }
}
