//! Verifies servers' certificates.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::provider;
use crate::handshake_signatures;

/// By name and by a chain that ends in one of `roots`, or a certificate that is one of them.
pub fn server_verifier(roots: Arc<RootCertStore>) -> Arc<dyn ServerCertVerifier> {
    match WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider()).build() {
        Ok(inner) => Arc::new(Anchored {
            inner,
            roots,
            algorithms: provider().signature_verification_algorithms,
        }),
        // Without a root nobody can be verified.
        Err(error) => {
            tracing::warn!(%error, "no authority is usable: no server will be believed");
            Arc::new(Refused {
                algorithms: provider().signature_verification_algorithms,
            })
        }
    }
}

/// Verifies as `inner` does, and believes a server whose certificate is one of `roots` itself, as OpenSSL does: that of a
/// service that has made its own (`openssl req -x509`) calls itself an authority, and needs nobody to vouch for it.
#[derive(Debug)]
struct Anchored {
    inner: Arc<WebPkiServerVerifier>,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Anchored {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let inner = &self.inner;
        let verified = inner.verify_server_cert(certificate, intermediates, name, ocsp, now);
        if verified.is_ok() || !is_root(certificate, &self.roots) {
            return verified;
        }
        let bad = |_| Error::from(CertificateError::BadEncoding);
        let parsed = webpki::EndEntityCert::try_from(certificate).map_err(bad)?;
        parsed
            .verify_is_valid_for_subject_name(name)
            .map_err(|_| CertificateError::NotValidForName)?;
        is_current(certificate, now)?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

/// Whether `certificate` is for the subject and the key of one of `roots` that may vouch for any name: whoever shows it has
/// that key, as the handshake proves, and could have made any other.
pub fn is_root(certificate: &CertificateDer<'_>, roots: &RootCertStore) -> bool {
    let anchor = webpki::anchor_from_trusted_cert(certificate);
    anchor.is_ok_and(|anchor| anchor.name_constraints.is_none() && roots.roots.contains(&anchor))
}

/// Whether `certificate` is valid `now`.
fn is_current(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| CertificateError::BadEncoding)?;
    let validity = parsed.validity();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet);
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired);
    }
    Ok(())
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
