//! What proves to nodes that a snapshot is this cluster's.

use std::sync::PoisonError;

use prost::Message;
use prost::bytes::Bytes;
use proto::v1::Manifest;
use shared::clock::UnixTime;
use shared::signature::{Signer, Subject};
use shared::snapshot::Position;

use super::{Requirements, SharedSigner};

/// A `Manifest` and its signature, as they travel.
#[derive(Clone, Debug, Default)]
pub struct Vouched {
    manifest: Bytes,
    /// Where in the manifest the signer's certificates begin: they are its last field.
    chain_at: usize,
    /// By the key of the first of them.
    pub signature: Bytes,
    /// That one.
    certificate: Bytes,
}

impl Vouched {
    /// Signs what there is at `position`. Without a signer nothing proves it.
    pub(super) fn new(
        position: &Position,
        records: usize,
        requirements: &Requirements,
        signer: &SharedSigner,
    ) -> Self {
        let signer = signer.read().unwrap_or_else(PoisonError::into_inner);
        let Some(signer) = signer.as_ref() else {
            return Self::default();
        };
        let mut manifest = Manifest {
            target: Some(position.into()),
            created_ms: UnixTime::now().as_millis(),
            records: u32::try_from(records).unwrap_or(u32::MAX),
            features: requirements.names().map(str::to_owned).collect(),
            chain: Vec::new(),
        };
        let chain_at = manifest.encoded_len();
        manifest.chain = signer.chain().map(Bytes::copy_from_slice).collect();
        let manifest = manifest.encode_to_vec();
        let signature = signer
            .sign(Subject::Manifest, &manifest)
            .unwrap_or_else(|error| {
                tracing::error!(%error, "a snapshot cannot be signed: nodes will refuse it");
                Vec::new()
            });
        Self {
            manifest: manifest.into(),
            chain_at,
            signature: signature.into(),
            certificate: own_certificate(signer),
        }
    }

    /// Whether `signer` would vouch by the same certificate.
    pub(super) fn is_by(&self, signer: &SharedSigner) -> bool {
        let signer = signer.read().unwrap_or_else(PoisonError::into_inner);
        let own = signer.as_ref().and_then(|signer| signer.chain().next());
        own.unwrap_or_default() == &self.certificate[..]
    }

    /// The manifest.
    pub fn whole(&self) -> Bytes {
        self.manifest.clone()
    }

    /// The manifest without its `chain`.
    pub fn without_chain(&self) -> Bytes {
        self.manifest.slice(..self.chain_at)
    }

    /// What the manifest ends with: its `chain`.
    pub fn chain(&self) -> Bytes {
        self.manifest.slice(self.chain_at..)
    }
}

fn own_certificate(signer: &Signer) -> Bytes {
    let own = signer.chain().next();
    Bytes::copy_from_slice(own.unwrap_or_default())
}
