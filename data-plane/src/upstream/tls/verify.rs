//! How a server's certificate is judged.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use shared::tls::provider;

use crate::signatures::handshake_signatures;

/// By name and by a chain that ends in one of `roots`.
pub(super) fn verifier(roots: Arc<RootCertStore>) -> Arc<dyn ServerCertVerifier> {
    match WebPkiServerVerifier::builder_with_provider(roots, provider()).build() {
        Ok(verifier) => verifier,
        // Without a root nobody can be verified.
        Err(error) => {
            tracing::warn!(%error, "no authority is usable: no server will be believed");
            Arc::new(Unverified::refused())
        }
    }
}

/// Verifies as `inner` does, and refuses chains with more certificates between the server's and the root
/// than allowed (OpenSSL, `verify_depth`).
#[derive(Debug)]
pub(super) struct Bounded {
    inner: Arc<dyn ServerCertVerifier>,
    roots: Arc<RootCertStore>,
    depth: usize,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Bounded {
    pub(super) fn new(
        inner: Arc<dyn ServerCertVerifier>,
        roots: Arc<RootCertStore>,
        depth: u8,
    ) -> Self {
        Self {
            inner,
            roots,
            depth: depth.into(),
            algorithms: provider().signature_verification_algorithms,
        }
    }
}

impl ServerCertVerifier for Bounded {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.inner
                .verify_server_cert(certificate, intermediates, name, ocsp, now)?;
        let too_long = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let certificate = webpki::EndEntityCert::try_from(certificate).map_err(|_| too_long())?;
        let short_enough = |path: &webpki::VerifiedPath<'_>| {
            if path.intermediate_certificates().count() > self.depth {
                Err(webpki::Error::MaximumPathDepthExceeded)
            } else {
                Ok(())
            }
        };
        certificate
            .verify_for_usage(
                self.algorithms.all,
                &self.roots.roots,
                intermediates,
                now,
                webpki::KeyUsage::server_auth(),
                None,
                Some(&short_enough),
            )
            .map_err(|_| too_long())?;
        Ok(verified)
    }

    handshake_signatures!();
}

/// Looks at no certificate: all are believed, or none. The handshake's signatures are still checked.
#[derive(Debug)]
pub(super) struct Unverified {
    believed: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Unverified {
    /// Believes every server: Kong's default towards upstream servers (`tls_verify` unset).
    pub(super) fn believed() -> Self {
        Self {
            believed: true,
            algorithms: provider().signature_verification_algorithms,
        }
    }

    /// Believes nobody.
    fn refused() -> Self {
        Self {
            believed: false,
            ..Self::believed()
        }
    }
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.believed {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
        }
    }

    handshake_signatures!();
}
