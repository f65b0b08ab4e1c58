//! Signatures of a member of the cluster, by the key of its certificate: whoever knows the cluster's
//! authority can check them, whatever way the signed bytes came.

use std::sync::Arc;

use rustls::sign::SigningKey;
use rustls::{RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::clock::UnixTime;
use crate::tls::{CONTROL_PLANE_NAME, Identity, TlsError, provider};

/// What is signed. A signature of one means nothing as one of another, nor does one that was given elsewhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Subject {
    /// What a snapshot is.
    Manifest,
    /// All session keys.
    SessionKeys,
}

impl Subject {
    /// What each signed message of it begins with.
    const fn context(self) -> &'static [u8] {
        match self {
            Self::Manifest => b"wardgate manifest 1\n",
            Self::SessionKeys => b"wardgate session keys 1\n",
        }
    }
}

/// The schemes that are used, best first.
const SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

/// Signs in the name of a certificate.
#[derive(Clone, Debug)]
pub struct Signer {
    key: Arc<dyn SigningKey>,
    chain: Vec<CertificateDer<'static>>,
}

impl Signer {
    /// Signs with the key of `identity`.
    pub fn new(identity: &Identity) -> Result<Self, TlsError> {
        let key = provider()
            .key_provider
            .load_private_key(identity.key.clone_key())
            .map_err(|source| identity.refused(source))?;
        Ok(Self {
            key,
            chain: identity.chain.clone(),
        })
    }

    /// The certificates that a verifier needs, the signer's own first.
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.iter().map(AsRef::as_ref)
    }

    /// The signature of `message` as a `subject`: the scheme's number in two bytes, then what the scheme gives.
    ///
    /// # Errors
    ///
    /// If the key is of a kind that signs none of the schemes here.
    pub fn sign(&self, subject: Subject, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let signer = self
            .key
            .choose_scheme(&SCHEMES)
            .ok_or_else(|| rustls::Error::General("the key cannot sign manifests".to_owned()))?;
        let mut signature = u16::from(signer.scheme()).to_be_bytes().to_vec();
        signature.extend(signer.sign(&[subject.context(), message].concat())?);
        Ok(signature)
    }
}

/// Why a signature is not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unbelievable {
    /// There is none, or no certificate to check it by.
    #[error("it is not signed")]
    Unsigned,
    /// The certificate is none of this cluster's control planes'.
    #[error("the signer's certificate is not a control plane's: {0}")]
    Certificate(String),
    /// The bytes are not those that were signed.
    #[error("the signature does not fit")]
    Signature,
}

/// Checks signatures of control planes.
#[derive(Clone, Debug)]
pub struct Verifier {
    authorities: Arc<RootCertStore>,
}

impl Verifier {
    /// Believes certificates that one of `authorities` has issued.
    pub const fn new(authorities: Arc<RootCertStore>) -> Self {
        Self { authorities }
    }

    /// Checks that the control plane that `chain` names signed `message` as a `subject`, with a certificate that was
    /// valid at `at`.
    pub fn verify(
        &self,
        subject: Subject,
        chain: &[impl AsRef<[u8]>],
        at: UnixTime,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Unbelievable> {
        let chain: Vec<CertificateDer<'_>> = chain
            .iter()
            .map(|certificate| CertificateDer::from(certificate.as_ref()))
            .collect();
        let (own, issuers) = chain.split_first().ok_or(Unbelievable::Unsigned)?;
        let (scheme, signature) = signature
            .split_first_chunk::<2>()
            .ok_or(Unbelievable::Unsigned)?;
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms;
        let refused = |error: &dyn std::fmt::Display| Unbelievable::Certificate(error.to_string());
        let certificate = webpki::EndEntityCert::try_from(own).map_err(|error| refused(&error))?;
        let at = std::time::Duration::from_secs(at.as_secs());
        certificate
            .verify_for_usage(
                algorithms.all,
                &self.authorities.roots,
                issuers,
                rustls_pki_types::UnixTime::since_unix_epoch(at),
                webpki::KeyUsage::server_auth(),
                None,
                None,
            )
            .map_err(|error| refused(&error))?;
        let name = ServerName::try_from(CONTROL_PLANE_NAME).map_err(|error| refused(&error))?;
        certificate
            .verify_is_valid_for_subject_name(&name)
            .map_err(|error| refused(&error))?;
        let scheme = SignatureScheme::from(u16::from_be_bytes(*scheme));
        let candidates = algorithms
            .mapping
            .iter()
            .filter(|(known, _)| *known == scheme && SCHEMES.contains(known))
            .flat_map(|(_, algorithms)| algorithms.iter());
        let message = [subject.context(), message].concat();
        for algorithm in candidates {
            if certificate
                .verify_signature(*algorithm, &message, signature)
                .is_ok()
            {
                return Ok(());
            }
        }
        Err(Unbelievable::Signature)
    }
}
