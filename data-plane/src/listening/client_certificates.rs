//! Certificates of clients. One is asked for only while a filter looks at them, since browsers bother
//! their users about it, and taken from whoever issued it: a token that is bound to it says whose it
//! is, and the handshake proves that the client has its key.

use std::fmt;

use aws_lc_rs::digest;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DistinguishedName, Error};
use rustls_pki_types::{CertificateDer, UnixTime};
use shared::tls::provider;

use crate::live::Live;
use crate::signatures::handshake_signatures;

/// Asks clients for their certificates, if the live configuration wants any.
pub(crate) struct Asking {
    live: Live,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Asking {
    pub(crate) fn new(live: Live) -> Self {
        Self {
            live,
            algorithms: provider().signature_verification_algorithms,
        }
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

    handshake_signatures!();
}
