//! Certificates of clients. One is asked for only while a filter looks at them, since browsers bother
//! their users about it, and taken from whoever issued it: a token that is bound to it says whose it
//! is, and the handshake proves that the client has its key.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::live::Live;

/// Asks clients for their certificates, if the live configuration wants any.
pub(crate) struct Asking {
    live: Live,
    provider: Arc<CryptoProvider>,
}

impl Asking {
    pub(crate) fn new(live: Live, provider: Arc<CryptoProvider>) -> Self {
        Self { live, provider }
    }
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").finish_non_exhaustive()
    }
}

/// SHA-256 of a certificate.
pub(crate) fn thumbprint(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    digest::digest(&digest::SHA256, certificate)
        .as_ref()
        .try_into()
        .ok()
}

impl ClientCertVerifier for Asking {
    fn offer_client_auth(&self) -> bool {
        let live = self.live.load();
        live.as_ref()
            .is_some_and(|snapshot| snapshot.asks_for_certificates)
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
