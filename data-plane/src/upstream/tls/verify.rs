//! How a server's certificate is judged.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
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
            Arc::new(Refused {
                algorithms: provider().signature_verification_algorithms,
            })
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

/// What a server may sign its handshake by that nobody verifies: all that is not known to be forged.
const SCHEMES: [SignatureScheme; 14] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED25519,
    SignatureScheme::ED448,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    // The same with keys that are for nothing else (RFC 8446 §4.2.3, `rsa_pss_pss_…`).
    SignatureScheme::Unknown(0x0809),
    SignatureScheme::Unknown(0x080a),
    SignatureScheme::Unknown(0x080b),
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PKCS1_SHA512,
];

/// Believes every server: Kong's default towards upstream servers (`tls_verify` unset). Whose certificate is shown is open,
/// so nothing would follow from a signature that fits it; and to check one its certificate would have to be of X.509 version
/// 3, with a key and extensions that verifiers know.
#[derive(Debug)]
pub(super) struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

/// Believes no server.
#[derive(Debug)]
struct Refused {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Refused {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }

    handshake_signatures!();
}
