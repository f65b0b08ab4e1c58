//! Work that one node does on behalf of the nodes of all control planes: who has it done, and, for a while, its result.
//!
//! Whoever claims it names what it has seen there before, so that one wins. What is not finished can be taken over;
//! what a control plane that is lost has claimed is gone by itself.

mod asides;

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use shared::clock::monotonic;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::client::{Client, Comparison, EtcdError, EtcdSettings, Put};
use super::shelf::open;
use crate::store::seal::{Sealer, SecretsKey};

/// How long a value stays, at least a minute of it: longer than anyone works, and as long as browsers come late.
const TIME: Duration = Duration::from_secs(80);

/// How old a lease may be that more is written under.
const LEASE: Duration = Duration::from_secs(20);

/// What is written of a piece of work.
#[derive(Deserialize, Serialize)]
enum Work {
    /// Somebody has it done: which attempt that is.
    Begun(Uuid),
    /// What came of it.
    Done(#[serde(with = "super::shelf::base64_bytes")] Vec<u8>),
}

/// What comes of a claim. The numbers are etcd's of the write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Claimed {
    /// The work is to be done here.
    Ours(u64),
    /// Another control plane has it done.
    Theirs(u64),
    /// It has been done.
    Done(Vec<u8>),
}

/// The way to claim work.
pub struct Claims {
    client: Client,
    sealer: Sealer,
    lease: Mutex<Option<(String, Instant)>>,
}

impl std::fmt::Debug for Claims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claims").finish_non_exhaustive()
    }
}

fn name(key: &[u8]) -> String {
    format!("flight/{}", URL_SAFE_NO_PAD.encode(key))
}

impl Claims {
    /// The way there. Nothing is asked of etcd yet.
    pub fn new(settings: &EtcdSettings, key: &SecretsKey) -> Result<Self, EtcdError> {
        Ok(Self {
            client: Client::start(settings)?,
            sealer: Sealer::new(key),
            lease: Mutex::default(),
        })
    }

    /// Claims the work `key`, of which the write `over` was seen last; 0: none.
    ///
    /// # Errors
    ///
    /// If nobody knows whose it is.
    pub async fn claim(&self, key: &[u8], over: u64) -> Result<Claimed, EtcdError> {
        let name = name(key);
        let attempt = Uuid::new_v4();
        let mut seen = over;
        loop {
            match self.write(&name, seen, &Work::Begun(attempt)).await {
                Ok(Some(version)) => return Ok(Claimed::Ours(version)),
                // Another was faster, or the answer to this write is lost: what is there tells.
                Ok(None) | Err(EtcdError::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
            match self.read(&name).await? {
                Some((Work::Begun(by), version)) if by == attempt => {
                    return Ok(Claimed::Ours(version));
                }
                // Nobody has touched it since.
                Some((Work::Begun(_), version)) if version == over && over != 0 => {
                    seen = version;
                }
                Some((Work::Begun(_), version)) => return Ok(Claimed::Theirs(version)),
                Some((Work::Done(result), _)) => return Ok(Claimed::Done(result)),
                None => seen = 0,
            }
        }
    }

    /// What there is to know of the work `key`, which another control plane has had done; none if it was given up.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub async fn look(&self, key: &[u8]) -> Result<Option<Claimed>, EtcdError> {
        let found = self.read(&name(key)).await?;
        Ok(found.map(|(work, version)| match work {
            Work::Begun(_) => Claimed::Theirs(version),
            Work::Done(result) => Claimed::Done(result),
        }))
    }

    /// Claims the work `key` for somebody who is at it already, over whatever claim is there: etcd's number of that write; none
    /// if it has been done, or if another one claims it at the same time.
    ///
    /// # Errors
    ///
    /// If nobody knows whose it is.
    pub async fn take_over(&self, key: &[u8]) -> Result<Option<u64>, EtcdError> {
        let over = match self.look(key).await? {
            Some(Claimed::Done(_)) => return Ok(None),
            Some(Claimed::Theirs(version) | Claimed::Ours(version)) => version,
            None => 0,
        };
        Ok(match self.claim(key, over).await? {
            Claimed::Ours(claim) => Some(claim),
            Claimed::Theirs(_) | Claimed::Done(_) => None,
        })
    }

    /// Tells what came of the work `key`, if the claim `ours` still holds.
    ///
    /// # Errors
    ///
    /// If it cannot be told.
    pub async fn finish(&self, key: &[u8], ours: u64, result: Vec<u8>) -> Result<(), EtcdError> {
        let told = self.write(&name(key), ours, &Work::Done(result)).await;
        told.map(drop)
    }

    /// Gives the work `key` up, if the claim `ours` still holds: the next may claim it.
    ///
    /// # Errors
    ///
    /// If it cannot be given up; then it can be taken over.
    pub async fn release(&self, key: &[u8], ours: u64) -> Result<(), EtcdError> {
        let unchanged = Comparison {
            name: &name(key),
            version: ours,
        };
        self.client.retract(&unchanged).await
    }

    async fn read(&self, name: &str) -> Result<Option<(Work, u64)>, EtcdError> {
        let Some(found) = self.client.look(name).await? else {
            return Ok(None);
        };
        let value = open(&self.sealer, name, &found.value)?;
        let work = serde_json::from_slice(&value)
            .map_err(|error| EtcdError::Content(format!("{name}: {error}")))?;
        Ok(Some((work, found.version)))
    }

    async fn write(&self, name: &str, over: u64, work: &Work) -> Result<Option<u64>, EtcdError> {
        let json =
            serde_json::to_vec(work).map_err(|error| EtcdError::Content(error.to_string()))?;
        let put = Put {
            name: name.to_owned(),
            value: self.sealer.seal(name.as_bytes(), &json),
        };
        let unchanged = Comparison {
            name,
            version: over,
        };
        let lease = self.lease().await?;
        let written = self.client.commit_leased(&unchanged, &put, &lease).await;
        if written.is_err() {
            // It may be the lease that is gone.
            *self.lease.lock().await = None;
        }
        written
    }

    async fn lease(&self) -> Result<String, EtcdError> {
        let mut kept = self.lease.lock().await;
        let now = monotonic();
        if let Some((lease, since)) = &*kept
            && now.saturating_duration_since(*since) < LEASE
        {
            return Ok(lease.clone());
        }
        let lease = self.client.lease(TIME).await?;
        *kept = Some((lease.clone(), now));
        Ok(lease)
    }
}
