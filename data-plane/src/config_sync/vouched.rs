//! Whether a control plane of this cluster vouches for a snapshot.

use prost::Message;
use proto::v1::fault::Code;
use proto::v1::{Fault, Manifest};
use shared::clock::UnixTime;
use shared::signature::{Subject, Verifier};
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
                Subject::Manifest,
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

/// The signer's certificates as the last manifest of a stream ended with them: the next may come without.
#[derive(Debug, Default)]
pub(super) struct Chain(Vec<u8>);

impl Chain {
    /// The whole of a manifest, which comes without its certificates if they were `kept`; none if there are none to
    /// put there. Whether they are the right ones is for the signature to say, which is over them too.
    pub(super) fn complete(&mut self, manifest: &[u8], kept: bool) -> Option<Vec<u8>> {
        if kept {
            return (!self.0.is_empty()).then(|| [manifest, &self.0].concat());
        }
        // The last field of the message, in the one way to write it.
        let chain = Manifest::decode(manifest).map(|manifest| manifest.chain);
        let last = Manifest {
            chain: chain.unwrap_or_default(),
            ..Manifest::default()
        };
        self.0 = last.encode_to_vec();
        Some(manifest.to_vec())
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
    use shared::signature::{Signer, Subject, Verifier};
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
            signature: signer.sign(Subject::Manifest, &manifest).unwrap(),
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

    #[test]
    fn certificates_come_once_and_only_the_right_ones_prove() {
        let (signer, verifier) = cluster(CONTROL_PLANE_NAME);
        let (first, second) = (vouch(&signer, &position(5)), vouch(&signer, &position(6)));
        let short = {
            let mut manifest = Manifest::decode(second.manifest.as_slice()).unwrap();
            manifest.chain.clear();
            manifest.encode_to_vec()
        };
        assert!(short.len() < second.manifest.len() / 2);
        let mut chain = Chain::default();
        assert_eq!(chain.complete(&short, true), None, "there are none yet");
        assert_eq!(chain.complete(b"\xff", false), Some(b"\xff".to_vec()));
        assert_eq!(
            chain.complete(&short, true),
            None,
            "nor in what cannot be read"
        );
        assert_eq!(chain.complete(&first.manifest, false), Some(first.manifest));
        assert_eq!(
            chain.complete(&short, true).as_ref(),
            Some(&second.manifest)
        );
        assert_eq!(second.check(&verifier, &position(6)), Ok(()));
        let (stranger, _) = cluster(CONTROL_PLANE_NAME);
        chain.complete(&vouch(&stranger, &position(5)).manifest, false);
        let wrong = Vouched {
            manifest: chain.complete(&short, true).unwrap(),
            signature: second.signature,
        };
        let fault = wrong.check(&verifier, &position(6)).unwrap_err();
        assert_eq!(fault.code(), Code::BadSignature);
    }
}
