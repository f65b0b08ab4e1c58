//! Whether a control plane of this cluster vouches for a snapshot.

use prost::Message;
use proto::v1::fault::Code;
use proto::v1::{Fault, Manifest};
use shared::clock::UnixTime;
use shared::signature::Verifier;
use shared::snapshot::Position;

use super::receiver::fault;

/// A snapshot's manifest with its signature, as they travel.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Vouched {
    pub(crate) manifest: Vec<u8>,
    pub(crate) signature: Vec<u8>,
}

impl Vouched {
    /// Checks that the manifest is a control plane's, and about `target`.
    pub(crate) fn check(&self, verifier: &Verifier, target: &Position) -> Result<(), Fault> {
        let refused = |reason: &dyn std::fmt::Display| {
            fault(Code::BadSignature, format!("the manifest: {reason}"))
        };
        let manifest = Manifest::decode(self.manifest.as_slice())
            .map_err(|_| refused(&"it cannot be read"))?;
        verifier
            .verify(
                &manifest.chain,
                UnixTime::from_millis(manifest.created_ms),
                &self.manifest,
                &self.signature,
            )
            .map_err(|reason| refused(&reason))?;
        match manifest.target.map(Position::try_from) {
            Some(Ok(told)) if told == *target => Ok(()),
            _ => Err(refused(&"it is about another position")),
        }
    }
}

#[cfg(test)]
pub(crate) mod vouching {
    //! Control planes for tests.

    use std::path::Path;
    use std::sync::Arc;

    use prost::Message;
    use proto::v1::Manifest;
    use rustls::RootCertStore;
    use shared::clock::UnixTime;
    use shared::signature::{Signer, Verifier};
    use shared::snapshot::Position;
    use shared::tls::Identity;

    use super::Vouched;

    /// An authority, and who signs with a certificate of it for `name`.
    pub(crate) fn cluster(name: &str) -> (Signer, Verifier) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let own = params.signed_by(&key, &issuer).unwrap();
        let identity = Identity {
            certificate_path: Path::new("test").into(),
            key_path: Path::new("test").into(),
            chain: vec![own.der().clone()],
            key: key.into(),
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        (
            Signer::new(&identity).unwrap(),
            Verifier::new(Arc::new(roots)),
        )
    }

    /// What `signer` says of `position`.
    pub(crate) fn vouch(signer: &Signer, position: &Position) -> Vouched {
        let manifest = Manifest {
            target: Some(position.into()),
            created_ms: UnixTime::now().as_millis(),
            chain: signer.chain().map(|chain| chain.to_vec().into()).collect(),
            ..Manifest::default()
        };
        let manifest = manifest.encode_to_vec();
        Vouched {
            signature: signer.sign(&manifest).unwrap(),
            manifest,
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::snapshot::Revision;
    use shared::tls::CONTROL_PLANE_NAME;

    use super::vouching::{cluster, vouch};
    use super::*;

    fn position(revision: u64) -> Position {
        Position {
            generation: 1,
            revision: Revision(revision),
            urgent: Revision::default(),
            root: [7; 32],
        }
    }

    #[test]
    fn only_a_control_plane_of_this_cluster_is_believed_and_only_about_the_target() {
        let (signer, verifier) = cluster(CONTROL_PLANE_NAME);
        let good = vouch(&signer, &position(5));
        assert_eq!(good.check(&verifier, &position(5)), Ok(()));
        let code = |vouched: &Vouched, verifier: &Verifier, revision| {
            let refused = vouched.check(verifier, &position(revision));
            refused.unwrap_err().code()
        };
        assert_eq!(code(&good, &verifier, 6), Code::BadSignature);
        let (_, stranger) = cluster(CONTROL_PLANE_NAME);
        assert_eq!(code(&good, &stranger, 5), Code::BadSignature);
        let (node, its) = cluster("node-1");
        assert_eq!(
            code(&vouch(&node, &position(5)), &its, 5),
            Code::BadSignature
        );
        assert_eq!(code(&Vouched::default(), &verifier, 5), Code::BadSignature);
        for at in 0..good.signature.len() {
            let mut bad = good.clone();
            bad.signature[at] ^= 1;
            assert_eq!(code(&bad, &verifier, 5), Code::BadSignature, "at {at}");
        }
        let mut other = good.clone();
        other.manifest = vouch(&signer, &position(6)).manifest;
        assert_eq!(code(&other, &verifier, 6), Code::BadSignature);
    }
}
