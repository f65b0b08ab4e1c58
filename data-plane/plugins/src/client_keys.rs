//! What the gateway proves itself with at providers, as far as it is made or kept by the cluster: keys
//! for `private_key_jwt`, and certificates for mutual TLS.

pub(crate) mod signer;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use shared::clock::UnixTime;
use shared::entity::{ClientKey, SigningAlgorithm};
use uuid::Uuid;
use zeroize::Zeroizing;

use self::signer::Signer;
use crate::host::{ClientCertificate, Host};

/// The keys and certificates of one snapshot.
#[derive(Clone, Debug, Default)]
pub struct ClientKeys {
    /// Certificates by the id of their record.
    pub certificates: HashMap<Uuid, Arc<ClientCertificate>>,
    signers: Vec<Arc<Signer>>,
    /// Those before, and until when they still serve.
    retired: Vec<(UnixTime, Arc<Signer>)>,
}

/// How long a key that was replaced serves where the provider does not know the new one: they read the set anew each minute
/// to each day.
const SERVES_ON: Duration = Duration::from_hours(48);

/// How often, and how long each time, keys are waited for that the control plane is making.
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_millis(100);

/// The cluster's keys. A node that has none yet waits for them for a moment: they are made when the
/// first plugin that needs some is configured.
pub(crate) async fn made(host: &impl Host) -> Arc<ClientKeys> {
    for _ in 0..TRIES {
        let keys = host.client_keys();
        if !keys.signers.is_empty() {
            return keys;
        }
        host.sleep(PAUSE).await;
    }
    host.client_keys()
}

impl ClientKeys {
    /// Adds the key of a record.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn add(&mut self, key: &ClientKey) -> Result<(), &'static str> {
        let signer = Arc::new(signer(key)?);
        match key.retired_at {
            None => self.signers.push(signer),
            Some(at) => {
                let until = UnixTime::from_secs(at).saturating_add(SERVES_ON);
                self.retired.push((until, signer));
            }
        }
        Ok(())
    }

    /// Adds a key.
    #[cfg(test)]
    pub(crate) fn add_signer(&mut self, signer: Signer) {
        self.signers.push(Arc::new(signer));
    }

    /// Has all keys replaced at `at` by another.
    #[cfg(test)]
    pub(crate) fn replace_by(&mut self, signer: Signer, at: UnixTime) {
        let until = at.saturating_add(SERVES_ON);
        let before = self.signers.drain(..).map(|signer| (until, signer));
        self.retired.extend(before);
        self.add_signer(signer);
    }

    /// What signs by `algorithm`; by RS256 if the configuration names none (Kong 3.9, `client_alg`).
    pub(crate) fn signer(&self, algorithm: Option<SigningAlgorithm>) -> Option<&Signer> {
        let algorithm = algorithm.unwrap_or(SigningAlgorithm::RS256);
        let mut signers = self.signers.iter().map(|signer| &**signer);
        signers.find(|signer| signer.signs_by(algorithm))
    }

    /// What signed by `algorithm` before, if that is not long ago: the newest first.
    pub(crate) fn retired_signers(
        &self,
        algorithm: Option<SigningAlgorithm>,
        now: UnixTime,
    ) -> Vec<&Signer> {
        let algorithm = algorithm.unwrap_or(SigningAlgorithm::RS256);
        let serves =
            |(until, signer): &&(UnixTime, Arc<Signer>)| now < *until && signer.signs_by(algorithm);
        let mut serving: Vec<_> = self.retired.iter().filter(serves).collect();
        serving.sort_by_key(|(until, _)| Reverse(*until));
        serving.into_iter().map(|(_, signer)| &**signer).collect()
    }
}

fn signer(key: &ClientKey) -> Result<Signer, &'static str> {
    let algorithm = serde_json::from_value(key.algorithm.as_str().into())
        .map_err(|_| "the algorithm of the key is not known")?;
    let pkcs8 = STANDARD.decode(key.secret.expose());
    let pkcs8 = Zeroizing::new(pkcs8.map_err(|_| "the key is not Base64")?);
    Signer::of_pkcs8(&key.id.to_string(), algorithm, &pkcs8)
}
